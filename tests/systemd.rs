//! What a service manager hears of isobar, and the sockets that it may pass; without one.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::process::Signal;
use support::{Backend, Family, Isobar, Launch, Line, Manager, patience, wait_for, web};

/// Half of it is the time between two signs of life.
const WATCHDOG: Duration = Duration::from_millis(200);

/// One that stays, for clients that are there before isobar is.
fn echo() -> Backend {
    Backend::echo(Family::Ipv4)
}

/// Listener `web` at this address.
fn at(address: &str, backend: &Backend) -> String {
    web("", &[backend.entry()]).replace("127.0.0.1:0", address)
}

fn told(launch: Launch, manager: &Manager) -> Launch {
    launch.env("NOTIFY_SOCKET", manager.name())
}

/// Waits for a warning that holds this text.
#[track_caller]
fn wait_warning(isobar: &Isobar, text: &str) {
    isobar.log().wait(text, |line: &Line| {
        line.text("level") == Some("warn") && line.message().contains(text)
    });
}

/// Sends a line and reads it back.
#[track_caller]
fn exchange(mut client: impl Read + Write) {
    client.write_all(b"hello").expect("a connection");
    let mut answer = [0; 5];
    client.read_exact(&mut answer).expect("an echo");
    assert_eq!(&answer, b"hello");
}

fn connect(address: &str) -> TcpStream {
    let client = TcpStream::connect(address).expect("somebody listens");
    client.set_read_timeout(Some(patience())).expect("a socket");
    client
}

/// 1. It is ready when its listeners accept.
/// 2. At a stop it says so first, then how it is, then asks for time.
#[test]
fn the_manager_hears_of_the_start_and_of_the_stop_in_order() {
    let backend = Backend::named("b1");
    let launch = Launch::new(&web("", &[backend.entry()]));
    let by_path = Manager::in_dir(launch.dir());
    let by_name = Manager::abstract_one("order");
    for manager in [by_path, by_name] {
        let launch = Launch::new(&web("", &[backend.entry()]));
        let mut isobar = told(launch, &manager).start();
        assert_eq!(manager.next(), "READY=1");
        assert_eq!(manager.next(), "STATUS=serving: 0 connections, 0 held");
        assert_eq!(isobar.visit("web"), "b1");
        isobar.signal(Signal::TERM);
        assert_eq!(manager.next(), "STOPPING=1");
        assert!(manager.next().starts_with("STATUS=stopping: "));
        assert_eq!(isobar.wait_exit().code(), Some(0));
    }
}

#[test]
fn a_start_that_fails_is_never_ready() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let launch = Launch::new(&at(&address, &echo()));
    let manager = Manager::in_dir(launch.dir());
    let exit = told(launch, &manager).run_to_exit(&["run", "-c", "lb.toml"]);
    assert_eq!(exit.code, Some(1));
    assert_eq!(manager.next_within(Duration::from_millis(10)), None);
}

/// However long `drain_timeout` is, the manager does not kill what drains.
#[test]
fn a_stop_that_takes_its_time_asks_for_it() {
    let backend = echo();
    let launch = Launch::new(&web("", &[backend.entry()]));
    let manager = Manager::in_dir(launch.dir());
    let mut isobar = told(launch, &manager).start();
    let client = isobar.connect("web");
    client.write("hello");
    client.expect("hello");
    isobar.signal(Signal::TERM);
    let heard = manager.until("EXTEND_TIMEOUT_USEC=");
    let [.., stopping, status, extension] = &*heard else {
        panic!("{heard:?}");
    };
    assert_eq!(stopping, "STOPPING=1");
    assert!(status.starts_with("STATUS=stopping: "), "{status}");
    assert_eq!(extension, "EXTEND_TIMEOUT_USEC=30000000");
    client.fin();
    client.expect_fin();
    assert_eq!(isobar.wait_exit().code(), Some(0));
}

/// `systemctl reload` of a `Type=notify-reload` waits for both, the first with a time.
#[test]
fn the_manager_hears_that_a_reload_begins_and_that_it_has_ended() {
    let backend = echo();
    let launch = Launch::new(&web("", &[backend.entry()]));
    let manager = Manager::in_dir(launch.dir());
    let isobar = told(launch, &manager).start();
    manager.until("READY=1");
    isobar.signal(Signal::HUP);
    let reloading = manager.until("RELOADING=1").pop().expect("the last");
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let micros: u64 = micros.expect("a time").parse().expect("a number");
    assert!(micros > 0);
    manager.until("READY=1");
}

fn watched(launch: Launch, manager: &Manager) -> Isobar {
    let usec = WATCHDOG.as_micros().to_string();
    told(launch, manager).env("WATCHDOG_USEC", &usec).start()
}

/// Waits until nothing has been heard for many times as long as the watchdog waits.
#[track_caller]
fn wait_silence(manager: &Manager) {
    wait_for("the service fell silent", || {
        manager.next_within(5 * WATCHDOG).is_none().then_some(())
    });
}

/// 1. Signs of life come, again and again.
/// 2. The process is stopped: they cease.
/// 3. It goes on: they are back.
#[test]
fn signs_of_life_cease_while_the_process_hangs() {
    let backend = echo();
    let launch = Launch::new(&web("", &[backend.entry()]));
    let manager = Manager::in_dir(launch.dir());
    let isobar = watched(launch, &manager);
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
    isobar.signal(Signal::STOP);
    wait_silence(&manager);
    isobar.signal(Signal::CONT);
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
}

/// 1. A core hangs, for good; the control plane and its admin endpoint go on.
/// 2. Signs of life cease, and the log says why.
#[cfg(feature = "fault-injection")]
#[test]
fn signs_of_life_cease_when_one_core_hangs() {
    let backend = echo();
    let text = format!("[runtime]\nthreads = 2\n{}", web("", &[backend.entry()]));
    let launch = Launch::new(&text).env("ISOBAR_HANG_AT", "relay@web");
    let manager = Manager::in_dir(launch.dir());
    let mut isobar = watched(launch, &manager);
    manager.until("WATCHDOG=1");
    let client = isobar.connect("web");
    wait_silence(&manager);
    assert_eq!(isobar.get("/healthz").status, 200);
    isobar.log().wait("which core hangs", |line: &Line| {
        line.message().starts_with("a core does not answer")
    });
    // Only so does such a process end.
    isobar.signal(Signal::KILL);
    isobar.wait_exit();
    drop(client);
}

/// 1. A port and a Unix socket are bound by the manager; clients come before isobar does.
/// 2. isobar starts with them: the clients are served, and it binds nothing itself.
/// 3. It ends; the file stays, and so does who connects then.
/// 4. It starts again, and serves them.
#[test]
fn passed_sockets_are_served_with_who_waits_there_already_and_outlive_the_process() {
    let backend = echo();
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("web.sock");
    let unix = UnixListener::bind(&file).expect("a socket");
    let bind = format!("\"{address}\", \"unix:{}\"", file.display());
    let text = at("BIND", &backend).replace("\"BIND\"", &format!("[{bind}]"));
    for _ in 0..2 {
        let waiting = (connect(&address), UnixStream::connect(&file).expect("room"));
        let sockets = [
            unix.try_clone().expect("a descriptor").into(),
            port.try_clone().expect("a descriptor").into(),
        ];
        let mut isobar = Launch::new(&text).pass(sockets).start();
        isobar.skip_byte_check();
        exchange(waiting.0);
        exchange(waiting.1);
        exchange(connect(&address));
        assert_eq!(isobar.addresses("web").len(), 2);
        assert_eq!(isobar.stop().code(), Some(0));
        assert!(file.exists());
    }
    // A descriptor that is shared was not closed with the process.
    connect(&address);
}

/// 1. An upgrade: the manager hears which process has the service now.
/// 2. Signs of life come from that one, and it says when it stops.
#[test]
fn the_manager_hears_which_process_has_the_service_after_an_upgrade() {
    let backend = echo();
    let launch = Launch::new(&web("", &[backend.entry()]));
    let manager = Manager::in_dir(launch.dir());
    let mut isobar = watched(launch, &manager);
    manager.until("WATCHDOG=1");
    let client = isobar.connect("web");
    client.write("a");
    client.expect("a");
    let answer = isobar.upgrade();
    manager.until(&format!("MAINPID={}", answer["pid"]));
    // The old one is gone by now.
    while manager.next_within(Duration::from_millis(1)).is_some() {}
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
    client.write("b");
    client.expect("b");
    client.fin();
    client.expect_fin();
    isobar.signal(Signal::TERM);
    manager.until("STOPPING=1");
    assert!(isobar.wait_exit().success());
}

/// The new process has them from the old one, and knows whose they are: their files stay.
#[test]
fn passed_sockets_move_in_an_upgrade_and_outlive_both_processes() {
    let backend = echo();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("web.sock");
    let unix = UnixListener::bind(&file).expect("a socket");
    let text = at(&format!("unix:{}", file.display()), &backend);
    let socket = unix.try_clone().expect("a descriptor").into();
    let mut isobar = Launch::new(&text).pass([socket]).start();
    isobar.skip_byte_check();
    let client = UnixStream::connect(&file).expect("room");
    exchange(&client);
    for _ in 0..2 {
        isobar.upgrade();
        exchange(&client);
        exchange(UnixStream::connect(&file).expect("room"));
    }
    drop(client);
    assert!(isobar.stop().success());
    assert!(file.exists());
    UnixStream::connect(&file).expect("the manager listens still");
}

/// The timer of isobar's side of this connection, from /proc/net/tcp; 2: keep-alive.
fn timer(listener: u16, client: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let ports = [format!(":{listener:04X}"), format!(":{client:04X}")];
    let mut rows = table.lines().map(|row| row.split_whitespace());
    rows.find_map(|mut row| {
        let ours = row.nth(1)?.ends_with(&*ports[0]) && row.next()?.ends_with(&*ports[1]);
        // Behind the state and the queues.
        ours.then(|| row.nth(2)).flatten().map(ToOwned::to_owned)
    })
}

/// Sockets inherit options from the listening one when they come into its queue: who came
/// before isobar has none of isobar's, unless they are set again.
#[test]
fn who_waited_in_a_passed_socket_is_probed_as_everybody_is() {
    let backend = echo();
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address");
    let client = connect(&address.to_string());
    let mut isobar = Launch::new(&at(&address.to_string(), &backend))
        .pass([port.into()])
        .start();
    isobar.skip_byte_check();
    exchange(&client);
    let client_port = client.local_addr().expect("an address").port();
    wait_for("the keep-alive timer ran", || {
        timer(address.port(), client_port).filter(|timer| timer.starts_with("02:"))
    });
    drop(client);
}

#[test]
fn a_passed_socket_that_takes_ipv4_clients_against_the_file_is_told() {
    if !Family::all().contains(&Family::Ipv6) {
        return;
    }
    let backend = echo();
    let port = TcpListener::bind("[::]:0").expect("a port");
    let address = port.local_addr().expect("an address").to_string();
    let takes_ipv4 = rustix::net::sockopt::ipv6_v6only(&port).is_ok_and(|only| !only);
    let text = at(&address, &backend).replace(
        "[listener.web]",
        &format!("[listener.web]\nipv6_only = {takes_ipv4}"),
    );
    let isobar = Launch::new(&text).pass([port.into()]).start();
    wait_warning(&isobar, &format!("has ipv6_only = {}", !takes_ipv4));
}

#[test]
fn the_admin_endpoint_takes_a_passed_socket_and_says_that_its_file_is_open_to_all() {
    let backend = echo();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("admin.sock");
    let socket = UnixListener::bind(&file).expect("a socket");
    let mode = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&file, mode).expect("our own file");
    let mut text = web("", &[backend.entry()]);
    text.push_str(&format!("[admin]\nbind = \"unix:{}\"\n", file.display()));
    let isobar = Launch::new(&text).pass([socket.into()]).start();
    assert_eq!(isobar.get("/healthz").status, 200);
    wait_warning(&isobar, "has mode 0666, more than 0600");
}

/// A socket of an address that the file does not have, and one that is no listener.
#[test]
fn passed_sockets_that_nobody_wants_are_named() {
    let backend = echo();
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("an address");
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let isobar = Launch::new(&web("", &[backend.entry()]))
        .pass([other.into(), datagrams.into()])
        .env("LISTEN_FDNAMES", "old.socket:dns.socket")
        .start();
    wait_warning(
        &isobar,
        &format!("the socket {address} (old.socket) was handed over, but no listener"),
    );
    wait_warning(&isobar, "descriptor 4 (dns.socket) of LISTEN_FDS cannot");
    let client = isobar.connect("web");
    client.write("hello");
    client.expect("hello");
    client.fin();
    client.expect_fin();
}

/// As a child of an activated service has it: the variables are there, the sockets are not its.
#[test]
fn sockets_for_another_process_are_left_alone() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address").to_string();
    let exit = Launch::new(&at(&address, &echo()))
        .pass([socket.into()])
        .listen_pid(1)
        .run_to_exit(&["run", "-c", "lb.toml"]);
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains("in use"), "{}", exit.stderr);
}

/// The units as they are installed, but for the program, which is that of this build. A systemd
/// before 253 does not know the second `Type=`, says so, and keeps to the first.
#[test]
#[ignore = "needs systemd-analyze"]
fn the_units_are_valid_and_the_service_is_confined() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    for name in ["isobar.service", "isobar.socket"] {
        let unit = std::fs::read_to_string(source.join(name)).expect("a unit");
        let unit = unit.replace("/usr/local/bin/isobar", env!("CARGO_BIN_EXE_isobar"));
        std::fs::write(dir.path().join(name), unit).expect("room for a file");
    }
    let analyze = |arguments: &[&str]| {
        let mut command = std::process::Command::new("systemd-analyze");
        command.args(arguments).current_dir(dir.path());
        command.output().expect("systemd-analyze starts")
    };
    let verified = analyze(&["verify", "./isobar.service", "./isobar.socket"]);
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{said}");
    let unknown_type = "Failed to parse service type, ignoring: notify-reload";
    let faults: Vec<_> = said.lines().filter(|l| !l.contains(unknown_type)).collect();
    assert_eq!(faults, [""; 0]);

    // Of 10; a service without any of it has 9.6.
    let threshold = "--threshold=20";
    let rated = analyze(&["security", "--offline=yes", threshold, "./isobar.service"]);
    let table = String::from_utf8_lossy(&rated.stdout);
    assert!(rated.status.success(), "{table}");
}

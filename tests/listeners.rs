//! Where isobar listens, and what it does when it cannot.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use isobar::net::Address;
use procfs::process::FDTarget;
use rustix::process::Signal;
use support::{Backend, Exit, Family, Isobar, Launch, Line, Pattern, Process, Stream, scaled, web};

const O_NONBLOCK: u32 = 0o4000;
const O_CLOEXEC: u32 = 0o2_000_000;

/// Listener `web` with this `bind`, as TOML, and further keys.
fn bound_to(bind: &str, keys: &str, backend: &Backend) -> String {
    let text = web("", &[backend.entry()]);
    text.replace("\"127.0.0.1:0\"", &format!("{bind}\n{keys}"))
}

/// The name that a backend says to a client of `address`.
#[track_caller]
fn name_at(isobar: &Isobar, address: &Address) -> String {
    let client = isobar.connect_to(address);
    let name = client.read_line();
    leave(&client);
    name
}

fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

fn ip(address: &Address) -> SocketAddr {
    match address {
        Address::Ip(address) => *address,
        Address::Unix(path) => panic!("{} is no port", path.display()),
    }
}

fn has_ipv6() -> bool {
    Family::all().contains(&Family::Ipv6)
}

#[test]
fn an_ipv6_wildcard_takes_ipv4_clients_too_and_knows_them_by_their_ipv4_address() {
    if !has_ipv6() {
        return;
    }
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&bound_to("\"[::]:0\"", "", &backend));
    let port = ip(isobar.address("web")).port();
    for to in [format!("[::1]:{port}"), format!("127.0.0.1:{port}")] {
        let client = isobar.connect_to(&to.parse().expect("an address"));
        assert_eq!(client.read_line(), "b1");
        let local = client.local().expect("an address");
        leave(&client);
        isobar.wait_access(local);
    }
}

#[test]
fn an_ipv6_wildcard_takes_no_ipv4_client_where_that_is_not_wished() {
    if !has_ipv6() {
        return;
    }
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&bound_to("\"[::]:0\"", "ipv6_only = true", &backend));
    let port = ip(isobar.address("web")).port();
    let at = |host: &str| format!("{host}:{port}").parse().expect("an address");
    assert_eq!(name_at(&isobar, &at("[::1]")), "b1");
    assert!(isobar.try_connect(None, &at("127.0.0.1")).is_err());
}

#[test]
fn a_listener_may_have_several_addresses_of_all_kinds() {
    let backend = Backend::named("b1");
    let ipv6 = if has_ipv6() { "\"[::1]:0\", " } else { "" };
    let bind = format!("[\"127.0.0.1:0\", \"127.0.0.2:0\", {ipv6}\"unix:$DIR/web.sock\"]");
    let isobar = Isobar::start(&bound_to(&bind, "", &backend));
    let addresses = isobar.addresses("web");
    assert_eq!(addresses.len(), 3 + usize::from(has_ipv6()));
    for address in addresses {
        assert_eq!(name_at(&isobar, address), "b1", "{address}");
    }
    let shown = isobar.stat("/listeners/web/addresses");
    let told: Vec<_> = addresses.iter().map(Address::to_string).collect();
    assert_eq!(shown, serde_json::json!(told));
}

#[test]
fn a_hundred_listeners_all_serve() {
    let backend = Backend::named("b1");
    let mut text = web("", &[backend.entry()]);
    for i in 1..100 {
        text.push_str(&format!(
            "[listener.l{i}]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n"
        ));
    }
    let isobar = Isobar::start(&text);
    for i in 1..100 {
        assert_eq!(isobar.visit(&format!("l{i}")), "b1");
    }
}

#[test]
fn a_listener_without_a_pool_rejects_everybody() {
    let isobar = Isobar::start("[listener.web]\nbind = \"127.0.0.1:0\"\n");
    for _ in 0..3 {
        isobar.connect("web").expect_reset();
    }
    isobar.wait_count("/listeners/web/rejected/no_route", 3);
}

#[test]
fn unix_sockets_serve_on_both_sides() {
    let backend = Backend::named_on(Family::Unix, "b1");
    let isobar = Isobar::start(&bound_to("\"unix:$DIR/web.sock\"", "", &backend));
    assert_eq!(isobar.visit("web"), "b1");
    let file = isobar.dir().join("web.sock");
    let expected = format!("unix:{}", file.display());
    let line = isobar.log().wait("how it ended", Line::is_access);
    assert_eq!(line.text("client"), Some(&*expected));
}

#[test]
fn a_socket_file_has_the_mode_that_is_wished() {
    let backend = Backend::named("b1");
    for (keys, mode) in [
        ("", 0o666),
        ("unix_mode = \"0600\"", 0o600),
        ("unix_mode = \"0660\"", 0o660),
    ] {
        let isobar = Isobar::start(&bound_to("\"unix:$DIR/web.sock\"", keys, &backend));
        let metadata = std::fs::metadata(isobar.dir().join("web.sock")).expect("a file");
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{keys}");
    }
}

#[test]
fn a_socket_file_is_gone_after_the_end() {
    let backend = Backend::named("b1");
    let mut isobar = Isobar::start(&bound_to("\"unix:$DIR/web.sock\"", "", &backend));
    let file = isobar.dir().join("web.sock");
    assert!(file.exists());
    assert_eq!(isobar.stop().code(), Some(0));
    assert!(!file.exists());
}

#[test]
fn a_socket_file_that_another_process_has_put_in_its_place_is_left_alone() {
    let backend = Backend::named("b1");
    let mut isobar = Isobar::start(&bound_to("\"unix:$DIR/web.sock\"", "", &backend));
    let file = isobar.dir().join("web.sock");
    std::fs::remove_file(&file).expect("our own file");
    let _other = UnixListener::bind(&file).expect("a free name");
    assert_eq!(isobar.stop().code(), Some(0));
    UnixStream::connect(&file).expect("the other one listens still");
}

#[test]
fn a_socket_file_that_a_killed_process_left_behind_is_replaced() {
    let backend = Backend::named("b1");
    let launch = Launch::new(&bound_to("\"unix:$DIR/web.sock\"", "", &backend));
    drop(UnixListener::bind(launch.dir().join("web.sock")).expect("a free name"));
    assert!(launch.dir().join("web.sock").exists(), "the stale file");
    let isobar = launch.start();
    assert_eq!(isobar.visit("web"), "b1");
}

#[test]
fn an_abstract_socket_serves() {
    let backend = Backend::named("b1");
    let bind = format!("\"unix:@isobar-listeners-{}\"", std::process::id());
    let isobar = Isobar::start(&bound_to(&bind, "", &backend));
    assert_eq!(isobar.visit("web"), "b1");
}

/// Starts with this `bind`, which must fail; beside it there is a listener that could be bound.
#[track_caller]
fn fails_on(launch: &Launch) -> Exit {
    let exit = launch.run_to_exit(&["run", "-c", "lb.toml"]);
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    assert_eq!(exit.stdout, "");
    assert!(!exit.stderr.contains("listening"), "{}", exit.stderr);
    let left = launch.dir().join("first.sock").exists() || launch.dir().join("last.sock").exists();
    assert!(!left, "a socket of a failed start is left");
    exit
}

fn with_neighbours(bind: &str, admin: &str) -> Launch {
    let listener =
        |name: &str, bind: &str| format!("[listener.{name}]\nbind = \"{bind}\"\npool = \"web\"\n");
    Launch::new(&format!(
        "{}{}{}[pool.web]\nbackends = [\"127.0.0.1:1\"]\n[admin]\nbind = \"{admin}\"\n",
        listener("first", "unix:$DIR/first.sock"),
        listener("web", bind),
        listener("last", "unix:$DIR/last.sock"),
    ))
}

#[track_caller]
fn assert_names(exit: &Exit, address: &str) {
    assert!(exit.stderr.contains(address), "{}", exit.stderr);
}

#[test]
fn a_live_socket_file_is_not_taken_over() {
    let launch = with_neighbours("unix:$DIR/web.sock", "");
    let file = launch.dir().join("web.sock");
    let _other = UnixListener::bind(&file).expect("a free name");
    let exit = fails_on(&launch);
    assert_names(&exit, &format!("unix:{}", file.display()));
    assert!(exit.stderr.contains("in use"), "{}", exit.stderr);
    UnixStream::connect(&file).expect("the other one listens still");
}

#[test]
fn a_file_that_is_no_socket_is_not_removed() {
    let launch = with_neighbours("unix:$DIR/web.sock", "");
    let file = launch.dir().join("web.sock");
    std::fs::write(&file, "precious").expect("a file");
    let exit = fails_on(&launch);
    assert_names(&exit, &format!("unix:{}", file.display()));
    assert_eq!(
        std::fs::read_to_string(&file).expect("still there"),
        "precious"
    );
}

#[test]
fn a_socket_in_a_directory_that_does_not_exist_is_a_failed_start() {
    let exit = fails_on(&with_neighbours("unix:$DIR/nowhere/web.sock", ""));
    assert_names(&exit, "nowhere/web.sock");
}

#[test]
fn an_address_that_another_process_uses_is_a_failed_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let exit = fails_on(&with_neighbours(&address, ""));
    assert_names(&exit, &address);
    assert!(exit.stderr.contains("in use"), "{}", exit.stderr);
}

#[test]
fn an_address_that_others_may_share_is_taken_all_the_same() {
    let taken = Backend::named("other");
    let address = taken.address().to_string();
    assert_names(&fails_on(&with_neighbours(&address, "")), &address);
}

#[test]
fn a_wildcard_beside_a_specific_address_of_the_port_is_a_failed_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let wildcard = format!("0.0.0.0:{port}");
    assert_names(&fails_on(&with_neighbours(&wildcard, "")), &wildcard);
}

#[test]
fn a_specific_address_beside_a_wildcard_of_the_port_is_a_failed_start() {
    let taken = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let specific = format!("127.0.0.1:{port}");
    assert_names(&fails_on(&with_neighbours(&specific, "")), &specific);
}

#[test]
fn a_second_isobar_on_the_same_address_is_a_failed_start_and_harms_nobody() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let address = isobar.address("web").to_string();
    assert_names(&fails_on(&with_neighbours(&address, "")), &address);
    assert_eq!(isobar.visit("web"), "b1");
}

#[test]
fn an_admin_address_in_use_is_a_failed_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    assert_names(
        &fails_on(&with_neighbours("127.0.0.1:0", &address)),
        &address,
    );
}

/// 203.0.113.0/24 is for documentation, see RFC 5737.
#[test]
fn an_address_that_this_machine_does_not_have_is_a_failed_start() {
    let exit = fails_on(&with_neighbours("203.0.113.1:0", ""));
    assert_names(&exit, "203.0.113.1");
    assert!(exit.stderr.contains("no such address"), "{}", exit.stderr);
}

#[test]
fn an_address_is_free_again_as_soon_as_its_isobar_has_ended() {
    let backend = Backend::named("b1");
    let mut first = Isobar::start(&web("", &[backend.entry()]));
    let address = first.address("web").to_string();
    // The side that closes first keeps the address in TIME-WAIT: let that be isobar.
    backend.reset_all();
    assert_eq!(first.visit("web"), "b1");
    assert_eq!(first.stop().code(), Some(0));
    let second = Isobar::start(&bound_to(&format!("\"{address}\""), "", &backend));
    assert_eq!(second.visit("web"), "b1");
}

/// The process is held up meanwhile, so that all of them are gone when it gets to accept them.
#[test]
fn clients_that_are_gone_before_they_are_accepted_disturb_nobody() {
    const GONE: usize = 1000;
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let before = isobar.log().lines().len();
    isobar.signal(Signal::STOP);
    for _ in 0..GONE {
        isobar.connect("web").reset();
    }
    isobar.signal(Signal::CONT);
    for _ in 0..10 {
        assert_eq!(isobar.visit("web"), "b1");
    }
    let lines = isobar.log().lines();
    let complaints = lines[before..].iter().filter(|line| !line.is_access());
    assert_eq!(complaints.count(), 0, "{}", isobar.log().text());
}

#[test]
fn a_pause_of_the_process_costs_no_client_its_connection() {
    const CLIENTS: usize = 200;
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    isobar.signal(Signal::STOP);
    let clients: Vec<_> = (0..CLIENTS).map(|_| isobar.connect("web")).collect();
    std::thread::sleep(scaled(Duration::from_secs(1)));
    isobar.signal(Signal::CONT);
    for client in &clients {
        assert_eq!(client.read_line(), "b1");
        leave(client);
    }
}

/// Sockets of both sides, of the listener and of the admin endpoint, and pipes with bytes in
/// them: nothing is left to a program that isobar might execute, nothing can block a core.
#[test]
fn every_descriptor_is_close_on_exec_and_every_socket_and_pipe_does_not_block() {
    let backend = Backend::manual(Family::Ipv4);
    let isobar = Isobar::start(&web("relay = \"splice\"", &[backend.entry()]));
    let client = isobar.connect("web");
    let server = backend.accept();
    client.fill(Pattern(0), 64 << 20, scaled(support::STALL));
    let mut kinds = [0, 0];
    for (target, flags) in isobar.process().descriptor_flags() {
        let kind = match &target {
            FDTarget::Socket(_) => 0,
            FDTarget::Pipe(_) => 1,
            _ => continue,
        };
        if flags & O_CLOEXEC == 0 && is_inherited(&isobar, &target) {
            continue;
        }
        kinds[kind] += 1;
        assert_ne!(flags & O_CLOEXEC, 0, "{target:?}: {flags:o}");
        assert_ne!(flags & O_NONBLOCK, 0, "{target:?}: {flags:o}");
    }
    assert!(
        kinds[0] >= 4 && kinds[1] >= 2,
        "{kinds:?} sockets and pipes"
    );
    client.reset();
    server.expect_gone();
}

/// Standard streams are, and what whoever started the test let through to it.
fn is_inherited(isobar: &Isobar, target: &FDTarget) -> bool {
    let process = isobar.process();
    let standard = (0..3).filter_map(|number| process.descriptor(number));
    let own = Process(std::process::id()).descriptor_flags();
    let let_through = own.into_iter().filter(|(_, flags)| flags & O_CLOEXEC == 0);
    let mut all = standard.chain(let_through.map(|(target, _)| target));
    all.any(|inherited| inherited == *target)
}

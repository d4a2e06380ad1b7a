//! Connections to backends come from the addresses that the file names, each with all its ports.

mod support;

use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;

use support::{Backend, Family, Isobar, Launch, Stream, wait_for, wait_until, web};

const UNCHECKED: &str = "[pool.web.health]\nkind = \"none\"\n";

/// A backend that sees who comes.
struct Observer {
    listener: TcpListener,
    name: &'static str,
}

impl Observer {
    fn new(name: &'static str, address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        listener.set_nonblocking(true).expect("a mode");
        Self { listener, name }
    }

    fn entry(&self) -> String {
        let address = self.listener.local_addr().expect("an address");
        format!("{{ name = \"{}\", address = \"{address}\" }}", self.name)
    }

    /// The next who comes, and from where.
    #[track_caller]
    fn accept(&self) -> (TcpStream, IpAddr) {
        let accepted = wait_for("somebody came", || self.listener.accept().ok());
        (accepted.0, accepted.1.ip())
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// From where the next `n` clients, one after the other, come to the backend.
#[track_caller]
fn sources(isobar: &Isobar, backend: &Observer, n: usize) -> Vec<IpAddr> {
    let came = (0..n).map(|_| {
        let client = isobar.connect("web");
        let (server, source) = backend.accept();
        client.fin();
        drop(server);
        client.expect_fin();
        source
    });
    came.collect()
}

/// The backends here are none of the suite's, and count no bytes.
fn started(settings: &str, entries: &[String]) -> Isobar {
    let mut isobar = Isobar::start(&web(settings, entries));
    isobar.skip_byte_check();
    isobar
}

#[test]
fn the_addresses_take_turns() {
    let backend = Observer::new("b1", "127.0.0.1:0");
    let settings = "source_address = [\"127.0.0.2\", \"127.0.0.3\", \"::1\"]";
    let isobar = started(settings, &[backend.entry()]);
    let came = sources(&isobar, &backend, 6);
    let (a, b) = (ip("127.0.0.2"), ip("127.0.0.3"));
    assert_eq!(came, [a, b, a, b, a, b]);
}

#[test]
fn each_family_has_its_own_and_a_unix_socket_none() {
    let v4 = Observer::new("v4", "127.0.0.1:0");
    let v6 = Observer::new("v6", "[::1]:0");
    let unix = Backend::named_on(Family::Unix, "unix");
    let entries = [v4.entry(), v6.entry(), unix.entry()];
    let isobar = started("source_address = [\"127.0.0.2\", \"::1\"]", &entries);
    // One after the other: who comes together takes turns in any order.
    let first = isobar.connect("web");
    let (_v4, source) = v4.accept();
    assert_eq!(source, ip("127.0.0.2"));
    let second = isobar.connect("web");
    let (_v6, source) = v6.accept();
    assert_eq!(source, ip("::1"));
    let (third, name) = isobar.stay("web");
    assert_eq!(name, "unix");
    [first, second, third].iter().for_each(Stream::abort);
}

/// Nothing of the family: as if there were no list.
#[test]
fn a_backend_of_another_family_is_connected_from_where_the_kernel_likes() {
    let v6 = Observer::new("v6", "[::1]:0");
    let text = web("source_address = [\"127.0.0.2\"]", &[v6.entry()]);
    let exit = Launch::new(&text).run_to_exit(&["check"]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let warning = "`source_address` has no IPv6 address: connections to backend `v6` are not bound";
    assert!(exit.stderr.contains(warning), "{}", exit.stderr);
    let isobar = started("source_address = [\"127.0.0.2\"]", &[v6.entry()]);
    assert_eq!(sources(&isobar, &v6, 1), [ip("::1")]);
}

/// 192.0.2.0/24 is for documentation (RFC 5737), and of no machine.
#[test]
fn an_address_of_another_machine_is_a_fault_of_this_one_and_not_of_the_backend() {
    let backend = Backend::named("b1");
    let settings = "source_address = [\"192.0.2.7\"]\nhold.max = 0\n";
    let text = web(&format!("{settings}{UNCHECKED}"), &[backend.entry()]);
    let exit = Launch::new(&text).run_to_exit(&["check"]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let warning = "192.0.2.7 is not an address of this machine";
    assert!(exit.stderr.contains(warning), "{}", exit.stderr);
    let isobar = Isobar::start(&text);
    let warned = |line: &support::Line| line.message().contains(warning);
    isobar.log().wait("the same at the start", warned);
    let client = isobar.connect("web");
    client.expect_reset();
    isobar.wait_ended("web", "local_error", 1);
    isobar.log().wait("why it ended", |line| {
        line.says("level", "warn")
            && line.says("backend", "b1")
            && line
                .text("error")
                .is_some_and(|e| e.starts_with("from 192.0.2.7: "))
    });
    let of = |key: &str| isobar.stat(&format!("/pools/web/backends/b1/{key}"));
    assert_eq!(
        (of("state"), of("connections/failed")),
        ("up".into(), 0.into())
    );
    assert_eq!(backend.accepted(), 0);
    let labels = [
        ("pool", "web"),
        ("backend", "b1"),
        ("reason", "local_error"),
    ];
    assert_eq!(
        isobar.metric("isobar_backend_connect_failures_total", &labels),
        1.0
    );
}

#[test]
fn where_one_address_cannot_be_used_the_next_is() {
    let backend = Observer::new("b1", "127.0.0.1:0");
    let settings = "source_address = [\"192.0.2.7\", \"127.0.0.2\"]";
    let isobar = started(settings, &[backend.entry()]);
    assert_eq!(sources(&isobar, &backend, 4), [ip("127.0.0.2"); 4]);
    assert_eq!(isobar.ended("web", "local_error"), 0);
}

#[test]
fn checks_come_from_there_too_and_a_new_file_says_from_where_next() {
    let backend = Observer::new("b1", "127.0.0.1:0");
    let text = |source: &str| {
        let health = "[pool.web.health]\ninterval = \"50ms\"\ntimeout = \"50ms\"";
        web(
            &format!("source_address = [\"{source}\"]\n{health}"),
            &[backend.entry()],
        )
    };
    let isobar = Isobar::start(&text("127.0.0.2"));
    assert_eq!(backend.accept().1, ip("127.0.0.2"));
    let done = isobar.reload_to(&text("127.0.0.3"));
    let change = &done["plan"]["pools"][0]["fields"][0];
    assert_eq!(change["key"], "source_address", "{done}");
    assert_eq!(change["effect"], "new_connections");
    wait_until("checks come from the new one", || {
        backend.accept().1 == ip("127.0.0.3")
    });
    for _ in 0..5 {
        assert_eq!(backend.accept().1, ip("127.0.0.3"));
    }
}

/// Not a case: what [`each_address_has_all_ports_for_each_backend`] starts where nobody else has
/// ports.
#[test]
#[ignore = "the program that the other tests start"]
fn in_a_namespace_of_its_own() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    const SOURCES: usize = 3;
    let keys = "hold.max = 0\nsource_address = [\"127.0.0.2\", \"127.0.0.3\", \"127.0.0.4\"]\n";
    assert_eq!(connections_at_once(keys), SOURCES * PORTS * 2);
    assert_eq!(connections_at_once("hold.max = 0\n"), PORTS * 2);
}

const ALONE: &str = "ISOBAR_TEST_ALONE";
/// The kernel has an even number of them.
const PORTS: usize = 8;

/// How many can be connected to two backends before one ends as `local_error`.
fn connections_at_once(keys: &str) -> usize {
    let backends = [Backend::named("b1"), Backend::named("b2")];
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let text = web(&format!("{keys}{UNCHECKED}"), &entries);
    // Clients of a Unix socket need no ports.
    let mut isobar = Isobar::start(&text.replace("127.0.0.1:0", "unix:$DIR/web.sock"));
    isobar.skip_byte_check();
    // What listens has its ports by now.
    have_ports(61_000, 61_000 + PORTS - 1);
    let mut clients: Vec<Stream> = Vec::new();
    loop {
        let client = isobar.connect("web");
        if is_refused(&client) {
            break;
        }
        clients.push(client);
    }
    have_ports(32_768, 60_999);
    isobar.wait_ended("web", "local_error", 1);
    for backend in &backends {
        let failed = format!("/pools/web/backends/{}/connections/failed", backend.name());
        assert_eq!(isobar.count(&failed), 0);
        isobar.wait_state("web", backend.name(), "up");
    }
    let connected = clients.len();
    clients.iter().for_each(Stream::abort);
    isobar.wait_count("/connections/active", 0);
    connected
}

fn have_ports(first: usize, last: usize) {
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    std::fs::write(range, format!("{first} {last}")).expect("a namespace of our own");
}

/// Each backend says its name; nobody does where there is no port.
fn is_refused(client: &Stream) -> bool {
    client.try_read_line().is_err()
}

#[test]
#[ignore = "needs root"]
fn each_address_has_all_ports_for_each_backend() {
    let own = std::env::current_exe().expect("this program");
    let script =
        "ip link set lo up && exec \"$0\" --exact in_a_namespace_of_its_own --ignored --nocapture";
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .arg(own)
        .env(ALONE, "1")
        .output()
        .expect("unshare of util-linux");
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{failed}");
    assert!(said.contains("1 passed"), "{said}");
}

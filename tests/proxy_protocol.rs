//! PROXY headers, in and out: who a client is then, what its backend is told, and what becomes of
//! those who have no right to send one, or send none, or a wrong one.

mod support;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use isobar::config::SendProxy;
use isobar::net::Address;
use isobar::proxy::{Endpoints, encode};
use serde_json::Value;
use support::{Backend, Family, Isobar, Stream, scaled, wait_until, web};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// A client that connects from nowhere near.
const CLIENT: &str = "203.0.113.7:4711";
const SERVICE: &str = "198.51.100.1:443";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// The header of a connection between these two.
fn header(version: SendProxy, source: &str, destination: &str) -> Vec<u8> {
    encode(version, Some(Endpoints::new(at(source), at(destination))))
}

fn line() -> Vec<u8> {
    header(SendProxy::V1, CLIENT, SERVICE)
}

fn binary() -> Vec<u8> {
    header(SendProxy::V2, CLIENT, SERVICE)
}

/// A header of version 2 with this command, family and block.
fn raw(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a short block");
    [SIGNATURE, &[command, family], &length.to_be_bytes(), block].concat()
}

/// Listener `web` on an IPv4 port, and one on a Unix socket, both with these lines; pool `web`.
fn config(listener: &str, pool: &str, entries: &[String]) -> String {
    let text = web(pool, entries);
    text.replace(
        "[pool.web]\n",
        &format!(
            "{listener}[listener.unix]\nbind = \"unix:$DIR/in.sock\"\npool = \"web\"\n{listener}\
             [pool.web]\n"
        ),
    )
}

const REQUIRED: &str = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
const OPTIONAL: &str = "proxy_protocol = \"optional\"\ntrusted_proxies = [\"127.0.0.1\"]\n";

/// Isobar before an echo.
struct Scene {
    isobar: Isobar,
    backend: Backend,
}

impl Scene {
    #[track_caller]
    fn set(listener: &str, pool: &str) -> Self {
        let backend = Backend::echo(Family::Ipv4);
        let text = config(listener, pool, &[backend.entry()]);
        Self {
            isobar: Isobar::start(&text),
            backend,
        }
    }

    /// A client that sends `header`, and is then connected with the echo.
    #[track_caller]
    fn comes_through(&self, header: &[u8]) -> Stream {
        let client = self.isobar.connect("web");
        client.write(header);
        self.is_through(&client);
        client
    }

    #[track_caller]
    fn is_through(&self, client: &Stream) {
        client.write("hello");
        client.expect("hello");
    }

    /// The client of the only connection there is.
    #[track_caller]
    fn shown(&self) -> String {
        let shown = self.isobar.get("/connections").json();
        assert_eq!(shown["total"], 1, "{shown:#}");
        word(&shown["connections"][0]["client"])
    }

    /// A client is refused for `reason`, and is the `n`th.
    #[track_caller]
    fn is_refused(&self, client: &Stream, reason: &str, n: u64) {
        client.expect_reset();
        self.isobar
            .wait_count(&format!("/listeners/web/rejected/{reason}"), n);
    }

    #[track_caller]
    fn no_backend_was_touched(&self) {
        let of_backend = format!("/pools/web/backends/{}/connections", self.backend.name());
        assert_eq!(self.isobar.count(&format!("{of_backend}/total")), 0);
        assert_eq!(self.backend.accepted(), 0);
    }
}

fn word(value: &Value) -> String {
    value.as_str().expect("a word").to_owned()
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[test]
fn a_client_is_whom_its_header_names_in_the_log_and_in_every_listing() {
    let scene = Scene::set(REQUIRED, "");
    let six = "[2001:db8::7]:80";
    for (header, name) in [
        (line(), CLIENT),
        (binary(), CLIENT),
        (header(SendProxy::V1, six, "[::1]:1"), six),
        (header(SendProxy::V2, six, "[::1]:1"), six),
        (
            b"PROXY TCP6 ::ffff:203.0.113.9 ::ffff:1.2.3.4 9 1\r\n".to_vec(),
            "203.0.113.9:9",
        ),
    ] {
        let client = scene.comes_through(&header);
        assert_eq!(scene.shown(), name);
        let ip = at(name).ip();
        let found = scene.isobar.get(&format!("/connections?client={ip}"));
        assert_eq!(found.json()["total"], 1, "{name}");
        let nobody = scene.isobar.get("/connections?client=127.0.0.1");
        assert_eq!(nobody.json()["total"], 0, "{name}");
        leave(&client);
        scene.isobar.wait_access(at(name));
        wait_until("it was gone", || {
            scene.isobar.get("/connections").json()["total"] == 0
        });
    }
    assert_eq!(scene.isobar.count("/listeners/web/bytes_in"), 5 * 5);
}

#[test]
fn a_header_that_names_nobody_leaves_the_address_of_the_socket() {
    let scene = Scene::set(REQUIRED, "");
    let four = &binary()[16..];
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 1.2.3.4 junk\r\n".to_vec(),
        raw(0x20, 0x00, b""),
        raw(0x20, 0x11, four),
        raw(0x21, 0x00, b""),
        raw(0x21, 0x31, &[b'x'; 216]),
        raw(0x21, 0x41, b"four"),
    ] {
        let client = scene.comes_through(&header);
        let own = client.local().expect("an address");
        assert_eq!(scene.shown(), own.to_string());
        leave(&client);
        scene.isobar.wait_access(own);
        wait_until("it was gone", || {
            scene.isobar.get("/connections").json()["total"] == 0
        });
    }
}

/// TLVs of every kind, among them a checksum, up to the longest header that is taken.
#[test]
fn tlvs_are_passed_over_and_checksums_verified() {
    let scene = Scene::set(REQUIRED, "");
    let four = &binary()[16..];
    let most = 4096 - 16 - 12 - 3;
    let room = u16::try_from(most).expect("less than 64 KiB").to_be_bytes();
    let long = [four, &[0x04], &room, &vec![0; most]].concat();
    let sound = [four, &[0x03, 0, 4], &CHECKSUM].concat();
    let mut wrong = sound.clone();
    wrong[0] ^= 1;
    for block in [
        [four, b"\x02\0\x09a.example\x05\0\x01i"].concat(),
        long,
        sound,
    ] {
        leave(&scene.comes_through(&raw(0x21, 0x11, &block)));
        scene.isobar.wait_access(at(CLIENT));
    }
    let client = scene.isobar.connect("web");
    client.write(raw(0x21, 0x11, &wrong));
    scene.is_refused(&client, "proxy_header", 1);
}

/// Of the header between [`CLIENT`] and [`SERVICE`] that has nothing but a checksum, by the
/// polynomial of RFC 4960, appendix B.
const CHECKSUM: [u8; 4] = [0x10, 0x6f, 0x0c, 0x91];

#[test]
fn a_header_may_come_a_byte_at_a_time_and_the_payload_with_it() {
    let scene = Scene::set(REQUIRED, "");
    for header in [line(), binary()] {
        let client = scene.isobar.connect("web");
        for byte in &header {
            client.write([*byte]);
        }
        scene.is_through(&client);
        leave(&client);
        // What follows looks like a TLV, or like another header.
        for payload in [b"\x03\0\x04abcd".as_slice(), &line(), &vec![7; 20_000]] {
            let client = scene.isobar.connect("web");
            client.write([&header, payload].concat());
            client.expect(payload);
            leave(&client);
        }
    }
}

/// Both parts are seen apart: the first is acknowledged before the second is sent.
#[test]
fn a_header_may_be_cut_anywhere() {
    let scene = Scene::set(REQUIRED, "");
    for header in [line(), binary()] {
        for cut in 0..=header.len() {
            let client = scene.isobar.connect("web");
            client.write(&header[..cut]);
            client.wait_acknowledged();
            if cut < header.len() {
                wait_until("it was waited for", || {
                    scene.isobar.get("/connections?state=preread").json()["total"] == 1
                });
            }
            client.write(&header[cut..]);
            scene.is_through(&client);
            assert_eq!(scene.shown(), CLIENT, "{cut}");
            leave(&client);
            wait_until("it was gone", || {
                scene.isobar.get("/connections").json()["total"] == 0
            });
        }
    }
}

#[test]
fn a_wrong_header_is_reset_at_once_and_counted() {
    let scene = Scene::set(REQUIRED, "");
    let mut n = 0;
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n".to_vec(),
        [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(),
        raw(0x31, 0x11, &[0; 12]),
        raw(0x22, 0x11, &[0; 12]),
        raw(0x21, 0x11, &[0; 11]),
        raw(0x21, 0x21, &[0; 12]),
        raw(0x21, 0x11, &[0; 14]),
        raw(0x20, 0x00, &[0; 4097 - 16])[..16].to_vec(),
    ] {
        let client = scene.isobar.connect("web");
        client.write(&bytes);
        n += 1;
        scene.is_refused(&client, "proxy_header", n);
    }
    scene.no_backend_was_touched();
    let line = scene.isobar.log().wait("a rejection was told", |line| {
        line.message() == "rejected" && line.says("reason", "proxy_header")
    });
    assert_eq!(line.text("listener"), Some("web"));
}

/// A header that never ends, by one who is silent, and by one who is not: the time is counted
/// from the beginning, and nobody else waits.
#[test]
fn a_header_must_come_in_time() {
    let time = scaled(Duration::from_secs(1));
    let rules = format!("{REQUIRED}preread_timeout = \"{}ms\"\n", time.as_millis());
    let scene = Scene::set(&rules, "");
    let start = Instant::now();
    let silent = scene.isobar.connect("web");
    let slow = scene.isobar.connect("web");
    for byte in b"PROXY UNKNOWN ".iter().chain(&[b'x'; 93]) {
        if slow.try_write([*byte]).is_err() {
            break;
        }
        std::thread::sleep(time / 10);
    }
    leave(&scene.comes_through(&binary()));
    for client in [&silent, &slow] {
        client.expect_reset();
        assert!(start.elapsed() >= time);
    }
    scene
        .isobar
        .wait_count("/listeners/web/rejected/preread_timeout", 2);
}

#[test]
fn a_client_that_is_let_through_may_then_be_as_slow_as_it_likes() {
    let time = scaled(Duration::from_secs(1));
    let rules = format!("{REQUIRED}preread_timeout = \"{}ms\"\n", time.as_millis());
    let scene = Scene::set(&rules, "");
    let client = scene.comes_through(&line());
    assert!(client.is_silent_for(2 * time));
    scene.is_through(&client);
    leave(&client);
}

#[test]
fn a_client_that_leaves_before_its_header_is_whole_touches_no_backend() {
    let scene = Scene::set(REQUIRED, "");
    let client = scene.isobar.connect("web");
    client.fin();
    client.expect_reset();
    scene.isobar.wait_ended("web", "client_left", 1);
    let client = scene.isobar.connect("web");
    client.write("PROXY TCP4 1.2");
    client.reset();
    scene.isobar.wait_ended("web", "client_left", 2);
    // Whoever says that this was all had no header.
    let client = scene.isobar.connect("web");
    client.write_and_fin(b"PROXY TCP4 1.2");
    scene.is_refused(&client, "proxy_header", 1);
    scene.no_backend_was_touched();
    // Who has left counts where it would have gone; who is refused counts nowhere.
    assert_eq!(scene.isobar.count("/pools/web/ended/client_left"), 2);
    assert_eq!(scene.isobar.count("/pools/web/connections/total"), 2);
}

#[test]
fn whoever_is_not_trusted_is_reset_without_a_look_at_its_header() {
    let scene = Scene::set(REQUIRED, "");
    for header in [line(), Vec::new()] {
        let client = scene.isobar.connect_from("127.0.0.2", "web");
        let _ = client.try_write(header);
        client.expect_reset();
    }
    scene
        .isobar
        .wait_count("/listeners/web/rejected/untrusted", 2);
    scene.no_backend_was_touched();
    leave(&scene.comes_through(&line()));
}

#[test]
fn where_headers_are_optional_only_the_trusted_have_one() {
    let scene = Scene::set(OPTIONAL, "");
    leave(&scene.comes_through(&binary()));
    scene.isobar.wait_access(at(CLIENT));
    let client = scene.isobar.connect("web");
    client.write("no header");
    scene.is_refused(&client, "proxy_header", 1);
    // Of others it is payload, whatever it looks like, and they need not say anything.
    let stranger = scene.isobar.connect_from("127.0.0.2", "web");
    scene.is_through(&stranger);
    stranger.write(line());
    stranger.expect(line());
    assert_eq!(
        scene.shown(),
        stranger.local().expect("an address").to_string()
    );
    leave(&stranger);
}

#[test]
fn where_headers_are_off_a_header_is_payload() {
    let scene = Scene::set("", "");
    let client = scene.isobar.connect("web");
    client.write(binary());
    client.expect(binary());
    leave(&client);
}

#[test]
fn a_unix_client_may_send_a_header_where_headers_are_on() {
    for mode in [REQUIRED, OPTIONAL] {
        let scene = Scene::set(mode, "");
        let client = scene.isobar.connect("unix");
        client.write(line());
        scene.is_through(&client);
        assert_eq!(scene.shown(), CLIENT);
        leave(&client);
        let client = scene.isobar.connect("unix");
        client.write(raw(0x20, 0, b""));
        scene.is_through(&client);
        assert!(scene.shown().starts_with("unix:"), "{}", scene.shown());
        leave(&client);
        let client = scene.isobar.connect("unix");
        client.write("no header");
        client.expect_gone();
        scene
            .isobar
            .wait_count("/listeners/unix/rejected/proxy_header", 1);
    }
}

/// One address and port always leads to the same backend, wherever the sockets come from.
#[test]
fn what_is_hashed_is_the_address_of_the_header() {
    let backends: Vec<_> = (1..=5).map(|i| Backend::named(&format!("b{i}"))).collect();
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let isobar = Isobar::start(&config(
        REQUIRED,
        "balance = \"consistent-hash\"\n",
        &entries,
    ));
    let visit = |source: &str| {
        let client = isobar.connect("web");
        client.write(header(SendProxy::V2, source, SERVICE));
        let name = client.read_line();
        leave(&client);
        name
    };
    let mut names = std::collections::BTreeSet::new();
    for i in 0..32 {
        let source = format!("203.0.113.{i}:1");
        let name = visit(&source);
        assert_eq!(visit(&source), name);
        let query = format!("/explain?listener=web&client=203.0.113.{i}&port=1");
        let foretold = isobar.get(&query).json();
        assert_eq!(foretold["outcome"]["backend"], *name);
        names.insert(name);
    }
    assert!(names.len() > 2, "{names:?}");
}

/// The answer of what follows from a reload is for new connections.
#[test]
fn headers_can_be_turned_on_and_off_by_a_reload() {
    let scene = Scene::set("", "");
    let old = scene.comes_through(b"");
    let entry = scene.backend.entry();
    scene.isobar.reload_to(&config(
        REQUIRED,
        "send_proxy = \"v1\"\n",
        std::slice::from_ref(&entry),
    ));
    scene.is_through(&old);
    let refused = scene.isobar.connect("web");
    refused.write("no header");
    scene.is_refused(&refused, "proxy_header", 1);
    let plan = scene.isobar.get("/config");
    assert!(plan.body.contains("proxy_protocol = \"required\""));
    scene.isobar.reload_to(&config("", "", &[entry]));
    leave(&scene.comes_through(b""));
    leave(&old);
}

/// What explains a connection says when a header would be wanted of it.
#[test]
fn an_explanation_says_who_must_send_a_header() {
    let scene = Scene::set(REQUIRED, "");
    let notes = |client: &str| {
        let answer = scene
            .isobar
            .get(&format!("/explain?listener=web&client={client}"))
            .json();
        answer["notes"].to_string()
    };
    assert!(notes("127.0.0.1").contains("(proxy_header)"));
    assert!(notes("203.0.113.7").contains("(untrusted)"));
    assert!(notes("unix").contains("(proxy_header)"));
    let scene = Scene::set(OPTIONAL, "");
    let of = |client: &str| {
        let query = format!("/explain?listener=web&client={client}");
        scene.isobar.get(&query).json()["notes"].to_string()
    };
    assert!(of("127.0.0.1").contains("(proxy_header)"));
    assert!(!of("203.0.113.7").contains("PROXY"));
}

#[test]
fn a_backend_is_told_whose_connection_it_gets_before_the_client_says_a_word() {
    for (version, send) in [("v1", SendProxy::V1), ("v2", SendProxy::V2)] {
        for family in Family::all() {
            let backend = Backend::manual(family);
            let settings = format!("send_proxy = \"{version}\"\n");
            let isobar = Isobar::start(&config("", &settings, &[backend.entry()]));
            let client = isobar.connect("web");
            let served = backend.accept();
            let own = client.local().expect("an address").to_string();
            let service = isobar.address("web").to_string();
            served.expect_header(header(send, &own, &service));
            served.write("welcome");
            client.expect("welcome");
            client.write("hello");
            served.expect("hello");
            client.fin();
            served.expect_fin();
            served.fin();
            client.expect_fin();
            isobar.wait_ended("web", "client_closed", 1);
            assert_eq!(isobar.count("/listeners/web/bytes_in"), 5);
        }
    }
}

/// Of whom nothing can be said, that is said.
#[test]
fn the_header_of_a_unix_client_names_nobody() {
    for (version, wanted) in [
        ("v1", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v2", raw(0x20, 0x00, b"")),
    ] {
        let backend = Backend::manual(Family::Ipv4);
        let settings = format!("send_proxy = \"{version}\"\n");
        let isobar = Isobar::start(&config("", &settings, &[backend.entry()]));
        let client = isobar.connect("unix");
        client.write("hello");
        let served = backend.accept();
        served.expect_header(wanted);
        served.expect("hello");
        client.fin();
        served.fin();
        client.expect_fin();
    }
}

/// IPv4 clients of `[::]` are clients of IPv4.
#[test]
fn a_mapped_client_is_told_as_one_of_ipv4() {
    if !Family::all().contains(&Family::Ipv6) {
        return;
    }
    let backend = Backend::manual(Family::Ipv4);
    let text = web("send_proxy = \"v1\"\n", &[backend.entry()]);
    let isobar = Isobar::start(&text.replace("127.0.0.1:0", "[::]:0"));
    let port = isobar.address("web").port().expect("a port");
    let service = Address::Ip(([127, 0, 0, 1], port).into());
    let client = isobar.connect_to(&service);
    let own = client.local().expect("an address").to_string();
    let served = backend.accept();
    served.expect_header(header(SendProxy::V1, &own, &service.to_string()));
    client.fin();
    served.fin();
    client.expect_fin();
}

#[test]
fn what_came_with_the_header_reaches_the_backend_behind_its_own() {
    let backend = Backend::manual(Family::Ipv4);
    let text = config(REQUIRED, "send_proxy = \"v2\"\n", &[backend.entry()]);
    let isobar = Isobar::start(&text);
    let client = isobar.connect("web");
    client.write([line(), b"early".to_vec()].concat());
    let served = backend.accept();
    served.expect_header(binary());
    served.expect("early");
    served.write("late");
    client.expect("late");
    client.fin();
    served.fin();
    client.expect_fin();
    isobar.wait_ended("web", "client_closed", 1);
    assert_eq!(isobar.count("/pools/web/bytes_in"), 5);
}

/// Client, isobar, isobar, backend: the backend knows the client, and what it connected to.
#[test]
fn isobar_behind_isobar_keeps_the_address_of_the_client() {
    for (first, second) in [("v1", "v2"), ("v2", "v1"), ("v2", "v2")] {
        let backend = Backend::manual(Family::Ipv4);
        let settings = format!("send_proxy = \"{second}\"\n");
        let inner = Isobar::start(&config(REQUIRED, &settings, &[backend.entry()]));
        let address = inner.address("web");
        let entry = format!("{{ name = \"inner\", address = \"{address}\" }}");
        let outer = Isobar::start(&web(&format!("send_proxy = \"{first}\"\n"), &[entry]));
        let client = outer.connect("web");
        client.write("hello");
        let own = client.local().expect("an address");
        let served = backend.accept();
        let service = outer.address("web").to_string();
        let send = match second {
            "v1" => SendProxy::V1,
            _ => SendProxy::V2,
        };
        served.expect_header(header(send, &own.to_string(), &service));
        served.expect("hello");
        client.fin();
        served.fin();
        client.expect_fin();
        for isobar in [&outer, &inner] {
            isobar.wait_access(own);
        }
        drop(outer);
        // Whose clients are not those of the harness.
        let mut inner = inner;
        inner.skip_byte_check();
    }
}

/// Each attempt is told anew, also after a while in hold.
#[test]
fn every_backend_that_is_tried_gets_a_header_of_its_own() {
    let backend = Backend::manual(Family::Ipv4);
    let refusing = Backend::refusing("gone");
    backend.stop();
    let entries = [refusing.entry(), backend.entry()];
    let text = config(
        REQUIRED,
        "send_proxy = \"v1\"\n[pool.web.hold]\ntimeout = \"0s\"\n",
        &entries,
    );
    let isobar = Isobar::start(&text);
    let client = isobar.connect("web");
    client.write([line(), b"early".to_vec()].concat());
    isobar.wait_count("/pools/web/held", 1);
    backend.listen();
    let served = backend.accept();
    served.expect_header(line());
    served.expect("early");
    client.fin();
    served.fin();
    client.expect_fin();
}

/// The header goes out at once, so that no engine ever sees it.
#[test]
fn every_engine_relays_behind_a_header() {
    for engine in ["auto", "copy", "splice"] {
        let backend = Backend::manual(Family::Ipv4);
        let settings = format!("send_proxy = \"v2\"\nrelay = \"{engine}\"\n");
        let isobar = Isobar::start(&config(REQUIRED, &settings, &[backend.entry()]));
        let client = isobar.connect("web");
        let payload = vec![b'p'; 60_000];
        client.write([&line(), payload.as_slice()].concat());
        let served = backend.accept();
        served.expect_header(binary());
        served.expect(&payload);
        client.write(&payload);
        served.expect(&payload);
        client.fin();
        served.fin();
        client.expect_fin();
    }
}

/// The backend of a check is told that it is one, on its own port.
#[test]
fn checks_say_that_they_are_of_nobody() {
    for (version, wanted) in [
        ("v1", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v2", raw(0x20, 0x00, b"")),
    ] {
        let backend = Backend::manual(Family::Ipv4);
        let health = "[pool.web.health]\nkind = \"http\"\nfast_interval = \"50ms\"\n\
                      timeout = \"10s\"\ninterval = \"60s\"\n";
        let settings = format!("send_proxy = \"{version}\"\n{health}");
        let mut isobar = Isobar::start(&config("", &settings, &[backend.entry()]));
        isobar.skip_byte_check();
        let check = backend.accept();
        check.expect(&wanted);
        assert!(check.read_line().starts_with("GET / HTTP/1.1"));
        check.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        isobar.wait_state("web", backend.name(), "up");
    }
}

#[test]
fn a_tcp_check_says_it_too_and_a_port_for_checks_alone_hears_nothing() {
    let backend = Backend::manual(Family::Ipv4);
    let elsewhere = Backend::manual(Family::Ipv4);
    let port = elsewhere.address().port().expect("a port");
    let health = "[pool.web.health]\ninterval = \"60s\"\n";
    let settings = format!("send_proxy = \"v2\"\n{health}");
    let mut isobar = Isobar::start(&config("", &settings, &[backend.entry()]));
    isobar.skip_byte_check();
    let check = backend.accept();
    check.expect(raw(0x20, 0x00, b""));
    isobar.wait_state("web", backend.name(), "up");
    // A change of either key begins the checks anew.
    let settings = format!("send_proxy = \"v1\"\n{health}");
    isobar.reload_to(&config("", &settings, &[backend.entry()]));
    backend.accept().expect(b"PROXY UNKNOWN\r\n");
    let settings = format!("send_proxy = \"v1\"\n{health}port = {port}\n");
    isobar.reload_to(&config("", &settings, &[backend.entry()]));
    let check = elsewhere.accept();
    let mut byte = [0];
    let heard: io::Result<usize> = check.read(&mut byte);
    assert!(!matches!(heard, Ok(1)), "{heard:?}");
}

/// Who is being read when isobar is replaced is read to the end where it is, and who has sent
/// its header keeps its name.
#[test]
fn names_move_with_connections_and_half_a_header_stays() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = Isobar::start(&config(REQUIRED, "", &[backend.entry()]));
    let named = isobar.connect("web");
    named.write(line());
    named.write("hello");
    named.expect("hello");
    let (half, rest) = (binary()[..20].to_vec(), binary()[20..].to_vec());
    let reading = isobar.connect("web");
    reading.write(half);
    wait_until("it is being read", || {
        isobar.get("/connections?state=preread").json()["total"] == 1
    });
    let (_, mut old) = isobar.upgrade_leaving_some();
    let shown = isobar.get("/connections").json();
    let clients: Vec<_> = shown["connections"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|connection| word(&connection["client"]))
        .collect();
    assert_eq!(clients, [CLIENT]);
    reading.write(rest);
    reading.write("hello");
    reading.expect("hello");
    leave(&reading);
    old.wait();
    named.write("again");
    named.expect("again");
    leave(&named);
}

#[test]
fn many_headers_at_once_come_through() {
    let scene = Scene::set(REQUIRED, "");
    let clients: Vec<_> = (0..200)
        .map(|i| {
            let client = scene.isobar.connect("web");
            let source = format!("203.0.113.{}:{}", i % 250, i + 1);
            let version = [SendProxy::V1, SendProxy::V2][i % 2];
            client.write(header(version, &source, SERVICE));
            client
        })
        .collect();
    for client in &clients {
        scene.is_through(client);
    }
    let shown = scene
        .isobar
        .get("/connections?client=203.0.113.0/24")
        .json();
    assert_eq!(shown["total"], 200);
    clients.iter().for_each(leave);
}

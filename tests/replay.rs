//! A backend that ends a connection before its first byte is replaced by another one, unseen by
//! the client, as far as `replay` allows.

mod support;

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use support::{Backend, Family, Isobar, Stream, web};

/// Two backends that the test plays, and isobar, which tries them in this order.
struct Scene {
    isobar: Isobar,
    b1: Backend,
    b2: Backend,
}

impl Scene {
    fn new(settings: &str) -> Self {
        let (b1, b2) = (Backend::manual_as("b1"), Backend::manual_as("b2"));
        let settings = format!("balance = \"first\"\n{settings}");
        let mut isobar = Isobar::start(&web(&settings, &[b1.entry(), b2.entry()]));
        // A backend that read a copy has read what is counted once.
        isobar.skip_byte_check();
        Self { isobar, b1, b2 }
    }

    /// A client, and its connection at the first backend. isobar knows of that: a reset that
    /// comes sooner is a failed connect.
    fn open(&self) -> (Stream, Stream) {
        let both = (self.isobar.connect("web"), self.b1.accept());
        let connects = "/pools/web/backends/b1/connect_seconds/count";
        self.isobar.wait_count(connects, 1);
        both
    }

    #[track_caller]
    fn assert_replays(&self, moved: u64, exhausted: u64) {
        let count = |outcome| self.isobar.count(&format!("/pools/web/replays/{outcome}"));
        assert_eq!((count("moved"), count("exhausted")), (moved, exhausted));
        for (outcome, n) in [("moved", moved), ("exhausted", exhausted)] {
            let labels = [("pool", "web"), ("outcome", outcome)];
            let metric = self.isobar.metric("isobar_replays_total", &labels);
            assert_eq!(metric, n as f64, "{outcome}");
        }
    }

    /// The end of the first backend was passed on, and nobody else was asked.
    #[track_caller]
    fn assert_stayed(&self) {
        self.assert_replays(0, 0);
        assert_eq!(self.b2.accepted(), 0);
    }
}

/// Both sides say goodbye.
#[track_caller]
fn part(client: &Stream, backend: Stream) {
    client.fin();
    backend.expect_fin();
    drop(backend);
    client.expect_fin();
}

/// What a real TLS client sends first.
fn hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("db.example.com").expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("room");
    assert!(bytes.len() > 100 && bytes[0] == 22);
    bytes
}

#[test]
fn a_backend_that_ends_a_silent_connection_is_replaced() {
    for reset in [false, true] {
        let scene = Scene::new("");
        let (client, first) = scene.open();
        match reset {
            true => first.reset(),
            false => drop(first),
        }
        let second = scene.b2.accept();
        second.write("welcome");
        client.expect("welcome");
        client.write("thanks");
        second.expect("thanks");
        part(&client, second);
        let line = scene.isobar.wait_access(client.local().expect("TCP"));
        assert_eq!(line.fields()["attempts"], 2);
        assert_eq!(line.text("pick"), Some("retry2"));
        assert_eq!(line.text("backend"), Some("b2"));
        assert_eq!(line.text("ended"), Some("client_closed"));
        scene.assert_replays(1, 0);
        let backend = "/pools/web/backends/b2/connections/retried";
        assert_eq!(scene.isobar.count(backend), 1);
        let gone = "/pools/web/backends/b1/connections/active";
        assert_eq!(scene.isobar.count(gone), 0);
    }
}

/// Whole, and cut at places where the first backend gives up in the midst of it; on each engine.
#[test]
fn a_client_hello_goes_to_the_next_backend_from_its_first_byte() {
    let hello = hello();
    for relay in ["auto", "copy", "splice"] {
        for sent in [1, 5, 60, hello.len()] {
            let scene = Scene::new(&format!("relay = \"{relay}\""));
            let (client, first) = scene.open();
            for part in hello[..sent].chunks(40) {
                client.write(part);
                first.expect(part);
            }
            first.reset();
            let second = scene.b2.accept();
            second.expect(&hello[..sent]);
            client.write(&hello[sent..]);
            second.expect(&hello[sent..]);
            second.write("server hello");
            client.expect("server hello");
            client.write("the rest");
            second.expect("the rest");
            part(&client, second);
            let line = scene.isobar.wait_access(client.local().expect("TCP"));
            // Once, at whoever kept it.
            let bytes = hello.len() + "the rest".len();
            assert_eq!(line.fields()["bytes_in"], bytes, "{relay} {sent}");
            for (table, bytes) in [
                ("/listeners/web", bytes),
                ("/pools/web", bytes),
                ("/pools/web/backends/b1", 0),
                ("/pools/web/backends/b2", bytes),
            ] {
                let count = scene.isobar.count(&format!("{table}/bytes_in"));
                assert_eq!(count, bytes as u64, "{table}, {relay} {sent}");
            }
            scene.assert_replays(1, 0);
        }
    }
}

/// Until the backend answers, but no longer than statistics may be late.
#[test]
fn bytes_that_might_be_replayed_are_counted_all_the_same_and_once() {
    let scene = Scene::new("connect_timeout = \"60s\"");
    let (client, first) = scene.open();
    let hello = hello();
    client.write(&hello);
    first.expect(&hello);
    let total = hello.len() as u64;
    scene
        .isobar
        .wait_count("/pools/web/backends/b1/bytes_in", total);
    first.reset();
    let second = scene.b2.accept();
    second.expect(&hello);
    second.write("x");
    client.expect("x");
    part(&client, second);
    for table in ["/listeners/web", "/pools/web"] {
        let count = scene.isobar.count(&format!("{table}/bytes_in"));
        assert_eq!(count, total, "{table}");
    }
}

#[test]
fn what_follows_a_client_hello_is_never_sent_twice() {
    for more in [&[20, 3, 3, 0, 1, 1][..], &[23, 3, 3, 0, 1], b"G"] {
        let scene = Scene::new("");
        let (client, first) = scene.open();
        let sent = [&hello(), more].concat();
        client.write(&sent);
        first.expect(&sent);
        drop(first);
        client.expect_fin();
        drop(client);
        scene.isobar.wait_ended("web", "backend_closed", 1);
        scene.assert_stayed();
    }
}

#[test]
fn plain_bytes_are_not_sent_twice_unless_a_number_allows_it() {
    for (replay, sent, moves) in [
        ("\"safe\"", "GET /", false),
        ("\"off\"", "", false),
        ("5", "GET /", true),
        ("4", "GET /", false),
        ("0", "", true),
        ("0", "G", false),
    ] {
        let scene = Scene::new(&format!("replay = {replay}"));
        let (client, first) = scene.open();
        client.write(sent);
        first.expect(sent);
        first.reset();
        if !moves {
            client.expect_reset();
            scene.isobar.wait_ended("web", "backend_reset", 1);
            scene.assert_stayed();
            continue;
        }
        let second = scene.b2.accept();
        second.expect(sent);
        second.write("ok");
        client.expect("ok");
        part(&client, second);
        scene.assert_replays(1, 0);
    }
}

/// `nc -z`, and checks of others that connect and leave.
#[test]
fn a_client_that_has_sent_fin_stays_where_it_is() {
    for with_hello in [false, true] {
        let scene = Scene::new("");
        let (client, first) = scene.open();
        if with_hello {
            let hello = hello();
            client.write(&hello);
            first.expect(&hello);
        }
        client.fin();
        first.expect_fin();
        drop(first);
        client.expect_fin();
        drop(client);
        scene.isobar.wait_ended("web", "client_closed", 1);
        scene.assert_stayed();
    }
}

#[test]
fn a_backend_that_has_answered_is_not_replaced() {
    let scene = Scene::new("replay = 100");
    let (client, first) = scene.open();
    client.write("ask");
    first.expect("ask");
    // The byte and the end come together.
    first.write("x");
    first.reset();
    assert_eq!(client.read_to_end().0, b"x");
    drop(client);
    scene.isobar.wait_ended("web", "backend_reset", 1);
    scene.assert_stayed();
}

/// A browser opens connections before it needs them, and a backend closes them after a while.
#[test]
fn a_backend_that_ends_it_after_the_connect_timeout_is_not_replaced() {
    let hello = hello();
    for sent in [&b""[..], &hello] {
        let scene = Scene::new("connect_timeout = \"200ms\"");
        let (client, first) = scene.open();
        client.write(sent);
        first.expect(sent);
        assert!(client.is_silent_for(Duration::from_millis(400)));
        drop(first);
        client.expect_fin();
        drop(client);
        scene.isobar.wait_ended("web", "backend_closed", 1);
        scene.assert_stayed();
    }
}

#[test]
fn without_a_connect_timeout_only_the_first_byte_ends_the_time_for_it() {
    let scene = Scene::new("connect_timeout = \"0s\"");
    let (client, first) = scene.open();
    assert!(client.is_silent_for(Duration::from_millis(400)));
    drop(first);
    let second = scene.b2.accept();
    second.write("x");
    client.expect("x");
    part(&client, second);
    scene.assert_replays(1, 0);
}

#[test]
fn when_none_is_left_the_end_is_passed_on_as_it_came() {
    for reset in [false, true] {
        let scene = Scene::new("");
        let (client, first) = scene.open();
        // However the others went.
        match reset {
            true => drop(first),
            false => first.reset(),
        }
        let second = scene.b2.accept();
        if reset {
            // A reset that is there before isobar has looked at the connect is a connect that
            // failed, and then it is the FIN of the first that is passed on.
            let connects = "/pools/web/backends/b2/connect_seconds/count";
            scene.isobar.wait_count(connects, 1);
            second.reset();
            client.expect_reset();
            drop(client);
            scene.isobar.wait_ended("web", "backend_reset", 1);
        } else {
            second.fin();
            client.expect_fin();
            // Only that way has ended.
            client.write("all the same");
            second.expect("all the same");
            client.fin();
            second.expect_fin();
            scene.isobar.wait_ended("web", "backend_closed", 1);
        }
        scene.assert_replays(1, 1);
        assert_eq!(scene.isobar.count("/pools/web/held_total"), 0);
    }
}

#[test]
fn an_end_with_no_attempt_left_or_no_backend_that_can_take_it_is_passed_on() {
    for (settings, drained) in [("connect_attempts = 1", false), ("", true)] {
        let scene = Scene::new(settings);
        let (client, first) = scene.open();
        if drained {
            scene.isobar.set("web/b2", r#"{"state": "drain"}"#);
        }
        let hello = hello();
        client.write(&hello);
        first.expect(&hello);
        first.fin();
        client.expect_fin();
        client.fin();
        first.expect_fin();
        let line = scene.isobar.wait_access(client.local().expect("TCP"));
        assert_eq!(line.text("backend"), Some("b1"));
        assert_eq!(line.text("pick"), Some("first"));
        assert_eq!(line.fields()["bytes_in"], hello.len());
        assert_eq!(scene.b2.accepted(), 0);
        scene.assert_replays(0, 1);
    }
}

/// A connect that fails on the way is an attempt like others.
#[test]
fn a_backend_that_refuses_on_the_way_is_passed_over() {
    let (b1, b2, b3) = (
        Backend::manual_as("b1"),
        Backend::manual_as("b2"),
        Backend::manual_as("b3"),
    );
    b2.stop();
    let entries = [b1.entry(), b2.entry(), b3.entry()];
    let isobar = Isobar::start(&web("balance = \"first\"", &entries));
    let client = isobar.connect("web");
    drop(b1.accept());
    let third = b3.accept();
    third.write("x");
    client.expect("x");
    part(&client, third);
    let line = isobar.wait_access(client.local().expect("TCP"));
    assert_eq!(line.fields()["attempts"], 3);
    assert_eq!(line.text("pick"), Some("retry3"));
}

#[test]
fn the_fallback_takes_it_where_the_pool_has_no_other_backend() {
    let (b1, spare) = (Backend::manual_as("b1"), Backend::manual_as("spare"));
    let text = web("fallback = \"other\"", &[b1.entry()]);
    let other = format!(
        "[pool.other]\nbackends = [{}]\n[pool.other.health]\nkind = \"none\"\n",
        spare.entry()
    );
    let isobar = Isobar::start(&format!("{text}{other}"));
    let client = isobar.connect("web");
    drop(b1.accept());
    let second = spare.accept();
    second.write("x");
    client.expect("x");
    part(&client, second);
    let line = isobar.wait_access(client.local().expect("TCP"));
    assert_eq!(line.text("pool"), Some("other"));
    assert_eq!(isobar.count("/pools/web/replays/moved"), 1);
    assert_eq!(isobar.count("/pools/other/connections/total"), 1);
}

/// The backends are those of the moment in which it moves.
#[test]
fn a_reload_in_the_middle_sends_it_to_a_backend_of_the_new_file() {
    let scene = Scene::new("");
    let (client, first) = scene.open();
    let hello = hello();
    client.write(&hello);
    first.expect(&hello);
    let b3 = Backend::manual_as("b3");
    let entries = [scene.b1.entry(), b3.entry()];
    scene.isobar.expect_removal();
    scene
        .isobar
        .reload_to(&web("balance = \"first\"", &entries));
    drop(first);
    let third = b3.accept();
    third.expect(&hello);
    third.write("x");
    client.expect("x");
    part(&client, third);
    assert_eq!(scene.b2.accepted(), 0);
    scene.assert_replays(1, 0);
}

/// It then has what it would have without `replay`: nothing is lost that was delivered.
#[test]
fn a_connection_that_moved_to_another_process_stays_with_its_backend() {
    let scene = Scene::new("connect_timeout = \"60s\"");
    let (client, first) = scene.open();
    let hello = hello();
    client.write(&hello);
    first.expect(&hello);
    scene.isobar.upgrade();
    client.write("more");
    first.expect("more");
    first.fin();
    client.expect_fin();
    client.fin();
    first.expect_fin();
    scene.isobar.wait_ended("web", "backend_closed", 1);
    let bytes = (hello.len() + 4) as u64;
    assert_eq!(scene.isobar.count("/pools/web/bytes_in"), bytes);
    scene.assert_stayed();
}

#[test]
fn a_connection_that_is_killed_before_its_backend_is_settled_is_accounted_for() {
    let scene = Scene::new("");
    let (client, first) = scene.open();
    let hello = hello();
    client.write(&hello);
    first.expect(&hello);
    scene.isobar.tell("DELETE", "/connections?pool=web", "");
    client.expect_reset();
    first.expect_reset();
    scene.isobar.wait_ended("web", "killed", 1);
    let count = scene.isobar.count("/pools/web/bytes_in");
    assert_eq!(count, hello.len() as u64);
}

/// Half of the backends crash on every connection, some before and some after they have read.
#[test]
fn no_client_notices_backends_that_crash_at_once() {
    const CLIENTS: usize = 120;
    let hello = Arc::new(hello());
    let n = hello.len();
    let answers = |name: &str| {
        Backend::serving(Family::Ipv4, name, move |stream| {
            let got = stream.read_exact(n);
            let _ = stream.try_write(&got);
            stream.end();
        })
    };
    let closes = Backend::serving(Family::Ipv4, "closes", |_| {});
    let resets = Backend::serving(Family::Ipv4, "resets", |stream| {
        let mut some = [0; 100];
        let _ = stream.read(&mut some);
        stream.abort();
    });
    let (good, better) = (answers("good"), answers("better"));
    let entries = [closes.entry(), resets.entry(), good.entry(), better.entry()];
    let mut isobar = Isobar::start(&web("", &entries));
    isobar.skip_byte_check();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..CLIENTS / 8 {
                    let client = isobar.connect("web");
                    client.write(&*hello);
                    client.expect(&*hello);
                    client.fin();
                    client.expect_fin();
                }
            });
        }
    });
    isobar.wait_ended("web", "client_closed", CLIENTS as u64);
    let bytes = (CLIENTS * n) as u64;
    for table in ["/listeners/web", "/pools/web"] {
        for way in ["bytes_in", "bytes_out"] {
            assert_eq!(isobar.count(&format!("{table}/{way}")), bytes, "{table}");
        }
    }
    let kept = ["good", "better"]
        .map(|name| isobar.count(&format!("/pools/web/backends/{name}/bytes_in")));
    assert_eq!(kept.iter().sum::<u64>(), bytes);
    assert!(isobar.count("/pools/web/replays/moved") >= (CLIENTS / 2) as u64 / 2);
    assert_eq!(isobar.count("/pools/web/replays/exhausted"), 0);
}

//! Where a connection goes by its ClientHello and its address, and what it costs those who send
//! none.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::hello::{hello, in_records, padded};
use support::{Backend, Family, Isobar, Launch, Stream, wait_until};

/// Says its name and a newline on accept, then sends back what it gets.
fn talking(name: &str) -> Backend {
    let line = format!("{name}\n");
    Backend::serving(Family::Ipv4, name, move |stream| {
        let _ = stream.try_write(&line);
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if stream.try_write(&buffer[..n]).is_err() {
                return;
            }
        }
    })
}

/// Backends, each with a pool of its name.
struct Scene {
    backends: Vec<Backend>,
}

impl Scene {
    fn of(names: &[&str]) -> Self {
        let backends = names.iter().map(|name| talking(name)).collect();
        Self { backends }
    }

    /// Listener `web` with these keys and routes.
    fn text(&self, listener: &str) -> String {
        let pool = |backend: &Backend| {
            format!(
                "[pool.{}]\nbackends = [{}]\nhealth.kind = \"none\"\n",
                backend.name(),
                backend.entry()
            )
        };
        let pools: String = self.backends.iter().map(pool).collect();
        format!("[listener.web]\nbind = \"127.0.0.1:0\"\n{listener}\n{pools}")
    }

    #[track_caller]
    fn start(&self, listener: &str) -> Isobar {
        Isobar::start(&self.text(listener))
    }
}

fn route(pool: &str, conditions: &str) -> String {
    format!("[[listener.web.route]]\n{conditions}\npool = \"{pool}\"\n")
}

/// Sends `bytes`, reads who answers, and that it got just those; leaves as is proper.
#[track_caller]
fn goes_to(client: &Stream, bytes: &[u8]) -> String {
    client.write(bytes);
    answered(client, bytes)
}

#[track_caller]
fn answered(client: &Stream, bytes: &[u8]) -> String {
    let name = client.read_line();
    client.expect(bytes);
    client.fin();
    client.expect_fin();
    name
}

#[track_caller]
fn rejected(isobar: &Isobar, reason: &str, n: u64) {
    isobar.wait_count(&format!("/listeners/web/rejected/{reason}"), n);
}

const BY_NAME: &str = "pool = \"rest\"
[[listener.web.route]]
sni = [\"DB.example.com.\"]
pool = \"db\"
[[listener.web.route]]
alpn = [\"h2\"]
pool = \"h2\"
[[listener.web.route]]
sni = [\"*.internal.example.com\"]
pool = \"internal\"
";

fn by_name() -> Scene {
    Scene::of(&["rest", "db", "h2", "internal"])
}

/// By exact name, by protocol, below a name, by none of them; the log names the route by its
/// number, and every byte arrives.
#[test]
fn a_hello_leads_to_the_pool_of_the_first_route_that_matches() {
    let scene = by_name();
    let isobar = scene.start(BY_NAME);
    for (sni, alpn, pool, route) in [
        (Some("db.example.com"), &["h2"][..], "db", json!("1")),
        (Some("Db.Example.Com"), &[], "db", json!("1")),
        (
            Some("a.internal.example.com"),
            &["http/1.1", "h2"],
            "h2",
            json!("2"),
        ),
        (
            Some("b.a.internal.example.com"),
            &["http/1.1"],
            "internal",
            json!("3"),
        ),
        (Some("internal.example.com"), &[], "rest", Value::Null),
        (Some("example.com"), &["h3"], "rest", Value::Null),
        (None, &["h2"], "h2", json!("2")),
        (None, &[], "rest", Value::Null),
        (Some("127.0.0.1"), &[], "rest", Value::Null),
    ] {
        for most in [1 << 14, 7] {
            let client = isobar.connect("web");
            let local = client.local().expect("an address");
            let bytes = in_records(&hello(sni, alpn), most);
            assert_eq!(goes_to(&client, &bytes), pool, "{sni:?} {alpn:?}");
            let line = isobar.wait_access(local);
            assert_eq!(line.fields()["route"], route, "{line:?}");
            assert_eq!(line.text("pool"), Some(pool));
            assert_eq!(line.fields()["bytes_in"], bytes.len());
        }
    }
}

/// One byte in each segment, and one in each record.
#[test]
fn a_hello_that_comes_byte_by_byte_is_read() {
    let scene = by_name();
    let isobar = scene.start(BY_NAME);
    let whole = hello(Some("db.example.com"), &["h2"]);
    for bytes in [whole.clone(), in_records(&whole, 1)] {
        let client = isobar.connect("web");
        for byte in &bytes {
            client.write([*byte]);
        }
        assert_eq!(answered(&client, &bytes), "db");
    }
}

/// As with post-quantum keys, and beyond: as large as may be.
#[test]
fn a_large_hello_arrives_whole() {
    let scene = by_name();
    let isobar = scene.start(BY_NAME);
    for more in [2_000, 15_000, 40_000, 64_000] {
        let bytes = padded(&hello(Some("db.example.com"), &[]), more);
        let client = isobar.connect("web");
        assert_eq!(goes_to(&client, &bytes), "db", "{more}");
    }
}

/// What follows a hello in the same segment, as early data does, arrives behind it, once.
#[test]
fn what_follows_the_hello_arrives_behind_it() {
    let scene = by_name();
    let isobar = scene.start(BY_NAME);
    let mut bytes = hello(Some("db.example.com"), &[]);
    bytes.extend((0..20_000u32).map(|i| i as u8));
    assert_eq!(goes_to(&isobar.connect("web"), &bytes), "db");
}

/// At once: the time for a hello is far longer than a test lasts. A hello that ends before it is
/// whole is none.
#[test]
fn what_is_no_hello_goes_on_at_once_with_every_byte() {
    let scene = by_name();
    let isobar = scene.start(&format!("preread_timeout = \"1h\"\n{BY_NAME}"));
    let whole = hello(Some("db.example.com"), &["h2"]);
    let mut two_names = whole.clone();
    let at = whole
        .windows(14)
        .position(|w| w == b"db.example.com")
        .expect("the name");
    two_names[at] = 0;
    for bytes in [
        b"G".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec(),
        vec![22, 2],
        vec![22, 3, 1, 0xff],
        vec![22, 3, 1, 0x40, 1],
        vec![22, 3, 1, 0, 4, 2, 0, 0, 0],
        vec![21, 3, 1, 0, 2, 1, 0],
        two_names,
    ] {
        assert_eq!(goes_to(&isobar.connect("web"), &bytes), "rest", "{bytes:?}");
    }
    for cut in [0, 1, 5, 6, 100, whole.len() - 1] {
        let client = isobar.connect("web");
        client.write(&whole[..cut]);
        client.fin();
        assert_eq!(client.read_line(), "rest", "{cut} bytes");
        client.expect(&whole[..cut]);
        client.expect_fin();
    }
}

/// Also one that has begun, and one that goes on sending a byte now and then. Nothing reaches a
/// backend.
#[test]
fn a_client_that_says_too_little_is_reset_in_time() {
    let scene = by_name();
    let isobar = scene.start(&format!("preread_timeout = \"300ms\"\n{BY_NAME}"));
    let whole = hello(Some("db.example.com"), &["h2"]);
    let started = Instant::now();
    let silent = isobar.connect("web");
    let half = isobar.connect("web");
    half.write(&whole[..100]);
    let slow = isobar.connect("web");
    for byte in &whole[..20] {
        if slow.try_write([*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for client in [silent, half, slow] {
        client.expect_reset();
    }
    assert!(started.elapsed() >= Duration::from_millis(300));
    rejected(&isobar, "preread_timeout", 3);
    assert!(scene.backends.iter().all(|backend| backend.accepted() == 0));
}

/// A message that says it is too long, at once; and one that is not, in records that are.
#[test]
fn a_hello_that_is_too_long_is_reset() {
    let scene = by_name();
    let isobar = scene.start(&format!("preread_timeout = \"1h\"\n{BY_NAME}"));
    let client = isobar.connect("web");
    client.write([22, 3, 1, 0x40, 0, 1, 1, 0, 0]);
    client.expect_reset();
    rejected(&isobar, "preread_limit", 1);
    let long = in_records(&padded(&hello(Some("db.example.com"), &[]), 14_000), 1);
    assert!(long.len() > 64 * 1024);
    let client = isobar.connect("web");
    let _ = client.try_write(&long);
    client.expect_gone();
    rejected(&isobar, "preread_limit", 2);
    assert!(scene.backends.iter().all(|backend| backend.accepted() == 0));
}

/// A client that leaves while its hello is read is no rejection.
#[test]
fn a_client_that_leaves_in_the_middle_is_counted_as_gone() {
    let scene = by_name();
    let isobar = scene.start(&format!("preread_timeout = \"1h\"\n{BY_NAME}"));
    let client = isobar.connect("web");
    client.write(&hello(Some("db.example.com"), &[])[..50]);
    wait_until("it is read", || {
        let all = isobar.get("/connections?state=preread").json();
        all["total"] == 1
    });
    client.reset();
    isobar.wait_ended("web", "client_left", 1);
    let killed = isobar.connect("web");
    killed.write([22]);
    wait_until("it is there", || {
        isobar.tell("DELETE", "/connections?state=preread", "")["closed"] == 1
    });
    killed.expect_reset();
    isobar.wait_ended("web", "killed", 1);
    // They are counted where they would have gone had they said nothing.
    assert_eq!(isobar.count("/pools/rest/ended/client_left"), 1);
    assert_eq!(isobar.count("/pools/rest/ended/killed"), 1);
}

/// Nobody's first bytes are waited for: backends that speak first are heard.
#[test]
fn routes_by_address_read_nothing() {
    let scene = Scene::of(&["rest", "near", "never"]);
    let routes = route("near", "client = [\"127.0.0.2/31\", \"10.0.0.0/8\"]")
        + &route("never", "client = [\"10.0.0.0/8\"]\nsni = [\"*\"]");
    let isobar = scene.start(&format!("pool = \"rest\"\n{routes}"));
    for (source, pool) in [
        ("127.0.0.1", "rest"),
        ("127.0.0.2", "near"),
        ("127.0.0.3", "near"),
        ("127.0.0.4", "rest"),
    ] {
        let client = isobar.connect_from(source, "web");
        assert_eq!(client.read_line(), pool, "{source}");
        client.fin();
        client.expect_fin();
    }
}

/// Every condition must hold, and only those wait whose route may still need a hello.
#[test]
fn address_and_name_must_both_hold() {
    let scene = Scene::of(&["rest", "db"]);
    let routes = route("db", "client = [\"127.0.0.2\"]\nsni = [\"db.example.com\"]");
    let isobar = scene.start(&format!("pool = \"rest\"\n{routes}"));
    let bytes = hello(Some("db.example.com"), &[]);
    assert_eq!(
        goes_to(&isobar.connect_from("127.0.0.2", "web"), &bytes),
        "db"
    );
    assert_eq!(
        goes_to(&isobar.connect_from("127.0.0.3", "web"), &bytes),
        "rest"
    );
    let other = hello(Some("other.example.com"), &[]);
    assert_eq!(
        goes_to(&isobar.connect_from("127.0.0.2", "web"), &other),
        "rest"
    );
    let silent = isobar.connect_from("127.0.0.3", "web");
    assert_eq!(silent.read_line(), "rest");
    silent.fin();
    silent.expect_fin();
}

#[test]
fn whom_no_route_takes_is_reset_where_there_is_no_pool() {
    let scene = Scene::of(&["db"]);
    let isobar = scene.start(&route("db", "sni = [\"db.example.com\"]"));
    assert_eq!(
        goes_to(&isobar.connect("web"), &hello(Some("db.example.com"), &[])),
        "db"
    );
    for bytes in [
        hello(Some("web.example.com"), &[]),
        b"SSH-2.0-x\r\n".to_vec(),
    ] {
        let client = isobar.connect("web");
        let _ = client.try_write(&bytes);
        client.expect_gone();
    }
    rejected(&isobar, "no_route", 2);
    assert_eq!(isobar.count("/listeners/web/connections/total"), 3);
}

/// The first backend refuses, the second gets the hello; with both refusing it is held, and its
/// bytes are kept.
#[test]
fn a_hello_is_kept_over_failed_attempts_and_over_hold() {
    let (first, second) = (Backend::refusing("first"), talking("second"));
    let text = |entries: &str| {
        format!(
            "[listener.web]\nbind = \"127.0.0.1:0\"\n{}[pool.db]\nbalance = \"first\"\n\
             backends = [{entries}]\nhealth.kind = \"none\"\n",
            route("db", "sni = [\"db.example.com\"]")
        )
    };
    let isobar = Isobar::start(&text(&format!("{}, {}", first.entry(), second.entry())));
    let bytes = hello(Some("db.example.com"), &[]);
    assert_eq!(goes_to(&isobar.connect("web"), &bytes), "second");
    second.stop();
    let client = isobar.connect("web");
    client.write(&bytes);
    isobar.wait_count("/pools/db/held", 1);
    second.listen();
    assert_eq!(answered(&client, &bytes), "second");
}

/// The rules are those of the moment at which it is routed; who is being read is not lost.
#[test]
fn a_reload_while_a_hello_is_read_routes_by_the_new_rules() {
    let scene = Scene::of(&["rest", "db", "other"]);
    let routes = route("db", "sni = [\"db.example.com\"]");
    let isobar = scene.start(&format!("pool = \"rest\"\n{routes}"));
    let bytes = hello(Some("db.example.com"), &[]);
    let (begun, settled) = (isobar.connect("web"), isobar.connect("web"));
    settled.write(&bytes);
    assert_eq!(settled.read_line(), "db");
    begun.write(&bytes[..60]);
    isobar.wait_count("/listeners/web/connections/active", 2);
    let routes = route("rest", "sni = [\"x\"]") + &route("other", "sni = [\"*.example.com\"]");
    isobar.reload_to(&scene.text(&format!("pool = \"rest\"\n{routes}")));
    begun.write(&bytes[60..]);
    assert_eq!(answered(&begun, &bytes), "other");
    settled.expect(&bytes);
    settled.fin();
    settled.expect_fin();
}

/// The new process has everybody whose hello was read; the others finish where they are.
#[test]
fn an_upgrade_leaves_half_a_hello_where_it_is() {
    let scene = Scene::of(&["rest", "db"]);
    let routes = route("db", "sni = [\"db.example.com\"]");
    let isobar = scene.start(&format!("pool = \"rest\"\n{routes}"));
    let bytes = hello(Some("db.example.com"), &[]);
    let (begun, settled) = (isobar.connect("web"), isobar.connect("web"));
    settled.write(&bytes);
    assert_eq!(settled.read_line(), "db");
    settled.expect(&bytes);
    begun.write(&bytes[..60]);
    isobar.wait_count("/listeners/web/connections/active", 2);
    let (_, mut old) = isobar.upgrade_leaving_some();
    begun.write(&bytes[60..]);
    assert_eq!(answered(&begun, &bytes), "db");
    old.wait();
    let local = settled.local().expect("an address");
    settled.fin();
    settled.expect_fin();
    assert_eq!(isobar.wait_access(local).text("route"), Some("1"));
}

/// Two balancers that know nothing of each other, with their backends in another order: names
/// have their backends, whoever asks.
#[test]
fn a_name_has_its_backend_whoever_asks_and_in_every_process() {
    let backends: Vec<_> = ["a", "b", "c"].map(talking).into();
    let text = |entries: &[String]| {
        format!(
            "[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n[pool.web]\n\
             balance = \"consistent-hash\"\nhash.key = \"sni\"\nbackends = [{}]\nhealth.kind = \"none\"\n",
            entries.join(", ")
        )
    };
    let mut entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let mut one = Isobar::start(&text(&entries));
    entries.rotate_left(1);
    let mut other = Isobar::start(&text(&entries));
    // They share their backends, which know nothing of that.
    one.skip_byte_check();
    other.skip_byte_check();
    let mut homes = BTreeSet::new();
    for i in 0..12 {
        let bytes = hello(Some(&format!("host-{i}.example.com")), &[]);
        let ask = |isobar: &Isobar, source| goes_to(&isobar.connect_from(source, "web"), &bytes);
        let home = ask(&one, "127.0.0.1");
        for (isobar, source) in [
            (&one, "127.0.0.2"),
            (&other, "127.0.0.3"),
            (&other, "127.0.0.4"),
        ] {
            assert_eq!(ask(isobar, source), home, "host-{i}");
        }
        homes.insert(home);
    }
    assert_eq!(homes.len(), 3, "all of them have names");
    // Without a name the address counts.
    let bare = |source| goes_to(&one.connect_from(source, "web"), &hello(None, &[]));
    assert_eq!(bare("127.0.0.5"), bare("127.0.0.5"));
}

/// Two addresses of one listener, one client: the destination decides.
#[test]
fn a_destination_has_its_backend() {
    let backends: Vec<_> = ["a", "b", "c", "d"].map(talking).into();
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let binds: Vec<_> = (0..12).map(|_| "\"127.0.0.1:0\"").collect();
    let isobar = Isobar::start(&format!(
        "[listener.web]\nbind = [{}]\npool = \"web\"\n[pool.web]\nbalance = \"consistent-hash\"\n\
         hash.key = \"destination-ip-port\"\nbackends = [{}]\nhealth.kind = \"none\"\n",
        binds.join(", "),
        entries.join(", ")
    ));
    let mut homes = BTreeSet::new();
    for address in isobar.addresses("web") {
        let source = |ip: &str| Some(ip.parse().expect("an address"));
        let ask = |ip: &str| {
            let client = isobar
                .try_connect(source(ip), address)
                .expect("a connection");
            goes_to(&client, b"x")
        };
        let home = ask("127.0.0.1");
        assert_eq!(ask("127.0.0.2"), home);
        homes.insert(home);
    }
    assert!(homes.len() > 1, "{homes:?}");
}

/// All of one client: with c = 1 three backends have the same, with c = 1.5 none has more than
/// half; which of them are the first is as without a bound.
#[test]
fn no_backend_has_more_than_its_bound() {
    let backends: Vec<_> = ["a", "b", "c"].map(talking).into();
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let text = |max_load: &str| {
        format!(
            "[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n[pool.web]\n\
             balance = \"consistent-hash\"\nhash.max_load = {max_load}\nbackends = [{}]\nhealth.kind = \"none\"\n",
            entries.join(", ")
        )
    };
    let isobar = Isobar::start(&text("1.0"));
    let stay = |n: usize| {
        let mut counts = HashMap::new();
        let clients: Vec<_> = (0..n).map(|_| isobar.stay("web")).collect();
        for (_, name) in &clients {
            *counts.entry(name.clone()).or_insert(0) += 1;
        }
        (
            clients
                .into_iter()
                .map(|(client, _)| client)
                .collect::<Vec<_>>(),
            counts,
        )
    };
    let leave = |clients: Vec<Stream>| {
        for client in clients {
            client.fin();
            client.expect_fin();
        }
        isobar.wait_count("/pools/web/connections/active", 0);
    };
    let (clients, counts) = stay(12);
    assert!(
        counts.values().all(|n| *n == 4) && counts.len() == 3,
        "{counts:?}"
    );
    let explained = isobar.get("/explain?listener=web&client=127.0.0.1").json();
    let steps = explained["pools"][0]["backends"]
        .as_array()
        .expect("backends")
        .clone();
    // 13 connections, of which each may have ⌈13 / 3⌉.
    assert!(
        steps.iter().all(|step| step["score"]["most"] == 5),
        "{steps:?}"
    );
    leave(clients);
    isobar.reload_to(&text("1.5"));
    let (clients, counts) = stay(12);
    let mut sorted: Vec<_> = counts.into_values().collect();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [6, 6],
        "two take all, as half is what each may have"
    );
    let explained = isobar.get("/explain?listener=web&client=127.0.0.1").json();
    let steps = explained["pools"][0]["backends"]
        .as_array()
        .expect("backends")
        .clone();
    assert!(
        steps.iter().all(|step| step["score"]["most"] == 7),
        "{steps:?}"
    );
    leave(clients);
    isobar.reload_to(&text("0"));
    let (clients, counts) = stay(12);
    assert_eq!(counts.len(), 1, "{counts:?}");
    leave(clients);
}

#[test]
fn explain_tells_each_route_and_why() {
    let scene = by_name();
    let isobar = scene.start(BY_NAME);
    let ask = |query: &str| {
        let path = format!("/explain?listener=web&client=10.0.0.9{query}");
        isobar.get(&path).json()
    };
    let answer = ask("&sni=X.Internal.example.com.&alpn=http/1.1,h3");
    assert_eq!(
        (&answer["route"], &answer["pool"]),
        (&json!("3"), &json!("internal"))
    );
    let verdicts = answer["routes"].as_array().expect("routes").iter();
    let verdicts: Vec<_> = verdicts
        .map(|r| r["verdict"].as_str().expect("a word"))
        .collect();
    assert_eq!(verdicts, ["no_match", "no_match", "chosen"]);
    let condition = &answer["routes"][1]["conditions"][0];
    assert_eq!(
        condition,
        &json!({"condition": "alpn", "wanted": ["h2"], "has": ["http/1.1", "h3"], "holds": false})
    );
    assert_eq!(ask("&alpn=h2")["routes"][2]["verdict"], "not_reached");
    let silent = ask("");
    assert_eq!(
        (&silent["route"], &silent["pool"]),
        (&Value::Null, &json!("rest"))
    );
    assert!(
        silent["notes"][0]
            .as_str()
            .expect("a note")
            .contains("preread_timeout")
    );
    // What it says is what happens.
    for (query, bytes) in [
        ("&sni=db.example.com", hello(Some("db.example.com"), &[])),
        ("&alpn=h2,x", hello(None, &["h2", "x"])),
        ("", hello(None, &[])),
    ] {
        let pool = goes_to(&isobar.connect("web"), &bytes);
        assert_eq!(ask(query)["pool"], pool, "{query}");
    }
    let admin = isobar.admin().to_string();
    let told = Launch::new("").run_to_exit(&[
        "explain",
        "--listener",
        "web",
        "--client",
        "10.0.0.9",
        "--sni",
        "db.example.com",
        "--alpn",
        "h2",
        "--admin",
        &admin,
    ]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    let expected = "client 10.0.0.9, listener web: route 1, pool db\n\n\
        \x20 ROUTE  POOL      CONDITIONS                  WHY\n\
        \x20 1      db        sni db.example.com          chosen: the first that matches\n\
        \x20 2      h2        alpn h2                     not reached\n\
        \x20 3      internal  sni *.internal.example.com  not reached\n";
    assert!(told.stdout.starts_with(expected), "{}", told.stdout);
}

/// Which route is new, which is gone, which goes elsewhere.
#[test]
fn plan_tells_what_becomes_of_routes() {
    let scene = by_name();
    let isobar = scene.start(BY_NAME);
    let routes = route("db", "sni = [\"db.example.com\"]")
        + &route("rest", "sni = [\"new.example.com\"]")
        + &route("internal", "sni = [\"*.internal.example.com\"]");
    let file = isobar.completed(&scene.text(&format!("pool = \"rest\"\n{routes}")));
    isobar.rewrite(&file);
    let plan = isobar.tell("POST", "/plan", "");
    let fields = &plan["listeners"][0]["fields"];
    assert_eq!(fields.as_array().map(Vec::len), Some(1), "{plan}");
    assert_eq!(fields[0]["key"], "route.2");
    assert_eq!(fields[0]["old"], json!({"alpn": ["h2"], "pool": "h2"}));
    assert_eq!(
        fields[0]["new"],
        json!({"sni": ["new.example.com"], "pool": "rest"})
    );
    assert_eq!(fields[0]["effect"], "new_connections");
    isobar.reload();
    let bytes = hello(Some("new.example.com"), &["h2"]);
    assert_eq!(goes_to(&isobar.connect("web"), &bytes), "rest");
}

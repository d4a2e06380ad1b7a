//! A PROXY header and a ClientHello behind it: lists, limits, routes and hash keys go by the
//! addresses of the header and the name of the hello together, and `explain` tells of the same.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use isobar::config::SendProxy;
use isobar::proxy::{Endpoints, encode};
use serde_json::{Value, json};
use support::hello::hello;
use support::{Backend, Family, Isobar, Stream, wait_until};

const SERVICE: &str = "198.51.100.1:443";
const DENIED: &str = "203.0.113.9:4711";
/// What a listener behind a proxy needs; a client that is waited for fails a test by its time.
const PROXIED: &str = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
                       preread_timeout = \"1h\"\n";

fn header(version: SendProxy, source: &str, destination: &str) -> Vec<u8> {
    let at = |text: &str| text.parse().expect("an address");
    encode(version, Some(Endpoints::new(at(source), at(destination))))
}

fn wanting(name: &str) -> Vec<u8> {
    hello(Some(name), &["h2"])
}

/// Says its name and a newline on accept, then sends back what it gets.
fn talking(name: &str) -> Backend {
    let line = format!("{name}\n");
    Backend::serving(Family::Ipv4, name, move |stream| {
        let _ = stream.try_write(&line);
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if stream.try_write(&buffer[..n]).is_err() {
                return;
            }
        }
    })
}

/// Pools `db`, for a name and a network, and `rest`, behind one listener.
struct Scene {
    isobar: Isobar,
    _backends: [Backend; 2],
}

impl Scene {
    #[track_caller]
    fn set(listener: &str) -> Self {
        let backends = ["db", "rest"].map(talking);
        let pool = |backend: &Backend| {
            let (name, entry) = (backend.name(), backend.entry());
            format!("[pool.{name}]\nbackends = [{entry}]\nhealth.kind = \"none\"\n")
        };
        let pools = backends.each_ref().map(pool).concat();
        let isobar = Isobar::start(&format!(
            "[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"rest\"\n{PROXIED}{listener}\
             [[listener.web.route]]\nsni = [\"db.example.com\"]\nclient = [\"192.0.2.0/24\"]\n\
             pool = \"db\"\n{pools}"
        ));
        Self {
            isobar,
            _backends: backends,
        }
    }

    /// A client that sends this, and is with this backend then, which got the hello and no more.
    #[track_caller]
    fn comes_to(&self, backend: &str, header: &[u8], hello: &[u8]) -> Stream {
        let client = self.isobar.connect("web");
        client.write([header, hello].concat());
        assert_eq!(client.read_line(), backend);
        client.expect(hello);
        client
    }

    #[track_caller]
    fn explained(&self, client: &str, sni: &str) -> Value {
        let path = format!("/explain?listener=web&client={client}&sni={sni}");
        self.isobar.get(&path).json()
    }
}

fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// Both parts are seen apart: the first is acknowledged before the second is sent. Each client
/// has a port of its own, by which the log knows it.
#[test]
fn a_header_with_a_hello_behind_it_may_be_cut_anywhere() {
    let scene = Scene::set("");
    let hello = wanting("db.example.com");
    let mut port = 1000;
    for version in [SendProxy::V1, SendProxy::V2] {
        let length = header(version, "192.0.2.7:1000", SERVICE).len() + hello.len();
        for cut in 0..=length {
            port += 1;
            let source = format!("192.0.2.7:{port}");
            let whole = [header(version, &source, SERVICE), hello.clone()].concat();
            let client = scene.isobar.connect("web");
            client.write(&whole[..cut]);
            client.wait_acknowledged();
            client.write(&whole[cut..]);
            assert_eq!(client.read_line(), "db", "{version:?}, cut at {cut}");
            client.expect(&hello);
            leave(&client);
            let source: SocketAddr = source.parse().expect("an address");
            let line = scene.isobar.wait_access(source);
            assert_eq!(line.text("route"), Some("1"), "{line:?}");
            assert_eq!(line.fields()["bytes_in"], hello.len(), "{line:?}");
        }
    }
}

#[test]
fn the_address_of_the_header_and_the_name_of_the_hello_choose_the_pool() {
    let scene = Scene::set("");
    let wanted = wanting("db.example.com");
    for (source, hello, pool, route) in [
        ("192.0.2.7:1", &wanted, "db", json!("1")),
        ("192.0.3.7:2", &wanted, "rest", Value::Null),
        (
            "192.0.2.7:3",
            &wanting("www.example.com"),
            "rest",
            Value::Null,
        ),
        ("[2001:db8::7]:4", &wanted, "rest", Value::Null),
        ("192.0.2.7:5", &b"no hello".to_vec(), "rest", Value::Null),
    ] {
        let destination = match source.starts_with('[') {
            true => "[2001:db8::1]:443",
            false => SERVICE,
        };
        for version in [SendProxy::V1, SendProxy::V2] {
            leave(&scene.comes_to(pool, &header(version, source, destination), hello));
        }
        let line = scene.isobar.wait_access(source.parse().expect("one"));
        assert_eq!(line.fields()["route"], route, "{line:?}");
    }
}

/// All of them connect from one address, which no list has and no limit counts. Whom a list
/// keeps out is not read any further.
#[test]
fn who_is_let_in_is_asked_by_the_address_of_the_header_before_the_hello() {
    let scene = Scene::set("deny = [\"203.0.113.0/24\"]\nmax_connections_per_ip = 1\n");
    let denied = scene.isobar.connect("web");
    denied.write(header(SendProxy::V2, DENIED, SERVICE));
    denied.expect_reset();
    scene.isobar.wait_count("/listeners/web/rejected/denied", 1);
    let hello = wanting("db.example.com");
    let come = |source: &str| {
        let header = header(SendProxy::V1, source, SERVICE);
        scene.comes_to("db", &header, &hello)
    };
    let (first, other) = (come("192.0.2.7:1"), come("192.0.2.8:1"));
    let second = scene.isobar.connect("web");
    second.write(header(SendProxy::V2, "192.0.2.7:2", SERVICE));
    second.expect_reset();
    scene
        .isobar
        .wait_count("/listeners/web/rejected/ip_limit", 1);
    leave(&first);
    wait_until("it was gone", || {
        let left = scene.isobar.get("/connections?client=192.0.2.7");
        left.json()["total"] == 0
    });
    leave(&come("192.0.2.7:3"));
    leave(&other);
    assert_eq!(scene.isobar.count("/pools/db/connections/total"), 3);
    assert_eq!(scene.isobar.count("/pools/rest/connections/total"), 0);
}

/// The one who is asked about is whom a header names, and what is told is what happens.
#[test]
fn explain_is_about_the_client_that_a_header_names() {
    let scene = Scene::set("deny = [\"203.0.113.0/24\"]\nmax_connections_per_ip = 1\n");
    let denied = scene.explained("203.0.113.9", "db.example.com");
    assert_eq!(denied["outcome"]["reason"], "denied", "{denied:#}");
    assert_eq!(denied["route"], Value::Null);
    let free = scene.explained("192.0.2.7", "db.example.com");
    assert_eq!((&free["route"], &free["pool"]), (&json!("1"), &json!("db")));
    assert_eq!(free["admission"]["active"], 0, "{free:#}");
    let elsewhere = scene.explained("192.0.3.7", "db.example.com");
    assert_eq!(elsewhere["pool"], "rest", "{elsewhere:#}");
    let notes = |answer: &Value| answer["notes"].to_string();
    assert!(
        notes(&free).contains("what becomes of a client that such a header names"),
        "{free:#}"
    );
    let proxy = scene.explained("127.0.0.1", "db.example.com");
    assert!(
        notes(&proxy).contains("must begin with a PROXY header"),
        "{proxy:#}"
    );
    let header = header(SendProxy::V2, "192.0.2.7:1", SERVICE);
    let client = scene.comes_to("db", &header, &wanting("db.example.com"));
    let full = scene.explained("192.0.2.7", "db.example.com");
    assert_eq!(full["outcome"]["reason"], "ip_limit", "{full:#}");
    assert_eq!(full["admission"]["active"], 1, "{full:#}");
    // The socket's own address is nobody's here.
    let own = scene.explained("127.0.0.1", "db.example.com");
    assert_eq!(own["admission"]["active"], 0, "{own:#}");
    leave(&client);
}

/// Whoever says where it is, socket or header: one place has one backend. Without a header
/// `explain` knows it; with one it may be any.
#[test]
fn a_destination_has_its_backend_whether_carried_or_connected_to() {
    let backends: Vec<_> = ["a", "b", "c", "d"].map(talking).into();
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let isobar = Isobar::start(&format!(
        "[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n{PROXIED}\
         [listener.plain]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\
         [pool.web]\nbalance = \"consistent-hash\"\nhash.key = \"destination-ip-port\"\n\
         backends = [{}]\nhealth.kind = \"none\"\n",
        entries.join(", ")
    ));
    let carried = |version, source: &str, destination: &str| {
        let client = isobar.connect("web");
        client.write(header(version, source, destination));
        let name = client.read_line();
        leave(&client);
        name
    };
    let mut homes = BTreeSet::new();
    for port in 1..=24 {
        let destination = format!("198.51.100.1:{port}");
        let home = carried(SendProxy::V1, "192.0.2.7:1", &destination);
        let other = carried(SendProxy::V2, "192.0.2.8:9", &destination);
        assert_eq!(other, home, "{destination}");
        homes.insert(home);
    }
    assert_eq!(homes.len(), 4, "{homes:?}");
    let (direct, home) = isobar.stay("plain");
    leave(&direct);
    let place = isobar.address("plain").to_string();
    assert_eq!(carried(SendProxy::V2, "192.0.2.7:1", &place), home);
    let ask = |listener: &str| {
        let path = format!("/explain?listener={listener}&client=192.0.2.7");
        isobar.get(&path).json()
    };
    let plain = ask("plain");
    assert_eq!(plain["outcome"]["backend"], home, "{plain:#}");
    assert!(plain["pools"][0]["key"]["hash"].is_string(), "{plain:#}");
    let web = ask("web");
    let pool = &web["pools"][0];
    assert_eq!(pool["key"]["hash"], Value::Null, "{web:#}");
    assert_eq!(pool["certain"], false, "{web:#}");
    assert!(
        web["notes"].to_string().contains("a PROXY header says"),
        "{web:#}"
    );
}

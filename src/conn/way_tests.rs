//! Which route takes whom, and whose ClientHello is read.

use super::*;
use crate::hello::Hello;
use crate::net::Address;

const POOLS: &str = "
[pool.web]
[pool.db]
[pool.hashed]
balance = \"consistent-hash\"
hash.key = \"sni\"
[pool.to_hashed]
fallback = \"hashed\"
";

/// The way of a listener with these keys and routes, and all pools, which know each other only as
/// long as they are.
fn way(listener: &str) -> (Way, Vec<Arc<Pool>>) {
    let text = format!("[listener.l]\nbind = \"127.0.0.1:1\"\n{listener}\n{POOLS}");
    let loaded = config::parse(&text, "lb.toml", &|_| None);
    let config = loaded.unwrap_or_else(|faults| panic!("{faults}")).config;
    let pools: Vec<_> = config
        .pools
        .iter()
        .map(|p| Pool::new(Arc::clone(p), 1))
        .collect();
    for (index, pool) in pools.iter().enumerate() {
        pool.wire(crate::pool::Wiring::of(&pools, &config.pools, index));
    }
    (Way::new(Arc::clone(&config.listeners[0]), &pools), pools)
}

fn client(ip: &str) -> Visitor {
    let ip = ip.parse::<IpAddr>().expect("an address");
    Visitor::at(Address::Ip((ip, 4711).into()))
}

fn asking(ip: &str, sni: Option<&str>, alpn: &[&str]) -> Visitor {
    Visitor {
        hello: Some(Box::new(Hello {
            sni: sni.map(Into::into),
            alpn: alpn.iter().map(|p| p.as_bytes().into()).collect(),
            early_data: false,
        })),
        ..client(ip)
    }
}

/// Route and pool.
fn routed(way: &Way, visitor: &Visitor) -> Option<(String, String)> {
    let Routed { route, pool } = way.route(visitor)?;
    Some((
        route.as_deref().unwrap_or("-").to_owned(),
        pool.name.to_string(),
    ))
}

fn is(route: &str, pool: &str) -> Option<(String, String)> {
    Some((route.to_owned(), pool.to_owned()))
}

#[test]
fn the_first_route_whose_conditions_all_hold_wins() {
    let (way, _pools) = way("pool = \"web\"
        [[listener.l.route]]
        sni = [\"db.example.com\", \"*.internal.example.com\"]
        client = [\"10.0.0.0/8\"]
        pool = \"db\"
        [[listener.l.route]]
        alpn = [\"h2\", \"h3\"]
        pool = \"hashed\"
        [[listener.l.route]]
        sni = [\"*.example.com\"]
        pool = \"db\"");
    for (visitor, expected) in [
        (
            asking("10.0.0.1", Some("db.example.com"), &["h2"]),
            is("1", "db"),
        ),
        (
            asking("::ffff:10.0.0.1", Some("a.b.internal.example.com"), &[]),
            is("1", "db"),
        ),
        (
            asking("11.0.0.1", Some("db.example.com"), &["http/1.1", "h3"]),
            is("2", "hashed"),
        ),
        (
            asking("11.0.0.1", Some("db.example.com"), &["http/1.1"]),
            is("3", "db"),
        ),
        (
            asking("10.0.0.1", Some("example.com"), &["H2"]),
            is("-", "web"),
        ),
        (asking("10.0.0.1", None, &["h2"]), is("2", "hashed")),
        (client("10.0.0.1"), is("-", "web")),
        (Visitor::at(Address::Unix("".into())), is("-", "web")),
    ] {
        assert_eq!(routed(&way, &visitor), expected, "{visitor:?}");
    }
}

#[test]
fn without_a_pool_who_matches_nothing_goes_nowhere() {
    let (way, _pools) = way("[[listener.l.route]]\nclient = [\"10.0.0.0/8\"]\npool = \"db\"");
    assert_eq!(routed(&way, &client("10.9.9.9")), is("1", "db"));
    assert_eq!(routed(&way, &client("11.9.9.9")), None);
}

#[test]
fn a_route_without_conditions_takes_everybody() {
    let (way, _pools) = way("[[listener.l.route]]\npool = \"db\"");
    assert_eq!(routed(&way, &client("10.9.9.9")), is("1", "db"));
    assert_eq!(
        routed(&way, &Visitor::at(Address::Unix("".into()))),
        is("1", "db")
    );
}

/// Only where a route may still decide by it, or a pool that this client may come to hashes it.
#[test]
fn a_hello_is_read_only_where_it_can_matter() {
    let by_client = "[[listener.l.route]]\nclient = [\"10.0.0.0/8\"]\npool = \"db\"\n";
    let by_name = "[[listener.l.route]]\nsni = [\"a\"]\npool = \"db\"\n";
    let by_both =
        "[[listener.l.route]]\nalpn = [\"a\"]\nclient = [\"10.0.0.0/8\"]\npool = \"db\"\n";
    for (listener, of_ten, of_eleven) in [
        ("pool = \"web\"".to_owned(), false, false),
        ("pool = \"hashed\"".to_owned(), true, true),
        ("pool = \"to_hashed\"".to_owned(), true, true),
        (format!("pool = \"web\"\n{by_client}"), false, false),
        (format!("pool = \"web\"\n{by_name}"), true, true),
        (format!("pool = \"web\"\n{by_client}{by_name}"), false, true),
        (format!("pool = \"web\"\n{by_both}"), true, false),
        (format!("pool = \"hashed\"\n{by_client}"), false, true),
        (format!("{by_both}{by_client}"), true, false),
        ("[[listener.l.route]]\npool = \"db\"\n[[listener.l.route]]\nsni = [\"a\"]\npool = \"db\"".to_owned(), false, false),
        ("[[listener.l.route]]\npool = \"hashed\"".to_owned(), true, true),
    ] {
        let (way, _pools) = way(&listener);
        let reads = |ip: &str| way.reads_hello(client(ip).ip());
        assert_eq!((reads("10.0.0.1"), reads("11.0.0.1")), (of_ten, of_eleven), "{listener}");
    }
}

//! The mapping of `consistent-hash` is the same on every machine and in every version.
//!
//! `golden/consistent_hash.txt` holds pools and, for keys, the first and the second choice. A
//! change that makes a line fail would move clients of everybody who upgrades: it is a breaking
//! change, not a reason to write the file anew.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use isobar::balance::consistent_hash::{
    identity, key_client_ip, key_client_ip_port, key_destination_ip_port, key_sni,
};
use isobar::balance::{Balancer, Members, Request};
use isobar::config::Balance;
use rand::SeedableRng;
use rand::rngs::StdRng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const GOLDEN: &str = include_str!("golden/consistent_hash.txt");

#[test]
fn every_key_goes_where_it_always_went() {
    let mut pool = Pool::new("");
    let mut checked = 0;
    for line in lines() {
        match line.split_once(' ').expect("two words") {
            ("pool", backends) => pool = Pool::new(backends),
            (key, expected) => {
                assert_eq!(pool.choices(key), expected, "{key} over {pool:?}");
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 360 + 80);
}

#[test]
fn the_order_of_backends_changes_nothing() {
    let mut pool = Pool::new("");
    for line in lines() {
        match line.split_once(' ').expect("two words") {
            ("pool", backends) => {
                let reversed: Vec<_> = backends.split(' ').rev().collect();
                pool = Pool::new(&reversed.join(" "));
            }
            (key, expected) => assert_eq!(pool.choices(key), expected, "{key}"),
        }
    }
}

/// The formula in floating point, by hashes over bytes that are put together here. Scores closer
/// than its rounding are the one thing that it may see differently.
#[test]
fn winners_are_those_of_the_formula() {
    let mut pool = Pool::new("");
    for line in lines() {
        match line.split_once(' ').expect("two words") {
            ("pool", backends) => pool = Pool::new(backends),
            (key, expected) => {
                let (winner, _) = expected.split_once(' ').expect("two choices");
                let highest = pool.scores(key).fold(0.0, f64::max);
                let score = pool.score(winner, key);
                assert!(score >= highest * (1.0 - 1e-12), "{key} over {pool:?}");
            }
        }
    }
}

#[test]
#[ignore = "writes the golden file anew, which is a breaking change"]
fn regenerate() {
    let pools = [
        "a=1 b=1 c=1",
        "10.0.0.11:5432=1 10.0.0.12:5432=1",
        "heavy=5 light=1 lighter=1",
        "one=1 ten=10 hundred=100 thousand=1000",
        "zürich=3 東京=2 naïve=1 [2001:db8::1]:443=2 unix:/run/b.sock=7",
        &numbered(40, |i| 1 + i % 4 * 333),
    ];
    let mut text = String::from(HEADER);
    for backends in pools {
        text += &format!("\npool {backends}\n");
        for key in keys() {
            text += &format!("{key} {}\n", Pool::new(backends).choices(&key));
        }
    }
    for backends in [pools[3], pools[4]] {
        text += &format!("\npool {backends}\n");
        for key in further_keys() {
            text += &format!("{key} {}\n", Pool::new(backends).choices(&key));
        }
    }
    std::fs::write("tests/golden/consistent_hash.txt", text).expect("the file is written");
}

const HEADER: &str = "\
# Where consistent-hash sends clients. A `pool` line lists backends as NAME=WEIGHT; each line below
# it is a client (IP: key client-ip, IP:PORT: key client-ip-port; sni:NAME and to:IP:PORT: keys sni and
# destination-ip-port), its backend, and the next one.
# Every version of isobar must agree with this file: it is never written anew.
";

/// 60 clients: IPv4, IPv6 and mapped addresses, with and without port.
fn keys() -> impl Iterator<Item = String> {
    let of = |i: u8| {
        let (high, low) = (i.wrapping_mul(37), i.wrapping_mul(101));
        [
            format!("10.{high}.{i}.{low}"),
            format!("192.0.2.{low}:{}", 1024 + u16::from(high) * 251),
            format!("2001:db8::{i:x}:{low:x}"),
            format!("[2001:db8:{high:x}::{low:x}]:{}", u16::from(i) + 65_000),
            format!("::ffff:172.16.{low}.{i}"),
            format!("[::ffff:198.51.100.{i}]:{}", u16::from(low) + 1),
        ]
    };
    (0..10).flat_map(of)
}

/// 40 names and destinations.
fn further_keys() -> impl Iterator<Item = String> {
    let of = |i: u8| {
        let (high, low) = (i.wrapping_mul(37), i.wrapping_mul(101));
        [
            format!("sni:host-{i}.example.com"),
            format!("sni:{low}._tcp.xn--{high:x}.internal"),
            format!("to:192.0.2.{low}:{}", 443 + u16::from(high) * 251),
            format!("to:[2001:db8:{high:x}::{low:x}]:{}", u16::from(i) + 65_000),
        ]
    };
    (0..10).flat_map(of)
}

fn numbered(n: u32, weight: impl Fn(u32) -> u32) -> String {
    let backend = |i| format!("backend-{i}={}", weight(i));
    (0..n).map(backend).collect::<Vec<_>>().join(" ")
}

fn lines() -> impl Iterator<Item = &'static str> {
    GOLDEN
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Backends of one `pool` line.
#[derive(Debug)]
struct Pool(Vec<Backend>);

#[derive(Debug)]
struct Backend {
    name: String,
    weight: u32,
    identity: u64,
    full: AtomicBool,
}

impl Pool {
    /// From `NAME=WEIGHT …`.
    fn new(backends: &str) -> Self {
        let backend = |text: &str| {
            let (name, weight) = text.rsplit_once('=').expect("a name and a weight");
            Backend {
                name: name.to_owned(),
                weight: weight.parse().expect("a weight"),
                identity: identity(name),
                full: AtomicBool::new(false),
            }
        };
        Self(backends.split_whitespace().map(backend).collect())
    }

    /// The names of the first and the second choice; each is full once it is chosen.
    fn choices(&self, client: &str) -> String {
        let key = key(client);
        let pick = |first| {
            let request = Request { key, first };
            let choice = Balancer::new(Balance::ConsistentHash).pick(
                self,
                request,
                &mut StdRng::seed_from_u64(0),
            );
            &*self.0[choice.expect("a backend has room").index].name
        };
        let choices = [pick(true), pick(false)].join(" ");
        for backend in &self.0 {
            backend.full.store(false, Relaxed);
        }
        choices
    }

    fn scores(&self, client: &str) -> impl Iterator<Item = f64> {
        self.0
            .iter()
            .map(move |backend| self.score(&backend.name, client))
    }

    /// weight / −log2(u) of the backend of that name.
    fn score(&self, name: &str, client: &str) -> f64 {
        let mut of_name = self.0.iter().filter(|backend| backend.name == name);
        let backend = of_name.next().expect("a backend of the pool");
        let hash = |bytes: &[u8]| xxh3_64_with_seed(bytes, 0x6973_6f62_6172_2031);
        let (name, key) = (hash(name.as_bytes()), hash(&key_bytes(client)));
        let u = hash(&[name.to_le_bytes(), key.to_le_bytes()].concat()) as f64 / 2f64.powi(64);
        f64::from(backend.weight) / -u.log2()
    }
}

/// The key of a client, by the form it is written in.
fn key(client: &str) -> u64 {
    if let Some(name) = client.strip_prefix("sni:") {
        return key_sni(name);
    }
    if let Some(destination) = client.strip_prefix("to:") {
        return key_destination_ip_port(destination.parse().expect("an address"));
    }
    match client.parse::<SocketAddr>() {
        Ok(client) => key_client_ip_port(client),
        Err(_) => key_client_ip(client.parse().expect("an address")),
    }
}

/// The bytes that are hashed for a client.
fn key_bytes(client: &str) -> Vec<u8> {
    let ip_bytes = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    if let Some(name) = client.strip_prefix("sni:") {
        return name.as_bytes().to_vec();
    }
    match client.trim_start_matches("to:").parse::<SocketAddr>() {
        Ok(client) => [ip_bytes(client.ip()), client.port().to_be_bytes().to_vec()].concat(),
        Err(_) => ip_bytes(client.parse().expect("an address")),
    }
}

impl Members for Pool {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn weight(&self, i: usize) -> u32 {
        self.0[i].weight
    }

    fn active(&self, _: usize) -> u32 {
        0
    }

    fn open(&self, i: usize) -> bool {
        !self.0[i].full.load(Relaxed)
    }

    fn identity(&self, i: usize) -> u64 {
        self.0[i].identity
    }

    fn latency(&self, _: usize) -> Option<f64> {
        None
    }

    fn reserve(&self, i: usize) -> bool {
        !self.0[i].full.swap(true, Relaxed)
    }
}

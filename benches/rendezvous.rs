//! What the hash itself costs: keys, identities, and the highest score, without the counters
//! and limits of a pool (`pick.rs` has those).
//!
//! With equal weights the higher hash wins and hardly a logarithm is taken; with different
//! ones scores must be compared.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use isobar::balance::consistent_hash::{identity, key_client_ip, key_client_ip_port};
use isobar::balance::{Balancer, Members, Request};
use isobar::config::Balance;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The same weights and keys in every run.
const SEED: u64 = 4711;

criterion_group!(
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .nresamples(10_000);
    targets = keys, highest
);
criterion_main!(benches);

fn keys(criterion: &mut Criterion) {
    let v4 = IpAddr::from(Ipv4Addr::new(10, 1, 2, 3));
    let v6 = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7));
    for (name, client) in [("v4", v4), ("v6", v6)] {
        criterion.bench_function(&format!("rendezvous_key_of_ip{name}_client"), |bencher| {
            bencher.iter(|| key_client_ip(black_box(client)));
        });
        criterion.bench_function(
            &format!("rendezvous_key_of_ip{name}_client_and_port"),
            |bencher| {
                bencher.iter(|| key_client_ip_port(black_box(SocketAddr::new(client, 40_000))))
            },
        );
    }
    criterion.bench_function("rendezvous_identity_of_backend", |bencher| {
        bencher.iter(|| identity(black_box("postgres-primary-0.db.internal:5432")));
    });
}

fn highest(criterion: &mut Criterion) {
    for len in [1, 10, 100, 1000] {
        let name = format!("rendezvous_highest_of_{len}_equal_weights");
        highest_of(criterion, &name, &Names::new(len, 1));
        let name = format!("rendezvous_highest_of_{len}_weights_1_to_10");
        highest_of(criterion, &name, &Names::new(len, 10));
    }
}

fn highest_of(criterion: &mut Criterion, name: &str, names: &Names) {
    let mut rng = StdRng::seed_from_u64(SEED);
    let balancer = Balancer::new(Balance::ConsistentHash);
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let request = Request {
                key: rng.random(),
                first: true,
            };
            balancer.pick(black_box(names), request, &mut rng)
        });
    });
}

/// Backends that are always open, and only named and weighted.
struct Names(Vec<(u64, u32)>);

impl Names {
    fn new(len: usize, max_weight: u32) -> Self {
        let mut rng = StdRng::seed_from_u64(SEED);
        let backend = |i| {
            let weight = rng.random_range(1..=max_weight);
            (identity(&format!("backend-{i}")), weight)
        };
        Self((0..len).map(backend).collect())
    }
}

impl Members for Names {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn weight(&self, i: usize) -> u32 {
        self.0[i].1
    }

    fn active(&self, _: usize) -> u32 {
        0
    }

    fn open(&self, _: usize) -> bool {
        true
    }

    fn identity(&self, i: usize) -> u64 {
        self.0[i].0
    }

    fn latency(&self, _: usize) -> Option<f64> {
        None
    }

    fn reserve(&self, _: usize) -> bool {
        true
    }
}

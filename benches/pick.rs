//! What one pick costs: choosing a backend, reserving its slot, giving it back.
//!
//! The members are as in a pool: counters of their own cache line, limits, different weights.
//! Limits to keep: 1 µs up to 100 backends, 5 µs at 1,000.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use crossbeam_utils::CachePadded;
use isobar::balance::consistent_hash::identity;
use isobar::balance::{Balancer, Members, Request};
use isobar::config::Balance;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const STRATEGIES: [Balance; 6] = [
    Balance::RoundRobin,
    Balance::LeastConnections,
    Balance::ConsistentHash,
    Balance::RandomTwo,
    Balance::LeastLatency,
    Balance::First,
];

/// The same pools and draws in every run.
const SEED: u64 = 4711;

criterion_group!(
    name = benches;
    // A second each and few resamples, so that all of them take half a minute.
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .nresamples(10_000);
    targets = pick, pick_without_samples
);
criterion_main!(benches);

fn pick(criterion: &mut Criterion) {
    for balance in STRATEGIES {
        for len in [1, 10, 100, 1000] {
            let strategy = balance.as_str().replace('-', "_");
            let pool = Pool::new(len);
            let name = format!("pick_{strategy}_{len}_backends");
            pick_of(criterion, &name, balance, &pool);
        }
    }
}

/// A member without a sample counts as the median of the others, which is looked for only
/// where it is drawn beside one that has a sample: rarely with one, every other time with half.
fn pick_without_samples(criterion: &mut Criterion) {
    for (unsampled, name) in [(1, "one"), (500, "half")] {
        let mut pool = Pool::new(1000);
        for backend in &mut pool.0[..unsampled] {
            backend.latency = None;
        }
        let name = format!("pick_least_latency_1000_backends_{name}_unsampled");
        pick_of(criterion, &name, Balance::LeastLatency, &pool);
    }
}

fn pick_of(criterion: &mut Criterion, name: &str, balance: Balance, pool: &Pool) {
    let mut rng = StdRng::seed_from_u64(SEED);
    let balancer = Balancer::new(balance);
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let request = Request {
                key: rng.random(),
                first: true,
            };
            let choice = balancer.pick(black_box(pool), request, &mut rng);
            pool.0[choice.expect("all are open").index].release();
        });
    });
}

struct Pool(Vec<CachePadded<Backend>>);

struct Backend {
    active: AtomicU32,
    limit: u32,
    weight: u32,
    identity: u64,
    latency: Option<f64>,
}

impl Pool {
    /// Backends with up to 20 connections each and weights of 1 to 10.
    fn new(len: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(SEED);
        let backend = |i| Backend {
            active: AtomicU32::new(rng.random_range(0..20)),
            limit: 1000,
            weight: rng.random_range(1..=10),
            identity: identity(&format!("backend-{i}")),
            latency: Some(rng.random_range(0.001..0.1)),
        };
        Self((0..len).map(backend).map(CachePadded::new).collect())
    }
}

impl Backend {
    fn release(&self) {
        self.active.fetch_sub(1, Relaxed);
    }
}

impl Members for Pool {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn weight(&self, i: usize) -> u32 {
        self.0[i].weight
    }

    fn active(&self, i: usize) -> u32 {
        self.0[i].active.load(Relaxed)
    }

    fn open(&self, i: usize) -> bool {
        self.active(i) < self.0[i].limit
    }

    fn identity(&self, i: usize) -> u64 {
        self.0[i].identity
    }

    fn latency(&self, i: usize) -> Option<f64> {
        self.0[i].latency
    }

    fn reserve(&self, i: usize) -> bool {
        let below_limit = |active| (active < self.0[i].limit).then_some(active + 1);
        self.0[i]
            .active
            .try_update(Relaxed, Relaxed, below_limit)
            .is_ok()
    }
}

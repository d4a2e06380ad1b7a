//! What one pick costs: choosing a backend, reserving its slot, giving it back.
//!
//! The members are as in a pool: counters of their own cache line, limits, different weights.
//! Limits to keep: 1 µs up to 100 backends, 5 µs at 1,000.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

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

criterion_group!(benches, pick);
criterion_main!(benches);

fn pick(criterion: &mut Criterion) {
    for balance in STRATEGIES {
        for len in [1, 10, 100, 1000] {
            let strategy = balance.as_str().replace('-', "_");
            pick_of(
                criterion,
                &format!("pick_{strategy}_{len}_backends"),
                balance,
                len,
            );
        }
    }
}

fn pick_of(criterion: &mut Criterion, name: &str, balance: Balance, len: usize) {
    let mut rng = StdRng::seed_from_u64(SEED);
    let pool = Pool::new(len, &mut rng);
    let balancer = Balancer::new(balance);
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let request = Request {
                key: rng.random(),
                first: true,
            };
            let choice = balancer.pick(black_box(&pool), request, &mut rng);
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
    latency: f64,
}

impl Pool {
    /// Backends with up to 20 connections each and weights of 1 to 10.
    fn new(len: usize, rng: &mut StdRng) -> Self {
        let backend = |i| Backend {
            active: AtomicU32::new(rng.random_range(0..20)),
            limit: 1000,
            weight: rng.random_range(1..=10),
            identity: identity(&format!("backend-{i}")),
            latency: rng.random_range(0.001..0.1),
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
        Some(self.0[i].latency)
    }

    fn reserve(&self, i: usize) -> bool {
        let below_limit = |active| (active < self.0[i].limit).then_some(active + 1);
        self.0[i]
            .active
            .try_update(Relaxed, Relaxed, below_limit)
            .is_ok()
    }
}

//! A pool that counts, for the tests of the strategies.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::config::Balance;

use super::{Balancer, Choice, Members, Request, consistent_hash};

/// Members with counters, limits and faults.
#[derive(Debug)]
pub(super) struct Pool(Vec<Member>);

#[derive(Debug)]
struct Member {
    weight: u32,
    identity: u64,
    latency: Option<f64>,
    active: AtomicU32,
    limit: AtomicU32,
    closed: AtomicBool,
    /// Open until somebody wants the slot.
    lost: AtomicBool,
}

impl Pool {
    /// Idle, open members of these weights, with no limit.
    pub(super) fn weighted(weights: &[u32]) -> Self {
        let member = |(i, &weight): (usize, &u32)| Member {
            weight,
            identity: consistent_hash::identity(&format!("b{i}")),
            latency: None,
            active: AtomicU32::new(0),
            limit: AtomicU32::new(u32::MAX),
            closed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        };
        Self(weights.iter().enumerate().map(member).collect())
    }

    pub(super) fn named<'a>(mut self, names: impl Iterator<Item = &'a str>) -> Self {
        for (member, name) in self.0.iter_mut().zip(names) {
            member.identity = consistent_hash::identity(name);
        }
        self
    }

    pub(super) fn latencies(mut self, latencies: &[Option<f64>]) -> Self {
        for (member, latency) in self.0.iter_mut().zip(latencies) {
            member.latency = *latency;
        }
        self
    }

    pub(super) fn close(&self, i: usize) {
        self.0[i].closed.store(true, SeqCst);
    }

    pub(super) fn open(&self, i: usize) {
        self.0[i].closed.store(false, SeqCst);
    }

    pub(super) fn limit(&self, i: usize, connections: u32) {
        self.0[i].limit.store(connections, SeqCst);
    }

    /// The next pick of member `i` finds that it closed meanwhile.
    pub(super) fn lose(&self, i: usize) {
        self.0[i].lost.store(true, SeqCst);
    }

    pub(super) fn release(&self, i: usize) {
        self.0[i].active.fetch_sub(1, SeqCst);
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
        self.0[i].active.load(SeqCst)
    }

    fn open(&self, i: usize) -> bool {
        !self.0[i].closed.load(SeqCst) && self.active(i) < self.0[i].limit.load(SeqCst)
    }

    fn identity(&self, i: usize) -> u64 {
        self.0[i].identity
    }

    fn latency(&self, i: usize) -> Option<f64> {
        self.0[i].latency
    }

    fn reserve(&self, i: usize) -> bool {
        if self.0[i].lost.load(SeqCst) {
            self.close(i);
        }
        let below_limit = |active: u32| Members::open(self, i).then_some(active + 1);
        self.0[i]
            .active
            .fetch_update(SeqCst, SeqCst, below_limit)
            .is_ok()
    }
}

/// Gives member `i` so many connections.
pub(super) fn hold(pool: &Pool, i: usize, connections: u32) {
    pool.0[i].active.fetch_add(connections, SeqCst);
}

/// First picks of one new balancer whose connections all stay.
pub(super) fn picks(balance: Balance, pool: &Pool, n: u64) -> Vec<Choice> {
    let (balancer, mut rng) = (Balancer::new(balance), StdRng::seed_from_u64(7));
    let first = |key| Request { key, first: true };
    (0..n)
        .filter_map(|key| balancer.pick(pool, first(key), &mut rng))
        .collect()
}

/// First picks of one new balancer whose connections end before the next begins.
pub(super) fn released(balance: Balance, pool: &Pool, n: u64) -> Vec<Choice> {
    released_by(&Balancer::new(balance), pool, n)
}

/// The same of a balancer that has a past.
pub(super) fn released_by(balancer: &Balancer, pool: &Pool, n: u64) -> Vec<Choice> {
    let mut rng = StdRng::seed_from_u64(7);
    let first = |key| Request { key, first: true };
    (0..n)
        .filter_map(|key| balancer.pick(pool, first(key), &mut rng))
        .inspect(|choice| pool.release(choice.index))
        .collect()
}

/// How often each member was chosen.
pub(super) fn counts(pool: &Pool, choices: &[Choice]) -> Vec<u32> {
    let mut counts = vec![0; pool.len()];
    for choice in choices {
        counts[choice.index] += 1;
    }
    counts
}

//! Which backend a connection gets. Pure: no socket, clock, thread or unseeded randomness.
//!
//! A strategy chooses among [`Members`]: those backends of a pool, in file order, that health
//! and operators let it choose from. Primaries and backups are two sets, each with a
//! [`Balancer`] of its own; the pool asks about the backups only when no primary is open. The
//! strategy's last step is to *reserve* the chosen slot, so that choosing and counting are one
//! step for everybody else.
//!
//! # What is locked, and why
//! All data threads share one [`Balancer`]. `consistent-hash` without `max_load`, `random-two`,
//! `least-latency` and `first` keep nothing between two picks and take no lock: where somebody else took the last
//! slot in between, [`reserve`](Members::reserve) says so and they choose again. `round-robin`
//! and `least-connections` keep a sequence, and promise exact shares over the whole process.
//! They, and `consistent-hash` with `max_load`, which bounds what a pick may do by the counts of
//! all, hold a mutex from reading the counts to the reservation, and nothing longer: no system
//! call, no await, a few microseconds at a thousand members. So of 100 simultaneous picks
//! each of four idle backends gets 25, which per-thread sequences would not give.
//!
//! # Bounds
//! One choice is O(n). A pick chooses at most n times, again only after a slot was lost to
//! somebody else, so it ends even while others keep taking the slot that it is after.

mod draw;
mod explain;
mod first;
mod least_connections;
mod least_latency;
mod load;
mod neg_log2;
mod peak_ewma;
mod random_two;
mod round_robin;
mod smooth;

pub mod consistent_hash;
pub mod evening;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::config::{self, Balance};

pub use explain::{Score, Standing, Still};
pub use peak_ewma::PeakEwma;

/// What a strategy may know of, and do to, the backends it chooses among.
///
/// `i` is always below [`len`](Self::len).
pub trait Members {
    /// How many there are.
    fn len(&self) -> usize;
    /// Share of member `i`, at least 1.
    fn weight(&self, i: usize) -> u32;
    /// Connections that member `i` has now, those still connecting included.
    fn active(&self, i: usize) -> u32;
    /// Whether member `i` may get this connection: below its limits, not tried before.
    fn open(&self, i: usize) -> bool;
    /// Hash of the identity of member `i`.
    fn identity(&self, i: usize) -> u64;
    /// Peak-sensitive moving average of the latency of member `i` in seconds, as of now;
    /// `None`: no sample yet.
    fn latency(&self, i: usize) -> Option<f64>;
    /// Takes a slot of member `i`; false where it is not [`open`](Self::open) any more.
    fn reserve(&self, i: usize) -> bool;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Hash of the connection's key, see `pool.NAME.hash.key`.
    pub key: u64,
    /// The connection's first pick; a later one must not move the sequence of first picks on.
    pub first: bool,
}

/// What was chosen, its slot reserved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The member's index.
    pub index: usize,
    /// Why this one.
    pub why: Why,
}

/// Why a member was chosen; written as the log's `pick` word.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Why {
    /// Its turn.
    RoundRobin,
    /// Fewest connections for its weight: its own count, and that of the next best one.
    Least {
        /// Of the chosen, before this connection.
        active: u32,
        /// Of the next best, if there was another.
        next: Option<u32>,
    },
    /// Highest score for the key.
    Hash,
    /// The less loaded of two drawn.
    Two {
        /// Of the chosen, before this connection.
        active: u32,
        /// Of the other one, if there was one.
        other: Option<u32>,
    },
    /// The faster of two drawn.
    Latency,
    /// First in file order with room.
    First,
}

/// A strategy with what it remembers; one for each set of members, shared by all threads.
///
/// It remembers members by index: where the members or their weights change, a new one is made,
/// and with it a sequence starts anew.
#[derive(Debug)]
pub enum Balancer {
    /// `round-robin`.
    RoundRobin(round_robin::RoundRobin),
    /// `least-connections`.
    LeastConnections(least_connections::LeastConnections),
    /// `consistent-hash`.
    ConsistentHash(consistent_hash::ConsistentHash),
    /// `random-two`.
    RandomTwo,
    /// `least-latency`.
    LeastLatency,
    /// `first`.
    First,
}

impl Balancer {
    /// The strategy of that name, at the start of its sequence.
    pub fn new(balance: Balance) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(Default::default()),
            Balance::LeastConnections => Self::LeastConnections(Default::default()),
            Balance::ConsistentHash => Self::ConsistentHash(Default::default()),
            Balance::RandomTwo => Self::RandomTwo,
            Balance::LeastLatency => Self::LeastLatency,
            Balance::First => Self::First,
        }
    }

    /// The strategy of a pool, at the start of its sequence.
    pub fn of(pool: &config::Pool) -> Self {
        match pool.balance {
            Balance::ConsistentHash => {
                Self::ConsistentHash(consistent_hash::ConsistentHash::bounded(pool.hash.max_load))
            }
            balance => Self::new(balance),
        }
    }

    /// Whether two pools have the same strategy, with the same settings.
    pub fn is_same(one: &config::Pool, other: &config::Pool) -> bool {
        let hashes = one.balance == Balance::ConsistentHash;
        one.balance == other.balance && (!hashes || one.hash.max_load == other.hash.max_load)
    }

    /// Chooses an open member and reserves its slot; `None` where none is open.
    ///
    /// `rng` is used by `random-two` and `least-latency` alone.
    pub fn pick(
        &self,
        members: &impl Members,
        request: Request,
        rng: &mut impl Rng,
    ) -> Option<Choice> {
        match self {
            Self::RoundRobin(strategy) => strategy.pick(members, request),
            Self::LeastConnections(strategy) => strategy.pick(members, request),
            Self::ConsistentHash(strategy) => strategy.pick(members, request),
            Self::RandomTwo => random_two::pick(members, rng),
            Self::LeastLatency => least_latency::pick(members, rng),
            Self::First => first::pick(members),
        }
    }

    /// A copy that goes on from here by itself; what it picks does not move this one's sequence.
    pub fn fork(&self) -> Self {
        match self {
            Self::RoundRobin(strategy) => Self::RoundRobin(strategy.fork()),
            Self::LeastConnections(strategy) => Self::LeastConnections(strategy.fork()),
            Self::ConsistentHash(strategy) => Self::ConsistentHash(strategy.fork()),
            Self::RandomTwo => Self::RandomTwo,
            Self::LeastLatency => Self::LeastLatency,
            Self::First => Self::First,
        }
    }
}

/// The weight of member `i` where it may be chosen, else 0.
///
/// A weight of 0 never comes this far; where it does, it is like not open.
fn share(members: &impl Members, i: usize) -> u32 {
    if members.open(i) {
        members.weight(i)
    } else {
        0
    }
}

/// The first choice whose slot could be taken; as many choices as there are members.
fn reserve_chosen(
    members: &impl Members,
    choose: impl FnMut() -> Option<Choice>,
) -> Option<Choice> {
    std::iter::repeat_with(choose)
        .take(members.len())
        .map_while(|choice| choice)
        .find(|choice| members.reserve(choice.index))
}

/// Locks, also after a thread panicked with the lock held: a sequence is valid at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

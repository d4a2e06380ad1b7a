//! The table of the addresses that come to a listener.
//!
//! Divided by a hash with a secret of its own, so that cores seldom meet at one lock and no
//! client can choose where it goes. A lock is held for a few memory accesses and for no system
//! call. (The lock of the listener's own rate is taken within it, never the other way round.)

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_utils::CachePadded;

use super::bucket::{Pace, since};
use super::shard::{Key, Known, Over, Shard};
use crate::net::Cidr;

/// Enough that a hundred cores seldom meet.
const SHARDS: usize = 64;

/// Addresses that each of them remembers. A million in all divide so unevenly that one of 64 has
/// more than this once in ten million tables: they are all remembered.
const CAPACITY: usize = 16_384;

/// See the module.
#[derive(Debug)]
pub(super) struct Sources {
    start: Instant,
    hasher: RandomState,
    shards: Box<[CachePadded<Mutex<Shard>>]>,
}

impl Sources {
    pub(super) fn new(pace: Option<Pace>) -> Arc<Self> {
        Self::with(pace, SHARDS, CAPACITY)
    }

    fn with(pace: Option<Pace>, shards: usize, capacity: usize) -> Arc<Self> {
        let shard = |_| CachePadded::new(Mutex::new(Shard::new(pace, capacity)));
        Arc::new(Self {
            start: Instant::now(),
            hasher: RandomState::new(),
            shards: (0..shards).map(shard).collect(),
        })
    }

    /// Another rate of each address.
    pub(super) fn set_pace(&self, pace: Option<Pace>, now: Instant) {
        let now = since(self.start, now);
        for index in 0..self.shards.len() {
            self.shard(index).set_pace(pace, now);
        }
    }

    /// Lets one more connection of an address in, see [`Shard::admit`]. It counts as long as the
    /// place that is given.
    pub(super) fn admit(
        self: &Arc<Self>,
        ip: IpAddr,
        limit: u32,
        now: Instant,
        others: impl FnOnce() -> bool,
    ) -> Result<Option<Place>, Over> {
        let (key, shard, hash) = self.whereabouts(ip);
        let now = since(self.start, now);
        let entry = self.shard(shard).admit((key, hash), limit, now, others)?;
        Ok(entry.map(|entry| self.place(shard, entry)))
    }

    /// Counts a connection that is there already.
    pub(super) fn count(self: &Arc<Self>, ip: IpAddr, now: Instant) -> Place {
        let (key, shard, hash) = self.whereabouts(ip);
        let now = since(self.start, now);
        let entry = self.shard(shard).count((key, hash), now);
        self.place(shard, entry)
    }

    /// What is known of an address, and the rate; nothing is changed by asking.
    pub(super) fn known(&self, ip: IpAddr, now: Instant) -> (Known, Option<Pace>) {
        let (key, shard, hash) = self.whereabouts(ip);
        let shard = self.shard(shard);
        (shard.known(key, hash, since(self.start, now)), shard.pace())
    }

    fn place(self: &Arc<Self>, shard: usize, entry: u32) -> Place {
        Place {
            sources: Arc::clone(self),
            shard: shard as u32,
            entry,
        }
    }

    fn whereabouts(&self, ip: IpAddr) -> (Key, usize, u32) {
        let key = key(ip);
        let hash = self.hasher.hash_one(key);
        let shard = (hash >> 32) as usize % self.shards.len();
        (key, shard, hash as u32)
    }

    fn shard(&self, index: usize) -> MutexGuard<'_, Shard> {
        let shard = self.shards[index].lock();
        shard.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts towards the limit of its address, until it is dropped.
#[derive(Debug)]
pub struct Place {
    sources: Arc<Sources>,
    shard: u32,
    entry: u32,
}

impl Place {
    /// Whether it counts in this table.
    pub(super) fn is_in(&self, sources: &Arc<Sources>) -> bool {
        Arc::ptr_eq(&self.sources, sources)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sources.shard(self.shard as usize).leave(self.entry);
    }
}

/// An IPv6 client has a /64 at least, of which it may use another address each time.
const V6_PREFIX: u8 = 64;

/// The addresses that are limited as one with this.
pub(super) fn network(ip: IpAddr) -> Cidr {
    match ip {
        IpAddr::V4(_) => Some(Cidr::of(ip)),
        IpAddr::V6(_) => Cidr::new(ip, V6_PREFIX),
    }
    .unwrap_or_else(|| Cidr::of(ip))
}

fn key(ip: IpAddr) -> Key {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Key {
            bits: ip.to_bits().into(),
            v4: true,
        },
        IpAddr::V6(ip) => Key {
            bits: (ip.to_bits() >> (128 - V6_PREFIX)) as u64,
            v4: false,
        },
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;

//! What is counted while connections are replayed.

use super::recording::Recording;
use super::replay::Replay;
use super::{Spot, world};
use crate::config::Config;

/// Of all pools, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) pools: Vec<PoolTally>,
}

/// Of one pool. Times are in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PoolTally {
    /// Connections that were routed there.
    pub(super) arrived: u64,
    /// Of those, how many got a backend of another pool.
    pub(super) moved: u64,
    /// Of those, how many were held, whatever came of it.
    pub(super) held: u64,
    /// Most that were held at once.
    pub(super) held_peak: usize,
    /// The longest that one was held.
    pub(super) longest: u64,
    /// The sum of what all were held.
    pub(super) waited: u64,
    /// Reset because the pool holds nobody.
    pub(super) not_held: u64,
    /// Reset because the hold queue was full.
    pub(super) hold_full: u64,
    /// Reset because they had been held for too long.
    pub(super) hold_timeout: u64,
    /// Held still when everything else was over.
    pub(super) stuck: u64,
    /// In the order of the file.
    pub(super) backends: Vec<BackendTally>,
}

/// Of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BackendTally {
    /// Connections that it got.
    pub(super) connections: u64,
    /// Most that it had at once.
    pub(super) peak: u32,
}

impl Tally {
    /// Nothing yet.
    pub(super) fn new(config: &Config) -> Self {
        let pool = |backends: usize| PoolTally {
            backends: vec![BackendTally::default(); backends],
            ..PoolTally::default()
        };
        let pools = config.pools.iter();
        Self {
            pools: pools.map(|own| pool(own.backends.len())).collect(),
        }
    }
}

impl PoolTally {
    /// Connections that its backends got, those of other pools included.
    pub(super) fn served(&self) -> u64 {
        self.backends.iter().map(|of| of.connections).sum()
    }

    /// One was held for so long.
    pub(super) fn was_held(&mut self, time: u64) {
        self.longest = self.longest.max(time);
        self.waited += time;
    }
}

/// What becomes of all connections.
pub(super) fn of_all(config: &Config, recording: &Recording, lost: &[Spot], seed: u64) -> Tally {
    let mut tally = Tally::new(config);
    for group in &recording.groups {
        let world = world::World::new(config, &group.pools, lost, seed);
        Replay::new(
            config,
            &world,
            &group.arrivals,
            recording.names(),
            &mut tally,
        )
        .run(&mut |_, _| ());
    }
    tally
}

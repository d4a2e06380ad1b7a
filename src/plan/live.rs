//! What of the running balancer a plan is made for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::pool::State;

/// The running balancer at one instant. What is not in it has no connections and is up.
#[derive(Clone, Debug)]
pub struct LiveView {
    /// That instant.
    pub at: SystemTime,
    /// Connections of each listener, by its name.
    pub listeners: HashMap<Arc<str>, u64>,
    /// By their names.
    pub pools: HashMap<Arc<str>, LivePool>,
}

/// A running pool.
#[derive(Clone, Debug, Default)]
pub struct LivePool {
    /// Clients that wait for a backend.
    pub held: u64,
    /// How long connections of a removed backend may go on; 0: until they end.
    pub drain_timeout: Duration,
    /// By their names.
    pub backends: HashMap<Arc<str>, LiveBackend>,
}

/// A running backend.
#[derive(Clone, Copy, Debug)]
pub struct LiveBackend {
    /// Its connections.
    pub active: u64,
    /// What it is, all in all.
    pub state: State,
}

impl LiveView {
    pub(super) fn pool(&self, pool: &str) -> LivePool {
        self.pools.get(pool).cloned().unwrap_or_default()
    }
}

impl LivePool {
    pub(super) fn active(&self) -> u64 {
        self.backends.values().map(|backend| backend.active).sum()
    }

    pub(super) fn backend(&self, backend: &str) -> LiveBackend {
        let unknown = LiveBackend {
            active: 0,
            state: State::Up,
        };
        self.backends.get(backend).copied().unwrap_or(unknown)
    }
}

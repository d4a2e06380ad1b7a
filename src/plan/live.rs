//! What of the running balancer a plan is made for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config;
use crate::pool::names::entry_of;
use crate::pool::overrides::Overrides;
use crate::pool::{Names, State};

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
    /// What is known of its names.
    pub names: Names,
    /// Its runtime changes, for the weights of single addresses of names.
    pub overrides: Overrides,
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

    /// Connections of a backend, or of all addresses of a name.
    pub(super) fn active_of(&self, backend: &str) -> u64 {
        let of = |name: &str| name == backend || entry_of(name) == Some(backend);
        let all = self.backends.iter().filter(|(name, _)| of(name));
        all.map(|(_, backend)| backend.active).sum()
    }

    /// The backends of a pool, each name as the addresses that are known of it.
    pub(super) fn rows(&self, pool: &config::Pool) -> Vec<config::Backend> {
        let rows = self.names.rows(pool, &self.overrides).into_iter();
        rows.map(|row| row.settings).collect()
    }
}

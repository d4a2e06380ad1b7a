//! What the admin endpoint shows: the parts of the running balancer, all shared and all
//! readable without holding anything up.
//!
//! What a reload may replace is one value, [`Configured`]: whoever answers takes it once, and so
//! never sees half of a reload.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::orders::Orders;
use super::series::Recorder;
use super::upgrade::Upgrading;
use crate::config;
use crate::conn::CoreHandle;
use crate::listener::accept::Admission;
use crate::listener::{Door, Listener, Listening};
use crate::log;
use crate::metrics::{ListenerCounters, PerCore, Process};
use crate::net::Address;
use crate::pool::Pool;
use crate::pool::overrides::Overrides;

/// The running balancer.
#[derive(Debug)]
pub struct Running {
    /// The file that the configuration is read from.
    pub path: PathBuf,
    /// When the process started.
    pub started: Instant,
    /// The same by the wall clock.
    pub started_at: SystemTime,
    /// Counts of the process.
    pub process: Arc<Process>,
    /// The limit of the process.
    pub admission: Arc<Admission>,
    /// One for each data core.
    pub cores: Vec<CoreHandle>,
    /// Where lines go.
    pub log: log::Handle,
    /// The last fifteen minutes.
    pub series: Recorder,
    /// Where reloads are asked for.
    pub orders: Orders,
    /// Where upgrades are asked for, and what is known of them.
    pub upgrading: Upgrading,
    /// What changes.
    pub current: Current,
}

/// What a reload replaces, as one value.
#[derive(Clone, Debug)]
pub struct Configured {
    /// The configuration in force.
    pub file: Arc<config::Loaded>,
    /// How many configurations have been applied since the start; the first counts.
    pub generation: u64,
    /// When this one was.
    pub loaded_at: SystemTime,
    /// In file order.
    pub listeners: Vec<Listening>,
    /// In file order.
    pub pools: Vec<Arc<Pool>>,
    /// What the file has no more and has connections left.
    pub leaving: Leaving,
    /// Where the admin endpoint itself listens.
    pub admin_address: Option<Address>,
}

/// What goes on until its last connection ends.
#[derive(Clone, Debug, Default)]
pub struct Leaving {
    /// Closed listeners.
    pub listeners: Vec<Arc<Listener>>,
    /// Pools that nobody is sent to any more.
    pub pools: Vec<Arc<Pool>>,
}

impl Leaving {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.pools.is_empty()
    }
}

/// What came of the last load of the file, the one of the start included.
#[derive(Clone, Debug)]
pub struct LastReload {
    /// When.
    pub at: SystemTime,
    /// Why it was refused; `None`: it was not.
    pub error: Option<String>,
    /// Keys whose values take effect with the next start alone.
    pub pending_restart: Vec<String>,
    /// When one was not refused.
    pub succeeded_at: SystemTime,
}

/// What changes of a [`Running`].
#[derive(Debug)]
pub struct Current {
    configured: ArcSwap<Configured>,
    last_reload: ArcSwap<LastReload>,
    /// Moves on with every new configuration.
    revision: watch::Sender<()>,
    phase: AtomicU8,
    /// Every backend of the start had its first check result. Stays true.
    checked: AtomicBool,
}

/// How far the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It serves.
    Serving,
    /// It was told to stop; its listeners may still be open.
    Stopping,
    /// Another process serves in its place; connections are left.
    Replaced,
}

impl Current {
    /// Of a balancer that serves from now on.
    pub fn new(configured: Configured) -> Self {
        let at = configured.loaded_at;
        Self {
            configured: ArcSwap::from_pointee(configured),
            last_reload: ArcSwap::from_pointee(LastReload {
                at,
                error: None,
                pending_restart: Vec::new(),
                succeeded_at: at,
            }),
            revision: watch::Sender::new(()),
            phase: AtomicU8::new(Phase::Serving as u8),
            checked: AtomicBool::new(false),
        }
    }
}

impl Running {
    /// The configuration in force, and what was made of it.
    pub fn configured(&self) -> Arc<Configured> {
        self.current.configured.load_full()
    }

    /// Puts another one in its place.
    pub fn configure(&self, configured: Configured) {
        self.current.configured.store(Arc::new(configured));
        self.current.revision.send_replace(());
    }

    /// Sees every new configuration.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.current.revision.subscribe()
    }

    /// What came of the last load of the file.
    pub fn last_reload(&self) -> Arc<LastReload> {
        self.current.last_reload.load_full()
    }

    /// Notes what came of a load: the keys that wait for a restart, or why it was refused.
    pub fn note_reload(&self, outcome: Result<Vec<String>, String>) {
        let at = SystemTime::now();
        let before = self.last_reload();
        self.current.last_reload.store(Arc::new(match outcome {
            Ok(pending_restart) => LastReload {
                at,
                error: None,
                pending_restart,
                succeeded_at: at,
            },
            // What waited for a restart goes on to wait.
            Err(error) => LastReload {
                at,
                error: Some(error),
                ..LastReload::clone(&before)
            },
        }));
    }

    /// How far the process has come.
    pub fn phase(&self) -> Phase {
        match self.current.phase.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Stopping,
            _ => Phase::Replaced,
        }
    }

    /// Another process serves in the place of this one. A stop that has begun goes on.
    pub fn leave(&self) {
        let (from, to) = (Phase::Serving as u8, Phase::Replaced as u8);
        let phase = &self.current.phase;
        let _ = phase.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A stop has begun: the process is not ready any more, and nobody is sent to redial.
    pub fn begin_stop(&self) {
        let phase = Phase::Stopping as u8;
        self.current.phase.store(phase, Ordering::Relaxed);
        for pool in self.configured().every_pool() {
            pool.stop_rebalance();
        }
    }

    /// Why the process is not ready, one sentence each; none: it is.
    ///
    /// Once every backend had a first check result, no later one is waited for.
    pub fn unready(&self) -> Vec<String> {
        match self.phase() {
            Phase::Serving => {}
            Phase::Stopping => return vec!["isobar is stopping".to_owned()],
            Phase::Replaced => return vec!["another process has taken the place".to_owned()],
        }
        if self.current.checked.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let configured = self.configured();
        let waiting: Vec<_> = configured.pools.iter().filter_map(|p| waiting(p)).collect();
        self.current
            .checked
            .store(waiting.is_empty(), Ordering::Relaxed);
        waiting
    }

    /// The listener of that name.
    pub fn listener(&self, name: &str) -> Option<Listening> {
        let configured = self.configured();
        let mut all = configured.listeners.iter();
        let found = all.find(|listening| *listening.listener.settings.name == *name);
        found.cloned()
    }

    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<Arc<Pool>> {
        self.configured().pool(name).cloned()
    }
}

impl Configured {
    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| *pool.name == *name)
    }

    /// Every pool: those of the file, then those that have connections left and no namesake.
    pub fn every_pool(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let leaving = self.leaving.pools.iter();
        self.pools.iter().chain(leaving)
    }

    /// Every listener, likewise.
    pub fn every_listener(&self) -> impl Iterator<Item = &Arc<Listener>> {
        let open = self.listeners.iter().map(|listening| &listening.listener);
        open.chain(&self.leaving.listeners)
    }

    /// Every listening socket.
    pub fn doors(&self) -> Vec<Arc<Door>> {
        let doors = self.listeners.iter().flat_map(|listening| &listening.doors);
        doors.cloned().collect()
    }

    /// The listener whose counts are these, under whatever name.
    pub fn listener_that_counts(
        &self,
        counters: &Arc<PerCore<ListenerCounters>>,
    ) -> Option<&Arc<Listener>> {
        let mut all = self.every_listener();
        all.find(|listener| Arc::ptr_eq(&listener.origin.counters, counters))
    }

    /// The runtime changes of all pools, oldest first.
    pub fn overrides(&self) -> Overrides {
        Overrides::joined(self.pools.iter().map(|pool| pool.overrides()))
    }

    /// Connections that there are now.
    pub fn active(&self) -> u64 {
        let listeners = self.every_listener();
        listeners
            .map(|listener| listener.origin.counters.active())
            .sum()
    }
}

/// Which backends of `pool` wait for their first check result.
fn waiting(pool: &Pool) -> Option<String> {
    let unchecked = pool.unchecked();
    if unchecked.is_empty() {
        return None;
    }
    let (pool, names) = (&pool.name, unchecked.join(", "));
    Some(format!("pool {pool}: no check result yet of {names}"))
}

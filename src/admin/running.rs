//! What the admin endpoint shows: the parts of the running balancer, all shared and all
//! readable without holding anything up.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};

use super::upgrade::{NotUpgraded, UpgradeRequest, Upgraded};
use crate::config;
use crate::conn::CoreHandle;
use crate::listener::Listener;
use crate::listener::accept::Admission;
use crate::log;
use crate::metrics::Process;
use crate::net::Address;
use crate::pool::Pool;

/// The running balancer.
#[derive(Debug)]
pub struct Running {
    /// The configuration in force, with where it came from.
    pub config: Arc<config::Loaded>,
    /// The file that it was read from.
    pub path: PathBuf,
    /// When it was loaded.
    pub loaded_at: SystemTime,
    /// When the process started.
    pub started: Instant,
    /// The same by the wall clock.
    pub started_at: SystemTime,
    /// In file order.
    pub listeners: Vec<Arc<Listener>>,
    /// In file order.
    pub pools: Vec<Arc<Pool>>,
    /// Counts of the process.
    pub process: Arc<Process>,
    /// The limit of the process.
    pub admission: Arc<Admission>,
    /// One for each data core.
    pub cores: Vec<CoreHandle>,
    /// Where the admin endpoint itself listens.
    pub admin_address: Option<Address>,
    /// Where lines go.
    pub log: log::Handle,
    upgrades: mpsc::UnboundedSender<UpgradeRequest>,
    /// An upgrade is in progress: whatever is changed now might be lost.
    upgrading: AtomicBool,
    elder: Mutex<Option<Elder>>,
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
}

/// The parts of a [`Running`].
#[derive(Debug)]
pub struct Parts {
    /// See [`Running::config`].
    pub config: Arc<config::Loaded>,
    /// See [`Running::path`].
    pub path: PathBuf,
    /// See [`Running::listeners`].
    pub listeners: Vec<Arc<Listener>>,
    /// See [`Running::pools`].
    pub pools: Vec<Arc<Pool>>,
    /// See [`Running::process`].
    pub process: Arc<Process>,
    /// See [`Running::admission`].
    pub admission: Arc<Admission>,
    /// See [`Running::cores`].
    pub cores: Vec<CoreHandle>,
    /// See [`Running::admin_address`].
    pub admin_address: Option<Address>,
    /// See [`Running::log`].
    pub log: log::Handle,
    /// Where upgrades are asked for.
    pub upgrades: mpsc::UnboundedSender<UpgradeRequest>,
}

/// A process of which this one has taken the place, and which has connections left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elder {
    /// Its number.
    pub pid: u32,
    /// Since when it runs.
    pub since: SystemTime,
    /// Connections that it has.
    pub active: u64,
}

impl Running {
    /// A balancer that serves from now on.
    pub fn new(parts: Parts) -> Self {
        let (now, at) = (Instant::now(), SystemTime::now());
        Self {
            config: parts.config,
            path: parts.path,
            loaded_at: at,
            started: now,
            started_at: at,
            listeners: parts.listeners,
            pools: parts.pools,
            process: parts.process,
            admission: parts.admission,
            cores: parts.cores,
            admin_address: parts.admin_address,
            log: parts.log,
            upgrades: parts.upgrades,
            upgrading: AtomicBool::new(false),
            elder: Mutex::default(),
            phase: AtomicU8::new(Phase::Serving as u8),
            checked: AtomicBool::new(false),
        }
    }

    /// How far the process has come.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            _ => Phase::Stopping,
        }
    }

    /// Asks for an upgrade, and waits for what comes of it.
    ///
    /// # Errors
    /// [`NotUpgraded`].
    pub async fn upgrade(&self) -> Result<Upgraded, NotUpgraded> {
        let gone = || NotUpgraded::Impossible("isobar is stopping".to_owned());
        let (answer, outcome) = oneshot::channel();
        self.upgrades.send(answer).map_err(|_| gone())?;
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Says whether an upgrade is in progress.
    pub fn set_upgrading(&self, upgrading: bool) {
        self.upgrading.store(upgrading, Ordering::Relaxed);
    }

    /// Whether an upgrade is in progress.
    pub fn is_upgrading(&self) -> bool {
        self.upgrading.load(Ordering::Relaxed)
    }

    /// The process of which this one has taken the place, as long as it has connections.
    pub fn elder(&self) -> Option<Elder> {
        *self.elder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is known of that process.
    pub fn set_elder(&self, elder: Option<Elder>) {
        *self.elder.lock().unwrap_or_else(PoisonError::into_inner) = elder;
    }

    /// A stop has begun: the process is not ready any more, and nobody is sent to redial.
    pub fn begin_stop(&self) {
        self.phase.store(Phase::Stopping as u8, Ordering::Relaxed);
        for pool in &self.pools {
            pool.stop_rebalance();
        }
    }

    /// Why the process is not ready, one sentence each; none: it is.
    ///
    /// Once every backend had a first check result, no later one is waited for.
    pub fn unready(&self) -> Vec<String> {
        if self.phase() == Phase::Stopping {
            return vec!["isobar is stopping".to_owned()];
        }
        if self.checked.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let waiting: Vec<_> = self.pools.iter().filter_map(|p| waiting(p)).collect();
        self.checked.store(waiting.is_empty(), Ordering::Relaxed);
        waiting
    }

    /// The listener of that name.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners
            .iter()
            .find(|listener| *listener.settings.name == *name)
    }

    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| *pool.name == *name)
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

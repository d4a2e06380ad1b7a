//! What the admin endpoint shows: the parts of the running balancer, all shared and all
//! readable without holding anything up.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Instant, SystemTime};

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

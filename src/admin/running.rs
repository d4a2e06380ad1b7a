//! What the admin endpoint shows: the parts of the running balancer, all shared and all
//! readable without holding anything up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
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
        }
    }

    /// How far the process has come.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            _ => Phase::Stopping,
        }
    }

    /// A stop has begun: the process is not ready any more.
    pub fn begin_stop(&self) {
        self.phase.store(Phase::Stopping as u8, Ordering::Relaxed);
    }

    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| *pool.name == *name)
    }
}

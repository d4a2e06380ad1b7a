//! Listeners: bound addresses and who may come in through them.
//!
//! | file | |
//! | --- | --- |
//! | `door` | a bound address, which may change hands while it is open |
//! | `accept` | the loop that takes connections, one for each door on each core |
//!
//! Doors are bound by the control plane before any core is told of them, so that all of them
//! bind or none does. What a [`Listener`] is, is replaced as one value: a core reads it once
//! for each connection.

pub mod accept;
mod door;

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::config;
use crate::conn::Origin;
use crate::conn::gate::Gate;
use crate::conn::way::Way;
use crate::log::Rejections;
use crate::metrics::PerCore;
use crate::net::Address;
use crate::pool::Pool;
use accept::AcceptErrors;

pub use door::{Door, options};

/// The rules of a listener, and what is counted for it.
#[derive(Debug)]
pub struct Listener {
    /// `[listener.NAME]`.
    pub settings: Arc<config::Listener>,
    /// What its connections know of it.
    pub origin: Arc<Origin>,
    /// Its limit.
    pub gate: Arc<Gate>,
    /// What accept(2) could not do.
    pub errors: Arc<AcceptErrors>,
}

impl Listener {
    /// A listener that nobody came through yet.
    ///
    /// # Panics
    /// If a pool of its routes is not among `pools`.
    pub fn new(settings: Arc<config::Listener>, pools: &[Arc<Pool>], cores: usize) -> Self {
        Self {
            origin: Arc::new(Origin {
                name: Arc::clone(&settings.name),
                counters: Arc::new(PerCore::new(cores)),
                rejections: Rejections::new(Arc::clone(&settings.name), Instant::now()),
                way: ArcSwap::from_pointee(Way::new(Arc::clone(&settings), pools)),
            }),
            gate: Gate::new(settings.max_connections),
            errors: Arc::default(),
            settings,
        }
    }

    /// The same listener with other settings, another name perhaps: counts go on, connections
    /// that it has count towards its limit.
    #[must_use]
    pub fn renewed(&self, way: Way) -> Self {
        let settings = Arc::clone(&way.settings);
        self.gate.set_limit(settings.max_connections);
        // Who was accepted before and is not routed yet goes where all others go.
        let way = Arc::new(way.after(&self.origin.way.load(), Instant::now()));
        self.origin.way.store(Arc::clone(&way));
        let origin = match self.origin.name == settings.name {
            true => Arc::clone(&self.origin),
            false => Arc::new(Origin {
                name: Arc::clone(&settings.name),
                counters: Arc::clone(&self.origin.counters),
                rejections: Rejections::new(Arc::clone(&settings.name), Instant::now()),
                way: ArcSwap::new(way),
            }),
        };
        Self {
            origin,
            gate: Arc::clone(&self.gate),
            errors: Arc::clone(&self.errors),
            settings,
        }
    }
}

/// A listener with the addresses that it has.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Its rules.
    pub listener: Arc<Listener>,
    /// In the order of its addresses.
    pub doors: Vec<Arc<Door>>,
}

impl Listening {
    /// Where it listens, ports chosen by the kernel included.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.doors.iter().map(|door| door.address())
    }

    /// Whether it takes connections: open, and not at a limit.
    pub fn is_accepting(&self) -> bool {
        let Listener { gate, errors, .. } = &*self.listener;
        self.doors.iter().any(|door| door.is_open()) && !gate.is_paused() && !errors.is_paused()
    }
}

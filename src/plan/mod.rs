//! What a reload would change in the running balancer, and which connections it would touch.
//!
//! A [`Plan`] is computed from two files, the runtime changes and a [`LiveView`], and changes
//! nothing. It compares what is in force with what would be: a backend that the file removes
//! and an operator removed before is no change. It is exact for the instant of its view;
//! shares of hash keys are those of the time when new backends are up, see [`HashKeys`].

mod build;
mod keys;
mod layout;
mod limits;
mod live;
mod moves;
mod text;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Serialize;

use crate::config::diff::Change;
use crate::config::{self, Config, Loaded, Problem};
use crate::net::Address;
use crate::pool::overrides::{Ended, Override, Overrides};

pub use keys::HashKeys;
pub(crate) use limits::percent;
pub use limits::{Limits, Refusal};
pub use live::{LiveBackend, LivePool, LiveView};
pub use moves::{LISTED, Move, Moves, NotListed};

/// What a plan is made of.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The file that runs.
    pub running: &'a Loaded,
    /// The runtime changes beside it.
    pub overrides: &'a Overrides,
    /// The file that would be loaded.
    pub file: &'a Loaded,
    /// What goes on.
    pub live: &'a LiveView,
}

/// What would change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The instant for which this holds, as RFC 3339.
    pub at: String,
    /// Whether there is anything that would change.
    pub changes: bool,
    /// Keys of `[runtime]`, `[admin]` and `[log]`.
    pub settings: Vec<Change>,
    /// Listeners that change: those of the new file in its order, then those that go.
    pub listeners: Vec<ListenerPlan>,
    /// Pools that change, likewise.
    pub pools: Vec<PoolPlan>,
    /// Changes of the file that runtime changes hide until they are undone.
    pub covered: Vec<Covered>,
    /// What becomes of runtime changes.
    pub runtime_changes: RuntimeChanges,
    /// Keys that take effect with the next start alone, as paths of the file.
    pub pending_restart: Vec<String>,
    /// What happens to the live connections.
    pub connections: Connections,
    /// Why the reload would be refused, as far as this machine shows it beforehand.
    pub faults: Vec<Problem>,
    /// What is odd about the file.
    pub warnings: Vec<Problem>,
}

/// What happens to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It is new.
    Added,
    /// It is there before and after.
    Changed,
    /// It goes.
    Removed,
}

/// A listener that changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListenerPlan {
    /// Its name; the old one where it goes.
    pub name: Arc<str>,
    /// What happens to it.
    pub change: Kind,
    /// Its name before, where it gets another.
    pub was: Option<Arc<str>>,
    /// Its keys that change.
    pub fields: Vec<Change>,
    /// Addresses that are bound.
    pub opened: Vec<Address>,
    /// Addresses that are closed.
    pub closed: Vec<Address>,
    /// Addresses that it takes over with open sockets.
    pub taken: Vec<Taken>,
    /// What happens to the connections that it accepted.
    pub connections: Touched,
}

/// An address that another listener had.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Taken {
    /// The address.
    pub address: Address,
    /// The other one's name.
    pub from: Arc<str>,
}

/// A pool that changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolPlan {
    /// Its name.
    pub name: Arc<str>,
    /// What happens to it; `changed` also where only its backends do.
    pub change: Kind,
    /// Its keys that change.
    pub fields: Vec<Change>,
    /// Its backends that change.
    pub backends: Vec<BackendPlan>,
    /// Share of its backends that go, from 0 to 1.
    pub removed_share: f64,
    /// Backends that may take connections now.
    pub usable_before: usize,
    /// The same once new ones are up.
    pub usable_after: usize,
    /// What happens to its connections.
    pub connections: Connections,
    /// Which hash keys move; `null`: it does not hash before and after.
    pub hash_keys: Option<HashKeys>,
}

/// A backend that changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendPlan {
    /// Its name.
    pub name: Arc<str>,
    /// What happens to it.
    pub change: Kind,
    /// Its keys that change.
    pub fields: Vec<Change>,
    /// It is dialled elsewhere: its health starts anew, connections to the old address drain.
    pub moves: bool,
    /// What happens to its connections.
    pub connections: Touched,
}

/// What happens to the connections of one listener or backend.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Touched {
    /// How many there are.
    pub active: u64,
    /// What happens to all of them.
    pub fate: Fate,
    /// `drained`: how long they may go on.
    pub drain_seconds: Option<f64>,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It goes on, with the settings that it was routed with.
    Untouched,
    /// What it came through goes, and it goes on until it ends.
    Kept,
    /// The same, but what is left after the pool's `drain_timeout` is reset.
    Drained,
}

/// What happens to many connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// How many there are, those that are held included.
    pub active: u64,
    /// See [`Fate`].
    pub untouched: u64,
    /// Likewise.
    pub kept: u64,
    /// Likewise.
    pub drained: u64,
    /// Held in a pool that goes: nobody will serve them, they are reset when their time to
    /// wait is over.
    pub stranded: u64,
}

impl Connections {
    /// How many are reset at most, if none ends by itself before.
    pub fn dropped_at_most(&self) -> u64 {
        self.drained + self.stranded
    }
}

/// A change of the file that a runtime change hides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Covered {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The backend's name.
    pub backend: Arc<str>,
    /// Its keys.
    pub fields: Vec<Change>,
}

/// What becomes of runtime changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuntimeChanges {
    /// Those that go on.
    pub kept: Vec<Override>,
    /// Those that end.
    pub ended: Vec<EndedOverride>,
}

/// A runtime change that ends.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndedOverride {
    /// The change.
    #[serde(flatten)]
    pub change: Override,
    /// Why it ends.
    pub ended: Ended,
}

/// The pools of a file as they are with runtime changes.
pub fn effective_pools(config: &Config, overrides: &Overrides) -> Vec<Arc<config::Pool>> {
    let pools = config.pools.iter();
    pools.map(|pool| overrides.effective(pool)).collect()
}

//! What a reload would change in the running balancer, and which connections it would touch.
//!
//! A [`Plan`] is computed from two files, the runtime changes and a [`LiveView`], and changes
//! nothing. It compares what is in force with what would be: a backend that the file removes
//! and an operator removed before is no change. It is exact for the instant of its view;
//! shares of hash keys are those of the time when new backends are up, see [`HashKeys`].

mod keys;
mod limits;
mod live;
mod moves;
mod text;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::config::diff::{BackendDiff, Change, Diff, Edit, ListenerDiff, PoolDiff, Side};
use crate::config::{self, Config, Loaded, Problem};
use crate::net::Address;
use crate::pool::overrides::{Ended, Merge, Override, Overrides, rfc3339};

pub use keys::HashKeys;
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

impl Plan {
    /// What a reload would change. `faults` is left empty: it is for whoever tries the machine.
    pub fn new(input: Input<'_>) -> Self {
        let Input {
            running,
            overrides,
            file,
            live,
        } = input;
        let merge = overrides.merge(&file.config);
        let before = effective_pools(&running.config, overrides);
        let after = effective_pools(&file.config, &merge.kept);
        let old = Side {
            file: running,
            pools: &before,
        };
        let new = Side {
            file,
            pools: &after,
        };
        let diff = Diff::new(old, new);
        let covered = covered(&Diff::new(Side::of(running), Side::of(file)), &merge.kept);
        let listeners = diff.listeners.iter().map(|l| listener(l, live)).collect();
        let pools: Vec<_> = diff.pools.iter().map(|p| pool(p, live)).collect();
        Self {
            at: rfc3339(live.at),
            changes: !(diff.is_empty() && covered.is_empty() && merge.ended.is_empty()),
            listeners,
            connections: total(live, &pools),
            pools,
            covered,
            runtime_changes: runtime_changes(merge),
            pending_restart: diff.pending_restart(),
            settings: diff.settings,
            faults: Vec::new(),
            warnings: file.warnings.clone(),
        }
    }
}

fn kind<T>(edit: &Edit<T>) -> Kind {
    match edit {
        Edit::Added(_) => Kind::Added,
        Edit::Changed { .. } => Kind::Changed,
        Edit::Removed(_) => Kind::Removed,
    }
}

fn listener(diff: &ListenerDiff, live: &LiveView) -> ListenerPlan {
    let (old, new) = (diff.edit.before(), diff.edit.after());
    let name = |of: Option<&Arc<config::Listener>>| of.map(|listener| Arc::clone(&listener.name));
    let active = old.and_then(|old| live.listeners.get(&old.name)).copied();
    let fate = match new {
        Some(_) => Fate::Untouched,
        None => Fate::Kept,
    };
    let taken = diff.taken.iter().map(|(address, from)| Taken {
        address: address.clone(),
        from: Arc::clone(from),
    });
    ListenerPlan {
        name: name(new.or(old)).unwrap_or_default(),
        change: kind(&diff.edit),
        was: name(old).filter(|old| new.is_some_and(|new| new.name != *old)),
        fields: diff.fields.clone(),
        opened: diff.opened.clone(),
        closed: diff.closed.clone(),
        taken: taken.collect(),
        connections: Touched {
            active: active.unwrap_or(0),
            fate,
            drain_seconds: None,
        },
    }
}

fn pool(diff: &PoolDiff, live: &LiveView) -> PoolPlan {
    let (old, new) = (diff.edit.before(), diff.edit.after());
    let name = new.or(old).map(|pool| Arc::clone(&pool.name));
    let name = name.unwrap_or_default();
    let live = live.pool(&name);
    let backends: Vec<_> = diff.backends.iter().map(|b| backend(b, &live)).collect();
    let removed = backends.iter().filter(|b| b.change == Kind::Removed);
    let usable = keys::usable(old.map(|p| &**p), new.map(|p| &**p), &live);
    PoolPlan {
        change: kind(&diff.edit),
        fields: diff.fields.clone(),
        removed_share: match old.map_or(0, |old| old.backends.len()) {
            0 => 0.0,
            all => removed.count() as f64 / all as f64,
        },
        usable_before: usable.0,
        usable_after: usable.1,
        connections: pool_connections(&backends, &live, new.is_none()),
        hash_keys: old
            .zip(new)
            .and_then(|(old, new)| HashKeys::of(old, new, &live)),
        backends,
        name,
    }
}

fn pool_connections(backends: &[BackendPlan], live: &LivePool, goes: bool) -> Connections {
    let sum = |fate| {
        let of = backends.iter().map(|backend| backend.connections);
        of.filter(|touched| touched.fate == fate)
            .map(|t| t.active)
            .sum()
    };
    let (kept, drained) = (sum(Fate::Kept), sum(Fate::Drained));
    let stranded = if goes { live.held } else { 0 };
    let active = live.active() + live.held;
    Connections {
        active,
        untouched: active.saturating_sub(kept + drained + stranded),
        kept,
        drained,
        stranded,
    }
}

fn backend(diff: &BackendDiff, live: &LivePool) -> BackendPlan {
    let (old, new) = (diff.edit.before(), diff.edit.after());
    let name = new.or(old).map(|backend| Arc::clone(&backend.name));
    let name = name.unwrap_or_default();
    let active = old.map_or(0, |_| live.backend(&name).active);
    let moves = diff.moves();
    BackendPlan {
        change: kind(&diff.edit),
        fields: diff.fields.clone(),
        moves,
        connections: touched(active, new.is_none() || moves, live.drain_timeout),
        name,
    }
}

fn touched(active: u64, goes: bool, drain_timeout: Duration) -> Touched {
    let fate = match (goes, drain_timeout.is_zero()) {
        (false, _) => Fate::Untouched,
        (true, true) => Fate::Kept,
        (true, false) => Fate::Drained,
    };
    Touched {
        active,
        fate,
        drain_seconds: (fate == Fate::Drained).then_some(drain_timeout.as_secs_f64()),
    }
}

/// Each connection once: as its pool counts it, else, where it has no pool yet, as its listener.
fn total(live: &LiveView, pools: &[PoolPlan]) -> Connections {
    let accepted: u64 = live.listeners.values().sum();
    let routed: u64 = live
        .pools
        .values()
        .map(|pool| pool.active() + pool.held)
        .sum();
    let mut total = Connections {
        active: accepted.max(routed),
        ..Connections::default()
    };
    for pool in pools {
        total.kept += pool.connections.kept;
        total.drained += pool.connections.drained;
        total.stranded += pool.connections.stranded;
    }
    let touched = total.kept + total.drained + total.stranded;
    total.untouched = total.active.saturating_sub(touched);
    total
}

/// Changed backends of the file that are not in force as the file has them.
fn covered(files: &Diff, kept: &Overrides) -> Vec<Covered> {
    let hidden = |pool: &str, backend: &BackendDiff| {
        let changed = matches!(backend.edit, Edit::Changed { .. });
        let name = backend.edit.after().map_or("", |backend| &*backend.name);
        changed && kept.replaces(pool, name)
    };
    let mut covered = Vec::new();
    for pool in &files.pools {
        let Some(name) = pool.edit.after().map(|pool| &pool.name) else {
            continue;
        };
        let backends = pool.backends.iter().filter(|b| hidden(name, b));
        covered.extend(backends.map(|backend| {
            Covered {
                pool: Arc::clone(name),
                backend: backend
                    .edit
                    .after()
                    .map_or("".into(), |b| Arc::clone(&b.name)),
                fields: backend.fields.clone(),
            }
        }));
    }
    covered
}

fn runtime_changes(merge: Merge) -> RuntimeChanges {
    let ended = merge.ended.into_iter();
    RuntimeChanges {
        kept: merge.kept.iter().cloned().collect(),
        ended: ended
            .map(|(change, ended)| EndedOverride { change, ended })
            .collect(),
    }
}

//! From two files, the runtime changes and what goes on to a [`Plan`].

use std::sync::Arc;
use std::time::Duration;

use super::{
    BackendPlan, Connections, Covered, EndedOverride, Fate, HashKeys, Input, Kind, ListenerPlan,
    LivePool, LiveView, Plan, PoolPlan, RuntimeChanges, Taken, Touched, effective_pools, keys,
};
use crate::config;
use crate::config::diff::{BackendDiff, Diff, Edit, ListenerDiff, PoolDiff, Side};
use crate::pool::overrides::{Merge, Overrides, rfc3339};

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
    let active = old.map_or(0, |_| live.active_of(&name));
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

//! What a reload makes of a pool: its settings, its backends, the pools that it has to do with.
//!
//! Everything about one pool changes with one published snapshot. What stays keeps all it has:
//! backends of the same name and address their health, counts and connections, the strategy its
//! sequence; live connections keep the settings they were routed with.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::control::Control;
use super::overrides::{Ended, Override, Stamp};
use super::pause::Pause;
use super::tracked::Moved;
use super::{Pool, PoolCounters};
use crate::config::{self, Config};
use crate::metrics::{Counter, PerCore};

/// What a pool is to be.
#[derive(Clone, Debug)]
pub struct Reload<'a> {
    /// The whole new file: runtime changes go on unless it changes the same thing.
    pub config: &'a Config,
    /// `[pool.NAME]` of it; `None`: it has the pool no more.
    pub file: Option<&'a Arc<config::Pool>>,
    /// The pools that it has to do with.
    pub wiring: Wiring,
    /// For what changes by it.
    pub stamp: Stamp,
}

/// The pools that a pool has to do with.
#[derive(Clone, Debug, Default)]
pub struct Wiring {
    /// Takes what it cannot take now.
    pub fallback: Option<Weak<Pool>>,
    /// Fall back to it.
    pub dependents: Vec<Weak<Pool>>,
}

impl Wiring {
    /// What `pools` have to do with the one that is number `index` of them.
    pub fn of(pools: &[Arc<Pool>], settings: &[Arc<config::Pool>], index: usize) -> Self {
        let falls_back = |of: &config::Pool, to: &Pool| of.fallback.as_ref() == Some(&to.name);
        let own = &settings[index];
        let fallback = pools.iter().find(|pool| falls_back(own, pool));
        let dependents = pools.iter().zip(settings);
        let dependents = dependents.filter(|(_, of)| falls_back(of, &pools[index]));
        Self {
            fallback: fallback.map(Arc::downgrade),
            dependents: dependents.map(|(pool, _)| Arc::downgrade(pool)).collect(),
        }
    }

    fn has_dependent(&self, pool: &Weak<Pool>) -> bool {
        self.dependents.iter().any(|other| other.ptr_eq(pool))
    }
}

fn same(one: Option<&Weak<Pool>>, other: Option<&Weak<Pool>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.ptr_eq(other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

impl Control {
    fn is_wired(&self, wiring: &Wiring) -> bool {
        let all = |mine: &[Weak<Pool>]| mine.iter().all(|pool| wiring.has_dependent(pool));
        same(self.fallback.as_ref(), wiring.fallback.as_ref())
            && self.dependents.len() == wiring.dependents.len()
            && all(&self.dependents)
    }

    fn reload(&mut self, reload: Reload<'_>, now: Instant) -> (Vec<(Override, Ended)>, Vec<Moved>) {
        let merge = self.overrides.merge(reload.config);
        self.overrides = merge.kept;
        self.retired = reload.file.is_none();
        self.file = match reload.file {
            Some(file) => Arc::clone(file),
            None => Arc::new(emptied(&self.file)),
        };
        self.fallback = reload.wiring.fallback;
        self.dependents = reload.wiring.dependents;
        let name = Arc::clone(&self.file.name);
        if self.pause.is_on() && self.overrides.paused(&name).is_none() {
            self.pause = Pause::Ended { at: now };
        }
        let moved = self.reconcile(&reload.stamp, now);
        (merge.ended, moved)
    }
}

/// What is left of a pool that the file has no more: nobody new goes anywhere.
fn emptied(pool: &config::Pool) -> config::Pool {
    config::Pool {
        backends: Vec::new(),
        fallback: None,
        ..pool.clone()
    }
}

impl Pool {
    /// A pool that comes with a reload: nobody waits for its first check results but its own
    /// clients.
    pub fn later(settings: Arc<config::Pool>, cores: usize) -> Arc<Self> {
        let pool = Self::new(settings, cores);
        let now = Instant::now();
        pool.change(|control| {
            let all = control.tracked.iter_mut();
            all.for_each(|tracked| tracked.set_original(false, now));
        });
        pool
    }

    /// Names the pools that it has to do with.
    pub fn wire(self: &Arc<Self>, wiring: Wiring) {
        self.change(|control| {
            control.fallback = wiring.fallback;
            control.dependents = wiring.dependents;
        });
    }

    /// Takes away what the pool had to do with others and will not have to do with them any
    /// more. First of all pools, then any of them is [`reload`](Self::reload)ed: so they form no
    /// circle in between.
    pub fn unwire(self: &Arc<Self>, wiring: &Wiring) {
        if self.look(|control| control.is_wired(wiring)) {
            return;
        }
        self.change(|control| {
            if !same(control.fallback.as_ref(), wiring.fallback.as_ref()) {
                control.fallback = None;
            }
            control.dependents.retain(|pool| wiring.has_dependent(pool));
        });
    }

    /// Brings the pool in line with a new file; the runtime changes that this ends. Nothing at
    /// all happens to a pool that is so already.
    pub fn reload(self: &Arc<Self>, reload: Reload<'_>) -> Vec<(Override, Ended)> {
        let as_it_is = self.look(|control| {
            let same = match reload.file {
                Some(file) => !control.retired && *control.file == **file,
                None => control.retired,
            };
            let merge = control.overrides.merge(reload.config);
            same && control.is_wired(&reload.wiring) && merge.ended.is_empty()
        });
        if as_it_is {
            return Vec::new();
        }
        let now = Instant::now();
        let (ended, moved) = self.change(|control| control.reload(reload, now));
        moved.iter().for_each(|moved| self.announce(moved));
        ended
    }

    /// Connections that it has, those that are held and those on their way to a backend
    /// included.
    pub fn active(&self) -> u64 {
        let counters: &PerCore<PoolCounters> = &self.counters;
        // What left is read first: a connection that comes meanwhile is counted as there.
        let left = counters.sum(|cell| {
            let ended = cell.ended.iter().map(Counter::value).sum::<u64>();
            ended + cell.moved.value()
        });
        counters.sum(|cell| cell.total.value()).saturating_sub(left)
    }
}

#[cfg(test)]
mod tests;

//! What the old process still has, as the new one counts it.
//!
//! Its connections are part of every count and take up every limit here: of the process, of
//! listeners, of backends. One that moves takes its place with it; the places of those that
//! end there are given back when the old process says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::message::Remaining;
use crate::admin::{self, Configured, Running};
use crate::conn::Permit;
use crate::conn::gate::{Gate, Slot};
use crate::listener::Listener;
use crate::metrics::Ended;
use crate::pool::Pool;

/// The old process.
#[derive(Debug)]
pub struct Elder {
    pid: u32,
    since: SystemTime,
    running: Arc<Running>,
    /// What this process began with. The old one knows listeners and pools by the names that
    /// they have there, whatever a reload makes of them here.
    began: Arc<Configured>,
    remaining: Remaining,
    process: Places,
    listeners: BTreeMap<Arc<str>, Places>,
}

/// Places that are taken in a gate for the sake of the old process, beyond a limit that is lower
/// than it was.
#[derive(Debug, Default)]
struct Places {
    slots: Vec<Slot>,
}

impl Elder {
    /// The process `pid`, with nothing.
    pub fn new(running: &Arc<Running>, pid: u32, since: SystemTime) -> Self {
        Self {
            pid,
            since,
            running: Arc::clone(running),
            began: running.configured(),
            remaining: Remaining::default(),
            process: Places::default(),
            listeners: BTreeMap::new(),
        }
    }

    /// What this process began with, which is what the old one speaks of.
    pub fn began(&self) -> &Arc<Configured> {
        &self.began
    }

    /// It has these connections now.
    pub fn has(&mut self, remaining: Remaining) {
        let total = remaining
            .listeners
            .values()
            .fold(0, |a: u64, b| a.saturating_add(*b));
        self.process.resize(total, &self.running.admission.gate);
        for listener in self.began.every_listener() {
            let name = &listener.origin.name;
            let count = remaining.listeners.get(name).copied().unwrap_or(0);
            let places = self.listeners.entry(Arc::clone(name)).or_default();
            places.resize(count, &listener.gate);
        }
        for pool in self.began.every_pool() {
            set_elsewhere(pool, &remaining);
            let held = remaining.held.get(&pool.name).copied().unwrap_or(0);
            pool.set_held_elsewhere(held.try_into().unwrap_or(usize::MAX));
        }
        self.remaining = remaining;
        self.show();
    }

    /// One of its connections of `listener` is here now, in a place of its own.
    pub fn gives(&mut self, listener: &Listener, pool: &str) -> Permit {
        let name = &listener.origin.name;
        let own = self.listeners.entry(Arc::clone(name)).or_default();
        let own = own.take(&listener.gate);
        let process = self.process.take(&self.running.admission.gate);
        let counts = [
            self.remaining.listeners.get_mut(name),
            self.remaining.pools.get_mut(pool),
        ];
        for count in counts.into_iter().flatten() {
            *count = count.saturating_sub(1);
        }
        Permit::new(process, own)
    }

    /// Shows what is left of it in the statistics.
    pub fn show(&self) {
        let active = self.remaining.listeners.values().sum();
        self.running
            .upgrading
            .set_elder((active > 0).then_some(admin::Elder {
                pid: self.pid,
                since: self.since,
                active,
            }));
    }

    /// It is gone. What it had then has ended, and nobody knows how.
    pub fn is_gone(mut self) {
        for listener in self.began.every_listener() {
            if let Some(lost) = self.remaining.listeners.get(&listener.origin.name) {
                listener.origin.counters.here().ended[Ended::Killed as usize].add(*lost);
            }
        }
        for pool in self.began.every_pool() {
            if let Some(lost) = self.remaining.pools.get(&pool.name) {
                pool.counters.here().ended[Ended::Killed as usize].add(*lost);
            }
        }
        self.has(Remaining::default());
    }
}

fn set_elsewhere(pool: &Arc<Pool>, remaining: &Remaining) {
    for backend in pool.all_backends() {
        let mut all = remaining.backends.iter();
        let found = all.find(|(of, name, _)| *of == pool.name && **name == *backend.name);
        pool.set_elsewhere(&backend, found.map_or(0, |(_, _, count)| *count));
    }
}

impl Places {
    fn resize(&mut self, count: u64, gate: &Arc<Gate>) {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.slots.resize_with(count, || gate.enter_anyway());
    }

    fn take(&mut self, gate: &Arc<Gate>) -> Slot {
        self.slots.pop().unwrap_or_else(|| gate.enter_anyway())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many get in now, all of whom leave again.
    fn room(gate: &Arc<Gate>) -> usize {
        let most = gate.limit();
        (0..most)
            .map_while(|_| gate.try_enter())
            .collect::<Vec<_>>()
            .len()
    }

    #[test]
    fn places_are_taken_moved_and_given_back() {
        let gate = Gate::new(10);
        let mut places = Places::default();
        places.resize(6, &gate);
        assert_eq!(room(&gate), 4);
        let moved = places.take(&gate);
        assert_eq!(room(&gate), 4);
        places.resize(2, &gate);
        assert_eq!(room(&gate), 7);
        drop(moved);
        places.resize(0, &gate);
        assert_eq!(room(&gate), 10);
    }

    #[test]
    fn a_lower_limit_counts_everybody_and_lets_nobody_in_until_fewer_are_left() {
        let gate = Gate::new(2);
        let mut places = Places::default();
        places.resize(5, &gate);
        let mut moved: Vec<_> = (0..5).map(|_| places.take(&gate)).collect();
        moved.truncate(2);
        assert_eq!(room(&gate), 0);
        moved.pop();
        assert_eq!(room(&gate), 1);
    }

    #[test]
    fn a_connection_that_was_not_told_of_has_a_place_all_the_same() {
        let gate = Gate::new(2);
        let moved = Places::default().take(&gate);
        assert_eq!(room(&gate), 1);
        drop(moved);
        assert_eq!(room(&gate), 2);
    }
}

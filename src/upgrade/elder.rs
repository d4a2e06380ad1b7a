//! What the old process still has, as the new one counts it.
//!
//! Its connections are part of every count and take up every limit here: of the process, of
//! listeners, of backends. One that moves takes its place with it; the places of those that
//! end there are given back when the old process says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::OwnedSemaphorePermit;

use super::message::Remaining;
use crate::admin::{self, Running};
use crate::conn::Permit;
use crate::listener::Listener;
use crate::listener::admit::Gate;
use crate::metrics::Ended;
use crate::pool::Pool;

/// The old process.
#[derive(Debug)]
pub struct Elder {
    pid: u32,
    since: SystemTime,
    running: Arc<Running>,
    remaining: Remaining,
    process: Places,
    listeners: BTreeMap<Arc<str>, Places>,
}

/// Places that are taken in a gate for the sake of the old process. There may be fewer than it
/// has connections, where a limit is lower than it was.
#[derive(Debug, Default)]
struct Places {
    count: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl Elder {
    /// The process `pid`, with nothing.
    pub fn new(running: &Arc<Running>, pid: u32, since: SystemTime) -> Self {
        Self {
            pid,
            since,
            running: Arc::clone(running),
            remaining: Remaining::default(),
            process: Places::default(),
            listeners: BTreeMap::new(),
        }
    }

    /// It has these connections now.
    pub fn has(&mut self, remaining: Remaining) {
        let running = Arc::clone(&self.running);
        let total = remaining
            .listeners
            .values()
            .fold(0, |a: u64, b| a.saturating_add(*b));
        self.process.resize(total, &running.admission.gate);
        for listener in &running.listeners {
            let name = &listener.origin.name;
            let count = remaining.listeners.get(name).copied().unwrap_or(0);
            let places = self.listeners.entry(Arc::clone(name)).or_default();
            places.resize(count, &listener.gate);
        }
        for pool in &running.pools {
            set_elsewhere(pool, &remaining);
        }
        self.remaining = remaining;
        self.show();
    }

    /// One of its connections of `listener` is here now, in a place of its own.
    pub fn gives(&mut self, listener: &Listener, pool: &str) -> Permit {
        let name = &listener.origin.name;
        let own = self.listeners.get_mut(name).and_then(Places::take);
        let process = self.process.take();
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
        self.running.set_elder((active > 0).then_some(admin::Elder {
            pid: self.pid,
            since: self.since,
            active,
        }));
    }

    /// It is gone. What it had then has ended, and nobody knows how.
    pub fn is_gone(mut self) {
        for listener in &self.running.listeners {
            if let Some(lost) = self.remaining.listeners.get(&listener.origin.name) {
                listener.origin.counters.here().ended[Ended::Killed as usize].add(*lost);
            }
        }
        for pool in &self.running.pools {
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
    fn resize(&mut self, count: u64, gate: &Gate) {
        let fewer = usize::try_from(self.count.saturating_sub(count)).unwrap_or(usize::MAX);
        let more = usize::try_from(count.saturating_sub(self.count)).unwrap_or(usize::MAX);
        self.count = count;
        if let Some(permit) = &mut self.permit {
            // Those that are missing belong to the connections that go first.
            let kept = usize::try_from(count).unwrap_or(usize::MAX);
            let back = fewer.min(permit.num_permits().saturating_sub(kept));
            drop(permit.split(back));
        }
        if let Some(new) = (more > 0).then(|| gate.take_up_to(more)).flatten() {
            match &mut self.permit {
                Some(permit) => permit.merge(new),
                None => self.permit = Some(new),
            }
        }
    }

    fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        self.count = self.count.saturating_sub(1);
        self.permit.as_mut()?.split(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_moved_and_given_back() {
        let gate = Gate::new(10);
        let mut places = Places::default();
        places.resize(6, &gate);
        assert_eq!(gate.take_up_to(99).map(|p| p.num_permits()), Some(4));
        let moved = places.take().expect("a place");
        assert_eq!(places.count, 5);
        places.resize(2, &gate);
        assert_eq!(gate.take_up_to(99).map(|p| p.num_permits()), Some(7));
        drop(moved);
        places.resize(0, &gate);
        assert_eq!(gate.take_up_to(99).map(|p| p.num_permits()), Some(10));
    }

    #[test]
    fn a_lower_limit_takes_what_there_is_and_nobody_goes_without_a_count() {
        let gate = Gate::new(2);
        let mut places = Places::default();
        places.resize(5, &gate);
        assert!(gate.try_enter().is_none());
        let moved: Vec<_> = (0..5).map(|_| places.take()).collect();
        assert_eq!(moved.iter().flatten().count(), 2);
        assert_eq!(places.count, 0);
        let mut none = Places::default();
        none.resize(3, &Gate::new(0));
        assert!(none.take().is_none());
    }
}

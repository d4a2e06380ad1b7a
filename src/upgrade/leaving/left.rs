//! What this process still has: slots and connections that the new one counts as its own, until
//! the last of them has moved or ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{ANSWER, Leaving, Steps};
use crate::admin::NotUpgraded;
use crate::metrics::Ended;
use crate::pool::handover::OverrideRecord;
use crate::pool::{Backend, Pool};
use crate::upgrade::message::{Message, Remaining};
use crate::upgrade::wire::WireError;

/// How often it is looked whether connections that could not move can now.
const AGAIN: Duration = Duration::from_millis(50);
/// How often the new process is told what was counted meanwhile.
const NEWS: Duration = Duration::from_millis(500);

impl<S: Steps> Leaving<S> {
    /// Has this process take no more slots of limited backends than it has or may still need:
    /// the rest is for the new one.
    pub(super) fn seal(&self) {
        for (pool, backend) in self.backends() {
            if backend.limit() > 0 {
                let most = backend.active().saturating_add(pool.unsettled());
                let most = most.min(backend.limit());
                let active = backend.set_ceiling(most);
                backend.set_ceiling(most.max(active));
            }
        }
    }

    /// Gives up slots that nobody here can need any more.
    fn unseal_spare(&self) {
        for (pool, backend) in self.backends() {
            let ceiling = backend.ceiling();
            let wanted = backend.active().saturating_add(pool.unsettled());
            if ceiling != u32::MAX && wanted < ceiling {
                let active = backend.set_ceiling(wanted);
                // Whoever took a slot meanwhile has it.
                backend.set_ceiling(wanted.max(active));
            }
        }
    }

    pub(super) fn backends(&self) -> Vec<(Arc<Pool>, Arc<Backend>)> {
        let mut all = Vec::new();
        for pool in self.running.configured().every_pool() {
            all.extend(
                pool.all_backends()
                    .into_iter()
                    .map(|backend| (Arc::clone(pool), backend)),
            );
        }
        all
    }

    /// What this process has and may need.
    pub(super) fn remaining(&self) -> Remaining {
        let mut remaining = Remaining::default();
        let without = |of: &BTreeMap<Arc<str>, u64>, name: &Arc<str>, active: u64| {
            active.saturating_sub(of.get(name).copied().unwrap_or(0))
        };
        for listener in self.running.configured().every_listener() {
            let name = &listener.origin.name;
            let active = listener.origin.counters.active();
            let active = without(&self.moved.listeners, name, active);
            remaining.listeners.insert(Arc::clone(name), active);
        }
        for pool in self.running.configured().every_pool() {
            let active = without(&self.moved.pools, &pool.name, pool.active());
            remaining.pools.insert(Arc::clone(&pool.name), active);
            let held = pool.held() as u64;
            remaining.held.insert(Arc::clone(&pool.name), held);
        }
        for (pool, backend) in self.backends() {
            let has = match backend.ceiling() {
                u32::MAX => backend.active(),
                ceiling => ceiling,
            };
            if has > 0 {
                let names = (Arc::clone(&pool.name), Arc::clone(&backend.name));
                remaining.backends.push((names.0, names.1, has));
            }
        }
        remaining
    }

    /// The new process is gone: what moved to it is lost, what did not may have every slot.
    pub(super) fn take_back(&mut self) {
        for (_, backend) in self.backends() {
            backend.set_ceiling(u32::MAX);
        }
        for listener in self.running.configured().every_listener() {
            if let Some(lost) = self.moved.listeners.get(&listener.origin.name) {
                listener.origin.counters.here().ended[Ended::Internal as usize].add(*lost);
            }
        }
        for pool in self.running.configured().every_pool() {
            if let Some(lost) = self.moved.pools.get(&pool.name) {
                pool.counters.here().ended[Ended::Internal as usize].add(*lost);
            }
            pool.serve_held();
        }
    }

    pub(super) fn follow(&self, overrides: &[OverrideRecord]) {
        for pool in self.running.configured().every_pool() {
            pool.follow(overrides);
        }
    }

    /// Waits until this process has nothing left, and moves what can move after all; resets
    /// what is left after `most`, zero: never, or when a stop wants it.
    pub fn until_nothing_is_left(&mut self, most: Duration) {
        if !most.is_zero() {
            self.term.within(most, Instant::now());
        }
        // There is nothing to be given up any more.
        self.given_up.store(false, Ordering::Relaxed);
        if !self.heir_stops {
            self.steps.cannot_pass_on();
        }
        let mut is_heard = true;
        loop {
            if is_heard && let Err(error) = self.keep_in_touch() {
                tracing::warn!(%error, "the process after this one is not heard of any more");
                is_heard = false;
                self.steps.cannot_pass_on();
            }
            self.end_in_time();
            if self.connections() == 0 {
                break;
            }
            let time = self.term.left(AGAIN, Instant::now());
            match is_heard {
                // An error is found anew by who keeps in touch.
                true => drop(self.wire.wait(time)),
                false => std::thread::sleep(time),
            }
        }
        if is_heard {
            let _ = self.tell_totals();
            let _ = self.tell(&Message::Farewell);
        }
    }

    fn keep_in_touch(&mut self) -> Result<(), NotUpgraded> {
        while !self.term.is_over() && self.move_some()? > 0 {}
        while self.wire.wait(Duration::ZERO).map_err(|e| self.died(&e))? {
            let deadline = Instant::now() + ANSWER;
            let frame = self.answer(deadline)?;
            self.heed(frame.message)?;
        }
        self.pass_on().map_err(|error| self.died(&error))?;
        self.unseal_spare();
        self.tell_what_is_left().map_err(|error| self.died(&error))
    }

    /// Counts come with what is left, or before it: what has ended is counted when it is gone.
    fn tell_what_is_left(&mut self) -> Result<(), WireError> {
        let remaining = self.remaining();
        if remaining == self.last && self.told_at.elapsed() < NEWS {
            return Ok(());
        }
        self.tell_totals()?;
        self.tell(&Message::Remaining(remaining.clone()))?;
        self.last = remaining;
        self.told_at = Instant::now();
        Ok(())
    }
}

//! Limits on how many connections there are at once.
//!
//! A slot is taken before a connection is accepted, so whoever is over a limit waits in the
//! kernel's accept queue, unaccepted, and comes in when a slot is given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

/// A limit on connections at once, which may change while there are some.
///
/// *No wake-up is lost*: whoever waits is counted before it looks for a slot the last time,
/// whoever gives one back does so before it looks whether somebody waits. (tokio's semaphore
/// cannot be lowered below what is taken: `forget_permits` takes only what is free.)
#[derive(Debug)]
pub struct Gate {
    /// 0: none.
    limit: AtomicUsize,
    taken: AtomicUsize,
    /// Accept loops that wait here.
    waiting: AtomicUsize,
    freed: Notify,
}

impl Gate {
    /// A limit of `limit`; 0: none.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    /// The limit; 0: none.
    pub fn limit(&self) -> usize {
        self.limit.load(SeqCst)
    }

    /// Takes a new limit. A lower one ends nobody: it lets nobody in until fewer are left.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, SeqCst);
        self.freed.notify_waiters();
    }

    /// Whether somebody cannot get in for the limit.
    pub fn is_paused(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// A slot, at once or not at all.
    pub fn try_enter(self: &Arc<Self>) -> Option<Slot> {
        let limit = self.limit();
        let room = |taken| (limit == 0 || taken < limit).then_some(taken + 1);
        let entered = self.taken.fetch_update(SeqCst, SeqCst, room);
        entered.ok().map(|_| Slot(Arc::clone(self)))
    }

    /// A slot, beyond the limit where need be, for a connection that is there already: nobody
    /// else comes in until fewer are left.
    pub fn enter_anyway(self: &Arc<Self>) -> Slot {
        self.taken.fetch_add(1, SeqCst);
        Slot(Arc::clone(self))
    }

    /// A slot, as soon as there is one.
    ///
    /// # Cancel safety
    /// Dropping the future loses the place in the queue and no slot.
    pub async fn enter(self: &Arc<Self>) -> Slot {
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let freed = self.freed.notified();
            if let Some(slot) = self.try_enter() {
                return slot;
            }
            freed.await;
        }
    }
}

/// A slot of a [`Gate`], given back when it is dropped.
#[derive(Debug)]
pub struct Slot(Arc<Gate>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, SeqCst);
        if self.0.is_paused() {
            self.0.freed.notify_one();
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_exact_and_a_slot_given_back_lets_the_next_in() {
        let gate = Gate::new(2);
        let first = gate.try_enter().expect("a slot");
        let _second = gate.try_enter().expect("a slot");
        assert!(gate.try_enter().is_none());
        drop(first);
        assert!(gate.try_enter().is_some());
    }

    #[test]
    fn no_limit_lets_everybody_in() {
        let gate = Gate::new(0);
        let slots: Vec<_> = (0..100).map(|_| gate.try_enter()).collect();
        assert!(slots.iter().all(Option::is_some));
        assert!(!gate.is_paused());
    }

    #[test]
    fn a_limit_that_is_lowered_ends_nobody_and_lets_nobody_in() {
        let gate = Gate::new(0);
        let mut slots: Vec<_> = (0..3).filter_map(|_| gate.try_enter()).collect();
        gate.set_limit(2);
        assert!(gate.try_enter().is_none());
        slots.pop();
        assert!(gate.try_enter().is_none());
        slots.pop();
        assert!(gate.try_enter().is_some());
    }

    #[tokio::test]
    async fn whoever_waits_comes_in_when_the_limit_is_raised() {
        let gate = Gate::new(1);
        let _first = gate.try_enter().expect("a slot");
        let entering = (gate.enter(), gate.enter());
        let raised = async {
            tokio::task::yield_now().await;
            assert!(gate.is_paused());
            gate.set_limit(3);
        };
        let (_second, _third, ()) = tokio::join!(entering.0, entering.1, raised);
        assert!(!gate.is_paused());
        assert!(gate.try_enter().is_none());
    }

    #[tokio::test]
    async fn a_slot_given_back_reaches_another_when_the_first_has_gone() {
        let gate = Gate::new(1);
        let first = gate.try_enter().expect("a slot");
        let mut gone = Box::pin(gate.enter());
        let mut stays = Box::pin(gate.enter());
        tokio::select! {
            biased;
            _ = &mut gone => unreachable!("there is no slot"),
            _ = &mut stays => unreachable!("there is no slot"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        drop(gone);
        stays.await;
    }
}

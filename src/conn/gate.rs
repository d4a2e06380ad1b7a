//! Who is admitted: limits on how many connections there are at once.
//!
//! A slot is taken before a connection is accepted, so whoever is over a limit waits in the
//! kernel's accept queue, unaccepted, and comes in when a slot is given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A limit on connections at once. FIFO, and no wake-up is lost: it is tokio's semaphore.
#[derive(Debug)]
pub struct Gate {
    slots: Option<Arc<Semaphore>>,
    limit: usize,
    /// Accept loops that wait here.
    waiting: AtomicUsize,
}

impl Gate {
    /// A limit of `limit`; 0: none.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self {
            slots: (limit > 0).then(|| Arc::new(Semaphore::new(limit))),
            limit,
            waiting: AtomicUsize::new(0),
        }
    }

    /// The limit; 0: none.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether somebody cannot get in for the limit.
    pub fn is_paused(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// A slot, at once or not at all.
    pub fn try_enter(&self) -> Option<Slot> {
        match &self.slots {
            None => Some(Slot(None)),
            Some(slots) => Arc::clone(slots)
                .try_acquire_owned()
                .ok()
                .map(|permit| Slot(Some(permit))),
        }
    }

    /// A slot, as soon as there is one.
    ///
    /// # Cancel safety
    /// Dropping the future loses the place in the queue and no slot.
    pub async fn enter(&self) -> Slot {
        if let Some(slot) = self.try_enter() {
            return slot;
        }
        let Some(slots) = &self.slots else {
            return Slot(None);
        };
        let _waiting = Waiting::new(&self.waiting);
        // The semaphore is never closed; were it, nobody would be limited.
        Slot(Arc::clone(slots).acquire_owned().await.ok())
    }
}

/// A slot of a [`Gate`].
#[derive(Debug)]
pub struct Slot(Option<OwnedSemaphorePermit>);

impl Slot {
    /// The permit itself; `None`: there is no limit.
    pub fn into_permit(self) -> Option<OwnedSemaphorePermit> {
        self.0
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
}

//! The hold queue under every interleaving that loom finds: no wake-up is lost, no slot is
//! lost, and nobody is served twice.
//!
//! The module is compiled into this test with loom's primitives in the place of std's.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "only the parts under test are used"
)]

mod sync {
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering, fence};
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

#[path = "../src/pool/hold.rs"]
mod hold;

use hold::{Place, Queue};
use std::sync::Arc;

use sync::{AtomicUsize, Ordering};

/// Slots of a backend, as a pool has them: taken exactly, given back on drop.
struct Slots {
    free: AtomicUsize,
    queue: Arc<Queue<(), Slot>>,
}

struct Slot(Arc<Slots>);

impl Slots {
    fn new(free: usize) -> Arc<Self> {
        Arc::new(Self {
            free: AtomicUsize::new(free),
            queue: Arc::new(Queue::new()),
        })
    }

    fn take(self: &Arc<Self>) -> Option<Slot> {
        self.free
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok()
            .then(|| Slot(Arc::clone(self)))
    }

    fn serve(self: &Arc<Self>) {
        self.queue.serve(|()| self.take());
    }

    /// What a connection does that may find everything taken: it joins, and serves once.
    fn acquire(self: &Arc<Self>) -> Slot {
        if self.queue.is_empty()
            && let Some(slot) = self.take()
        {
            return slot;
        }
        loom::future::block_on(self.join())
    }

    fn join(self: &Arc<Self>) -> Place<(), Slot> {
        let place = self.queue.join((), None, 8).expect("there is room");
        self.serve();
        place
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::SeqCst);
        if !self.0.queue.is_empty() {
            self.0.serve();
        }
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn whoever_waits_for_the_only_slot_gets_it() {
    check(|| {
        let slots = Slots::new(1);
        let other = Arc::clone(&slots);
        let thread = loom::thread::spawn(move || drop(other.acquire()));
        drop(slots.acquire());
        thread.join().expect("the other connection ends");
        assert_eq!(slots.free.load(Ordering::SeqCst), 1);
        assert!(slots.queue.is_empty());
    });
}

#[test]
fn a_waiter_that_leaves_while_it_is_served_passes_the_slot_on() {
    check(|| {
        let slots = Slots::new(1);
        let first = slots.take().expect("the slot is free");
        let leaver = slots.join();
        let stayer = slots.join();
        let thread = loom::thread::spawn(move || drop(first));
        drop(leaver);
        drop(loom::future::block_on(stayer));
        thread.join().expect("the first connection ends");
        assert_eq!(slots.free.load(Ordering::SeqCst), 1);
        assert!(slots.queue.is_empty());
    });
}

#[test]
fn a_backend_that_comes_up_serves_who_joins_at_that_moment() {
    check(|| {
        let slots = Slots::new(0);
        let control = Arc::clone(&slots);
        let thread = loom::thread::spawn(move || {
            control.free.fetch_add(1, Ordering::SeqCst);
            if !control.queue.is_empty() {
                control.serve();
            }
        });
        let slot = loom::future::block_on(slots.join());
        thread.join().expect("the control plane ends");
        drop(slot);
        assert_eq!(slots.free.load(Ordering::SeqCst), 1);
    });
}

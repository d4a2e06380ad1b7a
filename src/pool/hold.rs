//! Where connections wait that no backend can take now: first come, first served.
//!
//! The queue knows nothing of backends. Whoever gives something back calls [`Queue::serve`]
//! with a function that makes a grant for the head, or none; grants go to waiters in order of
//! arrival. A waiter that comes back after a failed grant brings its [`Ticket`] and so keeps
//! its place.
//!
//! *No wake-up is lost*: a giver changes its state, then looks at [`Queue::is_empty`]; a waiter
//! joins, which counts it, then serves the queue itself once. A full fence stands between the
//! two steps of each, so in every order one of them sees the other. A grant that nobody takes any more, because its waiter left in the
//! same moment, is dropped outside the lock, which gives its slot back and serves again.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::sync::{AtomicUsize, Mutex, MutexGuard, Ordering, fence};

/// A place in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A queue of waiters that ask with an `R` and are given a `G`.
#[derive(Debug)]
pub struct Queue<R, G> {
    waiting: AtomicUsize,
    inner: Mutex<Inner<R, G>>,
}

#[derive(Debug)]
struct Inner<R, G> {
    next: u64,
    waiting: BTreeMap<Ticket, Waiter<R>>,
    granted: HashMap<Ticket, G>,
}

#[derive(Debug)]
struct Waiter<R> {
    request: R,
    waker: Option<Waker>,
}

impl<R, G> Queue<R, G> {
    /// An empty queue.
    pub fn new() -> Self {
        let inner = Inner {
            next: 0,
            waiting: BTreeMap::new(),
            granted: HashMap::new(),
        };
        Self {
            waiting: AtomicUsize::new(0),
            inner: Mutex::new(inner),
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether nobody waits. Givers look at this after they gave something back.
    pub fn is_empty(&self) -> bool {
        fence(Ordering::SeqCst);
        self.len() == 0
    }

    /// Joins at the end, or at the place of `ticket`. The caller must serve the queue once
    /// afterwards: what it waits for may have come in between.
    ///
    /// # Errors
    /// [`Full`] where `max` wait already; a ticket gets in all the same.
    pub fn join(
        self: &Arc<Self>,
        request: R,
        ticket: Option<Ticket>,
        max: usize,
    ) -> Result<Place<R, G>, Full> {
        let mut inner = self.lock();
        if ticket.is_none() && inner.waiting.len() >= max {
            return Err(Full);
        }
        let ticket = ticket.unwrap_or_else(|| inner.take_ticket());
        let waiter = Waiter {
            request,
            waker: None,
        };
        inner.waiting.insert(ticket, waiter);
        self.count(&inner);
        fence(Ordering::SeqCst);
        Ok(Place {
            queue: Arc::clone(self),
            ticket,
        })
    }

    /// Grants to waiters from the head on until `grant` gives none. Returns how many got one.
    pub fn serve(&self, mut grant: impl FnMut(&R) -> Option<G>) -> usize {
        let mut served = 0;
        while self.serve_head(&mut grant) {
            served += 1;
        }
        served
    }

    /// Grants to the head alone, if `grant` gives something for it.
    pub fn serve_head(&self, mut grant: impl FnMut(&R) -> Option<G>) -> bool {
        let mut inner = self.lock();
        let Some((&ticket, head)) = inner.waiting.first_key_value() else {
            return false;
        };
        let Some(granted) = grant(&head.request) else {
            return false;
        };
        let waiter = inner.waiting.remove(&ticket);
        inner.granted.insert(ticket, granted);
        self.count(&inner);
        drop(inner);
        if let Some(waker) = waiter.and_then(|waiter| waiter.waker) {
            waker.wake();
        }
        true
    }

    fn count(&self, inner: &Inner<R, G>) {
        self.waiting.store(inner.waiting.len(), Ordering::Relaxed);
    }

    /// A panic while the lock is held leaves the maps whole: each step is one insert or remove.
    fn lock(&self) -> MutexGuard<'_, Inner<R, G>> {
        self.inner
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<R, G> Default for Queue<R, G> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R, G> Inner<R, G> {
    fn take_ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }
}

/// A waiter's place: a future of its grant. Dropping it leaves the queue, and gives back a
/// grant that was not taken.
#[derive(Debug)]
pub struct Place<R, G> {
    queue: Arc<Queue<R, G>>,
    ticket: Ticket,
}

impl<R, G> Place<R, G> {
    /// To come back to this place after a grant that did not work out; this place must be
    /// dropped first.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl<R, G> Future for Place<R, G> {
    type Output = G;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<G> {
        let mut inner = self.queue.lock();
        if let Some(granted) = inner.granted.remove(&self.ticket) {
            return Poll::Ready(granted);
        }
        if let Some(waiter) = inner.waiting.get_mut(&self.ticket) {
            waiter.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl<R, G> Drop for Place<R, G> {
    fn drop(&mut self) {
        let mut inner = self.queue.lock();
        inner.waiting.remove(&self.ticket);
        let untaken = inner.granted.remove(&self.ticket);
        self.queue.count(&inner);
        drop(inner);
        drop(untaken);
    }
}

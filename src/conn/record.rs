//! The record of a connection: begun when it is accepted, closed exactly once, on every path.
//!
//! Dropping a [`Record`] accounts for the connection: in the listener's and the pool's counts,
//! in the histograms, in the access log. A task that panics or is dropped leaves a record
//! without a verdict, which then says so.

use std::cell::{Cell, Ref};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::core::{Core, Entered, Entry};
use super::moving::Passport;
use super::visitor::Visitor;
use super::{Arrival, Origin};
use crate::log::{Access, Pick};
use crate::metrics::{Ended, Rejected};
use crate::net::Address;
use crate::pool::{Backend, Pool};

/// What came of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was admitted, and ended so.
    Ended(Ended),
    /// It was refused before any backend was touched.
    Rejected(Rejected),
    /// It goes on in another process, and has not ended.
    Moved,
}

/// What is known of one connection.
pub(super) struct Record {
    origin: Arc<Origin>,
    entered: Entered,
    accepted_at: SystemTime,
    /// The route that took it.
    pub(super) route: Option<Arc<str>>,
    pool: Option<Arc<Pool>>,
    backend: Option<Arc<Backend>>,
    pub(super) attempts: u32,
    pub(super) pick: Option<Pick>,
    pub(super) held: Option<Duration>,
    holding_since: Option<Instant>,
    pub(super) connect: Option<Duration>,
    pub(super) first_byte: Cell<Option<Duration>>,
    /// Bytes that its backend accepted and that are not counted yet: another backend may get
    /// them, see [`replay`](super::replay).
    late: Cell<u64>,
    /// Bytes that were counted, and that its present backend gets once more.
    copies: Cell<u64>,
    outcome: Option<Outcome>,
}

/// What a connection had with a backend that it may leave.
pub(super) struct Before {
    backend: Option<Arc<Backend>>,
    pick: Option<Pick>,
    connect: Option<Duration>,
    late: u64,
}

impl Record {
    /// Begins the record of what was just accepted.
    pub(super) fn begin(core: &Rc<Core>, arrival: &Arrival) -> Self {
        let entry = Entry::new(
            Arc::clone(&arrival.origin.name),
            arrival.incoming.peer.clone(),
            arrival.accepted,
        );
        Self {
            origin: Arc::clone(&arrival.origin),
            entered: core.enter(entry),
            accepted_at: arrival.accepted_at,
            route: None,
            pool: None,
            backend: None,
            attempts: 0,
            pick: None,
            held: None,
            holding_since: None,
            connect: None,
            first_byte: Cell::new(None),
            late: Cell::new(0),
            copies: Cell::new(0),
            outcome: None,
        }
    }

    /// Goes on with the record of a connection that came from another process, where it was
    /// counted.
    pub(super) fn again(
        core: &Rc<Core>,
        passport: &Passport,
        origin: Arc<Origin>,
        pool: &Arc<Pool>,
        backend: &Arc<Backend>,
    ) -> Self {
        let entry = Entry::again(passport, Instant::now());
        entry.set_pool(Arc::clone(&pool.name));
        entry.set_backend(Some(Arc::clone(&backend.name)));
        Self {
            origin,
            entered: core.enter_as(entry),
            accepted_at: passport.accepted_at,
            route: passport.route.clone(),
            pool: Some(Arc::clone(pool)),
            backend: Some(Arc::clone(backend)),
            attempts: passport.attempts,
            pick: passport.pick,
            held: passport.held,
            holding_since: None,
            connect: passport.connect,
            first_byte: Cell::new(passport.first_byte),
            late: Cell::new(0),
            copies: Cell::new(0),
            outcome: None,
        }
    }

    /// Its line in the core's table.
    pub(super) fn entry(&self) -> Rc<Entry> {
        Rc::clone(&self.entered.entry)
    }

    /// The same, for as long as the record lives.
    pub(super) fn entry_ref(&self) -> &Entry {
        &self.entered.entry
    }

    /// When it was accepted.
    pub(super) fn accepted_at(&self) -> SystemTime {
        self.accepted_at
    }

    /// The listener's name.
    pub(super) fn listener(&self) -> &str {
        &self.origin.name
    }

    /// The listener.
    pub(super) fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// Whom limits, log and statistics know.
    pub(super) fn client(&self) -> Ref<'_, Address> {
        self.entered.entry.client()
    }

    /// It belongs to `pool` from now on.
    pub(super) fn enter_pool(&mut self, pool: &Arc<Pool>) {
        if self.pool.as_ref().is_some_and(|now| Arc::ptr_eq(now, pool)) {
            return;
        }
        if let Some(left) = &self.pool {
            left.counters.here().moved.add(1);
        }
        pool.counters.here().total.add(1);
        self.entered.entry.set_pool(Arc::clone(&pool.name));
        self.pool = Some(Arc::clone(pool));
        self.backend = None;
    }

    /// It ends before it was routed, and belongs where it would have gone had it said nothing: so
    /// that what has ended is the same over all listeners and over all pools.
    fn enter_pool_of_the_silent(&mut self) {
        let silent = Visitor::at(self.client().clone());
        if let Some(routed) = self.origin.route(&silent) {
            self.route = routed.route;
            self.enter_pool(&routed.pool);
        }
    }

    /// The backend it tries, or has.
    pub(super) fn set_backend(&mut self, backend: &Arc<Backend>) {
        self.entered
            .entry
            .set_backend(Some(Arc::clone(&backend.name)));
        self.backend = Some(Arc::clone(backend));
    }

    /// Its backend accepted so many bytes of the client's.
    pub(super) fn delivered_up(&self, bytes: u64) {
        let bytes = self.but_copies(bytes) + self.late.take();
        self.origin.counters.here().bytes_in.add(bytes);
        if let Some(backend) = &self.backend {
            backend.counters.here().bytes_in.add(bytes);
        }
        self.entry_ref().moved(bytes, 0);
    }

    /// The same, to be counted when its backend is settled.
    pub(super) fn hold_back(&self, bytes: u64) {
        self.late.set(self.late.get() + self.but_copies(bytes));
    }

    /// Its backend is settled.
    pub(super) fn settle(&self) {
        if self.late.get() > 0 {
            self.delivered_up(0);
        }
    }

    fn but_copies(&self, bytes: u64) -> u64 {
        let copies = self.copies.get().min(bytes);
        if copies > 0 {
            self.copies.set(self.copies.get() - copies);
        }
        bytes - copies
    }

    /// It looks for another backend, which gets anew what this one has accepted.
    pub(super) fn leave_backend(&mut self) -> Before {
        Before {
            backend: self.backend.clone(),
            pick: self.pick,
            connect: self.connect,
            late: self.late.take(),
        }
    }

    /// It found none: it is with the one in `pool` that it had.
    pub(super) fn return_to(&mut self, pool: &Arc<Pool>, before: Before) {
        self.enter_pool(pool);
        if let Some(backend) = &before.backend {
            self.set_backend(backend);
        }
        self.pick = before.pick;
        self.connect = before.connect;
        self.late.set(before.late);
    }

    /// It found one, which gets first what was counted already.
    pub(super) fn repeats(&mut self) {
        self.copies.set(self.entry_ref().bytes().0);
    }

    /// It is held from now on.
    pub(super) fn begin_hold(&mut self) {
        self.holding_since = Some(Instant::now());
    }

    /// It is not held any more.
    pub(super) fn end_hold(&mut self) {
        if let Some(since) = self.holding_since.take() {
            *self.held.get_or_insert_default() += since.elapsed();
        }
    }

    /// Gives the verdict; dropping the record then accounts for it.
    pub(super) fn close(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    fn count(&self, outcome: Outcome, duration: Duration) {
        let listener = self.origin.counters.here();
        let ended = match outcome {
            Outcome::Rejected(why) => return listener.rejected[why as usize].add(1),
            Outcome::Ended(ended) => ended,
            Outcome::Moved => return,
        };
        listener.ended[ended as usize].add(1);
        if let Some(pool) = &self.pool {
            pool.counters.here().ended[ended as usize].add(1);
            pool.duration_seconds.record(duration);
            if let Some(held) = self.held {
                pool.hold_seconds.record(held);
            }
        }
        if let Some(backend) = &self.backend {
            backend.duration_seconds.record(duration);
        }
    }

    fn write(&self, outcome: Outcome, duration: Duration) {
        let ended = match outcome {
            Outcome::Rejected(why) => {
                let log = self.entered.core().log();
                return log.rejected(&self.origin.rejections, &self.client(), why, Instant::now());
            }
            Outcome::Ended(ended) => ended,
            Outcome::Moved => return,
        };
        let log = self.entered.core().log();
        if !log.access_enabled() {
            return;
        }
        let (bytes_in, bytes_out) = self.entered.entry.bytes();
        log.access(Access {
            id: self.entered.entry.id(),
            accepted_at: self.accepted_at,
            listener: Arc::clone(&self.origin.name),
            route: self.route.clone(),
            client: self.client().clone(),
            pool: self.pool.as_ref().map(|pool| Arc::clone(&pool.name)),
            backend: self
                .backend
                .as_ref()
                .map(|backend| Arc::clone(&backend.name)),
            bytes_in,
            bytes_out,
            hold: self.held,
            connect: self.connect,
            first_byte: self.first_byte.get(),
            duration,
            attempts: self.attempts,
            pick: self.pick,
            ended: ended.as_str(),
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end_hold();
        self.settle();
        let outcome = self
            .outcome
            .unwrap_or(Outcome::Ended(match std::thread::panicking() {
                true => Ended::Internal,
                false => Ended::Killed,
            }));
        if matches!(outcome, Outcome::Ended(_)) && self.pool.is_none() {
            self.enter_pool_of_the_silent();
        }
        let duration = self.entry_ref().accepted().elapsed();
        self.count(outcome, duration);
        self.write(outcome, duration);
    }
}

//! One backend as the data plane sees it: where it is, what it has, what it may take.
//!
//! A [`Backend`] outlives every snapshot it is part of: leases hold it by `Arc`, so that a
//! backend that was removed and added again never receives the counts of its predecessor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::conduct::{Admission, Conduct};
use super::quality::Quality;
use crate::balance::{PeakEwma, consistent_hash};
use crate::config;
use crate::metrics::ledger::{Named, by_word};
use crate::metrics::{ConnectFailure, Counter, Failure, Histogram, PerCore};
use crate::net::{Address, Location};

/// Connects in progress to one backend that held clients may start with; each success
/// allows one more.
const RELEASE_WINDOW: u32 = 4;

/// What one core counts for one backend.
#[derive(Debug, Default)]
pub struct BackendCounters {
    /// Connections that picked it.
    pub total: Counter,
    /// Connects that failed, faults of this machine left out.
    pub failed: Counter,
    /// Picks that were not the connection's first.
    pub retried: Counter,
    /// Connections that it ended at once: closed, and reset, before its first byte.
    pub ended_early: [Counter; 2],
    /// The same as `failed` by [`ConnectFailure`].
    pub connect_failures: [Counter; ConnectFailure::COUNT],
    /// Payload it accepted, in bytes.
    pub bytes_in: Counter,
    /// Payload of its that clients accepted, in bytes.
    pub bytes_out: Counter,
    /// Bytes that TCP has sent to it, retransmitted ones included, as far as it was asked.
    pub tcp_sent: Counter,
    /// Of those, what was retransmitted.
    pub tcp_retransmitted: Counter,
    /// Checks it passed.
    pub checks_passed: Counter,
    /// Checks it failed.
    pub checks_failed: Counter,
}

impl Named for BackendCounters {
    fn each<'a>(&'a self, tell: &mut dyn FnMut(&str, &'a Counter)) {
        tell("total", &self.total);
        tell("failed", &self.failed);
        tell("retried", &self.retried);
        tell("bytes_in", &self.bytes_in);
        tell("bytes_out", &self.bytes_out);
        tell("tcp_sent", &self.tcp_sent);
        tell("tcp_retransmitted", &self.tcp_retransmitted);
        tell("checks_passed", &self.checks_passed);
        tell("checks_failed", &self.checks_failed);
        let words = [Failure::EarlyClose, Failure::EarlyReset].map(Failure::as_str);
        by_word("ended_early", &words, &self.ended_early, tell);
        let failures = &self.connect_failures;
        by_word("connect_failures", ConnectFailure::WORDS, failures, tell);
    }
}

/// A backend of a pool.
#[derive(Debug)]
pub struct Backend {
    /// Its name, unique in the pool. The allocation is this backend's own: who knows the name
    /// by this very pointer has to do with it, and not with one that was removed and had the
    /// same name.
    pub name: Arc<str>,
    /// Where it is dialled; the name itself while no address of it is known.
    pub location: Location,
    /// What is counted for it.
    pub counters: PerCore<BackendCounters>,
    /// How long connects took that succeeded.
    pub connect_seconds: Histogram,
    /// From the first moment it could answer to its first byte.
    pub first_byte_seconds: Histogram,
    /// From the accept to the end of connections it had.
    pub duration_seconds: Histogram,
    /// What the kernel has told of its connections.
    pub quality: Quality,
    identity: u64,
    active: AtomicU32,
    connecting: AtomicU32,
    /// 0: no limit.
    limit: AtomicU32,
    /// 0: no cap.
    connecting_cap: AtomicU32,
    window: AtomicU32,
    /// Of `active`, how many another process of this balancer has.
    elsewhere: AtomicU32,
    /// No more than this of `active`, whatever the limit: the rest is another process's.
    ceiling: AtomicU32,
    resting: AtomicBool,
    latency: ArcSwap<PeakEwma>,
    suspected: AtomicBool,
    nudge: Notify,
    /// What its connections have shown.
    pub(super) conduct: Conduct,
}

/// Who asks for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A connection on its way.
    Arriving,
    /// The head of the hold queue, because something was given back.
    Held,
    /// The head of the hold queue, because it is time to try again.
    Tick,
}

/// Why somebody cannot have a slot of a backend now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It has as many connections as it may.
    Limit,
    /// As many connects are in progress as may be.
    Connecting,
    /// The last connect failed, and those that are held wait for the next tick.
    Resting,
    /// The connection has tried it already.
    Tried,
    /// It has more connections than `max_load` lets it have. Told of by explanations alone: the
    /// strategy sees to it.
    Load,
    /// It was ejected in this moment.
    Ejected,
    /// Its ejection has expired, and one connection tries it.
    Trying,
}

impl Backend {
    /// A backend with no connection, for `cores` data cores.
    pub(super) fn new(
        settings: &config::Backend,
        pool: &config::Pool,
        cores: usize,
        now: Instant,
    ) -> Self {
        Self {
            name: Arc::from(&*settings.name),
            location: settings.address.clone(),
            counters: PerCore::new(cores),
            connect_seconds: Histogram::new(cores),
            first_byte_seconds: Histogram::new(cores),
            duration_seconds: Histogram::new(cores),
            quality: Quality::new(!matches!(
                settings.address,
                Location::Address(Address::Unix(_))
            )),
            identity: consistent_hash::identity(&settings.name),
            active: AtomicU32::new(0),
            connecting: AtomicU32::new(0),
            limit: AtomicU32::new(settings.max_connections),
            connecting_cap: AtomicU32::new(pool.max_connecting),
            window: AtomicU32::new(RELEASE_WINDOW),
            elsewhere: AtomicU32::new(0),
            ceiling: AtomicU32::new(u32::MAX),
            resting: AtomicBool::new(false),
            latency: ArcSwap::from_pointee(PeakEwma::new(pool.latency.decay, now)),
            suspected: AtomicBool::new(false),
            nudge: Notify::new(),
            conduct: Conduct::new(now),
        }
    }

    /// Takes new limits; counts stay.
    pub(super) fn retune(&self, settings: &config::Backend, pool: &config::Pool) {
        self.limit
            .store(settings.max_connections, Ordering::Relaxed);
        self.connecting_cap
            .store(pool.max_connecting, Ordering::Relaxed);
        let latency = self.latency.load();
        if latency.decay() != pool.latency.decay {
            let other = latency.with_decay(pool.latency.decay, Instant::now());
            self.latency.store(Arc::new(other));
        }
    }

    /// Where it is dialled.
    ///
    /// # Panics
    /// If it is a name of which no address is known. Such a one is never picked.
    pub fn address(&self) -> &Address {
        let address = self.location.address();
        address.expect("what is not resolved is in no tier")
    }

    /// Connections it has now, those still connecting included.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::SeqCst)
    }

    /// Connects in progress.
    pub fn connecting(&self) -> u32 {
        self.connecting.load(Ordering::SeqCst)
    }

    /// Most connections at once; 0: no limit.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Hash of its name, see [`consistent_hash`].
    pub(super) fn identity(&self) -> u64 {
        self.identity
    }

    /// Moving average of its latency in seconds, as of `now`.
    pub(super) fn latency(&self, now: Instant) -> Option<f64> {
        self.latency.load().seconds(now)
    }

    /// Why `asker` could not have a slot now; `None`: it could.
    #[inline]
    pub(super) fn obstacle(&self, asker: Asker) -> Option<Obstacle> {
        let active = self.active();
        if !below(active, self.limit()) || active >= self.ceiling.load(Ordering::Relaxed) {
            return Some(Obstacle::Limit);
        }
        if !below(self.connecting(), self.cap(asker)) {
            return Some(Obstacle::Connecting);
        }
        if asker == Asker::Held && self.is_resting() {
            return Some(Obstacle::Resting);
        }
        self.conduct.obstacle()
    }

    /// Takes a slot for `asker`, exactly: limits hold under any concurrency.
    pub(super) fn reserve(&self, asker: Asker) -> Option<Admission> {
        if asker == Asker::Held && self.resting.load(Ordering::Relaxed) {
            return None;
        }
        let admission = self.conduct.enter()?;
        let reserved = self.count_in(asker);
        if !reserved && admission == Admission::Trial {
            self.conduct.give_back_trial();
        }
        reserved.then_some(admission)
    }

    fn count_in(&self, asker: Asker) -> bool {
        if !count_up(&self.connecting, self.cap(asker)) {
            return false;
        }
        let reserved = count_up(&self.active, self.limit()) && self.is_under_ceiling();
        if !reserved {
            self.connecting.fetch_sub(1, Ordering::SeqCst);
        }
        reserved
    }

    /// Whether the slot that was just counted is within the ceiling; else it is given back.
    ///
    /// Whoever lowers the ceiling stores it and then looks at `active`; this has counted and
    /// then looks at the ceiling: one of the two sees the other.
    fn is_under_ceiling(&self) -> bool {
        let under = self.active() <= self.ceiling.load(Ordering::SeqCst);
        if !under {
            self.release();
        }
        under
    }

    /// Another process of this balancer has `n` connections to it, which count here as well,
    /// without regard to limits. How many it had before.
    pub(super) fn set_elsewhere(&self, n: u32) -> u32 {
        let before = self.elsewhere.swap(n, Ordering::SeqCst);
        self.active
            .fetch_add(n.wrapping_sub(before), Ordering::SeqCst);
        before
    }

    /// Of its active connections, how many another process of this balancer has.
    pub fn elsewhere(&self) -> u32 {
        self.elsewhere.load(Ordering::SeqCst)
    }

    /// A connection came from another process: it was counted already, or is now.
    pub(super) fn adopt(&self) {
        let counted = self
            .elsewhere
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if counted.is_err() {
            self.active.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Lets this process have at most `most` connections to it; [`u32::MAX`]: no such limit.
    /// Those that it has at this moment.
    pub fn set_ceiling(&self, most: u32) -> u32 {
        self.ceiling.store(most, Ordering::SeqCst);
        self.active()
    }

    /// A connection moves to another process, and its slot with it.
    pub fn lower_ceiling(&self) {
        let _ = self
            .ceiling
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |most| match most {
                u32::MAX => None,
                most => Some(most.saturating_sub(1)),
            });
    }

    /// See [`set_ceiling`](Self::set_ceiling).
    pub fn ceiling(&self) -> u32 {
        self.ceiling.load(Ordering::SeqCst)
    }

    /// Most connects in progress for `asker`; 0: no cap.
    pub(super) fn cap(&self, asker: Asker) -> u32 {
        let cap = self.connecting_cap.load(Ordering::Relaxed);
        if asker == Asker::Arriving {
            return cap;
        }
        let window = self.window.load(Ordering::Relaxed);
        if cap == 0 { window } else { window.min(cap) }
    }

    /// A connect is no longer in progress.
    pub(super) fn end_connect(&self) {
        self.connecting.fetch_sub(1, Ordering::SeqCst);
    }

    /// A connection is gone.
    pub(super) fn release(&self) {
        self.active.fetch_sub(1, Ordering::SeqCst);
    }

    /// A connect succeeded: held clients may go on, one more at a time than before.
    pub(super) fn open_window(&self) {
        self.resting.store(false, Ordering::Relaxed);
        let _ = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
                window.checked_add(1)
            });
    }

    /// A connect failed: held clients are not offered this backend until the next tick.
    pub(super) fn rest(&self) {
        self.resting.store(true, Ordering::Relaxed);
        self.reset_window();
    }

    /// Nobody is held any more, or the backend starts afresh.
    pub(super) fn reset_window(&self) {
        self.window.store(RELEASE_WINDOW, Ordering::Relaxed);
    }

    /// A check has seen it accept, or its trial is due: held clients may go on.
    pub(super) fn wake(&self) {
        self.resting.store(false, Ordering::Relaxed);
    }

    /// One more latency, by `pool.NAME.latency.of`.
    pub(super) fn observe_latency(&self, sample: Duration, now: Instant) {
        self.latency.load().sample(sample, now);
    }

    /// Whether held clients are not offered it until the next tick.
    pub(super) fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }

    /// A connect failed that says something about it: its state is in doubt.
    pub(super) fn suspect(&self) {
        self.suspected.store(true, Ordering::Relaxed);
        self.nudge();
    }

    /// Whether its state came in doubt since the last call.
    pub(super) fn take_suspicion(&self) -> bool {
        self.suspected.swap(false, Ordering::Relaxed)
    }

    /// Asks for a check soon.
    pub(super) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Completes when a check soon was asked for.
    pub async fn nudged(&self) {
        self.nudge.notified().await;
    }
}

fn below(count: u32, limit: u32) -> bool {
    limit == 0 || count < limit
}

fn count_up(count: &AtomicU32, limit: u32) -> bool {
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
            below(n, limit).then_some(n.wrapping_add(1))
        })
        .is_ok()
}

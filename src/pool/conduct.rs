//! What live connections have shown of one backend, as every core writes it and every pick
//! reads it: failures in a row, and whether new connections may come in.
//!
//! Only atomics, and none is written on behalf of a connection that goes well on a backend that
//! is well: a success looks whether there is a streak to end, a pick looks at the [`Gate`].
//!
//! ```text
//!        convicted            time is over           a connection comes in
//! Open -----------> Ejected --------------> Due <------------------------> Trying
//!   ^                  ^                       it shows nothing               |
//!   |                  +------------------------------------------------------+
//!   +---------------------------- it succeeds --------------------------- it fails
//! ```
//!
//! Cores close the gate (under the lock of the [docket](super::passive)) and come in by it;
//! only the control plane opens it.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::backend::Obstacle;

/// Times before the epoch can be told too, back to more than the longest ejection: those that
/// another process knew.
const BEFORE: Duration = Duration::from_secs(400 * 24 * 3600);

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Gate {
    /// Everybody.
    Open = 0,
    /// Nobody.
    Ejected = 1,
    /// One connection, as a trial.
    Due = 2,
    /// Nobody until the trial has shown something.
    Trying = 3,
}

impl Gate {
    const ALL: [Self; 4] = [Self::Open, Self::Ejected, Self::Due, Self::Trying];
}

/// As what a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// As any other.
    Ordinary,
    /// As the one that tries a backend whose ejection has expired.
    Trial,
}

/// What is known of one backend by its connections.
#[derive(Debug)]
pub(super) struct Conduct {
    gate: AtomicU8,
    /// Failures since the last success.
    streak: AtomicU32,
    /// What the times below count from, in nanoseconds, less [`BEFORE`].
    epoch: Instant,
    /// When it last failed, or returned.
    quiet_from: AtomicU64,
    /// After so long without a failure its ejections are forgiven; 0: there are none, or they
    /// are.
    forgive_after: AtomicU64,
}

impl Conduct {
    /// Nothing is known.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            gate: AtomicU8::new(Gate::Open as u8),
            streak: AtomicU32::new(0),
            epoch: now,
            quiet_from: AtomicU64::new(0),
            forgive_after: AtomicU64::new(0),
        }
    }

    /// Who may come in.
    #[inline]
    pub(super) fn gate(&self) -> Gate {
        Gate::ALL[usize::from(self.gate.load(Ordering::SeqCst) & 3)]
    }

    /// Lets in who `gate` says from now on.
    pub(super) fn set_gate(&self, gate: Gate) {
        self.gate.store(gate as u8, Ordering::SeqCst);
    }

    /// Whether the next connection is a trial.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.gate() == Gate::Due
    }

    fn swap_gate(&self, from: Gate, to: Gate) -> bool {
        let (from, to) = (from as u8, to as u8);
        let swapped = self
            .gate
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        swapped.is_ok()
    }

    /// Why nobody may come in now.
    #[inline]
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        match self.gate() {
            Gate::Open | Gate::Due => None,
            Gate::Ejected => Some(Obstacle::Ejected),
            Gate::Trying => Some(Obstacle::Trying),
        }
    }

    /// Comes in. A trial must be given back, or show something.
    pub(super) fn enter(&self) -> Option<Admission> {
        match self.gate() {
            Gate::Open => Some(Admission::Ordinary),
            Gate::Due => self
                .swap_gate(Gate::Due, Gate::Trying)
                .then_some(Admission::Trial),
            Gate::Ejected | Gate::Trying => None,
        }
    }

    /// The trial has shown nothing: the next connection is one.
    pub(super) fn give_back_trial(&self) {
        let _ = self.swap_gate(Gate::Trying, Gate::Due);
    }

    /// Whether it matters that something goes well.
    pub(super) fn is_doubted(&self) -> bool {
        self.streak() > 0 || self.gate() == Gate::Trying
    }

    /// Failures since the last success.
    pub(super) fn streak(&self) -> u32 {
        self.streak.load(Ordering::Relaxed)
    }

    /// It went well.
    #[inline]
    pub(super) fn succeed(&self) {
        if self.streak() > 0 {
            self.streak.store(0, Ordering::Relaxed);
        }
    }

    /// It went wrong; the failures in a row, this one included.
    pub(super) fn fail(&self, now: Instant) -> u32 {
        let now = self.since_epoch(now);
        let quiet = now.saturating_sub(self.quiet_from.swap(now, Ordering::Relaxed));
        let wanted = self.forgive_after.load(Ordering::Relaxed);
        if wanted > 0 && quiet >= wanted {
            self.forgive_after.store(0, Ordering::Relaxed);
        }
        let longer = |streak: u32| Some(streak.saturating_add(1));
        let before = self
            .streak
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, longer);
        before.map_or(1, |before| before.saturating_add(1))
    }

    /// It is back `now`: so long without a failure, and what it was ejected for is forgiven.
    pub(super) fn return_after(&self, ejection: Duration, now: Instant) {
        self.streak.store(0, Ordering::Relaxed);
        self.quiet_from
            .store(self.since_epoch(now), Ordering::Relaxed);
        self.forgive_after
            .store(nanoseconds(ejection).max(1), Ordering::Relaxed);
    }

    /// Whether the next ejection is as if it were the first.
    pub(super) fn is_forgiven(&self) -> bool {
        self.forgive_after.load(Ordering::Relaxed) == 0
    }

    /// What another process is to know.
    pub(super) fn memory(&self, now: Instant) -> (u32, Duration, Duration) {
        let quiet_from = self.quiet_from.load(Ordering::Relaxed);
        let quiet = self.since_epoch(now).saturating_sub(quiet_from);
        let forgive_after = self.forgive_after.load(Ordering::Relaxed);
        let (quiet, forgive_after) = (
            Duration::from_nanos(quiet),
            Duration::from_nanos(forgive_after),
        );
        (self.streak(), quiet, forgive_after)
    }

    /// Goes on from what another process knew.
    pub(super) fn remember(
        &self,
        (streak, quiet, forgive_after): (u32, Duration, Duration),
        now: Instant,
    ) {
        self.streak.store(streak, Ordering::Relaxed);
        let quiet_from = self.since_epoch(now).saturating_sub(nanoseconds(quiet));
        self.quiet_from.store(quiet_from, Ordering::Relaxed);
        self.forgive_after
            .store(nanoseconds(forgive_after), Ordering::Relaxed);
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.epoch) + BEFORE)
    }
}

/// Saturates after 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_connection_comes_in_as_a_trial_and_the_next_when_it_showed_nothing() {
        let conduct = Conduct::new(Instant::now());
        assert_eq!(conduct.enter(), Some(Admission::Ordinary));
        conduct.set_gate(Gate::Ejected);
        assert_eq!(conduct.enter(), None);
        assert_eq!(conduct.obstacle(), Some(Obstacle::Ejected));
        conduct.give_back_trial();
        assert_eq!(conduct.gate(), Gate::Ejected, "there was none");
        conduct.set_gate(Gate::Due);
        assert_eq!(conduct.obstacle(), None);
        assert_eq!(conduct.enter(), Some(Admission::Trial));
        assert_eq!(conduct.enter(), None);
        assert_eq!(conduct.obstacle(), Some(Obstacle::Trying));
        conduct.give_back_trial();
        assert_eq!(conduct.enter(), Some(Admission::Trial));
    }

    #[test]
    fn of_many_threads_one_has_the_trial() {
        let conduct = Conduct::new(Instant::now());
        conduct.set_gate(Gate::Due);
        let trials = std::thread::scope(|scope| {
            let enter = || conduct.enter() == Some(Admission::Trial);
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(enter)).collect();
            let came = threads.into_iter().map(|t| t.join().expect("no panic"));
            came.filter(|trial| *trial).count()
        });
        assert_eq!(trials, 1);
    }

    #[test]
    fn a_success_ends_the_row() {
        let start = Instant::now();
        let conduct = Conduct::new(start);
        assert!(!conduct.is_doubted());
        let row: Vec<_> = (0..4).map(|_| conduct.fail(start)).collect();
        assert_eq!(row, [1, 2, 3, 4]);
        assert!(conduct.is_doubted());
        conduct.succeed();
        assert_eq!(conduct.fail(start), 1);
    }

    /// Steps: it returns after 10 s out and fails after 9 s, then after 9 s more, then after 10 s.
    #[test]
    fn as_long_without_a_failure_as_it_was_out_is_forgiven() {
        let start = Instant::now();
        let conduct = Conduct::new(start);
        assert!(conduct.is_forgiven(), "nothing to forgive");
        conduct.return_after(SECOND * 10, start);
        for (seconds, forgiven) in [(9, false), (18, false), (28, true), (29, true)] {
            conduct.fail(start + SECOND * seconds);
            assert_eq!(conduct.is_forgiven(), forgiven, "after {seconds} s");
        }
    }

    #[test]
    fn another_process_goes_on_with_the_row_and_with_forgiving() {
        let start = Instant::now();
        let old = Conduct::new(start);
        old.return_after(SECOND * 10, start);
        old.fail(start + SECOND * 2);
        let new = Conduct::new(start + SECOND * 8);
        new.remember(old.memory(start + SECOND * 8), start + SECOND * 8);
        assert_eq!(new.streak(), 1);
        new.fail(start + SECOND * 11);
        assert!(!new.is_forgiven(), "9 s since the failure before");
        let new = Conduct::new(start + SECOND * 8);
        new.remember(old.memory(start + SECOND * 8), start + SECOND * 8);
        new.fail(start + SECOND * 12);
        assert!(new.is_forgiven(), "10 s");
        new.remember(
            Conduct::new(start).memory(start + SECOND),
            start + SECOND * 13,
        );
        assert!(new.is_forgiven() && new.streak() == 0);
    }
}

//! Ejections: how long one lasts, and who may be ejected at all.
//!
//! Pure: times come in, nothing is counted here. What counts as a failure is told by
//! [`Lease`](super::Lease), who may come in meanwhile by [`conduct`](super::conduct).
//!
//! # Rules
//!
//! - The n-th ejection in a row lasts `eject_for × 2^(n - 1)`, at most [`LONGEST`] unless
//!   `eject_for` itself is longer. Ejections are in a row until the backend has been back for as
//!   long as its last one lasted without a failure.
//! - The share of ejected is what it would be *after* the ejection, over all backends of the pool
//!   that are no backups, whatever their state. (Envoy looked before the ejection for years, and
//!   ejected the whole of a small cluster.) To eject a backup does not change it.
//! - Some other backend must be usable: up, ready, with a weight, not ejected. This holds for one
//!   that fails its trial too: where no other is left, it is better than nobody.
//! - One that is on trial counts as ejected until it has returned.

use std::time::{Duration, Instant, SystemTime};

/// The most that doubling makes of an ejection.
const LONGEST: Duration = Duration::from_secs(300);

/// The ejections of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outlier {
    /// How often in a row it has been.
    times: u32,
    now: Option<Ejection>,
}

/// An ejection that goes on, its trial included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ejection {
    /// When it expires.
    pub(super) until: Instant,
    /// The same by the wall clock.
    pub(super) until_at: SystemTime,
    /// How long it is in all.
    pub(super) length: Duration,
}

impl Outlier {
    /// One that had been ejected so often, and may still be.
    pub(super) fn new(times: u32, now: Option<Ejection>) -> Self {
        Self { times, now }
    }

    /// Ejects it, again where it is on trial. `forgiven`: as if it were for the first time.
    pub(super) fn eject(
        &mut self,
        eject_for: Duration,
        forgiven: bool,
        now: Instant,
        at: SystemTime,
    ) -> Duration {
        if forgiven {
            self.times = 0;
        }
        let length = length(eject_for, self.times);
        self.times = self.times.saturating_add(1);
        self.now = Some(Ejection {
            until: now.checked_add(length).unwrap_or(now),
            until_at: at.checked_add(length).unwrap_or(at),
            length,
        });
        length
    }

    /// It is back; how long it was out the last time.
    pub(super) fn release(&mut self) -> Option<Duration> {
        self.now.take().map(|ejection| ejection.length)
    }

    /// The ejection that goes on.
    pub(super) fn ejection(&self) -> Option<&Ejection> {
        self.now.as_ref()
    }

    /// How often in a row it has been.
    pub(super) fn times(&self) -> u32 {
        self.times
    }
}

fn length(eject_for: Duration, times: u32) -> Duration {
    let doubled = 2_u32
        .checked_pow(times)
        .and_then(|factor| eject_for.checked_mul(factor))
        .unwrap_or(Duration::MAX);
    doubled.min(LONGEST).max(eject_for)
}

/// A backend of the pool, as it counts for the ejection of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) backup: bool,
    /// Up by checks, ready, and with a weight.
    pub(super) serves: bool,
    /// Ejected, or on trial.
    pub(super) ejected: bool,
}

/// Why a backend that fails is not ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spared {
    /// It gets no new connections anyway.
    Idle,
    /// No other is usable.
    Last,
    /// Too many would be out.
    Share,
}

impl Spared {
    /// In words.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "it takes no new connections",
            Self::Last => "no other backend is usable",
            Self::Share => "max_ejected_percent is reached",
        }
    }
}

/// Whether number `index` of `seats` may be ejected, now or again.
///
/// # Errors
/// [`Spared`]: it may not.
pub(super) fn may_eject(seats: &[Seat], index: usize, max_percent: u32) -> Result<(), Spared> {
    let Some(candidate) = seats.get(index).filter(|seat| seat.serves) else {
        return Err(Spared::Idle);
    };
    let others = || {
        let all = seats.iter().enumerate();
        all.filter(move |(i, _)| *i != index).map(|(_, seat)| seat)
    };
    if !others().any(|seat| seat.serves && !seat.ejected) {
        return Err(Spared::Last);
    }
    if candidate.backup {
        return Ok(());
    }
    let ejected = 1 + others().filter(|seat| !seat.backup && seat.ejected).count();
    let all = seats.iter().filter(|seat| !seat.backup).count();
    match ejected as u64 * 100 <= all as u64 * u64::from(max_percent) {
        true => Ok(()),
        false => Err(Spared::Share),
    }
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;

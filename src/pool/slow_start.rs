//! Slow start: the share of a backend that comes back, or is new, grows from a tenth of its
//! weight to the whole.
//!
//! Pure: times come in. The growth is even, `0.1 + 0.9 × t / slow_start`, in [`FULL`] − [`FIRST`]
//! = 18 steps of a twentieth of the weight each, rounded down. HAProxy steps by a twentieth of the
//! time as well (`slowstart / 20`, but at least a second). Finer steps would publish more
//! snapshots and show nobody a difference; with steps of a tenth the first would double the load
//! of a cold backend.
//!
//! While one ramps all weights of its tier are counted in twentieths, so that they stay whole
//! numbers and round robin stays exact; a step goes on with the sequence, or a rare
//! connection would find it at its beginning each time and never come to the ramping one.

use std::time::{Duration, Instant};

/// Twentieths of the weight that a backend begins with.
pub(super) const FIRST: u32 = 2;
/// The whole, in twentieths.
pub(super) const FULL: u32 = 20;

/// A backend on its way to its whole weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ramp {
    since: Instant,
    level: u32,
}

impl Ramp {
    /// Begins `now`; none, where the whole is had at once.
    pub(super) fn begin(length: Duration, now: Instant) -> Option<Self> {
        Self::resume(Duration::ZERO, length, now)
    }

    /// One that began so long ago; none, where it is over.
    pub(super) fn resume(ago: Duration, length: Duration, now: Instant) -> Option<Self> {
        let level = level(ago, length);
        let since = now.checked_sub(ago).unwrap_or(now);
        (level < FULL).then_some(Self { since, level })
    }

    /// Twentieths of the weight, as of the last [`advance`](Self::advance).
    pub(super) fn level(&self) -> u32 {
        self.level
    }

    /// Since when.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Takes the step that is due, if one is. At [`FULL`] it is over.
    pub(super) fn advance(&mut self, length: Duration, now: Instant) -> bool {
        let level = level(now.saturating_duration_since(self.since), length);
        std::mem::replace(&mut self.level, level) != level
    }

    /// When the next step is due.
    pub(super) fn next(&self, length: Duration) -> Instant {
        let steps = u128::from(self.level + 1 - FIRST);
        let nanoseconds = (length.as_nanos() * steps).div_ceil(u128::from(FULL - FIRST));
        let after = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
        self.since + Duration::from_nanos(after)
    }
}

/// Twentieths of the weight so long after the beginning.
fn level(elapsed: Duration, length: Duration) -> u32 {
    if elapsed >= length {
        return FULL;
    }
    let steps = u128::from(FULL - FIRST) * elapsed.as_nanos() / length.as_nanos();
    FIRST + u32::try_from(steps).unwrap_or(FULL - FIRST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_begins_with_a_tenth_and_ends_with_the_whole() {
        let now = Instant::now();
        let length = Duration::from_secs(18);
        let mut ramp = Ramp::begin(length, now).expect("a ramp");
        assert_eq!(f64::from(ramp.level()) / f64::from(FULL), 0.1);
        let mut levels = Vec::new();
        for second in 1..=18 {
            assert_eq!(ramp.next(length), now + Duration::from_secs(second));
            assert!(!ramp.advance(length, ramp.next(length) - Duration::from_nanos(1)));
            assert!(ramp.advance(length, ramp.next(length)));
            levels.push(ramp.level());
        }
        assert_eq!(levels, (3..=20).collect::<Vec<_>>());
    }

    #[test]
    fn without_a_length_there_is_none_and_a_shorter_one_ends_it() {
        let now = Instant::now();
        assert_eq!(Ramp::begin(Duration::ZERO, now), None);
        let mut ramp = Ramp::begin(Duration::from_secs(60), now).expect("a ramp");
        assert!(ramp.advance(Duration::from_secs(5), now + Duration::from_secs(6)));
        assert_eq!(ramp.level(), FULL);
    }

    #[test]
    fn another_process_goes_on_where_it_was() {
        let now = Instant::now();
        let length = Duration::from_secs(18);
        let ramp = Ramp::resume(Duration::from_secs(9), length, now).expect("a ramp");
        assert_eq!(ramp.level(), 11);
        assert_eq!(Ramp::resume(length, length, now), None);
    }

    proptest! {
        /// Whatever the length: each step is due when it is said to be, and never before.
        #[test]
        fn the_next_step_is_due_at_its_time(millis in 1u64..100_000_000, early in 1u64..1000) {
            let (now, length) = (Instant::now(), Duration::from_millis(millis));
            let mut ramp = Ramp::begin(length, now).expect("a ramp");
            while ramp.level() < FULL {
                let (before, next) = (ramp.level(), ramp.next(length));
                ramp.advance(length, next - Duration::from_nanos(early).min(next - now));
                prop_assert_eq!(ramp.level(), before);
                ramp.advance(length, next);
                prop_assert_eq!(ramp.level(), before + 1);
            }
            prop_assert_eq!(ramp.since(), now);
        }
    }
}

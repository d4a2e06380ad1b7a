//! A token bucket, in whole numbers.
//!
//! A rate of N in a time U fills a bucket of N tokens, evenly, from empty to full in U. Time is
//! in ticks of a microsecond; what is in the bucket is counted in shares of a token, of which
//! each tick brings N and a token is U. So nothing is ever rounded, whatever the rate and however
//! often anybody looks: in any time t at most N + N × t / U tokens are taken.
//!
//! ```text
//! level ≤ N × U < 2^32 × 3.6e9 < 2^64
//! ```

use std::time::{Duration, Instant};

use crate::config::Rate;

/// A rate, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Tokens that fill a bucket; shares of one that a tick brings.
    count: u64,
    /// Ticks until an empty bucket is full; shares that are a token.
    unit: u64,
}

impl Pace {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            count: rate.count().into(),
            unit: ticks(rate.per()),
        }
    }

    fn full(self) -> u64 {
        self.count * self.unit
    }
}

/// Tokens at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Shares of a token.
    level: u64,
    /// When that was so, in ticks.
    at: u64,
}

impl Bucket {
    /// One that nobody took from yet.
    pub(super) fn full(pace: Pace, now: u64) -> Self {
        Self {
            level: pace.full(),
            at: now,
        }
    }

    /// The bucket at a later time. One that is earlier changes nothing: clocks of two cores are
    /// read in one order, and their locks may be taken in another.
    pub(super) fn until(self, pace: Pace, now: u64) -> Self {
        let ticks = now.saturating_sub(self.at);
        let missing = pace.full() - self.level;
        let come = match ticks < pace.unit {
            true => missing.min(ticks * pace.count),
            false => missing,
        };
        Self {
            level: self.level + come,
            at: self.at.max(now),
        }
    }

    /// The bucket without one of its tokens; `None`: it has none.
    pub(super) fn take(self, pace: Pace) -> Option<Self> {
        let level = self.level.checked_sub(pace.unit)?;
        Some(Self { level, ..self })
    }

    /// Whether it can be forgotten: a new one is as good.
    pub(super) fn is_full(self, pace: Pace) -> bool {
        self.level == pace.full()
    }

    /// What somebody is told of it.
    pub(super) fn tokens(self, pace: Pace) -> Tokens {
        let missing = pace.unit.saturating_sub(self.level);
        Tokens {
            left: self.level / pace.unit,
            next: Duration::from_micros(missing.div_ceil(pace.count)),
        }
    }
}

/// What is in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Connections that it lets in now.
    pub left: u64,
    /// How long until there is one; zero: there is one.
    pub next: Duration,
}

/// Ticks of a time; no process lasts longer than they reach.
pub(super) fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Ticks from `start` to `now`.
pub(super) fn since(start: Instant, now: Instant) -> u64 {
    ticks(now.saturating_duration_since(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pace(rate: &str) -> Pace {
        Pace::new(rate.parse().expect("a rate"))
    }

    /// How many tokens can be taken at that time.
    fn drain(bucket: &mut Bucket, pace: Pace, now: u64) -> u64 {
        *bucket = bucket.until(pace, now);
        let mut taken = 0;
        while let Some(rest) = bucket.take(pace) {
            *bucket = rest;
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_bucket_is_full_at_first_and_fills_evenly() {
        let pace = pace("10/s");
        let mut bucket = Bucket::full(pace, 0);
        let second = 1_000_000;
        assert_eq!(drain(&mut bucket, pace, 0), 10);
        assert_eq!(drain(&mut bucket, pace, second / 10 - 1), 0);
        assert_eq!(drain(&mut bucket, pace, second / 10), 1);
        assert_eq!(drain(&mut bucket, pace, second), 9);
        assert_eq!(drain(&mut bucket, pace, 100 * second), 10);
    }

    #[test]
    fn nothing_is_lost_to_rounding() {
        // A third of a token with each tick, looked at with each.
        let pace = pace("333333/s");
        let mut bucket = Bucket::full(pace, 0);
        drain(&mut bucket, pace, 0);
        let taken: u64 = (1..=1_000_000)
            .map(|now| drain(&mut bucket, pace, now))
            .sum();
        assert_eq!(taken, 333_333);
    }

    #[test]
    fn the_largest_and_the_slowest_rate_fit() {
        for rate in ["4294967295/h", "4294967295/s", "1/h"] {
            let pace = pace(rate);
            let mut bucket = Bucket::full(pace, 0);
            for now in [0, u64::MAX / 2, u64::MAX] {
                bucket = bucket.until(pace, now).take(pace).expect(rate);
            }
            assert!(bucket.until(pace, u64::MAX).level <= pace.full(), "{rate}");
        }
    }

    #[test]
    fn time_that_goes_back_brings_nothing() {
        let pace = pace("1/s");
        let empty = Bucket::full(pace, 5_000_000).take(pace).expect("a token");
        let back = empty.until(pace, 1_000_000);
        assert_eq!(back, empty);
        assert_eq!(back.until(pace, 5_999_999).take(pace), None);
        assert!(back.until(pace, 6_000_000).take(pace).is_some());
    }

    #[test]
    fn how_long_until_the_next_token_is_exact() {
        let pace = pace("3/s");
        let mut bucket = Bucket::full(pace, 0);
        assert_eq!(bucket.tokens(pace).left, 3);
        drain(&mut bucket, pace, 0);
        let next = bucket.tokens(pace).next;
        assert_eq!(next, Duration::from_micros(333_334));
        let at = ticks(next);
        assert_eq!(bucket.until(pace, at - 1).take(pace), None);
        assert_eq!(bucket.until(pace, at).tokens(pace).next, Duration::ZERO);
        assert!(bucket.until(pace, at).take(pace).is_some());
    }

    proptest! {
        /// The model: fractions over one denominator in 128 bits, looked at once a visit.
        #[test]
        fn a_bucket_equals_its_model(
            count in 1u32..2000,
            unit in proptest::sample::select(vec!["s", "m", "h"]),
            steps in proptest::collection::vec(0u64..2_000_000, 1..200),
        ) {
            let pace = pace(&format!("{count}/{unit}"));
            let (count, unit) = (u128::from(pace.count), u128::from(pace.unit));
            let mut bucket = Bucket::full(pace, 0);
            let (mut level, mut now) = (count * unit, 0);
            for step in steps {
                now += step;
                level = (level + u128::from(step) * count).min(count * unit);
                bucket = bucket.until(pace, now);
                let taken = bucket.take(pace);
                prop_assert_eq!(taken.is_some(), level >= unit);
                if let Some(rest) = taken {
                    bucket = rest;
                    level -= unit;
                }
                prop_assert_eq!(u128::from(bucket.level), level);
                prop_assert_eq!(bucket.is_full(pace), level == count * unit);
            }
        }
    }
}

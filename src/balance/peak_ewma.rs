//! A moving average of latencies that rises at once and falls slowly.
//!
//! A sample s that is higher than the average v after the last sample replaces it; a lower one,
//! Δt later, counts in proportion to the time that it stands for:
//!
//! ```text
//! w = exp(−Δt / decay)        v' = s                    if s ≥ v
//!                             v' = v·w + s·(1 − w)      else
//! ```
//!
//! A reading is v·w: without samples it falls towards 0, so that a backend that was slow once, and
//! gets no connection for that reason, is tried again. The formula is that of Finagle's
//! `PeakEwma`; as in linkerd's `ewma` crate a reading changes nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Peak-sensitive moving average of latencies, sampled and read by all threads without a lock.
///
/// v and the time t of its sample are kept as one number, ln v + t / decay: a reading is
/// exp of it less now / decay, so it needs one load and can never see half of an update.
/// The time of the last sample is kept beside it for the next one's Δt. Of samples at
/// the same instant the highest counts.
#[derive(Debug)]
pub struct PeakEwma {
    /// Time constant in seconds.
    decay: f64,
    origin: Instant,
    /// ln(v) + t / decay as bits of an `f64`; -∞: no sample yet.
    level: AtomicU64,
    /// Of the last sample, nanoseconds after `origin`.
    sampled_at: AtomicU64,
}

/// Shorter times are taken for this one: neither a decay nor a latency can be 0.
const MIN: Duration = Duration::from_nanos(1);

impl PeakEwma {
    /// No sample yet. `decay` is the time after which a sample counts for 1/e; `now` precedes all
    /// samples and readings.
    pub fn new(decay: Duration, now: Instant) -> Self {
        Self {
            decay: decay.max(MIN).as_secs_f64(),
            origin: now,
            level: AtomicU64::new(f64::NEG_INFINITY.to_bits()),
            sampled_at: AtomicU64::new(0),
        }
    }

    /// The same average with another `decay` from `now` on.
    #[must_use]
    pub fn with_decay(&self, decay: Duration, now: Instant) -> Self {
        let mut other = Self::new(decay, self.origin);
        let at = self.since_origin(now);
        let level = f64::from_bits(self.level.load(Relaxed));
        let level = level - self.decays(at) + other.decays(at);
        *other.level.get_mut() = level.to_bits();
        *other.sampled_at.get_mut() = nanos(at);
        other
    }

    /// Its time constant.
    pub fn decay(&self) -> Duration {
        Duration::from_secs_f64(self.decay)
    }

    /// Takes a latency that was measured at `now`.
    pub fn sample(&self, latency: Duration, now: Instant) {
        let sample = latency.max(MIN).as_secs_f64();
        let at = self.since_origin(now);
        let before = self.sampled_at.fetch_max(nanos(at), Relaxed);
        let before = Duration::from_nanos(before);
        let weight = (-self.decays(at.saturating_sub(before))).exp();
        let update = |level: u64| {
            let average = (f64::from_bits(level) - self.decays(before)).exp();
            let updated = if sample >= average {
                sample
            } else {
                average * weight + sample * (1.0 - weight)
            };
            (updated.ln() + self.decays(at.max(before))).to_bits()
        };
        self.level.update(Relaxed, Relaxed, update);
    }

    /// The average in seconds as of `now`; `None`: no sample yet.
    pub fn seconds(&self, now: Instant) -> Option<f64> {
        let level = f64::from_bits(self.level.load(Relaxed));
        let seconds = || (level - self.decays(self.since_origin(now))).exp();
        level.is_finite().then(seconds)
    }

    fn since_origin(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }

    /// `time` in units of the time constant.
    fn decays(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.decay
    }
}

/// As nanoseconds, up to 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DECAY: Duration = Duration::from_secs(10);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn another_decay_keeps_the_average_and_forgets_at_its_own_pace() {
        let (average, last) = sampled(&[(0, 80)]);
        let now = last + ms(3000);
        let before = average.seconds(now).expect("an average");
        let faster = average.with_decay(DECAY / 10, now);
        let after = faster.seconds(now).expect("an average");
        assert!((before - after).abs() < 1e-9, "{before} {after}");
        let later = faster.seconds(now + DECAY / 10).expect("an average");
        assert!((later - before / std::f64::consts::E).abs() < 1e-9);
        let nothing = PeakEwma::new(DECAY, now).with_decay(DECAY / 2, now + DECAY);
        assert_eq!(nothing.seconds(now + DECAY), None);
    }

    /// The average after samples of (milliseconds since the last one, milliseconds of latency),
    /// and the moment of the last one.
    fn sampled(samples: &[(u64, u64)]) -> (PeakEwma, Instant) {
        let mut now = Instant::now();
        let average = PeakEwma::new(DECAY, now);
        for &(after, latency) in samples {
            now += ms(after);
            average.sample(ms(latency), now);
        }
        (average, now)
    }

    #[track_caller]
    fn assert_near(actual: Option<f64>, expected: f64) {
        let actual = actual.expect("there is a sample");
        assert!(
            (actual - expected).abs() <= expected * 1e-9,
            "{actual} is not {expected}"
        );
    }

    #[test]
    fn without_a_sample_there_is_no_average() {
        let (average, now) = sampled(&[]);
        assert_eq!(average.seconds(now), None);
    }

    #[test]
    fn a_higher_sample_replaces_the_average_at_once() {
        let (average, now) = sampled(&[(5, 10), (1, 500)]);
        assert_near(average.seconds(now), 0.5);
    }

    #[test]
    fn a_lower_sample_counts_for_the_time_since_the_last() {
        let (average, now) = sampled(&[(0, 100), (10_000, 10)]);
        let weight = (-1f64).exp();
        assert_near(average.seconds(now), 0.1 * weight + 0.01 * (1.0 - weight));
    }

    #[test]
    fn a_reading_decays_and_changes_nothing() {
        let (average, now) = sampled(&[(7, 100)]);
        assert_near(average.seconds(now + DECAY), 0.1 * (-1f64).exp());
        assert_near(average.seconds(now + 2 * DECAY), 0.1 * (-2f64).exp());
        assert_near(average.seconds(now), 0.1);
    }

    #[test]
    fn of_samples_at_one_instant_the_highest_counts() {
        let (average, now) = sampled(&[(3, 20), (0, 90), (0, 40)]);
        assert_near(average.seconds(now), 0.09);
    }

    #[test]
    fn a_latency_of_zero_is_a_sample_too() {
        let (average, now) = sampled(&[(0, 0)]);
        assert_near(average.seconds(now), 1e-9);
    }

    #[test]
    fn after_years_without_a_sample_the_average_is_next_to_nothing() {
        let (average, now) = sampled(&[(0, 100)]);
        let later = now + Duration::from_secs(3 * 365 * 86_400);
        assert_eq!(average.seconds(later), Some(0.0));
        average.sample(ms(30), later);
        assert!((average.seconds(later).expect("a sample") - 0.03).abs() < 1e-6);
    }

    #[test]
    fn samples_of_many_threads_leave_their_highest() {
        let (average, now) = sampled(&[]);
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let average = &average;
                scope.spawn(move || (1..=100).for_each(|n| average.sample(ms(n * thread), now)));
            }
        });
        assert_near(average.seconds(now), 0.4);
    }

    proptest! {
        #[test]
        fn the_average_stays_between_the_lowest_and_the_highest_sample(
            samples in prop::collection::vec((0u64..30_000, 1u64..10_000), 1..40),
        ) {
            let (average, now) = sampled(&samples);
            let seconds = average.seconds(now).expect("there are samples");
            let latencies = || samples.iter().map(|&(_, latency)| latency as f64 / 1e3);
            let lowest = latencies().fold(f64::INFINITY, f64::min);
            let highest = latencies().fold(0.0, f64::max);
            prop_assert!(seconds >= lowest * (1.0 - 1e-9) && seconds <= highest * (1.0 + 1e-9));
        }
    }
}

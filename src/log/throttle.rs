//! "No line repeats more than once a second": decides whether a line may be written now.
//!
//! A line that may not is counted, and the next one that may says how many there were. Pure:
//! the caller brings the time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Least time between two lines of one kind.
const PERIOD: Duration = Duration::from_secs(1);

/// A throttle with one owner.
#[derive(Debug, Default)]
pub struct Throttle {
    next: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    /// `Some(n)`: write the line, `n` were suppressed since the last one; `None`: do not.
    pub fn check(&mut self, now: Instant) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.suppressed += 1;
            return None;
        }
        self.next = Some(now + PERIOD);
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// A [`Throttle`] that any number of threads share: two atomics, no lock.
///
/// A count that races with the line that reports it appears in the next line instead.
#[derive(Debug)]
pub struct SharedThrottle {
    epoch: Instant,
    /// Nanoseconds after `epoch` from which the next line may be written.
    next: AtomicU64,
    suppressed: AtomicU64,
}

impl SharedThrottle {
    /// One that lets the first line through.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            next: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// As [`Throttle::check`]; of threads that ask at once, one gets `Some`.
    pub fn check(&self, now: Instant) -> Option<u64> {
        let now = nanoseconds(now.saturating_duration_since(self.epoch));
        let next = self.next.load(Relaxed);
        let after = now.saturating_add(nanoseconds(PERIOD));
        let won = now >= next
            && self
                .next
                .compare_exchange(next, after, Relaxed, Relaxed)
                .is_ok();
        if won {
            return Some(self.suppressed.swap(0, Relaxed));
        }
        self.suppressed.fetch_add(1, Relaxed);
        None
    }
}

/// Saturates after 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds at which a line is tried, and what the throttle says.
    const TABLE: &[(u64, Option<u64>)] = &[
        (0, Some(0)),
        (0, None),
        (500, None),
        (999, None),
        (1000, Some(3)),
        (1001, None),
        (9000, Some(1)),
        (10_000, Some(0)),
    ];

    #[test]
    fn one_line_a_second_passes_and_counts_the_others() {
        let start = Instant::now();
        let mut own = Throttle::default();
        let shared = SharedThrottle::new(start);
        for &(at, verdict) in TABLE {
            let now = start + Duration::from_millis(at);
            assert_eq!(own.check(now), verdict, "own, at {at} ms");
            assert_eq!(shared.check(now), verdict, "shared, at {at} ms");
        }
    }

    #[test]
    fn a_time_before_the_first_is_no_fault() {
        let start = Instant::now() + Duration::from_secs(5);
        let shared = SharedThrottle::new(start);
        assert_eq!(shared.check(start - Duration::from_secs(4)), Some(0));
    }

    #[test]
    fn of_many_threads_one_passes_and_every_other_is_counted() {
        let start = Instant::now();
        let shared = SharedThrottle::new(start);
        let passed: usize = std::thread::scope(|scope| {
            let tries = || (0..1000).filter(|_| shared.check(start).is_some()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(tries)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a trying thread"))
                .sum()
        });
        assert_eq!(passed, 1);
        assert_eq!(shared.check(start + PERIOD), Some(3999));
    }
}

//! How old a connection may become, `pool.NAME.max_age`.
//!
//! From its age on a connection ends at the first quiet moment, see
//! [`leaving`](crate::conn::leaving), and at twice its age at any moment. Ages are jittered by a
//! tenth, so that connections which came together, as after a restart, do not redial together.
//! The jitter is drawn from the connection's id, which it keeps in another process: nothing is
//! remembered for it, and no move and no reload draws it anew. It goes from 0.9 to 1.1 times
//! `max_age`, and both moments follow from it.
//!
//! The age counts from the accept. A connection that was held for longer than that, while its
//! pool was paused say, is old when it gets its backend.

use std::time::{Duration, Instant};

/// When a connection is old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age {
    /// From then on it ends at a quiet moment.
    pub(super) leaves_at: Instant,
    /// Then it ends.
    pub(super) ends_at: Instant,
}

impl Age {
    /// Of the connection with this id that was accepted then; `None`: it may become any age.
    pub(super) fn new(max_age: Duration, accepted: Instant, id: u64) -> Option<Self> {
        let age = (!max_age.is_zero()).then(|| jittered(max_age, id))?;
        Some(Self {
            leaves_at: accepted + age,
            ends_at: accepted + age * 2,
        })
    }

    /// Whether it is to end at a quiet moment.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.leaves_at <= now
    }

    /// When to look at it again.
    pub(super) fn next(&self, now: Instant) -> Instant {
        match self.is_old(now) {
            true => self.ends_at,
            false => self.leaves_at,
        }
    }
}

/// 0.9 to 1.1 times `age`.
fn jittered(age: Duration, id: u64) -> Duration {
    // 53 bits, as many as an f64 has.
    let share = (spread(id) >> 11) as f64 / (1_u64 << 53) as f64;
    age.mul_f64(0.9 + 0.2 * share)
}

/// The output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014): ids that follow each other share nothing after it.
fn spread(id: u64) -> u64 {
    let z = id.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn without_a_max_age_nothing_is_old() {
        assert_eq!(Age::new(Duration::ZERO, Instant::now(), 7), None);
    }

    #[test]
    fn ages_lie_evenly_within_a_tenth_and_the_second_moment_is_at_twice_the_first() {
        let accepted = Instant::now();
        let shares = (1..=2000).map(|id| {
            let age = Age::new(HOUR, accepted, id).expect("a limit");
            let first = age.leaves_at - accepted;
            assert_eq!(age.ends_at - accepted, first * 2);
            first.as_secs_f64() / HOUR.as_secs_f64()
        });
        let mut tenths = [0; 10];
        for share in shares {
            assert!((0.9..=1.1).contains(&share), "{share}");
            tenths[((share - 0.9) * 50.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|n| (150..=250).contains(n)), "{tenths:?}");
    }

    #[test]
    fn the_jitter_of_a_connection_is_the_same_whenever_it_is_asked_for() {
        let accepted = Instant::now();
        let ages = [3, 3, 4].map(|id| Age::new(HOUR, accepted, id));
        assert_eq!(ages[0], ages[1]);
        assert_ne!(ages[0], ages[2]);
    }

    #[test]
    fn it_is_looked_at_when_it_gets_old_and_at_its_end() {
        let accepted = Instant::now();
        let age = Age::new(HOUR, accepted, 1).expect("a limit");
        assert!(!age.is_old(accepted) && age.is_old(age.leaves_at));
        assert_eq!(age.next(accepted), age.leaves_at);
        assert_eq!(age.next(age.leaves_at), age.ends_at);
    }
}

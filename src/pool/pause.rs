//! A pause of a pool, and what it does to the clock of those who are held.
//!
//! Pure: times come in. While a pool is paused `hold.timeout` does not run; when the pause ends
//! everybody who is held then has the whole of it. Nobody is woken for that: whoever is held
//! looks at [`Pause::deadline`] when the last one it was given is over. While a pause lasts
//! that is never closer than `hold.timeout` from now, as it might end in this moment.

use std::time::{Duration, Instant};

/// Whether a pool is paused, or when it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pause {
    /// It is not, and has not been.
    #[default]
    Never,
    /// It is.
    Paused {
        /// When that ends by itself; `None`: it does not.
        until: Option<Instant>,
    },
    /// It was.
    Ended {
        /// Until then.
        at: Instant,
    },
}

/// The waits of one connection, as `hold.timeout` counts them.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// Counted of the waits before this one.
    pub before: Duration,
    /// When this one began.
    pub since: Instant,
}

impl Pause {
    /// Whether new connections are held.
    pub fn is_on(self) -> bool {
        matches!(self, Self::Paused { .. })
    }

    /// The pause that lasts `length` from `now`; `None`: until it is ended.
    pub(super) fn lasting(length: Option<Duration>, now: Instant) -> Self {
        let until = length.and_then(|length| now.checked_add(length));
        Self::Paused { until }
    }

    /// When it ends by itself.
    pub(super) fn until(self) -> Option<Instant> {
        match self {
            Self::Paused { until } => until,
            Self::Never | Self::Ended { .. } => None,
        }
    }

    /// When a connection has been held for `most`, as far as that can be told `now`.
    pub fn deadline(self, wait: Wait, most: Duration, now: Instant) -> Instant {
        match self {
            Self::Paused { until } => until.map_or(now, |until| until.max(now)) + most,
            Self::Ended { at } if at >= wait.since => at + most,
            Self::Never | Self::Ended { .. } => wait.since + most.saturating_sub(wait.before),
        }
    }

    /// What is counted of all waits up to `now`, when one ends.
    pub fn counted(self, wait: Wait, now: Instant) -> Duration {
        match self {
            Self::Paused { .. } => Duration::ZERO,
            Self::Ended { at } if at >= wait.since => now.saturating_duration_since(at),
            Self::Never | Self::Ended { .. } => {
                wait.before + now.saturating_duration_since(wait.since)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(10);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn wait(since: Instant) -> Wait {
        let before = Duration::from_secs(4);
        Wait { before, since }
    }

    #[test]
    fn without_a_pause_the_waits_add_up() {
        let start = Instant::now();
        let deadline = Pause::Never.deadline(wait(start), MOST, after(start, 3));
        assert_eq!(deadline, after(start, 6));
        let counted = Pause::Never.counted(wait(start), after(start, 3));
        assert_eq!(counted, Duration::from_secs(7));
        let spent = Wait {
            before: MOST * 2,
            since: start,
        };
        assert_eq!(Pause::Never.deadline(spent, MOST, start), start);
    }

    #[test]
    fn while_it_lasts_nobody_times_out() {
        let start = Instant::now();
        let pause = Pause::lasting(None, start);
        for seconds in [0, 100, 100_000] {
            let now = after(start, seconds);
            assert_eq!(pause.deadline(wait(start), MOST, now), now + MOST);
        }
        let pause = Pause::lasting(Some(Duration::from_secs(30)), start);
        let deadline = pause.deadline(wait(start), MOST, after(start, 20));
        assert_eq!(deadline, after(start, 40));
        let late = after(start, 35);
        assert_eq!(pause.deadline(wait(start), MOST, late), late + MOST);
    }

    #[test]
    fn whoever_is_held_when_it_ends_has_the_whole_time_out() {
        let start = Instant::now();
        let ended = Pause::Ended {
            at: after(start, 20),
        };
        let now = after(start, 25);
        assert_eq!(ended.deadline(wait(start), MOST, now), after(start, 30));
        assert_eq!(ended.counted(wait(start), now), Duration::from_secs(5));
    }

    #[test]
    fn a_pause_that_ended_before_the_wait_changes_nothing() {
        let start = Instant::now();
        let ended = Pause::Ended { at: start };
        let wait = wait(after(start, 1));
        assert_eq!(ended.deadline(wait, MOST, start), after(start, 7));
        let counted = ended.counted(wait, after(start, 2));
        assert_eq!(counted, Duration::from_secs(5));
    }

    #[test]
    fn a_pause_without_end_ends_when_it_is_told_to() {
        let now = Instant::now();
        assert_eq!(Pause::lasting(None, now).until(), None);
        assert!(Pause::lasting(None, now).is_on());
        let length = Duration::from_secs(1);
        let pause = Pause::lasting(Some(length), now);
        assert_eq!(pause.until(), Some(now + length));
        assert!(!Pause::Ended { at: now }.is_on());
    }
}

//! What a name stands for, by the replies that come in, and when to ask again.
//!
//! Pure: replies come in with the time at which they came.
//!
//! | reply | addresses | asked again |
//! | --- | --- | --- |
//! | addresses | these | when the shortest TTL is over, 1 s to 5 min |
//! | some of them, the rest unanswered | these, and of the rest those of before | the same, but as soon as after a failure |
//! | none (NXDOMAIN, or no records) | those of before for [`KEEP`], then none | when that expires, 1 s to 30 s |
//! | a failure, or nothing in time | those of before | after 1 s, twice as long each time, up to 30 s |
//!
//! A failure is no evidence of anything. That there is nothing is some, but it is what a resolver
//! says too whose zone was just loaded with a slip in it: hence the five minutes, and only
//! another such answer behind them takes the addresses away.

use std::time::{Duration, Instant};

use crate::net::HostName;
use crate::pool::Resolved;

/// How long addresses are kept when DNS says that there are none.
pub(super) const KEEP: Duration = Duration::from_secs(300);
/// Bounds of a TTL.
const SHORTEST: Duration = Duration::from_secs(1);
/// See [`SHORTEST`].
const LONGEST: Duration = Duration::from_secs(300);
/// A name that is not there may be there soon.
const LONGEST_ABSENT: Duration = Duration::from_secs(30);
/// How soon it is asked again where an answer without records does not say.
const ABSENT: Duration = Duration::from_secs(5);
/// The longest pause after a failure; the first one is [`SHORTEST`].
const LONGEST_FAILED: Duration = Duration::from_secs(30);

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// There are addresses.
    Found {
        /// These, in any order.
        addresses: Vec<Resolved>,
        /// How long that holds.
        ttl: Duration,
        /// Of whom no answer came.
        missing: Vec<Missing>,
    },
    /// There is no such name, or it has no address.
    Absent {
        /// How long that holds, if the answer says.
        ttl: Option<Duration>,
    },
    /// It is not known.
    Failed {
        /// Nothing came in time.
        timeout: bool,
        /// Why, in one line.
        error: String,
    },
}

/// A part of a reply that did not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Whose addresses.
    pub host: HostName,
    /// Of IPv6, or of IPv4.
    pub ipv6: bool,
}

impl Missing {
    fn is_about(&self, resolved: &Resolved) -> bool {
        resolved.host == self.host && resolved.ip.is_ipv6() == self.ipv6
    }
}

/// What is known of one name.
#[derive(Debug, Default)]
pub(super) struct Memory {
    addresses: Vec<Resolved>,
    /// Since when DNS says that there are none.
    absent_since: Option<Instant>,
    /// Failures in a row.
    failures: u32,
}

impl Memory {
    /// Goes on from addresses that were known before.
    pub(super) fn of(addresses: Vec<Resolved>) -> Self {
        Self {
            addresses,
            ..Self::default()
        }
    }

    /// What the name stands for, in a fixed order, each once.
    pub(super) fn addresses(&self) -> &[Resolved] {
        &self.addresses
    }

    /// Takes a reply in; how long to wait before the next question.
    pub(super) fn take(&mut self, reply: Reply, now: Instant) -> Duration {
        match reply {
            Reply::Found {
                addresses,
                ttl,
                missing,
            } => self.found(addresses, ttl, &missing),
            Reply::Absent { ttl } => self.absent(ttl, now),
            Reply::Failed { .. } => self.failed(),
        }
    }

    fn found(
        &mut self,
        mut addresses: Vec<Resolved>,
        ttl: Duration,
        missing: &[Missing],
    ) -> Duration {
        let old = std::mem::take(&mut self.addresses).into_iter();
        addresses.extend(old.filter(|old| missing.iter().any(|part| part.is_about(old))));
        addresses.sort();
        addresses.dedup();
        self.addresses = addresses;
        self.absent_since = None;
        let ttl = ttl.clamp(SHORTEST, LONGEST);
        match missing.is_empty() {
            true => {
                self.failures = 0;
                ttl
            }
            false => ttl.min(self.failed()),
        }
    }

    fn absent(&mut self, ttl: Option<Duration>, now: Instant) -> Duration {
        self.failures = 0;
        let since = *self.absent_since.get_or_insert(now);
        let left = KEEP.saturating_sub(now.saturating_duration_since(since));
        if left.is_zero() {
            self.addresses.clear();
        }
        let next = ttl.unwrap_or(ABSENT).clamp(SHORTEST, LONGEST_ABSENT);
        match self.addresses.is_empty() {
            true => next,
            false => next.min(left),
        }
    }

    fn failed(&mut self) -> Duration {
        let pause = SHORTEST * 2_u32.pow(self.failures.min(5));
        self.failures = self.failures.saturating_add(1);
        pause.min(LONGEST_FAILED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        HostName::of_host(name).expect("a host name")
    }

    fn resolved(ip: &str) -> Resolved {
        Resolved {
            record: None,
            ip: ip.parse().expect("an address"),
            host: host("app.internal"),
        }
    }

    fn found(ips: &[&str], ttl: u64) -> Reply {
        Reply::Found {
            addresses: ips.iter().map(|ip| resolved(ip)).collect(),
            ttl: Duration::from_secs(ttl),
            missing: Vec::new(),
        }
    }

    fn failure() -> Reply {
        Reply::Failed {
            timeout: true,
            error: "request timed out".to_owned(),
        }
    }

    fn ips(memory: &Memory) -> Vec<String> {
        let all = memory.addresses().iter();
        all.map(|resolved| resolved.ip.to_string()).collect()
    }

    const ABSENCE: Reply = Reply::Absent { ttl: None };

    #[test]
    fn an_answer_holds_for_its_ttl_within_bounds() {
        for (ttl, wait) in [(0, 1), (1, 1), (60, 60), (300, 300), (86_400, 300)] {
            let next = Memory::default().take(found(&["10.0.0.1"], ttl), Instant::now());
            assert_eq!(next, Duration::from_secs(wait), "{ttl}");
        }
    }

    #[test]
    fn order_and_duplicates_make_no_difference() {
        let (mut one, mut other) = (Memory::default(), Memory::default());
        one.take(
            found(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], 60),
            Instant::now(),
        );
        other.take(found(&["10.0.0.1", "10.0.0.2"], 60), Instant::now());
        assert_eq!(one.addresses(), other.addresses());
        assert_eq!(ips(&one), ["10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn failures_keep_the_last_answer_and_are_asked_again_ever_more_slowly() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.take(found(&["10.0.0.1"], 60), now);
        let pauses: Vec<_> = (0..7)
            .map(|day| memory.take(failure(), now + KEEP * 300 * day).as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(ips(&memory), ["10.0.0.1"]);
        memory.take(found(&["10.0.0.2"], 60), now);
        assert_eq!(ips(&memory), ["10.0.0.2"]);
        assert_eq!(memory.take(failure(), now), Duration::from_secs(1));
    }

    #[test]
    fn a_name_that_is_gone_is_kept_for_five_minutes() {
        let (mut memory, begin) = (Memory::default(), Instant::now());
        memory.take(found(&["10.0.0.1"], 1), begin);
        let mut now = begin;
        let mut left = 0;
        while !memory.addresses().is_empty() {
            left = now.duration_since(begin).as_secs();
            assert!(left <= 300, "still there after {left} s");
            now += memory.take(ABSENCE, now);
        }
        assert_eq!(left, 300);
    }

    #[test]
    fn the_last_look_of_the_five_minutes_is_at_their_end() {
        let (mut memory, begin) = (Memory::default(), Instant::now());
        memory.take(found(&["10.0.0.1"], 1), begin);
        let absent = Reply::Absent {
            ttl: Some(Duration::from_secs(3600)),
        };
        let second = Duration::from_secs(1);
        assert_eq!(memory.take(absent.clone(), begin), LONGEST_ABSENT);
        let late = begin + KEEP - second * 7;
        assert_eq!(memory.take(absent, late), second * 7);
    }

    #[test]
    fn a_failure_takes_nothing_away_after_five_minutes_of_absence() {
        let (mut memory, begin) = (Memory::default(), Instant::now());
        memory.take(found(&["10.0.0.1"], 1), begin);
        memory.take(ABSENCE, begin);
        memory.take(failure(), begin + KEEP * 2);
        assert_eq!(ips(&memory), ["10.0.0.1"]);
        memory.take(ABSENCE, begin + KEEP * 2);
        assert_eq!(ips(&memory), Vec::<String>::new());
    }

    #[test]
    fn an_answer_between_two_absences_begins_the_five_minutes_anew() {
        let (mut memory, begin) = (Memory::default(), Instant::now());
        memory.take(found(&["10.0.0.1"], 1), begin);
        memory.take(ABSENCE, begin);
        memory.take(found(&["10.0.0.1"], 1), begin + KEEP / 2);
        memory.take(ABSENCE, begin + KEEP);
        assert_eq!(ips(&memory), ["10.0.0.1"]);
    }

    #[test]
    fn what_no_answer_came_of_stays_as_it_was() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.take(found(&["10.0.0.1", "fd00::1"], 60), now);
        let next = memory.take(
            Reply::Found {
                addresses: vec![resolved("10.0.0.2")],
                ttl: Duration::from_secs(60),
                missing: vec![Missing {
                    host: host("app.internal"),
                    ipv6: true,
                }],
            },
            now,
        );
        assert_eq!(ips(&memory), ["10.0.0.2", "fd00::1"]);
        assert_eq!(next, Duration::from_secs(1));
    }
}

//! What is known of the balancer: its last answers, and what follows from them.
//!
//! Pure: answers and times come in.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;

use super::answers::{Event, PoolSeries, Series};
use super::query::Query;
use super::rates::{Kind, Moment, Name, Rates};
use crate::cli::connections::Connections;
use crate::cli::stats::{Entry, Named, Stats};

/// Events that are kept; the oldest go first.
const EVENTS: usize = 512;
/// With more backends than this `/stats` is asked for less often.
pub(super) const MANY: usize = 150;

/// Since when nobody answers, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) since: Timestamp,
    pub(super) why: String,
}

/// Connections that were asked for, or why there is no answer.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) query: Query,
    pub(super) answer: Result<Connections, String>,
}

/// The transitions of one backend, oldest first, or why there are none.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) pool: String,
    pub(super) backend: String,
    pub(super) answer: Result<Vec<Entry>, String>,
}

/// Everything that is known.
#[derive(Debug)]
pub(super) struct Data {
    /// Where the balancer is.
    pub(super) endpoint: String,
    pub(super) stats: Stats,
    /// When they came.
    pub(super) at: Timestamp,
    pub(super) lost: Option<Lost>,
    /// Of all pools, without their backends.
    pub(super) series: Option<Series>,
    /// Oldest first.
    pub(super) events: VecDeque<Event>,
    pub(super) listed: Option<Listed>,
    pub(super) told: Option<Told>,
    moment: Moment,
    rates: HashMap<Name, Rates>,
    /// Of pools whose backends were looked at.
    details: HashMap<String, PoolSeries>,
}

impl Data {
    /// With the first answer.
    pub(super) fn new(endpoint: String, stats: Stats, at: Timestamp) -> Self {
        Self {
            endpoint,
            moment: Moment::of(&stats),
            stats,
            at,
            lost: None,
            series: None,
            events: VecDeque::new(),
            listed: None,
            told: None,
            rates: HashMap::new(),
            details: HashMap::new(),
        }
    }

    /// Takes an answer to `/stats`; whether another process has given it than the last one.
    pub(super) fn take_stats(&mut self, answer: Result<Stats, String>, now: Timestamp) -> bool {
        let stats = match answer {
            Ok(stats) => stats,
            Err(why) => {
                // The first reason may be that an answer was cut off.
                let since = self.at;
                self.lost = Some(Lost { since, why });
                return false;
            }
        };
        let moment = Moment::of(&stats);
        let changed = moment.pid != self.moment.pid;
        self.rates = moment.since(&self.moment);
        self.moment = moment;
        self.stats = stats;
        self.at = now;
        self.lost = None;
        if changed {
            self.series = None;
            self.details.clear();
        }
        changed
    }

    /// Takes the series of a pool with its backends.
    pub(super) fn take_details(&mut self, pool: String, mut series: Series) {
        if let Some(found) = series.pools.find_mut(&pool) {
            self.details.insert(pool, std::mem::take(found));
        }
    }

    /// Takes an event that was not there yet.
    pub(super) fn take_event(&mut self, event: Event) {
        if self.events.back().is_some_and(|last| event.id <= last.id) {
            return;
        }
        self.turn(&event);
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Statistics of many backends come every five seconds; a new state is known at once.
    fn turn(&mut self, event: &Event) {
        let (Some(turn), Ok(at)) = (&event.turn, event.at.parse::<Timestamp>()) else {
            return;
        };
        // The statistics may be of a moment just before they came.
        if at < self.at - jiff::SignedDuration::from_secs(1) {
            return;
        }
        let pool = self.stats.pools.find_mut(&turn.pool);
        let Some(backend) = pool.and_then(|pool| pool.backends.find_mut(&turn.backend)) else {
            return;
        };
        backend.state.clone_from(&turn.state);
        backend.health.since = Some(event.at.clone());
        backend.health.history.push(Entry {
            at: event.at.clone(),
            from: turn.from.clone(),
            to: turn.state.clone(),
            cause: turn.cause.clone(),
            check_seconds: None,
            by: String::new(),
        });
    }

    /// All backends.
    pub(super) fn backends(&self) -> usize {
        self.stats.pools.iter().map(|(_, p)| p.backends.len()).sum()
    }

    /// Of one backend's pool, where it was asked for.
    pub(super) fn details(&self, pool: &str) -> Option<&PoolSeries> {
        self.details.get(pool)
    }

    /// Of one pool, with or without its backends.
    pub(super) fn pool_series(&self, pool: &str) -> Option<&PoolSeries> {
        self.series.as_ref()?.pools.find(pool)
    }

    /// Seconds from one point of a series to the next.
    pub(super) fn step(&self) -> f64 {
        let step = self.series.as_ref().map(|series| series.step_seconds);
        step.filter(|step| *step > 0.0)
            .unwrap_or(crate::series::STEP.as_secs_f64())
    }

    /// Of a backend; nothing, before there are two answers.
    pub(super) fn backend_rates(&self, pool: &str, backend: &str) -> Option<Rates> {
        self.rated(Kind::Backend, pool, backend)
    }

    /// Of a pool.
    pub(super) fn pool_rates(&self, pool: &str) -> Option<Rates> {
        self.rated(Kind::Pool, pool, "")
    }

    /// Of a listener.
    pub(super) fn listener_rates(&self, name: &str) -> Option<Rates> {
        self.rated(Kind::Listener, name, "")
    }

    fn rated(&self, kind: Kind, name: &str, backend: &str) -> Option<Rates> {
        let name = (kind, name.to_owned(), backend.to_owned());
        self.rates.get(&name).copied()
    }

    /// Of all listeners together.
    pub(super) fn all_rates(&self) -> Option<Rates> {
        let all = self.stats.listeners.iter();
        all.filter_map(|(name, _)| self.listener_rates(name))
            .reduce(|one, other| Rates {
                new: one.new + other.new,
                into: one.into + other.into,
                out: one.out + other.out,
            })
    }

    /// What somebody must know before anything else.
    pub(super) fn alarms(&self) -> Vec<String> {
        let mut alarms: Vec<_> = self
            .stats
            .pools
            .iter()
            .filter(|(_, pool)| matches!(pool.usable(), (0, 1..)) && !pool.paused)
            .map(|(name, _)| format!("Pool {name} has no usable backend."))
            .collect();
        if let Some(why) = &self.stats.config.last_reload.error {
            alarms.push(format!("The last reload was refused: {why}"));
        }
        alarms
    }
}

/// Counts over all entries of a table.
pub(super) fn sum<T>(all: &Named<T>, count: impl Fn(&T) -> u64) -> u64 {
    all.iter().map(|(_, value)| count(value)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{data, stats};
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).expect("a time")
    }

    #[test]
    fn a_rate_is_what_a_total_grew_by_in_the_time_of_the_balancer() {
        let mut data = data();
        assert_eq!(data.backend_rates("web", "oak"), None);
        let mut later = stats();
        later.uptime_seconds += 2.0;
        let pool = later.pools.find_mut("web").expect("a pool");
        let oak = pool.backends.find_mut("oak").expect("a backend");
        oak.connections.total += 10;
        oak.bytes_out += 4096;
        // Slow to come: that changes nothing.
        data.take_stats(Ok(later), at(60));
        let rates = data.backend_rates("web", "oak").expect("rates");
        assert_eq!((rates.new, rates.into, rates.out), (5.0, 0.0, 2048.0));
    }

    #[test]
    fn another_process_has_no_rates_until_its_second_answer() {
        let mut data = data();
        let mut other = stats();
        other.pid += 1;
        other.uptime_seconds += 1.0;
        assert!(data.take_stats(Ok(other), at(1)));
        assert_eq!(data.backend_rates("web", "oak"), None);
    }

    #[test]
    fn nobody_answers_since_the_last_answer_for_the_newest_reason() {
        let mut data = data();
        data.take_stats(Ok(stats()), at(5));
        data.take_stats(Err("refused".to_owned()), at(6));
        data.take_stats(Err("timed out".to_owned()), at(9));
        let lost = data.lost.clone().expect("lost");
        assert_eq!((lost.since, &*lost.why), (at(5), "timed out"));
        data.take_stats(Ok(stats()), at(10));
        assert_eq!(data.lost, None);
    }

    #[test]
    fn a_new_state_is_known_before_the_next_answer() {
        let mut data = data();
        let event = |id, at: &str| Event {
            id,
            kind: "state".to_owned(),
            at: at.to_owned(),
            words: String::new(),
            bad: true,
            turn: Some(super::super::answers::Turn {
                pool: "web".to_owned(),
                backend: "oak".to_owned(),
                from: "up".to_owned(),
                state: "down".to_owned(),
                cause: "refused".to_owned(),
            }),
        };
        let state = |data: &Data| {
            let pool = data.stats.pools.find("web").expect("a pool");
            pool.backends.find("oak").expect("a backend").state.clone()
        };
        // What the statistics know already.
        data.take_event(event(1, "2025-12-31T00:00:00Z"));
        assert_eq!(state(&data), "up");
        data.take_event(event(2, "2026-01-01T00:01:00Z"));
        assert_eq!(state(&data), "down");
        // The same again, by a stream that was opened again.
        data.take_event(event(2, "2026-01-01T00:01:00Z"));
        assert_eq!(data.events.len(), 2);
    }

    #[test]
    fn a_pool_without_a_usable_backend_is_an_alarm_unless_it_is_paused() {
        let mut data = data();
        assert!(data.alarms().is_empty());
        let pool = data.stats.pools.find_mut("web").expect("a pool");
        pool.backends.find_mut("oak").expect("a backend").weight = 0;
        assert_eq!(data.alarms(), ["Pool web has no usable backend."]);
        data.stats.pools.find_mut("web").expect("a pool").paused = true;
        assert!(data.alarms().is_empty());
    }
}

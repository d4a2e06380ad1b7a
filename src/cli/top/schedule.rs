//! What is asked, and when.
//!
//! Pure: the time comes in. Nothing is asked twice at once, and while nobody answers only the
//! statistics are asked for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::app::{App, Place};
use super::data::MANY;
use super::query::Query;

/// Statistics of few backends, and the next attempt while nobody answers.
const SECOND: Duration = Duration::from_secs(1);
/// Statistics of many backends, which are some megabytes; series, which have a point in so long.
const FIVE: Duration = Duration::from_secs(5);
/// Series of a pool of many backends.
const THIRTY: Duration = Duration::from_secs(30);
/// Connections and histories: each core is asked for them.
const TWO: Duration = Duration::from_secs(2);

/// Something that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ask {
    Stats,
    /// Of all pools, without their backends.
    Series,
    /// Of one pool with its backends.
    Details(String),
    Connections(Query),
    /// Of a backend: pool and name.
    History(String, String),
}

/// When each was asked for.
#[derive(Debug, Default)]
pub(super) struct Schedule(HashMap<Ask, Slot>);

#[derive(Debug)]
struct Slot {
    /// When it was asked, and once there is an answer, when that came.
    at: Instant,
    answered: bool,
}

impl Schedule {
    /// What is to be asked now, and is from now on.
    pub(super) fn due(&mut self, app: &App, now: Instant) -> Vec<Ask> {
        let wanted = wanted(app);
        // What is wanted again later is asked at once, unless it was just now.
        self.0
            .retain(|ask, slot| !slot.answered || now - slot.at < every(ask, app));
        let due: Vec<_> = wanted
            .into_iter()
            .filter(|ask| !self.0.contains_key(ask))
            .collect();
        for ask in &due {
            let slot = Slot {
                at: now,
                answered: false,
            };
            self.0.insert(ask.clone(), slot);
        }
        due
    }

    /// There is an answer, or none to be had.
    pub(super) fn done(&mut self, ask: &Ask, now: Instant) {
        if let Some(slot) = self.0.get_mut(ask) {
            slot.at = now;
            slot.answered = true;
        }
    }

    /// Everything is wanted anew: another process answers.
    pub(super) fn forget(&mut self) {
        self.0.retain(|_, slot| !slot.answered);
    }

    /// How long there is nothing to ask.
    pub(super) fn wait(&self, app: &App, now: Instant) -> Duration {
        let slots = self.0.iter().filter(|(_, slot)| slot.answered);
        let left = slots.map(|(ask, slot)| {
            let since = now.saturating_duration_since(slot.at);
            every(ask, app).saturating_sub(since)
        });
        left.min().unwrap_or(SECOND).min(SECOND)
    }
}

fn wanted(app: &App) -> Vec<Ask> {
    let mut wanted = vec![Ask::Stats];
    if app.data.lost.is_some() {
        return wanted;
    }
    wanted.push(Ask::Series);
    wanted.extend(app.wanted_details().into_iter().map(Ask::Details));
    match app.place() {
        Place::Connections => wanted.extend(app.query().ok().map(Ask::Connections)),
        Place::Backend(pool, name) => wanted.push(Ask::History(pool.clone(), name.clone())),
        _ => {}
    }
    wanted
}

fn every(ask: &Ask, app: &App) -> Duration {
    match ask {
        Ask::Stats if app.data.lost.is_some() || app.data.backends() <= MANY => SECOND,
        Ask::Stats | Ask::Series => FIVE,
        Ask::Details(pool) => {
            let pool = app.data.stats.pools.find(pool);
            let backends = pool.map_or(0, |pool| pool.backends.len());
            if backends > MANY { THIRTY } else { FIVE }
        }
        Ask::Connections(_) | Ask::History(..) => TWO,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{app, large, now, stats};
    use super::*;

    /// Asks and answers for a minute; how often statistics were asked for.
    fn a_minute(app: &App) -> usize {
        let mut schedule = Schedule::default();
        let start = Instant::now();
        let mut asked = 0;
        for tenth in 0..600 {
            let now = start + Duration::from_millis(100 * tenth);
            for ask in schedule.due(app, now) {
                asked += usize::from(ask == Ask::Stats);
                schedule.done(&ask, now);
            }
        }
        asked
    }

    #[test]
    fn statistics_of_many_backends_are_asked_for_every_five_seconds() {
        assert_eq!(a_minute(&app()), 60);
        assert_eq!(a_minute(&large(1000)), 12);
    }

    #[test]
    fn nothing_is_asked_twice_at_once() {
        let app = app();
        let mut schedule = Schedule::default();
        let start = Instant::now();
        assert_eq!(schedule.due(&app, start), [Ask::Stats, Ask::Series]);
        assert_eq!(schedule.due(&app, start + 20 * SECOND), []);
        schedule.done(&Ask::Stats, start + 20 * SECOND);
        assert_eq!(schedule.wait(&app, start + 20 * SECOND), SECOND);
        assert_eq!(schedule.due(&app, start + 21 * SECOND), [Ask::Stats]);
    }

    #[test]
    fn while_nobody_answers_only_statistics_are_asked_for_every_second() {
        let mut app = large(1000);
        app.data.take_stats(Err("refused".to_owned()), now());
        let mut schedule = Schedule::default();
        assert_eq!(schedule.due(&app, Instant::now()), [Ask::Stats]);
        assert_eq!(a_minute(&app), 60);
    }

    #[test]
    fn what_is_looked_at_is_asked_for_at_once_and_another_process_everything() {
        let mut app = app();
        let mut schedule = Schedule::default();
        let start = Instant::now();
        for ask in schedule.due(&app, start) {
            schedule.done(&ask, start);
        }
        app.go(3);
        let query = app.query().expect("a query");
        let ask = Ask::Connections(query);
        assert_eq!(schedule.due(&app, start), std::slice::from_ref(&ask));
        schedule.done(&ask, start);
        app.data.take_stats(Ok(stats()), now());
        schedule.forget();
        assert_eq!(schedule.due(&app, start), [Ask::Stats, Ask::Series, ask]);
    }
}

//! `GET /series?minutes&pool&backends`: the last fifteen minutes as the charts show them, and
//! the samples for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::error::Refusal;
use super::history::no_pool;
use super::words::{At, Table};
use super::{Pairs, Running, read};
use crate::pool::{BackendCounters, BackendView, Pool};
use crate::series::{POINTS, PoolTrack, STEP, Sample, Series, Totals, Track};

/// Points of a minute.
const A_MINUTE: u64 = 60 / STEP.as_secs();

/// The series of the process.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Series>);

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Series> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Samples every pool, once in a step.
pub fn sample(running: &Running) {
    let (at, now) = (SystemTime::now(), Instant::now());
    let configured = running.configured();
    let mut series = running.series.lock();
    series.begin(at);
    for pool in configured.every_pool() {
        let held = u32::try_from(pool.held_in_all()).unwrap_or(u32::MAX);
        let backends = pool.overview().backends;
        series.sample(&pool.name, held, backends.iter().map(|view| of(view, now)));
    }
}

fn of(view: &BackendView, now: Instant) -> Sample {
    let backend = &view.backend;
    let sum = |count: fn(&BackendCounters) -> u64| backend.counters.sum(count);
    let connects = backend.connect_seconds.summary(now);
    Sample {
        name: Arc::clone(&backend.name),
        totals: Totals {
            connections: sum(|cell| cell.total.value()),
            failed: sum(|cell| cell.failed.value()),
            bytes_in: sum(|cell| cell.bytes_in.value()),
            bytes_out: sum(|cell| cell.bytes_out.value()),
        },
        active: backend.active(),
        state: view.state,
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a chart has no more digits"
        )]
        connect_p99: (connects.p99 > 0.0).then_some(connects.p99 as f32),
    }
}

/// The answer. All lists are equally long, oldest first; null: it was not there.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    step_seconds: u64,
    /// When the newest step ended; null: there is none yet.
    until: Option<At>,
    points: u64,
    pools: Table<Arc<str>, PoolAnswer>,
}

type List<T> = Vec<Option<T>>;

#[derive(Debug, Serialize)]
struct PoolAnswer {
    /// New in each step.
    connections: List<u64>,
    failed: List<u64>,
    bytes_in: List<u64>,
    bytes_out: List<u64>,
    /// At the end of each step.
    active: List<u64>,
    held: List<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backends: Option<Table<Arc<str>, BackendAnswer>>,
}

#[derive(Debug, Serialize)]
struct BackendAnswer {
    connections: List<u32>,
    failed: List<u32>,
    bytes_in: List<u64>,
    bytes_out: List<u64>,
    active: List<u32>,
    /// In seconds, of the minute before.
    connect_p99: List<f32>,
    state: List<crate::pool::State>,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    minutes: u64,
    /// Empty: all.
    pools: Vec<String>,
    backends: bool,
}

impl Query {
    fn parse(pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let most = POINTS as u64 / A_MINUTE;
        let mut query = Self {
            minutes: most,
            pools: Vec::new(),
            backends: true,
        };
        for (name, value) in pairs {
            match &*name {
                "minutes" => {
                    let minutes = value.parse().ok().filter(|n| (1..=most).contains(n));
                    let expected = || format!("minutes: expected a number from 1 to {most}");
                    query.minutes = minutes.ok_or_else(|| Refusal::bad_request(expected()))?;
                }
                "pool" => query.pools.push(value),
                "backends" => {
                    query.backends = value.parse().map_err(|_| {
                        Refusal::bad_request("backends: expected true or false".to_owned())
                    })?;
                }
                _ => {
                    return Err(Refusal::bad_request(format!(
                        "unknown parameter {name:?}; there are minutes, pool, backends"
                    )));
                }
            }
        }
        Ok(query)
    }
}

/// Answers.
pub(super) async fn answer(
    State(running): State<Arc<Running>>,
    pairs: Pairs,
) -> Result<Json<Answer>, Refusal> {
    let query = Query::parse(read(pairs)?)?;
    let configured = running.configured();
    let known = |name: &str| {
        configured
            .every_pool()
            .any(|pool: &Arc<Pool>| *pool.name == *name)
    };
    if let Some(unknown) = query.pools.iter().find(|name| !known(name)) {
        return Err(no_pool(&running, unknown));
    }
    Ok(Json(Answer::of(&running.series.lock(), &query)))
}

impl Answer {
    fn of(series: &Series, query: &Query) -> Self {
        let last = series.step();
        let points = (query.minutes * A_MINUTE).min(last);
        let window = Window {
            first: last + 1 - points,
            last,
        };
        let wanted = |pool: &&PoolTrack| {
            query.pools.is_empty() || query.pools.iter().any(|name| **name == *pool.name)
        };
        let pools = series.pools().iter().filter(wanted);
        Self {
            step_seconds: STEP.as_secs(),
            until: series.at().map(At),
            points,
            pools: pools
                .map(|pool| (Arc::clone(&pool.name), window.pool(pool, query.backends)))
                .collect(),
        }
    }
}

/// The steps that are shown.
#[derive(Clone, Copy)]
struct Window {
    first: u64,
    last: u64,
}

impl Window {
    fn list<P, T>(self, track: &Track<P>, value: impl Fn(&P) -> Option<T>) -> List<T> {
        let steps = self.first..=self.last;
        steps.map(|step| track.at(step).and_then(&value)).collect()
    }

    /// The sum over all backends that there were.
    fn sum(self, pool: &PoolTrack, value: impl Fn(&crate::series::Point) -> u64) -> List<u64> {
        let of = |step| {
            let points = pool.backends.iter().filter_map(|b| b.points.at(step));
            points.map(&value).reduce(|one, other| one + other)
        };
        (self.first..=self.last).map(of).collect()
    }

    fn pool(self, pool: &PoolTrack, backends: bool) -> PoolAnswer {
        PoolAnswer {
            connections: self.sum(pool, |point| point.connections.into()),
            failed: self.sum(pool, |point| point.failed.into()),
            bytes_in: self.sum(pool, |point| point.bytes_in),
            bytes_out: self.sum(pool, |point| point.bytes_out),
            active: self.sum(pool, |point| point.active.into()),
            held: self.list(&pool.held, |held| Some(*held)),
            backends: backends.then(|| {
                let all = pool.backends.iter();
                all.map(|backend| (Arc::clone(&backend.name), self.backend(&backend.points)))
                    .collect()
            }),
        }
    }

    fn backend(self, points: &Track<crate::series::Point>) -> BackendAnswer {
        BackendAnswer {
            connections: self.list(points, |point| Some(point.connections)),
            failed: self.list(points, |point| Some(point.failed)),
            bytes_in: self.list(points, |point| Some(point.bytes_in)),
            bytes_out: self.list(points, |point| Some(point.bytes_out)),
            active: self.list(points, |point| Some(point.active)),
            connect_p99: self.list(points, |point| point.connect_p99),
            state: self.list(points, |point| Some(point.state)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, String> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Query::parse(pairs.map(own).collect()).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn what_is_asked_for_has_bounds() {
        let all = query("").expect("nothing is needed");
        assert_eq!((all.minutes, all.backends), (15, true));
        let some = query("minutes=1&pool=a&pool=b&backends=false").expect("a question");
        assert_eq!(
            (some.minutes, some.pools.len(), some.backends),
            (1, 2, false)
        );
        for wrong in [
            "minutes=0",
            "minutes=16",
            "minutes=x",
            "backends=2",
            "all=1",
        ] {
            query(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn a_pool_is_the_sum_of_its_backends_and_lists_are_equally_long() {
        let mut series = Series::default();
        let sample = |name: &str, connections| Sample {
            name: name.into(),
            totals: Totals {
                connections,
                ..Totals::default()
            },
            active: 2,
            state: crate::pool::State::Up,
            connect_p99: None,
        };
        for n in 0..20 {
            series.begin(SystemTime::now());
            let late = (n >= 15).then(|| sample("b", n));
            let samples = std::iter::once(sample("a", 10 * n)).chain(late);
            series.sample(&"web".into(), 0, samples);
        }
        let answer = Answer::of(&series, &query("minutes=1").expect("a question"));
        let answer = serde_json::to_value(answer).expect("JSON");
        assert_eq!(
            (&answer["points"], &answer["step_seconds"]),
            (&12.into(), &5.into())
        );
        let pool = &answer["pools"]["web"];
        let of = |value: &serde_json::Value| value.as_array().expect("a list").clone();
        let sums = of(&pool["connections"]);
        assert_eq!(sums.len(), 12);
        assert_eq!((&sums[0], &sums[11]), (&10.into(), &11.into()));
        let late = of(&pool["backends"]["b"]["state"]);
        assert_eq!(
            (&late[6], &late[7]),
            (&serde_json::Value::Null, &"up".into())
        );
    }
}

//! The last fifteen minutes, in steps of five seconds: what the charts show, there before anybody
//! looks.
//!
//! Pure: times and counts come in. Bounded: [`POINTS`] points of 40 bytes for each backend, so
//! about 7 MiB for a thousand; what is not there any more goes after as long.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::pool::State;

/// Time between two points.
pub const STEP: Duration = Duration::from_secs(5);
/// Points that are kept: fifteen minutes.
pub const POINTS: usize = 180;

/// What is known of a backend at one moment: totals since the start, and what is now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Connections that picked it.
    pub connections: u64,
    /// Connects that failed.
    pub failed: u64,
    /// Payload delivered to it.
    pub bytes_in: u64,
    /// Payload delivered to its clients.
    pub bytes_out: u64,
}

/// One sample of a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name.
    pub name: Arc<str>,
    /// Since the start.
    pub totals: Totals,
    /// Connections now.
    pub active: u32,
    /// Its state now.
    pub state: State,
    /// 99th percentile of the connects of the last minute, in seconds; `None`: there were none.
    pub connect_p99: Option<f32>,
}

/// What happened during one step, and how it was at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// New connections.
    pub connections: u32,
    /// Connects that failed.
    pub failed: u32,
    /// Payload delivered to it.
    pub bytes_in: u64,
    /// Payload delivered to its clients.
    pub bytes_out: u64,
    /// Connections at the end.
    pub active: u32,
    /// State at the end.
    pub state: State,
    /// See [`Sample::connect_p99`].
    pub connect_p99: Option<f32>,
}

/// The points of something that may have come later than others: the newest is that of the
/// newest step, unless it has gone.
#[derive(Clone, Debug)]
pub struct Track<P> {
    points: VecDeque<P>,
    /// Number of the step of the newest.
    newest: u64,
}

impl<P> Track<P> {
    fn new(step: u64) -> Self {
        Self {
            points: VecDeque::new(),
            newest: step,
        }
    }

    fn push(&mut self, step: u64, point: P) {
        if step != self.newest + 1 {
            // Somebody of that name was there before, and then nobody was.
            self.points.clear();
        }
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
        self.newest = step;
    }

    fn is_over(&self, now: u64) -> bool {
        self.newest + POINTS as u64 <= now
    }

    /// The point of that step, if there was one.
    pub fn at(&self, step: u64) -> Option<&P> {
        let back = self.newest.checked_sub(step)?;
        let index = self
            .points
            .len()
            .checked_sub(1 + usize::try_from(back).ok()?)?;
        self.points.get(index)
    }
}

/// A backend over time.
#[derive(Clone, Debug)]
pub struct BackendTrack {
    /// Its name.
    pub name: Arc<str>,
    /// Its points.
    pub points: Track<Point>,
    last: Totals,
}

/// A pool over time.
#[derive(Clone, Debug)]
pub struct PoolTrack {
    /// Its name.
    pub name: Arc<str>,
    /// Who was held at the end of each step.
    pub held: Track<u32>,
    /// In the order in which they came.
    pub backends: Vec<BackendTrack>,
    index: HashMap<Arc<str>, usize>,
}

/// All pools over time.
#[derive(Clone, Debug, Default)]
pub struct Series {
    step: u64,
    at: Option<SystemTime>,
    pools: Vec<PoolTrack>,
}

impl Series {
    /// Begins a step, whose end is `at`; what is [`sample`](Self::sample)d next belongs to it.
    pub fn begin(&mut self, at: SystemTime) {
        self.step += 1;
        self.at = Some(at);
        let now = self.step;
        self.pools.retain(|pool| !pool.held.is_over(now));
        for pool in &mut self.pools {
            pool.forget(now);
        }
    }

    /// The samples of one pool.
    pub fn sample(&mut self, pool: &Arc<str>, held: u32, backends: impl Iterator<Item = Sample>) {
        let step = self.step;
        let known = self.pools.iter().position(|known| known.name == *pool);
        let index = known.unwrap_or_else(|| {
            self.pools.push(PoolTrack {
                name: Arc::clone(pool),
                held: Track::new(step.saturating_sub(1)),
                backends: Vec::new(),
                index: HashMap::new(),
            });
            self.pools.len() - 1
        });
        let pool = &mut self.pools[index];
        pool.held.push(step, held);
        backends.for_each(|sample| pool.sample(step, sample));
    }

    /// Number of the newest step; 0: there is none yet.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// When that ended.
    pub fn at(&self) -> Option<SystemTime> {
        self.at
    }

    /// In the order in which they came.
    pub fn pools(&self) -> &[PoolTrack] {
        &self.pools
    }
}

impl PoolTrack {
    fn sample(&mut self, step: u64, sample: Sample) {
        let index = *self
            .index
            .entry(Arc::clone(&sample.name))
            .or_insert_with(|| {
                self.backends.push(BackendTrack {
                    name: Arc::clone(&sample.name),
                    points: Track::new(step.saturating_sub(1)),
                    // What it did before it was first seen is not of this step.
                    last: sample.totals,
                });
                self.backends.len() - 1
            });
        let track = &mut self.backends[index];
        let (now, last) = (sample.totals, track.last);
        // A total that is smaller is that of another backend of this name.
        let more = |now: u64, last: u64| now.checked_sub(last).unwrap_or(now);
        let count = |now, last| u32::try_from(more(now, last)).unwrap_or(u32::MAX);
        let point = Point {
            connections: count(now.connections, last.connections),
            failed: count(now.failed, last.failed),
            bytes_in: more(now.bytes_in, last.bytes_in),
            bytes_out: more(now.bytes_out, last.bytes_out),
            active: sample.active,
            state: sample.state,
            connect_p99: sample.connect_p99,
        };
        track.points.push(step, point);
        track.last = now;
    }

    fn forget(&mut self, now: u64) {
        let before = self.backends.len();
        self.backends.retain(|backend| !backend.points.is_over(now));
        if self.backends.len() != before {
            let names = self.backends.iter().enumerate();
            self.index = names
                .map(|(index, backend)| (Arc::clone(&backend.name), index))
                .collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + STEP * u32::try_from(step).expect("few steps")
    }

    fn sample(name: &str, connections: u64, bytes: u64) -> Sample {
        Sample {
            name: name.into(),
            totals: Totals {
                connections,
                bytes_in: bytes,
                ..Totals::default()
            },
            active: 1,
            state: State::Up,
            connect_p99: None,
        }
    }

    fn step(series: &mut Series, samples: Vec<Sample>) {
        series.begin(at(series.step() + 1));
        series.sample(&"web".into(), 2, samples.into_iter());
    }

    /// New connections of a backend, step by step.
    fn connections(series: &Series, name: &str) -> Vec<Option<u32>> {
        let backends = &series.pools()[0].backends;
        let track = backends.iter().find(|backend| *backend.name == *name);
        let track = &track.expect("it is known").points;
        let steps = 1..=series.step();
        steps
            .map(|step| track.at(step).map(|p| p.connections))
            .collect()
    }

    #[test]
    fn a_point_is_what_happened_since_the_one_before() {
        let mut series = Series::default();
        for total in [100, 103, 103, 110] {
            step(&mut series, vec![sample("a", total, total * 10)]);
        }
        let expected = [Some(0), Some(3), Some(0), Some(7)];
        assert_eq!(connections(&series, "a"), expected);
        let track = &series.pools()[0].backends[0].points;
        assert_eq!(track.at(4).expect("a point").bytes_in, 70);
        assert_eq!(series.pools()[0].held.at(4), Some(&2));
        assert_eq!(series.at(), Some(at(4)));
    }

    #[test]
    fn who_comes_later_has_no_points_before() {
        let mut series = Series::default();
        step(&mut series, vec![sample("a", 0, 0)]);
        step(&mut series, vec![sample("a", 0, 0), sample("b", 5, 0)]);
        step(&mut series, vec![sample("a", 0, 0), sample("b", 6, 0)]);
        assert_eq!(connections(&series, "b"), [None, Some(0), Some(1)]);
    }

    #[test]
    fn another_backend_of_the_same_name_begins_anew() {
        let mut series = Series::default();
        step(&mut series, vec![sample("a", 50, 0)]);
        step(&mut series, vec![sample("a", 4, 0)]);
        assert_eq!(connections(&series, "a"), [Some(0), Some(4)]);
        step(&mut series, vec![]);
        step(&mut series, vec![sample("a", 9, 0)]);
        assert_eq!(connections(&series, "a"), [None, None, None, Some(5)]);
    }

    #[test]
    fn fifteen_minutes_are_kept_and_who_is_gone_for_as_long_is_forgotten() {
        let mut series = Series::default();
        step(&mut series, vec![sample("a", 0, 0), sample("gone", 0, 0)]);
        for n in 1..=POINTS as u64 {
            step(&mut series, vec![sample("a", n, 0)]);
        }
        let pool = &series.pools()[0];
        assert_eq!(pool.backends.len(), 1);
        let newest = series.step();
        let track = &pool.backends[0].points;
        assert!(track.at(newest - POINTS as u64 + 1).is_some());
        assert!(track.at(newest - POINTS as u64).is_none());
        assert!(track.at(newest + 1).is_none());
        step(&mut series, vec![sample("a", 500, 0), sample("b", 0, 0)]);
        assert_eq!(series.pools()[0].backends.len(), 2);
        for _ in 0..POINTS {
            series.begin(at(series.step() + 1));
        }
        assert!(series.pools().is_empty());
    }

    #[test]
    fn a_thousand_backends_take_a_quarter_of_what_they_may() {
        let each = std::mem::size_of::<Point>() * POINTS + 512;
        assert!(1000 * each <= 8 << 20, "{each} bytes each");
    }
}

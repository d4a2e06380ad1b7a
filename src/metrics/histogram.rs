//! How long things take: recorded on the data cores for the price of a few additions, summed
//! when somebody reads.
//!
//! A data core writes its own cell with plain stores, as in [`counters`](super::counters),
//! and takes no lock; that is why this is not hdrhistogram, whose recorders share a channel.
//! Two resolutions are kept: the twelve bounds that are exported, counted exactly, and
//! log-linear buckets (eight in each power of two of microseconds, so within 12.5 %) for
//! percentiles. Cells are made on first use: a backend nobody calls costs nothing.
//!
//! What is recorded [rarely](Histogram::rare) has one cell for all cores. It may also be something
//! else than a duration: a [`Scale`] says what.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::counters::{Counter, PerCore};
use super::ledger::HistogramTotals;

/// Upper bounds of the exported buckets, in seconds; the last one is `+Inf`.
pub const BOUNDS: [f64; 11] = [
    0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0,
];

/// What a histogram measures, and the bounds that are exported.
#[derive(Debug)]
pub struct Scale {
    /// Upper bounds of the exported buckets, in what is shown; the last one is `+Inf`.
    pub bounds: [f64; 11],
    /// How many units are recorded for one that is shown.
    units: f64,
}

/// Durations as a balancer measures them, recorded in microseconds, shown in seconds.
pub static SECONDS: Scale = Scale {
    bounds: BOUNDS,
    units: 1e6,
};

/// Round-trip times, from those of one machine to those of a satellite; as durations otherwise.
pub static ROUND_TRIPS: Scale = Scale {
    bounds: [
        0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.2, 1.0,
    ],
    units: 1e6,
};

/// Rates in bytes per second, from 8 kbit/s to 80 Gbit/s.
pub static RATES: Scale = Scale {
    bounds: [1e3, 1e4, 1e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9, 1e10],
    units: 1.0,
};

/// Buckets up to [`LINEAR`] microseconds are one microsecond wide.
const LINEAR: u64 = 16;
/// Buckets in each further power of two.
const PER_OCTAVE: u64 = 8;
/// 2^40 µs are twelve days; what takes longer counts as that.
const OCTAVES: u64 = 36;
const FINE: usize = (LINEAR + OCTAVES * PER_OCTAVE) as usize;

/// Percentiles look back this far.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// In steps of this.
pub(crate) const STEP: Duration = Duration::from_secs(10);

/// A distribution of durations, or of what its [`Scale`] says.
#[derive(Debug)]
pub struct Histogram {
    scale: &'static Scale,
    cells: PerCore<OnceLock<Box<Cell>>>,
    past: Mutex<Past>,
}

#[derive(Debug)]
struct Cell {
    count: Counter,
    sum_micros: Counter,
    max_micros: AtomicU64,
    coarse: [Counter; BOUNDS.len() + 1],
    fine: [AtomicU32; FINE],
}

impl Default for Cell {
    fn default() -> Self {
        Self {
            count: Counter::default(),
            sum_micros: Counter::default(),
            max_micros: AtomicU64::new(0),
            coarse: Default::default(),
            fine: [const { AtomicU32::new(0) }; FINE],
        }
    }
}

/// Fine buckets that count something, by their number: most are empty.
type Sparse = Box<[(u16, u32)]>;

/// Sums of the fine buckets as they were, oldest first.
#[derive(Debug, Default)]
struct Past {
    steps: VecDeque<(Instant, Sparse)>,
}

/// What `/stats` shows of a distribution, in the unit of its [`Scale`].
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Since the start.
    pub count: u64,
    /// Median of the last 60 s.
    pub p50: f64,
    /// 90th percentile of the last 60 s.
    pub p90: f64,
    /// 99th percentile of the last 60 s.
    pub p99: f64,
    /// Since the start.
    pub max: f64,
}

/// What `/metrics` shows of a distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// Of all samples, in the unit of its [`Scale`].
    pub sum: f64,
    /// How many samples.
    pub count: u64,
    /// Samples in each bucket (not cumulative): those of the bounds, then the rest.
    pub counts: [u64; BOUNDS.len() + 1],
}

impl Histogram {
    /// An empty one, for `cores` data cores.
    pub fn new(cores: usize) -> Self {
        Self {
            scale: &SECONDS,
            cells: PerCore::new(cores),
            past: Mutex::default(),
        }
    }

    /// An empty one for what is recorded a few hundred times a second at most.
    pub fn rare(scale: &'static Scale) -> Self {
        Self {
            scale,
            ..Self::new(0)
        }
    }

    /// What it measures.
    pub fn scale(&self) -> &'static Scale {
        self.scale
    }

    /// One more sample.
    pub fn record(&self, sample: Duration) {
        let micros = u64::try_from(sample.as_micros()).unwrap_or(u64::MAX);
        let cell = self.cells.here().get_or_init(Box::default);
        cell.count.add(1);
        cell.sum_micros.add(micros);
        cell.max_micros.fetch_max(micros, Relaxed);
        let seconds = sample.as_secs_f64();
        let coarse = BOUNDS.iter().position(|bound| seconds <= *bound);
        cell.coarse[coarse.unwrap_or(BOUNDS.len())].add(1);
        cell.fine[bucket(micros)].fetch_add(1, Relaxed);
    }

    /// One more sample in the unit in which the scale records, from any thread. For those that
    /// are made to be [`rare`](Self::rare).
    pub fn record_rarely(&self, sample: u64) {
        let cell = self.cells.shared().get_or_init(Box::default);
        cell.count.add_shared(1);
        cell.sum_micros.add_shared(sample);
        cell.max_micros.fetch_max(sample, Relaxed);
        let shown = self.shown(sample);
        let coarse = self.scale.bounds.iter().position(|bound| shown <= *bound);
        cell.coarse[coarse.unwrap_or(BOUNDS.len())].add_shared(1);
        cell.fine[bucket(sample)].fetch_add(1, Relaxed);
    }

    /// Moves the window of the percentiles on; to be called about every ten seconds.
    pub fn step(&self, now: Instant) {
        let count = self.count();
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if count == 0 || past.steps.back().is_some_and(|(at, _)| now < *at + STEP) {
            return;
        }
        let fine = sparse(&self.fine()).collect();
        past.steps.push_back((now, fine));
        while past.steps.len() > 1 && past.steps[1].0 + WINDOW <= now {
            past.steps.pop_front();
        }
    }

    /// For `/stats`.
    pub fn summary(&self, now: Instant) -> Summary {
        let count = self.count();
        if count == 0 {
            return Summary::default();
        }
        let recent = self.recent(now);
        let max = self.shown(self.max_micros());
        let percentile = |share| percentile(&recent, share).map_or(0.0, |p| self.shown(p).min(max));
        Summary {
            count,
            p50: percentile(0.5),
            p90: percentile(0.9),
            p99: percentile(0.99),
            max,
        }
    }

    /// For `/metrics`.
    pub fn buckets(&self) -> Buckets {
        let mut counts = [0; BOUNDS.len() + 1];
        for cell in self.each() {
            for (sum, count) in counts.iter_mut().zip(&cell.coarse) {
                *sum += count.value();
            }
        }
        Buckets {
            sum: self.shown(self.each().map(|cell| cell.sum_micros.value()).sum()),
            // Of the buckets, so that both agree while samples come in.
            count: counts.iter().sum(),
            counts,
        }
    }

    /// All that was counted; in the fine buckets what percentiles look at.
    pub fn totals(&self) -> HistogramTotals {
        if self.count() == 0 {
            return HistogramTotals::default();
        }
        let buckets = self.buckets();
        HistogramTotals {
            count: buckets.count,
            sum_micros: self.each().map(|cell| cell.sum_micros.value()).sum(),
            max_micros: self.max_micros(),
            coarse: buckets.counts.to_vec(),
            fine: sparse(&self.fine()).collect(),
        }
    }

    /// Adds what another process has counted.
    pub fn add_totals(&self, totals: &HistogramTotals) {
        if totals.is_empty() {
            return;
        }
        let cell = self.cells.here().get_or_init(Box::default);
        cell.count.add(totals.count);
        cell.sum_micros.add(totals.sum_micros);
        cell.max_micros.fetch_max(totals.max_micros, Relaxed);
        for (counter, count) in cell.coarse.iter().zip(&totals.coarse) {
            counter.add(*count);
        }
        for (bucket, count) in &totals.fine {
            if let Some(fine) = cell.fine.get(usize::from(*bucket)) {
                fine.fetch_add(*count, Relaxed);
            }
        }
    }

    /// What percentiles do not look at any more: to be left out where all is carried over.
    pub fn beyond_window(&self, now: Instant) -> HistogramTotals {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let before = past.steps.iter().rev().find(|(at, _)| *at + WINDOW <= now);
        let fine = before.into_iter().flat_map(|(_, fine)| fine.iter());
        HistogramTotals {
            fine: fine.copied().collect(),
            ..HistogramTotals::default()
        }
    }

    fn max_micros(&self) -> u64 {
        let each = self.each().map(|cell| cell.max_micros.load(Relaxed));
        each.max().unwrap_or(0)
    }

    /// A sample as it is shown.
    fn shown(&self, sample: u64) -> f64 {
        sample as f64 / self.scale.units
    }

    fn each(&self) -> impl Iterator<Item = &Cell> {
        self.cells
            .iter()
            .filter_map(|cell| cell.get().map(|cell| &**cell))
    }

    fn count(&self) -> u64 {
        self.each().map(|cell| cell.count.value()).sum()
    }

    fn fine(&self) -> Box<[u32]> {
        let mut sums = vec![0_u32; FINE].into_boxed_slice();
        for cell in self.each() {
            for (sum, count) in sums.iter_mut().zip(&cell.fine) {
                *sum = sum.wrapping_add(count.load(Relaxed));
            }
        }
        sums
    }

    /// The fine buckets of the window.
    fn recent(&self, now: Instant) -> Box<[u32]> {
        let mut fine = self.fine();
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let before = past.steps.iter().rev().find(|(at, _)| *at + WINDOW <= now);
        if let Some((_, before)) = before {
            for (bucket, old) in before {
                let sum = &mut fine[usize::from(*bucket)];
                *sum = sum.wrapping_sub(*old);
            }
        }
        fine
    }
}

/// The buckets that count something.
fn sparse(fine: &[u32]) -> impl Iterator<Item = (u16, u32)> {
    let counted = fine.iter().enumerate().filter(|(_, count)| **count > 0);
    counted.filter_map(|(bucket, count)| Some((u16::try_from(bucket).ok()?, *count)))
}

/// Index of the fine bucket of a duration.
fn bucket(micros: u64) -> usize {
    if micros < LINEAR {
        return micros as usize;
    }
    let octave = u64::from(micros.ilog2()) - u64::from(LINEAR.ilog2());
    if octave >= OCTAVES {
        return FINE - 1;
    }
    let within = (micros >> (octave + 1)) & (PER_OCTAVE - 1);
    (LINEAR + octave * PER_OCTAVE + within) as usize
}

/// A duration in the middle of a fine bucket.
fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < LINEAR {
        return bucket;
    }
    let octave = (bucket - LINEAR) / PER_OCTAVE;
    let within = (bucket - LINEAR) % PER_OCTAVE;
    let width = 1 << (octave + 1);
    (PER_OCTAVE + within) * width + width / 2
}

/// The duration below which `share` of the samples lie; `None`: no samples.
fn percentile(fine: &[u32], share: f64) -> Option<u64> {
    let total: u64 = fine.iter().map(|count| u64::from(*count)).sum();
    let rank = ((total as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    fine.iter()
        .position(|count| {
            seen += u64::from(*count);
            seen >= rank
        })
        .map(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_every_bucket_lies_in_it() {
        for index in 0..FINE {
            assert_eq!(bucket(middle(index)), index);
        }
        assert_eq!(bucket(u64::MAX), FINE - 1);
    }

    #[test]
    fn percentiles_are_within_an_eighth() {
        let histogram = Histogram::new(1);
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        let summary = histogram.summary(Instant::now());
        assert_eq!(summary.count, 1000);
        assert_eq!(summary.max, 1.0);
        for (seen, exact) in [(summary.p50, 0.5), (summary.p90, 0.9), (summary.p99, 0.99)] {
            assert!((seen / exact - 1.0).abs() < 0.125, "{seen} for {exact}");
        }
    }

    #[test]
    fn percentiles_forget_what_is_older_than_a_minute_and_counts_do_not() {
        let start = Instant::now();
        let histogram = Histogram::new(1);
        histogram.record(Duration::from_secs(1));
        for step in 0..8 {
            histogram.step(start + STEP * step);
        }
        histogram.record(Duration::from_millis(1));
        let summary = histogram.summary(start + STEP * 8);
        assert_eq!(summary.count, 2);
        assert_eq!(summary.max, 1.0);
        assert!(summary.p99 < 0.002, "{summary:?}");
        let beyond = histogram.beyond_window(start + STEP * 8).fine;
        assert_eq!(beyond, [(bucket(1_000_000) as u16, 1)]);
    }

    #[test]
    fn exported_buckets_count_exactly() {
        let histogram = Histogram::new(1);
        for seconds in [0.0001, 0.0002, 3.0, 7000.0] {
            histogram.record(Duration::from_secs_f64(seconds));
        }
        let buckets = histogram.buckets();
        assert_eq!(buckets.count, 4);
        assert_eq!(buckets.counts[0], 1);
        assert_eq!(buckets.counts[1], 1);
        assert_eq!(buckets.counts[8], 1);
        assert_eq!(buckets.counts[11], 1);
        assert!((buckets.sum - 7003.0003).abs() < 1e-6);
    }

    #[test]
    fn rates_are_counted_by_their_own_bounds_and_shown_as_they_are() {
        let histogram = Histogram::rare(&RATES);
        for rate in [1_000, 1_001, 125_000_000, u64::MAX >> 8] {
            histogram.record_rarely(rate);
        }
        let buckets = histogram.buckets();
        let expected = [1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1];
        assert_eq!((buckets.count, buckets.counts), (4, expected));
        let summary = histogram.summary(Instant::now());
        assert_eq!(summary.count, 4);
        assert!((900.0..1100.0).contains(&summary.p50), "{summary:?}");
        assert_eq!(summary.max, (u64::MAX >> 8) as f64);
    }

    #[test]
    fn what_is_rare_is_counted_exactly_by_all_cores_at_once() {
        let histogram = std::sync::Arc::new(Histogram::rare(&ROUND_TRIPS));
        let cores = (0..3).map(|core| {
            let histogram = std::sync::Arc::clone(&histogram);
            std::thread::spawn(move || {
                crate::metrics::counters::enter(core);
                (0..1000).for_each(|_| histogram.record_rarely(70));
            })
        });
        let cores: Vec<_> = cores.collect();
        cores
            .into_iter()
            .for_each(|core| core.join().expect("a counting core"));
        let buckets = histogram.buckets();
        assert_eq!((buckets.count, buckets.counts[1]), (3000, 3000));
        assert!((buckets.sum - 0.21).abs() < 1e-9);
    }

    /// The window moves on, or somebody reads percentiles.
    #[test]
    fn recording_waits_for_no_reader() {
        let histogram = std::sync::Arc::new(Histogram::new(1));
        let reading = histogram.past.lock().expect("nobody panicked");
        let (done, recorded) = std::sync::mpsc::channel();
        let recorder = std::sync::Arc::clone(&histogram);
        std::thread::spawn(move || {
            recorder.record(Duration::from_millis(1));
            done.send(()).expect("somebody waits");
        });
        let recorded = recorded.recv_timeout(Duration::from_secs(20));
        drop(reading);
        recorded.expect("it was recorded");
        assert_eq!(histogram.count(), 1);
    }
}

//! How long things take: recorded on the data cores for the price of a few additions, summed
//! when somebody reads.
//!
//! A data core writes its own cell with plain stores, as in [`counters`](super::counters),
//! and takes no lock; that is why this is not hdrhistogram, whose recorders share a channel.
//! Two resolutions are kept: the twelve bounds that are exported, counted exactly, and
//! log-linear buckets (eight in each power of two of microseconds, so within 12.5 %) for
//! percentiles. Cells are made on first use: a backend nobody calls costs nothing.

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

/// Buckets up to [`LINEAR`] microseconds are one microsecond wide.
const LINEAR: u64 = 16;
/// Buckets in each further power of two.
const PER_OCTAVE: u64 = 8;
/// 2^40 µs are twelve days; what takes longer counts as that.
const OCTAVES: u64 = 36;
const FINE: usize = (LINEAR + OCTAVES * PER_OCTAVE) as usize;

/// Percentiles look back this far.
const WINDOW: Duration = Duration::from_secs(60);
/// In steps of this.
const STEP: Duration = Duration::from_secs(10);

/// A distribution of durations.
#[derive(Debug)]
pub struct Histogram {
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

/// Sums of the fine buckets as they were, oldest first.
#[derive(Debug, Default)]
struct Past {
    steps: VecDeque<(Instant, Box<[u32]>)>,
}

/// What `/stats` shows of a distribution; durations in seconds.
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
    /// Of all samples, in seconds.
    pub sum: f64,
    /// How many samples.
    pub count: u64,
    /// Samples in each bucket (not cumulative): those of [`BOUNDS`], then the rest.
    pub counts: [u64; BOUNDS.len() + 1],
}

impl Histogram {
    /// An empty one, for `cores` data cores.
    pub fn new(cores: usize) -> Self {
        Self {
            cells: PerCore::new(cores),
            past: Mutex::default(),
        }
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

    /// Moves the window of the percentiles on; to be called about every ten seconds.
    pub fn step(&self, now: Instant) {
        let count = self.count();
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if count == 0 || past.steps.back().is_some_and(|(at, _)| now < *at + STEP) {
            return;
        }
        let fine = self.fine();
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
        let max = seconds(self.max_micros());
        let percentile = |share| percentile(&recent, share).map_or(0.0, |p| seconds(p).min(max));
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
            sum: self.each().map(|cell| cell.sum_micros.value()).sum::<u64>() as f64 / 1e6,
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
        let fine = before.into_iter().flat_map(|(_, fine)| sparse(fine));
        HistogramTotals {
            fine: fine.collect(),
            ..HistogramTotals::default()
        }
    }

    fn max_micros(&self) -> u64 {
        let each = self.each().map(|cell| cell.max_micros.load(Relaxed));
        each.max().unwrap_or(0)
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
            for (sum, old) in fine.iter_mut().zip(before) {
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

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
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

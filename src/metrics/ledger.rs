//! What was counted, by name: carried from one process to the one that takes its place, so that
//! no total ever goes back.
//!
//! Names, not places: a later version may count more than an earlier one. What the receiver
//! does not know it leaves out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::counters::{Counter, PerCore};

/// Counts by name.
pub type Counts = BTreeMap<String, u64>;

/// Cells whose counters have names.
pub trait Named {
    /// Tells each counter and its name.
    fn each<'a>(&'a self, tell: &mut dyn FnMut(&str, &'a Counter));
}

/// Tells counters that are numbered by words.
pub fn by_word<'a>(
    prefix: &str,
    words: &[&str],
    counters: &'a [Counter],
    tell: &mut dyn FnMut(&str, &'a Counter),
) {
    for (word, counter) in words.iter().zip(counters) {
        tell(&format!("{prefix}.{word}"), counter);
    }
}

impl Named for Counter {
    fn each<'a>(&'a self, tell: &mut dyn FnMut(&str, &'a Counter)) {
        tell("count", self);
    }
}

impl<T: Named> PerCore<T> {
    /// All counts as they are now.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for cell in self.iter() {
            cell.each(&mut |name, counter| match counts.get_mut(name) {
                Some(count) => *count = count.wrapping_add(counter.value()),
                None => drop(counts.insert(name.to_owned(), counter.value())),
            });
        }
        counts
    }

    /// Adds what another process has counted.
    pub fn add_counts(&self, counts: &Counts) {
        self.here().each(&mut |name, counter| {
            if let Some(count) = counts.get(name) {
                counter.add(*count);
            }
        });
    }
}

/// What was counted since `before`; nothing that was not.
pub fn since(now: &Counts, before: &Counts) -> Counts {
    let grown = now.iter().filter_map(|(name, count)| {
        let more = count.wrapping_sub(before.get(name).copied().unwrap_or(0));
        (more > 0).then(|| (name.clone(), more))
    });
    grown.collect()
}

/// What a histogram has counted, or what it has counted since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistogramTotals {
    /// Samples.
    pub count: u64,
    /// Their sum, in microseconds.
    pub sum_micros: u64,
    /// The largest, in microseconds.
    pub max_micros: u64,
    /// In the exported buckets.
    pub coarse: Vec<u64>,
    /// In the fine buckets that have any, those of the percentiles.
    pub fine: Vec<(u16, u32)>,
}

impl HistogramTotals {
    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let old: BTreeMap<u16, u32> = before.fine.iter().copied().collect();
        let fine = self.fine.iter().filter_map(|(bucket, count)| {
            let more = count.wrapping_sub(old.get(bucket).copied().unwrap_or(0));
            (more > 0).then_some((*bucket, more))
        });
        let coarse = self.coarse.iter().enumerate();
        let coarse =
            coarse.map(|(i, n)| n.wrapping_sub(before.coarse.get(i).copied().unwrap_or(0)));
        Self {
            count: self.count.wrapping_sub(before.count),
            sum_micros: self.sum_micros.wrapping_sub(before.sum_micros),
            max_micros: self.max_micros,
            coarse: coarse.collect(),
            fine: fine.collect(),
        }
    }

    /// Whether it counts nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Histogram, ListenerCounters};
    use std::time::{Duration, Instant};

    #[test]
    fn counts_arrive_under_their_names_and_what_came_since_alone() {
        let old = PerCore::<ListenerCounters>::new(2);
        let new = PerCore::<ListenerCounters>::new(3);
        old.here().total.add(5);
        old.here().ended[2].add(3);
        let first = old.counts();
        new.add_counts(&since(&first, &Counts::new()));
        old.here().total.add(1);
        let second = since(&old.counts(), &first);
        assert_eq!(second, Counts::from([("total".to_owned(), 1)]));
        new.add_counts(&second);
        new.add_counts(&Counts::from([("of a later version".to_owned(), 9)]));
        let counts = new.counts();
        assert_eq!((counts["total"], counts["ended.client_reset"]), (6, 3));
        assert_eq!(new.counts(), old.counts());
    }

    #[test]
    fn a_histogram_arrives_whole_and_goes_on() {
        let (old, new) = (Histogram::new(1), Histogram::new(2));
        for ms in [1, 10, 100] {
            old.record(Duration::from_millis(ms));
        }
        let first = old.totals();
        new.add_totals(&first);
        old.record(Duration::from_millis(1000));
        new.add_totals(&old.totals().since(&first));
        let now = Instant::now();
        assert_eq!(new.buckets(), old.buckets());
        assert_eq!(new.summary(now), old.summary(now));
        new.record(Duration::from_millis(5));
        assert_eq!(new.summary(now).count, 5);
    }

    #[test]
    fn buckets_that_there_are_not_are_left_out() {
        let histogram = Histogram::new(1);
        histogram.add_totals(&HistogramTotals {
            count: 1,
            sum_micros: 1,
            max_micros: 1,
            coarse: vec![1; 99],
            fine: vec![(0, 1), (u16::MAX, 7)],
        });
        assert_eq!(histogram.summary(Instant::now()).count, 1);
    }
}

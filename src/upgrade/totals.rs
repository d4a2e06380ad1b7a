//! Totals on their way from the old process to the new one: all of them once, then what came
//! since, as long as the old process has connections.
//!
//! What a listener or a pool counts and the new process has no more is lost with it, as at a
//! reload; of a backend that is gone the bytes stay in the sum of its pool.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::message::{Of, Total};
use crate::admin::{Configured, Running};
use crate::metrics::ledger::{Counts, HistogramTotals, since};
use crate::metrics::{Histogram, PerCore};
use crate::pool::quality::Sent;
use crate::pool::{Backend, Pool};

/// Things told of in one message, so that it stays within its bounds: a backend takes twenty
/// kilobytes at most.
const AT_ONCE: usize = 128;

/// Before the names of accept errors.
const ACCEPT: &str = "accept_error.";
/// Before what came of questions to DNS.
const LOOKUP: &str = "lookup.";

/// What the other process knows already.
#[derive(Debug)]
pub struct Told {
    by_of: BTreeMap<Of, Known>,
}

#[derive(Debug, Default)]
struct Known {
    counts: Counts,
    histograms: BTreeMap<&'static str, HistogramTotals>,
}

impl Told {
    /// Nothing.
    pub fn nothing() -> Self {
        Self {
            by_of: BTreeMap::new(),
        }
    }

    /// What it does not know yet, in messages of their own; it knows it from here on.
    pub fn news(&mut self, running: &Running) -> Vec<Vec<Total>> {
        let now = Instant::now();
        let mut news = Vec::new();
        news.extend(self.of(Of::Process, process(running), &[], now));
        let configured = running.configured();
        for listener in configured.every_listener() {
            let mut counts = listener.origin.counters.counts();
            for (name, count) in listener.errors.counts() {
                counts.insert(format!("{ACCEPT}{name}"), count);
            }
            let of = Of::Listener(Arc::clone(&listener.origin.name));
            news.extend(self.of(of, counts, &[], now));
        }
        for pool in configured.every_pool() {
            let of = Of::Pool(Arc::clone(&pool.name));
            news.extend(self.of(of, pool.counters.counts(), &of_pool(pool), now));
            for backend in pool.all_backends() {
                let of = Of::Backend(Arc::clone(&pool.name), Arc::clone(&backend.name));
                let histograms = of_backend(&backend);
                news.extend(self.of(of, backend.counters.counts(), &histograms, now));
            }
        }
        news.chunks(AT_ONCE).map(<[Total]>::to_vec).collect()
    }

    fn of(
        &mut self,
        of: Of,
        counts: Counts,
        histograms: &[(&'static str, &Histogram)],
        now: Instant,
    ) -> Option<Total> {
        let known = self.by_of.entry(of.clone()).or_default();
        let mut total = Total {
            of,
            counts: since(&counts, &known.counts),
            histograms: BTreeMap::new(),
        };
        known.counts = counts;
        for (name, histogram) in histograms {
            let totals = histogram.totals();
            let before = known.histograms.entry(name);
            let before = before.or_insert_with(|| histogram.beyond_window(now));
            let news = totals.since(before);
            *before = totals;
            if !news.is_empty() {
                total.histograms.insert((*name).to_owned(), news);
            }
        }
        let is_news = !total.counts.is_empty() || !total.histograms.is_empty();
        is_news.then_some(total)
    }
}

/// Adds what the other process has counted, to what this one `began` with: that is what the other
/// one knows by name.
pub fn add(running: &Running, began: &Configured, totals: &[Total]) {
    totals
        .iter()
        .for_each(|total| add_one(running, began, total));
}

fn add_one(running: &Running, began: &Configured, total: &Total) {
    match &total.of {
        Of::Process => {
            running.process.spliced.add_counts(&total.counts);
            let lookups = total.counts.iter().filter_map(|(name, count)| {
                let name = name.strip_prefix(LOOKUP)?;
                Some((name, *count))
            });
            running.process.lookups.add_counts(lookups);
        }
        Of::Listener(name) => {
            let mut all = began.every_listener();
            let Some(listener) = all.find(|listener| listener.origin.name == *name) else {
                return;
            };
            listener.origin.counters.add_counts(&total.counts);
            for (name, count) in &total.counts {
                if let Some(errno) = name.strip_prefix(ACCEPT) {
                    listener.errors.add(errno, *count);
                }
            }
        }
        Of::Pool(name) => {
            if let Some(pool) = began.pool(name) {
                add_both(&pool.counters, &of_pool(pool), total);
            }
        }
        Of::Backend(pool, name) => {
            let Some(pool) = began.pool(pool) else {
                return;
            };
            let count = |name| total.counts.get(name).copied().unwrap_or(0);
            match pool.backend(name) {
                Some(backend) => {
                    backend.quality.carry(Sent {
                        bytes: count("tcp_sent"),
                        retransmitted: count("tcp_retransmitted"),
                    });
                    add_both(&backend.counters, &of_backend(&backend), total);
                }
                None => {
                    pool.add_departed(count("bytes_in"), count("bytes_out"));
                }
            }
        }
    }
}

fn add_both<T: crate::metrics::ledger::Named>(
    counters: &PerCore<T>,
    histograms: &[(&str, &Histogram)],
    total: &Total,
) {
    counters.add_counts(&total.counts);
    for (name, histogram) in histograms {
        if let Some(totals) = total.histograms.get(*name) {
            histogram.add_totals(totals);
        }
    }
}

fn process(running: &Running) -> Counts {
    let mut counts = running.process.spliced.counts();
    let lookups = running.process.lookups.counts().into_iter();
    counts.extend(lookups.map(|(name, count)| (format!("{LOOKUP}{name}"), count)));
    counts
}

fn of_pool(pool: &Pool) -> [(&'static str, &Histogram); 3] {
    [
        ("first_byte", &pool.first_byte_seconds),
        ("duration", &pool.duration_seconds),
        ("hold", &pool.hold_seconds),
    ]
}

fn of_backend(backend: &Backend) -> [(&'static str, &Histogram); 5] {
    let [rtt, delivery_rate] = backend.quality.histograms();
    [
        ("connect", &backend.connect_seconds),
        ("first_byte", &backend.first_byte_seconds),
        ("duration", &backend.duration_seconds),
        rtt,
        delivery_rate,
    ]
}

//! What a pass of the load generator saw.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longer than any stage of the load generator may last.
const LONGEST_NS: u64 = 60_000_000_000;

/// The outcome of one pass.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Connections, messages, or millions of bytes.
    pub units: f64,
    /// How long it took.
    pub seconds: f64,
    /// Of connections and messages; bulk has none.
    pub latency: Option<Latency>,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Median.
    pub p50_us: f64,
    /// One in a hundred is above.
    pub p99_us: f64,
    /// One in a thousand is above.
    pub p999_us: f64,
    /// The worst.
    pub max_us: f64,
}

/// Collects latencies from all tasks of a pass.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(Arc<Mutex<Histogram<u64>>>);

impl Recorder {
    /// Three significant digits, from a nanosecond to a minute; longer counts as a minute.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3)
            .expect("the bounds are in order and three digits are within 0 to 5");
        Self(Arc::new(Mutex::new(histogram)))
    }

    /// One unit that took `elapsed`.
    pub(crate) fn record(&self, elapsed: Duration) {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.lock().saturating_record(nanos);
    }

    /// What was recorded, over a pass that took `elapsed`.
    pub(crate) fn sample(&self, elapsed: Duration) -> Sample {
        let seen = self.lock();
        let micros = |quantile| seen.value_at_quantile(quantile) as f64 / 1e3;
        Sample {
            units: seen.len() as f64,
            seconds: elapsed.as_secs_f64(),
            latency: Some(Latency {
                p50_us: micros(0.5),
                p99_us: micros(0.99),
                p999_us: micros(0.999),
                max_us: seen.max() as f64 / 1e3,
            }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Histogram<u64>> {
        self.0.lock().expect("no task panics while it records")
    }
}

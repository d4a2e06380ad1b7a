//! What counting costs: on a data core, where it must be next to nothing, and for a reader.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use isobar::metrics::counters::{self, Counter, PerCore};
use isobar::metrics::histogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The same samples in every run.
const SEED: u64 = 4711;
/// A mid-sized machine's data cores.
const CORES: usize = 16;
/// The core of the thread that measures.
const OWN: usize = CORES - 1;

criterion_group!(
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .nresamples(10_000);
    // A thread that has entered a core cannot leave it: the control plane goes first.
    targets = control_plane, data_core, reader
);
criterion_main!(benches);

/// Adds atomically, as it shares its cell.
fn control_plane(criterion: &mut Criterion) {
    let counts = PerCore::<Counter>::new(CORES);
    criterion.bench_function("counter_add_on_control_plane", |bencher| {
        bencher.iter(|| black_box(&counts).here().add(black_box(1)));
    });
}

fn data_core(criterion: &mut Criterion) {
    counters::enter(OWN);
    let counts = PerCore::<Counter>::new(CORES);
    criterion.bench_function("counter_add_on_data_core", |bencher| {
        bencher.iter(|| black_box(&counts).here().add(black_box(1)));
    });
    let histogram = Histogram::new(CORES);
    let samples = samples();
    let mut next = samples.iter().cycle();
    criterion.bench_function("histogram_record_on_data_core", |bencher| {
        bencher.iter(|| black_box(&histogram).record(*next.next().expect("it is a cycle")));
    });
}

/// Every core has counted.
fn reader(criterion: &mut Criterion) {
    let (counts, histogram) = counted();
    criterion.bench_function("counter_sum_over_16_cores", |bencher| {
        bencher.iter(|| black_box(&*counts).sum(Counter::value));
    });
    let now = Instant::now();
    criterion.bench_function("histogram_summary_over_16_cores", |bencher| {
        bencher.iter(|| black_box(&*histogram).summary(now));
    });
    criterion.bench_function("histogram_buckets_over_16_cores", |bencher| {
        bencher.iter(|| black_box(&*histogram).buckets());
    });
}

/// A counter and a histogram that every core has written: this thread its own, others theirs.
fn counted() -> (Arc<PerCore<Counter>>, Arc<Histogram>) {
    let counts = Arc::new(PerCore::<Counter>::new(CORES));
    let histogram = Arc::new(Histogram::new(CORES));
    let cores = (0..CORES).filter(|core| *core != OWN);
    let threads = cores.map(|core| {
        let (counts, histogram) = (Arc::clone(&counts), Arc::clone(&histogram));
        std::thread::spawn(move || {
            counters::enter(core);
            count(&counts, &histogram);
        })
    });
    let threads: Vec<_> = threads.collect();
    count(&counts, &histogram);
    for thread in threads {
        thread.join().expect("it only counts");
    }
    (counts, histogram)
}

fn count(counts: &PerCore<Counter>, histogram: &Histogram) {
    for sample in samples() {
        counts.here().add(1);
        histogram.record(sample);
    }
}

/// Durations from 10 µs to 1 s, as many in each decade.
fn samples() -> Vec<Duration> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let sample = |_| Duration::from_secs_f64(10_f64.powf(rng.random_range(-5.0..0.0)));
    (0..1000).map(sample).collect()
}

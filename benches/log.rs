//! What an access line costs: the data core, which only hands it over, and all in all, until
//! it is formatted and written.
//!
//! The file is `/dev/null`: what a disk adds is the disk's.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isobar::balance::Why;
use isobar::config::{self, AccessSink, Level, LogFormat};
use isobar::log::{self, Access, Dropped, Handle, Pick};
use isobar::metrics::Ended;
use isobar::net::Address;

/// Lines between two flushes; they fit into the log's queue and its buffer, so none is lost.
const LINES: u64 = 1000;
/// How long the log's thread may take for them.
const PATIENCE: Duration = Duration::from_secs(60);

criterion_group!(
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2))
        .nresamples(10_000)
        .sample_size(30);
    targets = access_lines
);
criterion_main!(benches);

fn access_lines(criterion: &mut Criterion) {
    let log = log::init(&settings()).expect("/dev/null can be opened");
    let names = Names::new();
    let mut group = criterion.benchmark_group("access_log");
    group.throughput(Throughput::Elements(LINES));
    group.bench_function("1000_lines_handed_over", |bencher| {
        bencher.iter_custom(|rounds| {
            let timed = |_| {
                let start = Instant::now();
                hand_over(&log, &names);
                let taken = start.elapsed();
                assert!(log.flush(PATIENCE));
                taken
            };
            (0..rounds).map(timed).sum()
        });
    });
    group.bench_function("1000_lines_written", |bencher| {
        bencher.iter(|| {
            hand_over(&log, &names);
            assert!(log.flush(PATIENCE));
        });
    });
    group.finish();
    assert_eq!(log.dropped(), Dropped::default());
}

fn settings() -> config::Log {
    config::Log {
        level: Level::Error,
        format: LogFormat::Text,
        access: true,
        access_sample: 1.0,
        access_sink: AccessSink::File("/dev/null".into()),
    }
}

fn hand_over(log: &Handle, names: &Names) {
    (0..LINES).for_each(|id| log.access(names.line(id)));
}

/// What the lines of a connection share, and a data core has at hand.
struct Names {
    listener: Arc<str>,
    pool: Arc<str>,
    backend: Arc<str>,
    client: Address,
}

impl Names {
    fn new() -> Self {
        Self {
            listener: "postgres".into(),
            pool: "postgres".into(),
            backend: "10.0.0.11:5432".into(),
            client: "192.0.2.7:40000".parse().expect("an address"),
        }
    }

    /// An ordinary connection, the same in every run but for its number.
    fn line(&self, id: u64) -> Access {
        Access {
            id,
            accepted_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600 + id),
            listener: Arc::clone(&self.listener),
            route: None,
            client: self.client.clone(),
            pool: Some(Arc::clone(&self.pool)),
            backend: Some(Arc::clone(&self.backend)),
            bytes_in: 640,
            bytes_out: 12_345,
            hold: None,
            connect: Some(Duration::from_micros(210)),
            first_byte: Some(Duration::from_micros(1500)),
            duration: Duration::from_millis(250),
            attempts: 1,
            pick: Some(Pick::Strategy(Why::RoundRobin)),
            ended: Ended::ClientClosed.as_str(),
        }
    }
}

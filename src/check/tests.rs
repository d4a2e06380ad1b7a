use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use tokio::sync::Notify;
use tokio::time::advance;

use super::testing::*;
use super::*;
use crate::config::HealthKind;

/// A backend that only remembers.
#[derive(Default)]
struct Backend {
    unsettled: AtomicBool,
    nudge: Notify,
    checked: AtomicUsize,
}

impl Subject for Arc<Backend> {
    fn unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Relaxed)
    }

    async fn nudged(&self) {
        self.nudge.notified().await;
    }

    fn checked(&self, _: Outcome) {
        self.checked.fetch_add(1, Ordering::Relaxed);
    }
}

/// Checks that take `took` of virtual time and note when they start.
struct Bench {
    backend: Arc<Backend>,
    starts: Arc<Mutex<Vec<Instant>>>,
    in_flight: Arc<AtomicUsize>,
    took: Duration,
    seed: u64,
}

const INTERVAL: Duration = Duration::from_secs(2);
const FAST: Duration = Duration::from_millis(250);

impl Bench {
    fn new(took: Duration) -> Self {
        Self {
            backend: Arc::default(),
            starts: Arc::default(),
            in_flight: Arc::default(),
            took,
            seed: 1,
        }
    }

    /// Checks in the background, for as long as the test's runtime lives.
    fn begin(&self, first: Duration) {
        let pace = Pace {
            interval: INTERVAL,
            fast_interval: FAST,
            rng: SmallRng::seed_from_u64(self.seed),
        };
        let (starts, in_flight, took) = (self.starts.clone(), self.in_flight.clone(), self.took);
        let backend = self.backend.clone();
        let probe = move || {
            starts.lock().expect("no panic").push(Instant::now());
            assert_eq!(
                in_flight.fetch_add(1, Ordering::Relaxed),
                0,
                "one at a time"
            );
            let in_flight = in_flight.clone();
            async move {
                sleep(took).await;
                in_flight.fetch_sub(1, Ordering::Relaxed);
                passed(took)
            }
        };
        tokio::spawn(async move { rounds(pace, first, probe, &backend).await });
    }

    fn starts(&self) -> Vec<Instant> {
        self.starts.lock().expect("no panic").clone()
    }

    /// From the start of each check to that of the next.
    fn gaps(&self) -> Vec<Duration> {
        let starts = self.starts();
        starts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

fn passed(took: Duration) -> Probed {
    Probed {
        outcome: Outcome {
            at: SystemTime::now(),
            took,
            result: Ok(()),
        },
        farewell: None,
    }
}

/// Timers of tokio are exact to a millisecond, rounded up.
fn within_a_tenth(gap: Duration, interval: Duration) -> bool {
    let (low, high) = (interval.mul_f64(0.9), interval.mul_f64(1.1));
    gap >= low && gap <= high + Duration::from_millis(2)
}

#[tokio::test(start_paused = true)]
async fn checks_start_an_interval_apart_jittered_by_a_tenth_both_ways() {
    let bench = Bench::new(Duration::from_millis(300));
    bench.begin(Duration::ZERO);
    sleep(200 * INTERVAL).await;
    let gaps = bench.gaps();
    assert!(gaps.len() > 180, "{}", gaps.len());
    assert!(
        gaps.iter().all(|&gap| within_a_tenth(gap, INTERVAL)),
        "{gaps:?}"
    );
    let shorter = gaps.iter().filter(|&&gap| gap < INTERVAL).count();
    assert!(shorter > 60 && shorter < gaps.len() - 60, "{shorter}");
}

#[tokio::test(start_paused = true)]
async fn an_unsettled_backend_is_checked_at_the_fast_interval() {
    let bench = Bench::new(Duration::ZERO);
    bench.backend.unsettled.store(true, Ordering::Relaxed);
    bench.begin(Duration::ZERO);
    sleep(20 * FAST).await;
    let gaps = bench.gaps();
    assert!(gaps.len() >= 17, "{}", gaps.len());
    assert!(
        gaps.iter().all(|&gap| within_a_tenth(gap, FAST)),
        "{gaps:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_slower_than_the_interval_is_followed_by_the_next_alone() {
    let slow = 3 * INTERVAL;
    let bench = Bench::new(slow);
    bench.begin(Duration::ZERO);
    sleep(10 * slow).await;
    let gaps = bench.gaps();
    assert!(gaps.len() >= 8, "{}", gaps.len());
    let tick = Duration::from_millis(2);
    assert!(
        gaps.iter().all(|&gap| gap >= slow && gap <= slow + tick),
        "{gaps:?}"
    );
}

/// The clock leaps by 15 intervals, as after SIGSTOP and SIGCONT.
#[tokio::test(start_paused = true)]
async fn a_pause_is_followed_by_one_check_and_the_ordinary_pace() {
    let bench = Bench::new(Duration::ZERO);
    bench.begin(Duration::ZERO);
    sleep(INTERVAL / 2).await;
    assert_eq!(bench.starts().len(), 1);
    advance(15 * INTERVAL).await;
    sleep(INTERVAL / 2).await;
    assert_eq!(bench.starts().len(), 2, "one for all that were missed");
    sleep(4 * INTERVAL).await;
    let later = bench.gaps().split_off(1);
    assert!(later.len() >= 3);
    assert!(
        later.iter().all(|&gap| within_a_tenth(gap, INTERVAL)),
        "{later:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_nudge_brings_the_next_check_forward_to_the_fast_interval() {
    let bench = Bench::new(Duration::ZERO);
    bench.begin(Duration::ZERO);
    sleep(FAST / 10).await;
    (0..100).for_each(|_| bench.backend.nudge.notify_one());
    sleep(2 * FAST).await;
    let gaps = bench.gaps();
    assert!(within_a_tenth(gaps[0], FAST), "{gaps:?}");
    assert_eq!(gaps.len(), 1, "the next one comes at its ordinary time");
}

#[tokio::test(start_paused = true)]
async fn a_nudge_after_the_fast_interval_checks_at_once() {
    let bench = Bench::new(Duration::ZERO);
    bench.begin(Duration::ZERO);
    sleep(INTERVAL / 2).await;
    bench.backend.nudge.notify_one();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(bench.starts().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_nudge_while_a_check_is_in_flight_is_not_lost() {
    let bench = Bench::new(FAST / 2);
    bench.begin(Duration::ZERO);
    sleep(FAST / 4).await;
    bench.backend.nudge.notify_one();
    sleep(2 * FAST).await;
    assert!(within_a_tenth(bench.gaps()[0], FAST), "{:?}", bench.gaps());
}

/// The largest number of starts that any 100 ms see.
fn busiest_100_ms(mut starts: Vec<Instant>) -> usize {
    starts.sort();
    let window = Duration::from_millis(100);
    let within = |i: usize| {
        let end = starts[i] + window;
        starts[i..].partition_point(|&start| start < end)
    };
    (0..starts.len()).map(within).max().unwrap_or(0)
}

/// 500 backends at an interval of 2 s: the mean is 25 in 100 ms.
#[tokio::test(start_paused = true)]
async fn no_100_ms_see_three_times_the_mean_of_500_backends_in_any_round() {
    let settings = config::Health {
        timeout: SECOND,
        ..health(HealthKind::Tcp)
    };
    let benches: Vec<Bench> = (0..500)
        .map(|position| {
            let seed = position as u64;
            let bench = Bench {
                seed,
                ..Bench::new(Duration::ZERO)
            };
            bench.begin(first_delay(position, 500, &settings));
            bench
        })
        .collect();
    sleep(10 * INTERVAL).await;
    let starts: Vec<Instant> = benches.iter().flat_map(Bench::starts).collect();
    assert!(starts.len() > 500 * 8, "{}", starts.len());
    let busiest = busiest_100_ms(starts);
    assert!(busiest <= 75, "{busiest}");
}

#[test]
fn a_small_configuration_has_its_first_checks_within_milliseconds() {
    let settings = health(HealthKind::Tcp);
    let delays: Vec<_> = (0..3).map(|i| first_delay(i, 3, &settings)).collect();
    assert_eq!(delays, [0, 1, 2].map(Duration::from_millis));
}

#[test]
fn the_first_round_ends_within_a_second_or_one_time_out_whatever_the_interval() {
    let mut settings = health(HealthKind::Tcp);
    settings.interval = 600 * SECOND;
    settings.timeout = SECOND / 2;
    assert!(first_delay(9_999, 10_000, &settings) < SECOND);
    settings.timeout = 3 * SECOND;
    assert!(first_delay(9_999, 10_000, &settings) < 3 * SECOND);
    settings.interval = SECOND;
    assert!(first_delay(9_999, 10_000, &settings) < SECOND / 2);
}

/// The backend says nothing, so that the check is in flight when the stop comes.
#[tokio::test]
async fn a_stop_ends_a_check_in_flight_and_its_result_is_not_told() {
    let (listener, address) = listener().await;
    let backend = Arc::new(Backend::default());
    let stop = CancellationToken::new();
    let checks = tokio::spawn(run(
        target(&health(http()), &address),
        Duration::ZERO,
        SmallRng::seed_from_u64(1),
        backend.clone(),
        stop.clone(),
    ));
    let _connection = listener.accept().await.expect("the check has begun");
    stop.cancel();
    checks.await.expect("it ends");
    assert_eq!(backend.checked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn results_of_real_checks_are_told_one_by_one() {
    let (_listener, address) = listener().await;
    let mut settings = health(HealthKind::Tcp);
    settings.interval = Duration::from_millis(1);
    let backend = Arc::new(Backend::default());
    let stop = CancellationToken::new();
    let checks = tokio::spawn(run(
        target(&settings, &address),
        Duration::ZERO,
        SmallRng::seed_from_u64(1),
        backend.clone(),
        stop.clone(),
    ));
    while backend.checked.load(Ordering::Relaxed) < 3 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    checks.await.expect("it ends");
}

#[test]
fn what_this_machine_did_wrong_is_no_verdict() {
    let outcome = |result| Outcome {
        at: SystemTime::now(),
        took: SECOND,
        result,
    };
    assert_eq!(outcome(Ok(())).verdict(), Some(true));
    assert_eq!(outcome(Err(ProbeError::Closed)).verdict(), Some(false));
    assert_eq!(outcome(Err(ProbeError::HeldUp(SECOND))).verdict(), None);
}

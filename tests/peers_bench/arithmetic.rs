//! Medians, ratios, percentiles, differences and shares.

use std::collections::HashMap;
use std::time::Duration;

use crate::cost::{Cost, Split, Switches, scaled};
use crate::load::record::Recorder;
use crate::shares::{busiest, largest};
use crate::stats::{median, paired_ratio, rotated};

#[test]
fn median_is_the_middle_or_the_mean_of_two() {
    assert_eq!(median([]), None);
    assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
}

/// The machine halves its speed in the third round: the ratio does not move.
#[test]
fn drift_between_rounds_leaves_the_ratio() {
    let theirs = [Some(100.0), Some(100.0), Some(200.0)];
    let ours = [Some(90.0), Some(90.0), Some(180.0)];
    assert_eq!(paired_ratio(&ours, &theirs), Some(0.9));
}

#[test]
fn rounds_that_one_side_lacks_are_left_out_of_the_ratio() {
    let theirs = [Some(100.0), None, Some(100.0)];
    assert_eq!(
        paired_ratio(&[None, Some(50.0), Some(80.0)], &theirs),
        Some(0.8)
    );
    assert_eq!(paired_ratio(&[None, Some(50.0), None], &theirs), None);
    assert_eq!(paired_ratio(&[Some(1.0)], &[Some(0.0)]), None);
}

#[test]
fn everyone_takes_every_place_of_a_round_once() {
    let orders: Vec<_> = (0..3).map(|turn| rotated(&['a', 'b', 'c'], turn)).collect();
    assert_eq!(orders, [['a', 'b', 'c'], ['b', 'c', 'a'], ['c', 'a', 'b']]);
    assert_eq!(rotated(&['a', 'b', 'c'], 3), orders[0]);
    assert_eq!(rotated::<char>(&[], 7), []);
}

/// 1,000 messages of 1 to 1,000 ms, to within the histogram's three digits.
#[test]
fn percentiles_are_of_what_was_recorded() {
    let recorder = Recorder::new();
    (1..=1000).for_each(|ms| recorder.record(Duration::from_millis(ms)));
    let sample = recorder.sample(Duration::from_secs(2));
    let latency = sample.latency.expect("messages have a latency");
    let is_near = |seen: f64, ms: f64| (seen / (ms * 1e3) - 1.0).abs() < 2e-3;
    assert_eq!((sample.units, sample.seconds), (1000.0, 2.0));
    assert!(is_near(latency.p50_us, 500.0), "{latency:?}");
    assert!(is_near(latency.p99_us, 990.0), "{latency:?}");
    assert!(is_near(latency.p999_us, 999.0), "{latency:?}");
    assert!(is_near(latency.max_us, 1000.0), "{latency:?}");
}

/// A counter that shared the hardware ran for a quarter of the time.
#[test]
fn a_count_that_was_taken_in_turns_is_scaled_to_all_the_time() {
    assert_eq!(scaled(100, 400, 100), 400);
    assert_eq!(scaled(100, 400, 400), 100);
    assert_eq!(scaled(0, 400, 0), 0);
    assert_eq!(scaled(u64::MAX, 2, 1), u64::MAX);
}

#[test]
fn costs_between_two_readings_are_never_negative() {
    let before = Cost {
        cpu_ns: 100,
        ticks: Split { user: 1, kernel: 5 },
        switches: Switches {
            voluntary: 7,
            involuntary: 1,
        },
        instructions: Some(Split {
            user: 10,
            kernel: 9,
        }),
        cycles: None,
    };
    let after = Cost {
        cpu_ns: 90,
        ticks: Split {
            user: 4,
            kernel: 14,
        },
        switches: Switches {
            voluntary: 6,
            involuntary: 3,
        },
        instructions: Some(Split {
            user: 30,
            kernel: 8,
        }),
        cycles: Some(Split { user: 1, kernel: 1 }),
    };
    let between = after.since(before);
    assert_eq!(between.cpu_ns, 0);
    assert_eq!(between.ticks, Split { user: 3, kernel: 9 });
    assert_eq!(between.switches.total(), 2);
    assert_eq!(between.instructions.map(Split::total), Some(20));
    assert_eq!(between.cycles, None, "counted in one reading only");
}

#[test]
fn time_in_user_space_is_the_share_of_the_ticks() {
    let cost = Cost {
        cpu_ns: 1000,
        ticks: Split { user: 1, kernel: 3 },
        ..Cost::default()
    };
    assert_eq!(cost.user_ns(), Some(250.0));
    assert_eq!(Cost::default().user_ns(), None, "no tick was seen");
}

#[test]
fn the_largest_share_is_of_the_sum() {
    assert_eq!(largest(&[60, 40]), Some(0.6));
    assert_eq!(largest(&[100]), Some(1.0));
    assert_eq!(largest(&[0, 0]), None);
    assert_eq!(largest(&[]), None);
}

/// Thread 3 is new, thread 4 did nothing, thread 5 is gone.
#[test]
fn the_busiest_threads_are_as_many_as_there_are_workers() {
    let before = HashMap::from([(1, 10), (2, 100), (4, 7), (5, 50)]);
    let after = HashMap::from([(1, 40), (2, 150), (3, 20), (4, 7)]);
    assert_eq!(busiest(&before, &after, 2), [50, 30]);
    assert_eq!(busiest(&before, &after, 9), [50, 30, 20, 0]);
}

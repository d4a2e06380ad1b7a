//! The arithmetic and the tables of the macro benchmark in `benches/peers`, which has no test
//! harness of its own.

#[path = "../benches/peers/load/record.rs"]
mod record;
#[path = "../benches/peers/stats.rs"]
mod stats;
#[path = "../benches/peers/table.rs"]
mod table;

use std::time::Duration;

use record::Recorder;
use stats::{median, paired_ratio, rotated};
use table::{Table, figure};

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

#[test]
fn figures_have_three_digits_and_grouped_thousands() {
    let shown = [
        0.914,
        9.99,
        9.996,
        52.34,
        99.96,
        467.6,
        14_669.4,
        1_234_567.0,
    ];
    let shown = shown.map(|value| figure(Some(value)));
    let expected = [
        "0.91",
        "9.99",
        "10.0",
        "52.3",
        "100",
        "468",
        "14,669",
        "1,234,567",
    ];
    assert_eq!(shown, expected);
    assert_eq!(figure(None), "-");
}

#[test]
fn columns_line_up_under_the_widest_cell() {
    let row = |cells: [&str; 3]| cells.map(String::from).to_vec();
    let mut table = Table::new("cost", row(["", "nginx", "x"]));
    assert!(table.is_empty());
    table.push(row(["pp16k", "1", "µµ"]));
    assert!(!table.is_empty());
    let expected = "cost\n         nginx   x\n  pp16k      1  µµ\n";
    assert_eq!(table.to_string(), expected);
}

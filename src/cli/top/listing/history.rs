//! What became of one backend, and why: its transitions, the newest first.

use jiff::Timestamp;

use super::{Cell, Column, Listing, Row, numbers, words};
use crate::cli::stats::Entry;
use crate::cli::top::data::Told;
use crate::cli::top::moment;
use crate::cli::words::{latency, span};
use crate::terminal::replaced;

const COLUMNS: [Column; 7] = [
    words("AT (UTC)", 8, 0, 0),
    words("FROM", 10, 0, 5),
    words("TO", 10, 0, 0),
    numbers("FOR", 6, 0),
    words("BY", 7, 7, 3),
    numbers("CHECK", 6, 4),
    words("CAUSE", 20, 20, 0),
];

/// The newest first, for as long as each lasted.
pub(in crate::cli::top) fn listing<'d>(told: Option<&'d Told>, now: Timestamp) -> Listing<'d> {
    let (rows, empty) = match told.map(|told| &told.answer) {
        None => (Vec::new(), "Asking …".to_owned()),
        Some(Err(why)) => (Vec::new(), replaced(why)),
        Some(Ok(entries)) => (rows(entries, now), "No change of state so far.".to_owned()),
    };
    Listing {
        title: match rows.len() {
            1 => "History · 1 change of state".to_owned(),
            n => format!("History · {n} changes of state"),
        },
        columns: &COLUMNS,
        rows,
        empty,
        is_filtered: false,
    }
}

fn rows(entries: &[Entry], now: Timestamp) -> Vec<Row<'static>> {
    let times = entries
        .iter()
        .map(|entry| entry.at.parse::<Timestamp>().ok());
    let ends = times.clone().skip(1).chain([Some(now)]);
    let lasted = times.zip(ends).map(|(from, to)| {
        let lasted = to?.duration_since(from?);
        Some(lasted.as_secs_f64())
    });
    let mut rows: Vec<_> = entries
        .iter()
        .zip(lasted)
        .enumerate()
        .map(|(place, (entry, lasted))| row(place, entry, lasted, now))
        .collect();
    rows.reverse();
    rows
}

fn row(place: usize, entry: &Entry, lasted: Option<f64>, now: Timestamp) -> Row<'static> {
    let at = moment(&entry.at, now);
    Row {
        key: format!("{} {place}", entry.at),
        cells: vec![
            Cell {
                by: super::By::Text(entry.at.clone()),
                ..Cell::words(&at)
            },
            Cell::state(&entry.from),
            Cell::state(&entry.to),
            Cell::maybe(lasted, span),
            Cell::words(&entry.by),
            Cell::maybe(entry.check_seconds, |seconds| latency(Some(seconds))),
            Cell::words(&entry.cause),
        ],
        bars: &[],
        note: replaced(&format!("{at} {}: {}", entry.to, entry.cause)),
        found_by: format!("{} {} {} {}", entry.from, entry.to, entry.by, entry.cause)
            .to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::now;
    use super::*;

    #[test]
    fn each_state_is_told_with_how_long_it_lasted() {
        let entry = |at: &str, from: &str, to: &str| Entry {
            at: at.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            cause: "check passed".to_owned(),
            check_seconds: Some(0.001),
            by: "checks".to_owned(),
        };
        let told = Told {
            pool: "web".to_owned(),
            backend: "oak".to_owned(),
            answer: Ok(vec![
                entry("2025-12-31T22:00:00Z", "starting", "down"),
                entry("2025-12-31T23:00:00.5Z", "down", "up"),
            ]),
        };
        let listing = listing(Some(&told), now());
        let texts = |row: &Row<'_>| -> Vec<String> {
            row.cells.iter().map(|cell| cell.text.clone()).collect()
        };
        assert_eq!(
            texts(&listing.rows[0]),
            [
                "12-31 23:00:00",
                "✕ down",
                "● up",
                "59m",
                "checks",
                "1ms",
                "check passed"
            ]
        );
        assert_eq!(listing.rows[1].cells[3].text, "1h");
    }
}

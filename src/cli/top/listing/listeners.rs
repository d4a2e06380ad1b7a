//! Listeners: where clients come in, and who is sent away.

use super::{Cell, Column, Listing, Row, numbers, words};
use crate::cli::stats::Listener;
use crate::cli::table::Tone;
use crate::cli::top::data::Data;
use crate::cli::words::{short, short_bytes};
use crate::terminal::replaced;

const COLUMNS: [Column; 9] = [
    words("LISTENER", 10, 12, 0),
    words("ADDRESS", 15, 15, 0),
    words("POOL", 8, 8, 5),
    words("ACCEPTS", 7, 0, 0),
    numbers("ACTIVE", 6, 0),
    numbers("NEW/S", 5, 1),
    numbers("IN/S", 5, 2),
    numbers("OUT/S", 5, 2),
    numbers("REJECTED", 8, 3),
];

/// In the order of the file.
pub(in crate::cli::top) fn listing(data: &Data) -> Listing<'_> {
    let listeners = data.stats.listeners.iter();
    Listing {
        title: format!("Listeners · {} in all", data.stats.listeners.len()),
        columns: &COLUMNS,
        rows: listeners.map(|(name, of)| row(data, name, of)).collect(),
        empty: "There is no listener.".to_owned(),
        is_filtered: false,
    }
}

fn row<'d>(data: &Data, name: &str, listener: &Listener) -> Row<'d> {
    let rates = data.listener_rates(name);
    let rejected = listener.rejected.iter().map(|(_, n)| n).sum::<u64>();
    let addresses = match &*listener.addresses {
        [] => "closed".to_owned(),
        all => all.join(", "),
    };
    let pool = listener.pool.as_deref().unwrap_or("by routes");
    let active = listener.connections.active as f64;
    Row {
        key: name.to_owned(),
        cells: vec![
            Cell::words(name),
            Cell::words(&addresses),
            Cell::words(pool),
            match listener.accepting {
                true => Cell::words("● yes").toned(Tone::Good),
                false => Cell::words("○ no").toned(Tone::Odd),
            },
            Cell::number(short(active), active),
            Cell::rate(rates, |rates| rates.new, short),
            Cell::rate(rates, |rates| rates.into, short_bytes),
            Cell::rate(rates, |rates| rates.out, short_bytes),
            Cell::trouble(rejected, short(rejected as f64)),
        ],
        bars: &[],
        note: replaced(&note(name, &addresses, listener)),
        found_by: format!("{name} {addresses} {pool}").to_lowercase(),
    }
}

fn note(name: &str, addresses: &str, listener: &Listener) -> String {
    let reasons: Vec<_> = listener
        .rejected
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(reason, n)| format!("{reason} {n}"))
        .collect();
    let total = listener.connections.total;
    match reasons.is_empty() {
        true => format!("{name} at {addresses}: {total} in all, none rejected"),
        false => format!(
            "{name} at {addresses}: {total} in all, rejected: {}",
            reasons.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::data;
    use super::*;

    #[test]
    fn a_listener_tells_whom_it_rejected_and_why() {
        let data = data();
        let listing = listing(&data);
        let texts: Vec<_> = listing.rows[0].cells.iter().map(|c| &*c.text).collect();
        assert_eq!(
            texts,
            [
                "in",
                "127.0.0.1:8080",
                "web",
                "● yes",
                "12",
                "-",
                "-",
                "-",
                "3"
            ]
        );
        assert_eq!(
            listing.rows[0].note,
            "in at 127.0.0.1:8080: 345 in all, rejected: denied 3"
        );
    }
}

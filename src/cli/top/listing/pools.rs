//! Pools: how much of each is usable, and what goes through it.

use jiff::Timestamp;

use super::backends::{is_trouble, paused, why};
use super::{BARS, Cell, Column, Listing, Row, numbers, words};
use crate::cli::stats::Pool;
use crate::cli::table::Tone;
use crate::cli::top::data::{Data, sum};
use crate::cli::words::{short, short_bytes};
use crate::terminal::replaced;

const COLUMNS: [Column; 10] = [
    words("POOL", 10, 16, 0),
    words("BALANCE", 11, 0, 9),
    words("USABLE", 8, 0, 0),
    numbers("HELD", 5, 0),
    numbers("ACTIVE", 6, 0),
    numbers("NEW/S", 5, 1),
    numbers("IN/S", 5, 2),
    numbers("OUT/S", 5, 2),
    numbers("FAILED", 6, 6),
    BARS,
];

/// In the order of the file.
pub(in crate::cli::top) fn listing(data: &Data, now: Timestamp) -> Listing<'_> {
    let pools = data.stats.pools.iter();
    Listing {
        title: format!("Pools · {} in all", data.stats.pools.len()),
        columns: &COLUMNS,
        rows: pools
            .map(|(name, pool)| row(data, name, pool, now))
            .collect(),
        empty: "There is no pool.".to_owned(),
        is_filtered: false,
    }
}

fn row<'d>(data: &'d Data, name: &str, pool: &Pool, now: Timestamp) -> Row<'d> {
    let rates = data.pool_rates(name);
    let failed = sum(&pool.backends, |backend| backend.connections.failed);
    let series = data.pool_series(name);
    Row {
        key: name.to_owned(),
        cells: vec![
            Cell::words(name),
            Cell::words(&pool.balance),
            usable(pool),
            Cell::trouble(pool.held + u64::from(pool.paused), held(pool)),
            Cell::number(
                short(pool.connections.active as f64),
                pool.connections.active as f64,
            ),
            Cell::rate(rates, |rates| rates.new, short),
            Cell::rate(rates, |rates| rates.into, short_bytes),
            Cell::rate(rates, |rates| rates.out, short_bytes),
            Cell::trouble(failed, short(failed as f64)),
            Cell::none(),
        ],
        bars: series.map_or(&[], |series| &series.connections),
        note: note(name, pool, now),
        found_by: format!("{name} {}", pool.balance).to_lowercase(),
    }
}

fn held(pool: &Pool) -> String {
    match pool.paused {
        true => format!("{} paused", short(pool.held as f64)),
        false => short(pool.held as f64),
    }
}

/// A shape, the backends that take new connections of all, a colour.
fn usable(pool: &Pool) -> Cell {
    let (usable, all) = pool.usable();
    let (shape, tone) = match (usable, all) {
        (_, 0) => ("–", Tone::Odd),
        (0, _) => ("✕", Tone::Bad),
        _ if usable < all => ("◐", Tone::Odd),
        _ => ("●", Tone::Good),
    };
    let share = usable as f64 / all.max(1) as f64;
    Cell::number(format!("{shape} {usable}/{all}"), share).toned(tone)
}

/// Who is in trouble, and why.
fn note(name: &str, pool: &Pool, now: Timestamp) -> String {
    let mut parts = Vec::new();
    if pool.paused {
        parts.push(paused(pool, now));
    }
    if pool.rebalancing.is_some() {
        parts.push("rebalancing".to_owned());
    }
    let troubled = pool.backends.iter().filter(|(_, b)| is_trouble(b));
    for (name, backend) in troubled {
        let why = why(backend, now).map_or_else(String::new, |why| format!(" ({why})"));
        parts.push(format!("{name} is {}{why}", backend.state));
    }
    let note = match parts.is_empty() {
        true => format!("{name}: {}, nothing is wrong", pool.balance),
        false => format!("{name}: {}", parts.join(", ")),
    };
    replaced(&note)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{data, now};
    use super::*;

    #[test]
    fn a_pool_tells_what_of_it_is_usable_and_who_is_not() {
        let mut data = data();
        let pool = data.stats.pools.find_mut("web").expect("a pool");
        pool.paused = true;
        pool.paused_until = Some("2026-01-01T00:01:00Z".to_owned());
        let listing = listing(&data, now());
        let texts: Vec<_> = listing.rows[0].cells.iter().map(|c| &*c.text).collect();
        assert_eq!(
            texts,
            [
                "web",
                "round-robin",
                "◐ 1/2",
                "2 paused",
                "12",
                "-",
                "-",
                "-",
                "4",
                "-"
            ]
        );
        assert_eq!(
            listing.rows[0].note,
            "web: paused until 00:01:00, elm-2 is down (connect: connection refused)"
        );
        assert_eq!(listing.rows[1].cells[2].text, "– 0/0");
    }
}

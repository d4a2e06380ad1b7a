//! Backends: of one pool, or all.

use jiff::Timestamp;

use super::{BARS, Cell, Column, Listing, Row, numbers, words};
use crate::cli::stats::{Backend, Pool};
use crate::cli::table::Tone;
use crate::cli::top::data::Data;
use crate::cli::top::moment;
use crate::cli::words::{latency, number, short, short_bytes, since, span};
use crate::terminal::replaced;

const COLUMNS: [Column; 13] = [
    words("BACKEND", 8, 16, 0),
    words("ADDRESS", 15, 15, 9),
    words("STATE", 10, 0, 0),
    numbers("SINCE", 6, 3),
    numbers("WEIGHT", 6, 7),
    numbers("ACTIVE", 7, 0),
    numbers("NEW/S", 5, 1),
    numbers("IN/S", 5, 2),
    numbers("OUT/S", 5, 2),
    numbers("P50", 6, 6),
    numbers("P99", 6, 5),
    numbers("FAILED", 6, 4),
    BARS,
];

/// Those of `pool`, else all. Trouble comes first, then the order of the file.
pub(in crate::cli::top) fn listing<'d>(
    data: &'d Data,
    pool: Option<&str>,
    now: Timestamp,
) -> Listing<'d> {
    let pools = data.stats.pools.iter();
    let wanted = pools.filter(|(name, _)| pool.is_none_or(|wanted| wanted == *name));
    let mut rows: Vec<_> = wanted
        .flat_map(|(name, of)| {
            let backends = of.backends.iter();
            backends.map(move |(backend, stats)| {
                let named = Named {
                    pool: name,
                    name: backend,
                    alone: pool.is_some(),
                };
                (is_trouble(stats), named.row(data, stats, now))
            })
        })
        .collect();
    rows.sort_by_key(|(trouble, _)| !trouble);
    Listing {
        title: match pool.map(|name| (name, data.stats.pools.find(name))) {
            None => format!("Backends · {} in all", rows.len()),
            Some((name, Some(pool))) => about(name, pool, data, now),
            Some((name, None)) => format!("Pool {}", replaced(name)),
        },
        columns: &COLUMNS,
        rows: rows.into_iter().map(|(_, row)| row).collect(),
        empty: match pool.map(|name| data.stats.pools.find(name).is_some()) {
            Some(false) => "There is no such pool any more.".to_owned(),
            _ => "There is no backend.".to_owned(),
        },
        is_filtered: false,
    }
}

pub(in crate::cli::top) fn is_trouble(backend: &Backend) -> bool {
    matches!(&*backend.state, "down" | "ejected")
}

/// A pool in a line.
fn about(name: &str, pool: &Pool, data: &Data, now: Timestamp) -> String {
    let (usable, all) = pool.usable();
    let new = data
        .pool_rates(name)
        .map_or_else(|| "-".to_owned(), |rates| format!("{}/s", short(rates.new)));
    let mut about = format!(
        "{} · {} · {usable} of {all} usable · {} open · {new} new",
        replaced(name),
        replaced(&pool.balance),
        pool.connections.active,
    );
    if pool.held > 0 {
        about.push_str(&format!(" · {} held", pool.held));
    }
    if pool.paused {
        about.push_str(" · ");
        about.push_str(&paused(pool, now));
    }
    if pool.rebalancing.is_some() {
        about.push_str(" · rebalancing");
    }
    about
}

/// That it is, and until when.
pub(super) fn paused(pool: &Pool, now: Timestamp) -> String {
    match &pool.paused_until {
        Some(until) => format!("paused until {}", moment(until, now)),
        None => "paused".to_owned(),
    }
}

/// Why a backend is what it is, where it is not just up.
pub(in crate::cli::top) fn why(backend: &Backend, now: Timestamp) -> Option<String> {
    let leaving = backend.leaving.as_ref();
    if let Some(until) = leaving.and_then(|leaving| leaving.until.as_ref()) {
        return Some(format!("what is left is reset at {}", moment(until, now)));
    }
    let last = backend.health.history.last();
    let last = last.filter(|last| backend.state != "up" && last.to == backend.state);
    let cause = last.map(|last| replaced(&last.cause));
    let until = backend.ejected_until.as_ref();
    match (cause, until.filter(|_| backend.state == "ejected")) {
        (Some(cause), Some(until)) => Some(format!("{cause}, until {}", moment(until, now))),
        (None, Some(until)) => Some(format!("until {}", moment(until, now))),
        (cause, None) => cause,
    }
}

/// As it is, and what it is to become, while a slow start takes something away.
pub(in crate::cli::top) fn weight(backend: &Backend) -> String {
    let whole = backend.weight;
    let ramps = |weight: &f64| (weight - whole as f64).abs() > 1e-9;
    match backend.effective_weight.filter(ramps) {
        Some(weight) => format!("{}/{whole}", number(weight)),
        None => whole.to_string(),
    }
}

/// A backend, and whether its pool goes without saying.
struct Named<'n> {
    pool: &'n str,
    name: &'n str,
    alone: bool,
}

impl Named<'_> {
    fn row<'d>(&self, data: &'d Data, backend: &Backend, now: Timestamp) -> Row<'d> {
        let Self { pool, name, alone } = self;
        let whole = format!("{pool}/{name}");
        let rates = data.backend_rates(pool, name);
        let connections = &backend.connections;
        let times = &backend.connect_seconds;
        let took = |seconds: Option<f64>| {
            Cell::maybe(seconds.filter(|s| *s > 0.0), |seconds| {
                latency(Some(seconds))
            })
        };
        let details = data.details(pool).and_then(|of| of.backends.find(name));
        Row {
            cells: vec![
                Cell::words(if *alone { name } else { &*whole }),
                Cell::words(&backend.address),
                Cell::state(&backend.state),
                age(backend.health.since.as_deref(), now),
                Cell::number(
                    weight(backend),
                    backend.effective_weight.unwrap_or_default(),
                ),
                Cell::number(of_limit(backend), connections.active as f64),
                Cell::rate(rates, |rates| rates.new, short),
                Cell::rate(rates, |rates| rates.into, short_bytes),
                Cell::rate(rates, |rates| rates.out, short_bytes),
                took(times.p50),
                took(times.p99),
                Cell::trouble(connections.failed, short(connections.failed as f64)),
                Cell::none(),
            ],
            bars: details.map_or(&[], |series| &series.connections),
            note: self.note(backend, now),
            found_by: format!("{whole} {} {}", backend.address, backend.state).to_lowercase(),
            key: whole,
        }
    }

    fn note(&self, backend: &Backend, now: Timestamp) -> String {
        let Self { pool, name, .. } = self;
        let address = &backend.address;
        let mut note = format!("{pool}/{name}");
        if address != name {
            note.push_str(&format!(" at {address}"));
        }
        if backend.backup {
            note.push_str(", a backup");
        }
        let ago = since(backend.health.since.as_deref(), now);
        note.push_str(&format!(": {} for {ago}", backend.state));
        if let Some(why) = why(backend, now) {
            note.push_str(&format!(", {why}"));
        }
        replaced(&note)
    }
}

/// How long ago, and which is longer.
fn age(at: Option<&str>, now: Timestamp) -> Cell {
    let at = at.and_then(|at| at.parse::<Timestamp>().ok());
    Cell::maybe(at.map(|at| now.duration_since(at).as_secs_f64()), span)
}

fn of_limit(backend: &Backend) -> String {
    let active = short(backend.connections.active as f64);
    match backend.connections.limit {
        0 => active,
        limit => format!("{active}/{}", short(limit as f64)),
    }
}

/// The colour of a backend's failures and state, where it is shown alone.
pub(in crate::cli::top) fn tone(backend: &Backend) -> Tone {
    Tone::of_state(&backend.state)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{data, large, now};
    use super::*;

    fn texts<'r>(row: &'r Row<'_>) -> Vec<&'r str> {
        row.cells.iter().map(|cell| &*cell.text).collect()
    }

    #[test]
    fn trouble_comes_first_with_its_cause() {
        let data = data();
        let listing = listing(&data, Some("web"), now());
        assert_eq!(
            listing.title,
            "web · round-robin · 1 of 2 usable · 12 open · - new · 2 held"
        );
        assert_eq!(
            texts(&listing.rows[0]),
            [
                "elm-2",
                "127.0.0.1:7002",
                "✕ down",
                "12s",
                "1",
                "1",
                "-",
                "-",
                "-",
                "-",
                "-",
                "4",
                "-"
            ]
        );
        assert_eq!(
            texts(&listing.rows[1]),
            [
                "oak",
                "127.0.0.1:7001",
                "● up",
                "2h",
                "2",
                "11/50",
                "-",
                "-",
                "-",
                "100µs",
                "400µs",
                "0",
                "-"
            ]
        );
        assert_eq!(
            listing.rows[0].note,
            "web/elm-2 at 127.0.0.1:7002, a backup: down for 12s, \
             connect: connection refused"
        );
    }

    #[test]
    fn all_backends_are_named_with_their_pool() {
        let app = large(30);
        let listing = listing(&app.data, None, now());
        assert_eq!(listing.rows.len(), 32);
        let first: Vec<_> = listing.rows[..4].iter().map(|row| &*row.key).collect();
        assert_eq!(
            first,
            ["web/elm-2", "spare/b009", "spare/b019", "spare/b029"]
        );
        assert_eq!(listing.rows[4].cells[0].text, "web/oak");
    }

    #[test]
    fn a_slow_start_and_an_ejection_are_told() {
        let mut data = data();
        let pool = data.stats.pools.find_mut("web").expect("a pool");
        let oak = pool.backends.find_mut("oak").expect("a backend");
        oak.effective_weight = Some(0.5);
        assert_eq!(weight(oak), "0.5/2");
        oak.state = "ejected".to_owned();
        oak.ejected_until = Some("2026-01-01T00:00:10Z".to_owned());
        assert_eq!(why(oak, now()).as_deref(), Some("until 00:00:10"));
    }

    #[test]
    fn a_pool_that_went_away_says_so() {
        let data = data();
        let listing = listing(&data, Some("gone"), now());
        assert!(listing.rows.is_empty());
        assert_eq!(listing.empty, "There is no such pool any more.");
    }
}

//! Live connections, as the balancer found them.

use super::{Cell, Column, Listing, Row, numbers, words};
use crate::cli::connections::Connection;
use crate::cli::top::data::Listed;
use crate::cli::top::query::Query;
use crate::cli::words::{short_bytes, span};
use crate::terminal::replaced;

const COLUMNS: [Column; 9] = [
    words("CLIENT", 15, 15, 0),
    words("LISTENER", 8, 8, 5),
    words("POOL", 8, 8, 4),
    words("BACKEND", 8, 10, 0),
    words("STATE", 10, 0, 0),
    numbers("AGE", 6, 0),
    numbers("IDLE", 6, 0),
    numbers("IN", 5, 1),
    numbers("OUT", 5, 1),
];

/// The oldest first. `query`: what is wanted now, or why it cannot be.
pub(in crate::cli::top) fn listing<'d>(
    listed: Option<&'d Listed>,
    query: Result<&Query, &String>,
) -> Listing<'d> {
    let told = |title: &str, empty: &str, rows| Listing {
        title: title.to_owned(),
        columns: &COLUMNS,
        rows,
        empty: replaced(empty),
        is_filtered: true,
    };
    let query = match query {
        Ok(query) => query,
        Err(why) => return told("Connections", why, Vec::new()),
    };
    let Some(listed) = listed.filter(|listed| listed.query == *query) else {
        return told("Connections", "Asking …", Vec::new());
    };
    match &listed.answer {
        Err(why) => told("Connections", why, Vec::new()),
        Ok(found) => {
            let (shown, total) = (found.connections.len(), found.total);
            let title = match shown < total {
                true => format!("Connections · {total} match, the oldest {shown} are shown"),
                false => format!("Connections · {total} match"),
            };
            let rows = found.connections.iter().map(row).collect();
            told(&title, "No connection matches.", rows)
        }
    }
}

fn row(connection: &Connection) -> Row<'static> {
    let or_none = |name: &Option<String>| match name {
        Some(name) => Cell::words(name),
        None => Cell::words("-"),
    };
    let time = |seconds: f64| Cell::number(span(seconds), seconds);
    let bytes = |n: u64| Cell::number(short_bytes(n as f64), n as f64);
    Row {
        key: connection.id.clone(),
        cells: vec![
            Cell::words(&connection.client),
            Cell::words(&connection.listener),
            or_none(&connection.pool),
            or_none(&connection.backend),
            Cell::words(&connection.state),
            time(connection.age_seconds),
            time(connection.idle_seconds),
            bytes(connection.bytes_in),
            bytes(connection.bytes_out),
        ],
        bars: &[],
        note: replaced(&format!(
            "{} of listener {}: `isobar kill {}` resets it",
            connection.client, connection.listener, connection.id
        )),
        found_by: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::stats;
    use super::*;

    fn listed(total: usize) -> Listed {
        let one = r#"{"id": "7", "listener": "in", "client": "10.0.0.1:5", "pool": "web",
            "backend": null, "age_seconds": 70.5, "idle_seconds": 3, "bytes_in": 2048,
            "bytes_out": 0, "state": "held"}"#;
        let answer = format!(r#"{{"total": {total}, "connections": [{one}]}}"#);
        Listed {
            query: Query::parse("web", &stats()).expect("a query"),
            answer: Ok(serde_json::from_str(&answer).expect("an answer")),
        }
    }

    #[test]
    fn what_was_found_is_shown_with_how_to_reset_it() {
        let listed = listed(12);
        let listing = listing(Some(&listed), Ok(&listed.query));
        assert_eq!(
            listing.title,
            "Connections · 12 match, the oldest 1 are shown"
        );
        let texts: Vec<_> = listing.rows[0].cells.iter().map(|c| &*c.text).collect();
        assert_eq!(
            texts,
            [
                "10.0.0.1:5",
                "in",
                "web",
                "-",
                "held",
                "1m",
                "3s",
                "2K",
                "0"
            ]
        );
        assert!(listing.rows[0].note.contains("isobar kill 7"));
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let listed = listed(1);
        let other = Query::parse("oak", &stats()).expect("a query");
        let asked = listing(Some(&listed), Ok(&other));
        assert_eq!((asked.rows.len(), &*asked.empty), (0, "Asking …"));
        let why = "elm is no pool".to_owned();
        assert_eq!(listing(Some(&listed), Err(&why)).empty, why);
    }
}

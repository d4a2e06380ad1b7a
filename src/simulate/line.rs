//! What one line of an access log in JSON says.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::Deserialize;

use crate::metrics::Ended;
use crate::net::canonical;

/// Target of access and rejection lines.
const ACCESS: &str = "isobar::access";

/// A line.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// A connection that ended.
    Ended(Entry),
    /// So many connections that were rejected before any backend was touched.
    Rejected {
        /// The one that the line is about, and those that had none of their own before it.
        connections: u64,
    },
    /// About something else.
    Other,
}

/// How a connection went.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    /// When it was accepted, in microseconds since 1970.
    pub(super) at: i64,
    /// Its number, if the line has one.
    pub(super) id: Option<u64>,
    /// The listener that accepted it.
    pub(super) listener: String,
    /// The client; `None`: one of a Unix socket.
    pub(super) client: Option<SocketAddr>,
    /// The pool that it came to in the end.
    pub(super) pool: Option<String>,
    /// The backend that it had.
    pub(super) backend: Option<String>,
    /// How long its connect took, in microseconds; `None`: it never had a backend.
    pub(super) connect: Option<u32>,
    /// How long the first byte took from there, in microseconds; `None`: there was none.
    pub(super) first_byte: Option<u32>,
    /// How long it lasted, less what it was held, in microseconds.
    pub(super) lasts: u64,
    /// It ended as connections should.
    pub(super) is_ordinary: bool,
}

/// As it is written. What is not needed is not looked at.
#[derive(Deserialize)]
struct Raw {
    target: Option<String>,
    reason: Option<String>,
    suppressed: Option<u64>,
    id: Option<Id>,
    accepted_at: Option<String>,
    listener: Option<String>,
    client: Option<String>,
    pool: Option<String>,
    backend: Option<String>,
    hold_ms: Option<f64>,
    connect_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    duration_ms: Option<f64>,
    ended: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(u64),
    Text(String),
}

/// What is wrong with a line, and the column at which that was seen, if at one.
pub(super) type Fault = (Option<usize>, String);

impl Line {
    /// Reads a line.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let raw: Raw = serde_json::from_str(text).map_err(|error| not_json(text, &error))?;
        let is_access = raw.target.as_deref().is_none_or(|target| target == ACCESS);
        match raw {
            raw if !is_access => drop(raw),
            raw if raw.accepted_at.is_some() => {
                return raw.entry().map(Self::Ended).map_err(|why| (None, why));
            }
            raw if raw.reason.is_some() => {
                let connections = raw.suppressed.unwrap_or(0).saturating_add(1);
                return Ok(Self::Rejected { connections });
            }
            raw if raw.target.is_some() => return Err((None, missing("accepted_at"))),
            _ => {}
        }
        Ok(Self::Other)
    }
}

impl Raw {
    fn entry(self) -> Result<Entry, String> {
        let at = needed("accepted_at", self.accepted_at)?;
        let at: Timestamp = at
            .parse()
            .map_err(|_| format!("accepted_at is no time of RFC 3339: {at}"))?;
        let held = micros("hold_ms", self.hold_ms)?.unwrap_or(0);
        let lasted = micros("duration_ms", self.duration_ms)?;
        let lasted = needed("duration_ms", lasted)?;
        let id = match self.id {
            None => None,
            Some(Id::Number(number)) => Some(number),
            Some(Id::Text(text)) => Some(
                text.parse()
                    .map_err(|_| format!("id is no number: {text}"))?,
            ),
        };
        let ended = self.ended.unwrap_or_default();
        Ok(Entry {
            at: at.as_microsecond(),
            id,
            listener: needed("listener", self.listener)?,
            client: client(&needed("client", self.client)?)?,
            pool: self.pool,
            backend: self.backend,
            connect: short("connect_ms", self.connect_ms)?,
            first_byte: short("first_byte_ms", self.first_byte_ms)?,
            lasts: lasted.saturating_sub(held),
            is_ordinary: [Ended::ClientClosed, Ended::BackendClosed]
                .map(Ended::as_str)
                .contains(&&*ended),
        })
    }
}

fn needed<T>(field: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| missing(field))
}

fn missing(field: &str) -> String {
    format!("no access line of isobar: it has no {field}")
}

/// A client of a Unix socket has a path or none; nobody dials it.
fn client(text: &str) -> Result<Option<SocketAddr>, String> {
    match text.strip_prefix("unix:") {
        Some(_) => Ok(None),
        None => text
            .parse()
            .map(|address| Some(canonical(address)))
            .map_err(|_| format!("client is no address: {text}")),
    }
}

/// Milliseconds as microseconds.
fn micros(field: &str, milliseconds: Option<f64>) -> Result<Option<u64>, String> {
    match milliseconds {
        Some(ms) if !ms.is_finite() || ms < 0.0 => Err(format!("{field} is no duration: {ms}")),
        // The cast saturates.
        Some(ms) => Ok(Some((ms * 1e3).round() as u64)),
        None => Ok(None),
    }
}

/// The same of what takes at most an hour.
fn short(field: &str, milliseconds: Option<f64>) -> Result<Option<u32>, String> {
    let micros = micros(field, milliseconds)?;
    Ok(micros.map(|micros| u32::try_from(micros).unwrap_or(u32::MAX)))
}

/// Why a line is no JSON object of ours, with the remedy where it is known.
fn not_json(text: &str, error: &serde_json::Error) -> Fault {
    if text.starts_with("time=") || text.contains(" target=isobar::") {
        let why = "a line of text, where JSON is read: record the log with `log.format = \"json\"`";
        return (None, why.to_owned());
    }
    let whole = error.to_string();
    // It ends in a place that counts from the beginning of this very line.
    let what = whole.split(" at line ").next().unwrap_or(&whole);
    let why = format!("no line of an access log in JSON: {what}");
    (Some(error.column().max(1)), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"timestamp":"2026-01-01T00:00:00.250000Z","level":"info","target":"isobar::access","id":"7","accepted_at":"2026-01-01T00:00:00.000001Z","listener":"web","route":null,"client":"[::ffff:10.0.0.9]:40000","pool":"web","backend":"b1","bytes_in":640,"bytes_out":12345,"hold_ms":50.000,"connect_ms":0.210,"first_byte_ms":1.500,"duration_ms":250.000,"attempts":1,"pick":"rr","ended":"client_closed"}"#;

    fn faulty(text: &str) -> String {
        Line::parse(text).expect_err(text).1
    }

    #[test]
    fn a_line_says_who_came_when_and_how_long_it_took() {
        let expected = Entry {
            at: 1_767_225_600_000_001,
            id: Some(7),
            listener: "web".to_owned(),
            client: Some("10.0.0.9:40000".parse().expect("an address")),
            pool: Some("web".to_owned()),
            backend: Some("b1".to_owned()),
            connect: Some(210),
            first_byte: Some(1500),
            lasts: 200_000,
            is_ordinary: true,
        };
        assert_eq!(Line::parse(LINE), Ok(Line::Ended(expected)));
    }

    #[test]
    fn what_is_absent_is_not_needed_but_for_five_fields() {
        let text = r#"{"accepted_at":"2026-01-01T00:00:00Z","listener":"l","client":"unix:","duration_ms":1}"#;
        let Ok(Line::Ended(entry)) = Line::parse(text) else {
            panic!("no entry");
        };
        assert_eq!(
            (entry.client, entry.connect, entry.id, entry.is_ordinary),
            (None, None, None, false)
        );
        for field in ["listener", "client", "duration_ms"] {
            let without = text.replace(&format!("\"{field}\""), "\"x\"");
            let expected = format!("no access line of isobar: it has no {field}");
            assert_eq!(faulty(&without), expected);
        }
    }

    #[test]
    fn a_rejection_stands_for_those_that_had_no_line() {
        let text = r#"{"timestamp":"2026-01-01T00:00:00.250000Z","level":"info","target":"isobar::access","message":"rejected","listener":"web","client":"10.0.0.1:9","reason":"rate","suppressed":41}"#;
        assert_eq!(Line::parse(text), Ok(Line::Rejected { connections: 42 }));
    }

    #[test]
    fn lines_about_other_things_are_others() {
        for text in [
            r#"{"timestamp":"2026-01-01T00:00:00Z","level":"info","target":"isobar::server","message":"ready"}"#,
            "{}",
        ] {
            assert_eq!(Line::parse(text), Ok(Line::Other), "{text}");
        }
    }

    #[test]
    fn a_fault_says_what_is_wrong_and_what_to_do() {
        for (from, to, expected) in [
            ("250.000", "-1", "duration_ms is no duration: -1"),
            (
                "250.000",
                "1e999",
                "no line of an access log in JSON: number out of range",
            ),
            (
                "2026-01-01T00:00:00.000001Z",
                "noon",
                "accepted_at is no time of RFC 3339: noon",
            ),
            (
                "[::ffff:10.0.0.9]:40000",
                "10.0.0.9",
                "client is no address: 10.0.0.9",
            ),
            ("\"7\"", "\"seven\"", "id is no number: seven"),
            (
                "\"listener\":\"web\"",
                "\"listener\":1",
                "no line of an access log in JSON: invalid type: integer `1`, expected a string",
            ),
        ] {
            assert_eq!(faulty(&LINE.replace(from, to)), expected);
        }
        let text = "time=2026-01-01T00:00:00.250000Z level=info target=isobar::access id=7";
        assert_eq!(
            faulty(text),
            "a line of text, where JSON is read: record the log with `log.format = \"json\"`"
        );
        let (column, why) = Line::parse("{\"id\": 7, nonsense}").expect_err("no JSON");
        assert_eq!(column, Some(11));
        assert_eq!(
            why,
            "no line of an access log in JSON: key must be a string"
        );
    }
}

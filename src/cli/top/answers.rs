//! `/series` and `/events`, as far as `isobar top` shows them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cli::stats::Named;

/// Points of the window that charts show, whatever the balancer has: fifteen minutes of them.
pub(super) const POINTS: usize = crate::series::POINTS;

/// One value for each step, oldest first; nothing: it was not there.
pub(super) type List<T> = Vec<Option<T>>;

/// `GET /series`.
#[derive(Debug, Deserialize)]
pub(super) struct Series {
    /// From one point to the next.
    pub(super) step_seconds: f64,
    pub(super) pools: Named<PoolSeries>,
}

/// A pool's; of each step what came in it, or how it was at its end.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PoolSeries {
    pub(super) connections: List<u64>,
    pub(super) active: List<u64>,
    pub(super) bytes_in: List<u64>,
    pub(super) bytes_out: List<u64>,
    pub(super) held: List<u64>,
    /// Where they were asked for.
    pub(super) backends: Named<BackendSeries>,
}

/// A backend's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct BackendSeries {
    pub(super) connections: List<u64>,
    pub(super) active: List<u64>,
    pub(super) bytes_in: List<u64>,
    pub(super) bytes_out: List<u64>,
    pub(super) connect_p99: List<f64>,
    pub(super) state: List<Track>,
}

/// A state without its text, of which there are many; the worse the larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Track {
    Up = 1,
    Removed = 2,
    Starting = 3,
    Draining = 4,
    Maintenance = 5,
    Ejected = 6,
    Down = 7,
    /// Of a later version.
    #[serde(other)]
    Other = 0,
}

impl Track {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Other => "",
            Self::Removed => "removed",
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Ejected => "ejected",
            Self::Down => "down",
        }
    }
}

/// One event: what happened, in words, and what of it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: u64,
    pub(super) kind: String,
    /// RFC 3339.
    pub(super) at: String,
    pub(super) words: String,
    /// Something is wrong since.
    pub(super) bad: bool,
    /// Of a backend that has another state now.
    pub(super) turn: Option<Turn>,
}

/// A backend's new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) pool: String,
    pub(super) backend: String,
    pub(super) from: String,
    pub(super) state: String,
    pub(super) cause: String,
}

impl Event {
    /// Reads one event of the stream, without the empty line behind it; `None`: it is a comment,
    /// or nothing that this version understands.
    pub(super) fn parse(block: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = block.lines().filter_map(|line| line.split_once(':'));
            lines.find_map(|(field, value)| (field == name).then_some(value.trim_start()))
        };
        let mut data: Map<String, Value> = serde_json::from_str(field("data")?).ok()?;
        let kind = field("event").unwrap_or("message").to_owned();
        let mut take = |name: &str| data.remove(name).as_ref().map(said).unwrap_or_default();
        let (at, level) = (take("timestamp"), take("level"));
        take("target");
        let turn = (kind == "state").then(|| Turn {
            pool: take("pool"),
            backend: take("backend"),
            from: take("from"),
            state: take("state"),
            cause: take("cause"),
        });
        let is_error = level.eq_ignore_ascii_case("error");
        Some(Self {
            id: field("id")?.parse().ok()?,
            words: match &turn {
                Some(turn) => turn.words(),
                None if kind == "change" => change(&mut data),
                None => line(&mut data),
            },
            bad: is_error || turn.as_ref().is_some_and(Turn::is_bad),
            kind,
            at,
            turn,
        })
    }

    /// Whether it is worth a mark in the charts: not the first check of a backend.
    pub(super) fn is_mark(&self) -> bool {
        let first = |turn: &Turn| turn.from == "starting" && !turn.is_bad();
        self.kind != "process" && !self.turn.as_ref().is_some_and(first)
    }
}

impl Turn {
    fn words(&self) -> String {
        let Self {
            pool,
            backend,
            state,
            cause,
            ..
        } = self;
        format!("{pool}/{backend} is {state}: {cause}")
    }

    fn is_bad(&self) -> bool {
        matches!(&*self.state, "down" | "ejected")
    }
}

/// What an operator did.
fn change(data: &mut Map<String, Value>) -> String {
    let mut take = |name: &str| data.remove(name).as_ref().map(said).unwrap_or_default();
    let of = [take("pool"), take("backend")];
    let of: Vec<_> = of.iter().filter(|name| !name.is_empty()).collect();
    let of = match &*of {
        [] => String::new(),
        [pool] => format!(" {pool}"),
        [pool, backend, ..] => format!(" {pool}/{backend}"),
    };
    let (what, before, after, by) = (take("what"), take("before"), take("after"), take("by"));
    format!("{what}{of}: {before} → {after}, by {by}")
}

/// A line of the log.
fn line(data: &mut Map<String, Value>) -> String {
    let message = data.remove("message").as_ref().map(said);
    let fields = data.iter().filter(|(_, value)| !value.is_null());
    let fields: Vec<_> = fields
        .map(|(name, value)| format!("{name} {}", said(value)))
        .collect();
    let message = message.unwrap_or_default();
    match fields.is_empty() {
        true => message,
        false => format!("{message}: {}", fields.join(", ")),
    }
}

fn said(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Puts pieces of a stream together to events.
#[derive(Debug, Default)]
pub(super) struct Blocks(Vec<u8>);

/// More than any event has. What is longer is none, and must not fill the memory.
const LONGEST: usize = 1024 * 1024;

impl Blocks {
    /// Takes the next piece; the events that it completes.
    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<Event> {
        self.0.extend_from_slice(piece);
        let mut events = Vec::new();
        while let Some(end) = self.0.windows(2).position(|two| two == b"\n\n") {
            let rest = self.0.split_off(end + 2);
            let block = std::mem::replace(&mut self.0, rest);
            let block: Cow<'_, str> = String::from_utf8_lossy(&block);
            events.extend(Event::parse(&block));
        }
        if self.0.len() > LONGEST {
            self.0.clear();
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: &str = "id: 7\nevent: state\ndata: {\"timestamp\":\"2026-01-01T00:00:00.5Z\",\
        \"level\":\"WARN\",\"target\":\"isobar::pool::control\",\"message\":\"backend\",\
        \"pool\":\"web\",\"backend\":\"b1\",\"from\":\"up\",\"state\":\"down\",\
        \"cause\":\"connect: connection refused\",\"usable\":1}\n\n";

    #[test]
    fn an_event_is_told_in_words_however_it_is_cut() {
        for cut in 0..DOWN.len() {
            let mut blocks = Blocks::default();
            let (one, other) = DOWN.as_bytes().split_at(cut);
            let mut events = blocks.push(b"retry: 1000\n: isobar\n\n");
            events.extend(blocks.push(one));
            events.extend(blocks.push(other));
            assert_eq!(events.len(), 1, "{cut}");
            assert_eq!(events[0].id, 7);
            assert_eq!(
                events[0].words,
                "web/b1 is down: connect: connection refused"
            );
            assert!(events[0].bad && events[0].is_mark());
            assert_eq!(events[0].turn.as_ref().map(|t| &*t.from), Some("up"));
        }
    }

    #[test]
    fn changes_and_lines_of_the_log_are_told_in_words() {
        for (kind, data, words) in [
            (
                "change",
                r#"{"timestamp":"x","level":"INFO","message":"change","by":"127.0.0.1:5","what":"set","pool":"web","backend":"b1","before":"state=ready","after":"state=drain"}"#,
                "set web/b1: state=ready → state=drain, by 127.0.0.1:5",
            ),
            (
                "reload",
                r#"{"timestamp":"x","level":"INFO","target":"isobar::server::reload","message":"reloaded","generation":2}"#,
                "reloaded: generation 2",
            ),
        ] {
            let event = Event::parse(&format!("id: 1\nevent: {kind}\ndata: {data}"));
            assert_eq!(event.expect("an event").words, words);
        }
        assert_eq!(Event::parse("id: 1\nevent: state\ndata: {"), None);
    }

    #[test]
    fn the_first_check_of_a_backend_is_no_mark() {
        let first = DOWN.replace(
            "\"from\":\"up\",\"state\":\"down\"",
            "\"from\":\"starting\",\"state\":\"up\"",
        );
        let event = Event::parse(&first).expect("an event");
        assert!(!event.is_mark() && !event.bad);
    }

    #[test]
    fn series_are_read_with_their_gaps() {
        let series: Series = serde_json::from_str(
            r#"{"step_seconds": 5, "until": null, "points": 2, "pools": {"web": {
                "connections": [null, 3], "failed": [0, 0], "bytes_in": [null, 0],
                "bytes_out": [null, 0], "active": [null, 1], "held": [0, 0],
                "backends": {"b1": {"connections": [null, 3], "failed": [null, 0],
                  "bytes_in": [null, 0], "bytes_out": [null, 0], "active": [null, 1],
                  "connect_p99": [null, 0.001], "state": ["paused", "down"]}}}}}"#,
        )
        .expect("series");
        let pool = series.pools.find("web").expect("a pool");
        assert_eq!(pool.connections, [None, Some(3)]);
        let backend = pool.backends.find("b1").expect("a backend");
        assert_eq!(backend.state, [Some(Track::Other), Some(Track::Down)]);
    }
}

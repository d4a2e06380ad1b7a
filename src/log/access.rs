//! The access line: how one connection went, written when it has ended.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::Level;

use super::line::{Fields, Format, Head};
use crate::balance::Why;
use crate::metrics::Ended;
use crate::net::Address;

/// Target of access and rejection lines.
pub(super) const TARGET: &str = "isobar::access";

/// One finished connection. Plain data: a data core fills it in, the log's thread writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// The connection's number, unique in this process.
    pub id: u64,
    /// When it was accepted.
    pub accepted_at: SystemTime,
    /// The listener that accepted it.
    pub listener: Arc<str>,
    /// The route that took it; `None`: the listener's pool, or none.
    pub route: Option<Arc<str>>,
    /// The client's address, as a PROXY header gave it where there was one.
    pub client: Address,
    /// The pool it went to, if it got that far.
    pub pool: Option<Arc<str>>,
    /// The backend that it was last connected to, if any.
    pub backend: Option<Arc<str>>,
    /// Bytes from the client that the backend's socket took.
    pub bytes_in: u64,
    /// Bytes from the backend that the client's socket took.
    pub bytes_out: u64,
    /// Time spent held, over all waits; `None`: it was never held.
    pub hold: Option<Duration>,
    /// From the start of the last attempt to its connect; `None`: never connected.
    pub connect: Option<Duration>,
    /// From the connect to the backend's first byte; `None`: there was none.
    pub first_byte: Option<Duration>,
    /// From accept to end.
    pub duration: Duration,
    /// Connects tried.
    pub attempts: u32,
    /// Why this backend; `None`: there was none.
    pub pick: Option<Pick>,
    /// How it ended, a word of [`Ended`].
    pub ended: &'static str,
}

impl Access {
    /// Whether it ended as connections should; only these are sampled.
    pub(super) fn is_ordinary(&self) -> bool {
        self.ended == Ended::ClientClosed.as_str() || self.ended == Ended::BackendClosed.as_str()
    }

    /// Appends the line. Its time is that of the end, told without another look at the clock.
    pub(super) fn write(&self, out: &mut Vec<u8>, format: Format) {
        let head = Head {
            time: self
                .accepted_at
                .checked_add(self.duration)
                .unwrap_or(self.accepted_at),
            level: Level::INFO,
            target: TARGET,
        };
        format.line(out, &head, |fields| self.fields(fields, format));
    }

    fn fields(&self, fields: &mut dyn Fields, format: Format) {
        self.who(fields, format);
        self.what(fields);
        match self.pick {
            Some(pick) => fields.display("pick", &pick),
            None => fields.absent("pick"),
        }
        fields.text("ended", self.ended);
    }

    fn who(&self, fields: &mut dyn Fields, format: Format) {
        match format {
            Format::Text { .. } => fields.integer("id", self.id),
            // A number above 2^53 would lose digits in JavaScript and jq.
            Format::Json => fields.display("id", &self.id),
        }
        fields.time("accepted_at", self.accepted_at);
        fields.text("listener", &self.listener);
        optional_text(fields, "route", self.route.as_deref());
        fields.display("client", &self.client);
        optional_text(fields, "pool", self.pool.as_deref());
        optional_text(fields, "backend", self.backend.as_deref());
    }

    fn what(&self, fields: &mut dyn Fields) {
        fields.integer("bytes_in", self.bytes_in);
        fields.integer("bytes_out", self.bytes_out);
        optional_time(fields, "hold_ms", self.hold);
        optional_time(fields, "connect_ms", self.connect);
        optional_time(fields, "first_byte_ms", self.first_byte);
        fields.milliseconds("duration_ms", self.duration);
        fields.integer("attempts", self.attempts.into());
    }
}

fn optional_text(fields: &mut dyn Fields, key: &str, value: Option<&str>) {
    match value {
        Some(value) => fields.text(key, value),
        None => fields.absent(key),
    }
}

fn optional_time(fields: &mut dyn Fields, key: &str, value: Option<Duration>) {
    match value {
        Some(value) => fields.milliseconds(key, value),
        None => fields.absent(key),
    }
}

/// Why a connection went to its backend; displays itself as the log's word.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Pick {
    /// The strategy's first choice.
    Strategy(Why),
    /// A backup, as no other backend could take it.
    Backup,
    /// The choice after this many attempts that failed.
    Retry(u32),
    /// Released from hold.
    Held,
    /// The one connection that tries a backend whose ejection has expired.
    Trial,
    /// A backend that is down by checks, as `when_all_down = "try"` wants it.
    Try,
}

impl From<Why> for Pick {
    fn from(why: Why) -> Self {
        Self::Strategy(why)
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strategy(why) => word(*why, f),
            Self::Backup => f.write_str("backup"),
            Self::Retry(attempts) => write!(f, "retry{attempts}"),
            Self::Held => f.write_str("held"),
            Self::Trial => f.write_str("trial"),
            Self::Try => f.write_str("try"),
        }
    }
}

fn word(why: Why, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match why {
        Why::RoundRobin => f.write_str("rr"),
        Why::Least { active, next } => compared(f, "least", active, next),
        Why::Hash => f.write_str("hash"),
        Why::Two { active, other } => compared(f, "two", active, other),
        Why::Latency => f.write_str("latency"),
        Why::First => f.write_str("first"),
    }
}

fn compared(f: &mut fmt::Formatter<'_>, word: &str, own: u32, other: Option<u32>) -> fmt::Result {
    match other {
        Some(other) => write!(f, "{word}:{own}<{other}"),
        None => write!(f, "{word}:{own}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A connection with everything that a line can hold.
    pub(in super::super) fn full(id: u64) -> Access {
        Access {
            id,
            accepted_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600),
            listener: "web".into(),
            route: Some("internal".into()),
            client: "127.0.0.1:40000".parse().expect("an address"),
            pool: Some("web".into()),
            backend: Some("b1".into()),
            bytes_in: 640,
            bytes_out: 12_345,
            hold: Some(Duration::from_micros(12_003)),
            connect: Some(Duration::from_micros(210)),
            first_byte: Some(Duration::from_micros(1500)),
            duration: Duration::from_millis(250),
            attempts: 2,
            pick: Some(Pick::Retry(2)),
            ended: "client_closed",
        }
    }

    fn bare() -> Access {
        Access {
            route: None,
            client: Address::Unix("".into()),
            pool: None,
            backend: None,
            hold: None,
            connect: None,
            first_byte: None,
            attempts: 0,
            pick: None,
            ended: "client_left",
            ..full(u64::MAX)
        }
    }

    fn line(access: &Access, format: Format) -> String {
        let mut out = Vec::new();
        access.write(&mut out, format);
        String::from_utf8(out).expect("UTF-8")
    }

    const TEXT: Format = Format::Text { colour: false };

    #[test]
    fn the_text_line_has_the_fields_in_their_order() {
        assert_eq!(
            line(&full(7), TEXT),
            "time=2026-01-01T00:00:00.250000Z level=info target=isobar::access id=7 \
             accepted_at=2026-01-01T00:00:00.000000Z listener=web route=internal \
             client=127.0.0.1:40000 pool=web backend=b1 bytes_in=640 bytes_out=12345 \
             hold_ms=12.003 connect_ms=0.210 first_byte_ms=1.500 duration_ms=250.000 \
             attempts=2 pick=retry2 ended=client_closed\n"
        );
    }

    #[test]
    fn the_text_line_leaves_out_what_is_absent() {
        assert_eq!(
            line(&bare(), TEXT),
            "time=2026-01-01T00:00:00.250000Z level=info target=isobar::access \
             id=18446744073709551615 accepted_at=2026-01-01T00:00:00.000000Z listener=web \
             client=unix: bytes_in=640 bytes_out=12345 duration_ms=250.000 attempts=0 \
             ended=client_left\n"
        );
    }

    #[test]
    fn the_json_line_holds_numbers_as_numbers_and_the_id_as_a_string() {
        let text = line(&full(7), Format::Json);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let expected = json!({
            "timestamp": "2026-01-01T00:00:00.250000Z", "level": "info",
            "target": "isobar::access", "id": "7",
            "accepted_at": "2026-01-01T00:00:00.000000Z", "listener": "web",
            "route": "internal", "client": "127.0.0.1:40000", "pool": "web", "backend": "b1",
            "bytes_in": 640, "bytes_out": 12345, "hold_ms": 12.003, "connect_ms": 0.21,
            "first_byte_ms": 1.5, "duration_ms": 250.0, "attempts": 2, "pick": "retry2",
            "ended": "client_closed",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn the_json_line_has_null_for_what_is_absent() {
        let text = line(&bare(), Format::Json);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        for key in [
            "route",
            "pool",
            "backend",
            "hold_ms",
            "connect_ms",
            "first_byte_ms",
            "pick",
        ] {
            assert_eq!(value.get(key), Some(&Value::Null), "{key}");
        }
        assert_eq!(value["id"], u64::MAX.to_string());
    }

    #[test]
    fn fields_keep_their_order_in_json() {
        let text = line(&full(7), Format::Json);
        let order = "id accepted_at listener route client pool backend bytes_in bytes_out hold_ms \
                     connect_ms first_byte_ms duration_ms attempts pick ended";
        let places: Vec<_> = order
            .split(' ')
            .map(|key| text.find(&format!("\"{key}\":")).expect(key))
            .collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn every_pick_has_its_word() {
        let least = |active, next| Pick::from(Why::Least { active, next });
        let two = |active, other| Pick::from(Why::Two { active, other });
        for (pick, word) in [
            (Why::RoundRobin.into(), "rr"),
            (least(3, Some(5)), "least:3<5"),
            (least(3, None), "least:3"),
            (Why::Hash.into(), "hash"),
            (two(1, Some(4)), "two:1<4"),
            (two(1, None), "two:1"),
            (Why::Latency.into(), "latency"),
            (Why::First.into(), "first"),
            (Pick::Backup, "backup"),
            (Pick::Retry(2), "retry2"),
            (Pick::Held, "held"),
            (Pick::Trial, "trial"),
            (Pick::Try, "try"),
        ] {
            assert_eq!(pick.to_string(), word);
        }
    }

    #[test]
    fn a_hostile_backend_name_stays_one_field_of_one_line() {
        let mut access = full(1);
        access.backend = Some("b1 ended=killed\n\u{1b}[2J".into());
        let text = line(&access, TEXT);
        assert!(text.contains(r#" backend="b1 ended=killed\n\u001b[2J" "#));
        assert_eq!(text.matches('\n').count(), 1);
    }
}

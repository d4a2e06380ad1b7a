//! The JSON format: one object a line, `timestamp`, `level` and `target` first, fields beside.

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime};

use super::line::{self, Fields, Head};

/// A line in the making.
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Line<'a> {
    /// Opens the object and writes the head.
    pub(super) fn begin(out: &'a mut Vec<u8>, head: &Head<'_>) -> Self {
        out.extend_from_slice(br#"{"timestamp":""#);
        line::timestamp(out, head.time);
        out.extend_from_slice(br#"","level":""#);
        out.extend_from_slice(line::level_name(head.level).as_bytes());
        out.push(b'"');
        let mut line = Self { out };
        line.text("target", head.target);
        line
    }

    /// Closes the object and ends the line.
    pub(super) fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    /// Keys are names of fields in source code: they need no escape.
    fn key(&mut self, key: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

impl Fields for Line<'_> {
    fn message(&mut self, message: &dyn Display) {
        self.display("message", message);
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        self.out.push(b'"');
        line::escape(self.out, value);
        self.out.push(b'"');
    }

    fn display(&mut self, key: &str, value: &dyn Display) {
        self.key(key);
        self.out.push(b'"');
        // A `Display` that fails leaves what it wrote so far.
        let _ = fmt::write(&mut Escaped(self.out), format_args!("{value}"));
        self.out.push(b'"');
    }

    fn integer(&mut self, key: &str, value: u64) {
        self.key(key);
        line::decimal(self.out, value);
    }

    fn literal(&mut self, key: &str, value: &dyn Display) {
        self.key(key);
        line::append(self.out, value);
    }

    fn time(&mut self, key: &str, value: SystemTime) {
        self.key(key);
        self.out.push(b'"');
        line::timestamp(self.out, value);
        self.out.push(b'"');
    }

    fn milliseconds(&mut self, key: &str, value: Duration) {
        self.key(key);
        line::milliseconds(self.out, value);
    }

    fn absent(&mut self, key: &str) {
        self.key(key);
        self.out.extend_from_slice(b"null");
    }
}

struct Escaped<'a>(&'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        line::escape(self.0, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tracing::Level;

    use super::super::line::Format;
    use super::*;

    fn line(body: impl FnOnce(&mut dyn Fields)) -> (String, Value) {
        let head = Head {
            time: SystemTime::UNIX_EPOCH,
            level: Level::WARN,
            target: "isobar::test",
        };
        let mut out = Vec::new();
        Format::Json.line(&mut out, &head, body);
        let text = String::from_utf8(out).expect("UTF-8");
        let value = serde_json::from_str(&text).expect("JSON");
        (text, value)
    }

    #[test]
    fn any_text_reads_back_as_itself_from_one_line_without_control_characters() {
        for hostile in [
            "",
            "plain",
            "\"}{\\",
            "a\nb\r\n\t\u{8}\u{c}",
            "\u{1b}[31m\0\u{7f}\u{9b}",
            "東京 🎈 \u{202e}\u{2028}",
        ] {
            for (text, value) in [
                line(|fields| fields.text("k", hostile)),
                line(|fields| fields.display("k", &hostile)),
            ] {
                assert_eq!(value["k"], hostile);
                let bare = text.strip_suffix('\n').expect("a line");
                assert!(!bare.chars().any(crate::terminal::is_hostile), "{bare:?}");
            }
        }
    }

    #[test]
    fn every_kind_of_field_has_its_json_type() {
        let (text, value) = line(|fields| {
            fields.message(&"two words");
            fields.integer("n", u64::MAX);
            fields.literal("ratio", &-0.5);
            fields.literal("up", &true);
            fields.time("at", SystemTime::UNIX_EPOCH);
            fields.milliseconds("took_ms", Duration::from_micros(1500));
            fields.absent("route");
        });
        let expected = json!({
            "timestamp": "1970-01-01T00:00:00.000000Z", "level": "warn", "target": "isobar::test",
            "message": "two words", "n": u64::MAX, "ratio": -0.5, "up": true,
            "at": "1970-01-01T00:00:00.000000Z", "took_ms": 1.5, "route": null,
        });
        assert_eq!(value, expected);
        assert!(text.contains(r#""took_ms":1.500,"#), "{text}");
    }
}

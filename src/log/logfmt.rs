//! The text format: `time=… level=info target=isobar::server msg=listening address=…`.
//!
//! logfmt: `key=value` pairs apart by a space. A value is quoted only where it must be, and
//! escaped in its quotes as a JSON string is.

use std::fmt::Display;
use std::time::{Duration, SystemTime};

use tracing::Level;

use super::line::{self, Fields, Head};
use crate::terminal::is_hostile;

/// A line in the making.
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Line<'a> {
    /// Writes the head.
    pub(super) fn begin(out: &'a mut Vec<u8>, head: &Head<'_>, colour: bool) -> Self {
        out.extend_from_slice(b"time=");
        line::timestamp(out, head.time);
        out.extend_from_slice(b" level=");
        level(out, head.level, colour);
        let mut line = Self { out };
        line.text("target", head.target);
        line
    }

    /// Ends the line.
    pub(super) fn end(self) {
        self.out.push(b'\n');
    }

    fn key(&mut self, key: &str) {
        self.out.push(b' ');
        self.out.extend_from_slice(key.as_bytes());
        self.out.push(b'=');
    }
}

impl Fields for Line<'_> {
    fn message(&mut self, message: &dyn Display) {
        self.display("msg", message);
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        if needs_quotes(value) {
            quoted(self.out, value);
        } else {
            self.out.extend_from_slice(value.as_bytes());
        }
    }

    fn display(&mut self, key: &str, value: &dyn Display) {
        self.key(key);
        let start = self.out.len();
        line::append(self.out, value);
        let raw = String::from_utf8_lossy(&self.out[start..]);
        if needs_quotes(&raw) {
            let raw = raw.into_owned();
            self.out.truncate(start);
            quoted(self.out, &raw);
        }
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
        line::timestamp(self.out, value);
    }

    fn milliseconds(&mut self, key: &str, value: Duration) {
        self.key(key);
        line::milliseconds(self.out, value);
    }

    fn absent(&mut self, _key: &str) {}
}

fn level(out: &mut Vec<u8>, level: Level, colour: bool) {
    let name = line::level_name(level);
    if !colour {
        return out.extend_from_slice(name.as_bytes());
    }
    // SGR codes of ECMA-48: red, yellow, green, faint.
    let code = match level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        _ => "2",
    };
    line::append(out, &format_args!("\x1b[{code}m{name}\x1b[0m"));
}

fn quoted(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    line::escape(out, value);
    out.push(b'"');
}

fn needs_quotes(value: &str) -> bool {
    value.is_empty() || !value.bytes().all(is_bare) && value.chars().any(splits)
}

/// ASCII that certainly needs no quotes: nearly every value is made of it.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=')
}

fn splits(character: char) -> bool {
    matches!(character, '"' | '=') || character.is_whitespace() || is_hostile(character)
}

#[cfg(test)]
mod tests {
    use super::super::line::Format;
    use super::*;

    fn head(level: Level) -> Head<'static> {
        Head {
            time: SystemTime::UNIX_EPOCH,
            level,
            target: "isobar::test",
        }
    }

    fn line(colour: bool, body: impl FnOnce(&mut dyn Fields)) -> String {
        let mut out = Vec::new();
        Format::Text { colour }.line(&mut out, &head(Level::INFO), body);
        String::from_utf8(out).expect("UTF-8")
    }

    const HEAD: &str = "time=1970-01-01T00:00:00.000000Z level=info target=isobar::test";

    #[test]
    fn a_value_is_quoted_only_where_it_must_be() {
        for (value, text) in [
            ("plain", "plain"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("least:3<5", "least:3<5"),
            (r"C:\path", r"C:\path"),
            ("東京", "東京"),
            ("", r#""""#),
            ("two words", r#""two words""#),
            ("k=v", r#""k=v""#),
            (r#"say "hi""#, r#""say \"hi\"""#),
            (r"two\ words", r#""two\\ words""#),
            ("a\nlevel=error", r#""a\nlevel=error""#),
            ("\u{1b}[2J", r#""\u001b[2J""#),
            ("\u{9b}2J", r#""\u009b2J""#),
            ("東\u{3000}京", "\"東\u{3000}京\""),
        ] {
            let expected = format!("{HEAD} k={text}\n");
            assert_eq!(line(false, |fields| fields.text("k", value)), expected);
            assert_eq!(line(false, |fields| fields.display("k", &value)), expected);
        }
    }

    #[test]
    fn every_kind_of_field_has_its_form() {
        let text = line(false, |fields| {
            fields.message(&"listening");
            fields.integer("n", 42);
            fields.literal("ratio", &-0.5);
            fields.literal("up", &true);
            fields.time("at", SystemTime::UNIX_EPOCH);
            fields.milliseconds("took_ms", Duration::from_micros(1500));
            fields.absent("route");
        });
        let fields = "msg=listening n=42 ratio=-0.5 up=true at=1970-01-01T00:00:00.000000Z";
        assert_eq!(text, format!("{HEAD} {fields} took_ms=1.500\n"));
    }

    #[test]
    fn colour_is_of_the_level_alone() {
        let text = line(true, |fields| fields.message(&"hi"));
        let bare = text.replace("\x1b[32minfo\x1b[0m", "info");
        assert_eq!(bare, format!("{HEAD} msg=hi\n"));
        assert_ne!(bare, text);
    }
}

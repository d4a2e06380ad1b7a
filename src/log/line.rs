//! What a log line is made of, whatever it looks like: a head, perhaps a message, fields.
//!
//! [`Format::line`] is the one way to write one. It appends to a buffer and touches nothing
//! else; a line ends in its only newline. Text from outside (a backend's name, a path, an
//! error) cannot forge a line or reach a terminal as a command: see [`escape`].

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime};

use jiff::fmt::temporal::DateTimePrinter;
use tracing::Level;

use super::{json, logfmt};
use crate::terminal::is_hostile;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// logfmt, perhaps with a coloured level.
    Text {
        /// The sink is a terminal that wants colours.
        colour: bool,
    },
    /// One JSON object.
    Json,
}

/// What every line begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    /// When it happened.
    pub(super) time: SystemTime,
    /// How severe it is.
    pub(super) level: Level,
    /// Which part of the program says so.
    pub(super) target: &'a str,
}

impl Format {
    /// Appends one line whose fields `body` writes.
    pub(super) fn line(
        self,
        out: &mut Vec<u8>,
        head: &Head<'_>,
        body: impl FnOnce(&mut dyn Fields),
    ) {
        match self {
            Self::Text { colour } => {
                let mut line = logfmt::Line::begin(out, head, colour);
                body(&mut line);
                line.end();
            }
            Self::Json => {
                let mut line = json::Line::begin(out, head);
                body(&mut line);
                line.end();
            }
        }
    }
}

/// Takes the fields of a line, in order.
pub(super) trait Fields {
    /// What happened; before any other field.
    fn message(&mut self, message: &dyn Display);
    /// Text.
    fn text(&mut self, key: &str, value: &str);
    /// Text, as the value displays itself.
    fn display(&mut self, key: &str, value: &dyn Display);
    /// A whole number.
    fn integer(&mut self, key: &str, value: u64);
    /// A number or truth value, which displays itself as both formats write it.
    fn literal(&mut self, key: &str, value: &dyn Display);
    /// A point in time.
    fn time(&mut self, key: &str, value: SystemTime);
    /// A duration, in milliseconds with three decimals.
    fn milliseconds(&mut self, key: &str, value: Duration);
    /// A field without a value.
    fn absent(&mut self, key: &str);
}

/// As logs write a level.
pub(super) fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Appends RFC 3339 in UTC with microseconds: `2026-01-01T00:00:00.000000Z`.
///
/// A time outside of the years that RFC 3339 can write becomes 1970.
pub(super) fn timestamp(out: &mut Vec<u8>, time: SystemTime) {
    const MICROSECONDS: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    let time = jiff::Timestamp::try_from(time).unwrap_or_default();
    let written = MICROSECONDS.print_timestamp(&time, out);
    debug_assert!(written.is_ok(), "a vector takes every byte");
}

/// Appends a whole number; a third of the time that `fmt` takes, and a line has eight.
pub(super) fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[first..]);
        }
    }
}

/// Appends milliseconds with three decimals.
pub(super) fn milliseconds(out: &mut Vec<u8>, duration: Duration) {
    decimal(out, duration.as_millis().try_into().unwrap_or(u64::MAX));
    let rest = duration.subsec_micros() % 1000;
    out.push(b'.');
    for divisor in [100, 10, 1] {
        out.push(b'0' + (rest / divisor % 10) as u8);
    }
}

/// Appends text with everything escaped, as JSON does it, that could end a quoted value or a
/// line, or that a terminal would obey. All of that is in the basic plane, so that four
/// hexadecimal digits do.
pub(super) fn escape(out: &mut Vec<u8>, text: &str) {
    let mut clean = 0;
    for (at, character) in text.char_indices() {
        if !needs_escape(character) {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[clean..at]);
        escape_one(out, character);
        clean = at + character.len_utf8();
    }
    out.extend_from_slice(&text.as_bytes()[clean..]);
}

fn escape_one(out: &mut Vec<u8>, character: char) {
    match character {
        '"' => out.extend_from_slice(br#"\""#),
        '\\' => out.extend_from_slice(br"\\"),
        '\n' => out.extend_from_slice(br"\n"),
        '\r' => out.extend_from_slice(br"\r"),
        '\t' => out.extend_from_slice(br"\t"),
        other => append(out, &format_args!("\\u{:04x}", u32::from(other))),
    }
}

fn needs_escape(character: char) -> bool {
    matches!(character, '"' | '\\') || is_hostile(character)
}

/// Appends a value as it displays itself.
pub(super) fn append(out: &mut Vec<u8>, value: &dyn Display) {
    // A vector takes every byte; a `Display` that fails leaves what it wrote so far.
    let _ = fmt::write(&mut Raw(out), format_args!("{value}"));
}

struct Raw<'a>(&'a mut Vec<u8>);

impl fmt::Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn numbers_are_written_as_the_standard_library_does() {
        for number in [0, 7, 10, 99, 100, 12_345, u64::MAX] {
            assert_eq!(written(|out| decimal(out, number)), number.to_string());
        }
    }

    #[test]
    fn milliseconds_have_three_decimals() {
        for (microseconds, text) in [
            (0, "0.000"),
            (1, "0.001"),
            (999, "0.999"),
            (1000, "1.000"),
            (1_234_567, "1234.567"),
            (3_600_000_010, "3600000.010"),
        ] {
            let duration = Duration::from_micros(microseconds);
            assert_eq!(written(|out| milliseconds(out, duration)), text);
        }
        let cut = Duration::from_nanos(1_999_999);
        assert_eq!(written(|out| milliseconds(out, cut)), "1.999");
    }

    #[test]
    fn times_are_rfc_3339_with_microseconds() {
        let at = |duration| written(|out| timestamp(out, SystemTime::UNIX_EPOCH + duration));
        assert_eq!(at(Duration::ZERO), "1970-01-01T00:00:00.000000Z");
        assert_eq!(
            at(Duration::from_micros(1_767_225_600_000_001)),
            "2026-01-01T00:00:00.000001Z"
        );
        assert_eq!(
            at(Duration::from_nanos(951_782_399_999_999_999)),
            "2000-02-28T23:59:59.999999Z"
        );
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (raw, escaped) in [
            ("plain", "plain"),
            ("ünïcödé 東京 🎈", "ünïcödé 東京 🎈"),
            ("a\"b\\c", r#"a\"b\\c"#),
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\u{1b}[31m\0\u{7f}", r"\u001b[31m\u0000\u007f"),
            ("\u{9b}31m", r"\u009b31m"),
            ("\u{202e}gpj.exe\u{2028}", r"\u202egpj.exe\u2028"),
        ] {
            assert_eq!(written(|out| escape(out, raw)), escaped);
        }
    }
}

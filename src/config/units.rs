//! Quantities as the file writes them: durations, status codes, file modes, bytes.
//!
//! Every function refuses with a sentence that says what is expected, without the text that
//! was given: the caller knows whether that text may be shown.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest duration: a year. Above it a typing error is likelier than a wish, and every
/// sum of two of them still fits the clocks of the kernel and of the runtime.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Units in the order in which they may follow each other, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// `"500ms"`, `"2s"`, `"1m30s"`, `"1h"`: whole numbers with the units h, m, s and ms, the
/// larger first, each at most once. At most a year.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(expected_duration());
    }
    while !rest.is_empty() {
        let (digits, behind) = split_while(rest, |c| c.is_ascii_digit());
        if behind.starts_with('.') {
            return Err("whole numbers only, as in \"1500ms\"".to_owned());
        }
        let (unit, behind) = split_while(behind, |c| c.is_ascii_alphabetic());
        let count: u64 = digits.parse().map_err(|_| not_a_number(rest, digits))?;
        let scale = match units.find(|(name, _)| *name == unit) {
            Some((_, scale)) => *scale,
            None => return Err(unknown_unit(digits, unit, behind)),
        };
        total = total.saturating_add(count.saturating_mul(scale));
        rest = behind;
    }
    Ok(Duration::from_millis(total)).and_then(at_most_a_year)
}

fn at_most_a_year(duration: Duration) -> Result<Duration, String> {
    if duration > MAX_DURATION {
        return Err(format!(
            "at most {} (a year)",
            format_duration(MAX_DURATION)
        ));
    }
    Ok(duration)
}

fn expected_duration() -> String {
    "expected a duration such as \"500ms\", \"30s\", \"1m30s\" or \"1h\"".to_owned()
}

fn not_a_number(rest: &str, digits: &str) -> String {
    if !digits.is_empty() {
        return format!("at most {} (a year)", format_duration(MAX_DURATION));
    }
    if rest.starts_with('-') {
        return "a duration is not negative".to_owned();
    }
    expected_duration()
}

/// Why `unit`, and `behind` it the rest, cannot stand behind the number, with what was probably meant.
fn unknown_unit(digits: &str, unit: &str, behind: &str) -> String {
    let meant = match unit.to_ascii_lowercase().as_str() {
        "" if behind.starts_with(char::is_whitespace) => {
            return "a duration has no spaces, as in \"1m30s\"".to_owned();
        }
        "" => return format!("a unit is missing, did you mean \"{digits}s\"?"),
        "sec" | "secs" | "second" | "seconds" => Some("s"),
        "min" | "mins" | "minute" | "minutes" => Some("m"),
        "hr" | "hrs" | "hour" | "hours" => Some("h"),
        "msec" | "millis" | "milliseconds" => Some("ms"),
        lower => UNITS
            .iter()
            .map(|(name, _)| *name)
            .find(|name| *name == lower && unit != lower),
    };
    if let Some(meant) = meant {
        return format!("the unit is written `{meant}`, did you mean \"{digits}{meant}\"?");
    }
    if UNITS.iter().any(|(name, _)| *name == unit) {
        return "each unit stands once, the larger first: h, m, s, ms".to_owned();
    }
    "the units are h, m, s and ms".to_owned()
}

/// A duration as [`duration`] reads it; parts of a millisecond are dropped.
pub(crate) fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (name, scale) in UNITS {
        if rest >= scale {
            out.push_str(&format!("{}{name}", rest / scale));
            rest %= scale;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// `"200-399"`, `"200,204,300-399"`: HTTP status codes from 100 to 599, single or in ranges.
pub(super) fn statuses(text: &str) -> Result<Vec<RangeInclusive<u16>>, String> {
    text.split(',')
        .map(|part| status_range(part.trim()))
        .collect()
}

fn status_range(part: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (status(first.trim())?, status(last.trim())?);
    if first > last {
        return Err(format!(
            "the range ends before it begins, did you mean {last}-{first}?"
        ));
    }
    Ok(first..=last)
}

fn status(code: &str) -> Result<u16, String> {
    let digits = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let code = code
        .parse()
        .ok()
        .filter(|code| digits && (100..=599).contains(code));
    code.ok_or_else(|| {
        "expected status codes and ranges from 100 to 599, such as \"200,204,300-399\"".to_owned()
    })
}

/// Status codes as [`statuses`] reads them.
pub(super) fn format_statuses(ranges: &[RangeInclusive<u16>]) -> String {
    let one = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(",")
}

/// `"0660"`: the mode of a file in octal, permission bits only.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal =
        (1..=4).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(digits, 8).ok();
    mode.filter(|mode| octal && *mode <= 0o777)
        .ok_or_else(|| "expected an octal file mode from \"0000\" to \"0777\"".to_owned())
}

/// `"30%"`, `"12.5%"`: a share from 0 to 1, with at most two digits behind the point.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let expected = || "expected a share from \"0%\" to \"100%\", such as \"30%\"".to_owned();
    let number = text.strip_suffix('%').ok_or_else(expected)?;
    let (whole, rest) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let fine = (1..=3).contains(&whole.len()) && (1..=2).contains(&rest.len());
    if !fine || !digits(whole) || !digits(rest) {
        return Err(expected());
    }
    let percent: f64 = number.parse().map_err(|_| expected())?;
    match percent <= 100.0 {
        true => Ok(percent / 100.0),
        false => Err(expected()),
    }
}

/// A share as [`percent`] reads it.
pub(super) fn format_percent(share: f64) -> String {
    format!("{}%", (share * 10_000.0).round() / 100.0)
}

/// Text as it stands, or `"hex:0a0b"` for any bytes; at most 64 KiB.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let bytes = match text.strip_prefix("hex:") {
        Some(hex) => hex_bytes(hex)?,
        None => text.as_bytes().to_vec(),
    };
    if bytes.len() > MAX_EXCHANGE {
        return Err(format!("at most {MAX_EXCHANGE} bytes"));
    }
    Ok(bytes)
}

/// A check looks no further into an answer than this.
const MAX_EXCHANGE: usize = 64 * 1024;

fn hex_bytes(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    if !digits.len().is_multiple_of(2) || digits.iter().any(|byte| digit(byte).is_none()) {
        return Err("behind `hex:` stands an even number of hexadecimal digits".to_owned());
    }
    let pair = |pair: &[u8]| {
        let byte = pair
            .iter()
            .filter_map(digit)
            .fold(0, |sum, digit| sum * 16 + digit);
        u8::try_from(byte).expect("two hexadecimal digits make a byte")
    };
    Ok(digits.chunks(2).map(pair).collect())
}

/// Bytes as [`bytes`] reads them: as text where they are text.
pub(super) fn format_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with("hex:") => text.to_owned(),
        _ => bytes
            .iter()
            .fold("hex:".to_owned(), |out, byte| out + &format!("{byte:02x}")),
    }
}

/// Splits where `keep` first says no.
fn split_while(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !keep(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_as_written() {
        for (text, millis) in [
            ("500ms", 500),
            ("2s", 2000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1h2m3s4ms", 3_723_004),
            ("0s", 0),
            ("0ms", 0),
            ("90m", 5_400_000),
            ("8760h", 365 * 24 * 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_says_what_was_meant() {
        for (text, message) in [
            ("", "expected a duration"),
            ("soon", "expected a duration"),
            ("1.5s", "whole numbers only"),
            ("30", "did you mean \"30s\""),
            ("0", "did you mean \"0s\""),
            ("5min", "did you mean \"5m\""),
            ("5S", "did you mean \"5s\""),
            ("1d", "the units are h, m, s and ms"),
            ("1s1m", "the larger first"),
            ("1s1s", "the larger first"),
            ("-1s", "not negative"),
            ("8760h1ms", "at most 8760h"),
            ("99999999999999999999h", "at most 8760h"),
            ("18446744073709551615h", "at most 8760h"),
            ("1 s", "no spaces"),
            ("1s 2ms", "expected a duration"),
            (" 1s", "expected a duration"),
            ("1s ", "expected a duration"),
            ("1µs", "a unit is missing"),
        ] {
            let fault = duration(text).expect_err(text);
            assert!(fault.contains(message), "{text}: {fault}");
        }
    }

    #[test]
    fn statuses_are_codes_and_ranges() {
        assert_eq!(statuses("200-399"), Ok(vec![200..=399]));
        assert_eq!(
            statuses("200, 204,300-399"),
            Ok(vec![200..=200, 204..=204, 300..=399])
        );
        for text in [
            "", "200,", "20", "2xx", "600", "099", "300-200", "+200", "200-",
        ] {
            assert!(statuses(text).is_err(), "{text}");
        }
    }

    #[test]
    fn modes_are_octal_permission_bits() {
        for (text, bits) in [("0666", 0o666), ("660", 0o660), ("0o700", 0o700), ("0", 0)] {
            assert_eq!(mode(text), Ok(bits), "{text}");
        }
        for text in ["", "0888", "1777", "rw", "-1", "+660", "00666"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_a_percentage() {
        for (text, share) in [("30%", 0.3), ("0%", 0.0), ("100%", 1.0), ("12.5%", 0.125)] {
            assert_eq!(percent(text), Ok(share), "{text}");
            assert_eq!(format_percent(share), text);
        }
        for text in [
            "", "%", "30", "0.3", "-1%", "+1%", "101%", "1e1%", ".5%", "5.%", "1.234%", "30 %",
        ] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_text_or_hexadecimal() {
        assert_eq!(bytes("PING\r\n"), Ok(b"PING\r\n".to_vec()));
        assert_eq!(bytes("hex:00 fF"), Ok(vec![0, 255]));
        assert_eq!(bytes("hex:"), Ok(vec![]));
        for text in ["hex:0", "hex:zz", "hex:é0"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(bytes(&"x".repeat(MAX_EXCHANGE + 1)).is_err());
    }

    proptest! {
        #[test]
        fn a_duration_reads_back_as_itself(millis in 0..=MAX_DURATION.as_millis() as u64) {
            let value = Duration::from_millis(millis);
            prop_assert_eq!(duration(&format_duration(value)), Ok(value));
        }

        #[test]
        fn bytes_read_back_as_themselves(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(bytes(&format_bytes(&value)), Ok(value));
        }

        #[test]
        fn no_text_makes_a_unit_panic(text in "\\PC{0,12}") {
            let _ = (duration(&text), statuses(&text), mode(&text), bytes(&format!("hex:{text}")));
        }
    }
}

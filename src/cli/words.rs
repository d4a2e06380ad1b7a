//! Numbers and times in the few characters that a table has for them.

use jiff::Timestamp;

/// How long, by its largest one or two units: `12s`, `3m`, `2h 5m`, `4d 1h`.
pub(super) fn span(seconds: f64) -> String {
    // Below zero by the difference of two clocks, and beyond any process's age by a fault.
    let seconds = seconds.clamp(0.0, 1e12) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: u64, unit: &str, small: u64, of: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit} {small}{of}"),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m"),
        3600..86_400 => two(hours, "h", minutes % 60, "m"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

/// How long ago by this machine's clock; `-`: never, or no time.
pub(super) fn since(at: Option<&str>, now: Timestamp) -> String {
    match at.and_then(|at| at.parse::<Timestamp>().ok()) {
        Some(at) => span(now.duration_since(at).as_secs_f64()),
        None => "-".to_owned(),
    }
}

/// A latency with three digits: `85µs`, `1.25ms`, `2.5s`; `-`: not measured.
pub(super) fn latency(seconds: Option<f64>) -> String {
    match seconds {
        Some(s) if s >= 1.0 => format!("{}s", three_digits(s)),
        Some(s) if s >= 1e-3 => format!("{}ms", three_digits(s * 1e3)),
        Some(s) if s > 0.0 => format!("{}µs", three_digits(s * 1e6)),
        _ => "-".to_owned(),
    }
}

/// A count or a rate in at most five characters: `0.4`, `12`, `1.23k`, `45.6M`.
pub(super) fn short(value: f64) -> String {
    scaled(value, 1000.0, ["", "k", "M", "G", "T", "P", "E"])
}

/// Bytes in at most five characters, by powers of 1024: `640`, `1.5K`, `20M`.
pub(super) fn short_bytes(value: f64) -> String {
    scaled(value, 1024.0, ["", "K", "M", "G", "T", "P", "E"])
}

fn scaled(value: f64, step: f64, units: [&str; 7]) -> String {
    // Also what is no number.
    let mut value = value.max(0.0);
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    match unit {
        0 if value < 9.95 => number((value * 10.0).round() / 10.0),
        0 => format!("{value:.0}"),
        _ => three_digits(value) + units[unit],
    }
}

/// A number that is compared with others: `3`, `3.5`, `0.06`.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    match text.trim_end_matches('0').trim_end_matches('.') {
        "-0" => "0".to_owned(),
        text => text.to_owned(),
    }
}

fn three_digits(value: f64) -> String {
    let decimals = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// `0 B`, `1.5 KiB`, `20 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let unit = (count.ilog2() / 10) as usize;
    let value = count as f64 / 1024f64.powi(unit as i32);
    format!("{} {}", three_digits(value), UNITS[unit - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_its_two_largest_units() {
        for (seconds, text) in [
            (-3.0, "0s"),
            (59.9, "59s"),
            (60.0, "1m"),
            (3_600.0, "1h"),
            (7_500.0, "2h 5m"),
            (90_000.0, "1d 1h"),
            (f64::NAN, "0s"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn a_number_has_at_most_two_decimals() {
        for (value, text) in [
            (3.0, "3"),
            (3.5, "3.5"),
            (0.0649, "0.06"),
            (100.0, "100"),
            (0.0, "0"),
            (-0.001, "0"),
            (-1.25, "-1.25"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_time_is_told_from_now() {
        let now: Timestamp = "2026-01-01T00:02:05Z".parse().expect("a time");
        assert_eq!(since(Some("2026-01-01T00:00:00.5Z"), now), "2m");
        assert_eq!(since(Some("2026-01-01T01:00:00+00:00"), now), "0s");
        assert_eq!(since(Some("yesterday"), now), "-");
        assert_eq!(since(None, now), "-");
    }

    #[test]
    fn a_latency_has_three_digits() {
        for (seconds, text) in [
            (0.000_085, "85µs"),
            (0.001_25, "1.25ms"),
            (0.099_96, "100ms"),
            (0.1, "100ms"),
            (2.5, "2.5s"),
        ] {
            assert_eq!(latency(Some(seconds)), text);
        }
        assert_eq!(latency(Some(0.0)), "-");
        assert_eq!(latency(None), "-");
    }

    #[test]
    fn what_is_short_has_at_most_five_characters() {
        for (value, text) in [
            (f64::NAN, "0"),
            (0.04, "0"),
            (0.44, "0.4"),
            (9.96, "10"),
            (999.4, "999"),
            (1_234.0, "1.23k"),
            (123_456.0, "123k"),
            (999_900.0, "1M"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(short_bytes(1_000.0), "0.98K");
        assert_eq!(short_bytes(1536.0), "1.5K");
        assert_eq!(short_bytes(u64::MAX as f64), "16E");
    }

    #[test]
    fn bytes_are_counted_in_powers_of_1024() {
        for (count, text) in [
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (20 << 30, "20 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}

//! Rates and shares, as commands and the admin endpoint write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Units of time that a rate may be in, with their lengths in seconds.
const UNITS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3600)];

/// So many of something in a second, a minute or an hour, such as `5/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    count: u32,
    /// Index in [`UNITS`].
    unit: usize,
}

impl Rate {
    /// `count` in a second, at least 1.
    pub const fn per_second(count: u32) -> Self {
        let count = if count == 0 { 1 } else { count };
        Self { count, unit: 0 }
    }

    /// How many in [`Rate::per`]; at least 1.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// A second, a minute or an hour.
    pub const fn per(self) -> Duration {
        Duration::from_secs(UNITS[self.unit].1)
    }

    /// From one to the next where all are evenly spaced.
    pub fn interval(self) -> Duration {
        self.per() / self.count
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a rate such as 5/s, 600/m or 1000/h, at least 1";
        let (count, unit) = text.split_once('/').ok_or(EXPECTED)?;
        let unit = UNITS.iter().position(|(name, _)| *name == unit);
        let plain = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|count| plain && *count > 0);
        let (count, unit) = count.zip(unit).ok_or(EXPECTED)?;
        Ok(Self { count, unit })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, UNITS[self.unit].0)
    }
}

/// `10%`, `2.5%`: a share from 0% to 100%, as a number from 0 to 1.
///
/// # Errors
/// What is expected, as a sentence.
pub fn percentage(text: &str) -> Result<f64, &'static str> {
    const EXPECTED: &str = "expected a percentage from 0% to 100%, such as 10%";
    let number = text.strip_suffix('%').ok_or(EXPECTED)?;
    let plain = number
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let percent = number.parse::<f64>().ok().filter(|_| plain);
    let share = percent.filter(|percent| *percent <= 100.0);
    share.map(|percent| percent / 100.0).ok_or(EXPECTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_and_written_alike() {
        for (text, interval) in [
            ("5/s", Duration::from_millis(200)),
            ("600/m", Duration::from_millis(100)),
            ("1/h", Duration::from_secs(3600)),
        ] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(
                (rate.to_string(), rate.interval()),
                (text.to_owned(), interval)
            );
        }
        for text in [
            "", "5", "0/s", "5/d", "/s", "-1/s", "+5/s", "5 /s", "1.5/s", "5/s ",
        ] {
            text.parse::<Rate>().expect_err(text);
        }
    }

    #[test]
    fn a_percentage_is_a_share() {
        for (text, share) in [("0%", 0.0), ("10%", 0.1), ("2.5%", 0.025), ("100%", 1.0)] {
            assert_eq!(percentage(text), Ok(share), "{text}");
        }
        for text in ["10", "%", "-1%", "101%", "1e1%", "inf%", "NaN%", "10 %"] {
            percentage(text).expect_err(text);
        }
    }
}

//! How values look in answers: times, durations, objects in a given order.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// A time of the wall clock as RFC 3339 in UTC, with microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At(pub(super) SystemTime);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A time that RFC 3339 cannot write becomes 1970.
        let at = jiff::Timestamp::try_from(self.0).unwrap_or_default();
        write!(f, "{at:.6}")
    }
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A duration in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seconds(pub(super) Duration);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_secs_f64())
    }
}

/// An object whose keys stay in the order in which they were put in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table<K, V>(Vec<(K, V)>);

impl<K, V> Table<K, V> {
    /// What the keys stand for.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }
}

impl<K: Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<K, V> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        Self(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_durations_are_seconds() {
        let at = At(SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_500));
        let written = serde_json::to_string(&at).expect("a string");
        assert_eq!(written, "\"2026-01-01T00:00:00.500000Z\"");
        let written = serde_json::to_string(&Seconds(Duration::from_millis(1500)));
        assert_eq!(written.expect("a number"), "1.5");
    }

    #[test]
    fn a_table_keeps_its_order() {
        let table: Table<_, _> = [("b", 1), ("a", 2)].into_iter().collect();
        let written = serde_json::to_string(&table).expect("an object");
        assert_eq!(written, r#"{"b":1,"a":2}"#);
    }
}

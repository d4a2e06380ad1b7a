//! `/stats` and a backend's history, as far as `isobar status` and `isobar top` show them.
//!
//! Fields that are not shown are not read, and what an older or newer balancer leaves out has a
//! default, so that a command and a balancer of different versions understand each other.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// `GET /stats`.
#[derive(Debug, Deserialize)]
pub(super) struct Stats {
    pub(super) version: String,
    pub(super) pid: u32,
    #[serde(default)]
    pub(super) uptime_seconds: f64,
    pub(super) config: Config,
    pub(super) connections: Connections,
    pub(super) listeners: Named<Listener>,
    pub(super) pools: Named<Pool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) path: String,
    pub(super) generation: u64,
    #[serde(default)]
    pub(super) last_reload: LastReload,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LastReload {
    /// Why it was refused; nothing: it was not.
    pub(super) error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Connections {
    pub(super) active: u64,
    pub(super) total: u64,
    pub(super) limit: u64,
    pub(super) failed: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Listener {
    pub(super) addresses: Vec<String>,
    pub(super) pool: Option<String>,
    pub(super) accepting: bool,
    pub(super) connections: Connections,
    /// By reason.
    #[serde(default)]
    pub(super) rejected: Named<u64>,
    #[serde(default)]
    pub(super) bytes_in: u64,
    #[serde(default)]
    pub(super) bytes_out: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pool {
    pub(super) balance: String,
    pub(super) held: u64,
    #[serde(default)]
    pub(super) paused: bool,
    #[serde(default)]
    pub(super) paused_until: Option<String>,
    /// A rebalance goes on.
    #[serde(default)]
    pub(super) rebalancing: Option<IgnoredAny>,
    pub(super) connections: Connections,
    #[serde(default)]
    pub(super) bytes_in: u64,
    #[serde(default)]
    pub(super) bytes_out: u64,
    pub(super) backends: Named<Backend>,
}

impl Pool {
    /// Backends that take new connections now, and all that are not removed.
    pub(super) fn usable(&self) -> (usize, usize) {
        let (mut usable, mut all) = (0, 0);
        for (_, backend) in self.backends.iter().filter(|(_, b)| b.state != "removed") {
            all += 1;
            usable += usize::from(backend.state == "up" && backend.weight > 0);
        }
        (usable, all)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Backend {
    pub(super) address: String,
    pub(super) state: String,
    #[serde(default)]
    pub(super) ejected_until: Option<String>,
    #[serde(default)]
    pub(super) leaving: Option<Leaving>,
    #[serde(default)]
    pub(super) weight: u64,
    /// Less what a slow start takes away.
    #[serde(default)]
    pub(super) effective_weight: Option<f64>,
    #[serde(default)]
    pub(super) backup: bool,
    pub(super) connections: Connections,
    #[serde(default)]
    pub(super) bytes_in: u64,
    #[serde(default)]
    pub(super) bytes_out: u64,
    #[serde(default)]
    pub(super) connect_seconds: Percentiles,
    #[serde(default)]
    pub(super) first_byte_seconds: Percentiles,
    #[serde(default)]
    pub(super) duration_seconds: Percentiles,
    #[serde(default)]
    pub(super) rtt_seconds: Option<Percentiles>,
    #[serde(default)]
    pub(super) delivery_rate: Option<Percentiles>,
    #[serde(default)]
    pub(super) retransmitted: Option<Retransmitted>,
    #[serde(default)]
    pub(super) health: Health,
}

/// Of a backend that is to take no new connections.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Leaving {
    /// When those that are left are reset.
    pub(super) until: Option<String>,
}

/// Of the last 60 s; nothing, or 0, where nothing was measured.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Percentiles {
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// What TCP has sent since the start, and the share of the last 60 s.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Retransmitted {
    pub(super) sent_bytes: u64,
    pub(super) retransmitted_bytes: u64,
    pub(super) share: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    pub(super) kind: String,
    pub(super) last_at: Option<String>,
    pub(super) last_ok: Option<bool>,
    pub(super) last_error: Option<String>,
    pub(super) latency_seconds: Option<f64>,
    pub(super) since: Option<String>,
    /// The last few, oldest first.
    pub(super) history: Vec<Entry>,
}

/// `GET /pools/P/backends/B/history`, oldest first.
#[derive(Debug, Deserialize)]
pub(super) struct History {
    pub(super) history: Vec<Entry>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) at: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) cause: String,
    #[serde(default)]
    pub(super) check_seconds: Option<f64>,
    #[serde(default)]
    pub(super) by: String,
}

/// A JSON object as a list, in the order in which the balancer wrote it: that of the file.
#[derive(Debug)]
pub(super) struct Named<T>(Vec<(String, T)>);

impl<T> Named<T> {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    pub(super) fn find(&self, name: &str) -> Option<&T> {
        self.iter()
            .find_map(|(other, value)| (other == name).then_some(value))
    }

    pub(super) fn find_mut(&mut self, name: &str) -> Option<&mut T> {
        let mut all = self.0.iter_mut();
        all.find_map(|(other, value)| (other == name).then_some(value))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

struct InOrder<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
    type Value = Named<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Named(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_the_order_of_the_balancer() {
        let named: Named<u32> = serde_json::from_str(r#"{"b": 1, "a": 2}"#).expect("an object");
        assert_eq!(named.iter().collect::<Vec<_>>(), [("b", &1), ("a", &2)]);
        assert_eq!(named.find("a"), Some(&2));
        assert_eq!(named.find("c"), None);
    }
}

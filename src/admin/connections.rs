//! `GET /connections`: who is connected now, filtered, oldest first.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::Running;
use super::error::Refusal;
use super::words::Seconds;
use crate::conn::{ConnectionView, Phase};
use crate::net::Address;

/// How many are shown where the request does not say.
const LIMIT: usize = 100;

/// The words for states.
const STATES: [(&str, Phase); 6] = [
    ("preread", Phase::Preread),
    ("held", Phase::Held),
    ("connecting", Phase::Connecting),
    ("relaying", Phase::Relaying),
    ("half_closed", Phase::HalfClosed),
    ("closing", Phase::Closing),
];

/// Names of all filters.
const FILTERS: &str = "limit, pool, backend, listener, client, state, older, idle";

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Connections {
    /// How many match, shown or not.
    total: usize,
    connections: Vec<Connection>,
}

#[derive(Debug, Serialize)]
struct Connection {
    id: String,
    listener: Arc<str>,
    client: Address,
    pool: Option<Arc<str>>,
    backend: Option<Arc<str>>,
    age_seconds: Seconds,
    idle_seconds: Seconds,
    bytes_in: u64,
    bytes_out: u64,
    state: Phase,
}

/// Which connections are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Query {
    limit: Option<usize>,
    pub(super) filter: Filter,
}

/// What a connection must be; nothing given: anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Filter {
    pool: Option<String>,
    backend: Option<String>,
    listener: Option<String>,
    client: Option<Source>,
    state: Option<Phase>,
    older: Option<Duration>,
    idle: Option<Duration>,
}

impl Query {
    /// Reads the pairs of a query string.
    ///
    /// # Errors
    /// 400 for a filter that is unknown, given twice, or has a value that cannot be one.
    pub(super) fn parse(pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let mut query = Self::default();
        for (name, value) in &pairs {
            query.take(name, value).map_err(Refusal::bad_request)?;
        }
        Ok(query)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        // As a form sends what was not filled in.
        if value.is_empty() && FILTERS.split(", ").any(|filter| filter == name) {
            return Ok(());
        }
        let filter = &mut self.filter;
        match name {
            "limit" => set(name, &mut self.limit, count(value)),
            "pool" => set(name, &mut filter.pool, Ok(value.to_owned())),
            "backend" => set(name, &mut filter.backend, Ok(value.to_owned())),
            "listener" => set(name, &mut filter.listener, Ok(value.to_owned())),
            "client" => set(name, &mut filter.client, value.parse()),
            "state" => set(name, &mut filter.state, state(value)),
            "older" => set(name, &mut filter.older, duration(value)),
            "idle" => set(name, &mut filter.idle, duration(value)),
            _ => Err(format!("unknown filter {name:?}; there are {FILTERS}")),
        }
    }
}

fn set<T>(name: &str, place: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    let value = value.map_err(|expected| format!("{name}: expected {expected}"))?;
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{name} is given twice")),
    }
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "a whole number".to_owned())
}

fn state(text: &str) -> Result<Phase, String> {
    let found = STATES.iter().find(|(word, _)| *word == text);
    let words = || STATES.map(|(word, _)| word).join(", ");
    found
        .map(|(_, phase)| *phase)
        .ok_or_else(|| format!("one of {}", words()))
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok();
    parsed
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| "a duration such as 30s or 1h".to_owned())
}

/// Where clients come from: a block of addresses, or Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Unix,
    Block { network: IpAddr, prefix: u32 },
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        Self::block(text).ok_or_else(|| "an address, a CIDR such as 10.0.0.0/8, or unix".to_owned())
    }
}

impl Source {
    fn block(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().ok()?)),
            None => (text, None),
        };
        let network = address.parse::<IpAddr>().ok()?.to_canonical();
        let most = width(network);
        let prefix = prefix.unwrap_or(most);
        (prefix <= most).then_some(Self::Block { network, prefix })
    }

    fn holds(self, client: &Address) -> bool {
        match (self, client.ip()) {
            (Self::Unix, ip) => ip.is_none(),
            (Self::Block { .. }, None) => false,
            (Self::Block { network, prefix }, Some(ip)) => {
                let shift = width(network) - prefix;
                width(ip) == width(network) && cut(ip, shift) == cut(network, shift)
            }
        }
    }
}

fn width(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The address without its last `bits` bits.
fn cut(ip: IpAddr, bits: u32) -> u128 {
    let number = match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    number.checked_shr(bits).unwrap_or(0)
}

impl Filter {
    /// Whether `connection` is one of those that are asked for.
    pub(super) fn takes(&self, connection: &ConnectionView, now: Instant, at: SystemTime) -> bool {
        fn is(wanted: &Option<String>, name: Option<&Arc<str>>) -> bool {
            wanted
                .as_deref()
                .is_none_or(|wanted| name.is_some_and(|name| **name == *wanted))
        }
        is(&self.pool, connection.pool.as_ref())
            && is(&self.backend, connection.backend.as_ref())
            && is(&self.listener, Some(&connection.listener))
            && self
                .client
                .is_none_or(|source| source.holds(&connection.client))
            && self.state.is_none_or(|state| connection.phase == state)
            && self.older.is_none_or(|older| age(connection, at) > older)
            && self.idle.is_none_or(|idle| silence(connection, now) > idle)
    }
}

fn age(connection: &ConnectionView, at: SystemTime) -> Duration {
    // The clock may have been set back meanwhile.
    at.duration_since(connection.accepted_at)
        .unwrap_or_default()
}

fn silence(connection: &ConnectionView, now: Instant) -> Duration {
    now.saturating_duration_since(connection.moved_at)
}

impl Connections {
    /// Asks every core.
    pub(super) async fn of(running: &Running, query: &Query) -> Self {
        let mut all = Vec::new();
        for core in &running.cores {
            all.append(&mut core.connections().await);
        }
        Self::select(all, query, Instant::now(), SystemTime::now())
    }

    fn select(mut all: Vec<ConnectionView>, query: &Query, now: Instant, at: SystemTime) -> Self {
        all.retain(|connection| query.filter.takes(connection, now, at));
        all.sort_by_key(|connection| (Reverse(age(connection, at)), connection.id));
        let shown = all.iter().take(query.limit.unwrap_or(LIMIT));
        Self {
            total: all.len(),
            connections: shown.map(|view| Connection::of(view, now, at)).collect(),
        }
    }
}

impl Connection {
    fn of(view: &ConnectionView, now: Instant, at: SystemTime) -> Self {
        Self {
            id: view.id.to_string(),
            listener: Arc::clone(&view.listener),
            client: view.client.clone(),
            pool: view.pool.clone(),
            backend: view.backend.clone(),
            age_seconds: Seconds(age(view, at)),
            idle_seconds: Seconds(silence(view, now)),
            bytes_in: view.bytes_in,
            bytes_out: view.bytes_out,
            state: view.phase,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &[(&str, &str)]) -> Result<Query, String> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Query::parse(text.iter().map(own).collect()).map_err(|refusal| refusal.reason)
    }

    fn view(id: u64, client: &str, age: u64, start: (Instant, SystemTime)) -> ConnectionView {
        ConnectionView {
            id,
            listener: "web".into(),
            client: client.parse().expect("an address"),
            pool: Some("web".into()),
            backend: id.is_multiple_of(2).then(|| "b1".into()),
            accepted_at: start.1 - Duration::from_secs(age),
            moved_at: start.0,
            bytes_in: 1,
            bytes_out: 2,
            phase: Phase::Relaying,
        }
    }

    fn ids(text: &[(&str, &str)]) -> (usize, Vec<u64>) {
        let start = (Instant::now(), SystemTime::now());
        let all = vec![
            view(1, "10.0.0.1:1000", 5, start),
            view(2, "10.1.0.1:1000", 50, start),
            view(3, "[2001:db8::1]:1000", 500, start),
            view(4, "unix:/run/web.sock", 1, start),
        ];
        let query = query(text).expect("a query");
        let now = start.0 + Duration::from_secs(2);
        let found = Connections::select(all, &query, now, start.1);
        let ids = found
            .connections
            .iter()
            .map(|c| c.id.parse().expect("an id"));
        (found.total, ids.collect())
    }

    #[test]
    fn the_oldest_come_first_and_the_limit_hides_none_from_the_total() {
        assert_eq!(ids(&[]), (4, vec![3, 2, 1, 4]));
        assert_eq!(ids(&[("limit", "2")]), (4, vec![3, 2]));
        assert_eq!(ids(&[("limit", "0")]), (4, vec![]));
    }

    #[test]
    fn every_filter_must_hold() {
        assert_eq!(ids(&[("backend", "b1")]).1, [2, 4]);
        assert_eq!(ids(&[("pool", "other")]).0, 0);
        assert_eq!(ids(&[("listener", "web"), ("older", "5s")]).1, [3, 2]);
        assert_eq!(ids(&[("idle", "1s")]).0, 4);
        assert_eq!(ids(&[("idle", "2m")]).0, 0);
        assert_eq!(ids(&[("state", "held")]).0, 0);
        assert_eq!(ids(&[("state", "relaying"), ("backend", "b1")]).0, 2);
    }

    #[test]
    fn clients_are_found_by_address_and_block() {
        let cases: [(&str, &[u64]); 9] = [
            ("10.0.0.1", &[1]),
            ("10.0.0.0/8", &[2, 1]),
            ("10.0.0.7/16", &[1]),
            ("::ffff:10.0.0.1", &[1]),
            ("0.0.0.0/0", &[2, 1]),
            ("2001:db8::/32", &[3]),
            ("::/0", &[3]),
            ("unix", &[4]),
            ("192.0.2.1", &[]),
        ];
        for (client, expected) in cases {
            assert_eq!(ids(&[("client", client)]).1, expected, "{client}");
        }
    }

    #[test]
    fn what_cannot_be_a_filter_is_refused_by_name() {
        let cases = [
            (("pools", "web"), "unknown filter \"pools\""),
            (("limit", "-1"), "limit: expected a whole number"),
            (("client", "10.0.0.0/33"), "client: expected an address"),
            (("client", "evil.com"), "client: expected"),
            (("state", "open"), "state: expected one of preread, held"),
            (("older", "30"), "older: expected a duration"),
            (("idle", "-1s"), "idle: expected a duration"),
        ];
        for (pair, expected) in cases {
            let refused = query(&[pair]).expect_err("no filter");
            assert!(refused.starts_with(expected), "{refused}");
        }
        let twice = query(&[("pool", "a"), ("pool", "b")]).expect_err("given twice");
        assert_eq!(twice, "pool is given twice");
    }

    #[test]
    fn every_state_is_found_by_the_word_it_is_shown_with() {
        for (word, phase) in STATES {
            let shown = serde_json::to_string(&phase).expect("a word");
            assert_eq!(shown, format!("\"{word}\""));
        }
    }
}

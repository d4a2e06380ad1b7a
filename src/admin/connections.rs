//! `GET /connections`: who is connected now, filtered, oldest first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Running;
use super::error::Refusal;
use super::history::no_pool;
use super::words::Seconds;
use crate::conn::listing::{Filter, Found};
use crate::conn::{ConnectionView, Phase};
use crate::net::{Address, Source};

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

/// Whether `value` can be that of a filter, for whoever looks before it asks.
///
/// # Errors
/// What is expected instead. Without a value a filter is more likely a variable that is not set
/// than a wish for all.
pub fn check_filter(name: &str, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("it has no value".to_owned());
    }
    let taken = Query::default().take(name, value);
    taken.map_err(|why| match why.strip_prefix(&format!("{name}: ")) {
        Some(why) => why.to_owned(),
        None => why,
    })
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
            "client" => set(name, &mut filter.client, source(value)),
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

fn source(text: &str) -> Result<Source, String> {
    text.parse()
        .map_err(|_| "an address, a CIDR such as 10.0.0.0/8, or unix".to_owned())
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

impl Filter {
    /// Refuses a pool that there is not: a wrong name is not the same as nobody there. One that
    /// has left the file is known as long as it has connections.
    ///
    /// # Errors
    /// 404.
    pub(super) fn known_in(&self, running: &Running) -> Result<(), Refusal> {
        let configured = running.configured();
        let is = |name: &String| configured.every_pool().any(|pool| *pool.name == **name);
        match self.pool.as_ref().filter(|name| !is(name)) {
            Some(name) => Err(no_pool(running, name)),
            None => Ok(()),
        }
    }
}

impl Connections {
    /// Asks every core.
    pub(super) async fn of(running: &Running, query: &Query) -> Self {
        let now = Instant::now();
        let limit = query.limit.unwrap_or(LIMIT);
        let filter = Arc::new(query.filter.clone());
        let mut all = Vec::new();
        for core in &running.cores {
            all.push(core.connections(&filter, limit, now).await);
        }
        Self::oldest(all, limit, now)
    }

    /// The oldest of what the cores found.
    fn oldest(all: Vec<Found>, limit: usize, now: Instant) -> Self {
        let total = all.iter().map(|found| found.total).sum();
        let mut views: Vec<_> = all.into_iter().flat_map(|found| found.views).collect();
        views.sort_by_key(|view| (view.accepted, view.id));
        let shown = views.iter().take(limit);
        Self {
            total,
            connections: shown.map(|view| Connection::of(view, now)).collect(),
        }
    }
}

impl Connection {
    fn of(view: &ConnectionView, now: Instant) -> Self {
        Self {
            id: view.id.to_string(),
            listener: Arc::clone(&view.listener),
            client: view.client.clone(),
            pool: view.pool.clone(),
            backend: view.backend.clone(),
            age_seconds: Seconds(now.saturating_duration_since(view.accepted)),
            idle_seconds: Seconds(now.saturating_duration_since(view.moved_at)),
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

    fn view(id: u64, age: u64, now: Instant) -> ConnectionView {
        ConnectionView {
            id,
            listener: "web".into(),
            client: "10.0.0.1:1000".parse().expect("an address"),
            pool: Some("web".into()),
            backend: None,
            accepted: now - Duration::from_secs(age),
            moved_at: now,
            bytes_in: 1,
            bytes_out: 2,
            phase: Phase::Connecting,
            answered: false,
        }
    }

    /// Each core shows its oldest; of both together the oldest are shown, all are counted.
    #[test]
    fn the_oldest_come_first_and_the_limit_hides_none_from_the_total() {
        let now = Instant::now();
        let found = |total, views: &[(u64, u64)]| Found {
            total,
            views: views.iter().map(|(id, age)| view(*id, *age, now)).collect(),
        };
        for (limit, expected) in [(3, &["3", "2", "1"][..]), (2, &["3", "2"]), (0, &[])] {
            let cores = vec![found(4, &[(2, 50), (4, 1)]), found(7, &[(3, 500), (1, 5)])];
            let shown = Connections::oldest(cores, limit, now);
            assert_eq!(shown.total, 11);
            let ids: Vec<_> = shown.connections.iter().map(|shown| &*shown.id).collect();
            assert_eq!(ids, expected);
        }
    }

    #[test]
    fn every_filter_is_read() {
        let all = [
            ("limit", "7"),
            ("pool", "p"),
            ("backend", "b"),
            ("listener", "l"),
            ("client", "unix"),
            ("state", "half_closed"),
            ("older", "1m"),
            ("idle", "250ms"),
        ];
        let expected = Query {
            limit: Some(7),
            filter: Filter {
                pool: Some("p".to_owned()),
                backend: Some("b".to_owned()),
                listener: Some("l".to_owned()),
                client: Some(Source::Unix),
                state: Some(Phase::HalfClosed),
                older: Some(Duration::from_secs(60)),
                idle: Some(Duration::from_millis(250)),
            },
        };
        assert_eq!(query(&all), Ok(expected));
        let empty = all.map(|(name, _)| (name, ""));
        assert_eq!(query(&empty), Ok(Query::default()));
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

//! What is typed to find connections, as the filters of `/connections`.
//!
//! The balancer filters, as only it knows all connections. So a word must be one that it can
//! filter by: `KEY=VALUE` for any filter, or a value alone where it says itself what it is.

use crate::cli::names::segment;
use crate::cli::stats::Stats;
use crate::net::Source;

/// Most connections that are asked for.
pub(super) const LIMIT: usize = 500;

const KEYS: [&str; 7] = [
    "pool", "backend", "listener", "client", "state", "older", "idle",
];
const STATES: [&str; 6] = [
    "preread",
    "held",
    "connecting",
    "relaying",
    "half_closed",
    "closing",
];

/// The path that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Query(String);

impl Query {
    /// Reads what was typed; names are those of `stats`.
    pub(super) fn parse(typed: &str, stats: &Stats) -> Result<Self, String> {
        let mut path = format!("/connections?limit={LIMIT}");
        for word in typed.split_whitespace() {
            for (key, value) in filters(word, stats)? {
                path.push_str(&format!("&{key}={}", segment(&value)));
            }
        }
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &str {
        &self.0
    }
}

fn filters(word: &str, stats: &Stats) -> Result<Vec<(&'static str, String)>, String> {
    let one = |key: &'static str, value: &str| Ok(vec![(key, value.to_owned())]);
    if let Some((key, value)) = word.split_once('=') {
        return match KEYS.iter().find(|known| **known == key) {
            Some(key) => one(key, value),
            None => Err(format!("no filter {key}; there are {}", KEYS.join(", "))),
        };
    }
    let has = |pool: &str, name: &str| {
        let pool = stats.pools.find(pool);
        pool.is_some_and(|pool| pool.backends.find(name).is_some())
    };
    if stats.pools.find(word).is_some() {
        return one("pool", word);
    }
    if let Some((pool, name)) = word.split_once('/')
        && has(pool, name)
    {
        return Ok(vec![
            ("pool", pool.to_owned()),
            ("backend", name.to_owned()),
        ]);
    }
    if stats.pools.iter().any(|(pool, _)| has(pool, word)) {
        return one("backend", word);
    }
    if stats.listeners.find(word).is_some() {
        return one("listener", word);
    }
    if STATES.contains(&word) {
        return one("state", word);
    }
    if word.parse::<Source>().is_ok() {
        return one("client", word);
    }
    Err(format!(
        "{word} is no pool, backend, listener, state or address; KEY=VALUE takes {}",
        KEYS.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::super::testing::stats;
    use super::*;

    fn path(typed: &str) -> Result<String, String> {
        Query::parse(typed, &stats()).map(|query| query.0)
    }

    #[test]
    fn a_word_says_itself_what_it_filters_by() {
        for (typed, filters) in [
            ("", ""),
            ("web", "&pool=web"),
            ("web/oak", "&pool=web&backend=oak"),
            ("oak", "&backend=oak"),
            ("in", "&listener=in"),
            ("held", "&state=held"),
            ("10.0.0.0/8", "&client=10.0.0.0%2F8"),
            ("unix", "&client=unix"),
            (" oak  10.0.0.1 ", "&backend=oak&client=10.0.0.1"),
            ("pool=x idle=30s", "&pool=x&idle=30s"),
        ] {
            let expected = format!("/connections?limit=500{filters}");
            assert_eq!(path(typed), Ok(expected), "{typed}");
        }
    }

    #[test]
    fn what_nobody_can_filter_by_is_said() {
        for typed in ["elm", "web/elm", "name=web", "10.0.0.0/33"] {
            let why = path(typed).expect_err(typed);
            assert!(why.contains("listener"), "{why}");
        }
    }
}

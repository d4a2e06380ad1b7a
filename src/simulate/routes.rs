//! To which pool of the file a recorded connection goes: where its listener routes it.
//!
//! A line does not say for which name the client asked, nor which protocols it offered. Where
//! routes ask for those, the pool that the connection came to when it was recorded says which of
//! them it was, if they lead there.

use std::collections::HashMap;
use std::sync::Arc;

use super::line::Entry;
use super::world;
use crate::config::Config;
use crate::conn::visitor::Visitor;
use crate::conn::way::Way;
use crate::net::Address;
use crate::pool::Pool;

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// To the pool of that place.
    Pool(usize),
    /// The same, as the recording tells.
    Recorded(usize),
    /// The file has no listener of that name.
    NoListener,
    /// No route takes it, and the listener has no pool.
    NoRoute,
    /// It depends on its ClientHello, and the recording does not tell.
    Untold,
}

/// The listeners of a file.
pub(super) struct Router<'a> {
    config: &'a Config,
    ways: HashMap<Arc<str>, Way>,
    places: HashMap<Arc<str>, usize>,
}

impl<'a> Router<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        let all: Vec<_> = (0..config.pools.len()).collect();
        let pools = world::World::new(config, &all, &[], 0).into_pools();
        let way = |listener: &Arc<_>| Way::new(Arc::clone(listener), &pools);
        let ways = config.listeners.iter();
        let ways = ways.map(|listener| (Arc::clone(&listener.name), way(listener)));
        let places = config.pools.iter().zip(0..);
        Self {
            config,
            ways: ways.collect(),
            places: places
                .map(|(pool, place)| (Arc::clone(&pool.name), place))
                .collect(),
        }
    }

    /// Whether the file has a pool of this name.
    pub(super) fn has_pool(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Where a connection goes.
    pub(super) fn route(&self, entry: &Entry) -> Destination {
        let Some(way) = self.ways.get(&*entry.listener) else {
            return Destination::NoListener;
        };
        let client = match entry.client {
            Some(address) => Address::Ip(address),
            None => Address::Unix("".into()),
        };
        let reach = way.reach(client.ip());
        if reach.iter().any(|(_, asks)| *asks) {
            return self.recorded(&reach, entry.pool.as_deref());
        }
        match way.route(&Visitor::at(client)) {
            Some(routed) => Destination::Pool(self.places[&routed.pool.name]),
            None => Destination::NoRoute,
        }
    }

    /// The pool in reach that is the recorded one, or else the first that would have passed it
    /// on to that one.
    fn recorded(&self, reach: &[(&Arc<Pool>, bool)], pool: Option<&str>) -> Destination {
        let Some(&recorded) = pool.and_then(|pool| self.places.get(pool)) else {
            return Destination::Untold;
        };
        let places = || reach.iter().map(|(pool, _)| self.places[&pool.name]);
        let passes_on = |place: &usize| self.chain(*place).any(|later| later == recorded);
        let found = places().find(|place| *place == recorded);
        let found = found.or_else(|| places().find(passes_on));
        found.map_or(Destination::Untold, Destination::Recorded)
    }

    /// The pools that a pool falls back to, one after the other.
    fn chain(&self, place: usize) -> impl Iterator<Item = usize> {
        let next = |place: &usize| {
            let fallback = self.config.pools[*place].fallback.as_ref()?;
            self.places.get(fallback).copied()
        };
        std::iter::successors(next(&place), move |place| next(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::tests::{config, entry};

    const FILE: &str = r#"
        [listener.plain]
        bind = "127.0.0.1:1"
        pool = "web"
        [[listener.plain.route]]
        client = ["10.0.0.0/8"]
        pool = "db"
        [listener.named]
        bind = "127.0.0.1:2"
        [[listener.named.route]]
        client = ["10.9.0.0/16"]
        pool = "web"
        [[listener.named.route]]
        sni = ["db"]
        pool = "db"
        [[listener.named.route]]
        sni = ["web"]
        pool = "web"
        [listener.closed]
        bind = "127.0.0.1:3"
        [[listener.closed.route]]
        client = ["10.0.0.0/8"]
        pool = "db"
        [pool.web]
        [pool.db]
        fallback = "spare"
        [pool.spare]
    "#;

    #[test]
    fn a_connection_goes_where_its_listener_sends_it_now() {
        use Destination::{NoListener, NoRoute, Pool, Recorded, Untold};
        let config = config(FILE);
        let router = Router::new(&config);
        let (web, db) = (0, 1);
        for (listener, client, pool, expected) in [
            ("plain", "10.1.1.1:9", Some("web"), Pool(db)),
            ("plain", "11.1.1.1:9", Some("gone"), Pool(web)),
            ("plain", "unix:", None, Pool(web)),
            ("other", "10.1.1.1:9", Some("web"), NoListener),
            ("closed", "11.1.1.1:9", Some("db"), NoRoute),
            ("named", "10.9.1.1:9", Some("db"), Pool(web)),
            ("named", "10.1.1.1:9", Some("db"), Recorded(db)),
            ("named", "10.1.1.1:9", Some("web"), Recorded(web)),
            ("named", "10.1.1.1:9", Some("spare"), Recorded(db)),
            ("named", "10.1.1.1:9", Some("gone"), Untold),
            ("named", "10.1.1.1:9", None, Untold),
        ] {
            let line = Entry {
                listener: listener.to_owned(),
                pool: pool.map(str::to_owned),
                ..entry(client)
            };
            assert_eq!(
                router.route(&line),
                expected,
                "{listener} {client} {pool:?}"
            );
        }
    }
}

//! Where the connections of a listener go.
//!
//! Routes are tried in the order of the file, and the first that matches wins; where none does,
//! the connection goes to the listener's pool, if it has one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::visitor::Visitor;
use crate::admit::Admit;
use crate::config;
use crate::pool::Pool;

/// The rules of a listener for its connections, with the pools that they name. A reload
/// replaces it as one value.
#[derive(Debug)]
pub struct Way {
    /// `[listener.NAME]`.
    pub settings: Arc<config::Listener>,
    /// Where connections go that no route takes.
    pub pool: Option<Arc<Pool>>,
    /// Who may come in at all; `None`: everyone.
    pub admit: Option<Arc<Admit>>,
    /// Of each route of the settings, where its connections go.
    branches: Vec<Branch>,
}

#[derive(Debug)]
struct Branch {
    /// From 1, in the order of the file.
    number: Arc<str>,
    pool: Arc<Pool>,
}

/// Where a connection goes.
#[derive(Clone, Debug)]
pub struct Routed {
    /// The number of the route that took it, from 1 in the order of the file; `None`: none did.
    pub route: Option<Arc<str>>,
    /// The pool.
    pub pool: Arc<Pool>,
}

/// Whether the conditions of a route hold for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The client's address.
    pub client: bool,
    /// The name that it asks for.
    pub sni: bool,
    /// The protocols that it offers.
    pub alpn: bool,
}

impl Verdict {
    /// Of one route.
    pub fn of(route: &config::Route, visitor: &Visitor) -> Self {
        Self {
            client: route.takes_address(visitor.ip()),
            sni: route.takes_name(visitor.sni()),
            alpn: route.takes_protocols(visitor.alpn()),
        }
    }

    /// Whether the connection is the route's.
    pub fn is_match(self) -> bool {
        self.client && self.sni && self.alpn
    }
}

impl Way {
    /// The rules of `settings`, with its pools out of `pools`.
    ///
    /// # Panics
    /// If a pool of a route is not among them: a file in which one is missing is none.
    pub fn new(settings: Arc<config::Listener>, pools: &[Arc<Pool>]) -> Self {
        let find = |name: &str| pools.iter().find(|pool| *pool.name == *name).cloned();
        let branches = settings.routes.iter().zip(1..);
        let branches = branches.map(|(route, number): (_, usize)| Branch {
            number: number.to_string().into(),
            pool: find(&route.pool).expect("every route of a valid file has its pool"),
        });
        Self {
            admit: Admit::new(&settings),
            branches: branches.collect(),
            pool: settings.pool.as_deref().and_then(find),
            settings,
        }
    }

    /// The same instead of another one, of whose clients it goes on to know.
    #[must_use]
    pub fn after(self, old: &Self, now: Instant) -> Self {
        let admit = Admit::renewed(old.admit.as_deref(), &self.settings, now);
        Self { admit, ..self }
    }

    /// Where a connection goes; `None`: no route takes it, and there is no pool for those.
    ///
    /// The one place that says so, for connections and for whoever asks about one.
    pub fn route(&self, visitor: &Visitor) -> Option<Routed> {
        let mut routes = self.settings.routes.iter().zip(&self.branches);
        let found = routes.find(|(route, _)| Verdict::of(route, visitor).is_match());
        match found {
            Some((_, branch)) => Some(Routed {
                route: Some(Arc::clone(&branch.number)),
                pool: Arc::clone(&branch.pool),
            }),
            None => self.pool.clone().map(|pool| Routed { route: None, pool }),
        }
    }

    /// Whether the ClientHello of a client at `ip` has to be read: a route that may still
    /// decide looks at it, or a pool that the client may come to hashes by it.
    pub fn reads_hello(&self, ip: Option<IpAddr>) -> bool {
        for (route, branch) in self.settings.routes.iter().zip(&self.branches) {
            if route.takes_address(ip) {
                return route.needs_hello() || branch.pool.hashes().sni;
            }
        }
        self.pool.as_ref().is_some_and(|pool| pool.hashes().sni)
    }

    /// The pools that a client at `ip` may be routed to, in the order in which they are tried,
    /// each with whether that is for its ClientHello to say.
    pub fn reach(&self, ip: Option<IpAddr>) -> Vec<(&Arc<Pool>, bool)> {
        let routes = self.settings.routes.iter().zip(&self.branches);
        let mut reach = Vec::new();
        for (route, branch) in routes.filter(|(route, _)| route.takes_address(ip)) {
            reach.push((&branch.pool, route.needs_hello()));
            if !route.needs_hello() {
                return reach;
            }
        }
        reach.extend(self.pool.iter().map(|pool| (pool, false)));
        reach
    }

    /// Whether it has the same rules and the same pools.
    pub fn is_same(&self, other: &Self) -> bool {
        let same_pool = match (&self.pool, &other.pool) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let pairs = self.branches.iter().zip(&other.branches);
        same_pool
            && self.settings == other.settings
            && pairs
                .into_iter()
                .all(|(one, other)| Arc::ptr_eq(&one.pool, &other.pool))
    }
}

#[cfg(test)]
#[path = "way_tests.rs"]
mod tests;

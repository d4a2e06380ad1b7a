//! The routes of a listener, as one client meets them.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use super::{Query, Whom};
use crate::config::{ProxyProtocol, Route};
use crate::conn::visitor::Visitor;
use crate::conn::way::{Verdict, Way};
use crate::listener::Listening;
use crate::net::Address;

/// A route, and what came of it.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct RouteStep {
    /// From 1, in the order of the file, as the log has it.
    route: String,
    pool: Arc<str>,
    /// chosen, no_match, not_reached.
    verdict: &'static str,
    conditions: Vec<Condition>,
}

/// A condition that a route has.
#[derive(Debug, PartialEq, Serialize)]
struct Condition {
    /// sni, alpn, client.
    condition: &'static str,
    /// One of these it wants.
    wanted: Vec<String>,
    /// What the client has.
    has: Vec<String>,
    holds: bool,
}

/// Every route in its order; those behind the chosen one are not reached, and told all the same.
pub(super) fn steps(way: &Way, visitor: &Visitor) -> Vec<RouteStep> {
    let mut chosen = false;
    let routes = way.settings.routes.iter().zip(1..);
    let step = |(route, number): (&Route, usize)| {
        let verdict = Verdict::of(route, visitor);
        let word = match (chosen, verdict.is_match()) {
            (true, _) => "not_reached",
            (false, true) => "chosen",
            (false, false) => "no_match",
        };
        chosen |= verdict.is_match();
        RouteStep {
            route: number.to_string(),
            pool: Arc::clone(&route.pool),
            verdict: word,
            conditions: conditions(route, verdict, visitor),
        }
    };
    routes.map(step).collect()
}

fn conditions(route: &Route, verdict: Verdict, visitor: &Visitor) -> Vec<Condition> {
    let protocols = visitor.alpn().iter();
    let protocols = protocols.map(|p| String::from_utf8_lossy(p).into_owned());
    let sni = Condition {
        condition: "sni",
        wanted: route.sni.iter().map(ToString::to_string).collect(),
        has: visitor.sni().map(str::to_owned).into_iter().collect(),
        holds: verdict.sni,
    };
    let alpn = Condition {
        condition: "alpn",
        wanted: route.alpn.clone(),
        has: protocols.collect(),
        holds: verdict.alpn,
    };
    let client = Condition {
        condition: "client",
        wanted: route.client.iter().map(ToString::to_string).collect(),
        has: visitor.ip().map(|ip| ip.to_string()).into_iter().collect(),
        holds: verdict.client,
    };
    let all = [sni, alpn, client].into_iter();
    all.filter(|condition| !condition.wanted.is_empty())
        .collect()
}

/// Where clients connect to, if there is but one such place, and no PROXY header that says
/// otherwise.
pub(super) fn destination(listening: &Listening, way: &Way) -> Option<SocketAddr> {
    if way.settings.proxy_protocol != ProxyProtocol::Off {
        return None;
    }
    let mut addresses = listening.addresses();
    match (addresses.next(), addresses.next()) {
        (Some(Address::Ip(one)), None) if !one.ip().is_unspecified() => Some(*one),
        _ => None,
    }
}

/// What was told to no purpose, and what was not told and would have been looked at.
pub(super) fn notes(way: &Way, visitor: &Visitor, query: &Query) -> Vec<String> {
    let mut notes = Vec::new();
    let told = query.sni.is_some() || !query.alpn.is_empty();
    match (way.reads_hello(visitor.ip()), told) {
        (false, true) => notes.push(
            "the ClientHello of this client is not read: no route that could take it, and no \
             hash key, depends on it"
                .to_owned(),
        ),
        (true, false) => notes.push(
            "without an SNI and an ALPN it is taken as a client that sends none, or no TLS at \
             all; one that sends nothing ends at preread_timeout"
                .to_owned(),
        ),
        (true, true) | (false, false) => {}
    }
    let by_address = way.settings.routes.iter().any(|r| !r.client.is_empty());
    if query.whom == Whom::Unix && by_address {
        notes.push("a client of a Unix socket is in no network".to_owned());
    }
    notes
}

//! What is odd about the routes of a listener: those that can never match, and settings that
//! have no effect beside them.
//!
//! A route is looked at as all of its choices: one of its names, one of its protocols and one of
//! its networks. It can never match where each of them is taken by a route before it, by one
//! or by several together.

use std::collections::HashSet;
use std::ops::Range;

use super::admission;
use super::build::{self, File, Named};
use super::effects::{has_faulty, written};
use super::faults::Sink;
use super::value::{At, Scope};
use super::{Balance, HashKey, Route};
use crate::hello::NamePattern;
use crate::net::{Address, Cidr};

/// Choices of one route that are looked at; one with more is taken to match some.
const MOST_CHOICES: usize = 10_000;

/// Throws every warning about the routes of a listener at the sink.
pub(super) fn check(file: &File<'_>, listener: &Named<'_>, sink: &mut Sink<'_>) {
    let scope = &listener.scope;
    for (route, _) in build::routes(scope) {
        admission::host_bits(&route, "client", sink);
    }
    // Where something could not be read, a route would look wider than it is.
    if scope.own("route").is_some_and(has_faulty) {
        return;
    }
    let routes: Vec<_> = build::routes(scope)
        .filter_map(|(route, place)| Some((build::route(&route)?, place)))
        .collect();
    never(&routes, sink);
    only_sockets(scope, &routes, sink);
    let takes_all = routes.iter().find(|(route, _)| is_open(route));
    let pool = written(scope, "pool").filter(|_| build::reference(scope, "pool").is_some());
    if let (Some((_, place)), Some(at)) = (takes_all, pool) {
        let line = sink.line(place);
        let message =
            format!("`pool` has no effect: the route in line {line} takes every connection");
        sink.warn(at.span.clone(), message);
    }
    if let Some(at) = written(scope, "preread_timeout")
        && !reads(file, scope, &routes)
        && !admission::may_carry(scope)
    {
        let message = "`preread_timeout` has no effect: nothing is read before a connection is \
                       routed, as no PROXY header is looked for, and no route and no hash key needs \
                       a ClientHello";
        sink.warn(at.span.clone(), message);
    }
}

/// Routes that can never match.
fn never(routes: &[(Route, Range<usize>)], sink: &mut Sink<'_>) {
    for (index, (route, place)) in routes.iter().enumerate() {
        let before = &routes[..index];
        let whole = before.iter().find(|(other, _)| covers(other, route));
        let message = match whole {
            Some((_, other)) => {
                let line = sink.line(other);
                format!(
                    "this route can never match: the one in line {line} takes all that it could"
                )
            }
            None if is_covered(before, route) => {
                "this route can never match: those before it take all that it could".to_owned()
            }
            None => continue,
        };
        sink.warn(place.clone(), message);
    }
}

/// A condition on addresses where no client has one.
fn only_sockets(listener: &Scope<'_>, routes: &[(Route, Range<usize>)], sink: &mut Sink<'_>) {
    let binds = build::binds(listener);
    let unix = |bind: &At<Address>| matches!(bind.value, Address::Unix(_));
    let readable = !listener.own("bind").is_none_or(has_faulty);
    if !readable || !binds.iter().all(unix) || admission::may_carry(listener) {
        return;
    }
    for (_, place) in routes.iter().filter(|(route, _)| !route.client.is_empty()) {
        let message = "this route can never match: clients of a Unix socket are in no network";
        sink.warn(place.clone(), message);
    }
}

fn is_open(route: &Route) -> bool {
    !route.needs_hello() && route.client.is_empty()
}

/// Whether one route takes all that another could.
fn covers(one: &Route, other: &Route) -> bool {
    all_in(&one.sni, &other.sni, NamePattern::covers)
        && all_in(&one.alpn, &other.alpn, String::eq)
        && all_in(&one.client, &other.client, |wide, narrow| {
            wide.covers(*narrow)
        })
}

/// Whether a condition holds wherever another does; none always holds.
fn all_in<T>(one: &[T], other: &[T], covers: fn(&T, &T) -> bool) -> bool {
    let in_one = |item| one.iter().any(|own| covers(own, item));
    one.is_empty() || (!other.is_empty() && other.iter().all(in_one))
}

/// Whether several routes together take all that another could.
fn is_covered(before: &[(Route, Range<usize>)], route: &Route) -> bool {
    let choices = [route.sni.len(), route.alpn.len(), route.client.len()];
    let count = choices
        .iter()
        .fold(1usize, |n, len| n.saturating_mul((*len).max(1)));
    if before.is_empty() || count > MOST_CHOICES {
        return false;
    }
    let one = |part: &[NamePattern], alpn: &[String], client: &[Cidr]| Route {
        sni: part.to_vec(),
        alpn: alpn.to_vec(),
        client: client.to_vec(),
        pool: "".into(),
    };
    singles(&route.sni).all(|sni| {
        singles(&route.alpn).all(|alpn| {
            singles(&route.client).all(|client| {
                let choice = one(sni, alpn, client);
                before.iter().any(|(other, _)| covers(other, &choice))
            })
        })
    })
}

/// Each item by itself; of no condition, none.
fn singles<T>(items: &[T]) -> impl Iterator<Item = &[T]> {
    let none = items.is_empty().then_some(items);
    none.into_iter().chain(items.chunks(1))
}

/// Whether something is read of a client before it is routed, or may be.
fn reads(file: &File<'_>, listener: &Scope<'_>, routes: &[(Route, Range<usize>)]) -> bool {
    routes.iter().any(|(route, _)| route.needs_hello())
        || hashes_names(file, build::leads_to(listener).iter().map(|name| &**name))
}

/// Whether one of these pools, or one that they fall back to, hashes by name.
fn hashes_names<'n>(file: &File<'_>, names: impl Iterator<Item = &'n str>) -> bool {
    let mut left: Vec<String> = names.map(str::to_owned).collect();
    let mut seen = HashSet::new();
    while let Some(name) = left.pop() {
        let Some(pool) = file.pools.iter().find(|pool| pool.name == name) else {
            // Nobody knows what a pool is like that is not there.
            return true;
        };
        let by_hash = pool.scope.choice::<Balance>("balance") == Balance::ConsistentHash;
        if by_hash && pool.scope.sub("hash").choice::<HashKey>("key") == HashKey::Sni {
            return true;
        }
        if seen.insert(name) {
            let fallback = build::reference(&pool.scope, "fallback");
            left.extend(fallback.map(|name| name.to_string()));
        }
    }
    false
}

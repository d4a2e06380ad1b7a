//! Faults that only the whole file shows: what is missing, double, or leads nowhere.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::ProxyProtocol;
use super::binds::Binds;
use super::build::{self, File, Named};
use super::choices::Choice;
use super::faults::Sink;
use super::suggest::did_you_mean;
use super::texts::is_name;
use super::value::{At, Scope, Value};
use crate::net::Address;

/// Throws every such fault at the sink.
pub(super) fn check(file: &File<'_>, sink: &mut Sink<'_>) {
    defaults_have_no_backends(file, sink);
    let pools: HashSet<&str> = file.pools.iter().map(|pool| pool.name).collect();
    let exists = |name: &str| pools.contains(name);
    for listener in &file.listeners {
        is_bound(listener, sink);
        leads_to_a_pool(file, &listener.scope, "pool", &exists, sink);
        knows_its_proxies(&listener.scope, sink);
        for (route, place) in build::routes(&listener.scope) {
            has_a_pool(&route, place, sink);
            leads_to_a_pool(file, &route, "pool", &exists, sink);
        }
    }
    for pool in &file.pools {
        leads_to_a_pool(file, &pool.scope, "fallback", &exists, sink);
        backends_have_names_of_their_own(pool, sink);
    }
    no_fallback_cycle(file, sink);
    no_address_is_bound_twice(file, sink);
}

fn defaults_have_no_backends(file: &File<'_>, sink: &mut Sink<'_>) {
    let defaults = file.root.sub("defaults").sub("pool");
    if let Some(backends) = defaults.own("backends") {
        sink.fault(
            backends.span.clone(),
            "`backends` has no default: each pool has its own",
        );
    }
}

fn is_bound(listener: &Named<'_>, sink: &mut Sink<'_>) {
    let unreadable = sink.broken_lines().any(|line| line.starts_with("bind"));
    if listener.scope.own("bind").is_none() && !unreadable {
        let message = format!(
            "listener `{}` needs `bind`, the address it listens on",
            listener.name
        );
        sink.fault(listener.place.clone(), message);
    }
}

/// Whoever may send a PROXY header may claim any address.
fn knows_its_proxies(scope: &Scope<'_>, sink: &mut Sink<'_>) {
    let mode: ProxyProtocol = scope.choice("proxy_protocol");
    let Some(at) = scope
        .own("proxy_protocol")
        .filter(|_| mode != ProxyProtocol::Off)
    else {
        return;
    };
    // One that cannot be read is a fault, which says enough.
    let named = match scope.own("trusted_proxies").map(|at| &at.value) {
        Some(Value::List(items)) => !items.is_empty(),
        other => other.is_some(),
    };
    let unreadable = |line: &str| line.starts_with("trusted_proxies");
    if named || sink.broken_lines().any(unreadable) {
        return;
    }
    let message = format!(
        "`proxy_protocol = {:?}` needs `trusted_proxies`, as whoever may send a PROXY header may \
         claim any address: list the proxies in front of this listener, such as [\"10.0.0.0/8\"], \
         or [\"unix\"] where all clients come by a Unix socket",
        mode.word()
    );
    sink.fault(at.span.clone(), message);
}

fn has_a_pool(route: &Scope<'_>, place: Range<usize>, sink: &mut Sink<'_>) {
    let faulty = |at: &At<Value>| matches!(at.value, Value::Faulty);
    let unreadable = sink.broken_lines().any(|line| line.starts_with("pool"));
    let named = build::reference(route, "pool").is_some() || route.own("pool").is_some_and(faulty);
    if !named && !unreadable {
        let place = route.own("pool").map_or(place, |at| at.span.clone());
        sink.fault(place, "a route needs a `pool` that its connections go to");
    }
}

fn leads_to_a_pool(
    file: &File<'_>,
    scope: &Scope<'_>,
    key: &str,
    exists: &dyn Fn(&str) -> bool,
    sink: &mut Sink<'_>,
) {
    let (Some(name), Some(at)) = (build::reference(scope, key), scope.written(key)) else {
        return;
    };
    // A header that does not parse, or says `pools`, may well be the one that is looked for.
    let unreadable = |line: &str| line.starts_with('[') && line.contains(&*name);
    let misspelt = file
        .root
        .own("pool")
        .is_some_and(|at| matches!(at.value, Value::Faulty));
    if exists(&name) || misspelt || sink.broken_lines().any(unreadable) {
        return;
    }
    let hint = match sink.is_full() || at.is_replaced() {
        true => String::new(),
        false => {
            let names = file.pools.iter().map(|pool| pool.name);
            did_you_mean(&name, names.filter(|name| is_name(name)), '`')
        }
    };
    sink.fault(
        at.span.clone(),
        format!("there is no pool `{}`{hint}", at.shown(&name)),
    );
}

fn backends_have_names_of_their_own(pool: &Named<'_>, sink: &mut Sink<'_>) {
    let mut seen: HashMap<String, Range<usize>> = HashMap::new();
    for (scope, place) in build::backends(&pool.scope) {
        if scope.own("address").is_none() {
            sink.fault(place.clone(), "a backend needs an `address`");
        }
        let Some(name) = build::backend_name(&scope) else {
            continue;
        };
        let place = scope.own("name").map_or(place, |at| at.span.clone());
        if let Some(first) = seen.get(&name) {
            let line = sink.line(first);
            let message = format!(
                "pool `{}` has a backend named `{}` already, in line {line}",
                pool.name,
                build::shown_name(&scope, &name)
            );
            sink.fault(place, message);
        } else {
            seen.insert(name, place);
        }
    }
}

/// Follows each fallback once; what comes back to the way it came is a cycle.
fn no_fallback_cycle(file: &File<'_>, sink: &mut Sink<'_>) {
    let index: HashMap<&str, usize> = (0..)
        .zip(&file.pools)
        .map(|(i, pool)| (pool.name, i))
        .collect();
    let next = |pool: usize| {
        let name = build::reference(&file.pools[pool].scope, "fallback")?;
        index.get(&*name).copied()
    };
    let mut done = HashSet::new();
    for start in 0..file.pools.len() {
        let mut way = Vec::new();
        let mut at = Some(start);
        while let Some(pool) = at.filter(|pool| done.insert(*pool)) {
            way.push(pool);
            at = next(pool);
        }
        let cycle = at.and_then(|pool| way.iter().position(|other| *other == pool));
        if let Some(begin) = cycle {
            report_cycle(file, &way[begin..], sink);
        }
    }
}

fn report_cycle(file: &File<'_>, cycle: &[usize], sink: &mut Sink<'_>) {
    let first = (0..cycle.len())
        .min_by_key(|i| cycle[*i])
        .expect("a cycle has a pool");
    let around = cycle[first..].iter().chain(&cycle[..=first]);
    let names: Vec<_> = around.map(|pool| file.pools[*pool].name).collect();
    let written = file.pools[cycle[first]].scope.written("fallback");
    let place = written
        .expect("a pool in a cycle has a fallback")
        .span
        .clone();
    sink.fault(
        place,
        format!("`fallback` goes round in a circle: {}", names.join(" → ")),
    );
}

fn no_address_is_bound_twice(file: &File<'_>, sink: &mut Sink<'_>) {
    let mut claims = claims(file);
    claims.sort_by_key(|claim| claim.place.as_ref().map(|place| place.start));
    let mut binds = Binds::default();
    for (index, claim) in claims.iter().enumerate() {
        let Err((taken, owner)) = binds.take(&claim.address, claim.ipv6_only, index) else {
            continue;
        };
        let owner: &Claim = &claims[owner];
        let line = |place: &Range<usize>| format!("in line {}", sink.line(place));
        let where_ = owner.place.as_ref().map_or("by default".to_owned(), line);
        let taken = owner.written.clone().unwrap_or(taken.to_string());
        let address = claim.written.clone().unwrap_or(claim.address.to_string());
        let message = format!(
            "{address} cannot be bound: {} has {taken} already, {where_}",
            owner.by
        );
        let place = claim
            .place
            .clone()
            .expect("only the first claim has no place");
        sink.fault(place, message);
    }
}

/// An address that somebody is going to listen on.
struct Claim {
    address: Address,
    ipv6_only: bool,
    by: String,
    /// What is shown instead of an address from the environment.
    written: Option<String>,
    /// `None`: it is a default.
    place: Option<Range<usize>>,
}

fn as_written<T>(at: &At<T>) -> Option<String> {
    at.written.as_deref().map(str::to_owned)
}

fn claims(file: &File<'_>) -> Vec<Claim> {
    let mut claims = Vec::new();
    let admin = file.root.sub("admin");
    let written = admin.own("bind");
    let faulty = written.is_some_and(|at| matches!(at.value, Value::Faulty));
    if let (Some(address), false) = (build::admin(&admin).bind, faulty) {
        claims.push(Claim {
            address,
            ipv6_only: false,
            by: "the admin endpoint".to_owned(),
            written: written.and_then(as_written),
            place: written.map(|at| at.span.clone()),
        });
    }
    for listener in &file.listeners {
        for bind in build::binds(&listener.scope) {
            claims.push(Claim {
                written: as_written(&bind),
                address: bind.value,
                ipv6_only: listener.scope.get("ipv6_only"),
                by: format!("listener `{}`", listener.name),
                place: Some(bind.span),
            });
        }
    }
    claims
}

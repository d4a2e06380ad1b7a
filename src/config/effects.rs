//! Warnings: settings that have no effect, and wholes that are hardly what was meant.
//!
//! A setting counts as written when it stands in the file, whatever its value, with one
//! exception: a flag that is `false` only says what is the case. A setting of
//! `[defaults.pool]` is worth a warning when no pool at all makes use of it.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::admission;
use super::build::{self, File, Named};
use super::choices::{CheckKind, Choice};
use super::faults::Sink;
use super::texts::is_name;
use super::value::{At, Scope, Value};
use super::{
    Backend, Balance, HashKey, OnBackendDown, ProxyProtocol, WhenAllDown, on_backend_down, routes,
    sources,
};
use crate::net::{Address, Location};

/// Throws every warning at the sink.
pub(super) fn check(file: &File<'_>, sink: &mut Sink<'_>) {
    runtime(&file.root.sub("runtime"), sink);
    admin(&file.root.sub("admin"), sink);
    log(&file.root.sub("log"), sink);
    for listener in &file.listeners {
        self::listener(listener, sink);
        routes::check(file, listener, sink);
    }
    let mut idle = Idle::default();
    let clients = Clients::new(file);
    for pool in &file.pools {
        idle.pool(&pool.scope);
        idle.sockets(pool, &clients);
        sources::check(pool, sink);
        backends(pool, sink);
        service_weights(pool, sink);
        times(&pool.scope.sub("health"), sink);
    }
    idle.finish(file.pools.len(), sink);
    if !sink.has_faults() {
        unused(file, sink);
    }
}

fn runtime(of: &Scope<'_>, sink: &mut Sink<'_>) {
    let key = "watch_max_removed";
    let idle = written(of, key).filter(|_| !build::runtime(of).watch);
    if let Some(at) = idle {
        let message = format!("`{key}` has no effect without watch = true");
        sink.warn(at.span.clone(), message);
    }
}

fn admin(of: &Scope<'_>, sink: &mut Sink<'_>) {
    let admin = build::admin(of);
    let Some(address) = &admin.bind else {
        let keys = ["token", "read_only", "hosts"];
        for at in keys.iter().filter_map(|key| written(of, key)) {
            let message = "this has no effect: the admin endpoint is off";
            sink.warn(at.span.clone(), message);
        }
        return;
    };
    if let (Address::Unix(_), Some(at)) = (address, written(of, "hosts")) {
        let message = "`hosts` has no effect on a Unix socket: any name is accepted there";
        sink.warn(at.span.clone(), message);
    }
    let open = admin.token.is_empty() && !of.own("token").is_some_and(is_faulty);
    if let (true, true, Some(at)) = (address.is_abstract(), open, of.own("bind")) {
        let message = "every user of this machine can reach an abstract Unix socket: without a \
                       `token` it refuses every change";
        sink.warn(at.span.clone(), message);
    }
    let remote = address.ip().is_some_and(|ip| !ip.is_loopback());
    if let (true, Some(at)) = (remote && open, of.own("bind")) {
        let message = "this can be reached from other machines: without a `token` it refuses \
                       every change, and every read but /metrics, /healthz and /readyz";
        sink.warn(at.span.clone(), message);
    }
}

fn log(of: &Scope<'_>, sink: &mut Sink<'_>) {
    if build::log(of).access {
        return;
    }
    for key in ["access_sample", "access_file"] {
        if let Some(at) = written(of, key) {
            sink.warn(
                at.span.clone(),
                format!("`{key}` has no effect with access = false"),
            );
        }
    }
}

fn listener(listener: &Named<'_>, sink: &mut Sink<'_>) {
    let scope = &listener.scope;
    let binds = build::binds(scope);
    // An address that could not be read may be the one that makes use of it.
    let unknown = scope.own("bind").is_none_or(has_faulty);
    let any = |is: fn(&Address) -> bool| unknown || binds.iter().any(|bind| is(&bind.value));
    for (key, useful, wanted) in [
        (
            "unix_mode",
            any(is_socket_file),
            "the path of a Unix socket",
        ),
        ("ipv6_only", any(is_ipv6), "an IPv6 address"),
    ] {
        if let (Some(at), false) = (written(scope, key), useful) {
            let message = format!("`{key}` has no effect without a `bind` to {wanted}");
            sink.warn(at.span.clone(), message);
        }
    }
    admission::check(listener, sink);
    self::proxies(scope, sink);
    let routed = !build::leads_to(scope).is_empty();
    if !routed && is_readable(scope, "pool") && is_readable(scope, "route") {
        let name = listener.name;
        let message = format!("listener `{name}` has no `pool`: every connection is rejected");
        sink.warn(listener.place.clone(), message);
    }
}

fn proxies(scope: &Scope<'_>, sink: &mut Sink<'_>) {
    let off = scope.choice::<ProxyProtocol>("proxy_protocol") == ProxyProtocol::Off;
    if off
        && is_readable(scope, "proxy_protocol")
        && let Some(at) = written(scope, "trusted_proxies")
    {
        let message = "`trusted_proxies` has no effect with proxy_protocol = \"off\"";
        sink.warn(at.span.clone(), message);
    }
}

/// Whether binding makes a file, which alone has a mode; abstract sockets have none.
fn is_socket_file(address: &Address) -> bool {
    match address {
        Address::Unix(path) => !path.as_os_str().as_encoded_bytes().starts_with(b"@"),
        Address::Ip(_) => false,
    }
}

fn is_ipv6(address: &Address) -> bool {
    matches!(address.ip(), Some(IpAddr::V6(_)))
}

fn backends(pool: &Named<'_>, sink: &mut Sink<'_>) {
    let written = pool.scope.own("backends");
    let all = build::backends(&pool.scope);
    let built: Option<Vec<_>> = all.map(|(scope, _)| build::backend(&scope)).collect();
    // One that could not be built is a fault, which says enough.
    let faulty = written.is_some_and(has_faulty) || !is_name(pool.name);
    let Some(built) = built.filter(|_| !faulty) else {
        return;
    };
    let place = written.map_or(&pool.place, |at| &at.span).clone();
    let name = pool.name;
    if built.is_empty() {
        let message = format!("pool `{name}` has no backends: its clients are held");
        sink.warn(place, message);
    } else if built.iter().all(|backend| backend.weight == 0) {
        let message = format!("all weights of pool `{name}` are 0: its clients are held");
        sink.warn(place, message);
    }
    check_port(pool, &built, sink);
}

/// A Unix socket has no port that could be checked instead.
fn check_port(pool: &Named<'_>, backends: &[Backend], sink: &mut Sink<'_>) {
    let health = pool.scope.sub("health");
    let unix = |backend: &(&Backend, Scope<'_>)| backend.0.address.is_unix();
    let port = health
        .written("port")
        .filter(|_| health.get::<u16>("port") > 0);
    let scopes = build::backends(&pool.scope).map(|(scope, _)| scope);
    if let (Some(at), Some((backend, scope))) = (port, backends.iter().zip(scopes).find(unix)) {
        let name = build::shown_name(&scope, &backend.name);
        let message = format!("`port` has no effect on backend `{name}`, a Unix socket");
        sink.warn(at.span.clone(), message);
    }
}

/// The records of a service have weights of their own; only a 0 here holds beside them.
fn service_weights(pool: &Named<'_>, sink: &mut Sink<'_>) {
    for (scope, _) in build::backends(&pool.scope) {
        let address: Option<Location> = scope.given("address");
        let weight = scope
            .own("weight")
            .filter(|_| scope.get::<u32>("weight") > 0);
        if let (Some(Location::Service(_)), Some(at)) = (address, weight) {
            let message = "`weight` has no effect here: the SRV records of the service say it";
            sink.warn(at.span.clone(), message);
        }
    }
}

/// Whether a backend is a name, or could be one, as it could not be read.
fn stands_for_others(pool: &Scope<'_>) -> bool {
    let is_name = |(backend, _): (Scope<'_>, _)| {
        let address: Option<Location> = backend.given("address");
        address.is_none_or(|address| address.is_name())
    };
    pool.own("backends").is_some_and(has_faulty) || build::backends(pool).any(is_name)
}

/// Check times that contradict each other.
fn times(health: &Scope<'_>, sink: &mut Sink<'_>) {
    if health.choice::<CheckKind>("kind") == CheckKind::None {
        return;
    }
    let long =
        |key: &str| -> (Duration, Option<&At<Value>>) { (health.get(key), health.written(key)) };
    let (interval, at_interval) = long("interval");
    for (key, what) in [
        (
            "timeout",
            "a check may last longer than the time between two",
        ),
        ("fast_interval", "it is the slower one"),
    ] {
        let (duration, at) = long(key);
        if let (true, Some(at)) = (duration > interval, at.or(at_interval)) {
            sink.warn(
                at.span.clone(),
                format!("`{key}` is above `interval`: {what}"),
            );
        }
    }
}

/// Settings of pools that have no effect, until it is known whether all pools agree.
#[derive(Default)]
struct Idle<'a> {
    own: Vec<(&'a At<Value>, String)>,
    /// Of `[defaults.pool]`, with the number of pools on which they have none, by place.
    inherited: BTreeMap<usize, (&'a At<Value>, String, usize)>,
}

impl<'a> Idle<'a> {
    fn pool(&mut self, pool: &Scope<'a>) {
        let balance: Balance = pool.choice("balance");
        if is_readable(pool, "balance") && balance != Balance::ConsistentHash {
            self.table(pool, "hash", "balance = \"consistent-hash\"");
        }
        if is_readable(pool, "balance") && balance != Balance::LeastLatency {
            self.table(pool, "latency", "balance = \"least-latency\"");
        }
        if is_readable(pool, "balance") && !balance.can_ramp() {
            let with = format!("with balance = \"{}\"", balance.as_str());
            self.keys(pool, &["slow_start"], &with);
        }
        let outlier = pool.sub("outlier");
        let off = outlier.get::<u32>("consecutive_failures") == 0;
        if off && is_readable(&outlier, "consecutive_failures") {
            let keys = ["eject_for", "max_ejected_percent"];
            self.keys(&outlier, &keys, "with consecutive_failures = 0");
        }
        if !stands_for_others(pool) {
            self.keys(pool, &["resolve"], "without a host name in `backends`");
        }
        let hold = pool.sub("hold");
        if hold.get::<usize>("max") == 0 {
            self.keys(&hold, &["timeout"], "with max = 0");
        }
        let health = pool.sub("health");
        if is_readable(&health, "kind") {
            self.health(&health);
        }
        if health.choice::<CheckKind>("kind") == CheckKind::None {
            self.unchecked(pool);
        }
    }

    /// What is about backends that are down, where none ever is.
    fn unchecked(&mut self, pool: &Scope<'a>) {
        let why = "without checks (health.kind = \"none\")";
        if pool.choice::<WhenAllDown>("when_all_down") == WhenAllDown::Try {
            self.keys(pool, &["when_all_down"], why);
        }
        if on_backend_down::build(pool) != OnBackendDown::Keep {
            self.keys(pool, &[on_backend_down::KEY], why);
        }
    }

    /// Settings of TCP and of client addresses, where sockets have none.
    fn sockets(&mut self, pool: &Named<'a>, clients: &Clients) {
        if !clients.are_unix(pool.name) {
            return;
        }
        let scope = &pool.scope;
        let named = clients.named.contains(pool.name);
        // Also a client of a socket may ask for a name.
        let by_name = scope.sub("hash").choice::<HashKey>("key") == HashKey::Sni;
        if scope.choice::<Balance>("balance") == Balance::ConsistentHash && !by_name && !named {
            let why = "as all listeners of this pool are Unix sockets: their clients have no \
                       address to hash";
            self.keys(scope, &["balance"], why);
        }
        let is_unix = |(backend, _): (Scope<'_>, _)| {
            let address: Option<Location> = backend.given("address");
            address.is_some_and(|address| address.is_unix())
        };
        if build::backends(scope).all(is_unix) {
            let why = "as all listeners and backends of this pool are Unix sockets";
            self.keys(scope, &["user_timeout", "keepalive"], why);
        }
    }

    fn health(&mut self, health: &Scope<'a>) {
        let kind: CheckKind = health.choice("kind");
        let with = format!("with kind = \"{}\"", kind.word());
        if kind == CheckKind::None {
            let times = [
                "interval",
                "fast_interval",
                "timeout",
                "rise",
                "fall",
                "port",
            ];
            self.keys(health, &times, &with);
        }
        if kind != CheckKind::Http {
            self.keys(health, &["path", "host", "expect_status"], &with);
        }
        if kind != CheckKind::Exchange {
            self.keys(health, &["send", "expect"], &with);
        }
        if matches!(kind, CheckKind::None | CheckKind::Tcp | CheckKind::Tls) {
            self.keys(health, &["tls"], &with);
        }
        if !build::speaks_tls(health) {
            self.keys(health, &["server_name", "ca"], "on a check without TLS");
        }
    }

    fn table(&mut self, pool: &Scope<'a>, name: &str, wanted: &str) {
        let keys: Vec<_> = pool
            .sub(name)
            .table()
            .keys
            .iter()
            .map(|key| key.name)
            .collect();
        let why = format!("without {wanted}");
        self.keys(&pool.sub(name), &keys, &why);
    }

    fn keys(&mut self, of: &Scope<'a>, keys: &[&str], why: &str) {
        for key in keys {
            let message = format!("`{key}` has no effect {why}");
            if let Some(at) = of.own(key).filter(|at| says_something(at)) {
                self.own.push((at, message.clone()));
            }
            if let Some(at) = of.inherited(key).filter(|at| says_something(at)) {
                let entry = self.inherited.entry(at.span.start);
                entry.or_insert((at, message, 0)).2 += 1;
            }
        }
    }

    fn finish(self, pools: usize, sink: &mut Sink<'_>) {
        for (at, message) in self.own {
            sink.warn(at.span.clone(), message);
        }
        for (at, message, count) in self.inherited.into_values() {
            if count == pools {
                sink.warn(at.span.clone(), format!("{message}, in any pool"));
            }
        }
    }
}

/// Which pools have clients by Unix sockets alone.
struct Clients {
    unix: HashSet<String>,
    others: HashSet<String>,
    /// Some of them may have an address all the same, by a PROXY header.
    named: HashSet<String>,
}

impl Clients {
    fn new(file: &File<'_>) -> Self {
        let mut clients = Self {
            unix: HashSet::new(),
            others: HashSet::new(),
            named: HashSet::new(),
        };
        for listener in &file.listeners {
            let pools = build::leads_to(&listener.scope);
            let pools = pools.iter().map(|pool| pool.to_string());
            let headers: ProxyProtocol = listener.scope.choice("proxy_protocol");
            if headers != ProxyProtocol::Off {
                clients.named.extend(pools.clone());
            }
            let binds = build::binds(&listener.scope);
            let readable = !listener.scope.own("bind").is_none_or(has_faulty);
            let unix = |bind: &At<Address>| matches!(bind.value, Address::Unix(_));
            match readable && binds.iter().all(unix) {
                true => clients.unix.extend(pools),
                false => clients.others.extend(pools),
            };
        }
        // Whoever comes by a fallback may come from anywhere.
        for pool in &file.pools {
            let fallback = build::reference(&pool.scope, "fallback");
            clients.others.extend(fallback.map(|name| name.to_string()));
        }
        clients
    }

    fn are_unix(&self, pool: &str) -> bool {
        self.unix.contains(pool) && !self.others.contains(pool)
    }
}

/// Pools that nobody refers to, and a file that listens nowhere.
fn unused(file: &File<'_>, sink: &mut Sink<'_>) {
    if file.listeners.is_empty() {
        sink.warn(
            0..0,
            "there is no [listener.NAME]: no connection can come in",
        );
    }
    let of_listeners = file
        .listeners
        .iter()
        .flat_map(|listener| build::leads_to(&listener.scope));
    let of_pools = file
        .pools
        .iter()
        .filter_map(|p| build::reference(&p.scope, "fallback"));
    let used: HashSet<_> = of_listeners.chain(of_pools).collect();
    for pool in file.pools.iter().filter(|pool| !used.contains(pool.name)) {
        let message = format!(
            "nothing refers to pool `{}`: no listener, no fallback",
            pool.name
        );
        sink.warn(pool.place.clone(), message);
    }
}

/// What the table itself says for a key, if that could have an effect.
pub(super) fn written<'a>(of: &Scope<'a>, key: &str) -> Option<&'a At<Value>> {
    of.own(key).filter(|at| says_something(at))
}

fn says_something(at: &At<Value>) -> bool {
    !matches!(at.value, Value::Flag(false) | Value::Faulty)
}

/// Whether a key is left out, or has a value that can be told.
fn is_readable(of: &Scope<'_>, key: &str) -> bool {
    !of.written(key).is_some_and(is_faulty)
}

fn is_faulty(at: &At<Value>) -> bool {
    matches!(at.value, Value::Faulty)
}

/// Whether something stands there that could not be read, also in an item.
pub(super) fn has_faulty(at: &At<Value>) -> bool {
    match &at.value {
        Value::List(items) => items.iter().any(has_faulty),
        Value::Section(section) => section.values.values().any(has_faulty),
        _ => is_faulty(at),
    }
}

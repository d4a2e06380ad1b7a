//! From what the file says to a [`Config`], with the defaults filled in.
//!
//! Each function here makes one struct of one table; the type of the field decides how a key
//! is taken, [`super::keys`] has seen to its range. What only the whole file can tell is
//! looked at in [`super::references`] and [`super::effects`].

use std::net::IpAddr;
use std::sync::Arc;

use super::choices::CheckKind;
use super::tables::{BACKEND, LISTENER, POOL, ROOT, ROUTE};
use super::value::{At, Scope, Section, Take};
use super::{
    Admin, Backend, Config, Hash, Health, HealthKind, HealthTls, Hold, Latency, Listener, Log,
    Outlier, Pool, Route, Runtime, on_backend_down, sources,
};
use crate::net::Address;

/// A whole file, table by table.
pub(super) struct File<'a> {
    pub(super) root: Scope<'a>,
    /// In the order of the file.
    pub(super) listeners: Vec<Named<'a>>,
    /// In the order of the file, over `[defaults.pool]`.
    pub(super) pools: Vec<Named<'a>>,
}

/// One `[listener.NAME]` or `[pool.NAME]`.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    /// Of the name, in bytes.
    pub(super) place: std::ops::Range<usize>,
    pub(super) scope: Scope<'a>,
}

impl<'a> File<'a> {
    pub(super) fn new(root: &'a Section) -> Self {
        let root = Scope::new(&ROOT, Some(root), None);
        let defaults = root.sub("defaults").sub("pool").section();
        let listeners = root.sections("listener").map(|(section, place)| Named {
            name: &section.name,
            place,
            scope: Scope::new(&LISTENER, Some(section), None),
        });
        let pools = root.sections("pool").map(|(section, place)| Named {
            name: &section.name,
            place,
            scope: Scope::new(&POOL, Some(section), defaults),
        });
        Self {
            listeners: listeners.collect(),
            pools: pools.collect(),
            root,
        }
    }
}

/// The configuration. Where the file has faults it is not one to use.
pub(super) fn config(file: &File<'_>) -> Config {
    let pool = |named: &Named<'_>| Arc::new(pool(named.name, &named.scope));
    let listener = |named: &Named<'_>| Arc::new(listener(named.name, &named.scope));
    Config {
        runtime: runtime(&file.root.sub("runtime")),
        admin: admin(&file.root.sub("admin")),
        log: log(&file.root.sub("log")),
        listeners: file.listeners.iter().map(listener).collect(),
        pools: file.pools.iter().map(pool).collect(),
    }
}

pub(super) fn runtime(of: &Scope<'_>) -> Runtime {
    Runtime {
        threads: of.get("threads"),
        max_connections: of.get("max_connections"),
        stop_delay: of.get("stop_delay"),
        drain_timeout: of.get("drain_timeout"),
        upgrade_timeout: of.get("upgrade_timeout"),
        watch: of.get("watch"),
        watch_max_removed: of.get("watch_max_removed"),
        user: of.get("user"),
    }
}

pub(super) fn admin(of: &Scope<'_>) -> Admin {
    let hosts: Vec<At<String>> = of.get("hosts");
    Admin {
        bind: of.get("bind"),
        token: of.get("token"),
        read_only: of.get("read_only"),
        hosts: hosts.into_iter().map(|host| host.value).collect(),
    }
}

pub(super) fn log(of: &Scope<'_>) -> Log {
    Log {
        level: of.choice("level"),
        format: of.choice("format"),
        access: of.get("access"),
        access_sample: of.get("access_sample"),
        access_sink: of.get("access_file"),
    }
}

pub(super) fn listener(name: &str, of: &Scope<'_>) -> Listener {
    Listener {
        name: name.into(),
        bind: binds(of).into_iter().map(|bind| bind.value).collect(),
        ipv6_only: of.get("ipv6_only"),
        unix_mode: of.get("unix_mode"),
        pool: reference(of, "pool"),
        backlog: of.get("backlog"),
        max_connections: of.get("max_connections"),
        max_connections_per_ip: of.get("max_connections_per_ip"),
        rate: of.get("rate"),
        rate_per_ip: of.get("rate_per_ip"),
        allow: all(of, "allow"),
        deny: all(of, "deny"),
        proxy_protocol: of.choice("proxy_protocol"),
        trusted_proxies: all(of, "trusted_proxies"),
        preread_timeout: of.get("preread_timeout"),
        routes: routes(of).filter_map(|(scope, _)| route(&scope)).collect(),
    }
}

/// The routes of a listener with their places.
pub(super) fn routes<'a>(
    of: &Scope<'a>,
) -> impl Iterator<Item = (Scope<'a>, std::ops::Range<usize>)> {
    of.sections("route")
        .map(|(section, place)| (Scope::new(&ROUTE, Some(section), None), place))
}

/// `None`: it has no pool.
pub(super) fn route(of: &Scope<'_>) -> Option<Route> {
    Some(Route {
        sni: all(of, "sni"),
        alpn: all(of, "alpn"),
        client: all(of, "client"),
        pool: reference(of, "pool")?,
    })
}

/// The items of a list without their places.
fn all<T: Take>(of: &Scope<'_>, key: &str) -> Vec<T> {
    let items: Vec<At<T>> = of.get(key);
    items.into_iter().map(|item| item.value).collect()
}

/// The pools that a listener's connections may be routed to, those of routes first.
pub(super) fn leads_to(listener: &Scope<'_>) -> Vec<Arc<str>> {
    let routed = routes(listener).filter_map(|(route, _)| reference(&route, "pool"));
    routed.chain(reference(listener, "pool")).collect()
}

/// The addresses of a listener with their places.
pub(super) fn binds(of: &Scope<'_>) -> Vec<At<Address>> {
    of.given("bind").unwrap_or_default()
}

/// The name under a key that names a pool; `None` where it is empty.
pub(super) fn reference(of: &Scope<'_>, key: &str) -> Option<Arc<str>> {
    let name: String = of.get(key);
    (!name.is_empty()).then(|| name.into())
}

pub(super) fn pool(name: &str, of: &Scope<'_>) -> Pool {
    Pool {
        name: name.into(),
        balance: of.choice("balance"),
        backends: backends(of)
            .filter_map(|(scope, _)| backend(&scope))
            .collect(),
        resolve: of.choice("resolve"),
        fallback: reference(of, "fallback"),
        connect_timeout: of.get("connect_timeout"),
        connect_attempts: of.get("connect_attempts"),
        max_connecting: of.get("max_connecting"),
        idle_timeout: of.get("idle_timeout"),
        half_close_timeout: of.get("half_close_timeout"),
        user_timeout: of.get("user_timeout"),
        keepalive: of.get("keepalive"),
        max_age: of.get("max_age"),
        send_proxy: of.choice("send_proxy"),
        quiet: of.get("quiet"),
        source_addresses: source_addresses(of),
        slow_start: of.get("slow_start"),
        replay: of.get("replay"),
        when_all_down: of.choice("when_all_down"),
        on_backend_down: on_backend_down::build(of),
        drain_timeout: of.get("drain_timeout"),
        relay: of.choice("relay"),
        hash: hash(&of.sub("hash")),
        latency: latency(&of.sub("latency")),
        health: health(&of.sub("health")),
        outlier: outlier(&of.sub("outlier")),
        hold: hold(&of.sub("hold")),
    }
}

fn source_addresses(of: &Scope<'_>) -> Vec<IpAddr> {
    let all: Vec<At<IpAddr>> = of.get(sources::KEY);
    let mut distinct = Vec::with_capacity(all.len());
    for At { value: ip, .. } in all {
        if !distinct.contains(&ip) {
            distinct.push(ip);
        }
    }
    distinct
}

/// The entries of `backends` with their places.
pub(super) fn backends<'a>(
    of: &Scope<'a>,
) -> impl Iterator<Item = (Scope<'a>, std::ops::Range<usize>)> {
    of.sections("backends")
        .map(|(section, place)| (Scope::new(&BACKEND, Some(section), None), place))
}

/// `None`: its address is missing or faulty.
pub(super) fn backend(of: &Scope<'_>) -> Option<Backend> {
    Some(Backend {
        name: backend_name(of)?.into(),
        address: of.given("address")?,
        weight: of.get("weight"),
        max_connections: of.get("max_connections"),
        backup: of.get("backup"),
    })
}

/// The name in effect: the address as written where the file gives none.
pub(super) fn backend_name(of: &Scope<'_>) -> Option<String> {
    let name: String = of.get("name");
    if name.is_empty() {
        of.given("address")
    } else {
        Some(name)
    }
}

/// What a message may say instead of a backend's name.
pub(super) fn shown_name<'a>(of: &Scope<'a>, name: &'a str) -> &'a str {
    let key = match of.get::<String>("name").is_empty() {
        true => "address",
        false => "name",
    };
    of.own(key).map_or(name, |at| at.shown(name))
}

fn hash(of: &Scope<'_>) -> Hash {
    Hash {
        key: of.choice("key"),
        max_load: of.get("max_load"),
    }
}

fn latency(of: &Scope<'_>) -> Latency {
    Latency {
        of: of.choice("of"),
        decay: of.get("decay"),
    }
}

fn health(of: &Scope<'_>) -> Health {
    Health {
        kind: health_kind(of),
        interval: of.get("interval"),
        fast_interval: of.get("fast_interval"),
        timeout: of.get("timeout"),
        rise: of.get("rise"),
        fall: of.get("fall"),
        port: of.get("port"),
        tls: health_tls(of),
    }
}

fn health_kind(of: &Scope<'_>) -> HealthKind {
    match of.choice("kind") {
        CheckKind::None => HealthKind::None,
        CheckKind::Tcp => HealthKind::Tcp,
        CheckKind::Tls => HealthKind::Tls,
        CheckKind::Http => HealthKind::Http {
            path: of.get("path"),
            host: of.get("host"),
            expect_status: of.get("expect_status"),
        },
        CheckKind::Exchange => HealthKind::Exchange {
            send: of.get("send"),
            expect: of.get("expect"),
        },
    }
}

/// The TLS settings, where the check speaks TLS.
fn health_tls(of: &Scope<'_>) -> Option<HealthTls> {
    if !speaks_tls(of) {
        return None;
    }
    let ca: String = of.get("ca");
    Some(HealthTls {
        server_name: of.get("server_name"),
        ca: (!ca.is_empty()).then(|| ca.into()),
    })
}

/// Whether a check begins with a TLS handshake.
pub(super) fn speaks_tls(of: &Scope<'_>) -> bool {
    match of.choice("kind") {
        CheckKind::Tls => true,
        CheckKind::Http | CheckKind::Exchange => of.get("tls"),
        CheckKind::None | CheckKind::Tcp => false,
    }
}

fn outlier(of: &Scope<'_>) -> Outlier {
    Outlier {
        consecutive_failures: of.get("consecutive_failures"),
        eject_for: of.get("eject_for"),
        max_ejected_percent: of.get("max_ejected_percent"),
    }
}

fn hold(of: &Scope<'_>) -> Hold {
    Hold {
        max: of.get("max"),
        timeout: of.get("timeout"),
    }
}

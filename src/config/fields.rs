//! Every key of a configuration with its value, and what a change of it means for the running
//! balancer: the one place that says so, for [`super::diff`] and for the reference.
//!
//! The patterns name every field of every struct, so that a new one does not compile until it
//! stands here too.

use std::time::Duration;

use serde::Serialize;
use toml::Value;

use super::choices::Choice;
use super::tables::{LISTENER, POOL, ROOT};
use super::units::{format_bytes, format_duration, format_percent, format_statuses};
use super::value::Scope;
use super::{
    AccessSink, Admin, Backend, Hash, Health, HealthKind, HealthTls, Hold, Latency, Listener, Log,
    Outlier, Pool, Rate, Replay, Route, Runtime, build,
};
use crate::net::{Address, Location};

/// When a changed key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// With the reload.
    AtOnce,
    /// For connections that come after the reload; live ones keep what they were routed with.
    NewConnections,
    /// With the next start.
    Restart,
}

impl Effect {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::NewConnections => "new connections",
            Self::Restart => "restart",
        }
    }
}

/// A key of a table with its value.
pub(super) struct Field {
    /// As a path below the table, such as `health.interval`.
    pub(super) key: &'static str,
    pub(super) effect: Effect,
    /// `None`: nobody looks at it, because of other keys; or it is compared elsewhere.
    pub(super) value: Option<Value>,
    /// Never shown.
    pub(super) secret: bool,
}

fn field(key: &'static str, effect: Effect, value: impl Into<Option<Value>>) -> Field {
    Field {
        key,
        effect,
        value: value.into(),
        secret: false,
    }
}

fn at_once(key: &'static str, value: impl Into<Option<Value>>) -> Field {
    field(key, Effect::AtOnce, value)
}

fn new_connections(key: &'static str, value: impl Into<Option<Value>>) -> Field {
    field(key, Effect::NewConnections, value)
}

fn restart(key: &'static str, value: impl Into<Option<Value>>) -> Field {
    field(key, Effect::Restart, value)
}

fn secret(of: Field) -> Field {
    Field { secret: true, ..of }
}

pub(super) fn runtime(of: &Runtime) -> Vec<Field> {
    let Runtime {
        threads,
        max_connections,
        stop_delay,
        drain_timeout,
        upgrade_timeout,
        watch,
        watch_max_removed,
        user,
    } = of;
    vec![
        restart("threads", count(*threads)),
        at_once("max_connections", count(*max_connections)),
        at_once("stop_delay", duration(*stop_delay)),
        at_once("drain_timeout", duration(*drain_timeout)),
        at_once("upgrade_timeout", duration(*upgrade_timeout)),
        at_once("watch", Value::Boolean(*watch)),
        at_once(
            "watch_max_removed",
            text(&format_percent(*watch_max_removed)),
        ),
        restart("user", text(user)),
    ]
}

pub(super) fn admin(of: &Admin) -> Vec<Field> {
    let Admin {
        bind,
        token,
        read_only,
        hosts,
    } = of;
    let bind = bind.as_ref().map_or_else(String::new, Address::to_string);
    vec![
        at_once("bind", text(&bind)),
        secret(at_once("token", text(token))),
        at_once("read_only", Value::Boolean(*read_only)),
        at_once("hosts", texts(hosts)),
    ]
}

pub(super) fn log(of: &Log) -> Vec<Field> {
    let Log {
        level,
        format,
        access,
        access_sample,
        access_sink,
    } = of;
    let access_file = match access_sink {
        AccessSink::Stderr => String::new(),
        AccessSink::File(path) => path.display().to_string(),
        AccessSink::Datagram(path) => format!("unix:{}", path.display()),
    };
    vec![
        at_once("level", word(*level)),
        at_once("format", word(*format)),
        at_once("access", Value::Boolean(*access)),
        at_once("access_sample", Value::Float(*access_sample)),
        at_once("access_file", text(&access_file)),
    ]
}

/// Its name is compared elsewhere.
pub(super) fn listener(of: &Listener) -> Vec<Field> {
    let Listener {
        name: _,
        bind,
        ipv6_only,
        unix_mode,
        pool,
        backlog,
        max_connections,
        max_connections_per_ip,
        rate,
        rate_per_ip,
        allow,
        deny,
        proxy_protocol,
        trusted_proxies,
        preread_timeout,
        routes: _,
    } = of;
    let bind = match bind.as_slice() {
        [one] => text(&one.to_string()),
        all => texts(all),
    };
    vec![
        at_once("bind", bind),
        // The kernel takes IPV6_V6ONLY before bind(2) alone, and a listener whose address is
        // unchanged is never closed.
        restart("ipv6_only", Value::Boolean(*ipv6_only)),
        at_once("unix_mode", text(&format!("{unix_mode:04o}"))),
        new_connections("pool", text(pool.as_deref().unwrap_or_default())),
        at_once("backlog", count(*backlog)),
        at_once("max_connections", count(*max_connections)),
        new_connections("max_connections_per_ip", count(*max_connections_per_ip)),
        new_connections("rate", self::rate(*rate)),
        new_connections("rate_per_ip", self::rate(*rate_per_ip)),
        new_connections("allow", texts(allow)),
        new_connections("deny", texts(deny)),
        new_connections("proxy_protocol", word(*proxy_protocol)),
        new_connections("trusted_proxies", texts(trusted_proxies)),
        new_connections("preread_timeout", duration(*preread_timeout)),
        // Compared elsewhere, as their order counts.
        new_connections("route", None),
    ]
}

pub(super) fn route(of: &Route) -> Vec<Field> {
    let Route {
        sni,
        alpn,
        client,
        pool,
    } = of;
    vec![
        new_connections("sni", texts(sni)),
        new_connections("alpn", texts(alpn)),
        new_connections("client", texts(client)),
        new_connections("pool", text(pool)),
    ]
}

/// Its name and its backends are compared elsewhere.
pub(super) fn pool(of: &Pool) -> Vec<Field> {
    let Pool {
        name: _,
        balance,
        backends: _,
        resolve,
        fallback,
        connect_timeout,
        connect_attempts,
        max_connecting,
        idle_timeout,
        half_close_timeout,
        user_timeout,
        keepalive,
        max_age,
        send_proxy,
        quiet,
        source_addresses,
        slow_start,
        replay,
        when_all_down,
        on_backend_down,
        drain_timeout,
        relay,
        hash: Hash { key, max_load },
        latency: Latency { of, decay },
        health,
        outlier,
        hold: Hold { max, timeout },
    } = of;
    let mut fields = vec![
        new_connections("balance", word(*balance)),
        at_once("backends", None),
        at_once("resolve", word(*resolve)),
        new_connections("fallback", text(fallback.as_deref().unwrap_or_default())),
        new_connections("connect_timeout", duration(*connect_timeout)),
        new_connections("connect_attempts", count(*connect_attempts)),
        new_connections("max_connecting", count(*max_connecting)),
        new_connections("idle_timeout", duration(*idle_timeout)),
        new_connections("half_close_timeout", duration(*half_close_timeout)),
        new_connections("user_timeout", duration(*user_timeout)),
        new_connections("keepalive", duration(*keepalive)),
        new_connections("max_age", duration(*max_age)),
        new_connections("send_proxy", word(*send_proxy)),
        new_connections("quiet", duration(*quiet)),
        new_connections("source_address", texts(source_addresses)),
        at_once("slow_start", duration(*slow_start)),
        new_connections("replay", self::replay(*replay)),
        new_connections("when_all_down", word(*when_all_down)),
        at_once("on_backend_down", on_backend_down.written()),
        at_once("drain_timeout", duration(*drain_timeout)),
        new_connections("relay", word(*relay)),
        new_connections("hash.key", word(*key)),
        new_connections("hash.max_load", Value::Float(*max_load)),
        new_connections("latency.of", word(*of)),
        new_connections("latency.decay", duration(*decay)),
    ];
    fields.extend(self::health(health));
    fields.extend(self::outlier(outlier));
    fields.extend([
        new_connections("hold.max", count(*max)),
        new_connections("hold.timeout", duration(*timeout)),
    ]);
    fields
}

fn outlier(of: &Outlier) -> [Field; 3] {
    let Outlier {
        consecutive_failures,
        eject_for,
        max_ejected_percent,
    } = of;
    [
        at_once("outlier.consecutive_failures", count(*consecutive_failures)),
        at_once("outlier.eject_for", duration(*eject_for)),
        at_once("outlier.max_ejected_percent", count(*max_ejected_percent)),
    ]
}

fn health(of: &Health) -> Vec<Field> {
    let Health {
        kind,
        interval,
        fast_interval,
        timeout,
        rise,
        fall,
        port,
        tls,
    } = of;
    let mut fields = vec![
        at_once("health.kind", text(kind.as_str())),
        at_once("health.interval", duration(*interval)),
        at_once("health.fast_interval", duration(*fast_interval)),
        at_once("health.timeout", duration(*timeout)),
        at_once("health.rise", count(rise.get())),
        at_once("health.fall", count(fall.get())),
        at_once("health.port", count(*port)),
    ];
    fields.extend(health_tls(kind, tls.as_ref()));
    fields.extend(health_http(kind));
    fields.extend(health_exchange(kind));
    fields
}

fn health_tls(kind: &HealthKind, tls: Option<&HealthTls>) -> [Field; 3] {
    let may_choose = matches!(kind, HealthKind::Http { .. } | HealthKind::Exchange { .. });
    let on = may_choose.then_some(Value::Boolean(tls.is_some()));
    let names = tls.map(|HealthTls { server_name, ca }| {
        let ca = ca.as_ref().map(|path| path.display().to_string());
        (text(server_name), text(&ca.unwrap_or_default()))
    });
    let (server_name, ca) = names.unzip();
    [
        at_once("health.tls", on),
        at_once("health.server_name", server_name),
        at_once("health.ca", ca),
    ]
}

fn health_http(kind: &HealthKind) -> [Field; 3] {
    let [path, host, statuses] = match kind {
        HealthKind::Http {
            path,
            host,
            expect_status,
        } => {
            let statuses = format_statuses(expect_status);
            [text(path), text(host), text(&statuses)].map(Some)
        }
        _ => [None, None, None],
    };
    [
        at_once("health.path", path),
        at_once("health.host", host),
        at_once("health.expect_status", statuses),
    ]
}

fn health_exchange(kind: &HealthKind) -> [Field; 2] {
    let [send, expect] = match kind {
        HealthKind::Exchange { send, expect } => {
            [send, expect].map(|b| Some(text(&format_bytes(b))))
        }
        _ => [None, None],
    };
    [
        secret(at_once("health.send", send)),
        at_once("health.expect", expect),
    ]
}

/// Its name is compared elsewhere.
pub(super) fn backend(of: &Backend) -> Vec<Field> {
    let Backend {
        name: _,
        address,
        weight,
        max_connections,
        backup,
    } = of;
    vec![
        at_once("address", text(&address.to_string())),
        at_once("name", None),
        new_connections("weight", count(*weight)),
        new_connections("max_connections", count(*max_connections)),
        new_connections("backup", Value::Boolean(*backup)),
    ]
}

/// `[runtime]` whose keys all have their defaults.
pub(super) fn plain_runtime() -> Runtime {
    build::runtime(&Scope::new(&ROOT, None, None).sub("runtime"))
}

/// A listener whose keys all have their defaults.
pub(crate) fn plain_listener() -> Listener {
    build::listener("", &Scope::new(&LISTENER, None, None))
}

/// A pool whose keys all have their defaults.
pub(super) fn plain_pool() -> Pool {
    build::pool("", &Scope::new(&POOL, None, None))
}

/// The default of a key of a check, whatever its kind.
pub(super) fn default_of(key: &str) -> Option<Value> {
    let key = key.strip_prefix("health.")?;
    let health = Scope::new(&POOL, None, None).sub("health");
    match key {
        "tls" => Some(Value::Boolean(health.get(key))),
        "send" | "expect" => Some(text("")),
        "expect_status" => Some(text(&format_statuses(&health.get::<Vec<_>>(key)))),
        "path" | "host" | "server_name" | "ca" => Some(text(&health.get::<String>(key))),
        _ => None,
    }
}

/// When a changed key of the table with this header takes effect; `None`: it holds keys that
/// have an answer each.
pub(super) fn effect(header: &str, key: &str) -> Option<Effect> {
    let root = Scope::new(&ROOT, None, None);
    let (fields, prefix) = match header {
        "runtime" => (runtime(&build::runtime(&root.sub(header))), ""),
        "admin" => (admin(&build::admin(&root.sub(header))), ""),
        "log" => (log(&build::log(&root.sub(header))), ""),
        "listener.NAME" => (listener(&plain_listener()), ""),
        "listener.NAME.route" => (route(&plain_route()), ""),
        "pool.NAME.backends" => (backend(&plain_backend()), ""),
        _ => {
            let prefix = header.strip_prefix("pool.NAME")?;
            (pool(&plain_pool()), prefix.trim_start_matches('.'))
        }
    };
    let path = match prefix {
        "" => key.to_owned(),
        prefix => format!("{prefix}.{key}"),
    };
    // A table that is the value of one key takes effect as a whole.
    let mut fields = fields.into_iter();
    let found = fields.find(|field| field.key == path || field.key == prefix);
    found.map(|field| field.effect)
}

/// A route whose keys all have their defaults, but for its pool.
pub(super) fn plain_route() -> Route {
    Route {
        sni: Vec::new(),
        alpn: Vec::new(),
        client: Vec::new(),
        pool: "".into(),
    }
}

/// A backend whose keys all have their defaults, but for its address.
pub(super) fn plain_backend() -> Backend {
    Backend {
        name: "".into(),
        address: Location::Address(Address::Unix("".into())),
        weight: 1,
        max_connections: 0,
        backup: false,
    }
}

fn count(count: impl TryInto<i64>) -> Value {
    Value::Integer(count.try_into().unwrap_or(i64::MAX))
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn texts<T: ToString>(texts: &[T]) -> Value {
    let texts = texts.iter().map(|text| Value::String(text.to_string()));
    Value::Array(texts.collect())
}

fn rate(rate: Option<Rate>) -> Value {
    text(&rate.map_or_else(String::new, |rate| rate.to_string()))
}

fn duration(duration: Duration) -> Value {
    text(&format_duration(duration))
}

fn replay(replay: Replay) -> Value {
    match replay {
        Replay::Off => text("off"),
        Replay::Safe => text("safe"),
        Replay::Bytes(most) => count(most),
    }
}

fn word<T: Choice>(choice: T) -> Value {
    text(choice.word())
}

#[cfg(test)]
mod tests {
    use super::super::keys::Kind;
    use super::super::tables::all_tables;
    use super::*;

    #[test]
    fn every_key_of_the_file_says_when_a_change_of_it_takes_effect() {
        for table in all_tables() {
            for key in table.keys {
                let answered = effect(table.header, key.name).is_some();
                let asked = !matches!(key.kind, Kind::Table(_));
                assert_eq!(answered, asked, "{}: {}", table.header, key.name);
            }
        }
    }

    #[test]
    fn the_keys_that_need_a_restart_are_these() {
        let mut found = Vec::new();
        for table in all_tables() {
            let keys = table.keys.iter();
            let restart = keys.filter(|k| effect(table.header, k.name) == Some(Effect::Restart));
            found.extend(restart.map(|key| format!("{}.{}", table.header, key.name)));
        }
        let expected = ["runtime.threads", "runtime.user", "listener.NAME.ipv6_only"];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_keys_that_only_some_checks_have_know_their_defaults() {
        for field in pool(&plain_pool()) {
            let known = field.value.is_some() || field.key == "backends";
            assert_ne!(known, default_of(field.key).is_some(), "{}", field.key);
        }
    }
}

//! A configuration as TOML: what is in effect, with every default written out.
//!
//! The text reads back as the same [`Config`], except for what is not shown: the admin token,
//! what a check sends, and every value that came from the environment. Those read `"…"` on
//! lines that are commented out, so that the text is TOML that `isobar check` can read.
//!
//! A setting that has no effect is left out while it has its default, so that the text brings
//! no warnings of its own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use toml::Value;

use super::choices::Choice;
use super::hidden::{BLANK, Hidden};
use super::tables::POOL;
use super::texts::is_name;
use super::units::{format_bytes, format_duration, format_percent, format_statuses};
use super::value::Scope;
use super::{
    AccessSink, Admin, Backend, Balance, Config, Health, HealthKind, HealthTls, Listener, Loaded,
    Log, OnBackendDown, Outlier, Pool, ProxyProtocol, Rate, Replay, Route, Runtime, build, env,
    on_backend_down, sources,
};
use crate::net::Address;

impl Loaded {
    /// The effective configuration as TOML, for people and for `GET /config`.
    pub fn render(&self) -> String {
        let mut writer = Writer {
            hidden: &self.hidden,
            path: String::new(),
            out:
                "# The effective configuration; \"…\" in a comment stands for what is not shown.\n"
                    .to_owned(),
        };
        writer.config(&self.config);
        writer.out
    }
}

struct Writer<'a> {
    hidden: &'a Hidden,
    /// Of the table that is being written, as [`Hidden`] has it.
    path: String,
    out: String,
}

impl Writer<'_> {
    fn config(&mut self, config: &Config) {
        self.table("runtime", None);
        self.runtime(&config.runtime);
        self.table("admin", None);
        self.admin(&config.admin);
        self.table("log", None);
        self.log(&config.log);
        for listener in &config.listeners {
            self.table("listener", Some(&listener.name));
            self.listener(listener, hashes_names(config, listener));
        }
        for pool in &config.pools {
            self.table("pool", Some(&pool.name));
            self.pool(pool, has_tcp(config, pool));
        }
    }

    fn runtime(&mut self, runtime: &Runtime) {
        self.count("threads", runtime.threads);
        self.count("max_connections", runtime.max_connections);
        self.duration("stop_delay", runtime.stop_delay);
        self.duration("drain_timeout", runtime.drain_timeout);
        self.duration("upgrade_timeout", runtime.upgrade_timeout);
        self.flag("watch", runtime.watch);
        let default = super::fields::plain_runtime().watch_max_removed;
        if runtime.watch || runtime.watch_max_removed != default {
            let share = format_percent(runtime.watch_max_removed);
            self.text("watch_max_removed", &share);
        }
        self.text("user", &runtime.user);
    }

    fn admin(&mut self, admin: &Admin) {
        let on = admin.bind.is_some();
        self.text(
            "bind",
            &admin
                .bind
                .as_ref()
                .map_or(String::new(), Address::to_string),
        );
        if on || !admin.token.is_empty() {
            self.secret("token", admin.token.is_empty());
        }
        if on || admin.read_only {
            self.flag("read_only", admin.read_only);
        }
        let named = matches!(admin.bind, Some(Address::Ip(_)));
        if named || !admin.hosts.is_empty() {
            self.texts("hosts", &admin.hosts);
        }
    }

    fn log(&mut self, log: &Log) {
        self.text("level", log.level.word());
        self.text("format", log.format.word());
        self.flag("access", log.access);
        if log.access || log.access_sample != 1.0 {
            self.set("access_sample", Value::Float(log.access_sample));
        }
        if log.access || log.access_sink != AccessSink::Stderr {
            self.text(
                "access_file",
                &match &log.access_sink {
                    AccessSink::Stderr => String::new(),
                    AccessSink::File(path) => path.display().to_string(),
                    AccessSink::Datagram(path) => format!("unix:{}", path.display()),
                },
            );
        }
    }

    fn listener(&mut self, listener: &Listener, hashes_names: bool) {
        let binds: Vec<_> = listener.bind.iter().map(Address::to_string).collect();
        self.texts("bind", &binds);
        self.flag("ipv6_only", listener.ipv6_only);
        let unix = |address: &Address| matches!(address, Address::Unix(_));
        if listener.unix_mode != 0o666 || listener.bind.iter().any(unix) {
            self.text("unix_mode", &format!("{:04o}", listener.unix_mode));
        }
        self.text("pool", listener.pool.as_deref().unwrap_or_default());
        self.count("backlog", listener.backlog);
        self.count("max_connections", listener.max_connections);
        self.admission(listener);
        self.proxies(listener, hashes_names);
        for (index, route) in listener.routes.iter().enumerate() {
            self.route(listener, index, route);
        }
    }

    /// Who may come in. Limits by address say nothing where nobody has one, by socket or header.
    fn admission(&mut self, listener: &Listener) {
        let rate = |rate: Option<Rate>| rate.map_or_else(String::new, |rate| rate.to_string());
        let ip = listener.bind.iter().any(|a| matches!(a, Address::Ip(_)));
        let known = ip || listener.proxy_protocol != ProxyProtocol::Off;
        if known || listener.max_connections_per_ip > 0 {
            self.count("max_connections_per_ip", listener.max_connections_per_ip);
        }
        self.text("rate", &rate(listener.rate));
        if known || listener.rate_per_ip.is_some() {
            self.text("rate_per_ip", &rate(listener.rate_per_ip));
        }
        self.texts("allow", &strings(&listener.allow));
        if known || !listener.deny.is_empty() {
            self.texts("deny", &strings(&listener.deny));
        }
    }

    /// Who says whom it brings, and how long a client may take that is read.
    fn proxies(&mut self, listener: &Listener, hashes_names: bool) {
        self.text("proxy_protocol", listener.proxy_protocol.word());
        let proxied = listener.proxy_protocol != ProxyProtocol::Off;
        if proxied || !listener.trusted_proxies.is_empty() {
            self.texts("trusted_proxies", &strings(&listener.trusted_proxies));
        }
        let default = super::fields::plain_listener().preread_timeout;
        let reads = proxied || hashes_names || listener.routes.iter().any(Route::needs_hello);
        if reads || listener.preread_timeout != default {
            self.duration("preread_timeout", listener.preread_timeout);
        }
    }

    fn route(&mut self, listener: &Listener, index: usize, route: &Route) {
        let header = header_part(&listener.name);
        self.path = format!("listener/{}/route/{index}", listener.name);
        self.out
            .push_str(&format!("\n[[listener.{header}.route]]\n"));
        self.texts("sni", &strings(&route.sni));
        self.texts("alpn", &route.alpn);
        self.texts("client", &strings(&route.client));
        self.text("pool", &route.pool);
    }

    fn pool(&mut self, pool: &Pool, tcp: bool) {
        let plain = build::pool("", &Scope::new(&POOL, None, None));
        self.text("balance", pool.balance.word());
        self.backends(&pool.backends);
        if pool.resolve != plain.resolve || pool.backends.iter().any(|b| b.address.is_name()) {
            self.text("resolve", pool.resolve.word());
        }
        self.text("fallback", pool.fallback.as_deref().unwrap_or_default());
        self.duration("connect_timeout", pool.connect_timeout);
        self.count("connect_attempts", pool.connect_attempts);
        self.count("max_connecting", pool.max_connecting);
        self.duration("idle_timeout", pool.idle_timeout);
        self.duration("half_close_timeout", pool.half_close_timeout);
        if tcp || pool.user_timeout != plain.user_timeout {
            self.duration("user_timeout", pool.user_timeout);
        }
        if tcp || pool.keepalive != plain.keepalive {
            self.duration("keepalive", pool.keepalive);
        }
        self.duration("max_age", pool.max_age);
        self.text("send_proxy", pool.send_proxy.word());
        self.duration("quiet", pool.quiet);
        let is_unix = |b: &Backend| matches!(b.address.address(), Some(Address::Unix(_)));
        if !pool.backends.iter().all(is_unix) || !pool.source_addresses.is_empty() {
            let sources: Vec<_> = pool
                .source_addresses
                .iter()
                .map(IpAddr::to_string)
                .collect();
            self.texts(sources::KEY, &sources);
        }
        if pool.balance.can_ramp() || pool.slow_start != plain.slow_start {
            self.duration("slow_start", pool.slow_start);
        }
        match pool.replay {
            Replay::Off => self.text("replay", "off"),
            Replay::Safe => self.text("replay", "safe"),
            Replay::Bytes(most) => self.count("replay", most),
        }
        self.text("when_all_down", pool.when_all_down.word());
        self.on_backend_down(pool.on_backend_down);
        self.duration("drain_timeout", pool.drain_timeout);
        self.text("relay", pool.relay.word());
        if pool.balance == Balance::ConsistentHash || pool.hash != plain.hash {
            self.sub_table(pool, "hash");
            self.text("key", pool.hash.key.word());
            self.set("max_load", Value::Float(pool.hash.max_load));
        }
        if pool.balance == Balance::LeastLatency || pool.latency != plain.latency {
            self.sub_table(pool, "latency");
            self.text("of", pool.latency.of.word());
            self.duration("decay", pool.latency.decay);
        }
        self.sub_table(pool, "health");
        self.health(&pool.health, &plain.health);
        self.sub_table(pool, "outlier");
        self.outlier(&pool.outlier, &plain.outlier);
        self.sub_table(pool, "hold");
        self.count("max", pool.hold.max);
        if pool.hold.max > 0 || pool.hold.timeout != plain.hold.timeout {
            self.duration("timeout", pool.hold.timeout);
        }
    }

    fn on_backend_down(&mut self, what: OnBackendDown) {
        let item = |(key, value): (&String, &Value)| {
            let text = value.as_str().unwrap_or_default();
            let shown = self.shown(&format!("{}/{key}", on_backend_down::KEY), text);
            format!("{key} = {shown}")
        };
        match what.written() {
            Value::Table(table) => {
                let items: Vec<_> = table.iter().map(item).collect();
                let value = format!("{{ {} }}", items.join(", "));
                self.line(on_backend_down::KEY, &value);
            }
            word => self.text(on_backend_down::KEY, word.as_str().unwrap_or_default()),
        }
    }

    fn backends(&mut self, backends: &[Backend]) {
        self.out.push_str("backends = [\n");
        let pool = self.path.clone();
        for (index, backend) in backends.iter().enumerate() {
            self.path = format!("{pool}/backends/{index}");
            let line = self.backend(backend);
            let mark = comment(&line);
            self.out.push_str(&format!("  {mark}{{ {line} }},\n"));
        }
        self.path = pool;
        self.out.push_str("]\n");
    }

    fn backend(&self, backend: &Backend) -> String {
        let named = is_name(&backend.name);
        // Without a name of its own it is named by its address as written: that is kept.
        let address = match named {
            true => backend.address.to_string(),
            false => backend.name.to_string(),
        };
        let mut line = String::new();
        if named {
            line += &format!("name = {}, ", self.shown("name", &backend.name));
        }
        line + &format!(
            "address = {}, weight = {}, max_connections = {}, backup = {}",
            self.shown("address", &address),
            backend.weight,
            backend.max_connections,
            backend.backup
        )
    }

    fn outlier(&mut self, outlier: &Outlier, plain: &Outlier) {
        let on = outlier.consecutive_failures > 0;
        self.count("consecutive_failures", outlier.consecutive_failures);
        if on || outlier.eject_for != plain.eject_for {
            self.duration("eject_for", outlier.eject_for);
        }
        if on || outlier.max_ejected_percent != plain.max_ejected_percent {
            self.count("max_ejected_percent", outlier.max_ejected_percent);
        }
    }

    fn health(&mut self, health: &Health, plain: &Health) {
        let checked = health.kind != HealthKind::None;
        self.text("kind", health.kind.as_str());
        for (key, value, default) in [
            ("interval", health.interval, plain.interval),
            ("fast_interval", health.fast_interval, plain.fast_interval),
            ("timeout", health.timeout, plain.timeout),
        ] {
            if checked || value != default {
                self.duration(key, value);
            }
        }
        for (key, value, default) in [
            ("rise", health.rise.get(), plain.rise.get()),
            ("fall", health.fall.get(), plain.fall.get()),
            ("port", health.port.into(), plain.port.into()),
        ] {
            if checked || value != default {
                self.count(key, value);
            }
        }
        self.health_kind(&health.kind, health.tls.is_some());
        if let Some(tls) = &health.tls {
            self.health_tls(tls);
        }
    }

    fn health_kind(&mut self, kind: &HealthKind, tls: bool) {
        match kind {
            HealthKind::None | HealthKind::Tcp | HealthKind::Tls => {}
            HealthKind::Http {
                path,
                host,
                expect_status,
            } => {
                self.flag("tls", tls);
                self.text("path", path);
                self.text("host", host);
                self.text("expect_status", &format_statuses(expect_status));
            }
            HealthKind::Exchange { send, expect } => {
                self.flag("tls", tls);
                self.secret("send", send.is_empty());
                self.text("expect", &format_bytes(expect));
            }
        }
    }

    fn health_tls(&mut self, tls: &HealthTls) {
        let ca = tls.ca.as_ref().map(|path| path.display().to_string());
        self.text("server_name", &tls.server_name);
        self.text("ca", &ca.unwrap_or_default());
    }

    fn table(&mut self, kind: &str, name: Option<&str>) {
        let header = match name {
            Some(name) => format!("{kind}.{}", header_part(name)),
            None => kind.to_owned(),
        };
        self.path = match name {
            Some(name) => format!("{kind}/{name}"),
            None => kind.to_owned(),
        };
        self.out.push_str(&format!("\n[{header}]\n"));
    }

    fn sub_table(&mut self, pool: &Pool, name: &str) {
        self.path = format!("pool/{}/{name}", pool.name);
        let header = header_part(&pool.name);
        self.out.push_str(&format!("\n[pool.{header}.{name}]\n"));
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        self.text(key, &format_duration(duration));
    }

    fn count(&mut self, key: &str, count: impl TryInto<i64>) {
        let count = count.try_into().unwrap_or(i64::MAX);
        self.set(key, Value::Integer(count));
    }

    fn flag(&mut self, key: &str, flag: bool) {
        self.set(key, Value::Boolean(flag));
    }

    fn text(&mut self, key: &str, text: &str) {
        let shown = self.shown(key, text);
        self.line(key, &shown);
    }

    fn texts(&mut self, key: &str, texts: &[String]) {
        let item = |(index, text): (usize, &String)| self.shown(&format!("{key}/{index}"), text);
        let items: Vec<_> = texts.iter().enumerate().map(item).collect();
        self.line(key, &format!("[{}]", items.join(", ")));
    }

    fn secret(&mut self, key: &str, is_empty: bool) {
        self.text(key, if is_empty { "" } else { BLANK });
    }

    fn set(&mut self, key: &str, value: Value) {
        self.line(key, &value.to_string());
    }

    fn line(&mut self, key: &str, value: &str) {
        let mark = comment(value);
        self.out.push_str(&format!("{mark}{key} = {value}\n"));
    }

    /// A string as TOML, or what stands for it.
    fn shown(&self, key: &str, text: &str) -> String {
        let hidden = self.hidden.contains(&format!("{}/{key}", self.path));
        let text = if hidden {
            BLANK.to_owned()
        } else {
            env::escape(text)
        };
        Value::String(text).to_string()
    }
}

fn strings<T: ToString>(of: &[T]) -> Vec<String> {
    of.iter().map(T::to_string).collect()
}

/// What begins a line that holds a value that is not shown.
fn comment(text: &str) -> &'static str {
    match text.contains(&format!("\"{BLANK}\"")) {
        true => "# ",
        false => "",
    }
}

/// Whether a connection of the pool may be one of TCP, as [`super::effects`] sees it.
fn has_tcp(config: &Config, pool: &Pool) -> bool {
    let is_ip = |address: &Address| matches!(address, Address::Ip(_));
    let leads = |listener: &&Arc<Listener>| listener.leads_to().any(|name| *name == pool.name);
    let mut listeners = config.listeners.iter().filter(leads).peekable();
    let fallback = config
        .pools
        .iter()
        .any(|p| p.fallback.as_ref() == Some(&pool.name));
    listeners.peek().is_none()
        || fallback
        || listeners.any(|listener| listener.bind.iter().any(is_ip))
        || pool
            .backends
            .iter()
            .any(|backend| !backend.address.is_unix())
}

/// Whether a pool that clients of this listener may come to hashes by the name they ask for.
fn hashes_names(config: &Config, listener: &Listener) -> bool {
    let pools = config.pools.iter().map(|pool| &**pool);
    let pool = |name: &str| pools.clone().find(|pool| *pool.name == *name);
    let by_name = |pool: &Pool| {
        pool.balance == Balance::ConsistentHash && pool.hash.key == super::HashKey::Sni
    };
    let mut firsts = listener.leads_to().filter_map(|name| pool(name));
    firsts.any(|first| {
        let mut way =
            std::iter::successors(Some(first), |of| of.fallback.as_deref().and_then(pool));
        way.any(by_name)
    })
}

/// A name as a part of a table's header, where a dot would divide it.
fn header_part(name: &str) -> String {
    if name.contains('.') {
        format!("\"{name}\"")
    } else {
        name.to_owned()
    }
}

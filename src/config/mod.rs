//! The configuration: a value that cannot be wrong.
//!
//! `lb.toml` is read in steps, each of which goes on after a fault so that all of them are
//! reported in one go:
//!
//! ```text
//! document  bytes -> text that parses                    what does not parse
//! schema    tree -> sections, along the tables of keys   unknown keys, types, ranges, ${NAME}
//! references, effects                                    what only the whole file shows
//! build     sections -> Config                           nothing: it cannot fail
//! ```
//!
//! [`Loaded::render`] writes a [`Config`] back as TOML. A [`Config`] is immutable and holds
//! nothing optional that must be there, so nobody behind this module asks whether a value
//! makes sense. Everything here is pure but [`find`] and [`load`].

mod admission;
mod binds;
mod build;
mod choices;
mod clients;
pub mod diff;
mod document;
mod effects;
mod env;
mod faults;
mod fields;
mod hidden;
mod keys;
mod load;
mod on_backend_down;
mod one_backend;
mod places;
mod rate;
mod reference;
mod references;
mod render;
mod repair;
mod routes;
mod scalar;
mod schema;
mod source;
mod sources;
mod suggest;
mod tables;
mod texts;
mod units;
mod value;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::hello::NamePattern;
use crate::net::{Address, Cidr, Location, Source};

pub use faults::{Faults, Problem, Severity};
pub use fields::Effect;
#[cfg(test)]
pub(crate) use fields::plain_listener;
pub use load::{Loaded, NotFound, admin_of, find, load, load_admin, load_text, parse};
pub use one_backend::{FieldFault, backend};
pub use places::KeyPath;
pub use rate::{Rate, percentage};
pub use reference::reference;
#[cfg(test)]
pub(crate) use tests::properties::loaded as any_loaded;
pub(crate) use units::{duration, format_duration, percent};

/// A whole, valid `lb.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[runtime]`.
    pub runtime: Runtime,
    /// `[admin]`.
    pub admin: Admin,
    /// `[log]`.
    pub log: Log,
    /// `[listener.NAME]`, in file order.
    pub listeners: Vec<Arc<Listener>>,
    /// `[pool.NAME]`, in file order.
    pub pools: Vec<Arc<Pool>>,
}

impl Config {
    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| *pool.name == *name)
    }
}

/// `[runtime]`: the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Data threads; 0: one per available core. 0 to 1024, default 0.
    pub threads: usize,
    /// Connections at once; 0: what the open-file limit allows. Default 0.
    pub max_connections: usize,
    /// From the stop signal to the closing of the listeners. Default 0 s.
    pub stop_delay: Duration,
    /// From the closing of the listeners until what is left is reset. Default 25 s.
    pub drain_timeout: Duration,
    /// From an upgrade until what is left in the old process is reset; zero: never. Default 0 s.
    pub upgrade_timeout: Duration,
    /// Reload when the file changes. Default false.
    pub watch: bool,
    /// Most of a pool's backends that an automatic reload may remove, 0.0 to 1.0. Default 0.3.
    pub watch_max_removed: f64,
    /// User to run as; empty: whoever started the process. Default empty.
    pub user: String,
}

/// `[admin]`: the HTTP endpoint.
#[derive(Clone, PartialEq)]
pub struct Admin {
    /// Where it listens; `None`: it is off. Default `127.0.0.1:9900`.
    pub bind: Option<Address>,
    /// Bearer token; empty: none. Default empty. Never printed.
    pub token: String,
    /// Refuse every change. Default false.
    pub read_only: bool,
    /// Further `Host` names that are accepted, in lower case. Default none.
    pub hosts: Vec<String>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin")
            .field("bind", &self.bind)
            .field("token", &if self.token.is_empty() { "" } else { "…" })
            .field("read_only", &self.read_only)
            .field("hosts", &self.hosts)
            .finish()
    }
}

/// `[log]`: what is written, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Least severe level that is written. Default `info`; `RUST_LOG` overrides.
    pub level: Level,
    /// How a line looks. Default text.
    pub format: LogFormat,
    /// Whether finished connections are written. Default true.
    pub access: bool,
    /// Share of the ordinary endings that is written, 0.0 to 1.0. Default 1.0.
    pub access_sample: f64,
    /// Where finished connections go. Default standard error.
    pub access_sink: AccessSink,
}

/// `log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Faults that need an operator.
    Error,
    /// Faults that isobar worked around.
    Warn,
    /// Changes of state.
    Info,
    /// Decisions.
    Debug,
    /// Everything.
    Trace,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// logfmt: `key=value` pairs.
    Text,
    /// One JSON object a line.
    Json,
}

/// `log.access_file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessSink {
    /// With the other lines.
    Stderr,
    /// Appended to this file.
    File(PathBuf),
    /// One datagram a line to this Unix socket.
    Datagram(PathBuf),
}

/// `[listener.NAME]`: bound addresses and their rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// `NAME`.
    pub name: Arc<str>,
    /// The addresses, at least one.
    pub bind: Vec<Address>,
    /// `[::]` does not take IPv4 clients. Default false.
    pub ipv6_only: bool,
    /// Mode of a Unix socket's file. Default 0o666.
    pub unix_mode: u32,
    /// The pool's name; `None`: connections that no route takes are rejected.
    pub pool: Option<Arc<str>>,
    /// Length of the accept queue, at least 1. Default 4096.
    pub backlog: u32,
    /// Connections at once; 0: no limit of its own. Default 0.
    pub max_connections: usize,
    /// Connections at once from one address, of IPv6 from one /64; 0: no limit. Default 0.
    pub max_connections_per_ip: u32,
    /// New connections in all; `None`: any. Default none.
    pub rate: Option<Rate>,
    /// New connections from one address, of IPv6 from one /64; `None`: any. Default none.
    pub rate_per_ip: Option<Rate>,
    /// Who may connect; empty: everyone. Default empty.
    pub allow: Vec<Source>,
    /// Who may not, whatever `allow` says. Default none.
    pub deny: Vec<Cidr>,
    /// Whether clients begin with a PROXY header. Default off.
    pub proxy_protocol: ProxyProtocol,
    /// Whose PROXY headers count, beside Unix clients; not empty where those are looked for.
    pub trusted_proxies: Vec<Source>,
    /// For what is read of a client before it is routed, in all; 0: without end. Default 5 s.
    pub preread_timeout: Duration,
    /// `[[listener.NAME.route]]`, in file order: the first that matches wins. Default none.
    pub routes: Vec<Route>,
}

impl Listener {
    /// The pools that its connections may be routed to, those of routes first.
    pub fn leads_to(&self) -> impl Iterator<Item = &Arc<str>> {
        let routed = self.routes.iter().map(|route| &route.pool);
        routed.chain(&self.pool)
    }
}

/// `[[listener.NAME.route]]`: connections that go to a pool. Every condition given must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Names that a client may ask for; empty: no condition. Default empty.
    pub sni: Vec<NamePattern>,
    /// Protocols that a client may offer; empty: no condition. Default empty.
    pub alpn: Vec<String>,
    /// Where a client may be; empty: no condition. Default empty.
    pub client: Vec<Cidr>,
    /// The pool's name.
    pub pool: Arc<str>,
}

impl Route {
    /// Whether it can only be judged by the ClientHello.
    pub fn needs_hello(&self) -> bool {
        !self.sni.is_empty() || !self.alpn.is_empty()
    }

    /// Whether its condition on names holds.
    pub fn takes_name(&self, name: Option<&str>) -> bool {
        let listed = |name| self.sni.iter().any(|pattern| pattern.matches(name));
        self.sni.is_empty() || name.is_some_and(listed)
    }

    /// Whether its condition on protocols holds.
    pub fn takes_protocols(&self, offered: &[Box<[u8]>]) -> bool {
        let listed = |protocol: &[u8]| self.alpn.iter().any(|own| own.as_bytes() == protocol);
        self.alpn.is_empty() || offered.iter().any(|protocol| listed(protocol))
    }

    /// Whether its condition on addresses holds; `None`: a client of a Unix socket.
    pub fn takes_address(&self, client: Option<IpAddr>) -> bool {
        let inside = |ip| self.client.iter().any(|network| network.contains(ip));
        self.client.is_empty() || client.is_some_and(inside)
    }
}

/// `listener.NAME.proxy_protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// No header is looked for.
    Off,
    /// Every client comes from a trusted proxy, with a header.
    Required,
    /// Clients that come from a trusted proxy have a header, others have none.
    Optional,
}

/// `[pool.NAME]`: interchangeable backends and how connections to them are treated.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// `NAME`.
    pub name: Arc<str>,
    /// The strategy. Default round-robin.
    pub balance: Balance,
    /// The backends, in file order.
    pub backends: Vec<Backend>,
    /// Which addresses of a name are used. Default any.
    pub resolve: Resolve,
    /// The pool that takes what this one cannot take now. Default none.
    pub fallback: Option<Arc<str>>,
    /// Of each attempt; 0: the kernel's. Default 3 s.
    pub connect_timeout: Duration,
    /// Attempts in all, at least 1. Default 3.
    pub connect_attempts: u32,
    /// Connects in progress to one backend; 0: no cap. Default 0.
    pub max_connecting: u32,
    /// No byte either way for this long ends a connection; 0: off. Default 1 h.
    pub idle_timeout: Duration,
    /// The same from the moment on that one side has sent FIN; 0: off. Default 5 min.
    pub half_close_timeout: Duration,
    /// `TCP_USER_TIMEOUT` on both sides; 0: the kernel's. Default 0.
    pub user_timeout: Duration,
    /// First keep-alive probe after it, see tcp(7); 0: off. Default 60 s.
    pub keepalive: Duration,
    /// A connection of this age, jittered by a tenth, ends at a quiet moment, and at twice the age
    /// at any moment; 0: it may become any age. Default 0.
    pub max_age: Duration,
    /// The PROXY header that backends get first. Default off.
    pub send_proxy: SendProxy,
    /// How long nothing may have moved before a connection counts as quiet; not 0. Default 1 s.
    pub quiet: Duration,
    /// Addresses of this machine that outgoing connections are bound to in turn; empty: the kernel
    /// chooses. Default empty.
    pub source_addresses: Vec<IpAddr>,
    /// Over how long the weight of a backend grows that comes back or is new; 0: it has the whole
    /// at once. Default 0.
    pub slow_start: Duration,
    /// Which connections move on when their backend ends them before its first byte. Default
    /// safe.
    pub replay: Replay,
    /// Use backends that are down by checks when none is up. Default hold.
    pub when_all_down: WhenAllDown,
    /// What becomes of the live connections of a backend that is down by checks. Default keep.
    pub on_backend_down: OnBackendDown,
    /// How long live connections of a backend that was drained, put into maintenance or removed
    /// may go on; 0: until they end. Default 0.
    pub drain_timeout: Duration,
    /// How bytes are moved. Default auto.
    pub relay: RelayEngine,
    /// `[pool.NAME.hash]`.
    pub hash: Hash,
    /// `[pool.NAME.latency]`.
    pub latency: Latency,
    /// `[pool.NAME.health]`.
    pub health: Health,
    /// `[pool.NAME.outlier]`.
    pub outlier: Outlier,
    /// `[pool.NAME.hold]`.
    pub hold: Hold,
}

/// `pool.NAME.balance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// The fewest active connections per weight.
    LeastConnections,
    /// By the client, weighted rendezvous.
    ConsistentHash,
    /// The less loaded of two drawn by weight.
    RandomTwo,
    /// The faster of two drawn by weight.
    LeastLatency,
    /// The first with room.
    First,
}

impl Balance {
    /// Whether a backend's share follows its weight at once and without a lasting change, so that
    /// a slow start makes sense: not where clients would change their backend by it, nor where
    /// weights are not looked at.
    pub const fn can_ramp(self) -> bool {
        !matches!(self, Self::ConsistentHash | Self::First)
    }

    /// As the file writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::ConsistentHash => "consistent-hash",
            Self::RandomTwo => "random-two",
            Self::LeastLatency => "least-latency",
            Self::First => "first",
        }
    }
}

/// `pool.NAME.replay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// None.
    Off,
    /// Those whose client has sent nothing but (a part of) one TLS ClientHello without early
    /// data.
    Safe,
    /// Those whose client has sent at most so many bytes, 0 to 65536, of any kind.
    Bytes(u32),
}

/// One entry of `pool.NAME.backends`.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Its name; the address as written where the file gives none.
    pub name: Arc<str>,
    /// Where it is dialled, or the name whose addresses are.
    pub address: Location,
    /// Share of the connections, 0 to 1000; 0: no new ones. Default 1.
    pub weight: u32,
    /// Connections at once; 0: no limit. Default 0.
    pub max_connections: u32,
    /// Used only while no other can take a connection. Default false.
    pub backup: bool,
}

/// `pool.NAME.resolve`: which addresses of a name are used.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Resolve {
    /// All of them.
    Any,
    /// Those of IPv4.
    Ipv4,
    /// Those of IPv6.
    Ipv6,
}

impl Resolve {
    /// Whether it has a use for this address.
    pub fn takes(self, ip: std::net::IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Ipv4 => ip.is_ipv4(),
            Self::Ipv6 => ip.is_ipv6(),
        }
    }
}

/// `pool.NAME.when_all_down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAllDown {
    /// Clients wait.
    Hold,
    /// Backends that are down by checks are used.
    Try,
}

/// `pool.NAME.on_backend_down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBackendDown {
    /// They go on.
    Keep,
    /// They are reset at once.
    Reset,
    /// They are reset one after the other, those first on which nothing has moved for longest,
    /// until the backend is back.
    Paced {
        /// From so long after it went down; not 0.
        after: Duration,
        /// How many in a time.
        rate: Rate,
    },
}

/// `pool.NAME.send_proxy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    /// None.
    Off,
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
}

/// `pool.NAME.relay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEngine {
    /// Copy, and splice for bulk.
    Auto,
    /// recv(2) and send(2) alone.
    Copy,
    /// splice(2) from the first byte on.
    Splice,
}

/// `[pool.NAME.hash]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hash {
    /// What is hashed. Default client-ip.
    pub key: HashKey,
    /// Most connections of a backend, as a multiple of its share of the pool's; 0: unbounded,
    /// else 1.0 to 1000.0. Default 0.
    pub max_load: f64,
}

/// `pool.NAME.hash.key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    ClientIp,
    /// The client's address and port.
    ClientIpPort,
    /// The name that the client asks for.
    Sni,
    /// The address and port that the client connected to.
    DestinationIpPort,
}

impl HashKey {
    /// As the file writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientIp => "client-ip",
            Self::ClientIpPort => "client-ip-port",
            Self::Sni => "sni",
            Self::DestinationIpPort => "destination-ip-port",
        }
    }
}

/// `[pool.NAME.latency]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// What is measured. Default first-byte.
    pub of: LatencyOf,
    /// Time constant of the moving average. Default 10 s.
    pub decay: Duration,
}

/// `pool.NAME.latency.of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyOf {
    /// From the first moment the backend could answer to its first byte.
    FirstByte,
    /// The TCP handshake.
    Connect,
}

/// `[pool.NAME.health]`: active checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What a check does. Default tcp.
    pub kind: HealthKind,
    /// Between checks, jittered by a tenth. Default 2 s.
    pub interval: Duration,
    /// The same while a state is unsettled. Default 250 ms.
    pub fast_interval: Duration,
    /// Of one check as a whole. Default 1 s.
    pub timeout: Duration,
    /// Passed checks that make a backend up. Default 2.
    pub rise: NonZeroU32,
    /// Failed checks that make a backend down. Default 3.
    pub fall: NonZeroU32,
    /// Port to check; 0: the backend's own. Default 0.
    pub port: u16,
    /// TLS settings of `tls` checks and of `http` and `exchange` over TLS.
    pub tls: Option<HealthTls>,
}

/// `pool.NAME.health.kind` with what that kind alone needs.
#[derive(Clone, PartialEq)]
pub enum HealthKind {
    /// No checks: up at once.
    None,
    /// A connect.
    Tcp,
    /// A TLS handshake.
    Tls,
    /// GET over HTTP/1.1.
    Http {
        /// Request target, begins with `/`. Default `/`.
        path: String,
        /// `Host`; empty: the address. Default empty.
        host: String,
        /// Accepted status codes. Default 200-399.
        expect_status: Vec<RangeInclusive<u16>>,
    },
    /// Send bytes, expect bytes.
    Exchange {
        /// What is sent; may be empty. Never printed: it may hold a password.
        send: Vec<u8>,
        /// What must occur in the first 64 KiB of the answer; empty: any byte does.
        expect: Vec<u8>,
    },
}

impl HealthKind {
    /// As the file writes it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http { .. } => "http",
            Self::Exchange { .. } => "exchange",
        }
    }
}

impl std::fmt::Debug for HealthKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// TLS of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthTls {
    /// SNI to send; empty: none.
    pub server_name: String,
    /// PEM file to verify the certificate against; `None`: not verified.
    pub ca: Option<PathBuf>,
}

/// `[pool.NAME.outlier]`: passive health, what live connections show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row that eject a backend; 0: off. Default 5.
    pub consecutive_failures: u32,
    /// How long the first time; not 0. Default 10 s.
    pub eject_for: Duration,
    /// Most of the backends, backups left out, that are ejected at once, 0 to 100. Default 50.
    pub max_ejected_percent: u32,
}

/// `[pool.NAME.hold]`: where connections wait that no backend can take now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Waiting at once; 0: do not hold. Default 1024.
    pub max: usize,
    /// Sum of the time one connection may wait; 0: without end. Default 10 s.
    pub timeout: Duration,
}

//! Every key of `lb.toml`: name, type, range, default and meaning, in one place.
//!
//! The reader, the suggestions, the defaults and the reference in `docs/configuration.md` all
//! come from these tables. A new key is an entry here, a field in [`super::Config`], a line in
//! [`super::build`] and one in [`super::render`].

use std::time::Duration;

use super::choices::{CheckKind, words};
use super::keys::{
    ANY, Key, Kind, MILLISECOND, Table, Zero, count, flag, interval, later, named, table, text,
    timeout, word,
};
use super::texts;
use super::{Balance, HashKey, LatencyOf, Level, LogFormat, RelayEngine, Resolve, WhenAllDown};

/// Linux keeps `TCP_KEEPIDLE` in seconds, at most 32767, see tcp(7) and `include/net/tcp.h`.
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);
/// Linux keeps `TCP_USER_TIMEOUT` in milliseconds in an `int`.
const MAX_USER_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 3600);

/// The file as a whole.
pub(super) static ROOT: Table = Table {
    header: "",
    doc: "The whole file.",
    keys: &[
        table("runtime", &RUNTIME),
        table("admin", &ADMIN),
        table("log", &LOG),
        table("defaults", &DEFAULTS),
        named("listener", &LISTENER),
        named("pool", &POOL),
    ],
};

pub(super) static RUNTIME: Table = Table {
    header: "runtime",
    doc: "The process.",
    keys: &[
        count(
            "threads",
            (0, 1024),
            "0",
            "Threads that carry connections; 0: one per available core.",
        ),
        count(
            "max_connections",
            (0, ANY),
            "0",
            "Connections at once in the whole process; further clients wait in the accept queue. 0: what the open-file limit allows (the soft limit is raised to the hard); a larger value is lowered with a warning.",
        ),
        timeout(
            "stop_delay",
            "\"0s\"",
            "From the stop signal, which turns `/readyz` to 503, until the listeners are closed. 0s: no delay.",
        ),
        timeout(
            "drain_timeout",
            "\"25s\"",
            "From the closing of the listeners until the connections that are left are reset. 0s: they may go on until they end.",
        ),
        timeout(
            "upgrade_timeout",
            "\"0s\"",
            "From the moment when the new process of an upgrade has taken over until the connections that could not move, and are left in the old one, are reset. 0s: they may go on until they end.",
        ),
        text(
            "user",
            ("a user name or number", texts::user),
            "\"\"",
            "User to run as, with its groups, from before the first thread starts. \"\": whoever started the process.",
        ),
        flag(
            "watch",
            "false",
            "Reload when the file changes (rename, rewrite, symlink swap), once it has been unchanged for 500 ms.",
        ),
        text(
            "watch_max_removed",
            ("a share such as \"30%\"", texts::percent),
            "\"30%\"",
            "An automatic reload that removes a listener, a pool, or more than this of a pool's backends is refused.",
        ),
    ],
};

pub(super) static ADMIN: Table = Table {
    header: "admin",
    doc: "The HTTP endpoint for statistics, metrics and changes.",
    keys: &[
        text(
            "bind",
            (
                "an address such as \"127.0.0.1:9900\" or \"unix:/run/isobar/admin.sock\", or \"\"",
                texts::admin_address,
            ),
            "\"127.0.0.1:9900\"",
            "Where it listens; a Unix socket is made with mode 0600. \"\": it is off.",
        ),
        text(
            "token",
            ("a string", texts::token),
            "\"\"",
            "Bearer token for changes, and on an address other than loopback for reads too. \"\": none. Never shown. Best given as \"${NAME}\".",
        ),
        flag("read_only", "false", "Refuse every change."),
        Key {
            name: "hosts",
            kind: Kind::Many {
                what: "host names",
                read: texts::host_name,
            },
            default: "[]",
            doc: "Further names that are accepted in the `Host` header, without port, in any case.",
        },
    ],
};

pub(super) static LOG: Table = Table {
    header: "log",
    doc: "What is written, and where.",
    keys: &[
        word(
            "level",
            words::<Level>,
            "\"info\"",
            "Least severe level that is written. The environment variable `RUST_LOG` overrides it.",
        ),
        word(
            "format",
            words::<LogFormat>,
            "\"text\"",
            "`text` is logfmt; `json` is one object a line.",
        ),
        flag(
            "access",
            "true",
            "One line for each finished connection, whatever the level.",
        ),
        Key {
            name: "access_sample",
            kind: Kind::Share,
            default: "1.0",
            doc: "Share of the ordinary endings (`client_closed`, `backend_closed`) that is written; all others always are.",
        },
        text(
            "access_file",
            ("a path, \"unix:PATH\" or \"\"", texts::access_file),
            "\"\"",
            "Where the lines of finished connections go: \"\": standard error; a path: appended to that file; `unix:PATH`: one datagram a line to that socket.",
        ),
    ],
};

pub(super) static DEFAULTS: Table = Table {
    header: "defaults",
    doc: "Settings for all pools.",
    keys: &[Key {
        name: "pool",
        kind: Kind::Table(&POOL),
        default: "{}",
        doc: "Any key of [pool.NAME] but `backends`, sub-tables included.",
    }],
};

pub(super) static LISTENER: Table = Table {
    header: "listener.NAME",
    doc: "Addresses that clients connect to, and their rules.",
    keys: &[
        Key {
            name: "bind",
            kind: Kind::OneOrMore {
                what: "an address such as \"0.0.0.0:8080\", \"[::]:8080\" or \"unix:/path\"",
                read: texts::bind_address,
            },
            default: "",
            doc: "Where it listens. `[::]` takes IPv4 clients too. Port 0: the kernel chooses one, which the log and `/stats` show.",
        },
        flag("ipv6_only", "false", "`[::]` does not take IPv4 clients."),
        text(
            "unix_mode",
            ("a file mode such as \"0660\"", texts::mode),
            "\"0666\"",
            "Mode of the file of a Unix socket, in octal, from 0000 to 0777.",
        ),
        text(
            "pool",
            ("the name of a pool", texts::pool_name),
            "\"\"",
            "The pool that its connections go to. Left out or \"\": connections are rejected (`no_route`).",
        ),
        count(
            "backlog",
            (1, i32::MAX as u64),
            "4096",
            "Length of the accept queue; the kernel caps it at `net.core.somaxconn`.",
        ),
        count(
            "max_connections",
            (0, ANY),
            "0",
            "Connections at once; further clients wait in the accept queue. 0: no limit of its own.",
        ),
        later("max_connections_per_ip"),
        later("rate"),
        later("rate_per_ip"),
        later("allow"),
        later("deny"),
        later("proxy_protocol"),
        later("trusted_proxies"),
        later("preread_timeout"),
        later("route"),
    ],
};

pub(super) static POOL: Table = Table {
    header: "pool.NAME",
    doc: "Interchangeable backends, and how connections to them are treated.",
    keys: &[
        word(
            "balance",
            words::<Balance>,
            "\"round-robin\"",
            "Which backend a connection gets, see below.",
        ),
        Key {
            name: "backends",
            kind: Kind::Entries(&BACKEND),
            default: "[]",
            doc: "The backends: addresses, or tables as below, in any mixture. An empty list is allowed: clients are held.",
        },
        word(
            "resolve",
            words::<Resolve>,
            "\"any\"",
            "Which addresses of a host name or a service are used: all of them, or those of IPv4 or IPv6 alone.",
        ),
        text(
            "fallback",
            ("the name of a pool", texts::pool_name),
            "\"\"",
            "Pool that takes a connection which this one cannot take now, before it is held. \"\": none.",
        ),
        timeout(
            "connect_timeout",
            "\"3s\"",
            "Of each attempt to connect. 0s: the kernel's.",
        ),
        count(
            "connect_attempts",
            (1, 1000),
            "3",
            "Attempts in all for one connection; none on a backend already tried while another is left.",
        ),
        count(
            "max_connecting",
            (0, ANY),
            "0",
            "Connects in progress to one backend. 0: no cap.",
        ),
        timeout(
            "idle_timeout",
            "\"1h\"",
            "A connection on which no byte moves either way for this long is reset. 0s: off.",
        ),
        timeout(
            "half_close_timeout",
            "\"5m\"",
            "The same from the moment on that one side has sent FIN; `idle_timeout` holds beside it. 0s: off.",
        ),
        Key {
            name: "user_timeout",
            kind: Kind::Duration {
                zero: Zero::Off,
                min: MILLISECOND,
                max: MAX_USER_TIMEOUT,
            },
            default: "\"0s\"",
            doc: "`TCP_USER_TIMEOUT` on both sides: how long sent data may stay unacknowledged. 0s: the kernel's.",
        },
        Key {
            name: "keepalive",
            kind: Kind::Duration {
                zero: Zero::Off,
                min: Duration::from_secs(1),
                max: MAX_KEEPALIVE,
            },
            default: "\"60s\"",
            doc: "First keep-alive probe after this long without a byte, then every third of it, three probes; whole seconds. 0s: off.",
        },
        interval(
            "quiet",
            "\"1s\"",
            "`isobar rebalance` closes a connection only when it is quiet: the last byte came from the backend, all is acknowledged, no FIN yet, and nothing has moved for this long.",
        ),
        word(
            "when_all_down",
            words::<WhenAllDown>,
            "\"hold\"",
            "`try`: use backends that are down by checks when none is up.",
        ),
        timeout(
            "drain_timeout",
            "\"0s\"",
            "How long live connections of a backend that was drained, put into maintenance or removed may go on until they are reset. 0s: until they end.",
        ),
        word(
            "relay",
            words::<RelayEngine>,
            "\"auto\"",
            "How bytes are moved: `copy`, `splice`, or what suits the traffic.",
        ),
        table("hash", &HASH),
        table("latency", &LATENCY),
        table("health", &HEALTH),
        table("hold", &HOLD),
        later("max_age"),
        later("replay"),
        later("send_proxy"),
        later("source_address"),
        later("slow_start"),
        later("on_backend_down"),
        later("outlier"),
    ],
};

/// Its first key is what a plain string in the list stands for.
pub(super) static BACKEND: Table = Table {
    header: "pool.NAME.backends",
    doc: "One backend.",
    keys: &[
        Key {
            name: "address",
            kind: Kind::Text {
                what: "an address such as \"10.0.0.11:80\", \"[fd00::1]:80\", \"app.internal:80\", \"srv:_pg._tcp.example.com\" or \"unix:/path\"",
                read: texts::backend_address,
            },
            default: "",
            doc: "Where it is dialled. A host name with a port, or a service with `srv:` before its name, stands for its addresses, see below.",
        },
        text(
            "name",
            ("a name", texts::backend_name),
            "\"\"",
            "Its name in statistics, logs and commands, and its identity for `consistent-hash`. Left out: the address as written.",
        ),
        count(
            "weight",
            (0, 1000),
            "1",
            "Share of the connections, against the other weights. 0: no new connections.",
        ),
        count(
            "max_connections",
            (0, ANY),
            "0",
            "Connections at once. 0: no limit.",
        ),
        flag(
            "backup",
            "false",
            "Used only while no other backend can take a connection.",
        ),
    ],
};

static HASH: Table = Table {
    header: "pool.NAME.hash",
    doc: "For `balance = \"consistent-hash\"`.",
    keys: &[
        Key {
            name: "key",
            kind: Kind::Word {
                words: words::<HashKey>,
                later: &["sni", "destination-ip-port"],
            },
            default: "\"client-ip\"",
            doc: "What is hashed.",
        },
        later("max_load"),
    ],
};

static LATENCY: Table = Table {
    header: "pool.NAME.latency",
    doc: "For `balance = \"least-latency\"`.",
    keys: &[
        word(
            "of",
            words::<LatencyOf>,
            "\"first-byte\"",
            "What is measured: the time to the backend's first byte, or the TCP handshake.",
        ),
        interval("decay", "\"10s\"", "Time constant of the moving average."),
    ],
};

static HEALTH: Table = Table {
    header: "pool.NAME.health",
    doc: "Active checks.",
    keys: &[
        word(
            "kind",
            words::<CheckKind>,
            "\"tcp\"",
            "What a check does: connect; a TLS handshake; GET over HTTP/1.1; send bytes and expect bytes; nothing, the backend is up at once.",
        ),
        interval(
            "interval",
            "\"2s\"",
            "Between checks, jittered by a tenth, from the first round on.",
        ),
        interval(
            "fast_interval",
            "\"250ms\"",
            "The same from the first failed check or connect of an up backend until its state is settled, and for down ones while clients are held.",
        ),
        interval("timeout", "\"1s\"", "Of one check as a whole."),
        count(
            "rise",
            (1, 1000),
            "2",
            "Passed checks in a row that make a backend up.",
        ),
        count(
            "fall",
            (1, 1000),
            "3",
            "Failed checks in a row that make a backend down.",
        ),
        count(
            "port",
            (0, 65_535),
            "0",
            "Port to check. 0: the backend's own.",
        ),
        flag("tls", "false", "`http` and `exchange` over TLS."),
        text(
            "server_name",
            ("a host name", texts::server_name),
            "\"\"",
            "Name to send as SNI and to verify. \"\": none is sent.",
        ),
        text(
            "ca",
            ("the path of a PEM file", texts::path),
            "\"\"",
            "Verify the backend's certificate against the certificates of this file. \"\": it is not verified.",
        ),
        text(
            "path",
            ("a path that begins with \"/\"", texts::request_target),
            "\"/\"",
            "`http`: what to GET.",
        ),
        text(
            "host",
            ("a host name", texts::host_header),
            "\"\"",
            "`http`: the `Host` header. \"\": the backend's address.",
        ),
        text(
            "expect_status",
            (
                "status codes and ranges such as \"200,204,300-399\"",
                texts::statuses,
            ),
            "\"200-399\"",
            "`http`: status codes that pass, single or in ranges.",
        ),
        text(
            "send",
            ("text, or \"hex:\" and hexadecimal digits", texts::bytes),
            "\"\"",
            "`exchange`: what to send, at most 64 KiB: text with TOML escapes, or `hex:` and hexadecimal digits. Never shown.",
        ),
        text(
            "expect",
            ("text, or \"hex:\" and hexadecimal digits", texts::bytes),
            "\"\"",
            "`exchange`: what must occur in the first 64 KiB of the answer, written like `send`. \"\": any byte. A check that fails shows neither it nor, where `send` is not empty, the answer.",
        ),
    ],
};

static HOLD: Table = Table {
    header: "pool.NAME.hold",
    doc: "Connections that no backend can take now wait here instead of failing.",
    keys: &[
        count(
            "max",
            (0, ANY),
            "1024",
            "Connections that wait at once. 0: do not hold.",
        ),
        timeout(
            "timeout",
            "\"10s\"",
            "How long one connection may wait, summed up over all its waits. 0s: without end.",
        ),
    ],
};

/// Every table, in the order of the reference.
pub(super) fn all_tables() -> [&'static Table; 11] {
    [
        &RUNTIME, &ADMIN, &LOG, &DEFAULTS, &LISTENER, &POOL, &BACKEND, &HASH, &LATENCY, &HEALTH,
        &HOLD,
    ]
}

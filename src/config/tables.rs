//! Every key of `lb.toml`: name, type, range, default and meaning, in one place.
//!
//! The reader, the suggestions, the defaults and the reference in `docs/configuration.md` all
//! come from these tables. A new key is an entry here, a field in [`super::Config`], a line in
//! [`super::build`] and one in [`super::render`].

use std::time::Duration;

use super::choices::{CheckKind, words};
use super::clients;
use super::keys::{
    ANY, Key, Kind, MILLISECOND, Table, Zero, count, flag, interval, named, table, text, timeout,
    word,
};
use super::texts;
use super::{
    Balance, HashKey, LatencyOf, Level, LogFormat, ProxyProtocol, RelayEngine, Resolve, SendProxy,
    WhenAllDown, on_backend_down, sources,
};

/// Linux keeps `TCP_KEEPIDLE` in seconds, at most 32767, see tcp(7) and `include/net/tcp.h`.
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);
/// Linux keeps `TCP_USER_TIMEOUT` in milliseconds in an `int`.
const MAX_USER_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 3600);

/// What a key that limits new connections takes.
const RATE: &str = "a rate such as \"50/s\", \"600/m\" or \"1000/h\", or \"\"";
/// What is kept of a client for another backend takes no more than isobar keeps of one
/// direction in any case.
const MAX_REPLAY: u64 = 64 << 10;

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
            "The pool that connections go to which no route takes. Left out or \"\": those are rejected (`no_route`).",
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
        count(
            "max_connections_per_ip",
            (0, ANY),
            "0",
            "Connections at once from one IPv4 address or one IPv6 /64; further ones are reset (`ip_limit`). 0: no limit.",
        ),
        text(
            "rate",
            (RATE, texts::rate_or_none),
            "\"\"",
            "New connections of the whole listener; those beyond it are reset (`rate`). \"\": any.",
        ),
        text(
            "rate_per_ip",
            (RATE, texts::rate_or_none),
            "\"\"",
            "New connections from one IPv4 address or one IPv6 /64; those beyond it are reset (`rate`). \"\": any.",
        ),
        Key {
            name: "allow",
            kind: Kind::Many {
                what: "CIDRs such as \"10.0.0.0/8\", and \"unix\"",
                read: clients::allowed,
            },
            default: "[]",
            doc: "Who may connect; all others are reset (`denied`). `unix`: the clients of Unix sockets. Empty: everyone.",
        },
        Key {
            name: "deny",
            kind: Kind::Many {
                what: "CIDRs such as \"10.0.0.0/8\"",
                read: clients::denied,
            },
            default: "[]",
            doc: "Who may not connect, whatever `allow` says; they are reset (`denied`).",
        },
        word(
            "proxy_protocol",
            words::<ProxyProtocol>,
            "\"off\"",
            "`required`: every connection comes from one of `trusted_proxies` and begins with a PROXY header, version 1 or 2. `optional`: connections from `trusted_proxies` begin with one; from all others none is looked for.",
        ),
        Key {
            name: "trusted_proxies",
            kind: Kind::Many {
                what: "CIDRs such as \"10.0.0.0/8\", and \"unix\"",
                read: clients::allowed,
            },
            default: "[]",
            doc: "Whose PROXY headers count; needed where they are looked for. Clients of a Unix socket are trusted in any case: `\"unix\"` is for a listener that has no others.",
        },
        timeout(
            "preread_timeout",
            "\"5s\"",
            "How long a client may take, in all, for what is read before it is routed: its PROXY header, and its ClientHello, where a route or a hash key needs one. Then it is reset (`preread_timeout`). 0s: as long as it likes.",
        ),
        Key {
            name: "route",
            kind: Kind::Tables(&ROUTE),
            default: "[]",
            doc: "Which connections go to another pool, see [[listener.NAME.route]]. Tried in the order of the file; the first that matches wins.",
        },
    ],
};

/// `[[listener.NAME.route]]`.
pub(super) static ROUTE: Table = Table {
    header: "listener.NAME.route",
    doc: "A route, `[[listener.NAME.route]]`: connections that match every condition given go to its pool. Without a condition every connection matches.",
    keys: &[
        Key {
            name: "sni",
            kind: Kind::Many {
                what: "names such as \"db.example.com\", or \"*.example.com\"",
                read: texts::sni,
            },
            default: "[]",
            doc: "The client asks in its ClientHello for one of these names. A `*` stands for one or more whole labels at the beginning; alone, for any name. Case and a final dot do not matter. []: no condition.",
        },
        Key {
            name: "alpn",
            kind: Kind::Many {
                what: "names of protocols such as \"h2\"",
                read: texts::alpn,
            },
            default: "[]",
            doc: "The client offers one of these protocols in its ClientHello. []: no condition.",
        },
        Key {
            name: "client",
            kind: Kind::Many {
                what: "networks such as \"10.0.0.0/8\"",
                read: clients::cidr,
            },
            default: "[]",
            doc: "The client's address is in one of these networks. A client of a Unix socket is in none. []: no condition.",
        },
        text(
            "pool",
            ("the name of a pool", texts::pool_name),
            "\"\"",
            "The pool that its connections go to. Must be given.",
        ),
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
        timeout(
            "max_age",
            "\"0s\"",
            "A connection is closed at a quiet moment once it is this old, counted from its accept, jittered by a tenth for each connection; at twice that age at any moment. 0s: it may become any age.",
        ),
        word(
            "send_proxy",
            words::<SendProxy>,
            "\"off\"",
            "PROXY header that a backend gets before the first byte, with the address of the client and the one it connected to; those of a PROXY header that came in are passed on. Checks send one that names nobody (LOCAL, UNKNOWN), except to a `health.port` of their own.",
        ),
        interval(
            "quiet",
            "\"1s\"",
            "`max_age` and `isobar rebalance` close a connection when it is quiet: the last byte came from the backend, all is acknowledged, no FIN yet, and nothing has moved for this long.",
        ),
        Key {
            name: sources::KEY,
            kind: Kind::Many {
                what: "IP addresses of this machine",
                read: texts::source_address,
            },
            default: "[]",
            doc: "Connections to backends, and checks, are bound to these in turn, to those of the backend's family, each with its full range of ports. []: the kernel chooses.",
        },
        timeout(
            "slow_start",
            "\"0s\"",
            "The weight of a backend that comes back, or is added to a running pool, grows evenly from a tenth to the whole over this long; not with `consistent-hash` and `first`. 0s: the whole at once.",
        ),
        Key {
            name: "replay",
            kind: Kind::WordOrCount {
                words: || vec!["off", "safe"],
                min: 0,
                max: MAX_REPLAY,
            },
            default: "\"safe\"",
            doc: "What becomes of a connection that its backend closes or resets within `connect_timeout` of the connect and before its first byte, where the client has sent no FIN. `safe`: it moves to another backend, unseen by the client, if the client has sent nothing but (a part of) one TLS ClientHello without early data. A number: if it has sent at most so many bytes, of any kind; what it has sent is then sent twice. `off`: its end is passed on.",
        },
        word(
            "when_all_down",
            words::<WhenAllDown>,
            "\"hold\"",
            "`try`: use backends that are down by checks when none is up.",
        ),
        Key {
            name: on_backend_down::KEY,
            kind: Kind::WordOrTable {
                words: on_backend_down::words,
                table: &ON_BACKEND_DOWN,
                such_as: "{ after = \"30s\", rate = \"50/s\" }",
            },
            default: "\"keep\"",
            doc: "What becomes of the live connections of a backend that goes down by checks: they go on, are reset at once, or, by a table, after a while and one after the other.",
        },
        timeout(
            "drain_timeout",
            "\"0s\"",
            "How long live connections of a backend that is drained, put into maintenance or removed from now on may go on until they are reset; `isobar drain --timeout` says otherwise for one. 0s: until they end.",
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
        table("outlier", &OUTLIER),
        table("hold", &HOLD),
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

/// Of `on_backend_down`.
pub(super) static ON_BACKEND_DOWN: Table = Table {
    header: "pool.NAME.on_backend_down",
    doc: "Live connections of a backend that is down, where that is a table; both keys must be given.",
    keys: &[
        interval(
            "after",
            "",
            "From so long on after the backend went down its connections are reset, those first on which nothing has moved for longest. If it is back before, the rest stays.",
        ),
        text(
            "rate",
            ("a rate such as \"50/s\"", texts::rate),
            "",
            "How many in a second, minute or hour, evenly spaced, of each backend: `N/s`, `N/m` or `N/h`.",
        ),
    ],
};

static HASH: Table = Table {
    header: "pool.NAME.hash",
    doc: "For `balance = \"consistent-hash\"`.",
    keys: &[
        word(
            "key",
            words::<HashKey>,
            "\"client-ip\"",
            "What is hashed: the client's address; with its port; the name that it asks for in its ClientHello; the address and port that it connected to. A connection without that has `client-ip`.",
        ),
        Key {
            name: "max_load",
            kind: Kind::Factor,
            default: "0.0",
            doc: "Bounded load: a backend takes a connection while it then has no more than this many times its share, by weight, of the pool's connections, rounded up; else the next in the order of scores does. 0.0: unbounded.",
        },
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

static OUTLIER: Table = Table {
    header: "pool.NAME.outlier",
    doc: "Passive health: a backend whose connections fail in a row gets no new ones for a while.",
    keys: &[
        count(
            "consecutive_failures",
            (0, ANY),
            "5",
            "Failures in a row, of all clients together, that eject a backend: a connect that fails or times out, or a backend that closes or resets within a second, before its first byte and while the client had sent nothing. 0: off.",
        ),
        interval(
            "eject_for",
            "\"10s\"",
            "How long the first time; it doubles with each repeat, up to 5 minutes, and is forgiven after as long without a failure.",
        ),
        count(
            "max_ejected_percent",
            (0, 100),
            "50",
            "Most of the backends that are no backups, down ones included, that are ejected at once. The last usable backend never is.",
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
pub(super) fn all_tables() -> [&'static Table; 14] {
    [
        &RUNTIME,
        &ADMIN,
        &LOG,
        &DEFAULTS,
        &LISTENER,
        &ROUTE,
        &POOL,
        &BACKEND,
        &ON_BACKEND_DOWN,
        &HASH,
        &LATENCY,
        &HEALTH,
        &OUTLIER,
        &HOLD,
    ]
}

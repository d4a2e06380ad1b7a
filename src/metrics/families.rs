//! Every metric family, declared once: name, kind, labels, help.
//!
//! The exporter takes names and label names from here, `docs/metrics.md` is written from here,
//! and tests compare what is exported with it. A new metric begins with a line in [`ALL`].

use super::names::{ConnectFailure, Ended, Failure, Lookup, Rejected, Replayed};

/// What a family measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, in the buckets of its [`Scale`](super::histogram::Scale).
    Histogram,
    /// Always 1: its labels are what it says. Its name ends in `_info`.
    Info,
}

impl Kind {
    /// The word for it in the Prometheus text format, which knows no info.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge | Self::Info => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A label, and the values it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// All its values, each of which is always exported; empty: names from the configuration.
    pub values: &'static [&'static str],
}

/// One metric, with all its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The name in queries (of a histogram: without `_bucket`, `_sum` or `_count`).
    pub name: &'static str,
    /// What it measures.
    pub kind: Kind,
    /// In the order in which they are written.
    pub labels: &'static [Label],
    /// One sentence.
    pub help: &'static str,
}

impl Family {
    /// The base unit, as the name has it.
    pub fn unit(&self) -> Option<&'static str> {
        let units = ["seconds", "bytes"];
        units
            .into_iter()
            .find(|unit| self.stem().ends_with(&format!("_{unit}")))
    }

    /// The name without the ending that its kind asks for.
    pub fn stem(&self) -> &'static str {
        let ending = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(ending).unwrap_or(self.name)
    }
}

const fn any(name: &'static str) -> Label {
    Label { name, values: &[] }
}

const fn one_of(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values }
}

const LISTENER: Label = any("listener");
const POOL: Label = any("pool");
const BACKEND: Label = any("backend");
const DIRECTION: Label = one_of("direction", &["in", "out"]);
const STATE: Label = one_of(
    "state",
    &[
        "removed",
        "maintenance",
        "draining",
        "down",
        "ejected",
        "starting",
        "up",
    ],
);

macro_rules! families {
    ($(#[doc = $help:literal] $constant:ident: $kind:ident $name:literal [$($label:expr),*];)*) => {
        $(
            #[doc = $help]
            pub const $constant: Family = Family {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help.trim_ascii(),
            };
        )*

        /// All of them, in the order in which they are exported.
        pub const ALL: &[Family] = &[$($constant,)*];
    };
}

families! {
    /// The version of isobar that runs.
    BUILD_INFO: Info "isobar_build_info" [any("version")];
    /// Connections that the process takes at once.
    CONNECTIONS_LIMIT: Gauge "isobar_connections_limit" [];

    /// Connections of the listener that are open now.
    LISTENER_CONNECTIONS_ACTIVE: Gauge "isobar_listener_connections_active" [LISTENER];
    /// Connections that the listener has accepted, refused ones included.
    LISTENER_CONNECTIONS: Counter "isobar_listener_connections_total" [LISTENER];
    /// Payload that was delivered: in to backends, out to clients.
    LISTENER_BYTES: Counter "isobar_listener_bytes_total" [LISTENER, DIRECTION];
    /// Connections that were refused before any backend was touched, by reason.
    REJECTED: Counter "isobar_rejected_total" [LISTENER, one_of("reason", Rejected::WORDS)];
    /// Whether the listener leaves new clients in its accept queue for now, by reason.
    ACCEPT_PAUSED: Gauge "isobar_accept_paused" [LISTENER, one_of("reason", &["limit", "descriptors"])];
    /// Errors of accept(2), by errno.
    ACCEPT_ERRORS: Counter "isobar_accept_errors_total" [LISTENER, any("errno")];
    /// How admitted connections ended, by reason.
    ENDED: Counter "isobar_ended_total" [LISTENER, one_of("reason", Ended::WORDS)];

    /// Backends of the pool in each state.
    POOL_BACKENDS: Gauge "isobar_pool_backends" [POOL, STATE];
    /// Backends of the pool that new connections may go to.
    POOL_BACKENDS_USABLE: Gauge "isobar_pool_backends_usable" [POOL];
    /// Connections that wait for a backend now.
    HELD_CONNECTIONS: Gauge "isobar_held_connections" [POOL];
    /// Connections that have waited for a backend, each counted once.
    HELD: Counter "isobar_held_total" [POOL];

    /// Whether the backend is in this state: 1 for exactly one of them.
    BACKEND_STATE: Gauge "isobar_backend_state" [POOL, BACKEND, STATE];
    /// The backend's share of new connections, as configured.
    BACKEND_WEIGHT: Gauge "isobar_backend_weight" [POOL, BACKEND];
    /// Connections that the backend has now, those still connecting included.
    BACKEND_CONNECTIONS_ACTIVE: Gauge "isobar_backend_connections_active" [POOL, BACKEND];
    /// Connections that picked the backend.
    BACKEND_CONNECTIONS: Counter "isobar_backend_connections_total" [POOL, BACKEND];
    /// Connects to the backend that failed, by reason.
    BACKEND_CONNECT_FAILURES: Counter "isobar_backend_connect_failures_total" [POOL, BACKEND, one_of("reason", ConnectFailure::WORDS)];
    /// What live connections hold against the backend, by reason; faults of this machine are none.
    BACKEND_FAILURES: Counter "isobar_backend_failures_total" [POOL, BACKEND, one_of("reason", Failure::WORDS)];
    /// Payload that was delivered: in to the backend, out to its clients.
    BACKEND_BYTES: Counter "isobar_backend_bytes_total" [POOL, BACKEND, DIRECTION];
    /// Active checks of the backend, by result.
    BACKEND_HEALTH_CHECKS: Counter "isobar_backend_health_checks_total" [POOL, BACKEND, one_of("result", &["passed", "failed"])];
    /// Ejections of the pool's backends for what their connections showed, repeated ones included.
    EJECTIONS: Counter "isobar_ejections_total" [POOL];
    /// Connections whose backend ended them before its first byte, by what came of them.
    REPLAYS: Counter "isobar_replays_total" [POOL, one_of("outcome", Replayed::WORDS)];

    /// Time that successful connects to the backend took.
    BACKEND_CONNECT_SECONDS: Histogram "isobar_backend_connect_seconds" [POOL, BACKEND];
    /// Round-trip times of live connections to the backend as TCP measures them, sampled; absent for Unix sockets.
    BACKEND_RTT_SECONDS: Histogram "isobar_backend_rtt_seconds" [POOL, BACKEND];
    /// Delivery rates of live connections to the backend as TCP measures them while there is enough to send, sampled; absent for Unix sockets.
    BACKEND_DELIVERY_RATE: Histogram "isobar_backend_delivery_bytes_per_second" [POOL, BACKEND];
    /// Bytes that TCP has sent to the backend on connections that were sampled, retransmitted ones included; absent for Unix sockets.
    BACKEND_TCP_SENT_BYTES: Counter "isobar_backend_tcp_sent_bytes_total" [POOL, BACKEND];
    /// Of the bytes that TCP has sent to the backend on connections that were sampled, those that were retransmitted.
    BACKEND_TCP_RETRANSMITTED_BYTES: Counter "isobar_backend_tcp_retransmitted_bytes_total" [POOL, BACKEND];
    /// Time from the first moment a backend could answer to its first byte.
    FIRST_BYTE_SECONDS: Histogram "isobar_first_byte_seconds" [POOL];
    /// Time from the accept to the end of connections.
    CONNECTION_DURATION_SECONDS: Histogram "isobar_connection_duration_seconds" [POOL];
    /// Time that connections waited for a backend, of those that did.
    HOLD_SECONDS: Histogram "isobar_hold_seconds" [POOL];

    /// Questions to DNS for backends by name, by what came of them.
    DNS_LOOKUPS: Counter "isobar_dns_lookups_total" [any("name"), one_of("result", Lookup::WORDS)];

    /// Payload that was moved by splice(2), never copied.
    SPLICED_BYTES: Counter "isobar_spliced_bytes_total" [];
    /// Pipes that carry spliced bytes now.
    PIPES_IN_USE: Gauge "isobar_pipes_in_use" [];
    /// Log lines that were given up because their sink was full or blocked.
    LOG_LINES_DROPPED: Counter "isobar_log_lines_dropped_total" [one_of("sink", &["stderr", "access"])];
    /// Panics; each ends one connection. Every one is a fault of isobar.
    PANICS: Counter "isobar_panics_total" [];
    /// Processor time of the data core.
    CORE_BUSY_SECONDS: Counter "isobar_core_busy_seconds_total" [any("core")];

    /// Whether the last load of the configuration was applied.
    CONFIG_LAST_RELOAD_SUCCESSFUL: Gauge "isobar_config_last_reload_successful" [];
    /// When the configuration was last loaded, or found unchanged, in Unix time.
    CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP_SECONDS: Gauge "isobar_config_last_reload_success_timestamp_seconds" [];
    /// How many configurations have been applied since the start; the first counts.
    CONFIG_GENERATION: Gauge "isobar_config_generation" [];

    /// Processor time of the process, user and system.
    PROCESS_CPU_SECONDS: Counter "process_cpu_seconds_total" [];
    /// Open file descriptors.
    PROCESS_OPEN_FDS: Gauge "process_open_fds" [];
    /// Most file descriptors that may be open.
    PROCESS_MAX_FDS: Gauge "process_max_fds" [];
    /// Virtual memory.
    PROCESS_VIRTUAL_MEMORY_BYTES: Gauge "process_virtual_memory_bytes" [];
    /// Memory that is resident.
    PROCESS_RESIDENT_MEMORY_BYTES: Gauge "process_resident_memory_bytes" [];
    /// When the process started, in Unix time.
    PROCESS_START_TIME_SECONDS: Gauge "process_start_time_seconds" [];
    /// Threads.
    PROCESS_THREADS: Gauge "process_threads" [];
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fmt::Write;
    use std::path::Path;

    use super::*;

    const INTRODUCTION: &str = "\
# Metrics

`GET /metrics` of the admin endpoint, in the Prometheus text format, or in OpenMetrics where the
`Accept` header asks for it. Every state and every reason is always exported, with 0 if need be.
No label ever holds what a client sent.

This page is written from `src/metrics/families.rs` by a test; change it there, then run
`ISOBAR_WRITE_DOCS=1 cargo test --lib metrics::families`.
";

    #[test]
    fn names_are_unique_and_end_as_their_kind_asks() {
        let names: HashSet<_> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            let total = family.name.ends_with("_total");
            assert_eq!(total, family.kind == Kind::Counter, "{}", family.name);
            let info = family.name.ends_with("_info");
            assert_eq!(info, family.kind == Kind::Info, "{}", family.name);
            let ours = family.name.starts_with("isobar_") || family.name.starts_with("process_");
            assert!(ours, "{}", family.name);
        }
    }

    #[test]
    fn a_help_is_one_sentence_that_needs_no_escape() {
        for family in ALL {
            assert!(family.help.ends_with('.'), "{}", family.name);
            assert!(!family.help.contains(['\\', '\n', '"']), "{}", family.name);
        }
    }

    #[test]
    fn the_unit_is_read_from_the_name() {
        assert_eq!(LISTENER_BYTES.unit(), Some("bytes"));
        assert_eq!(HOLD_SECONDS.unit(), Some("seconds"));
        assert_eq!(CORE_BUSY_SECONDS.stem(), "isobar_core_busy_seconds");
        assert_eq!(HELD.unit(), None);
        assert_eq!(BUILD_INFO.stem(), "isobar_build");
    }

    #[test]
    fn the_documentation_lists_exactly_these_metrics() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        let expected = documentation();
        if std::env::var_os("ISOBAR_WRITE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            std::fs::write(&path, &expected).expect("docs can be written");
        }
        let written = std::fs::read_to_string(&path).expect("docs/metrics.md");
        assert_eq!(written, expected, "see the introduction of docs/metrics.md");
    }

    fn documentation() -> String {
        let mut page = INTRODUCTION.to_owned();
        page.push_str("\n| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
        for family in ALL {
            let labels: Vec<_> = family
                .labels
                .iter()
                .map(|l| format!("`{}`", l.name))
                .collect();
            let (name, kind, labels) = (family.name, family.kind.as_str(), labels.join(", "));
            writeln!(page, "| `{name}` | {kind} | {labels} | {} |", family.help).expect("room");
        }
        page.push_str(
            "\n## Values of labels\n\n| metric | label | values |\n| --- | --- | --- |\n",
        );
        for family in ALL {
            for label in family
                .labels
                .iter()
                .filter(|label| !label.values.is_empty())
            {
                let values: Vec<_> = label.values.iter().map(|v| format!("`{v}`")).collect();
                let (name, values) = (family.name, values.join(", "));
                writeln!(page, "| `{name}` | `{}` | {values} |", label.name).expect("room");
            }
        }
        page
    }
}

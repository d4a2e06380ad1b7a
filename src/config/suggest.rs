//! What somebody meant who wrote a name that does not exist.

use super::keys::Table;
use super::tables::all_tables;

/// The known name closest to `written`, if one is close.
///
/// Names that differ in case or in `-` for `_` alone come first; then at most one change
/// (optimal string alignment: a swap is one) for each four characters, and one for good
/// measure, but never all of them.
pub(super) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let written = plain(written);
    let allowed = |name: &str| (1 + name.len() / 4).min(name.len().saturating_sub(1));
    let candidates = known.into_iter().take(MAX_CANDIDATES).filter_map(|name| {
        let close = name.len().abs_diff(written.len()) <= allowed(name);
        let distance = close.then(|| strsim::osa_distance(&written, &plain(name)))?;
        (distance <= allowed(name)).then_some((distance, name))
    });
    candidates
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Names that are compared: a fault in a file of a hundred thousand pools costs no second.
const MAX_CANDIDATES: usize = 1000;

/// `, did you mean …?` with the nearest known name, or nothing.
pub(super) fn did_you_mean<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
    quote: char,
) -> String {
    match nearest(written, known) {
        Some(name) => format!(", did you mean {quote}{name}{quote}?"),
        None => String::new(),
    }
}

fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

/// What to say of a key that its table does not know; `header` is the table's in the file,
/// `meant` what [`meant_key`] makes of the key.
pub(super) fn unknown_key(header: &str, name: &str, meant: Option<&str>) -> String {
    let place = match header {
        "" => "at the top level".to_owned(),
        _ => format!("in [{header}]"),
    };
    if let Some(reason) = out_of_scope(name) {
        return format!("`{name}` {place}: {reason}");
    }
    let hint = match meant {
        Some(key) => format!(", did you mean `{key}`?"),
        None => elsewhere(name).unwrap_or_default(),
    };
    format!("unknown key `{name}` {place}{hint}")
}

/// The key of a table that was probably meant: one that is written nearly so, or what other
/// proxies call so.
pub(super) fn meant_key(table: &'static Table, name: &str) -> Option<&'static str> {
    if out_of_scope(name).is_some() {
        return None;
    }
    let wanted = plain(name);
    let alias = || {
        let known = |(other, ours): &&(&str, &str)| *other == wanted && table.key(ours).is_some();
        ALIASES.iter().find(known).map(|(_, ours)| *ours)
    };
    nearest(name, table.keys.iter().map(|key| key.name)).or_else(alias)
}

/// The word that was probably meant: one that is written nearly so, or what other programs
/// call so.
pub(super) fn meant_word<'a>(written: &str, words: &[&'a str]) -> Option<&'a str> {
    let wanted = plain(written);
    let alias = || {
        let known = |(other, _): &&(&str, &str)| *other == wanted;
        let mut ours = WORD_ALIASES.iter().filter(known).map(|(_, ours)| *ours);
        ours.find_map(|ours| words.iter().find(|word| **word == ours).copied())
    };
    alias().or_else(|| nearest(written, words.iter().copied()))
}

/// Words of HAProxy, NGINX, Envoy and syslog, and what they are here.
const WORD_ALIASES: &[(&str, &str)] = &[
    ("roundrobin", "round-robin"),
    ("static_rr", "round-robin"),
    ("rr", "round-robin"),
    ("leastconn", "least-connections"),
    ("least_conn", "least-connections"),
    ("least_request", "least-connections"),
    ("source", "consistent-hash"),
    ("hash", "consistent-hash"),
    ("ip_hash", "consistent-hash"),
    ("ring_hash", "consistent-hash"),
    ("maglev", "consistent-hash"),
    ("random", "random-two"),
    ("p2c", "random-two"),
    ("least_time", "least-latency"),
    ("peak_ewma", "least-latency"),
    ("ewma", "least-latency"),
    ("warning", "warn"),
    ("err", "error"),
    ("crit", "error"),
    ("notice", "info"),
    ("logfmt", "text"),
    ("plain", "text"),
    ("ssl", "tls"),
    ("https", "http"),
    ("off", "none"),
    ("ip", "client-ip"),
    ("shutdown_sessions", "reset"),
];

/// The table in which there is such a key.
fn elsewhere(name: &str) -> Option<String> {
    let wanted = plain(name);
    let has_it = |table: &&&Table| table.key(&wanted).is_some();
    let tables = all_tables();
    let other = tables.iter().find(has_it)?;
    Some(format!(", `{wanted}` belongs in [{}]", other.header))
}

/// What others call it, and what it is called here.
const ALIASES: &[(&str, &str)] = &[
    ("frontend", "listener"),
    ("server", "listener"),
    ("entrypoint", "listener"),
    ("listen", "listener"),
    ("backend", "pool"),
    ("upstream", "pool"),
    ("cluster", "pool"),
    ("global", "runtime"),
    ("workers", "threads"),
    ("nbthread", "threads"),
    ("maxconn", "max_connections"),
    ("address", "bind"),
    ("addr", "bind"),
    ("listen", "bind"),
    ("default_backend", "pool"),
    ("upstream", "pool"),
    ("backend", "pool"),
    ("algorithm", "balance"),
    ("strategy", "balance"),
    ("policy", "balance"),
    ("servers", "backends"),
    ("targets", "backends"),
    ("endpoints", "backends"),
    ("health_check", "health"),
    ("check", "health"),
    ("queue", "hold"),
    ("retries", "connect_attempts"),
    ("host", "address"),
    ("url", "address"),
    ("id", "name"),
    ("type", "kind"),
    ("sni", "server_name"),
    ("status", "expect_status"),
    ("on_marked_down", "on_backend_down"),
    ("proxy_bind", "source_address"),
    ("source", "source_address"),
];

/// Why isobar will not have a key, if that is decided.
fn out_of_scope(name: &str) -> Option<&'static str> {
    let name = plain(name);
    let found = OUT_OF_SCOPE
        .iter()
        .find(|(names, _)| names.contains(&&*name));
    found.map(|(_, reason)| *reason)
}

const OUT_OF_SCOPE: &[(&[&str], &str)] = &[
    (
        &[
            "tls",
            "ssl",
            "cert",
            "certs",
            "crt",
            "certificate",
            "certificates",
            "cert_file",
            "key_file",
            "private_key",
            "tls_cert",
            "tls_key",
            "ssl_certificate",
            "ssl_certificate_key",
        ],
        "TLS termination is out of scope: isobar passes TLS through untouched",
    ),
    (
        &[
            "rate_limit",
            "bandwidth",
            "bandwidth_limit",
            "bwlim",
            "limit_rate",
            "download_rate",
            "upload_rate",
            "proxy_download_rate",
            "proxy_upload_rate",
        ],
        "bandwidth limits are out of scope",
    ),
    (
        &["stick_table", "stick", "sticky", "stick_on"],
        "stick tables are out of scope: balance = \"consistent-hash\" keeps a client on its backend",
    ),
    (
        &["transparent", "tproxy", "usesrc", "proxy_bind"],
        "a transparent source address is out of scope",
    ),
    (
        &[
            "agent_check",
            "agent",
            "agent_port",
            "agent_addr",
            "agent_inter",
        ],
        "agent checks are out of scope: use a [pool.NAME.health] check or `isobar weight`",
    ),
    (
        &["udp", "protocol", "quic"],
        "UDP is out of scope: isobar balances TCP",
    ),
];

#[cfg(test)]
mod tests {
    use super::super::tables::{LISTENER, POOL, ROOT, RUNTIME};
    use super::*;

    fn unknown_key(table: &'static Table, name: &str) -> String {
        super::unknown_key("t", name, meant_key(table, name))
    }

    #[test]
    fn a_slip_finds_the_name_and_a_stranger_finds_none() {
        let names = || POOL.keys.iter().map(|key| key.name);
        for (written, known) in [
            ("blance", Some("balance")),
            ("conect_timeout", Some("connect_timeout")),
            ("connect-timeout", Some("connect_timeout")),
            ("Keepalive", Some("keepalive")),
            ("keep_alive", Some("keepalive")),
            ("backend", Some("backends")),
            ("healht", Some("health")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, names()), known, "{written}");
        }
    }

    #[test]
    fn words_of_other_proxies_are_understood() {
        assert!(unknown_key(&POOL, "servers").ends_with("did you mean `backends`?"));
        assert!(unknown_key(&ROOT, "upstream").ends_with("did you mean `pool`?"));
        assert!(unknown_key(&LISTENER, "default_backend").ends_with("did you mean `pool`?"));
        assert!(unknown_key(&RUNTIME, "maxconn").ends_with("did you mean `max_connections`?"));
    }

    #[test]
    fn words_of_other_programs_are_understood() {
        let strategies = ["round-robin", "least-connections", "consistent-hash"];
        for (written, meant) in [
            ("roundrobin", Some("round-robin")),
            ("leastconn", Some("least-connections")),
            ("LEAST_REQUEST", Some("least-connections")),
            ("source", Some("consistent-hash")),
            ("round-robbin", Some("round-robin")),
            ("warning", None),
        ] {
            assert_eq!(meant_word(written, &strategies), meant, "{written}");
        }
        assert_eq!(meant_word("warning", &["error", "warn"]), Some("warn"));
    }

    #[test]
    fn a_key_of_another_table_is_sent_there() {
        assert_eq!(
            unknown_key(&LISTENER, "idle_timeout"),
            "unknown key `idle_timeout` in [t], `idle_timeout` belongs in [pool.NAME]"
        );
    }

    #[test]
    fn what_is_out_of_scope_is_told_so() {
        for name in [
            "tls",
            "cert",
            "rate_limit",
            "stick_table",
            "transparent",
            "agent_check",
            "udp",
        ] {
            assert!(
                unknown_key(&LISTENER, name).contains("out of scope"),
                "{name}"
            );
        }
    }
}

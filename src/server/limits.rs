//! How many connections the machine allows.
//!
//! Descriptors are the budget: two for each connection, and apart from that what listens, what
//! checks, what is logged to, and the pipes of splice, whose number is capped so that they
//! never take what connections need.

use rustix::process::{Resource, getrlimit, setrlimit};

use super::core_count;
use crate::admin;
use crate::config::{Config, KeyPath, Listener, Loaded, Problem};

/// The kernel cuts every accept queue to this, see listen(2).
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

/// Descriptors of the process itself. Idle it has eleven: the standard streams, one more for
/// the log, a socket pair and its copy for signals, four of the control plane's runtime and
/// one on /dev/null. Then there are the access file, the admin socket, and what is open for
/// a moment: a file of /proc, the access file while it is opened again.
const OWN: u64 = 16;
/// Each runtime has two epolls, an eventfd and a copy of the signal socket.
const PER_CORE: u64 = 4;
/// Checks get at most this part of all descriptors: they are short, seldom all at once, and
/// one that finds no descriptor counts for nothing.
const CHECKS_SHARE: u64 = 4;
/// Most pipes of all cores together, of two descriptors each.
const MOST_PIPES: u64 = 256;
/// Pipes get at most this part of all descriptors.
const PIPES_SHARE: u64 = 16;

/// What the process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Connections at once.
    pub(super) connections: usize,
    /// Pipes of each core.
    pub(super) pipes_per_core: usize,
    /// What the descriptors would be enough for.
    allowed: usize,
}

/// Raises the soft limit of open files to the hard one and divides what there is.
pub(super) fn limits(config: &Config, cores: usize) -> Limits {
    divide(raise_descriptors(), config, cores)
}

/// What a key asks for and this machine does not give.
pub(super) type Shortage<'a> = (KeyPath<'a>, String);

/// Limits of this machine below what the configuration asks for, one sentence each with the
/// remedy, where the key stands. Raises the soft limit of open files as a start would.
pub fn warnings(loaded: &Loaded) -> Vec<Problem> {
    let config = &loaded.config;
    let allowed = limits(config, core_count(config)).allowed;
    let somaxconn = std::fs::read_to_string(SOMAXCONN).ok();
    let somaxconn = somaxconn.and_then(|text| text.trim().parse().ok());
    let cut = somaxconn.and_then(|most| cut_backlog(config, most));
    let lowered = lowered(config, allowed).into_iter();
    let all = lowered.chain(out_of_reach(config, allowed)).chain(cut);
    all.map(|(key, message)| loaded.warning(key, message))
        .collect()
}

fn lowered(config: &Config, allowed: usize) -> Option<Shortage<'static>> {
    let wanted = Some(config.runtime.max_connections).filter(|wanted| *wanted > allowed)?;
    let message = format!(
        "runtime.max_connections = {wanted} is lowered to {allowed}, which is what {DESCRIPTORS}"
    );
    Some((KeyPath::MaxConnections, message))
}

/// The limit that is too low, with its remedy.
const DESCRIPTORS: &str = "the open-file limit of this process allows; raise it with \
                           `ulimit -n`, or LimitNOFILE= of systemd";

/// Limits of listeners that the whole process cannot reach, each; else all of them together.
fn out_of_reach<'c>(config: &'c Config, allowed: usize) -> Vec<Shortage<'c>> {
    let limited: Vec<&Listener> = config
        .listeners
        .iter()
        .map(|listener| &**listener)
        .filter(|listener| listener.max_connections > 0)
        .collect();
    let alone = |listener: &&'c Listener| {
        let (name, wanted) = (&listener.name, listener.max_connections);
        let message = format!(
            "listener `{name}` cannot have {wanted} connections: {allowed} in all is what \
             {DESCRIPTORS}"
        );
        (wanted > allowed).then_some((KeyPath::ListenerMaxConnections(name), message))
    };
    let alone: Vec<_> = limited.iter().filter_map(alone).collect();
    let sum: usize = limited.iter().fold(0, |sum, listener| {
        sum.saturating_add(listener.max_connections)
    });
    match limited.last() {
        Some(last) if alone.is_empty() && sum > allowed => {
            let message = format!(
                "the listeners cannot have {sum} connections together: {allowed} in all is what \
                 {DESCRIPTORS}"
            );
            vec![(KeyPath::ListenerMaxConnections(&last.name), message)]
        }
        _ => alone,
    }
}

fn cut_backlog(config: &Config, most: u32) -> Option<Shortage<'_>> {
    let longest = config.listeners.iter().rev().max_by_key(|l| l.backlog);
    let longest = longest.filter(|listener| listener.backlog > most)?;
    let wanted = longest.backlog;
    let message = format!(
        "backlog = {wanted} is cut to {most} by the kernel; raise it with \
         `sysctl net.core.somaxconn={wanted}`"
    );
    Some((KeyPath::Backlog(&longest.name), message))
}

/// The limit of open files in force afterwards.
fn raise_descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let soft = limit.current;
        limit.current = limit.maximum;
        if setrlimit(Resource::Nofile, limit).is_err() {
            limit.current = soft;
        }
    }
    limit.current.unwrap_or(u64::from(u32::MAX))
}

fn divide(descriptors: u64, config: &Config, cores: usize) -> Limits {
    let cores = cores.max(1) as u64;
    let pipes = (descriptors / PIPES_SHARE / 2).min(MOST_PIPES) / cores;
    let addresses: usize = config
        .listeners
        .iter()
        .map(|listener| listener.bind.len())
        .sum();
    let backends: usize = config.pools.iter().map(|pool| pool.backends.len()).sum();
    let admin = admin::most_connections(descriptors);
    let fixed = OWN + PER_CORE * cores + 2 * pipes * cores + admin;
    let checks = (backends as u64).min(descriptors / CHECKS_SHARE);
    let reserved = fixed + addresses as u64 + checks;
    let for_connections = descriptors.saturating_sub(reserved);
    let allowed = usize::try_from(for_connections / 2)
        .unwrap_or(usize::MAX)
        .max(1);
    let wanted = config.runtime.max_connections;
    let connections = if wanted == 0 {
        allowed
    } else {
        wanted.min(allowed)
    };
    Limits {
        connections,
        pipes_per_core: usize::try_from(pipes).unwrap_or(0),
        allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let loaded = crate::config::parse(text, "lb.toml", &|_| None);
        loaded.expect("a configuration").config
    }

    const FILE: &str = r#"
        [runtime]
        max_connections = 5000
        [listener.web]
        bind = "127.0.0.1:0"
        backlog = 300
        pool = "web"
        [pool.web]
        backends = ["127.0.0.1:1"]
    "#;

    #[test]
    fn a_limit_below_the_configuration_is_named_with_both_numbers() {
        let config = config(FILE);
        let limits = divide(1024, &config, 1);
        let (key, warning) =
            lowered(&config, limits.allowed).expect("1,024 descriptors are not 5,000 connections");
        assert_eq!(key, KeyPath::MaxConnections);
        assert!(warning.contains("= 5000"), "{warning}");
        assert!(
            warning.contains(&limits.connections.to_string()),
            "{warning}"
        );
        assert_eq!(lowered(&config, divide(65_536, &config, 1).allowed), None);
    }

    #[test]
    fn many_backends_leave_half_of_the_descriptors_to_connections() {
        let backends: Vec<_> = (1..=9999).map(|n| format!("\"127.0.0.1:{n}\"")).collect();
        let text = format!("[pool.p]\nbackends = [{}]", backends.join(","));
        let limits = divide(1024, &config(&text), 2);
        assert!(limits.connections > 1024 / 2 / 2, "{limits:?}");
    }

    #[test]
    fn with_next_to_nothing_one_connection_is_left() {
        for descriptors in [0, 1, 24] {
            assert_eq!(divide(descriptors, &config(FILE), 4).connections, 1);
        }
    }

    #[test]
    fn an_accept_queue_that_the_kernel_cuts_is_named() {
        let config = config(FILE);
        let (_, warning) = cut_backlog(&config, 128).expect("300 is more than 128");
        assert!(
            warning.starts_with("backlog = 300 is cut to 128"),
            "{warning}"
        );
        assert_eq!(cut_backlog(&config, 300), None);
    }

    #[test]
    fn limits_of_listeners_that_the_process_cannot_reach_are_named() {
        let two = |a: usize, b: usize| {
            let listener = |name: &str, most: usize| {
                format!(
                    "[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"p\"\nmax_connections = {most}\n"
                )
            };
            let pool = "[pool.p]\nbackends = [\"127.0.0.1:1\"]\n";
            config(&(listener("a", a) + &listener("b", b) + pool))
        };
        let keys = |config: &Config| {
            let found = out_of_reach(config, 100);
            found
                .iter()
                .map(|(key, _)| key.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&two(50, 50)), Vec::<String>::new());
        assert_eq!(keys(&two(0, 100)), Vec::<String>::new());
        assert_eq!(keys(&two(50, 51)), ["listener.b.max_connections"]);
        assert_eq!(keys(&two(101, 51)), ["listener.a.max_connections"]);
    }
}

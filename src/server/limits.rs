//! How many connections the machine allows.
//!
//! Descriptors are the budget: two for each connection, and apart from that what listens, what
//! checks, what is logged to, and the pipes of splice, whose number is capped so that they
//! never take what connections need.

use rustix::process::{Resource, getrlimit, setrlimit};

use super::core_count;
use crate::admin;
use crate::config::Config;

/// The kernel cuts every accept queue to this, see listen(2).
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

/// Descriptors of the process itself: standard streams, runtimes, log.
const OWN: u64 = 32;
/// Requests to the admin endpoint get at most this part of all descriptors.
const ADMIN_SHARE: u64 = 16;
/// Each runtime has an epoll, an eventfd and a socket pair.
const PER_CORE: u64 = 4;
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
    /// The configuration asks for more connections than this.
    pub(super) lowered_from: Option<usize>,
}

/// Raises the soft limit of open files to the hard one and divides what there is.
pub(super) fn limits(config: &Config, cores: usize) -> Limits {
    divide(raise_descriptors(), config, cores)
}

/// Limits of this machine below what the configuration asks for, one sentence each with the
/// remedy. Raises the soft limit of open files as a start would.
pub fn warnings(config: &Config) -> Vec<String> {
    let lowered = lowered(limits(config, core_count(config)));
    let somaxconn = std::fs::read_to_string(SOMAXCONN).ok();
    let somaxconn = somaxconn.and_then(|text| text.trim().parse().ok());
    let cut = somaxconn.and_then(|most| cut_backlog(config, most));
    lowered.into_iter().chain(cut).collect()
}

fn lowered(limits: Limits) -> Option<String> {
    let (wanted, used) = (limits.lowered_from?, limits.connections);
    Some(format!(
        "runtime.max_connections = {wanted} is lowered to {used}, which is what the open-file \
         limit of this process allows; raise it with `ulimit -n`, or LimitNOFILE= of systemd"
    ))
}

fn cut_backlog(config: &Config, most: u32) -> Option<String> {
    let wanted = config.listeners.iter().map(|listener| listener.backlog);
    let wanted = wanted.max().filter(|wanted| *wanted > most)?;
    Some(format!(
        "backlog = {wanted} is cut to {most} by the kernel; raise it with \
         `sysctl net.core.somaxconn={wanted}`"
    ))
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
    let admin = (descriptors / ADMIN_SHARE).min(admin::MOST_CONNECTIONS as u64);
    let fixed = OWN + PER_CORE * cores + 2 * pipes * cores + admin;
    let reserved = fixed + addresses as u64 + backends as u64;
    // However little there is, half of it is for connections: accepting pauses when even that
    // turns out to be too much.
    let for_connections = descriptors.saturating_sub(reserved).max(descriptors / 2);
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
        lowered_from: (wanted > allowed).then_some(wanted),
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
        let limits = divide(1024, &config(FILE), 1);
        let warning = lowered(limits).expect("1,024 descriptors are not 5,000 connections");
        assert!(warning.contains("= 5000"), "{warning}");
        assert!(
            warning.contains(&limits.connections.to_string()),
            "{warning}"
        );
        assert_eq!(lowered(divide(65_536, &config(FILE), 1)), None);
    }

    #[test]
    fn an_accept_queue_that_the_kernel_cuts_is_named() {
        let warning = cut_backlog(&config(FILE), 128).expect("300 is more than 128");
        assert!(
            warning.starts_with("backlog = 300 is cut to 128"),
            "{warning}"
        );
        assert_eq!(cut_backlog(&config(FILE), 300), None);
    }
}

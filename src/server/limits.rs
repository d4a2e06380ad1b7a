//! How many connections the machine allows.
//!
//! Descriptors are the budget: two for each connection, and apart from that what listens, what
//! checks, what is logged to, and the pipes of splice, whose number is capped so that they
//! never take what connections need.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Config;

/// Descriptors of the process itself: standard streams, runtimes, log, admin requests.
const OWN: u64 = 32;
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
    let reserved = OWN + PER_CORE * cores + 2 * pipes * cores + addresses as u64 + backends as u64;
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

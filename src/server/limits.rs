//! What the machine allows: how many connections, and what of the file is beyond it.
//!
//! Descriptors are the budget of connections: two for each, and apart from that what listens,
//! what checks, what is logged to, and the pipes of splice, whose number is capped so that
//! they never take what connections need.
//!
//! Everything else that the machine limits (queues, ports, pages of pipes) bounds nothing in
//! isobar: it works with less, or waits. What is below what the file asks for is a warning.

mod descriptors;
mod machine;
mod pipes;
mod ports;
mod shortages;
mod sources;
#[cfg(test)]
mod tests;
mod wanted;

pub(super) use machine::Machine;

use crate::admin;
use crate::config::{Config, Loaded, Problem};

/// Descriptors of the process itself. Idle it has eleven: the standard streams, one more for
/// the log, a socket pair and its copy for signals, four of the control plane's runtime and
/// one on /dev/null. Then there are the access file, the admin socket, and what is open for
/// a moment: a file of /proc, the access file while it is opened again.
const OWN: u64 = 16;
/// The runtime of each has an epoll, an eventfd and a timerfd.
const PER_CORE: u64 = 3;
/// Of each connection: the client's socket and the backend's.
const PER_CONNECTION: u64 = 2;
/// Checks get at most this part of all descriptors: they are short, seldom all at once, and
/// one that finds no descriptor counts for nothing.
const CHECKS_SHARE: u64 = 4;
/// Addresses that a name is taken to stand for, each of which is checked; a question to DNS and
/// a check are seldom under way at the same time.
const OF_A_NAME: usize = 8;
/// Most pipes of all cores together, of two descriptors each.
const MOST_PIPES: u64 = 256;
/// Pipes get at most this part of all descriptors.
const PIPES_SHARE: u64 = 16;

/// What the process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Data threads.
    pub(super) cores: usize,
    /// Connections at once.
    pub(super) connections: usize,
    /// Pipes of each core.
    pub(super) pipes_per_core: usize,
    /// What the descriptors would be enough for.
    allowed: usize,
}

impl Limits {
    /// Divides what there is.
    pub(super) fn new(config: &Config, machine: &Machine) -> Self {
        let cores = match config.runtime.threads {
            0 => machine.cores,
            threads => threads,
        };
        divide(machine.descriptors, config, cores)
    }
}

/// Limits of this machine below what the configuration asks for, one sentence each with the
/// remedy, where the key stands. Raises the soft limit of open files as a start would.
pub fn warnings(loaded: &Loaded) -> Vec<Problem> {
    warnings_on(&Machine::read(), loaded)
}

/// The same of a machine that was looked at before.
pub(super) fn warnings_on(machine: &Machine, loaded: &Loaded) -> Vec<Problem> {
    let all = shortages::shortages(&loaded.config, machine);
    all.into_iter()
        .map(|(key, message)| loaded.warning(key, message))
        .collect()
}

fn divide(descriptors: u64, config: &Config, cores: usize) -> Limits {
    let for_connections = descriptors.saturating_sub(reserved(descriptors, config, cores));
    let allowed = usize::try_from(for_connections / PER_CONNECTION)
        .unwrap_or(usize::MAX)
        .max(1);
    let wanted = config.runtime.max_connections;
    let connections = if wanted == 0 {
        allowed
    } else {
        wanted.min(allowed)
    };
    Limits {
        cores,
        connections,
        pipes_per_core: usize::try_from(pipes_per_core(descriptors, cores)).unwrap_or(0),
        allowed,
    }
}

fn pipes_per_core(descriptors: u64, cores: usize) -> u64 {
    (descriptors / PIPES_SHARE / 2).min(MOST_PIPES) / cores.max(1) as u64
}

/// Descriptors that are not for connections, of so many in all. Never less of more.
fn reserved(descriptors: u64, config: &Config, cores: usize) -> u64 {
    let pipes = pipes_per_core(descriptors, cores);
    let cores = cores.max(1) as u64;
    let addresses: usize = config
        .listeners
        .iter()
        .map(|listener| listener.bind.len())
        .sum();
    let backends = config.pools.iter().flat_map(|pool| &pool.backends);
    let backends: usize = backends
        .map(|backend| match backend.address.is_name() {
            true => OF_A_NAME,
            false => 1,
        })
        .sum();
    let admin = admin::most_connections(descriptors);
    let checks = (backends as u64).min(descriptors / CHECKS_SHARE);
    OWN + PER_CORE * cores + 2 * pipes * cores + admin + addresses as u64 + checks
}

/// Descriptors with which so many connections are allowed.
fn descriptors_for(connections: usize, config: &Config, cores: usize) -> u64 {
    let of_connections = (connections as u64).saturating_mul(PER_CONNECTION);
    let mut descriptors = of_connections;
    // What is reserved grows with what there is, up to a bound: this ends at its first answer.
    loop {
        let more = of_connections.saturating_add(reserved(descriptors, config, cores));
        if more == descriptors {
            return descriptors;
        }
        descriptors = more;
    }
}

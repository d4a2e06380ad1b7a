//! What a file asks for and a machine does not give: one sentence for each limit, with both
//! numbers and the command that raises it.
//!
//! A number that is left out asks for nothing, with the exception of `backlog`, whose default
//! is that of the kernel: where the machine has less, somebody lowered it.

use super::machine::Machine;
use super::wanted::Wanted;
use super::{Limits, PER_CONNECTION, descriptors, pipes, ports, sources};
use crate::config::{Config, KeyPath, Listener};
use crate::net::Address;

/// The key that asks, and what there is to say.
pub(super) type Shortage<'c> = (KeyPath<'c>, String);

/// All of them.
pub(super) fn shortages<'c>(config: &'c Config, machine: &Machine) -> Vec<Shortage<'c>> {
    let limits = Limits::new(config, machine);
    let mut found = descriptors::shortages(config, machine, limits);
    found.extend(threads(config, machine));
    found.extend(
        machine
            .accept_queue
            .and_then(|most| cut_backlog(config, most)),
    );
    found.extend(machine.half_open.and_then(|most| half_open(config, most)));
    if let Some(ports) = machine.ports {
        found.extend(ports::shortages(config, ports));
    }
    found.extend(sources::shortages(config, machine.is_here));
    found.extend(pipes::shortages(config, machine, limits));
    if let Some(wanted) = Wanted::of_process(config) {
        found.extend(watches(&wanted, machine));
        found.extend(tracked(&wanted, machine));
    }
    found
}

fn threads(config: &Config, machine: &Machine) -> Option<Shortage<'static>> {
    let (threads, cores) = (config.runtime.threads, machine.cores);
    let more = match cores < machine.affinity {
        true => format!(
            ", or raise its CPU quota with `systemctl set-property isobar.service \
             CPUQuota={threads}00%`"
        ),
        false => String::new(),
    };
    let message = format!(
        "runtime.threads = {threads} is more than the cores that this process may use, {cores}: \
         threads wait for one another; leave it out for one a core{more}"
    );
    (threads > cores).then_some((KeyPath::Threads, message))
}

fn cut_backlog(config: &Config, most: u64) -> Option<Shortage<'_>> {
    longest(config, most, |_| true).map(|(listener, others)| {
        let (name, wanted) = (&listener.name, listener.backlog);
        let message = format!(
            "listener.{name}.backlog = {wanted} is cut to {most} by the kernel{others}; raise it \
             with `sysctl -w net.core.somaxconn={wanted}`"
        );
        (KeyPath::Backlog(name), message)
    })
}

/// See `tcp_max_syn_backlog` in tcp(7): with SYN cookies it is no limit.
fn half_open(config: &Config, most: u64) -> Option<Shortage<'_>> {
    let has_tcp = |listener: &Listener| {
        let mut addresses = listener.bind.iter();
        addresses.any(|address| matches!(address, Address::Ip(_)))
    };
    longest(config, most, has_tcp).map(|(listener, others)| {
        let (name, wanted) = (&listener.name, listener.backlog);
        let message = format!(
            "listener.{name}.backlog = {wanted} is out of reach{others}: without SYN cookies the \
             kernel keeps {most} half-open connections; turn them on with \
             `sysctl -w net.ipv4.tcp_syncookies=1`, or keep more with \
             `sysctl -w net.ipv4.tcp_max_syn_backlog={wanted}`"
        );
        (KeyPath::Backlog(name), message)
    })
}

/// The listener with the longest queue, the first of several, if that is longer than `most`;
/// and in words how many others are in the same case.
fn longest(
    config: &Config,
    most: u64,
    counts: fn(&Listener) -> bool,
) -> Option<(&Listener, String)> {
    let listeners = config.listeners.iter().map(|listener| &**listener);
    let longer = listeners.filter(|l| u64::from(l.backlog) > most && counts(l));
    let longer: Vec<_> = longer.collect();
    let first = longer
        .iter()
        .rev()
        .max_by_key(|listener| listener.backlog)?;
    let others = match longer.len() - 1 {
        0 => String::new(),
        1 => ", and so is that of another listener".to_owned(),
        others => format!(", and so are those of {others} other listeners"),
    };
    Some((first, others))
}

fn watches<'c>(wanted: &Wanted<'c>, machine: &Machine) -> Option<Shortage<'c>> {
    let needed = (wanted.connections as u64).saturating_mul(PER_CONNECTION);
    let most = machine.watches.filter(|most| *most < needed)?;
    let message = format!(
        "{} has {needed} sockets to watch, and fs.epoll.max_user_watches allows a user {most}; \
         raise it with `sysctl -w fs.epoll.max_user_watches={needed}`",
        wanted.subject
    );
    Some((wanted.key, message))
}

/// A connection is two to the firewall: the client's and the one to the backend.
fn tracked<'c>(wanted: &Wanted<'c>, machine: &Machine) -> Option<Shortage<'c>> {
    let needed = (wanted.connections as u64).saturating_mul(2);
    let most = machine.tracked.filter(|most| *most < needed)?;
    let message = format!(
        "{} is {needed} connections to a firewall that tracks them, two each, and \
         net.netfilter.nf_conntrack_max is {most}: further ones are dropped; raise it with \
         `sysctl -w net.netfilter.nf_conntrack_max={needed}`, or exempt them from tracking",
        wanted.subject
    );
    Some((wanted.key, message))
}

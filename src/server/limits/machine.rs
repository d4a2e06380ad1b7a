//! What the kernel says that this machine and this process may use.

use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use rustix::param::page_size;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, sched_getaffinity};

/// Where the kernel's settings are, see proc(5). Those of `net` are the ones of this network
/// namespace.
const SETTINGS: &str = "/proc/sys";

/// The limits in force. `None`: the kernel does not say, and nothing is said about it.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Machine {
    /// Open files of this process; the soft limit, after it was raised to the hard one.
    pub(super) descriptors: u64,
    /// What that limit can be raised to, `fs.nr_open`.
    pub(super) most_descriptors: Option<u64>,
    /// Open files of all processes, `fs.file-max`.
    pub(super) all_descriptors: Option<u64>,
    /// Cores that this process may use, by its affinity and its CPU quota.
    pub(super) cores: usize,
    /// The same by its affinity alone, see sched_setaffinity(2).
    pub(super) affinity: usize,
    /// The kernel cuts every accept queue to this, `net.core.somaxconn`, see listen(2).
    pub(super) accept_queue: Option<u64>,
    /// Half-open connections of a listener where there are no SYN cookies; `None`: there are.
    pub(super) half_open: Option<u64>,
    /// Ephemeral ports, `net.ipv4.ip_local_port_range` without the reserved ones.
    pub(super) ports: Option<u64>,
    /// Largest pipe of an unprivileged user in bytes, `fs.pipe-max-size`, see pipe(7).
    pub(super) pipe_size: Option<u64>,
    /// Pages of all pipes of an unprivileged user, `fs.pipe-user-pages-soft`; `None` also
    /// where there is no limit.
    pub(super) pipe_pages: Option<u64>,
    /// Bytes of a page.
    pub(super) page_size: u64,
    /// Descriptors that a user may watch with epoll(7), `fs.epoll.max_user_watches`.
    pub(super) watches: Option<u64>,
    /// Connections that the firewall can track, where it does, `net.netfilter.nf_conntrack_max`.
    pub(super) tracked: Option<u64>,
    /// Whether it is an address of this machine.
    pub(super) is_here: fn(IpAddr) -> bool,
    /// Exempt from limits of resources (`CAP_SYS_RESOURCE`).
    pub(super) exceeds_resources: bool,
    /// Exempt from limits of the whole machine (`CAP_SYS_ADMIN`).
    pub(super) exceeds_machine: bool,
}

impl Machine {
    /// Reads them, and raises the soft limit of open files to the hard one.
    pub(in crate::server) fn read() -> Self {
        let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        // Any value but 0 sends cookies when the queue is full, at the latest.
        let without_cookies = number("net/ipv4/tcp_syncookies") == Some(0);
        let half_open = number("net/ipv4/tcp_max_syn_backlog");
        Self {
            descriptors: raise_descriptors(),
            most_descriptors: number("fs/nr_open"),
            all_descriptors: number("fs/file-max"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            affinity: sched_getaffinity(None).map_or(1, |cpus| cpus.count() as usize),
            accept_queue: number("net/core/somaxconn"),
            half_open: half_open.filter(|_| without_cookies),
            ports: ports(),
            pipe_size: number("fs/pipe-max-size"),
            pipe_pages: number("fs/pipe-user-pages-soft").filter(|pages| *pages > 0),
            page_size: page_size() as u64,
            watches: number("fs/epoll/max_user_watches"),
            // 0 is no limit to newer kernels.
            tracked: number("net/netfilter/nf_conntrack_max").filter(|most| *most > 0),
            is_here: crate::net::is_here,
            exceeds_resources: held.contains(CapabilitySet::SYS_RESOURCE),
            exceeds_machine: held.contains(CapabilitySet::SYS_ADMIN),
        }
    }
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

fn setting(name: &str) -> Option<String> {
    std::fs::read_to_string(Path::new(SETTINGS).join(name)).ok()
}

fn number(name: &str) -> Option<u64> {
    setting(name)?.trim().parse().ok()
}

fn ports() -> Option<u64> {
    let range = setting("net/ipv4/ip_local_port_range")?;
    let reserved = setting("net/ipv4/ip_local_reserved_ports");
    usable_ports(&range, reserved.as_deref().unwrap_or_default())
}

/// Ports of `first last` that are not in `reserved`, a list such as `8080,9148-9150`.
fn usable_ports(range: &str, reserved: &str) -> Option<u64> {
    let (first, last) = bounds(range.trim(), |c| c.is_ascii_whitespace())?;
    let within = |list: &str| {
        let (from, to) = bounds(list.trim(), |c| c == '-')?;
        let (from, to) = (from.max(first), to.min(last));
        (from <= to).then(|| u64::from(to - from) + 1)
    };
    let taken: u64 = reserved.split(',').filter_map(within).sum();
    let all = u64::from(last.checked_sub(first)?) + 1;
    Some(all.saturating_sub(taken))
}

/// Two numbers, or one that stands for both.
fn bounds(text: &str, separator: fn(char) -> bool) -> Option<(u16, u16)> {
    let port = |text: &str| u16::from_str(text.trim()).ok();
    match text.split_once(separator) {
        Some((first, last)) => Some((port(first)?, port(last)?)),
        None => port(text).map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_of_the_range_without_the_reserved_ones() {
        for (range, reserved, usable) in [
            ("32768\t60999\n", "\n", Some(28_232)),
            ("1024 65535", "", Some(64_512)),
            ("1024 65535", "8080,9148-9150\n", Some(64_508)),
            ("1000 1009", "1-999,1005-2000,3000", Some(5)),
            ("1000 1000", "1000", Some(0)),
            ("7 6", "", None),
            ("", "", None),
            ("a b", "", None),
        ] {
            assert_eq!(usable_ports(range, reserved), usable, "{range} {reserved}");
        }
    }

    #[test]
    fn this_machine_tells_what_every_linux_tells() {
        let machine = Machine::read();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(limit.current, Some(machine.descriptors));
        assert!((1..=machine.affinity).contains(&machine.cores));
        assert!(machine.page_size >= 4096);
        for (name, told) in [
            ("fs.nr_open", machine.most_descriptors),
            ("fs.file-max", machine.all_descriptors),
            ("net.core.somaxconn", machine.accept_queue),
            ("net.ipv4.ip_local_port_range", machine.ports),
            ("fs.pipe-max-size", machine.pipe_size),
            ("fs.epoll.max_user_watches", machine.watches),
        ] {
            assert!(told.is_some_and(|value| value > 0), "{name}: {told:?}");
        }
    }
}

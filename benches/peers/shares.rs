//! How evenly connections and work lie on a proxy's workers, seen from outside.
//!
//! A proxy's worker, be it a thread or a process, waits for its connections in an epoll instance
//! of its own, and the kernel tells what is in each: `/proc/PID/fdinfo/FD` lists the inodes
//! (proc_pid_fdinfo(5)). Those that are established connections to the proxy's address are its
//! clients. A proxy whose workers share one instance would show a single one.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::SocketAddr;

use procfs::net::TcpState;
use procfs::process::{FDTarget, Process};
use serde::{Deserialize, Serialize};

/// What each worker has, largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shares {
    /// Client connections in each epoll instance that has any.
    pub connections: Vec<u64>,
    /// Nanoseconds of the busiest threads, as many as there are workers.
    pub cpu_ns: Vec<u64>,
}

/// The part of the largest in the sum, from 0 to 1; none of nothing.
pub(crate) fn largest(parts: &[u64]) -> Option<f64> {
    let sum: u64 = parts.iter().sum();
    let largest = parts.iter().max().filter(|_| sum > 0)?;
    Some(*largest as f64 / sum as f64)
}

/// What the `workers` busiest threads spent between two readings, largest first.
///
/// A proxy's other threads (a log, checks, an idle parent process) are no workers, and their
/// little would make the largest share look smaller than it is.
pub(crate) fn busiest(
    before: &HashMap<i32, u64>,
    after: &HashMap<i32, u64>,
    workers: usize,
) -> Vec<u64> {
    let spent = |(thread, ns): (&i32, &u64)| ns - before.get(thread).unwrap_or(&0).min(ns);
    let mut spent: Vec<u64> = after.iter().map(spent).collect();
    spent.sort_unstable_by(|a, b| b.cmp(a));
    spent.truncate(workers);
    spent
}

/// How many of the clients of `address` are in each epoll instance of the processes, largest
/// first; an instance without any is left out.
pub(crate) fn connections(pids: &[i32], address: SocketAddr) -> io::Result<Vec<u64>> {
    let clients = clients(address)?;
    let mut instances: Vec<HashSet<u64>> = Vec::new();
    for &pid in pids {
        for watched in epolls(pid)? {
            let waiting: HashSet<u64> = watched.intersection(&clients).copied().collect();
            // A descriptor that was duplicated shows the same instance again.
            if !waiting.is_empty() && !instances.contains(&waiting) {
                instances.push(waiting);
            }
        }
    }
    let mut counts: Vec<u64> = instances.iter().map(|one| one.len() as u64).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    Ok(counts)
}

/// Inodes of the sockets that `address` has accepted.
fn clients(address: SocketAddr) -> io::Result<HashSet<u64>> {
    let sockets = procfs::net::tcp().map_err(io::Error::other)?;
    let accepted = sockets
        .into_iter()
        .filter(|socket| socket.local_address == address && socket.state == TcpState::Established);
    Ok(accepted.map(|socket| socket.inode).collect())
}

/// The inodes in each epoll instance of the process.
fn epolls(pid: i32) -> io::Result<Vec<HashSet<u64>>> {
    let descriptors = Process::new(pid).and_then(|process| process.fd());
    // One that is gone by the time it is looked at (a health check's) is no epoll instance.
    let descriptors = descriptors.map_err(io::Error::other)?.flatten();
    let epolls = descriptors.filter(|descriptor| {
        matches!(&descriptor.target, FDTarget::AnonInode(kind) if kind.contains("eventpoll"))
    });
    let info = |fd: i32| fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"));
    epolls.map(|epoll| Ok(watched(&info(epoll.fd)?))).collect()
}

/// The inodes in what `/proc/PID/fdinfo` says of an epoll instance.
pub(crate) fn watched(info: &str) -> HashSet<u64> {
    let lines = info.lines().filter(|line| line.starts_with("tfd:"));
    let inode = |line: &str| {
        let hex = line.split("ino:").nth(1)?.split_whitespace().next()?;
        u64::from_str_radix(hex, 16).ok()
    };
    lines.filter_map(inode).collect()
}

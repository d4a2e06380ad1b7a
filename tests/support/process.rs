//! A process as the kernel sees it, from /proc.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::FDTarget;

/// A running process.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

/// What a process has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Ends of pipes: isobar keeps some clean ones for later.
    pub pipes: usize,
    /// Sockets, files and everything else.
    pub others: usize,
}

impl Process {
    /// Whether it runs still.
    pub fn is_alive(self) -> bool {
        self.stat().is_some_and(|stat| stat.state != 'Z')
    }

    /// What it has open now.
    pub fn descriptors(self) -> Descriptors {
        let targets = self.targets();
        let pipes = targets
            .iter()
            .filter(|target| matches!(target, FDTarget::Pipe(_)))
            .count();
        Descriptors {
            pipes,
            others: targets.len() - pipes,
        }
    }

    /// The states of its TCP sockets, both address families.
    pub fn tcp_states(self) -> Vec<TcpState> {
        let own: HashSet<u64> = self
            .targets()
            .into_iter()
            .filter_map(|target| match target {
                FDTarget::Socket(inode) => Some(inode),
                _ => None,
            })
            .collect();
        tcp_sockets()
            .into_iter()
            .filter(|socket| own.contains(&socket.inode))
            .map(|socket| socket.state)
            .collect()
    }

    /// Processor time of all its threads so far, user and kernel.
    pub fn cpu_time(self) -> Duration {
        let tasks = procfs::process::Process::new(self.id()).and_then(|process| process.tasks());
        let Ok(tasks) = tasks else {
            return Duration::ZERO;
        };
        let times = tasks.flatten().filter_map(|task| task.schedstat().ok());
        Duration::from_nanos(times.map(|times| times.sum_exec_runtime).sum())
    }

    /// Resident memory in bytes.
    pub fn resident(self) -> u64 {
        let status = procfs::process::Process::new(self.id()).and_then(|process| process.status());
        status
            .ok()
            .and_then(|status| status.vmrss)
            .map_or(0, |kib| kib * 1024)
    }

    /// Share of one core that it uses over `window`.
    pub fn cpu_share(self, window: Duration) -> f64 {
        let (start, before) = (Instant::now(), self.cpu_time());
        std::thread::sleep(window);
        let used = self.cpu_time().saturating_sub(before);
        used.as_secs_f64() / start.elapsed().as_secs_f64()
    }

    fn id(self) -> i32 {
        i32::try_from(self.0).expect("a process id")
    }

    fn stat(self) -> Option<procfs::process::Stat> {
        procfs::process::Process::new(self.id()).ok()?.stat().ok()
    }

    fn targets(self) -> Vec<FDTarget> {
        let process = procfs::process::Process::new(self.id());
        let Ok(fds) = process.and_then(|process| process.fd()) else {
            return Vec::new();
        };
        fds.flatten().map(|fd| fd.target).collect()
    }
}

/// Bytes that the socket between these addresses has sent and its peer's kernel has not
/// acknowledged; `None` where there is no such socket any more.
pub fn unacknowledged(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let mut sockets = tcp_sockets().into_iter();
    let own = sockets.find(|own| own.local_address == local && own.remote_address == remote)?;
    Some(own.tx_queue.into())
}

/// Whether anybody listens on this address. Unlike connecting, looking leaves no trace.
pub fn is_listening(address: SocketAddr) -> bool {
    let mut sockets = tcp_sockets().into_iter();
    sockets.any(|own| own.local_address == address && own.state == TcpState::Listen)
}

fn tcp_sockets() -> Vec<TcpNetEntry> {
    let mut sockets = procfs::net::tcp().unwrap_or_default();
    sockets.extend(procfs::net::tcp6().unwrap_or_default());
    sockets
}

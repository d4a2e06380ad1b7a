//! A process as the kernel sees it, from /proc.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use procfs::net::{TcpNetEntries, TcpNetEntry, TcpState};
use procfs::process::{FDInfo, FDTarget};
use procfs::{FromBufReadSI, current_system_info};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::deadline::wait_until;

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

    /// Its listening TCP sockets: where each listens, and its inode, which is another one if it
    /// is bound again.
    pub fn listening(self) -> HashMap<SocketAddr, u64> {
        let targets = self.targets();
        let own = |inode| {
            targets
                .iter()
                .any(|t| matches!(t, FDTarget::Socket(i) if *i == inode))
        };
        let sockets = tcp_sockets().into_iter();
        let listening = sockets.filter(|s| s.state == TcpState::Listen && own(s.inode));
        listening.map(|s| (s.local_address, s.inode)).collect()
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

    /// The most that its resident memory has been, in bytes.
    pub fn peak_resident(self) -> u64 {
        let status = procfs::process::Process::new(self.id()).and_then(|process| process.status());
        let peak = status.ok().and_then(|status| status.vmhwm);
        peak.expect("a running process tells its peak") * 1024
    }

    /// Share of one core that it uses over `window`.
    pub fn cpu_share(self, window: Duration) -> f64 {
        let (start, before) = (Instant::now(), self.cpu_time());
        std::thread::sleep(window);
        let used = self.cpu_time().saturating_sub(before);
        used.as_secs_f64() / start.elapsed().as_secs_f64()
    }

    /// Lets it open `n` more descriptors and no further one, until the guard is dropped.
    pub fn leave_descriptors(self, n: usize) -> Shortage {
        let mut own = self.numbers();
        // Those of a connection that is just being closed must not count.
        wait_until("its descriptors were settled", || {
            std::thread::sleep(Duration::from_millis(20));
            let before = std::mem::replace(&mut own, self.numbers());
            own == before
        });
        let mut free = (0..).filter(|number| !own.contains(number));
        let first_beyond = free.nth(n).expect("numbers do not end");
        Shortage::new(self, first_beyond)
    }

    /// What each of its open descriptors is, and its flags as in open(2).
    pub fn descriptor_flags(self) -> Vec<(FDTarget, u32)> {
        let process = procfs::process::Process::new(self.id());
        let fds = process.and_then(|process| process.fd());
        let fds = fds.into_iter().flat_map(|fds| fds.flatten());
        let with_flags = fds.filter_map(|fd| {
            let info = self.descriptor_info(fd.fd)?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
            Some((fd.target, flags))
        });
        with_flags.collect()
    }

    /// What the descriptor of this number is.
    pub fn descriptor(self, number: i32) -> Option<FDTarget> {
        let process = procfs::process::Process::new(self.id()).ok()?;
        let mut fds = process.fd().ok()?.flatten();
        fds.find(|fd| fd.fd == number).map(|fd| fd.target)
    }

    /// How many established TCP sockets each of its epoll instances watches, in no order.
    pub fn watched(self) -> Vec<usize> {
        self.watched_peers().iter().map(Vec::len).collect()
    }

    /// The other ends of the established TCP sockets that each of its epoll instances watches,
    /// for those that watch any.
    pub fn watched_peers(self) -> Vec<Vec<SocketAddr>> {
        let process = procfs::process::Process::new(self.id());
        let fds = process.and_then(|process| process.fd());
        let fds: Vec<_> = fds.into_iter().flat_map(|fds| fds.flatten()).collect();
        let mut peers: HashMap<u64, SocketAddr> = HashMap::new();
        for socket in tcp_sockets() {
            if socket.state == TcpState::Established {
                peers.insert(socket.inode, socket.remote_address);
            }
        }
        let peer = |fd: &FDInfo| match fd.target {
            FDTarget::Socket(inode) => Some((fd.fd, *peers.get(&inode)?)),
            _ => None,
        };
        let connections: HashMap<i32, SocketAddr> = fds.iter().filter_map(peer).collect();
        let is_connection = |number: &i32| connections.contains_key(number);
        // One instance may have several descriptors, which show the same.
        let sets: BTreeSet<Vec<i32>> = fds
            .iter()
            .filter_map(|fd| self.descriptor_info(fd.fd))
            .map(|info| watched_by(&info).filter(is_connection).collect())
            .filter(|watched: &Vec<i32>| !watched.is_empty())
            .collect();
        let sets = sets.into_iter();
        sets.map(|watched| watched.iter().map(|number| connections[number]).collect())
            .collect()
    }

    /// Processor time so far, and times that it was put on a processor, of each thread whose
    /// name begins so.
    pub fn threads(self, name: &str) -> Vec<(Duration, u64)> {
        let tasks = procfs::process::Process::new(self.id()).and_then(|process| process.tasks());
        let named = tasks.into_iter().flat_map(|tasks| tasks.flatten());
        let named = named.filter(|task| task.stat().is_ok_and(|stat| stat.comm.starts_with(name)));
        let times = named.filter_map(|task| task.schedstat().ok());
        times
            .map(|times| (Duration::from_nanos(times.sum_exec_runtime), times.pcount))
            .collect()
    }

    fn descriptor_info(self, fd: i32) -> Option<String> {
        std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", self.0)).ok()
    }

    /// The numbers of its open descriptors.
    fn numbers(self) -> HashSet<u64> {
        let process = procfs::process::Process::new(self.id());
        let fds = process.and_then(|process| process.fd());
        let fds = fds.into_iter().flat_map(|fds| fds.flatten());
        fds.filter_map(|fd| u64::try_from(fd.fd).ok()).collect()
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

/// What an epoll instance watches, by its lines in `fdinfo`, see proc(5).
fn watched_by(info: &str) -> impl Iterator<Item = i32> {
    let lines = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
    lines.filter_map(|line| line.split_whitespace().next()?.parse().ok())
}

/// A limit on the descriptors of a process, lifted when this is dropped.
pub struct Shortage {
    process: Process,
    before: Rlimit,
}

impl Shortage {
    /// No descriptor of the number `limit` or above.
    fn new(process: Process, limit: u64) -> Self {
        let pid = Pid::from_raw(process.id());
        let own = getrlimit(Resource::Nofile);
        let low = Rlimit {
            current: Some(limit),
            // The hard limit that it has from us.
            maximum: own.maximum,
        };
        let before = prlimit(pid, Resource::Nofile, low).expect("our own child");
        Self { process, before }
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.process.id());
        // The process may be gone.
        let _ = prlimit(pid, Resource::Nofile, self.before);
    }
}

/// Bytes that the socket between these addresses has sent and its peer's kernel has not
/// acknowledged; `None` where there is no such socket any more.
pub fn unacknowledged(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let mut sockets = tcp_sockets().into_iter();
    let own = sockets.find(|own| own.local_address == local && own.remote_address == remote)?;
    Some(own.tx_queue.into())
}

/// Whether `relay = "auto"` can tell bulk: a socket must hold more than isobar reads at once,
/// and does not where `net.ipv4.tcp_rmem` is as small as in `tests/under`.
pub fn auto_finds_bulk() -> bool {
    const READ: u64 = 64 << 10;
    let sizes = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").unwrap_or_default();
    let most = sizes.split_whitespace().last();
    let most: Option<u64> = most.and_then(|most| most.parse().ok());
    most.expect("the kernel's receive buffers") >= 8 * READ
}

/// Whether anybody listens on this address. Unlike connecting, looking leaves no trace.
pub fn is_listening(address: SocketAddr) -> bool {
    let mut sockets = TABLES.into_iter().flat_map(listening_sockets_of);
    sockets.any(|own| own.local_address == address)
}

/// The sockets that listen on this address: one, with the same number for as long as it is not
/// bound again.
pub fn listening_at(address: SocketAddr) -> BTreeSet<u64> {
    let sockets = TABLES.into_iter().flat_map(listening_sockets_of);
    let own = sockets.filter(|own| own.local_address == address);
    own.map(|own| own.inode).collect()
}

/// The kernel lists listening sockets before all others. It makes up a table while it is read:
/// what is left unread costs nothing, and that may be a hundred thousand lines.
fn listening_sockets_of(table: &str) -> Vec<TcpNetEntry> {
    let Ok(file) = std::fs::File::open(table) else {
        return Vec::new();
    };
    let mut lines = BufReader::new(file).lines().map_while(Result::ok);
    let head = lines.next().unwrap_or_default();
    let listening = lines.take_while(|line| line.contains(" 0A "));
    entries(std::iter::once(head).chain(listening))
}

/// The sockets in `state` whose own address is `local`, those in an accept queue included: these
/// have no inode yet.
pub fn sockets_at(local: SocketAddr, state: &TcpState) -> Vec<TcpNetEntry> {
    let mut sockets = tcp_sockets();
    sockets.retain(|socket| socket.local_address == local && socket.state == *state);
    sockets
}

/// All but those in TIME_WAIT: these belong to no process, and there may be tens of thousands.
fn tcp_sockets() -> Vec<TcpNetEntry> {
    TABLES.into_iter().flat_map(sockets_of).collect()
}

const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

fn sockets_of(table: &str) -> Vec<TcpNetEntry> {
    let text = std::fs::read_to_string(table).unwrap_or_default();
    let living = text.lines().filter(|line| !line.contains(" 06 "));
    entries(living.map(str::to_owned))
}

/// Parses lines, of which the first is the table's head. The state is the only number of two
/// digits that has a blank on both sides.
fn entries(lines: impl Iterator<Item = String>) -> Vec<TcpNetEntry> {
    let text: String = lines.flat_map(|line| [line, "\n".to_owned()]).collect();
    let read = TcpNetEntries::from_buf_read(text.as_bytes(), current_system_info());
    read.map(|entries| entries.0).unwrap_or_default()
}

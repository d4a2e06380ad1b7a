//! Real programs as backends and clients: in the foreground, each on an address of its own,
//! ended with the test that started them.
//!
//! A server gets a loopback address that no other test has, and a port that the kernel never
//! gives to a connecting socket: while the server is down nobody can take its place.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use super::deadline::{patience, scaled, wait_for, wait_until};
use super::isobar::Isobar;
use super::log::Log;
use super::process::{Process, is_listening};

/// An address for a server. Below the range of ports that connecting sockets get.
pub fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 | (high & 63), middle, low);
    let mut tries = std::iter::repeat_with(|| SocketAddr::from((ip, NEXT.fetch_add(1, SeqCst))));
    tries
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a free port")
}

/// Waits until somebody listens at `address`.
#[track_caller]
pub fn wait_listening(address: SocketAddr) {
    wait_until(&format!("somebody listened at {address}"), || {
        is_listening(address)
    });
}

/// Waits until nobody listens at `address`.
#[track_caller]
pub fn wait_refusing(address: SocketAddr) {
    wait_until(&format!("nobody listened at {address}"), || {
        !is_listening(address)
    });
}

/// A directory that a server of user `user` may call its own.
pub fn directory_of(user: &str) -> TempDir {
    let dir = TempDir::new().expect("a directory");
    if let Some(user) = privileged().then(|| account(user)) {
        give(dir.path(), &user);
    }
    dir
}

fn give(path: &Path, user: &nix::unistd::User) {
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("root may give a file away");
}

/// Writes a file into such a directory, for its owner.
pub fn write_into(dir: &TempDir, name: &str, user: &str, content: impl AsRef<[u8]>) {
    let path = dir.path().join(name);
    fs::write(&path, content).expect("room for a file");
    if privileged() {
        give(&path, &account(user));
    }
}

fn privileged() -> bool {
    rustix::process::geteuid().is_root()
}

#[track_caller]
fn account(name: &str) -> nix::unistd::User {
    let found = nix::unistd::User::from_name(name).expect("a readable user database");
    found.unwrap_or_else(|| panic!("no user {name}: is its package installed?"))
}

/// How a server is started: as `user` where the tests run as root, and sent `end` by the
/// kernel should the test die before it can end the server itself.
pub fn server(user: &str, end: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", end]);
    if privileged() {
        command.args(["--reuid", user, "--regid", user, "--init-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// A running program, with what it has said.
pub struct Program {
    child: Child,
    end: Signal,
    stdout: Log,
    stderr: Log,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    /// Starts it, in a process group of its own.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        command.process_group(0).stdout(Stdio::piped());
        command.stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = Log::of(child.stdout.take().expect("a pipe"));
        let stderr = Log::of(child.stderr.take().expect("a pipe"));
        Self {
            child,
            end: Signal::KILL,
            stdout,
            stderr,
        }
    }

    /// The same, with the signal that ends it in order.
    #[track_caller]
    pub fn start_ended_by(end: Signal, command: &mut Command) -> Self {
        let mut program = Self::start(command);
        program.end = end;
        program
    }

    /// The process.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// What it has said on standard error.
    pub fn stderr(&self) -> &Log {
        &self.stderr
    }

    /// Its standard input, where that is a pipe.
    pub fn stdin(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().expect("a pipe")
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("our own child");
    }

    /// Kills it and what it started, and waits until it is gone.
    #[track_caller]
    pub fn kill(&mut self) {
        kill_process_group(self.pid(), Signal::KILL).expect("our own children");
        let status = self.wait(patience()).expect("a killed process ends");
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(Signal::KILL.as_raw()),
            "it had ended before it was killed"
        );
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(self.end);
        self.wait(patience()).expect("it ends when told to");
    }

    /// Waits until it has ended by itself, which it must within `limit`.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Ended {
        let status = self.wait(scaled(limit)).unwrap_or_else(|| {
            panic!(
                "still running after {limit:?}\n{}\n{}",
                self.stdout.text(),
                self.stderr.text()
            )
        });
        self.stdout.finish();
        self.stderr.finish();
        Ended {
            status,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return Some(status);
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn pid(&self) -> Pid {
        let id = i32::try_from(self.child.id()).expect("a process id");
        Pid::from_raw(id).expect("a process id")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- a program said:\n{}", self.stderr.text());
        }
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = kill_process(self.pid(), self.end);
        if self.wait(patience()).is_none() {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Runs a client to its end, which must come within `limit`.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Ended {
    Program::start(command.stdin(Stdio::null())).finish(limit)
}

impl Ended {
    /// Asserts that it says of itself that all went well.
    #[track_caller]
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }
}

/// A moment, as log lines tell it.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Starts isobar with its access log in a file, which takes any number of lines at any rate.
#[track_caller]
pub fn balancer(text: &str) -> Isobar {
    Isobar::start(&format!("{text}\n{LOG}"))
}

/// The end of the file of a [`balancer`].
pub const LOG: &str = "[log]\nformat = \"json\"\naccess_file = \"$DIR/access.log\"\n";

/// The access log of a [`balancer`].
const ACCESS: &str = "access.log";

/// What an access line says about one connection.
#[derive(Clone, Debug)]
pub struct Connection {
    pub backend: Option<String>,
    pub accepted: Timestamp,
    pub ended_at: Timestamp,
    pub ended: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Whether it waited for a backend.
    pub held: bool,
    /// Whether its last backend's kernel had completed the handshake.
    pub connected: bool,
    pub raw: String,
}

impl Connection {
    fn of(line: &str) -> Self {
        let fields: Value = serde_json::from_str(line).expect("a line of JSON");
        let text = |field: &str| fields[field].as_str();
        let accepted = text("accepted_at").expect("a time");
        let accepted: Timestamp = accepted.parse().expect("a time as RFC 3339 has it");
        let duration = fields["duration_ms"].as_f64().expect("a duration");
        Self {
            backend: text("backend").map(ToOwned::to_owned),
            accepted,
            ended_at: accepted + Duration::from_secs_f64(duration / 1000.0),
            ended: text("ended").expect("a reason").to_owned(),
            bytes_in: fields["bytes_in"].as_u64().expect("a count"),
            bytes_out: fields["bytes_out"].as_u64().expect("a count"),
            held: !fields["hold_ms"].is_null(),
            connected: !fields["connect_ms"].is_null(),
            raw: line.to_owned(),
        }
    }

    /// Whether its backend was this one.
    pub fn is_on(&self, backend: &str) -> bool {
        self.backend.as_deref() == Some(backend)
    }

    /// Whether one side, and then the other, sent FIN.
    pub fn is_ordinary(&self) -> bool {
        matches!(&*self.ended, "client_closed" | "backend_closed")
    }
}

/// All connections of a [`balancer`], once every one has ended and its line is written.
#[track_caller]
pub fn all_connections(isobar: &Isobar) -> Vec<Connection> {
    isobar.wait_count("/connections/active", 0);
    let total = isobar.count("/connections/total");
    let path = isobar.dir().join(ACCESS);
    let text = wait_for(&format!("the log had {total} connections"), || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        (text.matches('\n').count() as u64 == total).then_some(text)
    });
    text.lines().map(Connection::of).collect()
}

/// The connections in the log of a [`balancer`] that has exited.
#[track_caller]
pub fn logged_connections(isobar: &Isobar) -> Vec<Connection> {
    let text = fs::read_to_string(isobar.dir().join(ACCESS)).expect("an access log");
    text.lines().map(Connection::of).collect()
}

/// How many connections that have ended were on `backend` of pool `web`.
#[track_caller]
pub fn ended_on(isobar: &Isobar, backend: &str) -> u64 {
    let connections = isobar.stat(&format!("/pools/web/backends/{backend}/connections"));
    let [total, active] = ["total", "active"].map(|key| connections[key].as_u64());
    total.expect("a count") - active.expect("a count")
}

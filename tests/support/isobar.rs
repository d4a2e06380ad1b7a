//! The binary under test.

use std::collections::HashMap;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use isobar::net::Address;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::Value;
use tempfile::TempDir;

use super::config::completed;
use super::deadline::{patience, wait_for, wait_until};
use super::http::{self, Response};
use super::invariants::{self, Baseline};
use super::log::{Line, Log};
use super::process::Process;
use super::stream::Stream;
use super::tally::Tally;

/// How a process is to be started.
pub struct Launch {
    text: String,
    env: Vec<(String, String)>,
    nofile: Option<u64>,
    token: String,
    passed: Vec<OwnedFd>,
    listen_pid: String,
    link: bool,
    dir: TempDir,
}

/// How a process that ended by itself ended.
#[derive(Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Launch {
    /// With this `lb.toml`, in a directory of its own; `$DIR` in it stands for that directory.
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            env: Vec::new(),
            nofile: None,
            token: String::new(),
            passed: Vec::new(),
            listen_pid: "$$".to_owned(),
            link: false,
            dir: TempDir::new().expect("a directory"),
        }
    }

    /// With this `lb.toml` instead: for one that names files in the directory.
    pub fn with_text(mut self, text: &str) -> Self {
        text.clone_into(&mut self.text);
        self
    }

    /// With this variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With at most `n` descriptors, soft and hard.
    pub fn nofile(mut self, n: u64) -> Self {
        self.nofile = Some(n);
        self
    }

    /// The token that the harness shows when it asks for statistics.
    pub fn token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    /// By a link in its directory, `isobar`, which can be made to lead elsewhere.
    pub fn by_link(mut self) -> Self {
        self.link = true;
        self
    }

    /// With these descriptors from 3 on, passed to it as a service manager does.
    pub fn pass(mut self, sockets: impl IntoIterator<Item = OwnedFd>) -> Self {
        self.passed.extend(sockets);
        self
    }

    /// With descriptors that are said to be for another process.
    pub fn listen_pid(mut self, pid: u32) -> Self {
        self.listen_pid = pid.to_string();
        self
    }

    /// Where it will run.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `run`, until it says ready.
    #[track_caller]
    pub fn start(self) -> Isobar {
        self.write(&completed(&self.text));
        let mut command = self.command(&["run", "-c", "lb.toml"]);
        let mut child = command.spawn().expect("the binary starts");
        let stderr = Log::of(child.stderr.take().expect("a pipe"));
        let stdout = Log::of(child.stdout.take().expect("a pipe"));
        let child = Running(Whose::Child(child));
        let started = Instant::now();
        while !stderr.lines().iter().any(|line| line.message() == "ready") {
            assert!(
                child.process().is_alive() && started.elapsed() < patience(),
                "isobar does not become ready:\n{}",
                stderr.text()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Isobar::ready(child, stderr, stdout, self)
    }

    /// Any command, to its end, which must come by itself. `lb.toml` is written as it is.
    #[track_caller]
    pub fn run_to_exit(&self, arguments: &[&str]) -> Exit {
        self.write(&self.text);
        let started = Instant::now();
        let mut child = self.command(arguments).spawn().expect("the binary starts");
        let mut stderr = Log::of(child.stderr.take().expect("a pipe"));
        let mut stdout = Log::of(child.stdout.take().expect("a pipe"));
        let mut child = Running(Whose::Child(child));
        let status = child.wait();
        let took = started.elapsed();
        stderr.finish();
        stdout.finish();
        Exit {
            code: status.code(),
            stdout: stdout.text(),
            stderr: stderr.text(),
            took,
        }
    }

    fn write(&self, text: &str) {
        let dir = self.dir.path().to_str().expect("a plain path");
        let text = text.replace("$DIR", dir);
        let mut file = std::fs::File::create(self.dir.path().join("lb.toml")).expect("a file");
        file.write_all(text.as_bytes()).expect("room for a file");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let binary = &match self.link {
            false => binary(),
            true => {
                let link = self.dir.path().join("isobar");
                let _ = std::fs::remove_file(&link);
                std::os::unix::fs::symlink(binary(), &link).expect("a link");
                link.to_str().expect("a plain path").to_owned()
            }
        };
        let mut script = String::new();
        if let Some(n) = self.nofile {
            script.push_str(&format!("ulimit -n {n}; "));
        }
        if !self.passed.is_empty() {
            let (pid, n) = (&self.listen_pid, self.passed.len());
            script.push_str(&format!("export LISTEN_PID={pid} LISTEN_FDS={n}; "));
        }
        let mut command = match &*script {
            "" => Command::new(binary),
            script => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{script}exec \"$0\" \"$@\""), binary]);
                shell
            }
        };
        let copies = self.passed.iter().zip(3..).map(|(fd, child_fd)| FdMapping {
            parent_fd: fd.try_clone().expect("a descriptor"),
            child_fd,
        });
        command
            .fd_mappings(copies.collect())
            .expect("every number once");
        for name in OF_A_SERVICE_MANAGER {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env_remove("ISOBAR_CONFIG")
            .env_remove("ISOBAR_TOKEN")
            .env_remove("RUST_LOG")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// What the tests themselves may be run with, as a service.
const OF_A_SERVICE_MANAGER: [&str; 6] = [
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// The binary of this build, or the one that `ISOBAR_TEST_BINARY` names, such as a release.
fn binary() -> String {
    std::env::var("ISOBAR_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_isobar").to_owned())
}

/// A child, or what took its place, that does not outlive the test.
pub struct Running(Whose);

enum Whose {
    Child(Child),
    /// Of a process that has ended, or will: then it is this process's child.
    Orphan(Pid),
}

impl Running {
    fn process(&self) -> Process {
        match &self.0 {
            Whose::Child(child) => Process(child.id()),
            Whose::Orphan(pid) => Process(pid.as_raw_nonzero().get().cast_unsigned()),
        }
    }

    /// How it ended, if it has.
    fn try_wait(&mut self) -> Option<ExitStatus> {
        match &mut self.0 {
            Whose::Child(child) => child.try_wait().expect("our own child"),
            // It is not a child of this process as long as its parent lives.
            Whose::Orphan(pid) => waitpid(Some(*pid), WaitOptions::NOHANG)
                .ok()
                .flatten()
                .map(|(_, status)| ExitStatus::from_raw(status.as_raw())),
        }
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the process ended", || self.try_wait())
    }

    /// Whether it runs still.
    pub fn is_alive(&self) -> bool {
        self.process().is_alive()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.process().0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, and been waited for, already.
        match &mut self.0 {
            Whose::Child(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Whose::Orphan(pid) => {
                let _ = kill_process(*pid, Signal::KILL);
                let _ = waitpid(Some(*pid), WaitOptions::empty());
            }
        }
    }
}

/// A running balancer. When it is dropped the invariants of every case are checked.
pub struct Isobar {
    child: Mutex<Running>,
    stderr: Log,
    stdout: Log,
    listeners: HashMap<String, Vec<Address>>,
    admin: Option<Address>,
    token: String,
    clients: Arc<Tally>,
    baseline: Baseline,
    exited: Option<ExitStatus>,
    bytes_unchecked: bool,
    /// It was told to remove a backend.
    removed: AtomicBool,
    /// It was told to remove a listener or a pool.
    departed: AtomicBool,
    panics_expected: u64,
    dir: TempDir,
}

/// From start to exit.
impl Isobar {
    /// Starts it with this `lb.toml`.
    #[track_caller]
    pub fn start(text: &str) -> Self {
        Launch::new(text).start()
    }

    fn ready(child: Running, stderr: Log, stdout: Log, launch: Launch) -> Self {
        let mut listeners = HashMap::<_, Vec<_>>::new();
        let mut admin = None;
        for line in stderr.lines() {
            let address = line.text("address").and_then(|text| text.parse().ok());
            match (line.message(), line.text("listener"), address) {
                ("listening", Some(name), Some(address)) => {
                    listeners.entry(name.to_owned()).or_default().push(address);
                }
                ("admin", _, Some(address)) => admin = Some(address),
                _ => {}
            }
        }
        let baseline = Baseline::of(child.process());
        Self {
            child: Mutex::new(child),
            stderr,
            stdout,
            listeners,
            admin,
            token: launch.token,
            clients: Arc::default(),
            baseline,
            exited: None,
            bytes_unchecked: false,
            removed: AtomicBool::new(false),
            departed: AtomicBool::new(false),
            panics_expected: 0,
            dir: launch.dir,
        }
    }

    /// The process.
    pub fn process(&self) -> Process {
        self.child().process()
    }

    fn child(&self) -> MutexGuard<'_, Running> {
        self.child.lock().expect("no panic while it was held")
    }

    /// Has the program now on disk take its place, and waits until it is gone; the answer.
    #[track_caller]
    pub fn upgrade(&self) -> Value {
        let (answer, mut old) = self.upgrade_leaving_some();
        assert_eq!(answer["remaining"], 0, "{answer}");
        assert!(old.wait().success());
        answer
    }

    /// The same, where connections may be left in the process before; that process.
    #[track_caller]
    pub fn upgrade_leaving_some(&self) -> (Value, Running) {
        // Orphans of the old process become children of this one.
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own)).expect("a process may adopt");
        let answer = self.tell("POST", "/upgrade", "");
        let pid = answer["pid"].as_u64().expect("a process id");
        (
            answer,
            self.follow(u32::try_from(pid).expect("a process id")),
        )
    }

    /// The process `pid` has taken the place of the one before, which is given back.
    pub fn follow(&self, pid: u32) -> Running {
        let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
        std::mem::replace(&mut *self.child(), Running(Whose::Orphan(pid)))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process().0).expect("a process id");
        let pid = Pid::from_raw(id).expect("a process id");
        kill_process(pid, signal).expect("our own child");
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let status = self.child().wait();
        self.stderr.finish();
        self.stdout.finish();
        self.exited = Some(status);
        status
    }

    /// SIGTERM, then waits.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit()
    }

    /// Whether it has ended.
    pub fn has_exited(&mut self) -> bool {
        self.exited.is_some() || !self.process().is_alive()
    }

    /// So many faults of isobar were injected: the invariants want exactly as many, not none.
    pub fn expect_panics(&mut self, n: u64) {
        self.panics_expected = n;
    }

    /// Faults of isobar that were injected.
    pub fn panics_expected(&self) -> u64 {
        self.panics_expected
    }

    /// Lets the invariants pass over byte counts: for cases whose backends see other bytes than
    /// those of clients, such as checks, or are shared by two processes.
    pub fn skip_byte_check(&mut self) {
        self.bytes_unchecked = true;
    }

    /// Whether the harness removed a backend of it, whose bytes its pool alone knows.
    pub fn has_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// The case removes a backend by other means than [`tell`](Self::tell).
    pub fn expect_removal(&self) {
        self.removed.store(true, Ordering::SeqCst);
    }

    /// The case removes a listener or a pool, and with it what was counted there.
    pub fn expect_departure(&self) {
        self.departed.store(true, Ordering::SeqCst);
    }

    /// Whether it does.
    pub fn has_departed(&self) -> bool {
        self.departed.load(Ordering::SeqCst)
    }

    /// Lets the invariants take what is open now for what isobar needs when it is idle: for
    /// cases in which it opens something for good after its start.
    pub fn renew_baseline(&mut self) {
        self.baseline = Baseline::of(self.process());
    }

    /// Checks the invariants of every case, for a case that goes on afterwards.
    #[track_caller]
    pub fn check_invariants(&self) {
        let clients = (!self.bytes_unchecked).then(|| Arc::clone(&self.clients));
        invariants::check(self, self.baseline, clients.as_deref());
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// Its file.
impl Isobar {
    /// Shows this token from now on.
    pub fn show_token(&mut self, token: &str) {
        token.clone_into(&mut self.token);
    }

    /// Its admin endpoint is there from now on.
    pub fn move_admin(&mut self, to: Address) {
        self.admin = Some(to);
    }

    /// Writes `lb.toml` anew, in place.
    pub fn rewrite(&self, text: &str) {
        let text = self.completed(text);
        std::fs::write(self.dir().join("lb.toml"), text).expect("room for a file");
    }

    /// What `lb.toml` is when it is written with this text.
    pub fn completed(&self, text: &str) -> String {
        let dir = self.dir().to_str().expect("a plain path");
        completed(text).replace("$DIR", dir)
    }

    /// Has it read `lb.toml` again, which must succeed; its answer.
    #[track_caller]
    pub fn reload(&self) -> Value {
        let response = self.ask("POST", "/reload", "");
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()
    }

    /// The same with this text in it.
    #[track_caller]
    pub fn reload_to(&self, text: &str) -> Value {
        self.rewrite(text);
        self.reload()
    }

    /// Has it read this text, which it must refuse; its answer.
    #[track_caller]
    pub fn refuses(&self, text: &str) -> Response {
        self.rewrite(text);
        let response = self.ask("POST", "/reload", "");
        assert_ne!(response.status, 200, "{}", response.body);
        response
    }

    /// The addresses of a listener as they are now.
    #[track_caller]
    pub fn addresses_now(&self, listener: &str) -> Vec<Address> {
        let found = self.stat(&format!("/listeners/{listener}/addresses"));
        let found = found.as_array().expect("a list").iter();
        let parse = |address: &Value| address.as_str()?.parse().ok();
        found.map(|a| parse(a).expect("an address")).collect()
    }
}

/// Its listeners.
impl Isobar {
    /// The first address of a listener.
    #[track_caller]
    pub fn address(&self, listener: &str) -> &Address {
        &self.addresses(listener)[0]
    }

    /// All addresses of a listener, as it logged them.
    #[track_caller]
    pub fn addresses(&self, listener: &str) -> &[Address] {
        self.listeners.get(listener).map_or_else(
            || panic!("no listener {listener} in:\n{}", self.stderr.text()),
            Vec::as_slice,
        )
    }

    /// A client of a listener.
    #[track_caller]
    pub fn connect(&self, listener: &str) -> Stream {
        self.connect_to(self.address(listener))
    }

    /// A client of one address of a listener.
    #[track_caller]
    pub fn connect_to(&self, address: &Address) -> Stream {
        self.try_connect(None, address)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// A client with a source address of its own.
    #[track_caller]
    pub fn connect_from(&self, source: &str, listener: &str) -> Stream {
        let source = source.parse().expect("an IP address");
        self.try_connect(Some(source), self.address(listener))
            .unwrap_or_else(|error| panic!("cannot connect from {source}: {error}"))
    }

    /// A client, or why there is none.
    pub fn try_connect(
        &self,
        source: Option<IpAddr>,
        address: &Address,
    ) -> std::io::Result<Stream> {
        Stream::connect_from(source, address, &self.clients)
    }

    /// Connects, reads the name that a named backend says, and stays.
    #[track_caller]
    pub fn stay(&self, listener: &str) -> (Stream, String) {
        let client = self.connect(listener);
        let name = client.read_line();
        (client, name)
    }

    /// Connects, reads the name that a named backend says, and leaves as is proper.
    #[track_caller]
    pub fn visit(&self, listener: &str) -> String {
        let (client, name) = self.stay(listener);
        client.fin();
        client.expect_fin();
        name
    }

    /// How often each backend answered in `n` visits, one after the other.
    #[track_caller]
    pub fn visits(&self, listener: &str, n: usize) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for _ in 0..n {
            *counts.entry(self.visit(listener)).or_default() += 1;
        }
        counts
    }
}

/// What it tells.
impl Isobar {
    /// Everything on standard error so far.
    pub fn log(&self) -> &Log {
        &self.stderr
    }

    /// Everything on standard output so far.
    pub fn stdout(&self) -> &Log {
        &self.stdout
    }

    /// The lines of finished connections so far.
    pub fn access_lines(&self) -> Vec<Line> {
        let lines = self.stderr.lines().into_iter();
        lines.filter(Line::is_access).collect()
    }

    /// Waits for the line of the connection whose client is `client`.
    #[track_caller]
    pub fn wait_access(&self, client: std::net::SocketAddr) -> Line {
        let client = client.to_string();
        self.stderr
            .wait(&format!("how {client} ended"), |line: &Line| {
                line.is_access() && line.text("client") == Some(&client)
            })
    }

    /// Where the admin endpoint is.
    #[track_caller]
    pub fn admin(&self) -> &Address {
        self.admin.as_ref().expect("an admin endpoint")
    }

    /// Whether it has an admin endpoint.
    pub fn has_admin(&self) -> bool {
        self.admin.is_some()
    }

    /// `GET path` of the admin endpoint.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.get_with(path, "")
    }

    /// The same with further header lines.
    #[track_caller]
    pub fn get_with(&self, path: &str, headers: &str) -> Response {
        let token = match &*self.token {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        http::get(self.admin(), path, &format!("{token}{headers}"))
    }

    /// A request with the token and, where there is one, a body of JSON.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        let token = match &*self.token {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        let kind = match body {
            "" => "",
            _ => "Content-Type: application/json\r\n",
        };
        http::request(self.admin(), method, path, &format!("{token}{kind}"), body)
    }

    /// The same, which must be granted; the answer.
    #[track_caller]
    pub fn tell(&self, method: &str, path: &str, body: &str) -> Value {
        let response = self.ask(method, path, body);
        let granted = matches!(response.status, 200 | 201);
        if method == "DELETE" && path.starts_with("/pools/") {
            self.removed.store(true, Ordering::SeqCst);
        }
        assert!(granted, "{method} {path} {body}: {}", response.body);
        response.json()
    }

    /// Changes a backend: `web/b1`.
    #[track_caller]
    pub fn set(&self, backend: &str, body: &str) -> Value {
        let (pool, name) = backend.split_once('/').expect("a pool and a backend");
        self.tell("PUT", &format!("/pools/{pool}/backends/{name}"), body)
    }

    /// `/stats`.
    #[track_caller]
    pub fn stats(&self) -> Value {
        let response = self.get("/stats");
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()
    }

    /// One value of `/stats`, by JSON pointer: `/pools/web/held`.
    #[track_caller]
    pub fn stat(&self, pointer: &str) -> Value {
        let stats = self.stats();
        stats
            .pointer(pointer)
            .cloned()
            .unwrap_or_else(|| panic!("no {pointer} in {stats}"))
    }

    /// The same as a count.
    #[track_caller]
    pub fn count(&self, pointer: &str) -> u64 {
        let value = self.stat(pointer);
        value
            .as_u64()
            .unwrap_or_else(|| panic!("{pointer} is {value}"))
    }

    /// How many connections of `listener` ended for `reason`.
    #[track_caller]
    pub fn ended(&self, listener: &str, reason: &str) -> u64 {
        self.count(&format!("/listeners/{listener}/ended/{reason}"))
    }

    /// Waits until `n` connections of `listener` have ended for `reason`.
    #[track_caller]
    pub fn wait_ended(&self, listener: &str, reason: &str, n: u64) {
        self.wait_count(&format!("/listeners/{listener}/ended/{reason}"), n);
    }

    /// Waits until a count of `/stats` is `n`.
    #[track_caller]
    pub fn wait_count(&self, pointer: &str, n: u64) {
        let mut last = 0;
        let end = Instant::now() + patience();
        while Instant::now() < end {
            last = self.count(pointer);
            if last == n {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{pointer} is {last}, not {n}\n{}", self.stderr.text());
    }

    /// Waits until a backend is in `state`.
    #[track_caller]
    pub fn wait_state(&self, pool: &str, backend: &str, state: &str) {
        let pointer = format!("/pools/{pool}/backends/{backend}/state");
        wait_until(&format!("{pool}/{backend} was {state}"), || {
            self.stat(&pointer) == state
        });
    }

    /// `/metrics`.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let response = self.get("/metrics");
        assert_eq!(response.status, 200, "{}", response.body);
        response.body
    }

    /// The sum of the samples of a metric that have these labels.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.metrics();
        let samples: Vec<f64> = samples(&text, name, labels).collect();
        assert!(!samples.is_empty(), "no {name} {labels:?} in\n{text}");
        samples.iter().sum()
    }

    /// Asserts that it does next to nothing, whatever its connections wait for.
    #[track_caller]
    pub fn assert_calm(&self) {
        invariants::calm(self.process(), 0.05);
    }
}

/// Values of the samples of metric `name` that carry `labels`.
pub fn samples<'a>(
    text: &'a str,
    name: &'a str,
    labels: &'a [(&str, &str)],
) -> impl Iterator<Item = f64> + 'a {
    text.lines().filter_map(move |line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (metric, set) = series.split_once('{').unwrap_or((series, ""));
        let has = |(key, value): &(&str, &str)| set.contains(&format!("{key}=\"{value}\""));
        let hit = metric == name && labels.iter().all(has);
        hit.then(|| value.parse().expect("a number"))
    })
}

impl Isobar {
    /// Shows what it says of itself now, as far as it still answers.
    fn tell_state(&self) {
        if self.exited.is_some() || !self.has_admin() {
            return;
        }
        for path in ["/stats", "/connections"] {
            let ask = std::panic::AssertUnwindSafe(|| self.get(path).body);
            let answer = std::panic::catch_unwind(ask);
            eprintln!("--- {path}: {}", answer.as_deref().unwrap_or("no answer"));
        }
    }
}

impl Drop for Isobar {
    fn drop(&mut self) {
        let _tell = TellOnPanic(&self.stderr);
        if std::thread::panicking() {
            self.tell_state();
            return;
        }
        let stdout = self.stdout.text();
        assert!(stdout.is_empty(), "run prints on standard output: {stdout}");
        let panicked = |line: &Line| line.raw.contains("panicked at");
        if self.exited.is_none() {
            self.check_invariants();
        }
        assert!(!self.stderr.lines().iter().any(panicked));
    }
}

/// Shows the log of a case that fails, be it by itself or by an invariant.
struct TellOnPanic<'a>(&'a Log);

impl Drop for TellOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- isobar said:\n{}", self.0.text());
        }
    }
}

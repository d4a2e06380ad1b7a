//! Listening peers: scripted step by step by the test, or ready-made.
//!
//! A backend keeps its address for as long as it lives: while it does not listen its port
//! stays bound, so that the kernel refuses connections and nobody else gets the port.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;

use isobar::net::Address;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, sockopt};
use tempfile::TempDir;

use super::deadline::wait_for;
use super::family::Family;
use super::pattern::Pattern;
use super::stream::{self, Stream};
use super::tally::{self, Tally};

/// What is done with an accepted connection, on a thread of its own.
type Serve = Arc<dyn Fn(&Stream) + Send + Sync>;

/// Long enough for every burst of the suites.
const BACKLOG: i32 = 4096;

/// One address that can listen or refuse, and what it does with its connections.
pub struct Backend {
    shared: Arc<Shared>,
    state: Mutex<State>,
    _dir: Option<TempDir>,
}

struct Shared {
    name: String,
    address: Address,
    tally: Arc<Tally>,
    /// `None`: the test takes the connections with [`Backend::accept`].
    serve: Option<Serve>,
    waiting: Mutex<VecDeque<Stream>>,
    live: Mutex<Vec<Weak<Stream>>>,
    accepted: AtomicUsize,
}

enum State {
    Refusing(OwnedFd),
    Listening(Acceptor),
    /// Only while one changes into the other.
    Changing,
}

struct Acceptor {
    thread: JoinHandle<()>,
    wake: Arc<OwnedFd>,
}

/// Ready-made ones.
impl Backend {
    /// The test itself plays the backend: [`accept`](Self::accept).
    pub fn manual(family: Family) -> Self {
        Self::new(family, "manual", None).listening()
    }

    /// The same on IPv4, with a name.
    pub fn manual_as(name: &str) -> Self {
        Self::new(Family::Ipv4, name, None).listening()
    }

    /// Sends back what it gets, then FIN after FIN.
    pub fn echo(family: Family) -> Self {
        Self::serving(family, "echo", |stream| {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.try_write(&buffer[..n]).is_err() {
                    return;
                }
            }
        })
    }

    /// Says its name and a newline on accept, then waits for the client's FIN.
    pub fn named(name: &str) -> Self {
        Self::named_on(Family::Ipv4, name)
    }

    /// The same on another family.
    pub fn named_on(family: Family, name: &str) -> Self {
        let line = format!("{name}\n");
        Self::serving(family, name, move |stream| {
            let _ = stream.try_write(&line);
            swallow(stream);
        })
    }

    /// The same at this very address, if nobody has it.
    pub fn named_at(address: &Address, name: &str) -> io::Result<Self> {
        let line = format!("{name}\n");
        let serve = move |stream: &Stream| {
            let _ = stream.try_write(&line);
            swallow(stream);
        };
        let backend = Self::at(address, name, Some(Arc::new(serve)), None)?;
        Ok(backend.listening())
    }

    /// Like [`named`](Self::named), but waits for a line of the client first.
    pub fn named_when_asked(name: &str) -> Self {
        let line = format!("{name}\n");
        Self::serving(Family::Ipv4, name, move |stream| {
            if stream.try_read_line().is_ok() {
                let _ = stream.try_write(&line);
                swallow(stream);
            }
        })
    }

    /// Reads to the end, then says how many bytes there were, and checks them on the way.
    pub fn sink(family: Family) -> Self {
        Self::serving(family, "sink", |stream| {
            let (n, _) = stream.read_pattern_to_end(Pattern(0));
            let _ = stream.try_write(n.to_string());
        })
    }

    /// Sends `n` bytes of a pattern, then FIN, then waits for the client's.
    pub fn source(family: Family, n: u64) -> Self {
        Self::serving(family, "source", move |stream| {
            let _ = stream.try_write_pattern(Pattern(0), n);
            stream.fin();
            swallow(stream);
        })
    }

    /// Refuses every connection until [`listen`](Self::listen); then like [`named`](Self::named).
    pub fn refusing(name: &str) -> Self {
        let backend = Self::named(name);
        backend.stop();
        backend
    }

    /// Runs `serve` for each connection, on its own thread; closes after it.
    pub fn serving(
        family: Family,
        name: &str,
        serve: impl Fn(&Stream) + Send + Sync + 'static,
    ) -> Self {
        Self::new(family, name, Some(Arc::new(serve))).listening()
    }

    fn new(family: Family, name: &str, serve: Option<Serve>) -> Self {
        let dir = (family == Family::Unix).then(|| TempDir::new().expect("a directory"));
        let path = dir.as_ref().map_or(std::path::Path::new(""), TempDir::path);
        let address = family.any(path, name);
        Self::at(&address, name, serve, dir).expect("a fresh address")
    }

    fn at(
        address: &Address,
        name: &str,
        serve: Option<Serve>,
        dir: Option<TempDir>,
    ) -> io::Result<Self> {
        let (fd, address) = bind(address)?;
        let tally = Arc::new(Tally::default());
        tally::register(&address.to_string(), &tally);
        let shared = Shared {
            name: name.to_owned(),
            address,
            tally,
            serve,
            waiting: Mutex::default(),
            live: Mutex::default(),
            accepted: AtomicUsize::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
            state: Mutex::new(State::Refusing(fd)),
            _dir: dir,
        })
    }

    fn listening(self) -> Self {
        self.listen();
        self
    }
}

/// What a test does with one.
impl Backend {
    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// The name that it says, and that [`entry`](Self::entry) gives it.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its table for the `backends` of a pool.
    pub fn entry(&self) -> String {
        self.entry_with("")
    }

    /// The same with further keys, such as `weight = 2`.
    pub fn entry_with(&self, keys: &str) -> String {
        let comma = if keys.is_empty() { "" } else { ", " };
        let Shared { name, address, .. } = &*self.shared;
        format!("{{ name = \"{name}\", address = \"{address}\"{comma}{keys} }}")
    }

    /// The next connection of a [`manual`](Self::manual) backend.
    #[track_caller]
    pub fn accept(&self) -> Stream {
        wait_for("the backend got a connection", || self.try_accept())
    }

    /// The same, if there is one already.
    pub fn try_accept(&self) -> Option<Stream> {
        lock(&self.shared.waiting).pop_front()
    }

    /// Connections accepted so far, checks included.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(SeqCst)
    }

    /// Bytes of all its connections.
    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Listens; nothing happens if it does already.
    pub fn listen(&self) {
        let mut state = lock(&self.state);
        *state = match std::mem::replace(&mut *state, State::Changing) {
            State::Refusing(fd) => State::Listening(Acceptor::start(fd, &self.shared)),
            other => other,
        };
    }

    /// Accepts what has come, then refuses; live connections go on.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        *state = match std::mem::replace(&mut *state, State::Changing) {
            State::Listening(acceptor) => {
                // First, or somebody else might get the port in between.
                let (fd, _) = bind(&self.shared.address).expect("its own address");
                acceptor.stop();
                State::Refusing(fd)
            }
            other => other,
        };
    }

    /// Refuses from now on, and hangs up on those that the test has not accepted.
    pub fn dismiss(&self) {
        self.stop();
        lock(&self.shared.waiting).clear();
    }

    /// Refuses from now on, and resets every live connection: a crash.
    pub fn crash(&self) {
        self.stop();
        self.reset_all();
    }

    /// Resets every live connection that a thread serves.
    pub fn reset_all(&self) {
        for stream in lock(&self.shared.live).drain(..) {
            if let Some(stream) = stream.upgrade() {
                stream.abort();
            }
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Ok(state) = state
            && let State::Listening(acceptor) = std::mem::replace(state, State::Changing)
        {
            acceptor.stop();
        }
    }
}

impl Acceptor {
    fn start(fd: OwnedFd, shared: &Arc<Shared>) -> Self {
        rustix::net::listen(&fd, BACKLOG).expect("a bound socket can listen");
        rustix::io::ioctl_fionbio(&fd, true).expect("a socket can be non-blocking");
        let wake = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let wake = Arc::new(wake);
        let thread = {
            let (wake, shared) = (Arc::clone(&wake), Arc::clone(shared));
            std::thread::spawn(move || accept_all(&fd, &wake, &shared))
        };
        Self { thread, wake }
    }

    fn stop(self) {
        rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()).expect("an eventfd takes a number");
        self.thread.join().expect("accepting does not panic");
    }
}

fn accept_all(fd: &OwnedFd, wake: &OwnedFd, shared: &Arc<Shared>) {
    loop {
        let mut fds = [
            PollFd::new(fd, PollFlags::IN),
            PollFd::new(wake, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("cannot poll: {error}"),
        }
        let last = !fds[1].revents().is_empty();
        accept_waiting(fd, shared);
        if last {
            return;
        }
    }
}

fn accept_waiting(fd: &OwnedFd, shared: &Arc<Shared>) {
    loop {
        match rustix::net::accept_with(fd, SocketFlags::CLOEXEC) {
            Ok(accepted) => take(accepted, shared),
            Err(Errno::AGAIN) => return,
            // Gone before it was accepted.
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(error) => panic!("cannot accept: {error}"),
        }
    }
}

fn take(fd: OwnedFd, shared: &Arc<Shared>) {
    let unix = matches!(shared.address, Address::Unix(_));
    // It fails where the peer has gone already.
    let Ok(stream) = Stream::over(fd, unix, &shared.tally) else {
        return;
    };
    shared.accepted.fetch_add(1, SeqCst);
    match &shared.serve {
        None => lock(&shared.waiting).push_back(stream),
        Some(serve) => serve_on_thread(stream, Arc::clone(serve), shared),
    }
}

fn serve_on_thread(stream: Stream, serve: Serve, shared: &Shared) {
    let stream = Arc::new(stream);
    let mut live = lock(&shared.live);
    live.retain(|other| other.strong_count() > 0);
    live.push(Arc::downgrade(&stream));
    std::thread::Builder::new()
        .stack_size(256 * 1024)
        .spawn(move || serve(&stream))
        .expect("a thread");
}

/// Reads up to the end, or until the other end has been silent for too long.
fn swallow(stream: &Stream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(1..) = stream.read(&mut buffer) {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while it was held")
}

/// A socket bound to `address`, not listening, and the address it got. Sockets of this harness
/// alone may share an address.
pub fn bind(address: &Address) -> io::Result<(OwnedFd, Address)> {
    let fd = stream::socket(address)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    match address {
        Address::Ip(to) => {
            sockopt::set_socket_reuseport(&fd, true)?;
            rustix::net::bind(&fd, to)?;
            let got = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
            Ok((fd, Address::Ip(got)))
        }
        Address::Unix(path) => {
            let _ = std::fs::remove_file(path);
            rustix::net::bind(&fd, &stream::unix_address(path)?)?;
            Ok((fd, address.clone()))
        }
    }
}

/// Named backends at one port of 127.0.0.2, 127.0.0.3 and so on, each named by the last number,
/// and that port.
pub fn at_one_port(n: u8) -> (Vec<Backend>, u16) {
    let at = |last: u8, port: u16| {
        let address = Address::Ip((Ipv4Addr::new(127, 0, 0, last), port).into());
        Backend::named_at(&address, &last.to_string()).ok()
    };
    let all = || {
        let first = at(2, 0)?;
        let port = first.address().port()?;
        let more = (3..2 + n).map(|last| at(last, port));
        let all: Option<Vec<_>> = std::iter::once(Some(first)).chain(more).collect();
        Some((all?, port))
    };
    let found = std::iter::repeat_with(all).take(50).flatten().next();
    found.expect("a port that is free at all these addresses")
}

/// A port whose accept queue is full: the kernel drops every further SYN, so that a connect
/// to it neither succeeds nor fails.
pub struct Blackhole {
    address: Address,
    _listener: OwnedFd,
    _fillers: Vec<OwnedFd>,
}

impl Blackhole {
    pub fn new() -> Self {
        let any = Family::Ipv4.any(std::path::Path::new(""), "");
        let (listener, address) = bind(&any).expect("a fresh address");
        rustix::net::listen(&listener, 0).expect("a bound socket can listen");
        let fillers = (0..4).map(|_| start_connect(&address)).collect();
        Self {
            address,
            _listener: listener,
            _fillers: fillers,
        }
    }

    /// Its table for the `backends` of a pool.
    pub fn entry(&self, name: &str, keys: &str) -> String {
        let comma = if keys.is_empty() { "" } else { ", " };
        format!(
            "{{ name = \"{name}\", address = \"{}\"{comma}{keys} }}",
            self.address
        )
    }
}

fn start_connect(address: &Address) -> OwnedFd {
    let Address::Ip(to) = address else {
        panic!("only TCP drops a SYN");
    };
    let fd = stream::socket(address).expect("a socket");
    rustix::io::ioctl_fionbio(&fd, true).expect("a socket can be non-blocking");
    match rustix::net::connect(&fd, to) {
        Ok(()) | Err(Errno::INPROGRESS) => fd,
        Err(error) => panic!("cannot fill the queue: {error}"),
    }
}

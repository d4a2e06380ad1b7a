//! A backend in a process of its own, which can be told to go in different ways.
//!
//! It is the test binary itself, started again with an address in its environment; a test named
//! `the_backend_process` must then call [`serve_if_told`]. Each connection sends a line and is
//! answered with the process's id.
//!
//! A listening socket cannot be closed and be known to be empty at that moment unless nothing
//! new gets into its queue: a filter drops every SYN first, as if it had been lost on the way.
//! Handshakes that are under way still end.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use procfs::net::TcpState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use super::deadline::{patience, wait_for, wait_until};
use super::process::sockets_at;
use super::programs::Program;

/// Names the address at which the process is to serve.
const ADDRESS: &str = "ISOBAR_TEST_BACKEND";

/// Handshakes on loopback end in microseconds; on a machine that is busy, well within this.
const HANDSHAKE: Duration = Duration::from_millis(100);

/// How long it takes over an answer, so that there are always some connections open.
const WORK: Duration = Duration::from_millis(3);

/// The process, seen from the test.
pub struct Restartable {
    program: Program,
    address: SocketAddr,
}

impl Restartable {
    /// Starts it, and waits until it listens.
    #[track_caller]
    pub fn start(address: SocketAddr) -> Self {
        let own = std::env::current_exe().expect("a test binary has a path");
        let mut command = Command::new(own);
        command.args(["--exact", "the_backend_process", "--ignored", "--nocapture"]);
        command.env(ADDRESS, address.to_string());
        command.stdin(Stdio::piped());
        let program = Program::start(&mut command);
        let process = Self { program, address };
        process.wait_for("listening");
        process
    }

    /// Its id, as its answers have it.
    pub fn id(&self) -> u32 {
        self.program.process().0
    }

    /// Has it accept what there is, close its listening socket on an empty queue, serve what
    /// it has accepted, and end. Returns once it listens no more.
    #[track_caller]
    pub fn close(&mut self) {
        self.tell("close");
        self.wait_for("closed");
    }

    /// Waits until it has ended by itself; how many connections it had accepted, and answered.
    #[track_caller]
    pub fn finish(self) -> (usize, usize) {
        let ended = self
            .program
            .finish(Duration::from_secs(20))
            .expect_success();
        let line = ended
            .stderr
            .lines()
            .find_map(|line| line.strip_prefix("served "));
        let mut counts = line.expect("it says what it served").split(' ');
        let mut count = || counts.next().and_then(|count| count.parse().ok());
        count().zip(count()).expect("two counts")
    }

    /// Has it accept no more, waits until `n` connections are in its queue, lets no further one
    /// in, and stops the process: what is open or in the queue now stays so until it is killed.
    #[track_caller]
    pub fn freeze(&mut self, n: usize) -> Frozen {
        self.tell("freeze");
        wait_until("the queue had filled", || self.frozen().queued.len() >= n);
        self.tell("shut");
        self.wait_for("shut");
        self.program.signal(Signal::STOP);
        let mut before = self.frozen();
        wait_for("nothing was under way any more", || {
            std::thread::sleep(HANDSHAKE);
            let now = self.frozen();
            let same = now == std::mem::replace(&mut before, now.clone());
            same.then_some(now)
        })
    }

    /// What it has that is not answered yet.
    fn frozen(&self) -> Frozen {
        let mut frozen = Frozen::default();
        for socket in sockets_at(self.address, &TcpState::Established) {
            let queued = socket.inode == 0;
            let into = match queued {
                true => &mut frozen.queued,
                false => &mut frozen.open,
            };
            into.insert(socket.remote_address);
        }
        frozen
    }

    /// Kills it, whatever it is doing.
    #[track_caller]
    pub fn kill(&mut self) {
        self.program.kill();
    }

    #[track_caller]
    fn tell(&mut self, order: &str) {
        let stdin = self.program.stdin();
        writeln!(stdin, "{order}").expect("it reads its orders");
    }

    #[track_caller]
    fn wait_for(&self, word: &str) {
        let stderr = self.program.stderr();
        stderr.wait(word, |line| line.raw == word);
    }
}

/// Connections that the process's kernel has completed, with no answer yet, by the address of
/// their other end: while the kernel lists its sockets one may be listed twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    /// In the accept queue.
    pub queued: BTreeSet<SocketAddr>,
    /// Accepted.
    pub open: BTreeSet<SocketAddr>,
}

/// Serves, if this process was started to do so; returns when it was told to close.
pub fn serve_if_told() {
    let Ok(address) = std::env::var(ADDRESS) else {
        return;
    };
    let orders = orders();
    let listener = listen(address.parse().expect("an address"));
    eprintln!("listening");
    let mut served = Served::default();
    loop {
        match orders.try_recv().as_deref() {
            Ok("close") => break,
            Ok("freeze") => freeze(&listener, &orders),
            _ => served.accept(&listener),
        }
    }
    shut(&listener);
    served.drain(&listener);
    drop(listener);
    eprintln!("closed");
    served.finish();
}

fn orders() -> mpsc::Receiver<String> {
    let (sender, orders) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            // The receiver is gone when the process ends.
            let _ = sender.send(line);
        }
        // Whoever gave the orders is gone.
        std::process::exit(1);
    });
    orders
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a socket option");
    socket.bind(&address.into()).expect("its own address");
    socket.listen(4096).expect("a bound socket can listen");
    socket.set_nonblocking(true).expect("a socket option");
    socket.into()
}

/// Waits for the order to shut, and for the end.
fn freeze(listener: &TcpListener, orders: &mpsc::Receiver<String>) {
    let order = orders.recv().expect("the test goes on");
    assert_eq!(order, "shut");
    shut(listener);
    eprintln!("shut");
    loop {
        std::thread::park();
    }
}

/// Lets no SYN in any more.
fn shut(listener: &TcpListener) {
    // Byte 13 of the TCP header are the flags, 0x10 of these ACK and 0x02 SYN: a packet with
    // SYN alone is cut to nothing, any other is left as it is.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let drop_syn = [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, 0x12),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, 0x02),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    let socket = SockRef::from(listener);
    socket.attach_filter(&drop_syn).expect("a valid filter");
}

/// The connections of the process.
#[derive(Default)]
struct Served {
    threads: Vec<JoinHandle<()>>,
    answered: Arc<AtomicUsize>,
}

impl Served {
    /// Accepts one connection, or waits a little.
    fn accept(&mut self, listener: &TcpListener) {
        if let Ok((stream, _)) = listener.accept() {
            let answered = Arc::clone(&self.answered);
            self.threads.push(std::thread::spawn(move || {
                if answer(&stream).is_ok() {
                    answered.fetch_add(1, SeqCst);
                }
            }));
        } else {
            wait_readable(listener, Duration::from_millis(2));
        }
    }

    /// Accepts until no handshake is under way and nothing has come for a while.
    fn drain(&mut self, listener: &TcpListener) {
        let own = listener.local_addr().expect("a bound socket");
        let mut quiet = Instant::now();
        while quiet.elapsed() < HANDSHAKE {
            let before = self.threads.len();
            self.accept(listener);
            let under_way = !sockets_at(own, &TcpState::SynRecv).is_empty();
            if under_way || self.threads.len() > before {
                quiet = Instant::now();
            }
        }
    }

    fn finish(self) {
        let accepted = self.threads.len();
        for thread in self.threads {
            thread.join().expect("answering does not panic");
        }
        eprintln!("served {accepted} {}", self.answered.load(SeqCst));
    }
}

/// One connection, from its question to its end.
fn answer(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(patience()))?;
    let mut lines = BufReader::new(stream);
    let mut question = String::new();
    if lines.read_line(&mut question)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    std::thread::sleep(WORK);
    // In one piece: a kill must not find half an answer sent.
    (&mut &*stream).write_all(format!("{}\n", std::process::id()).as_bytes())?;
    io::copy(&mut lines, &mut io::sink()).map(drop)
}

fn wait_readable(listener: &TcpListener, time: Duration) {
    let time = Timespec::try_from(time).expect("a short time");
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    // Whatever happens, the caller looks again.
    let _ = poll(&mut fds, Some(&time));
}

//! Thousands of clients, and backends for them, each in a process of its own: a process may
//! have 20,000 descriptors, and a connection takes two of isobar's alone.
//!
//! Both are the test binary itself, started again with a role in its environment; a test named
//! `the_other_process` must then call [`play_if_told`]. Orders are lines of its standard input,
//! each answered by one line; every order must be done within the deadline of all tests.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::rc::Rc;

use isobar::net::Address;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet, LocalSet};

use super::load::{Coming, Flowing};
use super::pattern::Pattern;
use super::programs::Program;

/// Names the role.
const ROLE: &str = "ISOBAR_TEST_ROLE";
/// Bytes that a client sends at once, and gets back: unlike those of any other client.
pub const PAYLOAD: usize = 128;
/// Clients that do something at the same time.
const AT_ONCE: usize = 64;
/// Clients of one order, so that none takes long.
const PER_ORDER: usize = 1000;

/// A process that takes orders.
pub(super) struct Child {
    program: Program,
    orders: usize,
}

impl Child {
    #[track_caller]
    pub(super) fn start(role: &str) -> Self {
        let own = std::env::current_exe().expect("a test binary has a path");
        let mut command = Command::new(own);
        command.args(["--exact", "the_other_process", "--ignored", "--nocapture"]);
        command.env(ROLE, role).stdin(Stdio::piped());
        let program = Program::start(&mut command);
        Self { program, orders: 0 }
    }

    /// Gives an order, and returns what it says to it.
    #[track_caller]
    pub(super) fn order(&mut self, order: impl Display) -> String {
        self.orders += 1;
        let number = format!("{}: ", self.orders);
        writeln!(self.program.stdin(), "{order}").expect("it reads its orders");
        let stderr = self.program.stderr();
        let answer = stderr.wait("an answer to an order", |line| {
            line.raw.starts_with(&number)
        });
        let answer = answer.raw[number.len()..].to_owned();
        let done = answer.strip_prefix("done ");
        done.unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The same for an order that is answered by one number.
    #[track_caller]
    fn count(&mut self, order: impl Display) -> u64 {
        self.order(order).parse().expect("a count")
    }
}

/// Backends that send back what they get, all in one process.
pub struct Echoes {
    child: Child,
    addresses: Vec<SocketAddr>,
}

impl Echoes {
    /// Starts `n` of them.
    #[track_caller]
    pub fn start(n: usize) -> Self {
        let mut child = Child::start("echoes");
        let addresses = child.order(format!("listen {n}"));
        let addresses = addresses.split(' ').map(|text| text.parse());
        let addresses = addresses.collect::<Result<_, _>>().expect("addresses");
        Self { child, addresses }
    }

    /// Their tables for the `backends` of a pool; they are `b0`, `b1` and so on.
    pub fn entries(&self) -> Vec<String> {
        let entry = |(n, address)| format!("{{ name = \"b{n}\", address = \"{address}\" }}");
        self.addresses.iter().enumerate().map(entry).collect()
    }

    /// Where one of them is.
    pub fn address(&self, n: usize) -> SocketAddr {
        self.addresses[n]
    }

    /// One of them accepts nothing any more; what it has goes on.
    #[track_caller]
    pub fn refuse(&mut self, n: usize) {
        self.child.order(format!("refuse {n}"));
    }

    /// It accepts again.
    #[track_caller]
    pub fn accept(&mut self, n: usize) {
        self.child.order(format!("accept {n}"));
    }

    /// Bytes that they have got and sent back.
    #[track_caller]
    pub fn bytes(&mut self) -> u64 {
        self.child.count("bytes")
    }
}

/// Clients that stay, all in one process.
pub struct Crowd(Child);

impl Crowd {
    /// Nobody yet.
    #[track_caller]
    pub fn start() -> Self {
        Self(Child::start("crowd"))
    }

    /// `n` more, taking these addresses in turn; each has sent its payload and got it back.
    #[track_caller]
    pub fn open(&mut self, n: usize, addresses: &[&Address]) {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(" ");
        self.in_parts(n, |n| format!("open {n} {addresses}"));
    }

    /// Each of the `n` oldest sends its payload and gets it back.
    #[track_caller]
    pub fn talk(&mut self, n: usize) {
        self.in_parts(n, |n| format!("talk {n}"));
    }

    /// The `n` oldest end as is proper: FIN, and then the other side's.
    #[track_caller]
    pub fn leave(&mut self, n: usize) {
        self.in_parts(n, |n| format!("leave {n}"));
    }

    /// Bytes that they have sent and got back.
    #[track_caller]
    pub fn bytes(&mut self) -> u64 {
        self.0.count("bytes")
    }

    #[track_caller]
    fn in_parts(&mut self, n: usize, order: impl Fn(usize) -> String) {
        for begin in (0..n).step_by(PER_ORDER) {
            self.0.order(order(PER_ORDER.min(n - begin)));
        }
    }
}

/// Plays a role, if this process was started to do so.
pub fn play_if_told() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the hard limit is allowed");
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    let tasks = LocalSet::new();
    match &*role {
        "echoes" => tasks.block_on(&runtime, obey(Listening::default())),
        "crowd" => tasks.block_on(&runtime, obey(Clients::default())),
        "visitors" => tasks.block_on(&runtime, obey(Coming::default())),
        "streams" => tasks.block_on(&runtime, obey(Flowing::default())),
        other => panic!("no role {other}"),
    }
}

/// Who takes orders.
pub(super) trait Player {
    /// Does what it is told, and says something to it.
    async fn obey(&mut self, words: &[&str]) -> io::Result<String>;
}

async fn obey(mut player: impl Player) {
    let mut orders = orders();
    let mut number = 0;
    while let Some(order) = orders.recv().await {
        number += 1;
        let words: Vec<_> = order.split(' ').collect();
        match player.obey(&words).await {
            Ok(answer) => eprintln!("{number}: done {answer}"),
            Err(error) => eprintln!("{number}: {} failed: {error}", words[0]),
        }
    }
}

fn orders() -> mpsc::UnboundedReceiver<String> {
    let (sender, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            // The receiver is gone when the process ends.
            let _ = sender.send(line);
        }
        // Whoever gave the orders is gone.
        std::process::exit(0);
    });
    orders
}

pub(super) fn number(word: &str) -> io::Result<usize> {
    word.parse().map_err(io::Error::other)
}

/// The backends.
#[derive(Default)]
struct Listening {
    addresses: Vec<SocketAddr>,
    accepting: Vec<JoinHandle<()>>,
    /// Keep the ports while nobody listens.
    bound: Vec<TcpSocket>,
    bytes: Rc<Cell<u64>>,
}

impl Player for Listening {
    async fn obey(&mut self, words: &[&str]) -> io::Result<String> {
        match words {
            ["listen", n] => self.listen(number(n)?),
            ["refuse", n] => {
                let accepting = &mut self.accepting[number(n)?];
                accepting.abort();
                // The socket is closed with the task.
                let _ = accepting.await;
                Ok(String::new())
            }
            ["accept", n] => {
                let n = number(n)?;
                let listener = bound(self.addresses[n])?.listen(1024)?;
                self.accepting[n] = self.accept(listener);
                Ok(String::new())
            }
            ["bytes"] => Ok(self.bytes.get().to_string()),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Listening {
    fn listen(&mut self, n: usize) -> io::Result<String> {
        for _ in 0..n {
            let socket = bound((Ipv4Addr::LOCALHOST, 0).into())?;
            self.addresses.push(socket.local_addr()?);
            self.bound.push(bound(socket.local_addr()?)?);
            let accepting = self.accept(socket.listen(1024)?);
            self.accepting.push(accepting);
        }
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        Ok(addresses.join(" "))
    }

    fn accept(&self, listener: TcpListener) -> JoinHandle<()> {
        let bytes = Rc::clone(&self.bytes);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(echo(stream, Rc::clone(&bytes)));
            }
        })
    }
}

/// A port can be bound again while it is in use.
fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn echo(mut stream: TcpStream, bytes: Rc<Cell<u64>>) -> io::Result<()> {
    loop {
        stream.readable().await?;
        let (n, rest) = match echo_some(&stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            done => done?,
        };
        if n == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&rest).await?;
        bytes.set(bytes.get() + n as u64);
    }
}

/// Sends back what there is: how much that was, and what there was no room for.
fn echo_some(stream: &TcpStream) -> io::Result<(usize, Vec<u8>)> {
    thread_local! {
        // One for all: there are thousands of streams, of which few have anything to say.
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 << 10]);
    }
    BUFFER.with_borrow_mut(|buffer| {
        let n = stream.try_read(buffer)?;
        let written = match stream.try_write(&buffer[..n]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            written => written?,
        };
        Ok((n, buffer[written..n].to_vec()))
    })
}

/// The clients, oldest first.
#[derive(Default)]
struct Clients {
    open: Vec<Client>,
    opened: usize,
    bytes: u64,
}

impl Player for Clients {
    async fn obey(&mut self, words: &[&str]) -> io::Result<String> {
        match words {
            ["open", n, addresses @ ..] => self.enter(number(n)?, addresses).await?,
            ["talk", n] => self.talk(number(n)?).await?,
            ["leave", n] => self.leave(number(n)?).await?,
            ["bytes"] => return Ok(self.bytes.to_string()),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(String::new())
    }
}

impl Clients {
    async fn enter(&mut self, n: usize, addresses: &[&str]) -> io::Result<()> {
        let first = self.opened;
        let to = |number: usize| addresses[number % addresses.len()].to_owned();
        let enter = (first..first + n).map(|number| Client::enter(number, to(number)));
        let mut entered = all(enter).await?;
        entered.sort_by_key(|client| client.number);
        self.opened += n;
        self.bytes += (n * PAYLOAD) as u64;
        self.open.append(&mut entered);
        Ok(())
    }

    /// Those who have talked go to the end, so that parts of a larger order do not meet.
    async fn talk(&mut self, n: usize) -> io::Result<()> {
        let oldest: Vec<_> = self.open.drain(..n).collect();
        let mut talked = all(oldest.into_iter().map(Client::talk)).await?;
        talked.sort_by_key(|client| client.number);
        self.bytes += (n * PAYLOAD) as u64;
        self.open.append(&mut talked);
        Ok(())
    }

    async fn leave(&mut self, n: usize) -> io::Result<()> {
        let oldest: Vec<_> = self.open.drain(..n).collect();
        all(oldest.into_iter().map(Client::leave)).await.map(drop)
    }
}

/// Runs all of them to their end, [`AT_ONCE`] at a time; what they gave, in no order.
async fn all<T: 'static>(
    all: impl Iterator<Item = impl Future<Output = io::Result<T>> + 'static>,
) -> io::Result<Vec<T>> {
    let (mut running, mut done) = (JoinSet::new(), Vec::new());
    for one in all {
        if running.len() == AT_ONCE {
            done.extend(running.join_next().await);
        }
        running.spawn_local(one);
    }
    done.extend(running.join_all().await.into_iter().map(Ok));
    done.into_iter()
        .map(|done| done.map_err(io::Error::other)?)
        .collect()
}

struct Client {
    number: usize,
    stream: TcpStream,
    sent: u64,
}

impl Client {
    async fn enter(number: usize, address: String) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let client = Self {
            number,
            stream,
            sent: 0,
        };
        client.talk().await
    }

    async fn talk(mut self) -> io::Result<Self> {
        let payload = Pattern(self.number).at(self.sent, PAYLOAD);
        self.stream.write_all(payload).await?;
        let mut answer = [0; PAYLOAD];
        self.stream.read_exact(&mut answer).await?;
        if answer != *payload {
            return Err(io::Error::other("somebody else's bytes"));
        }
        self.sent += payload.len() as u64;
        Ok(self)
    }

    async fn leave(mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        match self.stream.read(&mut [0; PAYLOAD]).await? {
            0 => Ok(()),
            n => Err(io::Error::other(format!("{n} bytes instead of FIN"))),
        }
    }
}

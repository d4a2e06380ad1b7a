//! Traffic that goes on by itself while a case changes something: clients that come and go at a
//! pace, and streams of which every byte is compared, each in a process of its own.
//!
//! Nobody may fail. Who does is remembered, and the next report fails with what it was. Both are
//! roles of the test binary, see [`crowd`](super::crowd).

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use isobar::net::Address;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::crowd::{Child, PAYLOAD, Player, number};
use super::pattern::Pattern;

/// Who is there at once. If more would have to be, as nobody is served for a while or the
/// machine is too slow for the pace, they come later.
const MOST_VISITORS: usize = 4000;

/// Addresses that visitors come from, so that the ports of none run out.
const SOURCES: u64 = 200;

/// What was done since the beginning, and the longest that anything took since the last report.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Visitors who were served, or bytes that came back.
    pub done: u64,
    /// The longest visit, or the longest time for which a stream stood still.
    pub longest: Duration,
}

impl Report {
    #[track_caller]
    fn of(answer: &str) -> Self {
        let number = |text: &str| text.parse().expect("a number");
        let (done, longest) = answer.split_once(' ').expect("two numbers");
        Self {
            done: number(done),
            longest: Duration::from_micros(number(longest)),
        }
    }
}

/// Clients that come and go: each sends a payload of its own, gets it back, and leaves as is
/// proper.
pub struct Visitors(Child);

impl Visitors {
    /// Nobody yet.
    #[track_caller]
    pub fn start() -> Self {
        Self(Child::start("visitors"))
    }

    /// From now on so many come in a second.
    #[track_caller]
    pub fn come(&mut self, pace: usize, to: &Address) {
        self.0.order(format!("come {pace} {to}"));
    }

    /// How many were served.
    #[track_caller]
    pub fn report(&mut self) -> Report {
        Report::of(&self.0.order("report"))
    }

    /// Nobody comes any more, and all who came were served.
    #[track_caller]
    pub fn stop(&mut self) -> Report {
        Report::of(&self.0.order("stop"))
    }
}

/// How streams flow.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Bytes that are sent at once, as fast as they are taken, and read back meanwhile.
    pub burst: u64,
    /// How long nothing is sent then.
    pub pause: Duration,
    /// Bursts after which a stream ends and another one begins.
    pub bursts: u64,
}

/// Streams to backends that send everything back.
pub struct Streams(Child);

impl Streams {
    /// None yet.
    #[track_caller]
    pub fn start() -> Self {
        Self(Child::start("streams"))
    }

    /// So many more.
    #[track_caller]
    pub fn open(&mut self, n: usize, flow: Flow, to: &Address) {
        let Flow {
            burst,
            pause,
            bursts,
        } = flow;
        let pause = pause.as_millis();
        self.0
            .order(format!("open {n} {burst} {pause} {bursts} {to}"));
    }

    /// How many bytes came back, each as it was sent.
    #[track_caller]
    pub fn report(&mut self) -> Report {
        Report::of(&self.0.order("report"))
    }

    /// Ends them after the bursts that they are in.
    #[track_caller]
    pub fn stop(&mut self) -> Report {
        Report::of(&self.0.order("stop"))
    }
}

/// What all tasks of a role have in common.
#[derive(Default)]
struct Score {
    done: Cell<u64>,
    longest: Cell<Duration>,
    running: Cell<usize>,
    over: Cell<bool>,
    failed: Cell<u64>,
    first_failure: RefCell<Option<String>>,
}

impl Score {
    fn took(&self, time: Duration) {
        self.longest.set(self.longest.get().max(time));
    }

    fn add(&self, done: u64) {
        self.done.set(self.done.get() + done);
    }

    fn fails(&self, failure: impl Display) {
        self.failed.set(self.failed.get() + 1);
        let mut first = self.first_failure.borrow_mut();
        first.get_or_insert_with(|| failure.to_string());
    }

    fn report(&self) -> io::Result<String> {
        match &*self.first_failure.borrow() {
            None => {
                let longest = self.longest.replace(Duration::ZERO);
                Ok(format!("{} {}", self.done.get(), longest.as_micros()))
            }
            Some(first) => {
                let failed = self.failed.get();
                Err(io::Error::other(format!("{failed} failed, first {first}")))
            }
        }
    }

    /// Runs a task that counts for it.
    fn run(self: &Rc<Self>, task: impl Future<Output = io::Result<()>> + 'static) {
        let score = Rc::clone(self);
        self.running.set(self.running.get() + 1);
        tokio::task::spawn_local(async move {
            if let Err(error) = task.await {
                score.fails(error);
            }
            score.running.set(score.running.get() - 1);
        });
    }

    /// Waits until all have ended by themselves.
    async fn finish(&self) -> io::Result<String> {
        self.over.set(true);
        while self.running.get() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.over.set(false);
        self.report()
    }
}

/// Says in which step it failed.
fn step<'a>(who: &'a dyn Display, step: &'a str) -> impl Fn(io::Error) -> io::Error + 'a {
    move |error| io::Error::new(error.kind(), format!("{who}, {step}: {error}"))
}

fn address(word: &str) -> io::Result<SocketAddr> {
    word.parse().map_err(io::Error::other)
}

/// The visitors.
#[derive(Default)]
pub(super) struct Coming {
    score: Rc<Score>,
}

impl Player for Coming {
    async fn obey(&mut self, words: &[&str]) -> io::Result<String> {
        match words {
            ["come", pace, to] => {
                let (pace, to) = (number(pace)?, address(to)?);
                self.score.run(come(Rc::clone(&self.score), pace, to));
                Ok(String::new())
            }
            ["report"] => self.score.report(),
            ["stop"] => self.score.finish().await,
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

async fn come(score: Rc<Score>, pace: usize, to: SocketAddr) -> io::Result<()> {
    let mut began = Instant::now();
    let mut came = 0;
    for visitor in 0.. {
        while came >= (began.elapsed().as_secs_f64() * pace as f64) as u64 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if score.over.get() {
                return Ok(());
            }
        }
        while score.running.get() >= MOST_VISITORS {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if score.over.get() {
                return Ok(());
            }
            // Those who were late do not come all at once.
            (began, came) = (Instant::now(), 0);
        }
        score.run(visit(Rc::clone(&score), visitor, to));
        came += 1;
    }
    Ok(())
}

async fn visit(score: Rc<Score>, visitor: u64, to: SocketAddr) -> io::Result<()> {
    let who = format!("visitor {visitor}");
    let began = Instant::now();
    let mut stream = connect(visitor, to).await.map_err(step(&who, "connect"))?;
    let payload = Pattern(visitor as usize % 100_000).at(0, PAYLOAD);
    stream
        .write_all(payload)
        .await
        .map_err(step(&who, "write"))?;
    let mut answer = [0; PAYLOAD];
    let read = stream.read_exact(&mut answer).await;
    read.map_err(step(&who, "read"))?;
    if answer != *payload {
        return Err(io::Error::other(format!("{who} got somebody else's bytes")));
    }
    leave(&mut stream).await.map_err(step(&who, "leave"))?;
    score.add(1);
    score.took(began.elapsed());
    Ok(())
}

async fn connect(visitor: u64, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // The port is chosen for the pair of addresses, when it connects.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    let source = Ipv4Addr::new(127, 1, 0, (1 + visitor % SOURCES) as u8);
    socket.bind((source, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// FIN, and then the other side's.
async fn leave(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    match stream.read(&mut [0; 1]).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("bytes instead of FIN")),
    }
}

/// The streams.
#[derive(Default)]
pub(super) struct Flowing {
    score: Rc<Score>,
    opened: usize,
}

impl Player for Flowing {
    async fn obey(&mut self, words: &[&str]) -> io::Result<String> {
        match words {
            ["open", n, burst, pause, bursts, to] => {
                let (n, to) = (number(n)?, address(to)?);
                let flow = Flow {
                    burst: number(burst)? as u64,
                    pause: Duration::from_millis(number(pause)? as u64),
                    bursts: number(bursts)? as u64,
                };
                let pace = flow.pause.div_f64(n.max(1) as f64);
                for index in 0..n {
                    let (score, stream) = (Rc::clone(&self.score), self.opened + index);
                    // One after the other, so that some are in the midst of it at any time.
                    let wait = pace.mul_f64(index as f64);
                    self.score.run(async move {
                        tokio::time::sleep(wait).await;
                        let flowed = flow_on_and_on(&score, stream, flow, to).await;
                        flowed.map_err(step(&format!("stream {stream}"), "flow"))
                    });
                }
                self.opened += n;
                Ok(String::new())
            }
            ["report"] => self.score.report(),
            ["stop"] => self.score.finish().await,
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

async fn flow_on_and_on(
    score: &Score,
    stream: usize,
    flow: Flow,
    to: SocketAddr,
) -> io::Result<()> {
    while !score.over.get() {
        let mut connected = TcpStream::connect(to).await?;
        connected.set_nodelay(true)?;
        let mut sent = 0;
        while sent < flow.bursts * flow.burst && !score.over.get() {
            burst(score, &mut connected, Pattern(stream), sent, flow.burst).await?;
            sent += flow.burst;
            tokio::time::sleep(flow.pause).await;
        }
        leave(&mut connected).await?;
    }
    Ok(())
}

/// Sends, and reads it back at the same time.
async fn burst(
    score: &Score,
    stream: &mut TcpStream,
    pattern: Pattern,
    from: u64,
    length: u64,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let write = async {
        let mut sent = 0;
        while sent < length {
            let most = usize::try_from(length - sent).unwrap_or(usize::MAX);
            sent += writer.write(pattern.at(from + sent, most)).await? as u64;
        }
        Ok(())
    };
    let read = async {
        let (mut got, mut last) = (0, Instant::now());
        // Less than a period of the pattern.
        let mut buffer = vec![0; 32 << 10];
        while got < length {
            let n = match reader.read(&mut buffer).await? {
                0 => return Err(io::Error::other("it ended early")),
                n => n,
            };
            score.took(last.elapsed());
            last = Instant::now();
            if buffer[..n] != *pattern.at(from + got, n) {
                let at = from + got;
                return Err(io::Error::other(format!("wrong bytes at or after {at}")));
            }
            got += n as u64;
            score.add(n as u64);
        }
        Ok(())
    };
    tokio::try_join!(write, read).map(drop)
}

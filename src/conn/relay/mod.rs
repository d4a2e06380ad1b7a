//! Moves the bytes of a connection both ways until it ends, and ends it right.
//!
//! Two half-duplex directions run independently in one task. A FIN
//! is passed on when what came before it is delivered; the other direction goes on. When both
//! have sent FIN the sockets are closed. Anything else is a *cut*: what the broken side had
//! sent before is delivered to the other side first, then that side is reset, so that nothing
//! that was cut short looks complete.
//!
//! A broken side is noticed also while nobody reads it, because the other one is full or its
//! own FIN was passed on already: then its socket is watched for errors alone.

mod deliver;
mod direction;
mod keepalive;
mod pipe;
mod timer;

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

pub use pipe::Pipes;

use super::core::{Core, Entry, Phase};
use crate::config::RelayEngine;
use crate::metrics::Ended;
use crate::net::{Liveness, Stream};
use deliver::deliver;
use direction::{Direction, End, Link, Tally, Waiting};
use keepalive::LateKeepalive;
use timer::IdleTimer;

/// How a pool wants its connections relayed.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How bytes are moved.
    pub engine: RelayEngine,
    /// No byte either way for this long ends it; zero: off.
    pub idle_timeout: Duration,
    /// The same from the moment on that one side has sent FIN; zero: off.
    pub half_close_timeout: Duration,
    /// Of the backend's socket; the client's has its from the listener.
    pub liveness: Liveness,
}

impl Settings {
    /// Both time-outs run in a half-closed connection; whether this one is over first.
    fn half_close_comes_first(&self) -> bool {
        let (idle, half_close) = (self.idle_timeout, self.half_close_timeout);
        !half_close.is_zero() && (idle.is_zero() || half_close <= idle)
    }
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Backend,
}

/// What the relay tells while it runs.
pub trait Observer {
    /// The backend accepted so many bytes of the client's.
    fn delivered_up(&self, bytes: u64);
    /// The client accepted so many bytes of the backend's.
    fn delivered_down(&self, bytes: u64);
    /// So many bytes were spliced.
    fn spliced(&self, bytes: u64);
    /// The backend's first byte came, so long after the first moment at which it could.
    fn answered(&self, took: Duration, now: Instant);
}

/// Relays until the connection ends; both sockets are closed or reset when this returns.
///
/// # Cancel safety
/// Dropping the future resets both sides.
pub async fn relay(
    client: Stream,
    backend: Stream,
    settings: Settings,
    core: &Core,
    entry: &Entry,
    observer: &impl Observer,
) -> Ended {
    let mut exchange = Exchange::new(&client, &backend, settings, core, entry, observer);
    let done = std::future::poll_fn(|cx| exchange.poll(cx)).await;
    match done {
        Done::Closed(first) => {
            drop(exchange);
            client.close();
            backend.close();
            closed_by(first)
        }
        Done::TimedOut(ended) => ended,
        Done::Cut(broken, ended) => {
            entry.set_phase(Phase::Closing);
            let direction = exchange.into_direction_from(broken);
            let (source, sink) = match broken {
                Side::Client => (&client, &backend),
                Side::Backend => (&backend, &client),
            };
            // Boxed, as few connections come to it.
            Box::pin(deliver(
                direction,
                source,
                sink,
                core,
                |tally| match broken {
                    Side::Client => observe(observer, entry, tally, &Tally::default()),
                    Side::Backend => observe(observer, entry, &Tally::default(), tally),
                },
            ))
            .await;
            ended
        }
    }
}

fn closed_by(first: Side) -> Ended {
    match first {
        Side::Client => Ended::ClientClosed,
        Side::Backend => Ended::BackendClosed,
    }
}

fn observe(observer: &impl Observer, entry: &Entry, up: &Tally, down: &Tally) {
    if up.delivered > 0 {
        observer.delivered_up(up.delivered);
    }
    if down.delivered > 0 {
        observer.delivered_down(down.delivered);
    }
    let spliced = up.spliced + down.spliced;
    if spliced > 0 {
        observer.spliced(spliced);
    }
    entry.moved(up.delivered, down.delivered);
}

/// How the exchange of bytes came to its end.
#[derive(Debug)]
enum Done {
    /// Both sides sent FIN, this one first, and everything is with the kernel.
    Closed(Side),
    /// This side broke.
    Cut(Side, Ended),
    /// Nothing moved for too long.
    TimedOut(Ended),
}

struct Exchange<'a, O> {
    client: &'a Stream,
    backend: &'a Stream,
    core: &'a Core,
    entry: &'a Entry,
    observer: &'a O,
    settings: Settings,
    up: Half,
    down: Half,
    first_fin: Option<Side>,
    timer: IdleTimer,
    keepalive: Option<LateKeepalive<'a>>,
    /// When the backend could first answer; `None` once it has.
    asked: Option<Instant>,
}

/// A direction, and whether its FIN was passed on.
struct Half {
    direction: Direction,
    done: bool,
}

impl Half {
    fn new(engine: RelayEngine) -> Self {
        Self {
            direction: Direction::new(engine),
            done: false,
        }
    }

    /// Whether its source is being read, so that a failure of it shows by itself.
    fn reads_source(&self) -> bool {
        !self.done && self.direction.waiting() == Waiting::Source
    }
}

impl<'a, O: Observer> Exchange<'a, O> {
    fn new(
        client: &'a Stream,
        backend: &'a Stream,
        settings: Settings,
        core: &'a Core,
        entry: &'a Entry,
        observer: &'a O,
    ) -> Self {
        let now = Instant::now();
        Self {
            client,
            backend,
            core,
            entry,
            observer,
            settings,
            up: Half::new(settings.engine),
            down: Half::new(settings.engine),
            first_fin: None,
            timer: IdleTimer::new(core.timers(), settings.idle_timeout, now),
            keepalive: LateKeepalive::new(core.timers(), backend, settings.liveness, now),
            asked: Some(now),
        }
    }

    fn into_direction_from(self, side: Side) -> Direction {
        match side {
            Side::Client => self.up.direction,
            Side::Backend => self.down.direction,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        let (mut up, mut down) = (Tally::default(), Tally::default());
        let step = self.step(cx, &mut up, &mut down);
        let now = Instant::now();
        if up.taken + down.taken + up.delivered + down.delivered > 0 {
            self.timer.progress(now);
            self.entry.moved_at(now);
            self.note_first_byte(&up, &down, now);
            observe(self.observer, self.entry, &up, &down);
        }
        match step {
            Poll::Pending => {
                if self
                    .keepalive
                    .as_mut()
                    .is_some_and(|late| late.is_set(cx, now))
                {
                    self.keepalive = None;
                }
                self.timer.poll(cx, now).map(|()| self.timed_out())
            }
            done => done,
        }
    }

    fn step(&mut self, cx: &mut Context<'_>, up: &mut Tally, down: &mut Tally) -> Poll<Done> {
        if let Some(done) = self.move_bytes(cx, Side::Client, up) {
            return Poll::Ready(done);
        }
        if let Some(done) = self.move_bytes(cx, Side::Backend, down) {
            return Poll::Ready(done);
        }
        self.watch(cx)
    }

    /// Runs the direction whose source is `from`.
    fn move_bytes(&mut self, cx: &mut Context<'_>, from: Side, tally: &mut Tally) -> Option<Done> {
        let (half, source, sink) = match from {
            Side::Client => (&mut self.up, self.client, self.backend),
            Side::Backend => (&mut self.down, self.backend, self.client),
        };
        if half.done {
            return None;
        }
        let mut buffer = self.core.buffer();
        let mut link = Link {
            source,
            sink,
            buffer: &mut buffer,
            pipes: self.core.pipes(),
            tally,
        };
        let Poll::Ready(end) = half.direction.poll(cx, &mut link) else {
            return None;
        };
        drop(buffer);
        match end {
            End::Fin => self.fin(from),
            End::SourceBroke(error) => Some(cut(from, &error)),
            End::SinkBroke(error) => Some(cut(other(from), &error)),
        }
    }

    /// Everything that `from` sent, and its FIN, is ready to be passed on.
    fn fin(&mut self, from: Side) -> Option<Done> {
        let (half, opposite, sink) = match from {
            Side::Client => (&mut self.up, &self.down, self.backend),
            Side::Backend => (&mut self.down, &self.up, self.client),
        };
        half.done = true;
        let first = *self.first_fin.get_or_insert(from);
        if opposite.done {
            // Closing the sockets sends this FIN.
            return Some(Done::Closed(first));
        }
        sink.shutdown();
        self.entry.set_phase(Phase::HalfClosed);
        if self.settings.half_close_comes_first() {
            let timeout = self.settings.half_close_timeout;
            self.timer.restart(timeout, Instant::now());
        }
        None
    }

    /// Notices that a side broke which nobody reads.
    fn watch(&self, cx: &mut Context<'_>) -> Poll<Done> {
        let sides = [
            (Side::Client, &self.up, self.client),
            (Side::Backend, &self.down, self.backend),
        ];
        for (side, half, stream) in sides {
            if !half.reads_source() && stream.poll_broken(cx).is_ready() {
                return Poll::Ready(cut(side, &stream.take_error()));
            }
        }
        Poll::Pending
    }

    fn timed_out(&self) -> Done {
        let half_closed = self.first_fin.is_some();
        Done::TimedOut(
            match half_closed && self.settings.half_close_comes_first() {
                true => Ended::HalfCloseTimeout,
                false => Ended::IdleTimeout,
            },
        )
    }

    /// A backend may answer once the client has asked, or, if it speaks first, at once.
    fn note_first_byte(&mut self, up: &Tally, down: &Tally, now: Instant) {
        let Some(asked) = self.asked else { return };
        if down.taken > 0 {
            self.observer
                .answered(now.saturating_duration_since(asked), now);
            self.asked = None;
        } else if up.taken > 0 && !self.entry.has_moved() {
            self.asked = Some(now);
        }
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Backend,
        Side::Backend => Side::Client,
    }
}

/// The end of a connection of which `side` broke.
fn cut(side: Side, error: &io::Error) -> Done {
    let lost = matches!(
        error.kind(),
        io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    );
    let ended = match (side, lost) {
        (Side::Client, false) => Ended::ClientReset,
        (Side::Client, true) => Ended::ClientLost,
        (Side::Backend, false) => Ended::BackendReset,
        (Side::Backend, true) => Ended::BackendLost,
    };
    Done::Cut(side, ended)
}

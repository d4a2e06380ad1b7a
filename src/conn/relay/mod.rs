//! Moves the bytes of a connection both ways until it ends, and ends it right.
//!
//! Two half-duplex directions run independently in one task. A FIN
//! is passed on when what came before it is delivered; the other direction goes on. When both
//! have sent FIN the sockets are closed. Anything else is a *cut*: what the broken side had
//! sent before is delivered to the other side first, then that side is reset, so that nothing
//! that was cut short looks complete.
//!
//! A connection that is to leave at a quiet moment looks for one whenever it has nothing to do,
//! and both sides are reset then, see [`leaving`](super::leaving). One that may not become older,
//! or whose backend is down, ends in the middle of something if need be: what is in hand is
//! delivered first.
//!
//! A broken side is noticed also while nobody reads it, because the other one is full or its
//! own FIN was passed on already: then its socket is watched for errors alone.
//!
//! A backend that ends the connection before its first byte ends the relay, as long as another
//! backend may take the connection over: see [`window`]. Whether it does is for others to find
//! out; the relay goes on where none does.

mod age;
mod clock;
mod deliver;
mod direction;
mod frozen;
mod parted;
mod pipe;
mod quiet;
mod window;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

pub use frozen::{Gait, InHand, Pose, Still};
pub(super) use parted::Parted;
pub use pipe::{PIPE_SIZE, Pipes};

use serde::{Deserialize, Serialize};

use super::core::{Core, Entry, Phase};
use super::liveness;
use super::replay::Trail;
use crate::config;
use crate::metrics::{Ended, Failure};
use crate::net::{Kind, Stream};
use crate::pool::quality::Sample;
use clock::Clock;
use deliver::{What, deliver};
use direction::{Direction, End, Link, Tally, Waiting};
use window::Window;

/// A connection that is relayed for so long is well, whether or not the backend has said
/// anything.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Side {
    Client,
    Backend,
}

/// What the relay tells while it runs.
pub trait Observer {
    /// The backend accepted so many bytes of the client's.
    fn delivered_up(&self, bytes: u64);
    /// The same, but another backend may get them instead: they count when this one is settled.
    fn hold_back(&self, bytes: u64);
    /// This backend is settled.
    fn settle(&self);
    /// The client accepted so many bytes of the backend's.
    fn delivered_down(&self, bytes: u64);
    /// So many bytes were spliced.
    fn spliced(&self, bytes: u64);
    /// The backend's first byte came, so long after the first moment at which it could.
    fn answered(&self, took: Duration, now: Instant);
    /// It went on for [`LONG_ENOUGH`] without one.
    fn lasted(&self, now: Instant);
    /// The backend ended it sooner, and the client had sent nothing.
    fn ended_early(&self, how: Failure, now: Instant);
    /// Whether it matters that one lasts, at that very moment.
    fn is_doubted(&self) -> bool;
    /// The kernel was asked how the backend's socket is doing.
    fn sampled(&self, sample: &Sample);
}

/// How a relay came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The connection is over, so.
    Ended(Ended),
    /// It was asked to move, and stands still.
    Frozen,
    /// Its backend has ended it before its first byte, and another one may take it over; what it
    /// ends as where none does, unless by the FIN of this backend.
    Early(Option<Ended>),
}

fn closed_by(first: Side) -> Ended {
    match first {
        Side::Client => Ended::ClientClosed,
        Side::Backend => Ended::BackendClosed,
    }
}

fn observe(observer: &impl Observer, up: &Tally, down: &Tally) {
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
}

/// How the exchange of bytes came to its end.
#[derive(Debug)]
enum Done {
    /// Both sides sent FIN, this one first, and everything is with the kernel.
    Closed(Side),
    /// This side broke.
    Cut(Side, Ended),
    /// Nothing moved for too long, or for long enough to leave.
    Over(Ended),
    /// It has to end, whatever it is in the middle of.
    Parted(Ended),
    /// It was asked to move, and can.
    Frozen,
    /// The backend ended it, and another one may take it over.
    Early(Option<Ended>),
}

/// A connection that has its backend, and what is known of its two directions between two
/// polls. Dropping it closes the sockets where the connection is complete, and resets them
/// otherwise.
pub struct Exchange<'a, O> {
    client: Stream,
    backend: Stream,
    core: &'a Core,
    entry: &'a Entry,
    observer: O,
    settings: Arc<config::Pool>,
    up: Half,
    down: Half,
    first_fin: Option<Side>,
    clock: Clock,
    /// When the backend could first answer; `None` once it has.
    asked: Option<Instant>,
    /// From when on it has lasted; `None`: what it shows of the backend was told.
    lasts_at: Option<Instant>,
    /// Whether another backend could take it over.
    window: Window,
}

/// A direction, and whether its FIN was passed on.
#[derive(Debug)]
struct Half {
    direction: Direction,
    done: bool,
}

impl Half {
    fn new(engine: config::RelayEngine) -> Self {
        Self::with(Vec::new(), engine)
    }

    /// One that has these bytes to deliver before it takes any.
    fn with(early: Vec<u8>, engine: config::RelayEngine) -> Self {
        Self {
            direction: Direction::with(early, engine),
            done: false,
        }
    }

    /// Whether its source is being read, so that a failure of it shows by itself.
    fn reads_source(&self) -> bool {
        !self.done && self.direction.waiting() == Waiting::Source
    }
}

impl<'a, O: Observer> Exchange<'a, O> {
    /// Of a client and the backend that was just connected for it, which gets first what was
    /// read of the client `early`.
    pub(super) fn new(
        (client, backend): (Stream, Stream),
        (early, trail): (Vec<u8>, Option<Box<Trail>>),
        settings: Arc<config::Pool>,
        core: &'a Core,
        entry: &'a Entry,
        observer: O,
    ) -> Self {
        let now = Instant::now();
        entry.moved_at(now);
        entry.sampling().begin(backend.kind());
        // The client's socket has its own from the listener.
        let probed = backend.kind() == Kind::Tcp && !settings.keepalive.is_zero();
        let keepalive_at = probed.then(|| now + settings.keepalive / 2);
        Self {
            client,
            backend,
            core,
            entry,
            observer,
            window: Window::new(settings.replay, &early, trail),
            up: Half::with(early, settings.relay),
            down: Half::new(settings.relay),
            first_fin: None,
            clock: Clock::new(core.timers(), keepalive_at),
            asked: Some(now),
            lasts_at: Some(now + LONG_ENOUGH),
            settings,
        }
    }

    /// Relays until the connection ends, or is asked to move.
    ///
    /// # Cancel safety
    /// Dropping the future leaves a connection that is not complete.
    pub async fn run(&mut self) -> Finish {
        let done = poll_fn(|cx| self.poll(cx)).await;
        if self.entry.sampling().has_begun() && !matches!(done, Done::Frozen) {
            self.sample();
        }
        match done {
            Done::Closed(first) => {
                self.client.complete();
                self.backend.complete();
                Finish::Ended(closed_by(first))
            }
            Done::Over(ended) => Finish::Ended(ended),
            Done::Parted(ended) => {
                self.entry.set_phase(Phase::Closing);
                self.entry.stay();
                // Boxed, as few connections come to it.
                Box::pin(self.deliver_in_hand(ended)).await;
                Finish::Ended(ended)
            }
            Done::Frozen => Finish::Frozen,
            Done::Early(ended) => Finish::Early(ended),
            Done::Cut(broken, ended) => {
                self.entry.set_phase(Phase::Closing);
                self.entry.stay();
                // Boxed, as few connections come to it.
                Box::pin(self.deliver_from(broken, What::Everything)).await;
                Finish::Ended(ended)
            }
        }
    }

    /// Whether everything it has in hand can be carried: an error that a socket has told of
    /// once cannot, and ends the connection soon anyway.
    fn can_move(&self) -> bool {
        self.up.direction.can_move() && self.down.direction.can_move()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        if self.entry.is_to_move() {
            if self.can_move() {
                return Poll::Ready(Done::Frozen);
            }
            self.entry.stay();
        }
        if self.entry.sampling().is_due() {
            self.sample();
        }
        let (mut up, mut down) = (Tally::default(), Tally::default());
        let kept = self.window.is_kept();
        let step = self.step(cx, &mut up, &mut down);
        let now = Instant::now();
        let moved = up.taken + down.taken + up.delivered + down.delivered > 0;
        if kept || self.window.is_kept() {
            self.tend_window(&mut up, &down, now);
        }
        if moved {
            self.entry.moved_at(now);
            self.note_last_byte(&up, &down);
            self.note_first_byte(&up, &down, !kept, now);
            observe(&self.observer, &up, &down);
        }
        if self.lasts_at.is_some() {
            self.judge(self.early_end(&step), now);
        }
        if step.is_ready() {
            return step;
        }
        self.rest(cx, now)
    }

    /// Asks the kernel how the backend's socket is doing.
    #[cold]
    fn sample(&self) {
        let info = self.backend.tcp_info();
        if let Some(sample) = self.entry.sampling().take(info, Instant::now()) {
            self.observer.sampled(&sample);
        }
    }

    /// How the backend has ended it, if that is early.
    fn early_end(&self, step: &Poll<Done>) -> Option<Failure> {
        match step {
            Poll::Ready(
                Done::Cut(Side::Backend, Ended::BackendReset)
                | Done::Early(Some(Ended::BackendReset)),
            ) => Some(Failure::EarlyReset),
            _ => None,
        }
    }

    /// Tells once what it shows of the backend: the first of its first byte, a second, an `early`
    /// end.
    ///
    /// For the second nobody sets a timer while the backend is well: it is noticed when the
    /// connection next moves, or ends, and matters to nobody before. (So of a connection that was
    /// silent from before the first of several failures until after them the second may be
    /// noticed late.)
    fn judge(&mut self, early: Option<Failure>, now: Instant) {
        let Some(lasts_at) = self.lasts_at else {
            return;
        };
        if self.asked.is_none() {
            self.lasts_at = None;
        } else if lasts_at <= now {
            self.lasts_at = None;
            self.observer.lasted(now);
        } else if let Some(how) = early {
            self.lasts_at = None;
            if self.is_client_silent() {
                self.observer.ended_early(how, now);
            }
        }
    }

    /// Tells that the backend has sent FIN without a byte, before the client knows: it may answer
    /// with its own FIN as soon as it does. `spoken`: bytes of the client have just come.
    fn judge_fin(&mut self, spoken: bool) {
        match spoken {
            true => self.lasts_at = None,
            false => self.judge(Some(Failure::EarlyClose), Instant::now()),
        }
    }

    /// Whether the client has sent nothing at all, not even FIN, so far as the kernel knows.
    fn is_client_silent(&self) -> bool {
        let kept = self.window.is_kept();
        let taken = kept || self.entry.bytes().0 > 0 || !self.up.reads_source();
        !taken && !self.client.has_unread()
    }

    /// What becomes of what is kept for another backend: it is dropped when nobody else may get
    /// it any more, and what this one accepted of it is counted, at the latest after a while.
    fn tend_window(&mut self, up: &mut Tally, down: &Tally, now: Instant) {
        let opened = self.entry.last_moved();
        self.window.poll(opened, self.settings.connect_timeout, now);
        if down.taken > 0 {
            self.window.shut();
        }
        if !self.window.holds_back(now) {
            self.observer.settle();
        } else if up.delivered > 0 {
            self.observer.hold_back(std::mem::take(&mut up.delivered));
        }
    }

    /// When it must be looked whether it has lasted: only while that matters.
    fn looks_whether_it_lasts_at(&self) -> Option<Instant> {
        self.lasts_at.filter(|_| self.observer.is_doubted())
    }

    fn look_at_clock(
        &mut self,
        cx: &mut Context<'_>,
        look_at: Option<Instant>,
        now: Instant,
    ) -> Poll<Done> {
        if self.clock.keepalive_is_due(now) {
            // A connection that broke in this moment ends by that, not by this.
            let _ = liveness(&self.settings).apply_keepalive(self.backend.socket());
        }
        let (timeout, ended) = self.timeout();
        let lasts_at = self.looks_whether_it_lasts_at();
        let look_at = look_at.into_iter().chain(lasts_at).min();
        let silent_since = self.entry.last_moved();
        let look_at = look_at.or_else(|| self.window.look_at(now));
        self.clock
            .poll(cx, silent_since, timeout, look_at, now)
            .map(|()| Done::Over(ended))
    }

    /// How long nothing may move, and what it is called when nothing did. Both time-outs run
    /// in a half-closed connection; the shorter ends it.
    fn timeout(&self) -> (Duration, Ended) {
        let idle = self.settings.idle_timeout;
        let half_close = self.settings.half_close_timeout;
        let comes_first = !half_close.is_zero() && (idle.is_zero() || half_close <= idle);
        match self.first_fin.is_some() && comes_first {
            true => (half_close, Ended::HalfCloseTimeout),
            false => (idle, Ended::IdleTimeout),
        }
    }

    /// Delivers what was taken from either side and is not with the other one yet. A backend that
    /// is down would only make its client wait.
    async fn deliver_in_hand(&mut self, ended: Ended) {
        self.deliver_from(Side::Backend, What::InHand).await;
        if ended != Ended::BackendDown {
            self.deliver_from(Side::Client, What::InHand).await;
        }
    }

    /// Delivers to the other side what `from` had sent before.
    async fn deliver_from(&mut self, from: Side, what: What) {
        let (direction, source, sink) = match from {
            Side::Client => (&mut self.up.direction, &self.client, &self.backend),
            Side::Backend => (&mut self.down.direction, &self.backend, &self.client),
        };
        let observer = &self.observer;
        deliver(
            what,
            direction,
            source,
            sink,
            self.core,
            |tally| match from {
                Side::Client => observe(observer, tally, &Tally::default()),
                Side::Backend => observe(observer, &Tally::default(), tally),
            },
        )
        .await;
    }

    fn step(&mut self, cx: &mut Context<'_>, up: &mut Tally, down: &mut Tally) -> Poll<Done> {
        let end = self.move_bytes(cx, Side::Client, up);
        if let Some(done) = end.and_then(|end| self.come_to(end, Side::Client, false)) {
            return Poll::Ready(done);
        }
        let end = self.move_bytes(cx, Side::Backend, down);
        let answered = down.taken > 0;
        if matches!(end, Some(End::Fin)) && !answered {
            self.judge_fin(up.taken > 0);
        }
        if let Some(done) = end.and_then(|end| self.come_to(end, Side::Backend, answered)) {
            return Poll::Ready(done);
        }
        self.watch(cx)
    }

    /// Runs the direction whose source is `from`; its end, if it has come to it.
    fn move_bytes(&mut self, cx: &mut Context<'_>, from: Side, tally: &mut Tally) -> Option<End> {
        // Nothing is kept of what a backend sends.
        let mut shut = Window::Shut;
        let (half, source, sink, window) = match from {
            Side::Client => (&mut self.up, &self.client, &self.backend, &mut self.window),
            Side::Backend => (&mut self.down, &self.backend, &self.client, &mut shut),
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
            window,
        };
        match half.direction.poll(cx, &mut link) {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        }
    }

    /// What the end of the direction whose source is `from` means for the connection. `answered`:
    /// it has just brought bytes of the backend.
    fn come_to(&mut self, end: End, from: Side, answered: bool) -> Option<Done> {
        let (side, done) = match end {
            End::Fin => (from, None),
            End::SourceBroke(error) => (from, Some(cut(from, &error))),
            End::SinkBroke(error) => (other(from), Some(cut(other(from), &error))),
        };
        match (side, done) {
            (Side::Backend, done) if !answered && self.may_move_on(done.as_ref()) => {
                Some(Done::Early(done.map(|_| Ended::BackendReset)))
            }
            (_, None) => self.fin(from),
            (_, done) => done,
        }
    }

    /// Whether another backend may take the connection over from this one, which has just ended
    /// it: by a FIN, or as `cut` says. This is where the first phase of a connection ends, if not
    /// with a first byte.
    fn may_move_on(&self, cut: Option<&Done>) -> bool {
        if self.asked.is_none() || self.window.is_shut() {
            return false;
        }
        // A backend that was lost has not said that it does not want the connection.
        let by_backend = matches!(cut, None | Some(Done::Cut(_, Ended::BackendReset)));
        let (opened, timeout) = (self.entry.last_moved(), self.settings.connect_timeout);
        let in_time = self.window.is_open(opened, timeout, Instant::now());
        let no_fin = self.first_fin.is_none() && !self.up.direction.has_ended();
        // What the kernel has of either was sent before this end.
        by_backend && in_time && no_fin && !self.client.has_left() && !self.backend.has_bytes()
    }

    /// Everything that `from` sent, and its FIN, is ready to be passed on.
    fn fin(&mut self, from: Side) -> Option<Done> {
        let (half, opposite, sink) = match from {
            Side::Client => (&mut self.up, &self.down, &self.backend),
            Side::Backend => (&mut self.down, &self.up, &self.client),
        };
        half.done = true;
        self.window.shut();
        let first = *self.first_fin.get_or_insert(from);
        if opposite.done {
            // Closing the sockets sends this FIN.
            return Some(Done::Closed(first));
        }
        sink.shutdown();
        self.entry.set_phase(Phase::HalfClosed);
        // From here on another time-out may run.
        self.entry.moved_at(Instant::now());
        None
    }

    /// Notices that a side broke which nobody reads.
    fn watch(&self, cx: &mut Context<'_>) -> Poll<Done> {
        let sides = [
            (Side::Client, &self.up, &self.client),
            (Side::Backend, &self.down, &self.backend),
        ];
        for (side, half, stream) in sides {
            if !half.reads_source() && stream.poll_broken(cx).is_ready() {
                return Poll::Ready(cut(side, &stream.take_error()));
            }
        }
        Poll::Pending
    }

    /// Where both have sent something, what the backend sent was sent before it could know of
    /// what the client did.
    fn note_last_byte(&self, up: &Tally, down: &Tally) {
        if up.taken + down.taken > 0 {
            self.entry.set_answered(up.taken == 0);
        }
    }

    /// A backend may answer once the client has asked, or, if it speaks first, at once. `silent`:
    /// nothing is kept of what the client had sent before.
    fn note_first_byte(&mut self, up: &Tally, down: &Tally, silent: bool, now: Instant) {
        let Some(asked) = self.asked else { return };
        if down.taken > 0 {
            self.observer
                .answered(now.saturating_duration_since(asked), now);
            self.asked = None;
        } else if up.taken > 0 && silent && !self.entry.has_moved() {
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

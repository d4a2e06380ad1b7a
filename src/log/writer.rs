//! The one thread that writes every sink.
//!
//! All others push whole [`Item`]s into one bounded queue and go on. The thread works in
//! turns: wait for an item, take all there are, write what each sink takes now, pause. The
//! pause makes batches: under load the queue fills meanwhile, so that a turn costs one write
//! for hundreds of lines, and those who push need not wake a sleeping thread each time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::access::Access;
use super::reconfigure::Sinks;
use super::rejection::Rejection;
use super::sink::Sink;
use super::throttle::Throttle;

/// Items that wait for the thread, at a quarter of a kilobyte each. At 50,000 connections a
/// second they bridge 160 ms: longer than a scheduler keeps a thread from its core.
const CAPACITY: usize = 8192;

/// Between two turns. It delays a line that follows close on another, and bounds the turns of
/// a busy second to 500.
const PAUSE: Duration = Duration::from_millis(2);

/// Longest wait for a blocked sink before the queue is looked at again.
const BLOCKED_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// What is asked of the thread.
#[allow(
    clippy::large_enum_variant,
    reason = "a box would be an allocation on the data core for each connection"
)]
pub(super) enum Item {
    /// A line for standard error, formatted by whoever had something to say.
    Event(Vec<u8>),
    /// A finished connection.
    Access(Access),
    /// A refused one.
    Rejection(Rejection),
    /// Open the access file anew, if that was not done since it was asked for.
    Reopen,
    /// Go on with the sinks that are wanted now, if that was not done since it was asked for.
    Configure,
    /// Answer once all that came before is written.
    Flush(SyncSender<()>),
}

/// The sinks, as the label of `log_lines_dropped_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinkName {
    Stderr,
    Access,
}

/// Lines given up so far, by sink.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    stderr: Arc<AtomicU64>,
    access: Arc<AtomicU64>,
}

impl Lost {
    pub(super) fn of(&self, sink: SinkName) -> &Arc<AtomicU64> {
        match sink {
            SinkName::Stderr => &self.stderr,
            SinkName::Access => &self.access,
        }
    }
}

/// The end of the queue that everybody pushes into; never blocks.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    items: SyncSender<Item>,
    lost: Lost,
    /// Access lines go to a sink of their own.
    has_access: Arc<AtomicBool>,
    reopen: Arc<AtomicBool>,
    change: Change,
}

/// Other sinks that the thread has not seen yet. Only the control plane and the thread lock it.
type Change = Arc<Mutex<Option<Sinks>>>;

impl Queue {
    /// A queue, and the end that the thread reads.
    pub(super) fn new(access: SinkName) -> (Self, Receiver<Item>) {
        let (items, receiver) = sync_channel(CAPACITY);
        let queue = Self {
            items,
            lost: Lost::default(),
            has_access: Arc::new((access == SinkName::Access).into()),
            reopen: Arc::default(),
            change: Arc::default(),
        };
        (queue, receiver)
    }

    /// Pushes an item; a line that finds the queue full is counted, any other item is lost.
    pub(super) fn push(&self, item: Item) {
        if let Err(TrySendError::Full(item) | TrySendError::Disconnected(item)) =
            self.items.try_send(item)
        {
            self.count(&item);
        }
    }

    fn count(&self, item: &Item) {
        let sink = match item {
            Item::Event(_) => SinkName::Stderr,
            Item::Access(_) | Item::Rejection(_) => match self.has_access.load(Relaxed) {
                true => SinkName::Access,
                false => SinkName::Stderr,
            },
            Item::Reopen | Item::Configure | Item::Flush(_) => return,
        };
        self.lost.of(sink).fetch_add(1, Relaxed);
    }

    /// Pushes an item, waiting for room until `deadline`. Not for a data core.
    pub(super) fn push_until(&self, mut item: Item, deadline: Instant) -> bool {
        loop {
            item = match self.items.try_send(item) {
                Ok(()) => return true,
                Err(TrySendError::Full(item)) if Instant::now() < deadline => item,
                Err(_) => return false,
            };
            std::thread::sleep(PAUSE);
        }
    }

    /// Asks for the access file to be opened anew, behind what was pushed before. A full queue
    /// costs that order, not the request: the thread is awake then, and looks at the flag.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Relaxed);
        self.push(Item::Reopen);
    }

    /// Leaves other sinks for the thread to find.
    pub(super) fn change(&self, sinks: Sinks) {
        if let Some(instead) = &sinks.instead {
            let own = instead.name == SinkName::Access;
            self.has_access.store(own, Relaxed);
        }
        let mut change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let sinks = sinks.after(change.take());
        *change = Some(sinks);
    }

    /// Lines given up by all.
    pub(super) fn lost(&self) -> &Lost {
        &self.lost
    }
}

/// The thread's state.
pub(super) struct Writer {
    items: Receiver<Item>,
    stderr: Sink,
    /// `None`: access lines go to standard error.
    access: Option<Sink>,
    reopen: Arc<AtomicBool>,
    change: Change,
    flushes: Vec<SyncSender<()>>,
    losses: Losses,
}

impl Writer {
    /// A writer of these sinks for the other end of `queue`.
    pub(super) fn new(
        items: Receiver<Item>,
        queue: &Queue,
        stderr: Sink,
        access: Option<Sink>,
    ) -> Self {
        Self {
            items,
            stderr,
            access,
            reopen: Arc::clone(&queue.reopen),
            change: Arc::clone(&queue.change),
            flushes: Vec::new(),
            losses: Losses::new(&queue.lost),
        }
    }

    /// Works until nobody can push any more.
    pub(super) fn run(mut self) {
        while self.turn() {
            std::thread::sleep(PAUSE);
        }
    }

    /// One turn; false after the last one.
    pub(super) fn turn(&mut self) -> bool {
        let more = match self.wait() {
            Ok(item) => {
                self.take(item);
                self.take_rest();
                true
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => false,
        };
        self.configure();
        self.reopen();
        self.sinks().for_each(Sink::flush);
        if !self.is_waiting() {
            self.flushes.clear();
        }
        self.report();
        more
    }

    /// The next item; with lines that wait for a sink, either of both.
    fn wait(&mut self) -> Result<Item, TryRecvError> {
        if !self.is_waiting() {
            return self.items.recv().map_err(|_| TryRecvError::Disconnected);
        }
        self.wait_for_room();
        self.items.try_recv()
    }

    fn wait_for_room(&mut self) {
        let mut fds: Vec<_> = self
            .sinks()
            .filter(|sink| sink.is_waiting())
            .filter_map(|sink| Some(PollFd::from_borrowed_fd(sink.descriptor()?, PollFlags::OUT)))
            .collect();
        // An error is an interruption; the next turn tries again either way.
        let _ = rustix::event::poll(&mut fds, Some(&BLOCKED_WAIT));
    }

    /// At most a whole queue, so that a turn ends however fast others push.
    fn take_rest(&mut self) {
        for _ in 1..CAPACITY {
            match self.items.try_recv() {
                Ok(item) => self.take(item),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Event(line) => self.stderr.line(|out, _| out.extend_from_slice(&line)),
            Item::Access(access) => self.access().line(|out, format| access.write(out, format)),
            Item::Rejection(rejection) => self
                .access()
                .line(|out, format| rejection.write(out, format)),
            Item::Reopen => self.reopen(),
            Item::Configure => self.configure(),
            Item::Flush(done) => self.flushes.push(done),
        }
    }

    fn configure(&mut self) {
        let mut change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sinks) = change.take() else {
            return;
        };
        drop(change);
        self.stderr.set_format(sinks.stderr);
        if let Some(instead) = sinks.instead
            && let Some(old) = std::mem::replace(&mut self.access, instead.sink)
        {
            old.close();
        }
        if let Some(access) = &mut self.access {
            access.set_format(sinks.access);
        }
    }

    fn reopen(&mut self) {
        if self.reopen.swap(false, Relaxed)
            && let Some(access) = &mut self.access
            && let Err(error) = access.reopen()
        {
            let path = access
                .path()
                .map(|path| tracing::field::display(path.display()));
            tracing::warn!(path, %error, "cannot reopen the access file, the old one is kept");
        }
    }

    /// Says how many lines were lost, once a line about it can be read.
    fn report(&mut self) {
        if !self.stderr.is_waiting() && self.stderr.fault().is_none() {
            self.losses.report(self.access.as_ref(), Instant::now());
        }
    }

    fn access(&mut self) -> &mut Sink {
        self.access.as_mut().unwrap_or(&mut self.stderr)
    }

    /// The access sink first: should standard error block after all, its lines are out.
    fn sinks(&mut self) -> impl Iterator<Item = &mut Sink> {
        self.access.iter_mut().chain([&mut self.stderr])
    }

    fn is_waiting(&self) -> bool {
        self.stderr.is_waiting() || self.access.as_ref().is_some_and(Sink::is_waiting)
    }
}

/// What was said so far about lost lines.
struct Losses {
    lost: Lost,
    said: [u64; 2],
    throttle: Throttle,
}

impl Losses {
    fn new(lost: &Lost) -> Self {
        Self {
            lost: lost.clone(),
            said: [0; 2],
            throttle: Throttle::default(),
        }
    }

    fn report(&mut self, sink: Option<&Sink>, now: Instant) {
        let lost =
            [SinkName::Stderr, SinkName::Access].map(|sink| self.lost.of(sink).load(Relaxed));
        if lost == self.said || self.throttle.check(now).is_none() {
            return;
        }
        let [stderr, access] = [lost[0] - self.said[0], lost[1] - self.said[1]];
        let fault = sink.and_then(Sink::fault);
        let path = fault.and(sink).and_then(Sink::path);
        tracing::warn!(
            stderr,
            access,
            path = path.map(|path| tracing::field::display(path.display())),
            error = fault.map(tracing::field::display),
            "log lines dropped"
        );
        self.said = lost;
    }
}

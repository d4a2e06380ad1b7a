//! What a data core owns: its copy buffer, its pipes, and the table of its connections.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::ending::Order;
use super::idlest::Question;
use super::leaving::{Leave, Leaving};
use super::listing::Ask;
use super::moving::{Passport, Ticket};
use super::quality::{self, Sampling};
use super::relay::Pipes;
use crate::admit::{self, Admit};
use crate::log;
use crate::metrics::{Ended, Process};
use crate::net::Address;
use crate::runtime::timers::Timers;

/// Bytes of the copy buffer: one for each core, so that an idle connection owns none. It is
/// also the most that isobar keeps of one direction, see `slow reader` in the documentation.
const BUFFER: usize = 64 << 10;

/// What a core does on its own thread for another one.
pub type Work = Box<dyn FnOnce(&Rc<Core>) + Send>;

/// What a core is told from other threads.
pub enum Command {
    /// To do something with what only it has, such as to watch a listening socket; it must be
    /// short.
    Do(Work),
    /// To serve a connection that another core accepted.
    Serve(super::Arrival),
    /// To list its connections, or a part of them.
    Connections(Ask),
    /// To say which connections of a backend are the idlest, of a part of them.
    Idlest(Question),
    /// To end some of its connections at once, or a part of them.
    End(Order),
    /// To end one of its connections at a quiet moment.
    Leave(Leave),
    /// To end every connection at once, those still to come included.
    EndAll(Ended),
    /// To answer.
    Answer(oneshot::Sender<()>),
}

/// Where a core is told.
#[derive(Clone, Debug)]
pub struct CoreHandle {
    commands: mpsc::UnboundedSender<Command>,
}

impl CoreHandle {
    /// A handle, and where its core hears of it. The queue is bounded by what fills it: a
    /// connection in it has its permit.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        (Self { commands }, receiver)
    }

    /// Tells the core. A core that is gone needs no telling: what was sent is dropped, which
    /// ends a connection as every drop does.
    pub fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Completes with true when the core gets to what it is told, with false if it is gone.
    pub async fn answers(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Answer(reply));
        answer.await.is_ok()
    }

    /// Has the core do something on its thread. A core that is gone drops it undone.
    pub fn run(&self, work: impl FnOnce(&Rc<Core>) + Send + 'static) {
        self.tell(Command::Do(Box::new(work)));
    }
}

/// A data core: what its connections share. Never leaves its thread.
#[derive(Debug)]
pub struct Core {
    index: usize,
    buffer: RefCell<Box<[u8]>>,
    pipes: Rc<Pipes>,
    timers: Rc<Timers>,
    entries: RefCell<BTreeMap<u64, Rc<Entry>>>,
    accepted: Cell<u64>,
    /// Every connection was told to end, so.
    ending: Cell<Option<Ended>>,
    log: log::Handle,
    process: Arc<Process>,
}

impl Core {
    /// Core `index` of the process, with at most `pipes` pipes.
    ///
    /// # Panics
    /// If this thread runs no [`runtime`](crate::runtime).
    pub fn new(index: usize, pipes: usize, log: log::Handle, process: Arc<Process>) -> Rc<Self> {
        Rc::new(Self {
            index,
            buffer: RefCell::new(vec![0; BUFFER].into()),
            pipes: Pipes::new(pipes, Arc::clone(&process), index),
            timers: crate::runtime::timers(),
            entries: RefCell::default(),
            accepted: Cell::new(0),
            ending: Cell::new(None),
            log,
            process,
        })
    }

    /// Its number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Where access lines go.
    pub fn log(&self) -> &log::Handle {
        &self.log
    }

    /// What is counted for the process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The deadlines of its connections.
    pub fn timers(&self) -> &Rc<Timers> {
        &self.timers
    }

    pub(super) fn buffer(&self) -> RefMut<'_, Box<[u8]>> {
        self.buffer.borrow_mut()
    }

    pub(super) fn pipes(&self) -> &Rc<Pipes> {
        &self.pipes
    }

    /// Enters a connection into the table, until the guard is dropped.
    pub(super) fn enter(self: &Rc<Self>, entry: Entry) -> Entered {
        let sequence = self.accepted.get();
        self.accepted.set(sequence + 1);
        // Unique in the process: cores count in steps of their number.
        let cores = self.process.cores() as u64;
        let id = sequence * cores + self.index as u64 + 1;
        self.enter_as(entry.numbered(id))
    }

    /// Enters a connection that has its id already.
    pub(super) fn enter_as(self: &Rc<Self>, entry: Entry) -> Entered {
        let entry = Rc::new(entry);
        let id = entry.id;
        if let Some(ended) = self.ending.get() {
            entry.end(ended);
        }
        self.entries.borrow_mut().insert(id, Rc::clone(&entry));
        Entered {
            core: Rc::clone(self),
            entry,
        }
    }

    /// Above every id that it has given.
    pub fn next_id(&self) -> u64 {
        (self.accepted.get() + 1) * self.process.cores() as u64
    }

    /// Gives only ids from `id` on.
    pub fn begin_ids_at(&self, id: u64) {
        let cores = self.process.cores() as u64;
        self.accepted.set(self.accepted.get().max(id / cores + 1));
    }

    /// Asks up to `most` connections that were not asked yet, and are established, to move.
    /// Each gives itself to `ticket`, or drops its share of it where it cannot move now. Those
    /// of the pools in `but` are not asked.
    pub fn ask_to_move(&self, most: usize, ticket: &Ticket, but: &BTreeSet<Arc<str>>) {
        let entries = self.entries.borrow();
        let is_asked = |entry: &&Rc<Entry>| {
            let pool = &entry.place.borrow().pool;
            entry.is_movable() && !pool.as_ref().is_some_and(|pool| but.contains(pool))
        };
        let movable = entries.values().filter(is_asked);
        movable
            .take(most)
            .for_each(|entry| entry.ask_to_move(ticket));
    }

    /// Counts the connections that came through `listener` where `admit` counts, and they do not
    /// yet.
    pub fn count_in(&self, admit: &Admit, listener: &str) {
        let now = Instant::now();
        for entry in self.entries.borrow().values() {
            if **entry.listener() == *listener && !entry.counts_in(admit) {
                entry.count_as(admit.count(&entry.client(), now));
            }
        }
    }

    /// Answers what was asked of its connections.
    pub fn list(&self, ask: Ask) {
        ask.answer(&self.entries.borrow());
    }

    /// Answers which connections are the idlest.
    pub fn find_idlest(&self, question: Question) {
        question.answer(&self.entries.borrow());
    }

    /// Has some of its connections, of those with ids above `after`, ask the kernel how they are
    /// doing; where to go on, if there are more.
    pub(super) fn ask_for_samples(&self, after: u64, now: Instant) -> Option<u64> {
        quality::ask(&self.entries.borrow(), after, now)
    }

    /// Ends some of its connections.
    pub fn end(&self, order: Order) {
        order.obey(&self.entries.borrow());
    }

    /// Has one of its connections end at a quiet moment.
    pub fn leave(&self, leave: Leave) {
        leave.pass_on(|id| self.entries.borrow().get(&id).cloned());
    }

    /// Ends every connection of this core at once, and for good: those that are on their way
    /// here, or whose task has not begun, end when they enter.
    pub fn end_all(&self, ended: Ended) {
        self.ending.set(Some(ended));
        let entries: Vec<_> = self.entries.borrow().values().cloned().collect();
        for entry in entries {
            entry.end(ended);
        }
    }
}

/// A connection's line in the table; dropping it takes the line out.
pub(super) struct Entered {
    core: Rc<Core>,
    pub(super) entry: Rc<Entry>,
}

impl Entered {
    pub(super) fn core(&self) -> &Core {
        &self.core
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Whoever still looks at the entry keeps nobody out.
        self.entry.count_as(None);
        self.core.entries.borrow_mut().remove(&self.entry.id);
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is read to learn where it wants to go.
    Preread,
    /// It waits for a backend.
    Held,
    /// A backend is being connected.
    Connecting,
    /// Bytes may flow both ways.
    Relaying,
    /// One side has sent FIN.
    HalfClosed,
    /// It has ended; what is under way is being delivered.
    Closing,
}

/// A live connection, as its own task writes it and its core reads it.
#[derive(Debug)]
pub struct Entry {
    id: u64,
    listener: Arc<str>,
    client: RefCell<Address>,
    accepted: Instant,
    phase: Cell<Phase>,
    place: RefCell<Place>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    moved_at: Cell<Instant>,
    /// The last byte came from the backend.
    answered: Cell<bool>,
    ending: Cell<Option<Ended>>,
    parting: Cell<Option<Ended>>,
    leaving: RefCell<Option<Leaving>>,
    waker: RefCell<Option<Waker>>,
    moving: Cell<Moving>,
    ticket: RefCell<Option<Box<Ticket>>>,
    /// By which it counts towards the limit of its client's address.
    counted: RefCell<Option<admit::Place>>,
    sampling: Sampling,
}

/// Whether a connection is to move to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moving {
    /// Nobody asked.
    No,
    /// It was asked, and will give itself away at its next poll.
    Asked,
    /// It has, and waits for the verdict.
    Frozen,
    /// The other process does not want it.
    Unwanted,
}

/// Where a connection is.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) pool: Option<Arc<str>>,
    pub(super) backend: Option<Arc<str>>,
}

/// A live connection as the admin endpoint shows it.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    /// Unique in the process.
    pub id: u64,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The client's address.
    pub client: Address,
    /// The pool's name, once routed.
    pub pool: Option<Arc<str>>,
    /// The backend's name, once picked.
    pub backend: Option<Arc<str>>,
    /// When it was accepted.
    pub accepted: Instant,
    /// When the last byte or FIN moved, a backend was connected, or it was accepted.
    pub moved_at: Instant,
    /// Bytes that the backend accepted.
    pub bytes_in: u64,
    /// Bytes that the client accepted.
    pub bytes_out: u64,
    /// How far it has come.
    pub phase: Phase,
    /// The last byte came from the backend: nobody waits for an answer.
    pub answered: bool,
}

impl Entry {
    pub(super) fn new(listener: Arc<str>, client: Address, now: Instant) -> Self {
        Self {
            id: 0,
            listener,
            client: RefCell::new(client),
            accepted: now,
            phase: Cell::new(Phase::Preread),
            place: RefCell::default(),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            moved_at: Cell::new(now),
            answered: Cell::new(false),
            ending: Cell::new(None),
            parting: Cell::new(None),
            leaving: RefCell::default(),
            waker: RefCell::default(),
            moving: Cell::new(Moving::No),
            ticket: RefCell::default(),
            counted: RefCell::default(),
            sampling: Sampling::default(),
        }
    }

    /// A connection that has been alive for a while.
    pub(super) fn again(passport: &Passport, now: Instant) -> Self {
        let ago = |time| now.checked_sub(time).unwrap_or(now);
        let listener = Arc::clone(&passport.listener);
        let mut entry = Self::new(listener, passport.client.clone(), ago(passport.age));
        if let Some(counted) = passport.sampled {
            entry.sampling = Sampling::again(counted, now);
        }
        entry.moved_at.set(ago(passport.idle));
        entry.bytes_in.set(passport.bytes_in);
        entry.bytes_out.set(passport.bytes_out);
        entry.set_answered(passport.answered);
        entry.numbered(passport.id)
    }

    /// The same with this id.
    pub(super) fn numbered(self, id: u64) -> Self {
        Self { id, ..self }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn listener(&self) -> &Arc<str> {
        &self.listener
    }

    pub(super) fn client(&self) -> Ref<'_, Address> {
        self.client.borrow()
    }

    /// Its client is who a PROXY header says.
    pub(super) fn set_client(&self, client: Address) {
        self.client.replace(client);
    }

    pub(super) fn accepted(&self) -> Instant {
        self.accepted
    }

    /// It counts towards the limit of its client's address by this place, and by no other.
    pub(super) fn count_as(&self, place: Option<admit::Place>) {
        self.counted.replace(place);
    }

    /// Whether it counts there.
    fn counts_in(&self, admit: &Admit) -> bool {
        let counted = self.counted.borrow();
        counted.as_ref().is_some_and(|place| admit.counts(place))
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(super) fn place(&self) -> Ref<'_, Place> {
        self.place.borrow()
    }

    /// When the last byte moved.
    pub(super) fn last_moved(&self) -> Instant {
        self.moved_at.get()
    }

    /// Who is held has no backend, whatever it tried before.
    pub(super) fn set_phase(&self, phase: Phase) {
        if phase == Phase::Held {
            self.set_backend(None);
        }
        self.phase.set(phase);
    }

    pub(super) fn set_pool(&self, pool: Arc<str>) {
        let mut place = self.place.borrow_mut();
        place.pool = Some(pool);
        place.backend = None;
    }

    pub(super) fn set_backend(&self, backend: Option<Arc<str>>) {
        self.place.borrow_mut().backend = backend;
    }

    pub(super) fn moved(&self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in.set(self.bytes_in.get() + bytes_in);
        self.bytes_out.set(self.bytes_out.get() + bytes_out);
    }

    pub(super) fn moved_at(&self, now: Instant) {
        self.moved_at.set(now);
    }

    /// Whether the last byte came from the backend.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.get()
    }

    pub(super) fn set_answered(&self, answered: bool) {
        self.answered.set(answered);
    }

    /// Whether any byte was delivered.
    pub(super) fn has_moved(&self) -> bool {
        self.bytes_in.get() + self.bytes_out.get() > 0
    }

    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.get(), self.bytes_out.get())
    }

    /// Ends the connection at once; the first reason given stands, and whether this was it is
    /// told.
    pub(super) fn end(&self, ended: Ended) -> bool {
        let first = self.ending.get().is_none();
        if first {
            self.ending.set(Some(ended));
        }
        self.wake();
        first
    }

    /// Ends the connection as soon as what is in hand is delivered, if it is established; whether
    /// this was what ends it is told.
    pub(super) fn part(&self, ended: Ended) -> bool {
        let lives = matches!(self.phase.get(), Phase::Relaying | Phase::HalfClosed);
        let first = lives && self.ending.get().is_none() && self.parting.get().is_none();
        if first {
            self.parting.set(Some(ended));
            self.wake();
        }
        first
    }

    /// Why it is to end so, if it was told to.
    pub(super) fn parting(&self) -> Option<Ended> {
        self.parting.get()
    }

    /// Ends the connection at the first quiet moment. What nobody can take back stands; of other
    /// wishes the last one.
    pub(super) fn leave(&self, wish: Leaving) {
        let mut leaving = self.leaving.borrow_mut();
        if leaving.as_ref().is_none_or(Leaving::can_be_withdrawn) {
            *leaving = Some(wish);
            drop(leaving);
            self.wake();
        }
    }

    /// Whether it is to end at a quiet moment.
    pub(super) fn is_leaving(&self) -> bool {
        let leaving = self.leaving.borrow();
        leaving.as_ref().is_some_and(|wish| !wish.was_withdrawn())
    }

    /// The quiet moment has come: as what to end now, if that is still wanted.
    pub(super) fn take_leave(&self) -> Option<Ended> {
        self.leaving.take().and_then(Leaving::go)
    }

    /// Whether and when it asks the kernel how it is doing.
    pub(super) fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Has its task polled.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Why it is to end, if it was told to.
    pub(super) fn ending(&self) -> Option<Ended> {
        self.ending.get()
    }

    fn is_movable(&self) -> bool {
        let established = matches!(self.phase.get(), Phase::Relaying | Phase::HalfClosed);
        established && self.moving.get() == Moving::No && self.ending.get().is_none()
    }

    fn ask_to_move(&self, ticket: &Ticket) {
        self.ticket.replace(Some(Box::new(ticket.clone())));
        self.moving.set(Moving::Asked);
        self.wake();
    }

    /// Whether it was asked to move.
    pub(super) fn is_to_move(&self) -> bool {
        self.moving.get() == Moving::Asked
    }

    /// It gives itself away, to this; from here on nothing ends it until the verdict.
    pub(super) fn give_away(&self) -> Option<Box<Ticket>> {
        self.moving.set(Moving::Frozen);
        self.ticket.take()
    }

    /// It stays for now; it may be asked again.
    pub(super) fn stay(&self) {
        self.moving.set(Moving::No);
        self.ticket.replace(None);
    }

    /// It stays for good.
    pub(super) fn is_unwanted(&self) {
        self.moving.set(Moving::Unwanted);
    }

    /// Runs `work` until it is done or the connection is ended from outside; the caller then
    /// drops it where it stands. (Pinned by the caller, as a future that is moved into another
    /// takes its place in memory twice.)
    pub(super) async fn unless_ended<T>(
        &self,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Ended> {
        std::future::poll_fn(|cx| {
            if let Some(ended) = self.ending.get()
                && self.moving.get() != Moving::Frozen
            {
                return Poll::Ready(Err(ended));
            }
            let mut waker = self.waker.borrow_mut();
            match &mut *waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            drop(waker);
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    pub(super) fn view(&self) -> ConnectionView {
        let place = self.place.borrow().clone();
        ConnectionView {
            id: self.id,
            listener: Arc::clone(&self.listener),
            client: self.client.borrow().clone(),
            pool: place.pool,
            backend: place.backend,
            accepted: self.accepted,
            moved_at: self.moved_at.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            phase: self.phase.get(),
            answered: self.answered.get(),
        }
    }
}

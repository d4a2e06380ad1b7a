//! The old process: starts the new one, hands over what it has, and has nothing left.
//!
//! Runs on a thread of its own and blocks; the control plane and the cores go on meanwhile, and
//! are told what to do step by step ([`Steps`]). Until the new process has said that it has a
//! connection, this one has it too: whatever fails before, it goes on here.
//!
//! An answer that was sent is an answer: before a connection goes on here, the new process is
//! dead and what it said last was read. So no connection ever goes on in both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::luggage::{self, Batch};
use super::message::{Message, Remaining, SocketRecord};
use super::program::Program;
use super::totals::Told;
use super::wire::{Frame, MOST_FDS, Wire, WireError};
use crate::admin::{Configured, NotUpgraded, Running, Upgraded};
use crate::conn::moving::{Parcel, Verdict};
use crate::listener::Listening;
use crate::metrics::Ended;
use crate::net::{Address, Keeper, Socket};
use crate::pool::{Backend, Pool};

/// How long the new process may take until it is ready: it reads its file, and looks up names.
const START: Duration = Duration::from_secs(30);
/// How long it may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it may take nothing.
const SEND: Duration = Duration::from_secs(5);
/// How long a core may take for what it is asked.
const CORE: Duration = Duration::from_secs(5);
/// How often a wait is interrupted for a look at whether it was given up.
const LOOK: Duration = Duration::from_millis(50);
/// How long those who are just being connected are waited for before it is said what is left.
const MOMENT: Duration = Duration::from_millis(250);
/// How long the process before this one may take to have nothing left.
const ELDER: Duration = Duration::from_secs(5);
/// How often it is looked whether connections that could not move can now.
const AGAIN: Duration = Duration::from_millis(50);
/// How often the new process is told what was counted meanwhile.
const NEWS: Duration = Duration::from_millis(500);
/// Connections that stand still at once: so few that each does for milliseconds, and as many as
/// one message takes, of which each has two sockets.
const AT_ONCE: usize = MOST_FDS / 2;

/// What the control plane does for a handover. Each blocks until it is done.
pub trait Steps {
    /// Has nobody accepted any more, leaving the queues of the sockets in `taken` as they are,
    /// and the admin endpoint with them.
    ///
    /// # Errors
    /// It is stopping.
    fn stop_accepting(&self, taken: &[Address]) -> Result<(), NotUpgraded>;
    /// Accepts again: nobody takes the place of this process.
    fn accept_again(&self);
    /// The new process serves, and its number.
    fn succeeded(&self, pid: u32);
}

/// A handover in progress.
pub struct Leaving<S> {
    running: Arc<Running>,
    steps: S,
    given_up: Arc<AtomicBool>,
    child: Child,
    wire: Wire,
    told: Told,
    version: String,
    moved: Moved,
    began: Instant,
    /// What the new process was told last of what is left here, and when.
    last: Remaining,
    told_at: Instant,
}

/// Connections that have moved, by what they are counted for here.
#[derive(Debug, Default)]
struct Moved {
    count: u64,
    listeners: BTreeMap<Arc<str>, u64>,
    pools: BTreeMap<Arc<str>, u64>,
}

/// Starts the new process, and hands over to it until all that can move has moved.
///
/// `sockets` are all that listen. Where it fails, this process accepts again and has what it
/// had.
///
/// # Errors
/// [`NotUpgraded`].
pub fn hand_over<S: Steps>(
    running: &Arc<Running>,
    program: &Program,
    sockets: &[(SocketRecord, Arc<Socket>)],
    steps: S,
    given_up: Arc<AtomicBool>,
) -> Result<(Upgraded, Leaving<S>), NotUpgraded> {
    let began = Instant::now();
    until_no_elder(running, &given_up)?;
    let failed =
        |what: &str, error: &dyn std::fmt::Display| NotUpgraded::Failed(format!("{what}: {error}"));
    let (wire, theirs) = Wire::pair().map_err(|error| failed("no socket to be had", &error))?;
    let child = program.start(theirs).map_err(|error| {
        failed(
            &format!("cannot start {}", program.path().display()),
            &error,
        )
    })?;
    let mut leaving = Leaving {
        running: Arc::clone(running),
        steps,
        given_up,
        child,
        wire,
        told: Told::nothing(),
        version: String::new(),
        moved: Moved::default(),
        began,
        last: Remaining::default(),
        told_at: began,
    };
    let outcome = leaving.prepare(sockets);
    match outcome.and_then(|taken| leaving.switch(&taken)) {
        Ok(upgraded) => Ok((upgraded, leaving)),
        Err(error) => {
            leaving.end_child();
            Err(error)
        }
    }
}

/// Waits for the process before this one to have nothing left: its connections are counted here,
/// and a third process would lose them.
fn until_no_elder(running: &Running, given_up: &AtomicBool) -> Result<(), NotUpgraded> {
    let deadline = Instant::now() + ELDER;
    while let Some(elder) = running.upgrading.elder() {
        if given_up.load(Ordering::Relaxed) {
            return Err(told_to_stop());
        }
        if Instant::now() >= deadline {
            return Err(NotUpgraded::Impossible(format!(
                "the process before this one ({}) still has {} connections that cannot move; ask \
                 again when they have ended",
                elder.pid, elder.active
            )));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

impl<S: Steps> Leaving<S> {
    /// Gets the new process as far as it can come while this one serves.
    fn prepare(
        &mut self,
        sockets: &[(SocketRecord, Arc<Socket>)],
    ) -> Result<Vec<Address>, NotUpgraded> {
        self.tell_start(sockets)
            .map_err(|error| self.died(&error))?;
        let deadline = Instant::now() + START;
        match self.answer(deadline)?.message {
            Message::Ready { version, taken } => {
                self.version = version;
                Ok(taken)
            }
            Message::Failed {
                reason,
                invalid: true,
            } => Err(NotUpgraded::Invalid(reason)),
            Message::Failed { reason, .. } => Err(NotUpgraded::Failed(format!(
                "the new process cannot start: {reason}"
            ))),
            other => Err(unexpected(&other)),
        }
    }

    fn tell_start(&mut self, sockets: &[(SocketRecord, Arc<Socket>)]) -> Result<(), WireError> {
        let hello = Message::Hello {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.running.started_at,
        };
        self.tell(&hello)?;
        for some in sockets.chunks(MOST_FDS) {
            let fds: Vec<BorrowedFd<'_>> = some.iter().map(|(_, s)| s.socket().as_fd()).collect();
            let sockets = some.iter().map(|(record, _)| record.clone()).collect();
            let message = Message::Sockets { sockets };
            self.wire.send(&message, &[], &fds, SEND)?;
        }
        self.tell(&Message::Start)
    }

    fn tell(&mut self, message: &Message) -> Result<(), WireError> {
        self.wire.send(message, &[], &[], SEND)
    }

    /// The next message of the new process.
    fn answer(&mut self, deadline: Instant) -> Result<Frame, NotUpgraded> {
        loop {
            if self.given_up.load(Ordering::Relaxed) {
                return Err(told_to_stop());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let came = self.wire.wait(left.min(LOOK));
            match came.and_then(|came| came.then(|| self.wire.receive(deadline)).transpose()) {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) if left.is_zero() => return Err(self.died(&WireError::Late)),
                Ok(None) => {}
                Err(error) => return Err(self.died(&error)),
            }
        }
    }

    /// Why the new process is of no use, with the status that it ended with, if it did.
    fn died(&mut self, error: &WireError) -> NotUpgraded {
        let status = match error {
            WireError::Gone => self.status_soon(),
            _ => None,
        };
        NotUpgraded::Failed(match status {
            Some(status) => format!("the new process ended before it served ({status})"),
            None => format!("the new process is of no use: {error}"),
        })
    }

    /// How the new process ended: it closes its socket a moment before it is gone.
    fn status_soon(&mut self) -> Option<std::process::ExitStatus> {
        let deadline = Instant::now() + ANSWER;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// From here on nobody is accepted by this process.
    fn switch(&mut self, taken: &[Address]) -> Result<Upgraded, NotUpgraded> {
        self.steps.stop_accepting(taken)?;
        let outcome = self.go().and_then(|()| self.move_all());
        if outcome.is_err() {
            self.end_child();
            self.take_back();
            self.steps.accept_again();
        }
        outcome
    }

    fn go(&mut self) -> Result<(), NotUpgraded> {
        self.tell_go().map_err(|error| self.died(&error))?;
        let deadline = Instant::now() + ANSWER;
        match self.answer(deadline)?.message {
            Message::Serving => {
                self.steps.succeeded(self.child.id());
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    fn tell_go(&mut self) -> Result<(), WireError> {
        self.seal();
        // First what backends there are: those that were added or come from names are not in the
        // file, and what is counted for them needs them.
        for pool in self.running.configured().every_pool() {
            let pools = vec![pool.memory()];
            self.wire.send(&Message::States { pools }, &[], &[], SEND)?;
        }
        self.tell_totals()?;
        let go = Message::Go {
            next_id: self.next_id(),
            remaining: self.remaining(),
        };
        self.tell(&go)
    }

    fn tell_totals(&mut self) -> Result<(), WireError> {
        for totals in self.told.news(&self.running) {
            self.tell(&Message::Totals { totals })?;
        }
        Ok(())
    }

    /// Above every id of a connection that there was.
    fn next_id(&self) -> u64 {
        let (tell, told) = std::sync::mpsc::channel();
        for core in &self.running.cores {
            let tell = tell.clone();
            core.run(move |core| {
                // Whoever asked waits for it.
                let _ = tell.send(core.next_id());
            });
        }
        drop(tell);
        told.iter().max().unwrap_or(0)
    }

    /// Has this process take no more slots of limited backends than it has or may still need:
    /// the rest is for the new one.
    fn seal(&self) {
        for (pool, backend) in self.backends() {
            if backend.limit() > 0 {
                let most = backend.active().saturating_add(pool.unsettled());
                let most = most.min(backend.limit());
                let active = backend.set_ceiling(most);
                backend.set_ceiling(most.max(active));
            }
        }
    }

    /// Gives up slots that nobody here can need any more.
    fn unseal_spare(&self) {
        for (pool, backend) in self.backends() {
            let ceiling = backend.ceiling();
            let wanted = backend.active().saturating_add(pool.unsettled());
            if ceiling != u32::MAX && wanted < ceiling {
                let active = backend.set_ceiling(wanted);
                // Whoever took a slot meanwhile has it.
                backend.set_ceiling(wanted.max(active));
            }
        }
    }

    fn backends(&self) -> Vec<(Arc<Pool>, Arc<Backend>)> {
        let mut all = Vec::new();
        for pool in self.running.configured().every_pool() {
            all.extend(
                pool.all_backends()
                    .into_iter()
                    .map(|backend| (Arc::clone(pool), backend)),
            );
        }
        all
    }

    /// What this process has and may need.
    fn remaining(&self) -> Remaining {
        let mut remaining = Remaining::default();
        let without = |of: &BTreeMap<Arc<str>, u64>, name: &Arc<str>, active: u64| {
            active.saturating_sub(of.get(name).copied().unwrap_or(0))
        };
        for listener in self.running.configured().every_listener() {
            let name = &listener.origin.name;
            let active = listener.origin.counters.active();
            let active = without(&self.moved.listeners, name, active);
            remaining.listeners.insert(Arc::clone(name), active);
        }
        for pool in self.running.configured().every_pool() {
            let active = without(&self.moved.pools, &pool.name, pool.active());
            remaining.pools.insert(Arc::clone(&pool.name), active);
        }
        for (pool, backend) in self.backends() {
            let has = match backend.ceiling() {
                u32::MAX => backend.active(),
                ceiling => ceiling,
            };
            if has > 0 {
                let names = (Arc::clone(&pool.name), Arc::clone(&backend.name));
                remaining.backends.push((names.0, names.1, has));
            }
        }
        remaining
    }

    /// Moves connections until none is left that can, or will be able to in a moment.
    fn move_all(&mut self) -> Result<Upgraded, NotUpgraded> {
        let soon = Instant::now() + MOMENT;
        loop {
            while self.move_some()? > 0 {}
            let configured = self.running.configured();
            let held = configured.every_pool().any(|pool| pool.held() > 0);
            if held || self.connections() == 0 || Instant::now() >= soon {
                break;
            }
            // A backend is being connected, or what came before a reset is being delivered.
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Upgraded {
            pid: self.child.id(),
            version: self.version.clone(),
            moved: self.moved.count,
            remaining: self.remaining().listeners.values().sum(),
            took: self.began.elapsed(),
        })
    }

    /// Connections that this process has.
    fn connections(&self) -> u64 {
        let process = &self.running.process;
        (0..process.cores())
            .map(|core| process.connections(core) as u64)
            .sum()
    }

    /// Asks some of each core to move, and moves those that can. How many stood still.
    fn move_some(&mut self) -> Result<usize, NotUpgraded> {
        let (ticket, parcels) = std::sync::mpsc::channel();
        let waited_for = Arc::new(self.waited_for());
        let each = (AT_ONCE / self.running.cores.len()).max(1);
        for core in &self.running.cores {
            let (ticket, but) = (ticket.clone(), Arc::clone(&waited_for));
            core.run(move |core| core.ask_to_move(each, &ticket, &but));
        }
        drop(ticket);
        let deadline = Instant::now() + CORE;
        let mut waiting = VecDeque::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match parcels.recv_timeout(left) {
                Ok(parcel) => waiting.extend(self.addressed(parcel)),
                Err(RecvTimeoutError::Disconnected) => break,
                // A core that is stuck has a connection that will be moved when it is not.
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        let stood_still = waiting.len();
        while !waiting.is_empty() {
            self.send_some(&mut waiting)?;
        }
        Ok(stood_still)
    }

    /// The connection under the name that its listener has now; `None`: that left the file and
    /// its name is another's, so the connection stays.
    fn addressed(&self, mut parcel: Parcel) -> Option<Parcel> {
        let configured = self.running.configured();
        let listener = configured.listener_that_counts(&parcel.counters);
        match listener {
            Some(listener) => {
                parcel.passport.listener = Arc::clone(&listener.origin.name);
                Some(parcel)
            }
            None => {
                give(parcel, Verdict::Unwanted);
                None
            }
        }
    }

    /// Pools whose slots are waited for by clients that are held here, and cannot move. A slot
    /// goes with the connection that has it: if these went, they would wait in vain.
    fn waited_for(&self) -> BTreeSet<Arc<str>> {
        let limited = |pool: &&Arc<Pool>| {
            let backends = pool.all_backends();
            pool.unsettled() > 0 && backends.iter().any(|backend| backend.limit() > 0)
        };
        let configured = self.running.configured();
        let pools = configured.every_pool().filter(limited);
        pools.map(|pool| Arc::clone(&pool.name)).collect()
    }

    /// Sends as many as one message takes. Where it fails, all of them stay: they are dropped,
    /// and with them what they wait for.
    fn send_some(&mut self, waiting: &mut VecDeque<Parcel>) -> Result<(), NotUpgraded> {
        let mut batch = Batch::default();
        let mut parcels = Vec::new();
        while let Some(parcel) = waiting.pop_front_if(|parcel| batch.takes(&parcel.still)) {
            parcels.push(parcel);
        }
        let sent = self.send(&parcels);
        let answer = match sent {
            Ok(()) => self.answer_to_connections(),
            Err(error) => Err(self.died(&error)),
        };
        let answer = match answer {
            Ok(unwanted) => Ok(unwanted),
            // What it has said before it ended holds.
            Err(error) => self.last_answer().ok_or(error),
        };
        let unwanted = answer?;
        for (index, parcel) in parcels.into_iter().enumerate() {
            match unwanted.contains(&index) {
                true => give(parcel, Verdict::Unwanted),
                false => self.let_go(parcel),
            }
        }
        Ok(())
    }

    fn send(&mut self, parcels: &[Parcel]) -> Result<(), WireError> {
        let connections = parcels.iter().map(luggage::record).collect();
        let (bytes, fds) = luggage::contents(parcels);
        let message = Message::Connections { connections };
        self.wire.send(&message, &bytes, &fds, SEND)
    }

    fn answer_to_connections(&mut self) -> Result<Vec<usize>, NotUpgraded> {
        let deadline = Instant::now() + ANSWER;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let came = self.wire.wait(left);
            let frame = match came {
                Ok(true) => self.wire.receive(deadline),
                Ok(false) => Err(WireError::Late),
                Err(error) => Err(error),
            };
            match frame.map(|frame| frame.message) {
                Ok(Message::Taken { unwanted }) => return Ok(unwanted),
                Ok(Message::Overrides { overrides }) => self.follow(&overrides),
                Ok(other) => return Err(unexpected(&other)),
                Err(error) => return Err(self.died(&error)),
            }
        }
    }

    /// Ends the new process, and looks whether it had answered all the same.
    fn last_answer(&mut self) -> Option<Vec<usize>> {
        self.end_child();
        loop {
            match self.wire.receive(Instant::now() + LOOK).ok()?.message {
                Message::Taken { unwanted } => return Some(unwanted),
                Message::Overrides { .. } => {}
                _ => return None,
            }
        }
    }

    fn let_go(&mut self, parcel: Parcel) {
        let passport = &parcel.passport;
        self.moved.count += 1;
        let listener = Arc::clone(&passport.listener);
        *self.moved.listeners.entry(listener).or_default() += 1;
        let pool = Arc::clone(&passport.pool);
        *self.moved.pools.entry(pool).or_default() += 1;
        // Its slot goes with it: nobody here may have it when it is given back.
        let configured = self.running.configured();
        let pool = configured
            .every_pool()
            .find(|pool| pool.name == passport.pool);
        if let Some(backend) = pool.and_then(|pool| pool.backend(&passport.backend)) {
            backend.lower_ceiling();
        }
        give(parcel, Verdict::Moved);
    }

    /// The new process is gone: what moved to it is lost, what did not may have every slot.
    fn take_back(&mut self) {
        for (_, backend) in self.backends() {
            backend.set_ceiling(u32::MAX);
        }
        for listener in self.running.configured().every_listener() {
            if let Some(lost) = self.moved.listeners.get(&listener.origin.name) {
                listener.origin.counters.here().ended[Ended::Internal as usize].add(*lost);
            }
        }
        for pool in self.running.configured().every_pool() {
            if let Some(lost) = self.moved.pools.get(&pool.name) {
                pool.counters.here().ended[Ended::Internal as usize].add(*lost);
            }
            pool.serve_held();
        }
    }

    fn end_child(&mut self) {
        // It fails for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn follow(&self, overrides: &[crate::pool::handover::OverrideRecord]) {
        for pool in self.running.configured().every_pool() {
            pool.follow(overrides);
        }
    }

    /// Waits until this process has nothing left, and moves what can move after all; resets
    /// what is left after `most`, zero: never.
    pub fn until_nothing_is_left(mut self, most: Duration) {
        let deadline = (!most.is_zero()).then(|| Instant::now() + most);
        let mut is_heard = true;
        let mut late = false;
        loop {
            if is_heard && let Err(error) = self.keep_in_touch() {
                tracing::warn!(%error, "the process after this one is not heard of any more");
                is_heard = false;
            }
            if self.connections() == 0 {
                break;
            }
            if !late && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                late = true;
                let active = self.connections();
                tracing::warn!(active, "upgrade_timeout is over, resetting what is left");
                for core in &self.running.cores {
                    core.tell(crate::conn::Command::EndAll(Ended::DrainTimeout));
                }
            }
            std::thread::sleep(AGAIN);
        }
        if is_heard {
            let _ = self.tell_totals();
            let _ = self.tell(&Message::Farewell);
        }
    }

    fn keep_in_touch(&mut self) -> Result<(), NotUpgraded> {
        while self.move_some()? > 0 {}
        while self.wire.wait(Duration::ZERO).map_err(|e| self.died(&e))? {
            let deadline = Instant::now() + ANSWER;
            match self.answer(deadline)?.message {
                Message::Overrides { overrides } => self.follow(&overrides),
                other => return Err(unexpected(&other)),
            }
        }
        self.unseal_spare();
        self.tell_what_is_left().map_err(|error| self.died(&error))
    }

    /// Counts come with what is left, or before it: what has ended is counted when it is gone.
    fn tell_what_is_left(&mut self) -> Result<(), WireError> {
        let remaining = self.remaining();
        if remaining == self.last && self.told_at.elapsed() < NEWS {
            return Ok(());
        }
        self.tell_totals()?;
        self.tell(&Message::Remaining(remaining.clone()))?;
        self.last = remaining;
        self.told_at = Instant::now();
        Ok(())
    }
}

/// Nobody holds its sockets any more when the verdict comes.
fn give(parcel: Parcel, verdict: Verdict) {
    let Parcel {
        still, verdict: to, ..
    } = parcel;
    drop(still);
    // Its task may be gone with its runtime.
    let _ = to.send(verdict);
}

fn told_to_stop() -> NotUpgraded {
    NotUpgraded::Impossible("isobar was told to stop while it was being upgraded".to_owned())
}

fn unexpected(message: &Message) -> NotUpgraded {
    let text = serde_json::to_value(message).unwrap_or_default();
    let word = text["message"].as_str().unwrap_or("something");
    NotUpgraded::Failed(format!("the new process says {word} out of turn"))
}

/// What listens, as the new process is told of it.
pub fn sockets(
    configured: &Configured,
    admin: Option<Arc<Socket>>,
) -> Vec<(SocketRecord, Arc<Socket>)> {
    let mut all = Vec::new();
    for Listening { listener, doors } in &configured.listeners {
        for door in doors {
            if let Some(socket) = door.socket() {
                let name = Some(Arc::clone(&listener.settings.name));
                all.push((record(name, door.configured(), &socket), socket));
            }
        }
    }
    if let (Some(configured), Some(socket)) = (&configured.file.config.admin.bind, admin) {
        all.push((record(None, configured, &socket), socket));
    }
    all
}

fn record(listener: Option<Arc<str>>, configured: &Address, socket: &Socket) -> SocketRecord {
    SocketRecord {
        listener,
        configured: configured.clone(),
        bound: socket.address().clone(),
        service_manager: socket.keeper() == Keeper::ServiceManager,
    }
}

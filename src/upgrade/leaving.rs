//! The old process: starts the new one, hands over what it has, and has nothing left.
//!
//! Runs on a thread of its own and blocks; the control plane and the cores go on meanwhile, and
//! are told what to do step by step ([`Steps`]). Until the new process has said that it has a
//! connection, this one has it too: whatever fails before, it goes on here.
//!
//! An answer that was sent is an answer: before a connection goes on here, the new process is
//! dead and what it said last was read. So no connection ever goes on in both.
//!
//! Here is the order of things; `listening` says which sockets go, `moving` sends connections,
//! `left` keeps account of what is still here.

mod left;
mod listening;
mod moving;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use listening::sockets;

use super::message::{Message, Remaining, SocketRecord};
use super::program::Program;
use super::totals::Told;
use super::wire::{Frame, MOST_FDS, Wire, WireError};
use crate::admin::{NotUpgraded, Running, Upgraded};
use crate::net::{Address, Socket};

/// How long the new process may take until it is ready: it reads its file, and looks up names.
const START: Duration = Duration::from_secs(30);
/// How long it may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it may take nothing.
const SEND: Duration = Duration::from_secs(5);
/// How often a wait is interrupted for a look at whether it was given up.
const LOOK: Duration = Duration::from_millis(50);
/// How long the process before this one may take to have nothing left.
const ELDER: Duration = Duration::from_secs(5);

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

    fn end_child(&mut self) {
        // It fails for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn told_to_stop() -> NotUpgraded {
    NotUpgraded::Impossible("isobar was told to stop while it was being upgraded".to_owned())
}

fn unexpected(message: &Message) -> NotUpgraded {
    let text = serde_json::to_value(message).unwrap_or_default();
    let word = text["message"].as_str().unwrap_or("something");
    NotUpgraded::Failed(format!("the new process says {word} out of turn"))
}

//! Connections on their way: some are asked at a time, stand still, are sent, and are let go once
//! the new process has said that it has them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::{ANSWER, LOOK, Leaving, SEND, Steps};
use crate::admin::{NotUpgraded, Upgraded};
use crate::conn::moving::{Parcel, Verdict};
use crate::pool::Pool;
use crate::upgrade::luggage::{self, Batch};
use crate::upgrade::message::Message;
use crate::upgrade::wire::{MOST_FDS, WireError};

/// How long a core may take for what it is asked.
const CORE: Duration = Duration::from_secs(5);
/// How long those who are just being connected are waited for before it is said what is left.
const MOMENT: Duration = Duration::from_millis(250);
/// Connections that stand still at once: so few that each does for milliseconds, and as many as
/// one message takes, of which each has two sockets.
const AT_ONCE: usize = MOST_FDS / 2;

impl<S: Steps> Leaving<S> {
    /// Moves connections until none is left that can, or will be able to in a moment.
    pub(super) fn move_all(&mut self) -> Result<Upgraded, NotUpgraded> {
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
    pub(super) fn connections(&self) -> u64 {
        let process = &self.running.process;
        (0..process.cores())
            .map(|core| process.connections(core) as u64)
            .sum()
    }

    /// Asks some of each core to move, and moves those that can. How many stood still.
    pub(super) fn move_some(&mut self) -> Result<usize, NotUpgraded> {
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
                Ok(other) => self.heed(other)?,
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
                other => self.heed(other).ok()?,
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

//! The accept loop: one for each address on each core, all on the same socket.
//!
//! The kernel wakes one core for a connection, which takes it, and keeps it unless it has
//! clearly more than another: then it hands it over. So short connections stay where they were accepted, and a
//! few long-lived ones are spread evenly all the same.
//!
//! The loop never ends on an error and never spins on one. Errors of one connection (it was
//! gone before it was accepted) are skipped. Errors of the machine (no descriptors, no memory)
//! leave the connection in the queue, where it would be reported again at once: the loop
//! pauses, which lets the tasks run that will give descriptors back.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::{Door, Listener};
use crate::conn::gate::Gate;
use crate::conn::{Arrival, Permit, Slots};
use crate::log::SharedThrottle;
use crate::metrics::{Process, Seat};
use crate::net::{Acceptor, Incoming};
use crate::runtime;
use rustix::io::Errno;

/// Tasks of the core that wait for their turn, from which on the accept loop, whose next turn
/// comes after all of theirs, takes more than one connection: of hundreds of bulk transfers each
/// has its 256 KiB first. With fewer, the kernel says again that there is somebody, which costs
/// less than asking it for one more who is not there.
const BUSY: usize = 16;
/// Most connections that it takes then.
const BURST: usize = 32;
/// How long to wait for the machine to recover.
const PAUSE: Duration = Duration::from_millis(50);
/// A core may have so many connections more than the least loaded one, and an eighth, before
/// it hands new ones over: handing over costs a wake-up of the other thread.
const SLACK: usize = 1;

/// Errors of accept(2), by errno, and whether accepting pauses for one of them.
#[derive(Debug, Default)]
pub struct AcceptErrors {
    counts: [AtomicU64; ERRNOS.len() + 1],
    pausing: AtomicUsize,
}

/// The errors that are counted by name; all others are `other`.
const ERRNOS: [(Errno, &str); 9] = [
    (Errno::MFILE, "EMFILE"),
    (Errno::NFILE, "ENFILE"),
    (Errno::NOBUFS, "ENOBUFS"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::CONNABORTED, "ECONNABORTED"),
    (Errno::INTR, "EINTR"),
    (Errno::PERM, "EPERM"),
    (Errno::PROTO, "EPROTO"),
    (Errno::NETDOWN, "ENETDOWN"),
];

impl AcceptErrors {
    fn count(&self, error: &io::Error) {
        let found = ERRNOS
            .iter()
            .position(|(errno, _)| error.raw_os_error() == Some(errno.raw_os_error()));
        self.counts[found.unwrap_or(ERRNOS.len())].fetch_add(1, Ordering::Relaxed);
    }

    /// Errors so far, by name.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = ERRNOS.iter().map(|(_, name)| *name).chain(["other"]);
        names.zip(
            self.counts
                .iter()
                .map(|count| count.load(Ordering::Relaxed)),
        )
    }

    /// Adds what another process has counted.
    pub fn add(&self, name: &str, count: u64) {
        let named = ERRNOS.iter().position(|(_, errno)| *errno == name);
        self.counts[named.unwrap_or(ERRNOS.len())].fetch_add(count, Ordering::Relaxed);
    }

    /// Whether accepting pauses for want of descriptors or memory.
    pub fn is_paused(&self) -> bool {
        self.pausing.load(Ordering::Relaxed) > 0
    }
}

/// What all accept loops of the process share.
#[derive(Debug)]
pub struct Admission {
    /// The limit of the process.
    pub gate: Arc<Gate>,
    /// Counts of the process.
    pub process: Arc<Process>,
    limit_reached: SharedThrottle,
    exhausted: SharedThrottle,
}

impl Admission {
    /// At most `limit` connections at once.
    pub fn new(limit: usize, process: Arc<Process>) -> Self {
        let now = Instant::now();
        Self {
            gate: Gate::new(limit),
            process,
            limit_reached: SharedThrottle::new(now),
            exhausted: SharedThrottle::new(now),
        }
    }
}

/// Accepts from one address on one core until its door closes, then once more empties the queue.
pub(crate) struct AcceptLoop<F> {
    core: usize,
    door: Arc<Door>,
    acceptor: Acceptor,
    admission: Arc<Admission>,
    /// Sends a connection to the core of that number.
    deliver: F,
}

impl<F: Fn(usize, Arrival)> AcceptLoop<F> {
    /// The loop of one core, by whose runtime the door is watched from now on. `None`: the door
    /// is closed already.
    ///
    /// # Errors
    /// What epoll_ctl(2) gives.
    pub(crate) fn new(
        core: usize,
        door: Arc<Door>,
        admission: Arc<Admission>,
        deliver: F,
    ) -> io::Result<Option<Self>> {
        let Some(socket) = door.socket() else {
            return Ok(None);
        };
        let acceptor = Acceptor::new(socket)?;
        Ok(Some(Self {
            core,
            door,
            acceptor,
            admission,
            deliver,
        }))
    }

    pub(crate) async fn run(self) {
        {
            let mut stopped = pin!(self.door.stopped());
            loop {
                tokio::select! {
                    biased;
                    () = &mut stopped => break,
                    () = self.step() => {}
                }
            }
        }
        if !self.door.is_left() {
            self.empty_queue();
        }
    }

    /// Takes one connection, or a few where it would be long until its next turn.
    async fn step(&self) {
        let ready = self.acceptor.ready().await;
        // Not before: it may have changed hands while nobody came.
        let listener = self.door.listener();
        if let Err(error) = ready {
            return self.failed(&listener, &error).await;
        }
        let permit = match self.try_permit(&listener) {
            Some(permit) => permit,
            None => {
                self.acceptor.pause();
                tokio::select! {
                    permit = self.permit(&listener) => permit,
                    () = self.door.left(&listener) => return,
                }
            }
        };
        if !self.accept(&listener, permit).await || runtime::queued() < BUSY {
            return;
        }
        for _ in 1..BURST {
            let Some(permit) = self.try_permit(&listener) else {
                return;
            };
            if !self.accept(&listener, permit).await {
                return;
            }
        }
    }

    /// Takes one connection out of the queue; whether there was one.
    async fn accept(&self, listener: &Listener, permit: Permit) -> bool {
        match self.acceptor.accept() {
            Ok(Some(incoming)) => {
                self.hand_over(listener, incoming, Slots::Taken(permit));
                true
            }
            Ok(None) => false,
            Err(error) => {
                self.failed(listener, &error).await;
                false
            }
        }
    }

    /// A slot of the process and one of the listener, at once or not at all.
    fn try_permit(&self, listener: &Listener) -> Option<Permit> {
        let process = self.admission.gate.try_enter()?;
        let own = listener.gate.try_enter()?;
        Some(Permit::new(process, own))
    }

    async fn permit(&self, listener: &Listener) -> Permit {
        let process = match self.admission.gate.try_enter() {
            Some(slot) => slot,
            None => {
                self.say_limit(listener, "runtime", self.admission.gate.limit());
                self.admission.gate.enter().await
            }
        };
        let own = match listener.gate.try_enter() {
            Some(slot) => slot,
            None => {
                // Others must not wait for a slot that this listener cannot use.
                drop(process);
                self.say_limit(listener, &listener.settings.name, listener.gate.limit());
                let own = listener.gate.enter().await;
                return Permit::new(self.admission.gate.enter().await, own);
            }
        };
        Permit::new(process, own)
    }

    fn say_limit(&self, listener: &Listener, of: &str, limit: usize) {
        if let Some(suppressed) = self.admission.limit_reached.check(Instant::now()) {
            tracing::warn!(
                listener = &*listener.settings.name,
                of,
                limit,
                suppressed,
                "connection limit reached, new clients wait in the backlog"
            );
        }
    }

    fn hand_over(&self, listener: &Listener, incoming: Incoming, slots: Slots) {
        let process = &self.admission.process;
        listener.origin.counters.here().total.add(1);
        let mine = process.connections(self.core);
        let least = process.least_loaded();
        let least_has = process.connections(least);
        let core = match mine > least_has + least_has / 8 + SLACK {
            true => least,
            false => self.core,
        };
        let arrival = Arrival {
            seat: Seat::take(process, core),
            incoming,
            origin: Arc::clone(&listener.origin),
            slots,
            accepted: Instant::now(),
            accepted_at: SystemTime::now(),
        };
        (self.deliver)(core, arrival);
    }

    async fn failed(&self, listener: &Listener, error: &io::Error) {
        listener.errors.count(error);
        if is_of_the_connection(error) {
            return;
        }
        if let Some(suppressed) = self.admission.exhausted.check(Instant::now()) {
            tracing::warn!(
                listener = &*listener.settings.name,
                %error,
                suppressed,
                "cannot accept, new clients wait in the backlog"
            );
        }
        let _pausing = Pausing::new(&listener.errors.pausing);
        self.acceptor.pause();
        runtime::timers().sleep(PAUSE).await;
    }

    /// Takes who is in the queue already, since closing the socket would reset them. Those for
    /// whom a limit has no slot now wait for one after they were accepted.
    fn empty_queue(&self) {
        let listener = self.door.listener();
        // No more than there can be in it: who arrives now would go on for ever.
        for _ in 0..=listener.settings.backlog {
            match self.acceptor.accept() {
                Ok(Some(incoming)) => self.hand_over(&listener, incoming, self.slots(&listener)),
                Err(error) if is_of_the_connection(&error) => listener.errors.count(&error),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn slots(&self, listener: &Arc<Listener>) -> Slots {
        if let Some(permit) = self.try_permit(listener) {
            return Slots::Taken(permit);
        }
        let (listener, admission) = (Arc::clone(listener), Arc::clone(&self.admission));
        Slots::Wanted(Box::pin(async move {
            let own = listener.gate.enter().await;
            Permit::new(admission.gate.enter().await, own)
        }))
    }
}

/// Whether the error is of the connection that would have been next, see accept(2): it is out
/// of the queue, and the next one may be fine. Whatever else is reported may be reported again
/// at once, so the loop pauses for it.
fn is_of_the_connection(error: &io::Error) -> bool {
    const GONE: [Errno; 11] = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PERM,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NONET,
    ];
    GONE.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

struct Pausing<'a>(&'a AtomicUsize);

impl<'a> Pausing<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Pausing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

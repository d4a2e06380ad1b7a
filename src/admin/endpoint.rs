//! Binding the endpoint, and who gets in: a bounded number of connections, of which a new one
//! takes the place of the one that has been silent for longest.
//!
//! So nobody locks others out by opening connections and saying nothing, and what the endpoint
//! holds at most is known.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::service::TowerToHyperService;
use tokio::task::AbortHandle;

use super::{Running, http};
use crate::config;
use crate::log::SharedThrottle;
use crate::net::{
    Address, Incoming, Inherited, ListenError, ListenOptions, Liveness, Socket, TokioAcceptor,
};

/// Most connections at once, however many descriptors there are.
const MOST_CONNECTIONS: u64 = 256;
/// They get at most this part of all descriptors: what is left is for traffic.
const SHARE: u64 = 16;
/// How long to wait for descriptors or memory after accept(2) had none.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked whether the last answer was given.
const LOOK: Duration = Duration::from_millis(5);

/// How its socket is set up.
const OPTIONS: ListenOptions = ListenOptions {
    backlog: 128,
    ipv6_only: false,
    unix_mode: 0o600,
    liveness: Liveness::OFF,
};

/// The bound endpoint.
#[derive(Clone)]
pub struct Bound {
    socket: Arc<Socket>,
}

/// Binds the endpoint, or goes on with its socket in `inherited`; `None`: it is off.
///
/// # Errors
/// [`ListenError`].
pub fn bind(
    settings: &config::Admin,
    inherited: &mut Inherited,
) -> Result<Option<Bound>, ListenError> {
    let Some(address) = &settings.bind else {
        return Ok(None);
    };
    let address = inherited.chosen(None, address);
    let socket = Arc::new(Socket::open(&address, OPTIONS, inherited)?);
    Ok(Some(Bound { socket }))
}

/// Whether the endpoint could be bound to `address` now.
///
/// # Errors
/// [`ListenError`].
pub fn probe(address: &Address) -> Result<(), ListenError> {
    Socket::probe(address, OPTIONS)
}

impl Bound {
    /// Where it listens.
    pub fn address(&self) -> &Address {
        self.socket.address()
    }
}

/// The endpoint over time: where it is, whether it answers, who is in.
pub struct Endpoint {
    bound: RefCell<Option<Bound>>,
    accepting: RefCell<Option<AbortHandle>>,
    seats: Rc<Seats>,
}

impl Endpoint {
    /// It answers nobody yet. `None`: it is off.
    pub fn new(bound: Option<Bound>) -> Self {
        Self {
            bound: RefCell::new(bound),
            accepting: RefCell::default(),
            seats: Rc::default(),
        }
    }

    /// Its socket; `None`: it is off.
    pub fn socket(&self) -> Option<Arc<Socket>> {
        let bound = self.bound.borrow();
        bound.as_ref().map(|bound| Arc::clone(&bound.socket))
    }

    /// Lets clients in from now on. Needs a `LocalSet`.
    pub fn open(&self, running: &Arc<Running>) {
        self.shut();
        if let Some(bound) = &*self.bound.borrow() {
            let accept = accept(bound.clone(), Arc::clone(running), Rc::clone(&self.seats));
            let accept = tokio::task::spawn_local(accept).abort_handle();
            self.accepting.replace(Some(accept));
        }
    }

    /// Lets clients in elsewhere, or nowhere; who is in goes on.
    pub fn move_to(&self, bound: Option<Bound>, running: &Arc<Running>) {
        self.bound.replace(bound);
        self.open(running);
    }

    /// Lets nobody in any more; requests that are being worked on are answered, and their
    /// connections closed then.
    pub fn close(&self) {
        self.shut();
        for seat in self.seats.by_id.borrow().values() {
            match seat.activity.busy.get() {
                true => seat.activity.last.set(true),
                false => seat.task.abort(),
            }
        }
    }

    /// Completes when nobody is in any more.
    pub async fn empty(&self) {
        while !self.seats.by_id.borrow().is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn shut(&self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }
}

async fn accept(bound: Bound, running: Arc<Running>, seats: Rc<Seats>) {
    let address = bound.address().clone();
    let router = TowerToHyperService::new(super::router(running, address));
    let acceptor = match TokioAcceptor::new(bound.socket) {
        Ok(acceptor) => acceptor,
        Err(error) => return tracing::error!(%error, "the admin endpoint cannot serve"),
    };
    let door = Door {
        most: most_connections_here(),
        seats,
    };
    let failures = SharedThrottle::new(Instant::now());
    loop {
        match acceptor.accept().await {
            Ok(incoming) => door.admit(incoming, &router),
            Err(error) => {
                if let Some(suppressed) = failures.check(Instant::now()) {
                    tracing::warn!(%error, suppressed, "the admin endpoint cannot accept");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Who is in.
struct Door {
    most: usize,
    seats: Rc<Seats>,
}

/// Those who are in, wherever they came in.
#[derive(Default)]
struct Seats {
    next: Cell<u64>,
    by_id: RefCell<BTreeMap<u64, Seat>>,
}

/// A connection that is in.
struct Seat {
    activity: Rc<Activity>,
    task: AbortHandle,
}

/// Most connections to the endpoint at once, of a process with so many descriptors: 2 to 256.
pub fn most_connections(descriptors: u64) -> u64 {
    (descriptors / SHARE).clamp(2, MOST_CONNECTIONS)
}

/// The same for this process.
fn most_connections_here() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = most_connections(limit.current.unwrap_or(u64::MAX));
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// What a connection does, as the door sees it.
pub(super) struct Activity {
    /// A request is being worked on.
    busy: Cell<bool>,
    /// When it was accepted, or its last request came or was answered.
    at: Cell<Instant>,
    /// The request that is being worked on is the last.
    last: Cell<bool>,
    /// The answer that is being given has no end.
    endless: Cell<bool>,
}

impl Activity {
    /// A request came, or was answered.
    pub(super) fn set_busy(&self, busy: bool) {
        self.busy.set(busy);
        self.at.set(Instant::now());
    }

    /// The answer that is being given has no end.
    pub(super) fn set_endless(&self) {
        self.endless.set(true);
    }

    /// Whether that is so.
    pub(super) fn is_endless(&self) -> bool {
        self.endless.get()
    }

    /// Whether the connection is to be closed behind the answer.
    pub(super) fn is_last(&self) -> bool {
        self.last.get()
    }
}

impl Door {
    fn admit(&self, incoming: Incoming, router: &http::Router) {
        if !self.make_room() {
            return;
        }
        let id = self.seats.next.replace(self.seats.next.get() + 1);
        let activity = Rc::new(Activity {
            busy: Cell::new(false),
            at: Cell::new(Instant::now()),
            last: Cell::new(false),
            endless: Cell::new(false),
        });
        let leave = Leave(Rc::clone(&self.seats), id);
        let serve = http::serve(incoming, router.clone(), Rc::clone(&activity));
        let task = tokio::task::spawn_local(async move {
            serve.await;
            drop(leave);
        });
        let task = task.abort_handle();
        self.seats
            .by_id
            .borrow_mut()
            .insert(id, Seat { activity, task });
    }

    /// Whether one more can come in, at the cost of another if need be.
    fn make_room(&self) -> bool {
        if self.seats.by_id.borrow().len() < self.most {
            return true;
        }
        let silent = {
            let seats = self.seats.by_id.borrow();
            let idle = seats.iter().filter(|(_, seat)| !seat.activity.busy.get());
            let longest = idle.min_by_key(|(_, seat)| seat.activity.at.get());
            longest.map(|(id, _)| *id)
        };
        let seat = silent.and_then(|id| self.seats.by_id.borrow_mut().remove(&id));
        seat.is_some_and(|seat| {
            seat.task.abort();
            true
        })
    }
}

/// Gives the seat back, however the connection ends.
struct Leave(Rc<Seats>, u64);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.by_id.borrow_mut().remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_takes_a_small_part_of_the_descriptors() {
        assert_eq!(most_connections(24), 2);
        assert_eq!(most_connections(1024), 64);
        assert_eq!(most_connections(1 << 20), 256);
    }
}

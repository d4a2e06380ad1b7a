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

use super::guard::Guard;
use super::{Running, http};
use crate::config;
use crate::log::SharedThrottle;
use crate::net::{Acceptor, Address, Incoming, ListenError, ListenOptions, Liveness, Socket};

/// Most connections at once.
pub const MOST_CONNECTIONS: usize = 256;
/// How long to wait for descriptors or memory after accept(2) had none.
const PAUSE: Duration = Duration::from_millis(50);

/// The bound endpoint.
pub struct Bound {
    socket: Socket,
}

/// Binds the endpoint; `None`: it is off.
///
/// # Errors
/// [`ListenError`].
pub fn bind(settings: &config::Admin) -> Result<Option<Bound>, ListenError> {
    let Some(address) = &settings.bind else {
        return Ok(None);
    };
    let options = ListenOptions {
        backlog: 128,
        ipv6_only: false,
        unix_mode: 0o600,
        liveness: Liveness::OFF,
    };
    let socket = Socket::bind(address, options)?;
    Ok(Some(Bound { socket }))
}

impl Bound {
    /// Where it listens.
    pub fn address(&self) -> &Address {
        self.socket.address()
    }

    /// Answers requests until it is dropped. Needs a `LocalSet`.
    pub async fn serve(self, running: Arc<Running>) {
        let guard = Guard::new(&running.config.config.admin, self.address());
        let router = TowerToHyperService::new(super::router(running, guard));
        let acceptor = match Acceptor::new(Arc::new(self.socket)) {
            Ok(acceptor) => acceptor,
            Err(error) => return tracing::error!(%error, "the admin endpoint cannot serve"),
        };
        let door = Door::default();
        let failures = SharedThrottle::new(Instant::now());
        // The only error there can be is that the runtime shuts down.
        while acceptor.ready().await.is_ok() {
            match acceptor.accept() {
                Ok(Some(incoming)) => door.admit(incoming, &router),
                Ok(None) => {}
                Err(error) => {
                    if let Some(suppressed) = failures.check(Instant::now()) {
                        tracing::warn!(%error, suppressed, "the admin endpoint cannot accept");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Who is in.
#[derive(Default)]
struct Door {
    next: Cell<u64>,
    seats: Rc<RefCell<BTreeMap<u64, Seat>>>,
}

/// A connection that is in.
struct Seat {
    activity: Rc<Activity>,
    task: AbortHandle,
}

/// What a connection does, as the door sees it.
pub(super) struct Activity {
    /// A request is being worked on.
    busy: Cell<bool>,
    /// When it was accepted, or its last request came or was answered.
    at: Cell<Instant>,
}

impl Activity {
    /// A request came, or was answered.
    pub(super) fn set_busy(&self, busy: bool) {
        self.busy.set(busy);
        self.at.set(Instant::now());
    }
}

impl Door {
    fn admit(&self, incoming: Incoming, router: &http::Router) {
        if !self.make_room() {
            return;
        }
        let id = self.next.replace(self.next.get() + 1);
        let activity = Rc::new(Activity {
            busy: Cell::new(false),
            at: Cell::new(Instant::now()),
        });
        let leave = Leave(Rc::clone(&self.seats), id);
        let serve = http::serve(incoming, router.clone(), Rc::clone(&activity));
        let task = tokio::task::spawn_local(async move {
            serve.await;
            drop(leave);
        });
        let task = task.abort_handle();
        self.seats.borrow_mut().insert(id, Seat { activity, task });
    }

    /// Whether one more can come in, at the cost of another if need be.
    fn make_room(&self) -> bool {
        if self.seats.borrow().len() < MOST_CONNECTIONS {
            return true;
        }
        let silent = {
            let seats = self.seats.borrow();
            let idle = seats.iter().filter(|(_, seat)| !seat.activity.busy.get());
            let longest = idle.min_by_key(|(_, seat)| seat.activity.at.get());
            longest.map(|(id, _)| *id)
        };
        let seat = silent.and_then(|id| self.seats.borrow_mut().remove(&id));
        seat.is_some_and(|seat| {
            seat.task.abort();
            true
        })
    }
}

/// Gives the seat back, however the connection ends.
struct Leave(Rc<RefCell<BTreeMap<u64, Seat>>>, u64);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.borrow_mut().remove(&self.1);
    }
}

//! A door: one bound address, open for as long as some listener has it.
//!
//! Closing a listening socket resets whoever is in its accept queue. So a door keeps its socket
//! through every reload that leaves its address, and is handed over where the address goes to
//! another listener; one that is not needed any more is emptied first, see
//! [`accept`](super::accept). While another process takes the place of this one the door is shut,
//! with its socket: that process may have the socket too, and then whoever is in the queue.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Listener;
use crate::config;
use crate::net::{Address, Inherited, ListenError, ListenOptions, Liveness, Socket};

/// A bound address.
#[derive(Debug)]
pub struct Door {
    /// As the file writes it: its port may be 0.
    bind: Address,
    address: Address,
    listener: ArcSwap<Listener>,
    handed_over: Notify,
    /// Until it is closed.
    socket: Mutex<Option<Arc<Socket>>>,
    options: Mutex<ListenOptions>,
    /// Those that run, or ran last.
    loops: Mutex<Loops>,
    /// Who is in the queue is for another process.
    left: AtomicBool,
}

/// The accept loops of all cores: started as one, stopped as one.
#[derive(Clone, Debug, Default)]
struct Loops {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Loops {
    fn end(&self) {
        self.stop.cancel();
        self.tracker.close();
    }
}

impl Door {
    /// Listens on `address` for `listener`, by the socket in `inherited` where there is one.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn open(
        address: &Address,
        options: ListenOptions,
        listener: Arc<Listener>,
        inherited: &mut Inherited,
    ) -> Result<Arc<Self>, ListenError> {
        let chosen = inherited.chosen(Some(&listener.settings.name), address);
        let socket = Socket::open(&chosen, options, inherited)?;
        Ok(Arc::new(Self {
            bind: address.clone(),
            address: socket.address().clone(),
            listener: ArcSwap::new(listener),
            handed_over: Notify::new(),
            socket: Mutex::new(Some(Arc::new(socket))),
            options: Mutex::new(options),
            loops: Mutex::default(),
            left: AtomicBool::new(false),
        }))
    }

    /// As the file writes it.
    pub fn configured(&self) -> &Address {
        &self.bind
    }

    /// Where it is, with the port that the kernel chose where the file says 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whose it is now.
    pub fn listener(&self) -> Arc<Listener> {
        self.listener.load_full()
    }

    /// Completes when it is another's than `listener`, or that one has other settings.
    pub(super) async fn left(&self, listener: &Arc<Listener>) {
        loop {
            let handed_over = self.handed_over.notified();
            if !Arc::ptr_eq(&self.listener.load(), listener) {
                return;
            }
            handed_over.await;
        }
    }

    /// Gives it to `listener`, with its socket options: whoever comes in from now on is that
    /// one's.
    ///
    /// # Errors
    /// What the kernel says; the door is `listener`'s all the same.
    pub fn hand_over(
        &self,
        listener: Arc<Listener>,
        options: ListenOptions,
    ) -> std::io::Result<()> {
        self.listener.store(listener);
        self.handed_over.notify_waiters();
        let mut before = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        match self.socket() {
            Some(socket) if *before != options => {
                *before = options;
                socket.retune(options)
            }
            _ => Ok(()),
        }
    }

    /// Counts `accept` among its accept loops.
    pub(crate) fn track<F: Future>(&self, accept: F) -> impl Future<Output = F::Output> + use<F> {
        self.loops().tracker.track_future(accept)
    }

    /// Its socket, for a core to accept from or another process to have; `None`: it is closed.
    pub fn socket(&self) -> Option<Arc<Socket>> {
        self.lock().clone()
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    /// Lets go of its socket, and has every core empty its accept queue. It is closed when the
    /// last core has done so.
    pub fn close(&self) {
        self.lock().take();
        self.loops().end();
    }

    /// Completes when it is closed or shut, and its accept queue is empty or left.
    pub async fn closed(&self) {
        let loops = self.loops();
        loops.tracker.wait().await;
    }

    /// Has nobody accepted any more and keeps the socket. Its accept queue is emptied, unless it
    /// is `left` to another process that has the socket too.
    pub fn shut(&self, left: bool) {
        self.left.store(left, Ordering::Relaxed);
        self.loops().end();
    }

    /// Ends being [`shut`](Self::shut): it is for the cores to accept again.
    pub fn reopen(&self) {
        self.left.store(false, Ordering::Relaxed);
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        *loops = Loops::default();
    }

    /// Whether who is in the queue is for another process.
    pub fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Completes when nobody is to be accepted any more by the loops that there are now.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + use<> {
        self.loops().stop.cancelled_owned()
    }

    fn loops(&self) -> Loops {
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Socket>>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the sockets of a listener that sends to `pool` are set up.
pub fn options(settings: &config::Listener, pool: Option<&config::Pool>) -> ListenOptions {
    let liveness = pool.map_or(Liveness::OFF, |pool| Liveness {
        keepalive: pool.keepalive,
        user_timeout: pool.user_timeout,
    });
    ListenOptions {
        backlog: settings.backlog,
        ipv6_only: settings.ipv6_only,
        unix_mode: settings.unix_mode,
        liveness,
    }
}

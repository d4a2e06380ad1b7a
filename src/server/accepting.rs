//! The accept loops of all cores: started as one, stopped as one.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::core::begin;
use crate::admin::Running;
use crate::conn::{Command, Core};
use crate::listener::accept::AcceptLoop;
use crate::net::Acceptor;
use crate::runtime::spawn;

/// Accepts, or does not.
#[derive(Debug)]
pub(super) struct Accepting {
    running: Arc<Running>,
    loops: Mutex<Loops>,
}

#[derive(Clone, Debug, Default)]
struct Loops {
    close: CancellationToken,
    tracker: TaskTracker,
}

impl Accepting {
    /// Does not accept yet.
    pub(super) fn new(running: &Arc<Running>) -> Self {
        Self {
            running: Arc::clone(running),
            loops: Mutex::default(),
        }
    }

    /// Starts the accept loops of every core, and waits until they are there. Not for the
    /// thread of a core.
    ///
    /// # Errors
    /// What epoll_ctl(2) gives on one of the cores; nobody accepts then.
    pub(super) fn start(&self) -> io::Result<()> {
        let loops = Loops::default();
        *self.lock() = loops.clone();
        for listener in &self.running.listeners {
            let sockets = listener.sockets();
            sockets.iter().for_each(|socket| socket.leave_queue(false));
        }
        let (started, outcomes) = std::sync::mpsc::channel();
        for core in &self.running.cores {
            let (running, loops) = (Arc::clone(&self.running), loops.clone());
            let started = started.clone();
            core.run(move |core| {
                // Whoever waits for it is there, or has given up the start.
                let _ = started.send(accept(core, &running, &loops));
            });
        }
        drop(started);
        let outcomes: Vec<_> = outcomes.iter().collect();
        let all = outcomes.len() == self.running.cores.len();
        let outcome = outcomes.into_iter().collect::<io::Result<()>>();
        let outcome = match all {
            true => outcome,
            false => Err(io::Error::other("a core is gone")),
        };
        if outcome.is_err() {
            loops.close.cancel();
        }
        outcome
    }

    /// Ends all accept loops. Each empties its queue, but for a socket that is told to
    /// [leave](crate::net::Socket::leave_queue) it to another process.
    pub(super) async fn stop(&self) {
        let Loops { close, tracker } = self.lock().clone();
        close.cancel();
        tracker.close();
        tracker.wait().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Loops> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the accept loops of one core.
fn accept(core: &Rc<Core>, running: &Arc<Running>, loops: &Loops) -> io::Result<()> {
    for listener in &running.listeners {
        for socket in listener.sockets() {
            let (own, running) = (Rc::clone(core), Arc::clone(running));
            let accept = AcceptLoop {
                core: core.index(),
                acceptor: Acceptor::new(socket)?,
                listener: Arc::clone(listener),
                admission: Arc::clone(&running.admission),
                deliver: move |index: usize, arrival| match index == own.index() {
                    true => begin(&own, arrival),
                    false => running.cores[index].tell(Command::Serve(arrival)),
                },
            };
            let accept = accept.run(loops.close.clone());
            spawn(loops.tracker.track_future(accept));
        }
    }
    Ok(())
}

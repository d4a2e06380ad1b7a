//! A data core: one thread, one runtime, nothing shared on the way of a byte.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::conn::{Arrival, Command, Core, CoreHandle, serve};
use crate::listener::Listener;
use crate::listener::accept::{AcceptLoop, Admission};
use crate::log;
use crate::metrics::counters;
use crate::net::Acceptor;
use crate::runtime::{Runtime, spawn};

/// What a core thread is started with.
pub(super) struct CorePlan {
    pub(super) index: usize,
    pub(super) pipes: usize,
    pub(super) listeners: Vec<Arc<Listener>>,
    pub(super) admission: Arc<Admission>,
    pub(super) cores: Vec<CoreHandle>,
    pub(super) commands: UnboundedReceiver<Command>,
    pub(super) log: log::Handle,
    /// Ends the accept loops.
    pub(super) close: CancellationToken,
    /// Tracks the accept loops of all cores.
    pub(super) accepting: TaskTracker,
}

impl CorePlan {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread, or no epoll instance, to be had.
    pub(super) fn spawn(self) -> io::Result<()> {
        let (started, outcome) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name(format!("core-{}", self.index))
            .spawn(move || {
                let runtime = Runtime::new();
                match runtime {
                    Ok(runtime) => runtime.block_on(self.run(|result| drop(started.send(result)))),
                    Err(error) => drop(started.send(Err(error))),
                }
            })?;
        outcome
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("a core thread ended at its start")))
    }

    async fn run(mut self, started: impl FnOnce(io::Result<()>)) {
        counters::enter(self.index);
        let process = Arc::clone(&self.admission.process);
        process.set_thread(
            self.index,
            rustix::thread::gettid().as_raw_nonzero().get() as u64,
        );
        let core = Core::new(self.index, self.pipes, self.log.clone(), process);
        let accepting = self.accept(&core);
        let failed = accepting.is_err();
        started(accepting);
        if failed {
            return;
        }
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Serve(arrival) => begin(&core, arrival),
                Command::Connections(ask) => core.list(ask),
                Command::End(order) => core.end(order),
                Command::Leave(leave) => core.leave(leave),
                Command::EndAll(ended) => core.end_all(ended),
                Command::Do(work) => work.run(&core),
                // Whoever asked may have gone away meanwhile.
                Command::Answer(reply) => drop(reply.send(())),
            }
        }
    }

    /// Starts the accept loops of this core.
    fn accept(&self, core: &Rc<Core>) -> io::Result<()> {
        for listener in &self.listeners {
            for socket in listener.sockets() {
                let accept = AcceptLoop {
                    core: self.index,
                    acceptor: Acceptor::new(socket)?,
                    listener: Arc::clone(listener),
                    admission: Arc::clone(&self.admission),
                    deliver: self.deliver(core),
                };
                let accept = accept.run(self.close.clone());
                spawn(self.accepting.track_future(accept));
            }
        }
        Ok(())
    }

    fn deliver(&self, core: &Rc<Core>) -> impl Fn(usize, Arrival) + use<> {
        let (own, cores) = (Rc::clone(core), self.cores.clone());
        move |index, arrival| match index == own.index() {
            true => begin(&own, arrival),
            false => cores[index].tell(Command::Serve(arrival)),
        }
    }
}

/// Serves a connection in a task of its own, so that a panic ends no other.
fn begin(core: &Rc<Core>, arrival: Arrival) {
    spawn(serve(Rc::clone(core), arrival));
}

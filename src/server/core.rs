//! A data core: one thread, one runtime, nothing shared on the way of a byte.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::conn::{Arrival, Command, Core, serve};
use crate::log;
use crate::metrics::{Process, counters};
use crate::runtime::{Runtime, spawn};

/// What a core thread is started with.
pub(super) struct CorePlan {
    pub(super) index: usize,
    pub(super) pipes: usize,
    pub(super) process: Arc<Process>,
    pub(super) commands: UnboundedReceiver<Command>,
    pub(super) log: log::Handle,
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
                    Ok(runtime) => runtime.block_on(self.run(|| drop(started.send(Ok(()))))),
                    Err(error) => drop(started.send(Err(error))),
                }
            })?;
        outcome
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("a core thread ended at its start")))
    }

    async fn run(mut self, started: impl FnOnce()) {
        counters::enter(self.index);
        let process = Arc::clone(&self.process);
        process.set_thread(
            self.index,
            rustix::thread::gettid().as_raw_nonzero().get() as u64,
        );
        let core = Core::new(self.index, self.pipes, self.log.clone(), process);
        started();
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Serve(arrival) => begin(&core, arrival),
                Command::Connections(ask) => core.list(ask),
                Command::End(order) => core.end(order),
                Command::Leave(leave) => core.leave(leave),
                Command::EndAll(ended) => core.end_all(ended),
                // Whoever asked may have gone away meanwhile.
                Command::Answer(reply) => drop(reply.send(())),
                Command::Do(work) => work.run(&core),
            }
        }
    }
}

/// Serves a connection in a task of its own, so that a panic ends no other.
pub(super) fn begin(core: &Rc<Core>, arrival: Arrival) {
    spawn(serve(Rc::clone(core), arrival));
}

//! A data core: one thread, one runtime, nothing shared on the way of a byte.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::conn::quality::keep_sampling;
use crate::conn::{Arrival, Command, Core, CoreHandle, serve};
use crate::listener::Door;
use crate::listener::accept::{AcceptLoop, Admission};
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
            .spawn(move || match Runtime::new() {
                Ok(runtime) => {
                    drop(started.send(Ok(())));
                    runtime.block_on(self.run());
                }
                Err(error) => drop(started.send(Err(error))),
            })?;
        outcome
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("a core thread ended at its start")))
    }

    async fn run(mut self) {
        counters::enter(self.index);
        self.process.set_thread(
            self.index,
            rustix::thread::gettid().as_raw_nonzero().get() as u64,
        );
        let core = Core::new(self.index, self.pipes, self.log, self.process);
        spawn(keep_sampling(Rc::clone(&core)));
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Do(work) => work(&core),
                Command::Serve(arrival) => begin(&core, arrival),
                Command::Connections(ask) => core.list(ask),
                Command::Idlest(question) => core.find_idlest(question),
                Command::End(order) => core.end(order),
                Command::Leave(leave) => core.leave(leave),
                Command::EndAll(ended) => core.end_all(ended),
                // Whoever asked may have gone away meanwhile.
                Command::Answer(reply) => drop(reply.send(())),
            }
        }
    }
}

/// What it takes to have every core accept from a door.
#[derive(Clone)]
pub(super) struct Opener {
    pub(super) admission: Arc<Admission>,
    pub(super) cores: Vec<CoreHandle>,
}

impl Opener {
    /// Starts the accept loops of `doors` on every core.
    ///
    /// # Errors
    /// A core cannot watch one of them; others may accept from it then, until it is closed.
    pub(super) async fn open(&self, doors: &[Arc<Door>]) -> io::Result<()> {
        let mut answers = Vec::new();
        for core in &self.cores {
            let (reply, answer) = oneshot::channel();
            let (opener, doors) = (self.clone(), doors.to_vec());
            core.run(move |core| {
                let mut doors = doors.into_iter();
                let opened = doors.try_for_each(|door| opener.accept(core, door));
                // Whoever asked may have gone away meanwhile.
                let _ = reply.send(opened);
            });
            answers.push(answer);
        }
        for answer in answers {
            answer
                .await
                .unwrap_or_else(|_| Err(io::Error::other("a core thread has ended")))?;
        }
        Ok(())
    }

    /// Completes when every core has begun to serve whoever was handed to it before.
    pub(super) async fn pass(&self) {
        for core in &self.cores {
            // What was handed over is a task after the first round, and begun after the second.
            for _ in 0..2 {
                core.answers().await;
            }
        }
    }

    /// Starts the accept loop of `door` on this core.
    fn accept(&self, core: &Rc<Core>, door: Arc<Door>) -> io::Result<()> {
        let admission = Arc::clone(&self.admission);
        let (index, deliver) = (core.index(), self.deliver(core));
        let accept = AcceptLoop::new(index, Arc::clone(&door), admission, deliver)?;
        if let Some(accept) = accept {
            spawn(door.track(accept.run()));
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
pub(super) fn begin(core: &Rc<Core>, arrival: Arrival) {
    spawn(serve(Rc::clone(core), arrival));
}

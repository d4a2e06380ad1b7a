//! The runtime of a data core: one thread, its tasks, its sockets, its deadlines.
//!
//! tokio runs the control plane and gives this one its channels, semaphores and tokens, which
//! need no runtime of a certain kind. A data core has its own, because on the way of a byte
//! four things matter that tokio has no way to ask for:
//!
//! - a listening socket that all cores share wakes one of them, not all (`EPOLLEXCLUSIVE`), and
//!   is not asked until it says that its queue is empty;
//! - a socket leaves its epoll instance by being closed, without a system call before;
//! - a deadline is armed without a system call, and a wait without one ([`timers`]);
//! - an idle socket costs some hundred bytes ([`reactor`]), and a wake-up a push to a queue.
//!
//! The loop is: poll the tasks that were woken, at most [`BATCH`] of them, then look for events
//! and for wakes from other threads; where nobody is left to be polled, wait for them.
//!
//! A task that panics is dropped and ends no other.

mod reactor;
mod task;
pub mod timers;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

pub use reactor::{Ready, Source};

use reactor::Reactor;
use task::{Next, Tasks};
use timers::Timers;

/// Tasks polled between two looks at the sockets: a flood of wake-ups holds up no event.
const BATCH: usize = 64;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Inner>>> = const { RefCell::new(None) };
}

/// A runtime, for the thread that makes it.
pub struct Runtime {
    inner: Rc<Inner>,
}

struct Inner {
    tasks: Tasks,
    reactor: Rc<Reactor>,
    timers: Rc<Timers>,
}

impl Runtime {
    /// A runtime without tasks.
    ///
    /// # Errors
    /// What epoll_create(2), eventfd(2) or timerfd_create(2) give: no descriptor to be had.
    pub fn new() -> io::Result<Self> {
        let timers = Timers::new()?;
        let tasks = Tasks::new()?;
        let reactor = Reactor::new(tasks.event(), timers.event())?;
        Ok(Self {
            inner: Rc::new(Inner {
                tasks,
                reactor,
                timers,
            }),
        })
    }

    /// Runs `main`, and every task there is meanwhile, until `main` is done. Tasks that are
    /// left then go on with the next call, or are dropped with the runtime.
    ///
    /// # Panics
    /// If this thread runs a runtime already; if `main` does.
    pub fn block_on<F: Future>(&self, main: F) -> F::Output {
        let _entered = Entered::new(&self.inner);
        let mut main = pin!(main);
        let waker = self.inner.tasks.wake_main();
        loop {
            for _ in 0..BATCH {
                match self.inner.tasks.next() {
                    None => break,
                    Some(Next::Task(task)) => self.inner.tasks.poll(task),
                    Some(Next::Main) => {
                        let mut cx = Context::from_waker(&waker);
                        if let Poll::Ready(output) = main.as_mut().poll(&mut cx) {
                            return output;
                        }
                    }
                }
            }
            self.inner.turn();
        }
    }
}

impl Inner {
    /// Looks for events; waits for one where no task is to be polled.
    fn turn(&self) {
        let wait = self.tasks.begin_wait();
        let timers_due = self.reactor.turn(wait);
        self.tasks.end_wait();
        if timers_due {
            self.timers.fire();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _entered = Entered::new(&self.inner);
        self.inner.tasks.drop_all();
    }
}

/// Starts a task on this thread's runtime.
///
/// # Panics
/// If this thread runs none.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    current(|inner| inner.tasks.spawn(Box::pin(future)));
}

/// How many tasks are to be polled before one that is woken now.
///
/// # Panics
/// If this thread runs no runtime.
pub fn queued() -> usize {
    current(|inner| inner.tasks.queued())
}

/// Lets every task that was woken have its turn first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The deadlines of this thread's runtime.
///
/// # Panics
/// If this thread runs none.
pub fn timers() -> Rc<Timers> {
    current(|inner| Rc::clone(&inner.timers))
}

fn current<T>(with: impl FnOnce(&Inner) -> T) -> T {
    let inner = CURRENT.with_borrow(Option::clone);
    with(&inner.expect("this thread runs a data core's runtime"))
}

/// The runtime is this thread's, until this is dropped.
struct Entered;

impl Entered {
    fn new(inner: &Rc<Inner>) -> Self {
        let before = CURRENT.replace(Some(Rc::clone(inner)));
        assert!(before.is_none(), "this thread runs a runtime already");
        Self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

#[cfg(test)]
mod tests;

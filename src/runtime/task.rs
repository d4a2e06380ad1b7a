//! Tasks and who wakes them.
//!
//! A waker is an `Arc<Handle>`. On the runtime's own thread waking pushes the handle to a queue;
//! from any other thread it goes into [`Remote`], whose eventfd interrupts a wait. A task is in
//! a queue at most once: `queued` says so, and is taken back before the poll, so that a wake
//! during the poll counts.
//!
//! *No wake from another thread is lost*: the waker fills the remote queue and then looks at
//! `asleep`; the runtime sets `asleep` and then looks at the queue. All four are sequentially
//! consistent, so one of them sees the other.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};

use rustix::event::{EventfdFlags, eventfd};
use slab::Slab;

use super::CURRENT;

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks of one runtime.
pub(super) struct Tasks {
    slots: RefCell<Slab<Slot>>,
    woken: RefCell<VecDeque<Arc<Handle>>>,
    remote: Arc<Remote>,
    main: Arc<Handle>,
}

struct Slot {
    handle: Arc<Handle>,
    /// `None` while it is being polled.
    work: Option<Work>,
}

/// Who is to be polled next.
pub(super) enum Next {
    /// The future that the runtime was entered with.
    Main,
    /// A task.
    Task(Arc<Handle>),
}

/// What wakes a task. It may outlive the task, and then wakes nobody.
pub(super) struct Handle {
    key: usize,
    queued: AtomicBool,
    remote: Arc<Remote>,
}

/// Where other threads leave whom they woke.
struct Remote {
    woken: Mutex<Woken>,
    /// Somebody is there.
    pending: AtomicBool,
    /// The runtime's thread waits, or is about to.
    asleep: AtomicBool,
    event: OwnedFd,
}

#[derive(Default)]
struct Woken {
    handles: Vec<Arc<Handle>>,
    /// The runtime is gone.
    closed: bool,
}

/// The key of the future that the runtime was entered with.
const MAIN: usize = usize::MAX;

impl Tasks {
    pub(super) fn new() -> io::Result<Self> {
        let remote = Arc::new(Remote {
            woken: Mutex::default(),
            pending: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        Ok(Self {
            slots: RefCell::default(),
            woken: RefCell::default(),
            main: Handle::new(MAIN, &remote),
            remote,
        })
    }

    /// Becomes readable, once more each time, when another thread woke somebody.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.remote.event.as_fd()
    }

    pub(super) fn spawn(&self, work: Work) {
        let mut slots = self.slots.borrow_mut();
        let entry = slots.vacant_entry();
        let handle = Handle::new(entry.key(), &self.remote);
        handle.queued.store(true, Relaxed);
        entry.insert(Slot {
            handle: Arc::clone(&handle),
            work: Some(work),
        });
        self.woken.borrow_mut().push_back(handle);
    }

    /// Wakes the future that the runtime is entered with, and gives its waker.
    pub(super) fn wake_main(&self) -> Waker {
        let waker = Waker::from(Arc::clone(&self.main));
        waker.wake_by_ref();
        waker
    }

    /// How many are to be polled.
    pub(super) fn queued(&self) -> usize {
        self.woken.borrow().len()
    }

    /// Who was woken first.
    pub(super) fn next(&self) -> Option<Next> {
        let handle = self.woken.borrow_mut().pop_front()?;
        // Whoever wakes it from here on wakes it again.
        handle.queued.swap(false, AcqRel);
        Some(match handle.key {
            MAIN => Next::Main,
            _ => Next::Task(handle),
        })
    }

    /// Polls a task, unless it is gone. If it is done, or panics, it is dropped.
    pub(super) fn poll(&self, handle: Arc<Handle>) {
        let key = handle.key;
        let Some(mut work) = self.take(&handle) else {
            return;
        };
        let waker = Waker::from(handle);
        let mut cx = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut cx)));
        match polled {
            Ok(Poll::Pending) => self.slots.borrow_mut()[key].work = Some(work),
            Ok(Poll::Ready(())) | Err(_) => {
                drop_quietly(work);
                self.slots.borrow_mut().remove(key);
            }
        }
    }

    fn take(&self, handle: &Arc<Handle>) -> Option<Work> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(handle.key)?;
        // Its place may have another task by now.
        Arc::ptr_eq(&slot.handle, handle)
            .then(|| slot.work.take())
            .flatten()
    }

    /// Whether to wait for an event: nobody was woken, here or from another thread.
    pub(super) fn begin_wait(&self) -> bool {
        if !self.woken.borrow().is_empty() {
            return false;
        }
        self.remote.asleep.store(true, SeqCst);
        !self.remote.pending.load(SeqCst)
    }

    /// The wait is over: takes over whom other threads have woken.
    pub(super) fn end_wait(&self) {
        self.remote.asleep.store(false, SeqCst);
        if self.remote.pending.load(Relaxed) && self.remote.pending.swap(false, SeqCst) {
            let handles = std::mem::take(&mut self.remote.lock().handles);
            self.woken.borrow_mut().extend(handles);
        }
    }

    /// Drops every task, those included that are started by the drop of another.
    pub(super) fn drop_all(&self) {
        loop {
            let slots = std::mem::take(&mut *self.slots.borrow_mut());
            if slots.is_empty() {
                break;
            }
            let works = slots.into_iter().filter_map(|(_, slot)| slot.work);
            works.for_each(drop_quietly);
        }
        self.woken.borrow_mut().clear();
        let mut remote = self.remote.lock();
        remote.closed = true;
        let left = std::mem::take(&mut remote.handles);
        drop(remote);
        drop(left);
    }
}

/// What panics while it is dropped has said so, and ends nobody else.
fn drop_quietly(work: Work) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(work)));
}

impl Handle {
    fn new(key: usize, remote: &Arc<Remote>) -> Arc<Self> {
        Arc::new(Self {
            key,
            queued: AtomicBool::new(false),
            remote: Arc::clone(remote),
        })
    }

    fn enqueue(self: Arc<Self>) {
        let mut handle = Some(self);
        // No runtime where the thread is on its way out: it is a foreign one then.
        let _ = CURRENT.try_with(|current| {
            let current = current.borrow();
            if let Some(inner) = &*current
                && let Some(own) =
                    handle.take_if(|own| Arc::ptr_eq(&own.remote, &inner.tasks.remote))
            {
                inner.tasks.woken.borrow_mut().push_back(own);
            }
        });
        if let Some(handle) = handle {
            let remote = Arc::clone(&handle.remote);
            remote.push(handle);
        }
    }
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, AcqRel) {
            self.enqueue();
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, AcqRel) {
            Arc::clone(self).enqueue();
        }
    }
}

impl Remote {
    fn push(&self, handle: Arc<Handle>) {
        let mut woken = self.lock();
        if woken.closed {
            return;
        }
        woken.handles.push(handle);
        drop(woken);
        self.pending.store(true, SeqCst);
        if self.asleep.swap(false, SeqCst) {
            // It can only fail where 2^64 wake-ups have not been seen.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// A panic while it is held leaves the list whole.
    fn lock(&self) -> MutexGuard<'_, Woken> {
        self.woken
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

//! Which sockets are ready: one epoll instance, see epoll(7), and a word of state for each.
//!
//! Sockets are watched *edge-triggered*: the kernel says once that there is something, and what
//! it said stands here until the socket is seen to be dry ([`Source::dry`]). Only this thread reads events, between polls, so what it says cannot
//! change while a task looks at it.
//!
//! Listening sockets are watched *level-triggered* and `EPOLLEXCLUSIVE`: a client wakes one of
//! the cores that wait, and the kernel says so again as long as somebody is in the queue.
//!
//! A source is gone from the epoll instance when its socket is closed, without a call of its
//! own; what the kernel has said about it by then is recognised by its token.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;

/// Events taken at once; more wait for the next look.
const EVENTS: usize = 256;
/// Token of the eventfd that other threads ring.
const RING: u64 = u64::MAX;
/// Token of the timer of deadlines.
const TIMER: u64 = u64::MAX - 1;

/// What is known of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready(u8);

impl Ready {
    /// There is something to read, or somebody to accept.
    pub const READABLE: Self = Self(1);
    /// There is room to write.
    pub const WRITABLE: Self = Self(1 << 1);
    /// There is, or was, urgent data.
    pub const URGENT: Self = Self(1 << 2);
    /// The peer has sent FIN, or the connection broke.
    pub const READ_CLOSED: Self = Self(1 << 3);
    /// Both directions were shut, or the connection broke.
    pub const WRITE_CLOSED: Self = Self(1 << 4);
    /// The kernel has said nothing yet: a read may be worth trying.
    const UNSEEN: Self = Self(1 << 5);

    /// What ends a wait for something to read.
    pub const READ: Self = Self(Self::READABLE.0 | Self::READ_CLOSED.0 | Self::UNSEEN.0);
    /// What ends a wait for room to write, or for the end of a connect.
    pub const WRITE: Self = Self(Self::WRITABLE.0 | Self::WRITE_CLOSED.0);

    /// Whether any of `other` holds.
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn of(flags: EventFlags) -> Self {
        let pairs = [
            (EventFlags::IN, Self::READABLE),
            (EventFlags::OUT, Self::WRITABLE),
            (EventFlags::PRI, Self::URGENT),
            (EventFlags::RDHUP, Self::READ_CLOSED),
            (
                EventFlags::HUP,
                Self(Self::READ_CLOSED.0 | Self::WRITE_CLOSED.0),
            ),
            (
                EventFlags::ERR,
                Self(Self::READ_CLOSED.0 | Self::WRITE_CLOSED.0),
            ),
        ];
        pairs
            .into_iter()
            .fold(Self::default(), |ready, (flag, means)| {
                if flags.contains(flag) {
                    ready | means
                } else {
                    ready
                }
            })
    }
}

impl BitOr for Ready {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// The sockets of one runtime.
pub(super) struct Reactor {
    epoll: OwnedFd,
    watched: RefCell<Slab<Rc<Watched>>>,
    events: RefCell<Box<[MaybeUninit<Event>]>>,
    /// Tells the users of one place in `watched` apart.
    generation: Cell<u32>,
}

struct Watched {
    token: u64,
    ready: Cell<Ready>,
    /// What is waited for.
    wanted: Cell<Ready>,
    waker: RefCell<Option<Waker>>,
}

impl Reactor {
    /// A reactor that also watches who rings, and the timer.
    pub(super) fn new(ring: BorrowedFd<'_>, timer: BorrowedFd<'_>) -> io::Result<Rc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (fd, token) in [(ring, RING), (timer, TIMER)] {
            let flags = EventFlags::IN | EventFlags::ET;
            epoll::add(&epoll, fd, EventData::new_u64(token), flags)?;
        }
        Ok(Rc::new(Self {
            epoll,
            watched: RefCell::default(),
            events: RefCell::new(Box::new_uninit_slice(EVENTS)),
            generation: Cell::default(),
        }))
    }

    /// Takes what the kernel has to say, waiting for it if `wait`, and wakes whom it concerns.
    /// Whether the timer has fired.
    pub(super) fn turn(&self, wait: bool) -> bool {
        const NOW: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut buffer = self.events.borrow_mut();
        let timeout = if wait { None } else { Some(&NOW) };
        let (events, _) = match epoll::wait(&self.epoll, &mut buffer[..], timeout) {
            Ok(events) => events,
            Err(Errno::INTR) => return false,
            Err(error) => panic!("epoll_wait(2) on a descriptor of ours: {error}"),
        };
        let mut timer = false;
        for event in events {
            match event.data.u64() {
                RING => {}
                TIMER => timer = true,
                token => self.note(token, Ready::of(event.flags)),
            }
        }
        timer
    }

    fn note(&self, token: u64, news: Ready) {
        let watched = self.watched.borrow();
        let Some(watched) = watched.get(index(token)).filter(|w| w.token == token) else {
            return;
        };
        let known = Ready(watched.ready.get().0 & !Ready::UNSEEN.0);
        watched.ready.set(known | news);
        if news.any(watched.wanted.get()) {
            watched.wanted.set(Ready::default());
            if let Some(waker) = &*watched.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    fn watch(self: &Rc<Self>, ready: Ready) -> Source {
        let generation = self.generation.get();
        self.generation.set(generation.wrapping_add(1));
        let mut all = self.watched.borrow_mut();
        let entry = all.vacant_entry();
        let watched = Rc::new(Watched {
            // The highest bit is for the tokens that are no sockets.
            token: (u64::from(generation & (u32::MAX >> 1)) << 32) | entry.key() as u64,
            ready: Cell::new(ready),
            wanted: Cell::default(),
            waker: RefCell::default(),
        });
        entry.insert(Rc::clone(&watched));
        Source {
            reactor: Rc::clone(self),
            watched,
        }
    }
}

/// The place of a token in the table.
fn index(token: u64) -> usize {
    (token & u64::from(u32::MAX)) as usize
}

/// A socket as this thread's runtime watches it. Whoever drops it closes the socket.
pub struct Source {
    reactor: Rc<Reactor>,
    watched: Rc<Watched>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({:?})", self.watched.ready.get())
    }
}

impl Source {
    /// Watches a connected or connecting socket.
    ///
    /// # Errors
    /// What epoll_ctl(2) gives: no memory, or the limit of watches reached.
    ///
    /// # Panics
    /// If this thread runs no runtime.
    pub fn new(socket: impl AsFd) -> io::Result<Self> {
        let flags =
            EventFlags::IN | EventFlags::OUT | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        Self::add(socket, flags, Ready::UNSEEN)
    }

    /// Watches a listening socket, which other runtimes may watch too.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Panics
    /// If this thread runs no runtime.
    pub fn listening(socket: impl AsFd) -> io::Result<Self> {
        Self::add(
            socket,
            EventFlags::IN | EventFlags::EXCLUSIVE,
            Ready::default(),
        )
    }

    fn add(socket: impl AsFd, flags: EventFlags, ready: Ready) -> io::Result<Self> {
        let source = super::current(|inner| inner.reactor.watch(ready));
        let data = EventData::new_u64(source.watched.token);
        epoll::add(&source.reactor.epoll, socket, data, flags)?;
        Ok(source)
    }

    /// Ends the watch of a socket that stays open.
    ///
    /// # Errors
    /// What epoll_ctl(2) gives, if `socket` is not the one that is watched.
    pub fn leave(self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.reactor.epoll, socket)?)
    }

    /// What is known.
    pub fn ready(&self) -> Ready {
        self.watched.ready.get()
    }

    /// Completes when any of `wanted` is known. Wakes the task that asked last.
    pub fn poll_ready(&self, cx: &mut Context<'_>, wanted: Ready) -> Poll<Ready> {
        let ready = self.ready();
        if ready.any(wanted) {
            return Poll::Ready(ready);
        }
        self.watched.wanted.set(self.watched.wanted.get() | wanted);
        let mut waker = self.watched.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// A read came back short, so that the socket is dry but for a FIN or an error that the
    /// kernel may have told of already.
    pub fn drained(&self) {
        self.clear(Ready::READABLE | Ready::UNSEEN);
    }

    /// A read would have blocked: there is nothing until the kernel says so again.
    pub fn dry(&self) {
        self.clear(Ready::READ);
    }

    /// A write would have blocked: there is no room until the kernel says so again.
    pub fn full(&self) {
        self.clear(Ready::WRITE);
    }

    /// Forgets what was known: the kernel says so again when it comes about again.
    pub fn clear(&self, what: Ready) {
        let ready = self.ready();
        self.watched.ready.set(Ready(ready.0 & !what.0));
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let gone = self
            .reactor
            .watched
            .borrow_mut()
            .try_remove(index(self.watched.token));
        drop(gone);
    }
}

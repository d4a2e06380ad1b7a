//! Pipes for splice(2): pooled per core, capped in number, never handed on with bytes in them.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use crate::metrics::Process;

/// Bytes that a pipe is to have: what an unprivileged one may have at most
/// (`fs.pipe-max-size`). It costs half of what the default of 64 KiB does.
pub const PIPE_SIZE: usize = 1 << 20;
/// Bytes below which a pipe is not worth having: copying costs less, see `docs/performance.md`.
const LEAST: usize = 64 << 10;
/// Empty pipes kept for the next bulk transfer; each is two descriptors and no memory.
const KEPT: usize = 16;
/// How long nothing is asked for after the machine gave none: asking takes up to six system
/// calls, which bulk that is copied would make for each read.
const PAUSE: Duration = Duration::from_secs(1);

/// Both ends, for reading and for writing, and the bytes between them.
type Made = (OwnedFd, OwnedFd, usize);

/// The pipes of one core.
#[derive(Debug)]
pub struct Pipes {
    idle: RefCell<Vec<Made>>,
    /// The machine gave none; it is asked again from then on.
    refused_until: Cell<Option<Instant>>,
    in_use: Cell<usize>,
    most: usize,
    process: Arc<Process>,
    core: usize,
}

/// A pipe taken from [`Pipes`]. Dropping it with bytes in it destroys it: what one client sent
/// must never reach another.
#[derive(Debug)]
pub struct Pipe {
    home: Rc<Pipes>,
    ends: Option<(OwnedFd, OwnedFd)>,
    capacity: usize,
    held: usize,
}

impl Pipes {
    /// A pool of at most `most` pipes at once, for core `core` of `process`.
    pub fn new(most: usize, process: Arc<Process>, core: usize) -> Rc<Self> {
        Rc::new(Self {
            idle: RefCell::default(),
            refused_until: Cell::default(),
            in_use: Cell::new(0),
            most,
            process,
            core,
        })
    }

    /// Notes how many are in use, for this pool and for whoever looks from outside.
    fn set_in_use(&self, pipes: usize) {
        self.in_use.set(pipes);
        self.process.set_pipes(self.core, pipes);
    }

    /// An empty pipe; `None`: all are in use, or the machine has no more to give, and the
    /// bytes must be copied.
    pub fn take(self: &Rc<Self>) -> Option<Pipe> {
        if self.in_use.get() >= self.most {
            return None;
        }
        let idle = self.idle.borrow_mut().pop();
        let (read, write, capacity) = idle.or_else(|| self.make(Instant::now(), create))?;
        self.set_in_use(self.in_use.get() + 1);
        Some(Pipe {
            home: Rc::clone(self),
            ends: Some((read, write)),
            capacity,
            held: 0,
        })
    }

    /// A new one, unless the machine gave none a moment ago.
    fn make(&self, now: Instant, create: impl FnOnce() -> Option<Made>) -> Option<Made> {
        if self.refused_until.get().is_some_and(|until| now < until) {
            return None;
        }
        let made = create();
        let refused = made.is_none();
        self.refused_until.set(refused.then(|| now + PAUSE));
        made
    }
}

#[cfg(test)]
impl Pipes {
    /// A pool whose first pipe is a pair of sockets instead, which gives `EINVAL`.
    pub(super) fn of_which_one_is_no_pipe() -> Rc<Self> {
        let pipes = Self::new(1, Arc::new(Process::new(1)), 0);
        let (read, write) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let sockets = (read.into(), write.into(), PIPE_SIZE);
        pipes.idle.borrow_mut().push(sockets);
        pipes
    }
}

/// A new one; `None`: there is no descriptor for it, or it would be too small.
fn create() -> Option<Made> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    // Refused for an unprivileged user whose pipes have `fs.pipe-user-pages-soft` already. Past
    // that a new one has two pages, see pipe(7).
    let sizes = [PIPE_SIZE, PIPE_SIZE / 4];
    let granted = sizes
        .iter()
        .find_map(|size| fcntl_setpipe_size(&write, *size).ok());
    let capacity = granted.or_else(|| fcntl_getpipe_size(&write).ok())?;
    (capacity >= LEAST).then_some((read, write, capacity))
}

impl Pipe {
    /// Bytes it carries.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Bytes it was made for; the kernel may put more in, as it counts slots.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn read_end(&self) -> &OwnedFd {
        &self.ends.as_ref().expect("ends are taken by drop alone").0
    }

    pub(super) fn write_end(&self) -> &OwnedFd {
        &self.ends.as_ref().expect("ends are taken by drop alone").1
    }

    pub(super) fn filled(&mut self, bytes: usize) {
        self.held += bytes;
    }

    pub(super) fn drained(&mut self, bytes: usize) {
        self.held -= bytes;
    }

    /// Reads everything that is in it.
    pub(super) fn empty(&mut self) -> io::Result<Box<[u8]>> {
        let mut bytes = vec![0; self.held];
        while self.held > 0 {
            let from = bytes.len() - self.held;
            match rustix::io::read(self.read_end(), &mut bytes[from..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.held -= n,
            }
        }
        Ok(bytes.into())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.home.set_in_use(self.home.in_use.get() - 1);
        let mut idle = self.home.idle.borrow_mut();
        if let Some((read, write)) = self.ends.take()
            && self.held == 0
            && idle.len() < KEPT
        {
            idle.push((read, write, self.capacity));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipes(most: usize) -> Rc<Pipes> {
        Pipes::new(most, Arc::new(Process::new(1)), 0)
    }

    #[test]
    fn a_pipe_that_holds_bytes_is_never_handed_on() {
        let pipes = pipes(2);
        let mut pipe = pipes.take().expect("a pipe");
        rustix::io::write(pipe.write_end(), b"secret").expect("room");
        pipe.filled(6);
        drop(pipe);
        let next = pipes.take().expect("a pipe");
        let mut buffer = [0; 8];
        let read = rustix::io::read(next.read_end(), &mut buffer);
        assert_eq!(read, Err(rustix::io::Errno::AGAIN));
    }

    #[test]
    fn a_machine_that_gave_none_is_not_asked_again_for_a_while() {
        let pipes = pipes(2);
        let asked = Cell::new(0);
        let ask = |now, given: bool| {
            let create = || {
                asked.set(asked.get() + 1);
                given.then(create).flatten()
            };
            pipes.make(now, create).is_some()
        };
        let start = Instant::now();
        assert!(ask(start, true));
        assert!(!ask(start, false));
        assert!(!ask(start + PAUSE / 2, true));
        assert_eq!(asked.get(), 2);
        assert!(ask(start + PAUSE, true));
        assert!(ask(start + PAUSE, true));
        assert_eq!(asked.get(), 4);
    }

    #[test]
    fn a_pipe_has_what_it_says() {
        let pipe = pipes(1).take().expect("a pipe");
        assert!(pipe.capacity() >= LEAST);
        assert_eq!(fcntl_getpipe_size(pipe.write_end()), Ok(pipe.capacity()));
    }

    #[test]
    fn the_cap_holds_and_a_clean_pipe_is_used_again() {
        let pipes = pipes(1);
        let pipe = pipes.take().expect("a pipe");
        assert!(pipes.take().is_none());
        assert_eq!(pipes.process.pipes_in_use(), 1);
        drop(pipe);
        assert_eq!(pipes.idle.borrow().len(), 1);
        assert!(pipes.take().is_some());
        assert_eq!(pipes.process.pipes_in_use(), 0);
    }
}

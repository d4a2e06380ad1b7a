//! Pipes for splice(2): pooled per core, capped in number, never handed on with bytes in them.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::metrics::Process;

/// What an unprivileged pipe may have at most (`fs.pipe-max-size`), in bytes. At 64 KiB splice
/// is no better than copying, at 1 MiB it costs half.
const WANTED: usize = 1 << 20;
/// What a pipe has when nobody asks, see pipe(7).
const DEFAULT: usize = 64 << 10;
/// Empty pipes kept for the next bulk transfer; each is two descriptors and no memory.
const KEPT: usize = 16;

/// The pipes of one core.
#[derive(Debug)]
pub struct Pipes {
    idle: RefCell<Vec<(OwnedFd, OwnedFd, usize)>>,
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
        let (read, write, capacity) = idle.or_else(create)?;
        self.set_in_use(self.in_use.get() + 1);
        Some(Pipe {
            home: Rc::clone(self),
            ends: Some((read, write)),
            capacity,
            held: 0,
        })
    }
}

fn create() -> Option<(OwnedFd, OwnedFd, usize)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    // Refused for an unprivileged user whose pipes hold `fs.pipe-user-pages-soft` already.
    let sizes = [WANTED, WANTED / 4];
    let granted = sizes
        .iter()
        .find_map(|size| fcntl_setpipe_size(&write, *size).ok());
    Some((read, write, granted.unwrap_or(DEFAULT)))
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

//! One order to stop ends the whole balancer, while two processes have its connections.
//!
//! The new process tells the old one how long what is left there may go on, and waits for it. An
//! order that the old one gets is passed on to the new one: whoever sent it knows the number that
//! the balancer had, and means the balancer.
//!
//! Here is what the control plane of the new process and its thread at the wire have of each
//! other. Neither waits for the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::message::Message;

/// Orders to stop that the old process was given; each tells whether it was not the first.
pub type Passed = UnboundedReceiver<bool>;

/// What a control plane has of the process before its own.
#[derive(Debug)]
pub struct Ties {
    /// That process; `None`: there is none, or it is of a version that obeys no stop.
    pub before: Option<Before>,
    /// What it passes on.
    pub passed: Passed,
}

/// The old process, as the control plane of the new one sees it.
#[derive(Debug)]
pub struct Before {
    tell: mpsc::Sender<Message>,
    /// Closed with the thread at the wire: this one lives as long as its process.
    bell: Weak<OwnedFd>,
    left: watch::Receiver<Left>,
}

/// The same for the thread at the wire. When it is dropped the old process has ended.
#[derive(Debug)]
pub(super) struct Desk {
    told: mpsc::Receiver<Message>,
    bell: Arc<OwnedFd>,
    left: watch::Sender<Left>,
    pass: UnboundedSender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Something,
    Nothing,
}

impl Ties {
    /// There is no such process.
    pub fn none() -> Self {
        Self {
            before: None,
            passed: unbounded_channel().1,
        }
    }

    /// Both sides, for a process that has connections.
    ///
    /// # Errors
    /// What eventfd(2) gives.
    pub(super) fn new() -> io::Result<(Self, Desk)> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let bell = Arc::new(bell);
        let (tell, told) = mpsc::channel();
        let (left, seen) = watch::channel(Left::Something);
        let (pass, passed) = unbounded_channel();
        let before = Before {
            tell,
            bell: Arc::downgrade(&bell),
            left: seen,
        };
        let ties = Self {
            before: Some(before),
            passed,
        };
        let desk = Desk {
            told,
            bell,
            left,
            pass,
        };
        Ok((ties, desk))
    }
}

impl Before {
    /// What is left there may go on for so long; `None`: for as long as it needs.
    pub fn stop(&self, left: Option<Duration>) {
        self.say(Message::Stop { left });
    }

    /// What is left there is to be reset at once.
    pub fn reset(&self) {
        self.say(Message::Reset);
    }

    fn say(&self, message: Message) {
        // Neither can fail but for a process that has ended.
        let _ = self.tell.send(message);
        if let Some(bell) = self.bell.upgrade() {
            let _ = rustix::io::write(&*bell, &1_u64.to_ne_bytes());
        }
    }

    /// Completes when it has nothing left, all that moved is here, or it has ended.
    pub async fn has_nothing(&self) {
        let mut left = self.left.clone();
        // An error: it has ended.
        let _ = left.wait_for(|left| *left == Left::Nothing).await;
    }

    /// Completes when it has ended.
    pub async fn has_ended(&self) {
        let mut left = self.left.clone();
        while left.changed().await.is_ok() {}
    }
}

impl Desk {
    /// Is readable when there is something to be told.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// What the old process is to be told.
    pub(super) fn next(&self) -> Option<Message> {
        // Silent first: what comes afterwards rings again.
        let _ = rustix::io::read(&*self.bell, &mut [0_u8; 8]);
        self.told.try_recv().ok()
    }

    /// The old process was told to stop.
    pub(super) fn pass(&self, again: bool) {
        // A process that is about to end needs no such order.
        let _ = self.pass.send(again);
    }

    /// It has nothing left.
    pub(super) fn has_nothing(&self) {
        self.left.send_replace(Left::Nothing);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        pin!(future).poll(&mut cx) == Poll::Ready(())
    }

    #[test]
    fn what_the_old_process_is_to_be_told_comes_in_order_and_rings() {
        let (ties, desk) = Ties::new().expect("a descriptor");
        let before = ties.before.expect("a process");
        let is_rung = || {
            let mut fds = [rustix::event::PollFd::new(
                &desk.bell,
                rustix::event::PollFlags::IN,
            )];
            let at_once = rustix::event::Timespec::default();
            rustix::event::poll(&mut fds, Some(&at_once)).expect("a descriptor") == 1
        };
        assert!(!is_rung());
        before.stop(Some(Duration::from_secs(2)));
        before.reset();
        assert!(is_rung());
        let left = Some(Duration::from_secs(2));
        assert_eq!(desk.next(), Some(Message::Stop { left }));
        assert_eq!(desk.next(), Some(Message::Reset));
        assert_eq!(desk.next(), None);
        assert!(!is_rung());
    }

    #[test]
    fn a_process_that_has_nothing_left_is_told_from_one_that_has_ended() {
        let (ties, desk) = Ties::new().expect("a descriptor");
        let before = ties.before.expect("a process");
        assert!(!is_ready(before.has_nothing()));
        desk.has_nothing();
        assert!(is_ready(before.has_nothing()));
        assert!(!is_ready(before.has_ended()));
        drop(desk);
        assert_eq!(before.bell.strong_count(), 0, "its descriptor is closed");
        assert!(is_ready(before.has_nothing()));
        assert!(is_ready(before.has_ended()));
    }
}

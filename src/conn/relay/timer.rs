//! A time-out that progress pushes back, without touching the runtime's timer each time.
//!
//! The timer stays armed for the moment it was first armed for; when it fires too early, since
//! something moved meanwhile, it is armed anew. So a connection that is busy pays for its
//! time-out once in `timeout`, not once a message.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

#[derive(Debug)]
pub(super) struct IdleTimer {
    /// Zero: never.
    timeout: Duration,
    progress: Instant,
    armed: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    pub(super) fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            timeout,
            progress: now,
            armed: None,
        }
    }

    /// Something moved.
    pub(super) fn progress(&mut self, now: Instant) {
        self.progress = now;
    }

    /// From `now` on another time-out runs.
    pub(super) fn restart(&mut self, timeout: Duration, now: Instant) {
        self.timeout = timeout;
        self.progress = now;
        self.armed = None;
    }

    /// Completes when nothing moved for the time-out.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        if self.timeout.is_zero() {
            return Poll::Pending;
        }
        let deadline = self.progress + self.timeout;
        if now >= deadline {
            return Poll::Ready(());
        }
        let fired = match &mut self.armed {
            None => true,
            Some(sleep) => now >= sleep.deadline().into_std(),
        };
        if fired {
            let mut sleep = Box::pin(tokio::time::sleep_until(deadline.into()));
            // Registers the waker; it cannot be over yet, or only by a hair.
            if sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            self.armed = Some(sleep);
        }
        Poll::Pending
    }
}

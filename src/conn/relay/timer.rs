//! A time-out that progress pushes back without arming anything anew.
//!
//! The timer stays armed for the moment it was first armed for; when it fires too early, since
//! something moved meanwhile, it is armed again. So a connection that is busy pays for its
//! time-out once in `timeout`, not once a message.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::runtime::timers::{Timer, Timers};

#[derive(Debug)]
pub(super) struct IdleTimer {
    /// Zero: never.
    timeout: Duration,
    progress: Instant,
    timer: Timer,
}

impl IdleTimer {
    pub(super) fn new(timers: &Rc<Timers>, timeout: Duration, now: Instant) -> Self {
        Self {
            timeout,
            progress: now,
            timer: Timer::new(timers),
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
    }

    /// Completes when nothing moved for the time-out.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        if self.timeout.is_zero() {
            return Poll::Pending;
        }
        self.timer.poll(cx, self.progress + self.timeout, now)
    }
}

//! Keep-alive of a backend's socket, switched on when the connection is old enough to need it.
//!
//! It takes four system calls, a seventh of what a short connection makes in all, and matters
//! to none that ends before the first probe could be sent.

use std::rc::Rc;
use std::task::Context;
use std::time::Instant;

use crate::net::{Kind, Liveness, Stream};
use crate::runtime::timers::{Timer, Timers};

/// Keep-alive that is still to be switched on.
pub(super) struct LateKeepalive<'a> {
    stream: &'a Stream,
    liveness: Liveness,
    at: Instant,
    timer: Timer,
}

impl<'a> LateKeepalive<'a> {
    /// To be switched on halfway to the first probe; `None`: never.
    pub(super) fn new(
        timers: &Rc<Timers>,
        stream: &'a Stream,
        liveness: Liveness,
        now: Instant,
    ) -> Option<Self> {
        let wanted = stream.kind() == Kind::Tcp && !liveness.keepalive.is_zero();
        wanted.then(|| Self {
            stream,
            liveness,
            at: now + liveness.keepalive / 2,
            timer: Timer::new(timers),
        })
    }

    /// Switches it on when it is time; whether that is done.
    pub(super) fn is_set(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.timer.poll(cx, self.at, now).is_pending() {
            return false;
        }
        // A connection that broke in this moment ends by that, not by this.
        let _ = self.liveness.apply_keepalive(self.stream.socket());
        true
    }
}

//! What a relay does when nothing moves for long enough: it ends, or has the kernel look whether
//! the backend is still there, or looks itself whether all is quiet.
//!
//! All share one deadline, and progress arms nothing anew: the deadline stays where it was
//! armed first; when it comes too early, since something moved meanwhile, it is armed again. So
//! a busy connection pays for its time-outs once in a time-out, not once a message.
//!
//! Keep-alive takes four system calls, a fifth of what a short connection makes in all, and
//! matters to none that ends before the first probe could be sent. The kernel counts silence
//! from the last segment, so it is switched on late, halfway to the first probe.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::runtime::timers::{Timer, Timers};

#[derive(Debug)]
pub(super) struct Clock {
    timer: Timer,
    /// When keep-alive is to be switched on; `None`: it is, or never.
    keepalive_at: Option<Instant>,
}

impl Clock {
    /// Keep-alive is to be switched on at `keepalive_at`; `None`: it is, or never.
    pub(super) fn new(timers: &Rc<Timers>, keepalive_at: Option<Instant>) -> Self {
        Self {
            timer: Timer::new(timers),
            keepalive_at,
        }
    }

    /// When keep-alive is still to be switched on.
    pub(super) fn keepalive_at(&self) -> Option<Instant> {
        self.keepalive_at
    }

    /// Whether keep-alive is to be switched on now; only once.
    pub(super) fn keepalive_is_due(&mut self, now: Instant) -> bool {
        self.keepalive_at.take_if(|at| *at <= now).is_some()
    }

    /// Completes when nothing has moved for `timeout` since `silent_since`; zero: never. At
    /// `look_at`, which is later than `now`, the task is woken.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        silent_since: Instant,
        timeout: Duration,
        look_at: Option<Instant>,
        now: Instant,
    ) -> Poll<()> {
        let ends_at = (!timeout.is_zero()).then(|| silent_since + timeout);
        if ends_at.is_some_and(|at| at <= now) {
            return Poll::Ready(());
        }
        let all = [ends_at, self.keepalive_at, look_at];
        if let Some(next) = all.into_iter().flatten().min() {
            // Not reached, or it would have been dealt with.
            let _ = self.timer.poll(cx, next, now);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::runtime::Runtime;

    const SECOND: Duration = Duration::from_secs(1);

    fn with_clock(keepalive_in: Option<Duration>, test: impl FnOnce(&mut Clock, Instant)) {
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let now = Instant::now();
            let keepalive_at = keepalive_in.map(|time| now + time);
            test(
                &mut Clock::new(&crate::runtime::timers(), keepalive_at),
                now,
            );
        });
    }

    #[test]
    fn silence_ends_it_and_progress_puts_that_off() {
        with_clock(None, |clock, start| {
            let mut cx = Context::from_waker(Waker::noop());
            let at = |seconds| start + SECOND * seconds;
            assert!(
                clock
                    .poll(&mut cx, start, SECOND * 5, None, at(4))
                    .is_pending()
            );
            assert!(
                clock
                    .poll(&mut cx, at(4), SECOND * 5, None, at(8))
                    .is_pending()
            );
            assert!(
                clock
                    .poll(&mut cx, at(4), SECOND * 5, None, at(9))
                    .is_ready()
            );
            assert!(
                clock
                    .poll(&mut cx, start, Duration::ZERO, None, at(9))
                    .is_pending()
            );
        });
    }

    #[test]
    fn keep_alive_is_due_once_at_its_time() {
        with_clock(Some(SECOND * 30), |clock, start| {
            let at = |seconds| start + SECOND * seconds;
            let due = [29, 30, 31, 90].map(|seconds| clock.keepalive_is_due(at(seconds)));
            assert_eq!(due, [false, true, false, false]);
        });
        with_clock(None, |clock, start| {
            assert!(!clock.keepalive_is_due(start + SECOND * 9999));
        });
    }
}

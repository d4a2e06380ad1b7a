//! Deadlines.
//!
//! Every connection arms a deadline when it connects and another when it relays, and nearly
//! always drops it unused. So arming one must cost no more than a place in a map, and a wait
//! for events must not program a timer of the kernel each time, as a time-out of epoll_wait(2)
//! does. A single timerfd(2) is set for the earliest deadline there was; it is set anew when an
//! earlier one is armed, or when it has fired. A deadline that was dropped costs at most one
//! wake-up that finds nothing to do.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// When, and a number that makes it unique.
type Key = (Instant, u64);

/// The deadlines of a runtime.
#[derive(Debug)]
pub struct Timers {
    armed: RefCell<BTreeMap<Key, Waker>>,
    count: Cell<u64>,
    event: OwnedFd,
    /// When the kernel's timer fires; `None`: it is not set.
    fires_at: Cell<Option<Instant>>,
}

/// A deadline of one task. Dropping it disarms it.
#[derive(Debug)]
pub struct Timer {
    timers: Rc<Timers>,
    armed: Option<Key>,
}

/// The deadline came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Timers {
    pub(super) fn new() -> io::Result<Rc<Self>> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Rc::new(Self {
            armed: RefCell::default(),
            count: Cell::default(),
            event: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            fires_at: Cell::default(),
        }))
    }

    /// Becomes readable, once more each time, when a deadline may have come.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Wakes whose deadline has come.
    pub(super) fn fire(&self) {
        let now = Instant::now();
        let mut armed = self.armed.borrow_mut();
        let later = armed.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut *armed, later);
        let next = armed.keys().next().map(|(at, _)| *at);
        drop(armed);
        self.fires_at.set(None);
        if let Some(at) = next {
            self.set(at, now);
        }
        due.into_values().for_each(Waker::wake);
    }

    fn arm(&self, at: Instant, now: Instant, waker: Waker) -> Key {
        let key = (at, self.count.get());
        self.count.set(key.1 + 1);
        self.armed.borrow_mut().insert(key, waker);
        if self.fires_at.get().is_none_or(|fires_at| at < fires_at) {
            self.set(at, now);
        }
        key
    }

    fn set(&self, at: Instant, now: Instant) {
        self.fires_at.set(Some(at));
        // A time of zero would mean: never.
        let left = at
            .saturating_duration_since(now)
            .max(Duration::from_nanos(1));
        let time = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.event, TimerfdTimerFlags::empty(), &time)
            .expect("a timer of ours takes any time that is not negative");
    }

    fn disarm(&self, key: &Key) {
        self.armed.borrow_mut().remove(key);
    }

    /// Completes at `deadline`.
    pub async fn sleep_until(self: &Rc<Self>, deadline: Instant) {
        let mut timer = Timer::new(self);
        poll_fn(|cx| timer.poll(cx, deadline, Instant::now())).await;
    }

    /// Completes after `time`.
    pub async fn sleep(self: &Rc<Self>, time: Duration) {
        self.sleep_until(Instant::now() + time).await;
    }

    /// What `work` gives, if it does until `deadline`; it is always asked once.
    ///
    /// # Errors
    /// [`Elapsed`]; the caller then drops `work` where it stands.
    pub async fn timeout_at<F: Future>(
        self: &Rc<Self>,
        deadline: Instant,
        work: Pin<&mut F>,
    ) -> Result<F::Output, Elapsed> {
        let mut work = pin!(work);
        let mut timer = Timer::new(self);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => timer
                .poll(cx, deadline, Instant::now())
                .map(|()| Err(Elapsed)),
        })
        .await
    }
}

impl Timer {
    /// A deadline that is not armed.
    pub fn new(timers: &Rc<Timers>) -> Self {
        Self {
            timers: Rc::clone(timers),
            armed: None,
        }
    }

    /// Completes at `deadline`, as seen at `now`. A deadline that was armed before and has
    /// not come yet is kept where it comes first: the task is woken then, and asks again.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant, now: Instant) -> Poll<()> {
        if now >= deadline {
            return Poll::Ready(());
        }
        if self.armed.is_none_or(|(at, _)| at <= now || at > deadline) {
            self.disarm();
            self.armed = Some(self.timers.arm(deadline, now, cx.waker().clone()));
        }
        Poll::Pending
    }

    fn disarm(&mut self) {
        if let Some(key) = self.armed.take() {
            self.timers.disarm(&key);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Runtime, spawn, timers};
    use super::*;

    #[test]
    fn deadlines_fire_in_their_order_and_not_early() {
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let start = Instant::now();
            let order = Rc::new(RefCell::new(Vec::new()));
            for ms in [30_u64, 10, 20] {
                let order = Rc::clone(&order);
                spawn(async move {
                    let deadline = start + Duration::from_millis(ms);
                    timers().sleep_until(deadline).await;
                    assert!(Instant::now() >= deadline);
                    order.borrow_mut().push(ms);
                });
            }
            while order.borrow().len() < 3 {
                timers().sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(*order.borrow(), [10, 20, 30]);
            assert!(timers().armed.borrow().is_empty());
        });
    }

    #[test]
    fn work_that_takes_too_long_is_left_and_other_work_is_not() {
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let soon = || Instant::now() + Duration::from_millis(5);
            let never = timers()
                .timeout_at(soon(), pin!(std::future::pending::<()>()))
                .await;
            assert_eq!(never, Err(Elapsed));
            let done = timers().timeout_at(Instant::now(), pin!(async { 7 })).await;
            assert_eq!(done, Ok(7));
        });
    }

    #[test]
    fn a_deadline_that_is_dropped_leaves_nothing() {
        let timers = Timers::new().expect("a timer");
        let mut cx = Context::from_waker(Waker::noop());
        let now = Instant::now();
        let mut timer = Timer::new(&timers);
        assert!(
            timer
                .poll(&mut cx, now + Duration::from_secs(9), now)
                .is_pending()
        );
        assert_eq!(timers.armed.borrow().len(), 1);
        drop(timer);
        assert!(timers.armed.borrow().is_empty());
    }

    #[test]
    fn a_later_deadline_keeps_what_is_armed_and_an_earlier_one_does_not() {
        let timers = Timers::new().expect("a timer");
        let mut cx = Context::from_waker(Waker::noop());
        let now = Instant::now();
        let mut timer = Timer::new(&timers);
        for (seconds, armed) in [(5, 5), (9, 5), (3, 3)] {
            let deadline = now + Duration::from_secs(seconds);
            assert!(timer.poll(&mut cx, deadline, now).is_pending());
            let expected = now + Duration::from_secs(armed);
            assert!(timers.armed.borrow().keys().all(|(at, _)| *at == expected));
            assert_eq!(timers.fires_at.get(), Some(expected));
        }
        assert!(timer.poll(&mut cx, now, now).is_ready());
    }
}

//! The deadlines of one core's connections.
//!
//! Every connection arms a deadline when it connects and another when it relays, and nearly
//! always drops it unused. tokio's timers wake their driver by a system call whenever one is
//! armed that comes before all others, and a connect time-out always does. Here a single
//! driver task sleeps until the earliest deadline it knows; arming a later one, or dropping
//! any, touches a map. A deadline that was dropped costs one early wake-up at most.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::Notify;

/// When, and a number that makes it unique.
type Key = (Instant, u64);

/// The deadlines of a core. Nothing fires unless [`run`](Self::run) does.
#[derive(Debug, Default)]
pub struct Timers {
    armed: RefCell<BTreeMap<Key, Waker>>,
    count: Cell<u64>,
    /// When the driver looks next; `None`: when it is told to.
    looks_at: Cell<Option<Instant>>,
    earlier: Notify,
}

/// A deadline of one task. Dropping it disarms it.
#[derive(Debug)]
pub(super) struct Timer {
    timers: Rc<Timers>,
    armed: Option<Key>,
}

impl Timers {
    /// Wakes whose deadline has come, for as long as the core lives.
    pub async fn run(self: Rc<Self>) {
        loop {
            let next = self.armed.borrow().keys().next().map(|(at, _)| *at);
            self.looks_at.set(next);
            match next {
                None => self.earlier.notified().await,
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => self.fire(Instant::now()),
                    () = self.earlier.notified() => {}
                },
            }
        }
    }

    fn fire(&self, now: Instant) {
        let mut armed = self.armed.borrow_mut();
        let later = armed.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut *armed, later);
        drop(armed);
        due.into_values().for_each(Waker::wake);
    }

    fn arm(&self, at: Instant, waker: Waker) -> Key {
        let key = (at, self.count.get());
        self.count.set(key.1 + 1);
        self.armed.borrow_mut().insert(key, waker);
        if self.looks_at.get().is_none_or(|looks_at| at < looks_at) {
            self.earlier.notify_one();
        }
        key
    }

    fn disarm(&self, key: &Key) {
        self.armed.borrow_mut().remove(key);
    }
}

impl Timer {
    /// A deadline that is not armed.
    pub(super) fn new(timers: &Rc<Timers>) -> Self {
        Self {
            timers: Rc::clone(timers),
            armed: None,
        }
    }

    /// Completes at `deadline`, as seen at `now`. A deadline that was armed before and has
    /// not come yet is kept where it comes first: the task is woken then, and asks again.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Instant,
        now: Instant,
    ) -> Poll<()> {
        if now >= deadline {
            return Poll::Ready(());
        }
        if self.armed.is_none_or(|(at, _)| at <= now || at > deadline) {
            self.disarm();
            self.armed = Some(self.timers.arm(deadline, cx.waker().clone()));
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
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::task::LocalSet;

    use super::*;

    async fn wait(timers: &Rc<Timers>, deadline: Instant) {
        let mut timer = Timer::new(timers);
        poll_fn(|cx| timer.poll(cx, deadline, Instant::now())).await;
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(LocalSet::new().run_until(test));
    }

    #[test]
    fn deadlines_fire_in_their_order_and_not_early() {
        run(async {
            let timers = Rc::<Timers>::default();
            tokio::task::spawn_local(Rc::clone(&timers).run());
            let start = Instant::now();
            let order = Rc::new(RefCell::new(Vec::new()));
            let waits = [30_u64, 10, 20].map(|ms| {
                let (timers, order) = (Rc::clone(&timers), Rc::clone(&order));
                tokio::task::spawn_local(async move {
                    let deadline = start + Duration::from_millis(ms);
                    wait(&timers, deadline).await;
                    assert!(Instant::now() >= deadline);
                    order.borrow_mut().push(ms);
                })
            });
            for wait in waits {
                wait.await.expect("a waiting task");
            }
            assert_eq!(*order.borrow(), [10, 20, 30]);
            assert!(timers.armed.borrow().is_empty());
        });
    }

    #[test]
    fn a_deadline_that_is_dropped_leaves_nothing() {
        let timers = Rc::<Timers>::default();
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
        let timers = Rc::<Timers>::default();
        let mut cx = Context::from_waker(Waker::noop());
        let now = Instant::now();
        let mut timer = Timer::new(&timers);
        for (seconds, armed) in [(5, 5), (9, 5), (3, 3)] {
            let deadline = now + Duration::from_secs(seconds);
            assert!(timer.poll(&mut cx, deadline, now).is_pending());
            let expected = now + Duration::from_secs(armed);
            assert!(timers.armed.borrow().keys().all(|(at, _)| *at == expected));
        }
        assert!(timer.poll(&mut cx, now, now).is_ready());
    }
}

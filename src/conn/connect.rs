//! Finds a backend for a connection and connects it: the one loop over attempts, pools and
//! the hold queue.
//!
//! Attempts go to different backends as long as one is left. When they are used up, or nobody
//! can take the connection now, the pool's fallback may; else the connection is held in the
//! pool it was routed to, and its release grants the attempts anew.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::core::Phase;
use super::fault;
use super::record::Record;
use super::replay::Trail;
use super::visitor::Visitor;
use super::way::Routed;
use crate::config::{self, Replay, SendProxy};
use crate::metrics::Ended;
use crate::net::{DialError, Sources, Stream, dial};
use crate::pool::pause::Wait;
use crate::pool::{Attempt, Held, Keys, Lease, NotHeld, Pool, Ticket};
use crate::runtime::timers::{Timer, Timers};

/// A connection with its backend.
pub(super) struct Connected {
    pub(super) stream: Stream,
    pub(super) lease: Lease,
    pub(super) pool: Arc<Pool>,
    /// What was read of the client already, for the backend to get first.
    pub(super) early: Vec<u8>,
    /// Where it came from, for a replay.
    pub(super) trail: Option<Box<Trail>>,
}

/// A connection on the way to its backend.
pub(super) struct Connector<'a> {
    client: &'a Stream,
    visitor: Visitor,
    record: &'a mut Record,
    timers: &'a Rc<Timers>,
    whom: Keys,
    /// Its place in the hold queue, kept over releases.
    ticket: Option<Ticket>,
    /// Its waits so far, as `hold.timeout` counts them.
    waited: Duration,
    /// What the last attempt failed with.
    failure: Option<Ended>,
}

impl<'a> Connector<'a> {
    pub(super) fn new(
        client: &'a Stream,
        visitor: Visitor,
        record: &'a mut Record,
        timers: &'a Rc<Timers>,
    ) -> Self {
        Self {
            client,
            whom: Keys::of(&visitor),
            visitor,
            record,
            timers,
            ticket: None,
            waited: Duration::ZERO,
            failure: None,
        }
    }

    /// A backend of `home`, of its fallback, or of `home` after a while in hold.
    ///
    /// # Errors
    /// Why the connection ends without a backend.
    pub(super) async fn connect(mut self, mut home: Arc<Pool>) -> Result<Connected, Ended> {
        self.record.enter_pool(&home);
        let mut attempt = Attempt::new(self.whom);
        loop {
            if let Some(connected) = self.try_pool(&home, &mut attempt, None).await? {
                return Ok(connected);
            }
            if let Some(connected) = self.try_fallbacks(home.overflow()).await? {
                return Ok(connected);
            }
            if let Some(elsewhere) = self.successor(&home) {
                self.change_route(&elsewhere);
                home = elsewhere.pool;
                attempt = Attempt::new(self.whom);
                self.ticket = None;
                self.record.enter_pool(&home);
                continue;
            }
            self.record.enter_pool(&home);
            let lease = self.hold(&home, &attempt).await?;
            attempt = attempt.renewed();
            let pool = Arc::clone(lease.pool());
            if let Some(connected) = self.try_pool(&pool, &mut attempt, Some(lease)).await? {
                return Ok(connected);
            }
            if !Arc::ptr_eq(&pool, &home) {
                attempt = attempt.renewed();
            }
        }
    }

    /// Another backend for a connection that `attempt` had one of `pool` for: one that it has
    /// not tried, of that pool, of its fallback, or of the pool that has taken its place. `None`:
    /// there is none now.
    ///
    /// # Errors
    /// The client has left.
    pub(super) async fn connect_elsewhere(
        mut self,
        pool: &Arc<Pool>,
        mut attempt: Attempt,
    ) -> Result<Option<Connected>, Ended> {
        if let Some(connected) = self.try_pool(pool, &mut attempt, None).await? {
            return Ok(Some(connected));
        }
        if let Some(connected) = self.try_fallbacks(pool.overflow()).await? {
            return Ok(Some(connected));
        }
        let Some(successor) = self.successor(pool) else {
            return Ok(None);
        };
        self.change_route(&successor);
        let mut attempt = Attempt::new(self.whom);
        if let Some(connected) = self.try_pool(&successor.pool, &mut attempt, None).await? {
            return Ok(Some(connected));
        }
        self.try_fallbacks(successor.pool.overflow()).await
    }

    /// It goes on as if it had been routed there.
    fn change_route(&mut self, to: &Routed) {
        self.record.route.clone_from(&to.route);
        self.visitor.locate(self.client, &to.pool);
        self.whom = Keys::of(&self.visitor);
    }

    /// The pool that the listener sends to now, where a reload has taken `home` away since the
    /// connection was routed there: rather than wait for nobody it begins anew.
    fn successor(&self, home: &Arc<Pool>) -> Option<Routed> {
        let now = || self.record.origin().route(&self.visitor);
        let successor = home.is_retired().then(now).flatten()?;
        (!Arc::ptr_eq(&successor.pool, home)).then_some(successor)
    }

    /// Makes the attempts that are left, as long as backends of `pool` can take it; the first
    /// with `lease`, if there is one already. `None`: nobody could.
    async fn try_pool(
        &mut self,
        pool: &Arc<Pool>,
        attempt: &mut Attempt,
        mut lease: Option<Lease>,
    ) -> Result<Option<Connected>, Ended> {
        let settings = pool.settings();
        while attempt.made() < settings.connect_attempts {
            let Some(lease) = lease.take().or_else(|| pool.acquire(attempt)) else {
                break;
            };
            self.record.enter_pool(pool);
            match self.dial(lease, pool, &settings).await? {
                Ok((stream, lease)) => {
                    let pool = Arc::clone(pool);
                    let early = std::mem::take(&mut self.visitor.early);
                    let trail = match settings.replay {
                        Replay::Off => None,
                        _ => Trail::of(&self.visitor, attempt, &self.record.client()),
                    };
                    return Ok(Some(Connected {
                        stream,
                        lease,
                        pool,
                        early,
                        trail,
                    }));
                }
                Err((error, lease)) => {
                    attempt.failed_at(Arc::clone(lease.backend()));
                    let local = error.is_local();
                    self.note(&error, &lease, pool);
                    lease.failed(&error);
                    if local {
                        // Another backend would meet the same fault.
                        break;
                    }
                }
            }
        }
        Ok(None)
    }

    async fn try_fallbacks(
        &mut self,
        mut next: Option<Arc<Pool>>,
    ) -> Result<Option<Connected>, Ended> {
        while let Some(pool) = next {
            let mut attempt = Attempt::new(self.whom);
            if let Some(connected) = self.try_pool(&pool, &mut attempt, None).await? {
                return Ok(Some(connected));
            }
            next = pool.fallback();
        }
        Ok(None)
    }

    /// One attempt. The outer error is the client's leaving.
    async fn dial(
        &mut self,
        mut lease: Lease,
        pool: &Pool,
        settings: &config::Pool,
    ) -> Result<Result<(Stream, Lease), (DialError, Lease)>, Ended> {
        self.record.attempts += 1;
        self.record.pick = Some(lease.pick());
        self.record.set_backend(lease.backend());
        self.record.entry_ref().set_phase(Phase::Connecting);
        fault::point("connect", self.record.listener());
        let started = Instant::now();
        let liveness = super::liveness(settings);
        let address = lease.backend().address().clone();
        let sources = Sources::new(&settings.source_addresses, &pool.source_turns);
        let dial = pin!(dial_within(
            self.timers,
            settings.connect_timeout,
            dial(&address, liveness, sources)
        ));
        let dialled = self.unless(dial, |cx| self.client.poll_broken(cx)).await?;
        let now = Instant::now();
        match dialled.and_then(|stream| self.announce(stream, settings)) {
            Ok(stream) => {
                let took = now - started;
                self.record.connect = Some(took);
                lease.connected(took, now);
                Ok(Ok((stream, lease)))
            }
            Err(error) => Ok(Err((error, lease))),
        }
    }

    /// Tells a backend that wants to know whose connection this is. Where it cannot be told, it
    /// is as if it had not been connected.
    fn announce(&mut self, stream: Stream, settings: &config::Pool) -> Result<Stream, DialError> {
        if settings.send_proxy != SendProxy::Off {
            self.visitor
                .announce(self.client, &stream, settings.send_proxy)?;
        }
        Ok(stream)
    }

    fn note(&mut self, error: &DialError, lease: &Lease, pool: &Pool) {
        self.failure = Some(match error {
            DialError::Timeout(_) => Ended::ConnectTimeout,
            DialError::Local(_) => Ended::LocalError,
            DialError::Refused(_) => Ended::ConnectFailed,
        });
        if error.is_local() {
            return self.warn(error, lease, pool);
        }
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Some(suppressed) = pool.connect_failures.check(Instant::now()) else {
            return;
        };
        tracing::debug!(
            id = self.record.entry_ref().id(),
            pool = &*pool.name,
            backend = &*lease.backend().name,
            address = %lease.backend().location,
            %error,
            suppressed,
            "connect failed"
        );
    }

    /// A fault of this machine is the operator's business, whatever is logged of backends.
    fn warn(&self, error: &DialError, lease: &Lease, pool: &Pool) {
        if let Some(suppressed) = pool.local_faults.check(Instant::now()) {
            tracing::warn!(
                pool = &*pool.name,
                backend = &*lease.backend().name,
                address = %lease.backend().address(),
                %error,
                suppressed,
                "cannot connect: a fault of this machine"
            );
        }
    }

    /// Waits until the pool can take the connection.
    async fn hold(&mut self, pool: &Arc<Pool>, attempt: &Attempt) -> Result<Lease, Ended> {
        let held = pool
            .hold(attempt, self.ticket)
            .map_err(|refused| match refused {
                NotHeld::Full => Ended::HoldFull,
                NotHeld::Off => self.failure.unwrap_or(Ended::NoBackend),
            })?;
        self.ticket = Some(held.ticket());
        self.record.entry_ref().set_phase(Phase::Held);
        self.record.begin_hold();
        let wait = Wait {
            before: self.waited,
            since: Instant::now(),
        };
        let waited = self.wait(held, pool, wait).await;
        self.waited = pool.pause_state().counted(wait, Instant::now());
        self.record.end_hold();
        waited
    }

    /// Waits for the grant, for `hold.timeout` of the pool. A pause puts that off, also one
    /// that begins during the wait: what is left is looked at anew when it seems to be over.
    async fn wait(&self, held: Held, pool: &Pool, wait: Wait) -> Result<Lease, Ended> {
        let most = pool.settings().hold.timeout;
        let held = pin!(held);
        // A FIN after bytes keeps its place.
        let sent = !self.visitor.early.is_empty();
        let mut granted = pin!(self.unless(held, |cx| match sent {
            true => self.client.poll_broken(cx),
            false => self.client.poll_left(cx),
        }));
        if most.is_zero() {
            return granted.await;
        }
        loop {
            let deadline = pool.pause_state().deadline(wait, most, Instant::now());
            let in_time = self.timers.timeout_at(deadline, granted.as_mut()).await;
            if let Ok(granted) = in_time {
                return granted;
            }
            let now = Instant::now();
            if pool.pause_state().deadline(wait, most, now) <= now {
                return Err(Ended::HoldTimeout);
            }
        }
    }

    /// Runs `work` unless the client leaves first.
    async fn unless<T>(
        &self,
        mut work: Pin<&mut impl Future<Output = T>>,
        mut left: impl FnMut(&mut std::task::Context<'_>) -> Poll<()>,
    ) -> Result<T, Ended> {
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => left(cx).map(|()| Err(Ended::ClientLeft)),
        })
        .await
    }
}

/// Dials until `timeout`; zero: as long as the kernel tries.
async fn dial_within(
    timers: &Rc<Timers>,
    timeout: Duration,
    dial: impl Future<Output = Result<Stream, DialError>>,
) -> Result<Stream, DialError> {
    let mut dial = pin!(dial);
    let mut timer = Timer::new(timers);
    let deadline = Instant::now() + timeout;
    poll_fn(|cx| match dial.as_mut().poll(cx) {
        Poll::Pending if !timeout.is_zero() => timer
            .poll(cx, deadline, Instant::now())
            .map(|()| Err(DialError::Timeout(timeout))),
        dialled => dialled,
    })
    .await
}

//! A connection moves on when its backend ends it before the first byte: to another backend,
//! which gets what the client has sent so far, and unseen by the client.
//!
//! When that may be is for the relay's [window](super::relay) to say. Here another backend is
//! looked for, as after a failed connect, with two differences: it is one that the connection
//! has not tried, and the connection is not held. Meanwhile the socket of the first backend
//! stays open, and its slot taken, where that sent FIN: when nobody takes the connection the FIN
//! is passed on as it came, and the client may still send to that backend. One that has reset is
//! gone, and its slot with it.

use std::rc::Rc;
use std::sync::Arc;

use super::connect::{Connected, Connector};
use super::core::{Core, Phase};
use super::record::{Outcome, Record};
use super::relay::Parted;
use super::visitor::Visitor;
use crate::metrics::{Ended, Replayed};
use crate::net::{Address, Stream};
use crate::pool::{Attempt, Keys, Lease, Pool};

/// What is known of the way to the present backend that the connection itself does not tell: it
/// goes on from there to the next.
#[derive(Debug)]
pub(super) struct Trail {
    visitor: Visitor,
    attempt: Attempt,
}

impl Trail {
    /// Of a connection that got its backend in `attempt`; `None`: at once, and there is nothing
    /// to know of `visitor` but that it is the client at `address`. So hardly any connection has
    /// the memory of it.
    pub(super) fn of(visitor: &Visitor, attempt: &Attempt, address: &Address) -> Option<Box<Self>> {
        let plain = visitor.is_plain() && visitor.client == *address;
        (!plain || !attempt.is_new()).then(|| {
            Box::new(Self {
                visitor: visitor.clone(),
                attempt: attempt.clone(),
            })
        })
    }

    fn follow(trail: Option<Box<Self>>, address: &Address) -> (Visitor, Attempt) {
        match trail {
            Some(trail) => (trail.visitor, trail.attempt),
            None => {
                let visitor = Visitor::at(address.clone());
                let attempt = Attempt::new(Keys::of(&visitor));
                (visitor, attempt)
            }
        }
    }
}

/// A connection whose backend has ended it, and that may move on.
pub(super) struct Early {
    /// What is left of its relay.
    pub(super) parted: Box<Parted>,
    pub(super) lease: Lease,
    pub(super) pool: Arc<Pool>,
    /// As what it ends when it cannot move; `None`: by a FIN that is passed on.
    pub(super) broke: Option<Ended>,
}

/// How a connection goes on.
pub(super) enum Next {
    /// With a backend that was just connected for it.
    Connected(Stream, Connected),
    /// With the backend that has sent FIN.
    Stays(Box<Parted>, Lease, Arc<Pool>),
}

/// Finds another backend for a connection, or has it go on as if nothing could be done.
///
/// # Errors
/// It ends, so.
pub(super) async fn move_on(
    core: &Rc<Core>,
    early: Early,
    record: &mut Record,
) -> Result<Next, Outcome> {
    let Early {
        mut parted,
        lease,
        pool,
        broke,
    } = early;
    // Who is on the way to a backend does not move to another process.
    let entry = record.entry();
    if entry.is_to_move() {
        entry.stay();
    }
    let before = record.leave_backend();
    let (kept, trail) = parted.take_kept();
    let (mut visitor, mut attempt) = Trail::follow(trail, &record.client());
    visitor.early = kept;
    attempt.failed_at(Arc::clone(lease.backend()));
    note(&lease, &pool, broke, entry.id());
    let lease = broke.is_none().then_some(lease);

    let connector = Connector::new(parted.client(), visitor, record, core.timers());
    let found = connector
        .connect_elsewhere(&pool, attempt.elsewhere())
        .await;
    // Nobody else has tried meanwhile than this connection, which has a backend no more.
    let found = found.map_err(|_| Outcome::Ended(Ended::ClientReset))?;
    let outcome = match found {
        Some(_) => Replayed::Moved,
        None => Replayed::Exhausted,
    };
    pool.counters.here().replays[outcome as usize].add(1);
    if let Some(connected) = found {
        record.repeats();
        return Ok(Next::Connected(parted.into_client(), connected));
    }
    record.return_to(&pool, before);
    entry.set_phase(Phase::Relaying);
    match (broke, lease) {
        (None, Some(lease)) => Ok(Next::Stays(parted, lease, pool)),
        (broke, _) => Err(Outcome::Ended(broke.unwrap_or(Ended::BackendReset))),
    }
}

fn note(lease: &Lease, pool: &Pool, broke: Option<Ended>, id: u64) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let now = std::time::Instant::now();
    let Some(suppressed) = pool.connect_failures.check(now) else {
        return;
    };
    tracing::debug!(
        id,
        pool = &*pool.name,
        backend = &*lease.backend().name,
        address = %lease.backend().address(),
        by = if broke.is_some() { "reset" } else { "close" },
        suppressed,
        "ended before the first byte"
    );
}

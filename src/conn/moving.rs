//! A connection moves to another process: it is frozen between two polls, offered, and goes on
//! there, or, where nobody takes it, here.
//!
//! 1. A core is told to [ask](Core::ask_to_move) some of its established connections. Each
//!    freezes at its next poll and sends a [`Parcel`] through the [`Ticket`] that it was asked
//!    with. When the last share of a ticket is gone, everybody who was asked has answered.
//! 2. Its task keeps what counts for it (slots, lease, record) and waits for the
//!    [`Verdict`]. Meanwhile nobody reads or writes its sockets, nor closes them, as the
//!    parcel and the task share them.
//! 3. *Moved*: the task lets go of everything and accounts for nothing, as the connection has
//!    not ended. *Stay*, or no verdict at all: it goes on where it stood still.
//!
//! On the other side [`go_on`] makes a task of what came.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::core::{Core, Phase};
use super::quality::Counted;
use super::record::{Outcome, Record};
use super::relay::{Exchange, Still};
use super::{Meter, Origin, Permit, Slots, relay_until_end};
use crate::admit;
use crate::log::Pick;
use crate::metrics::{Ended, ListenerCounters, PerCore, Seat};
use crate::net::Address;
use crate::pool::{Lease, Pool};

/// What is known of a connection, beside its relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passport {
    /// Its id; kept over all moves.
    pub id: u64,
    /// The name of the listener it came through.
    pub listener: Arc<str>,
    /// The route that took it.
    #[serde(default)]
    pub route: Option<Arc<str>>,
    /// Where the client is.
    pub client: Address,
    /// The name of its pool.
    pub pool: Arc<str>,
    /// The name of its backend.
    pub backend: Arc<str>,
    /// Where the backend is.
    pub backend_address: Address,
    /// When it was accepted.
    pub accepted_at: SystemTime,
    /// How long ago that was.
    pub age: Duration,
    /// How long ago the last byte moved.
    pub idle: Duration,
    /// Bytes that the backend accepted.
    pub bytes_in: u64,
    /// Bytes that the client accepted.
    pub bytes_out: u64,
    /// The last byte came from the backend.
    #[serde(default)]
    pub answered: bool,
    /// Backends that were dialled.
    pub attempts: u32,
    /// Why this backend.
    pub pick: Option<Pick>,
    /// How long it was held, if it was.
    pub held: Option<Duration>,
    /// How long the connect took.
    pub connect: Option<Duration>,
    /// How long the backend's first byte took, if it came.
    pub first_byte: Option<Duration>,
    /// What was counted of what its backend's socket has sent, if it was sampled.
    #[serde(default)]
    pub sampled: Option<Counted>,
}

/// Where connections give themselves away that are asked to move.
pub type Ticket = std::sync::mpsc::Sender<Parcel>;

/// A connection that stands still, on its way to another process.
#[derive(Debug)]
pub struct Parcel {
    /// What is known of it.
    pub passport: Passport,
    /// Those of the listener it came through, whatever that is called now.
    pub counters: Arc<PerCore<ListenerCounters>>,
    /// Its relay. To be dropped before the verdict is given.
    pub still: Arc<Still>,
    /// Whether it was taken.
    pub verdict: oneshot::Sender<Verdict>,
}

/// What becomes of a connection that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on in the other process.
    Moved,
    /// It goes on here, and may be asked again.
    Stay,
    /// It goes on here for good.
    Unwanted,
}

/// A connection that came from another process.
#[derive(Debug)]
pub struct Immigrant {
    /// What is known of it.
    pub passport: Passport,
    /// Its relay.
    pub still: Still,
    /// The listener it came through.
    pub origin: Arc<Origin>,
    /// Its pool.
    pub pool: Arc<Pool>,
    /// Its slot of its backend.
    pub lease: Lease,
    /// Its slots of the process and the listener, where there are any.
    pub permit: Permit,
    /// By which it counts towards the limit of its client's address.
    pub counted: Option<admit::Place>,
    /// Its part in the load of the core that will serve it.
    pub seat: Seat,
}

/// Offers a connection, and waits for what becomes of it: it goes on here.
///
/// # Errors
/// It does not, and that is its outcome.
pub(super) async fn offer<'a>(
    exchange: Exchange<'a, Meter<'a>>,
    core: &'a Core,
    record: &'a Record,
) -> Result<Exchange<'a, Meter<'a>>, Outcome> {
    let entry = record.entry_ref();
    let ticket = entry.give_away();
    let Ok((still, meter, settings)) = exchange.freeze() else {
        return Err(Outcome::Ended(Ended::LocalError));
    };
    let still = Arc::new(still);
    let (verdict, answer) = oneshot::channel();
    if let Some(ticket) = ticket {
        let parcel = Parcel {
            passport: record.passport(&meter.lease),
            counters: Arc::clone(&record.origin().counters),
            still: Arc::clone(&still),
            verdict,
        };
        // Where nobody takes it, it is dropped, and with it the verdict.
        let _ = ticket.send(parcel);
    }
    match answer.await {
        Ok(Verdict::Moved) => return Err(Outcome::Moved),
        Ok(Verdict::Unwanted) => entry.is_unwanted(),
        Ok(Verdict::Stay) | Err(_) => entry.stay(),
    }
    let still = Arc::try_unwrap(still)
        .map_err(|_| io::Error::other("somebody holds its sockets after the verdict"));
    let again = still.and_then(|still| Exchange::thaw(still, settings, core, entry, meter));
    match (again, entry.ending()) {
        // Whoever was told to end meanwhile does so now.
        (Ok(_), Some(ended)) => Err(Outcome::Ended(ended)),
        (Ok(exchange), None) => Ok(exchange),
        (Err(error), _) => {
            tracing::warn!(id = entry.id(), %error, "a connection cannot go on");
            Err(Outcome::Ended(Ended::LocalError))
        }
    }
}

/// Serves a connection that came from another process, to its end.
pub async fn go_on(core: Rc<Core>, immigrant: Immigrant) {
    let Immigrant {
        passport,
        still,
        origin,
        pool,
        lease,
        permit,
        counted,
        seat,
    } = immigrant;
    let half_closed = still.pose.is_half_closed();
    let record = Record::again(&core, &passport, origin, &pool, lease.backend());
    let entry = record.entry();
    entry.count_as(counted);
    let settings = pool.settings();
    let meter = Meter {
        core: &core,
        lease,
        pool,
        record: &record,
    };
    entry.set_phase(match half_closed {
        true => Phase::HalfClosed,
        false => Phase::Relaying,
    });
    let outcome = match Exchange::thaw(still, settings, &core, &entry, meter) {
        Err(_) => Outcome::Ended(Ended::LocalError),
        Ok(exchange) => {
            let relaying = std::pin::pin!(relay_until_end(exchange, &core, &record));
            match entry.unless_ended(relaying).await {
                Ok(Ok(outcome)) => outcome,
                // It has no window to move on by: see `Exchange::freeze`.
                Ok(Err(_)) => Outcome::Ended(Ended::Internal),
                Err(ended) => Outcome::Ended(ended),
            }
        }
    };
    record.close(outcome);
    // Last of all: whoever gets this slot must find the connection gone.
    drop((Slots::Taken(permit), seat));
}

impl Record {
    /// What another process must know of it.
    fn passport(&self, lease: &Lease) -> Passport {
        let now = Instant::now();
        let entry = self.entry_ref();
        let (bytes_in, bytes_out) = entry.bytes();
        let backend = lease.backend();
        Passport {
            id: entry.id(),
            listener: Arc::clone(entry.listener()),
            route: self.route.clone(),
            client: entry.client().clone(),
            pool: Arc::clone(&lease.pool().name),
            backend: Arc::clone(&backend.name),
            backend_address: backend.address().clone(),
            accepted_at: self.accepted_at(),
            age: now.saturating_duration_since(entry.accepted()),
            idle: now.saturating_duration_since(entry.last_moved()),
            bytes_in,
            bytes_out,
            answered: entry.is_answered(),
            attempts: self.attempts,
            pick: self.pick,
            held: self.held,
            connect: self.connect,
            first_byte: self.first_byte.get(),
            sampled: entry.sampling().counted(),
        }
    }
}

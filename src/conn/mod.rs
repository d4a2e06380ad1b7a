//! The life of a connection after it was admitted, on one page: route, pick, connect, relay,
//! account. See [`serve`].

pub mod core;
pub mod relay;

mod connect;
mod fault;
mod record;
mod timers;

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::OwnedSemaphorePermit;

pub use self::core::{Command, ConnectionView, Core, CoreHandle, Entry, Order, Phase, Toll, Which};
pub use record::Outcome;

use crate::config;
use crate::log::Rejections;
use crate::metrics::{Ended, ListenerCounters, PerCore, Rejected, Seat};
use crate::net::{Incoming, Liveness, Stream};
use crate::pool::{Lease, Pool};
use connect::{Connected, Connector};
use record::Record;
use relay::{Observer, relay};

/// What a connection knows of the listener that accepted it.
#[derive(Debug)]
pub struct Origin {
    /// The listener's name.
    pub name: Arc<str>,
    /// What is counted for it.
    pub counters: PerCore<ListenerCounters>,
    /// Paces the lines about connections that are refused.
    pub rejections: Rejections,
    /// Where connections go that no route takes.
    pub pool: ArcSwapOption<Pool>,
}

/// The slots that a connection takes up, given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    _process: Option<OwnedSemaphorePermit>,
    _listener: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// A slot of the process and one of the listener, of each that has a limit.
    pub fn new(
        process: Option<OwnedSemaphorePermit>,
        listener: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            _process: process,
            _listener: listener,
        }
    }
}

/// The slots of a connection, or the wait for them.
pub enum Slots {
    /// It has them, as everybody has who was accepted while the listener was open.
    Taken(Permit),
    /// It is to wait for them: it was in the accept queue when the listener closed, and the
    /// limit was reached.
    Wanted(Pin<Box<dyn Future<Output = Permit> + Send>>),
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Taken(_) => "Taken",
            Self::Wanted(_) => "Wanted",
        })
    }
}

/// An accepted connection on its way to the core that will serve it.
#[derive(Debug)]
pub struct Arrival {
    /// The socket and its peer.
    pub incoming: Incoming,
    /// The listener it came through.
    pub origin: Arc<Origin>,
    /// Its slots.
    pub slots: Slots,
    /// Its part in the load of the core that will serve it.
    pub seat: Seat,
    /// When it was accepted.
    pub accepted: Instant,
    /// The same by the wall clock.
    pub accepted_at: SystemTime,
}

/// Serves one connection from its arrival to its end, and accounts for it.
///
/// Whatever happens to this future, dropping included, both sockets are reset, every slot is
/// given back and the connection is accounted for.
pub async fn serve(core: Rc<Core>, arrival: Arrival) {
    let mut record = Record::begin(&core, &arrival);
    let entry = record.entry();
    let Arrival {
        incoming,
        origin,
        slots,
        seat,
        ..
    } = arrival;
    let mut permit = None;
    let outcome = match Stream::new(incoming.socket, incoming.kind) {
        Err(_) => Outcome::Ended(Ended::LocalError),
        Ok(client) => {
            let stages = pin!(stages(
                &core,
                &entry,
                client,
                slots,
                &mut permit,
                &origin,
                &mut record
            ));
            let outcome = entry.unless_ended(stages).await;
            outcome.unwrap_or_else(Outcome::Ended)
        }
    };
    record.close(outcome);
    // Last of all: whoever gets this slot must find the connection gone.
    drop((permit, seat));
}

async fn stages(
    core: &Core,
    entry: &Entry,
    client: Stream,
    slots: Slots,
    permit: &mut Option<Permit>,
    origin: &Origin,
    record: &mut Record,
) -> Outcome {
    *permit = Some(match slots {
        Slots::Taken(permit) => permit,
        Slots::Wanted(permit) => permit.await,
    });
    let Some(pool) = origin.pool.load_full() else {
        return Outcome::Rejected(Rejected::NoRoute);
    };
    let connector = Connector::new(&client, entry, record, core.timers());
    // Boxed, so that an established connection does not keep the memory of this stage.
    match Box::pin(connector.connect(pool)).await {
        Err(ended) => Outcome::Ended(ended),
        Ok(connected) => {
            Outcome::Ended(relayed(core, entry, client, origin, record, connected).await)
        }
    }
}

async fn relayed(
    core: &Core,
    entry: &Entry,
    client: Stream,
    origin: &Origin,
    record: &Record,
    connected: Connected,
) -> Ended {
    let Connected {
        stream,
        lease,
        pool,
    } = connected;
    let settings = pool.settings();
    let settings = relay::Settings {
        engine: settings.relay,
        idle_timeout: settings.idle_timeout,
        half_close_timeout: settings.half_close_timeout,
        liveness: liveness(&settings),
    };
    let meter = Meter {
        core,
        origin,
        lease: &lease,
        pool: &pool,
        record,
    };
    entry.set_phase(Phase::Relaying);
    fault::point("relay", &origin.name);
    relay(client, stream, settings, core, entry, &meter).await
}

/// How a pool wants its backends' sockets watched by the kernel.
fn liveness(settings: &config::Pool) -> Liveness {
    Liveness {
        keepalive: settings.keepalive,
        user_timeout: settings.user_timeout,
    }
}

/// Counts what a relay moves.
struct Meter<'a> {
    core: &'a Core,
    origin: &'a Origin,
    lease: &'a Lease,
    pool: &'a Pool,
    record: &'a Record,
}

impl Observer for Meter<'_> {
    fn delivered_up(&self, bytes: u64) {
        self.origin.counters.here().bytes_in.add(bytes);
        self.lease.backend().counters.here().bytes_in.add(bytes);
    }

    fn delivered_down(&self, bytes: u64) {
        self.origin.counters.here().bytes_out.add(bytes);
        self.lease.backend().counters.here().bytes_out.add(bytes);
    }

    fn spliced(&self, bytes: u64) {
        self.core.process().spliced.here().add(bytes);
    }

    fn answered(&self, took: Duration, now: Instant) {
        self.lease.answered(took, now);
        self.pool.first_byte_seconds.record(took);
        self.record.first_byte.set(Some(took));
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle connection costs, beside its table entry and two registered sockets. It
    /// doubles unnoticed when a future is moved into another one.
    const MOST: usize = 2 << 10;

    fn size<F: Future>(_: impl Fn(Rc<Core>, Arrival) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    #[test]
    fn the_task_of_a_connection_stays_small() {
        assert!(size(serve) <= MOST, "{} bytes", size(serve));
    }
}

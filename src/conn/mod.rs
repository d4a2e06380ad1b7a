//! The life of a connection after its accept, on one page: identify, admit, route, pick, connect,
//! relay, account. See [`serve`].

pub mod core;
pub mod ending;
pub mod gate;
pub mod idlest;
pub mod leaving;
pub mod listing;
pub mod moving;
pub mod preread;
pub mod quality;
pub mod relay;
pub mod visitor;
pub mod way;

mod connect;
pub(crate) mod fault;
mod hello;
mod identify;
mod one_hello;
mod record;
mod replay;

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

pub use self::core::{Command, ConnectionView, Core, CoreHandle, Entry, Phase};
pub use record::Outcome;

use crate::admit;
use crate::config;
use crate::log::Rejections;
use crate::metrics::{Ended, Failure, ListenerCounters, PerCore, Rejected, Seat};
use crate::net::{Address, Incoming, Kind, Liveness, Stream};
use crate::pool::quality::Sample;
use crate::pool::{Lease, Pool};
use crate::proxy::Expectation;
use connect::{Connected, Connector};
use gate::Slot;
use identify::identify;
use moving::offer;
use preread::Preread;
use record::Record;
use relay::{Exchange, Finish, Observer};
use replay::{Early, Next};
use visitor::Visitor;
use way::{Routed, Way};

/// What a connection knows of the listener that accepted it.
#[derive(Debug)]
pub struct Origin {
    /// The listener's name.
    pub name: Arc<str>,
    /// What is counted for it, whatever it is called.
    pub counters: Arc<PerCore<ListenerCounters>>,
    /// Paces the lines about connections that are refused.
    pub rejections: Rejections,
    /// Where its connections go.
    pub way: ArcSwap<Way>,
}

impl Origin {
    /// Lets a client in whose address holds, or not. It counts towards the limit of its address
    /// as long as its entry is in the table.
    ///
    /// # Errors
    /// The outcome of a connection that is refused.
    fn admit(&self, entry: &Entry, client: &Address) -> Result<(), Outcome> {
        let way = self.way.load();
        let Some(admit) = &way.admit else {
            return Ok(());
        };
        // A reload may have counted it before its turn has come.
        entry.count_as(None);
        let place = admit.admit(client, Instant::now());
        entry.count_as(place.map_err(Outcome::Rejected)?);
        Ok(())
    }

    /// The place of a client that was let in elsewhere, where its address is limited.
    pub fn count(&self, client: &Address) -> Option<admit::Place> {
        let way = self.way.load();
        way.admit.as_ref()?.count(client, Instant::now())
    }

    /// Where a connection goes now; `None`: no route takes it.
    pub fn route(&self, visitor: &Visitor) -> Option<Routed> {
        self.way.load().route(visitor)
    }

    /// Whether somebody needs to know the ClientHello of a client now.
    fn reads_hello(&self, visitor: &Visitor) -> bool {
        self.way.load().reads_hello(visitor.ip())
    }
}

/// The slots that a connection takes up, given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    _process: Slot,
    _listener: Slot,
}

impl Permit {
    /// A slot of the process and one of the listener.
    pub fn new(process: Slot, listener: Slot) -> Self {
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

impl Slots {
    /// Waits for them.
    async fn taken(&mut self) {
        if let Self::Wanted(permit) = self {
            *self = Self::Taken(permit.await);
        }
    }
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
/// Whatever happens to the future, dropping included, both sockets are reset unless the
/// connection is complete, every slot is given back and the connection is accounted for.
///
/// (What is held here is the memory of an idle connection. An `async fn` would hold its
/// arguments twice.)
pub fn serve(core: Rc<Core>, arrival: Arrival) -> impl Future<Output = ()> {
    let mut record = Record::begin(&core, &arrival);
    let Arrival {
        incoming,
        mut slots,
        seat,
        ..
    } = arrival;
    let client = Stream::new(incoming.socket, incoming.kind);
    async move {
        let outcome = match client {
            Err(_) => Outcome::Ended(Ended::LocalError),
            Ok(client) => {
                let entry = record.entry();
                let stages = pin!(stages(&core, client, &mut slots, &mut record));
                let outcome = entry.unless_ended(stages).await;
                outcome.unwrap_or_else(Outcome::Ended)
            }
        };
        record.close(outcome);
        // Last of all: whoever gets this slot must find the connection gone.
        drop((slots, seat));
    }
}

#[expect(
    clippy::manual_async_fn,
    reason = "an async fn would hold its arguments twice"
)]
fn stages<'a>(
    core: &'a Rc<Core>,
    client: Stream,
    slots: &'a mut Slots,
    record: &'a mut Record,
) -> impl Future<Output = Outcome> {
    async move {
        slots.taken().await;
        // Boxed, so that an established connection does not keep the memory of these stages.
        let connected = match Box::pin(arrive(core, &client, record)).await {
            Err(outcome) => return outcome,
            Ok(connected) => connected,
        };
        let mut next = Next::Connected(client, connected);
        loop {
            let exchange = go_on(core, next, record);
            let early = match relay_until_end(exchange, core, record).await {
                Ok(outcome) => return outcome,
                Err(early) => early,
            };
            // Boxed, as few connections come to it.
            next = match Box::pin(replay::move_on(core, early, record)).await {
                Ok(next) => next,
                Err(outcome) => return outcome,
            };
        }
    }
}

/// From the accept to the backend: identify, admit, route, pick, connect.
///
/// # Errors
/// The outcome of a connection that gets none.
async fn arrive(
    core: &Rc<Core>,
    client: &Stream,
    record: &mut Record,
) -> Result<Connected, Outcome> {
    let mut visitor = Visitor::at(record.client().clone());
    let (expected, mut preread) = {
        let way = record.origin().way.load();
        let expected = Expectation::of(&way.settings, &visitor.client);
        let preread = Preread::new(client, core.timers(), way.settings.preread_timeout);
        (expected, preread)
    };
    match expected {
        Expectation::Nothing => {}
        Expectation::Header => identify(&mut preread, &mut visitor, record).await?,
        Expectation::Untrusted => return Err(Outcome::Rejected(Rejected::Untrusted)),
    }
    let origin = record.origin();
    origin.admit(record.entry_ref(), &visitor.client)?;
    if origin.reads_hello(&visitor) {
        visitor.hello = hello::hello(&mut preread).await?;
    }
    visitor.early = preread.into_early();
    let pool = route(client, &mut visitor, record)?;
    let connector = Connector::new(client, visitor, record, core.timers());
    connector.connect(pool).await.map_err(Outcome::Ended)
}

/// Chooses the pool, by the rules that hold now.
fn route(
    client: &Stream,
    visitor: &mut Visitor,
    record: &mut Record,
) -> Result<Arc<Pool>, Outcome> {
    let way = record.origin().way.load();
    let routed = way.route(visitor);
    let Routed { route, pool } = routed.ok_or(Outcome::Rejected(Rejected::NoRoute))?;
    if route.is_some() && client.kind() == Kind::Tcp {
        // The socket has its options from the listener, which has them from its own pool.
        let own = way.pool.as_ref().map(|pool| liveness(&pool.settings()));
        let own = own.unwrap_or(Liveness::OFF);
        liveness(&pool.settings()).apply_instead_of(own, client.socket());
    }
    drop(way);
    record.route = route;
    visitor.locate(client, &pool);
    Ok(pool)
}

/// The relay of a connection that has a backend.
fn go_on<'a>(core: &'a Core, next: Next, record: &'a Record) -> Exchange<'a, Meter<'a>> {
    match next {
        Next::Connected(client, connected) => exchange(core, client, record, connected),
        Next::Stays(parted, lease, pool) => {
            let meter = Meter {
                core,
                lease,
                pool,
                record,
            };
            Exchange::join(parted, core, record.entry_ref(), meter)
        }
    }
}

fn exchange<'a>(
    core: &'a Core,
    client: Stream,
    record: &'a Record,
    connected: Connected,
) -> Exchange<'a, Meter<'a>> {
    let Connected {
        stream,
        lease,
        pool,
        early,
        trail,
    } = connected;
    let settings = pool.settings();
    let meter = Meter {
        core,
        lease,
        pool,
        record,
    };
    let entry = record.entry_ref();
    entry.set_phase(Phase::Relaying);
    fault::point("relay", record.listener());
    let early = (early, trail);
    Exchange::new((client, stream), early, settings, core, entry, meter)
}

/// Relays until the connection has ended or goes on in another process.
///
/// # Errors
/// Its backend has ended it, and another one may take it over.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn would hold its arguments twice"
)]
fn relay_until_end<'a>(
    mut exchange: Exchange<'a, Meter<'a>>,
    core: &'a Core,
    record: &'a Record,
) -> impl Future<Output = Result<Outcome, Early>> {
    async move {
        loop {
            match exchange.run().await {
                Finish::Ended(ended) => return Ok(Outcome::Ended(ended)),
                // Boxed, as few connections come to it.
                Finish::Frozen => match Box::pin(offer(exchange, core, record)).await {
                    Ok(back) => exchange = back,
                    Err(outcome) => return Ok(outcome),
                },
                Finish::Early(broke) => {
                    let (parted, Meter { lease, pool, .. }) = exchange.part();
                    return Err(Early {
                        parted,
                        lease,
                        pool,
                        broke,
                    });
                }
            }
        }
    }
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
    lease: Lease,
    pool: Arc<Pool>,
    record: &'a Record,
}

impl Observer for Meter<'_> {
    fn delivered_up(&self, bytes: u64) {
        self.record.delivered_up(bytes);
    }

    fn hold_back(&self, bytes: u64) {
        self.record.hold_back(bytes);
    }

    fn settle(&self) {
        self.record.settle();
    }

    fn delivered_down(&self, bytes: u64) {
        self.record.origin().counters.here().bytes_out.add(bytes);
        self.lease.backend().counters.here().bytes_out.add(bytes);
        self.record.entry_ref().moved(0, bytes);
    }

    fn spliced(&self, bytes: u64) {
        self.core.process().spliced.here().add(bytes);
    }

    fn answered(&self, took: Duration, now: Instant) {
        self.lease.answered(took, now);
        self.pool.first_byte_seconds.record(took);
        self.record.first_byte.set(Some(took));
    }

    fn lasted(&self, now: Instant) {
        self.lease.lasted(now);
    }

    fn ended_early(&self, how: Failure, now: Instant) {
        self.lease.ended_early(how, now);
    }

    fn is_doubted(&self) -> bool {
        self.lease.is_doubted()
    }

    fn sampled(&self, sample: &Sample) {
        self.lease.backend().sampled(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle connection costs, beside its table entry and two registered sockets. It
    /// doubles unnoticed when a future is moved into another one.
    const MOST: usize = 840;

    fn size<F: Future>(_: impl Fn(Rc<Core>, Arrival) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    #[test]
    fn the_task_of_a_connection_stays_small() {
        assert!(size(serve) <= MOST, "{} bytes", size(serve));
    }
}

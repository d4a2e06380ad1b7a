//! The new process: what it is handed, and how it goes on with it.
//!
//! It binds nothing that it was handed, accepts nobody before the old process has stopped, and
//! touches no connection before it has said that it has it. Until it serves, any failure ends
//! it, which leaves the old process as it was.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::elder::Elder;
use super::message::{ConnectionRecord, Message, SocketRecord};
use super::program::VARIABLE;
use super::wire::{Frame, Wire, WireError};
use super::{luggage, totals};
use crate::admin::{Configured, Running};
use crate::conn::moving::{Immigrant, Passport, go_on};
use crate::conn::relay::Still;
use crate::metrics::Seat;
use crate::net::{Address, InheritError, Inherited, Keeper};
use crate::pool::Lease;
use crate::pool::handover::{OverrideRecord, records};
use crate::runtime;

/// How long the old process may take for the next message.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take nothing.
const SEND: Duration = Duration::from_secs(5);
/// How often it is looked whether runtime changes have to be passed on.
const LOOK: Duration = Duration::from_millis(100);
/// Listening sockets that may be handed over.
const MOST_SOCKETS: usize = 65_536;

/// What this process was handed, before it serves.
#[derive(Debug)]
pub struct Heir {
    wire: Wire,
    pid: u32,
    since: SystemTime,
    sockets: Vec<(SocketRecord, OwnedFd)>,
}

/// Why nothing can be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HeirError {
    /// Standard input is not the socket of a handover, or its end is not this process's parent.
    #[error("{VARIABLE} is set, but standard input is not the socket of a handover: {0}")]
    NotHanded(io::Error),
    /// The old process cannot be understood, or is gone.
    #[error("cannot take over from the running balancer: {0}")]
    Wire(#[from] WireError),
    /// The old process says something out of order.
    #[error("cannot take over from the running balancer: it says {0} out of turn")]
    Order(String),
    /// A socket is not what it was said to be.
    #[error("cannot take over from the running balancer: a socket for {address}: {source}")]
    Socket {
        /// Where it should listen.
        address: Address,
        /// What is wrong with it.
        source: InheritError,
    },
    /// This process cannot begin to accept.
    #[error("cannot accept: {0}")]
    Accept(io::Error),
}

impl Heir {
    /// What the parent of this process hands over to it; `None`: this is an ordinary start.
    ///
    /// To be called before anything is opened.
    ///
    /// # Errors
    /// [`HeirError`]; this process must end then.
    pub fn of_this_process() -> Result<Option<Self>, HeirError> {
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
        // What runs below a process that was started by an upgrade inherits the variable.
        if std::env::var(VARIABLE).ok().filter(|_| parent.is_some()) != parent || parent.is_none() {
            return Ok(None);
        }
        let socket = take_standard_input().map_err(HeirError::NotHanded)?;
        Self::begin(Wire::new(socket)).map(Some)
    }

    fn begin(mut wire: Wire) -> Result<Self, HeirError> {
        let (pid, since) = match next(&mut wire)?.message {
            Message::Hello {
                pid, started_at, ..
            } => (pid, started_at),
            other => return Err(out_of_turn(&other)),
        };
        let mut sockets = Vec::new();
        loop {
            let frame = next(&mut wire)?;
            match frame.message {
                Message::Start => break,
                Message::Sockets { sockets: records } if records.len() == frame.fds.len() => {
                    sockets.extend(records.into_iter().zip(frame.fds));
                }
                other => return Err(out_of_turn(&other)),
            }
            if sockets.len() > MOST_SOCKETS {
                return Err(WireError::Broken("too many sockets".to_owned()).into());
            }
        }
        Ok(Self {
            wire,
            pid,
            since,
            sockets,
        })
    }

    /// The listening sockets.
    ///
    /// # Errors
    /// One of them is none.
    pub fn inherited(&mut self) -> Result<Inherited, HeirError> {
        let mut inherited = Inherited::none();
        for (record, socket) in std::mem::take(&mut self.sockets) {
            let keeper = match record.service_manager {
                true => Keeper::ServiceManager,
                false => Keeper::Isobar,
            };
            if let Err(source) = inherited.add(&record.bound, socket, keeper) {
                let address = record.bound;
                return Err(HeirError::Socket { address, source });
            }
            inherited.choose(record.listener, record.configured, record.bound);
        }
        Ok(inherited)
    }

    /// Says that this process cannot start, and why.
    pub fn fail(mut self, reason: String, invalid: bool) {
        // Where nobody listens any more, nobody needs to know.
        let _ = self
            .wire
            .send(&Message::Failed { reason, invalid }, &[], &[], SEND);
    }

    /// Says that everything is bound, takes over what is known and counted, and begins to
    /// `accept` when the old process has stopped.
    ///
    /// Blocks; not for the thread of a core.
    ///
    /// # Errors
    /// [`HeirError`]: this process must end, and the old one goes on.
    pub fn succeed(
        mut self,
        running: &Arc<Running>,
        accept: impl FnOnce() -> io::Result<()>,
    ) -> Result<Successor, HeirError> {
        let ready = Message::Ready {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            taken: listening(&running.configured()),
        };
        self.wire.send(&ready, &[], &[], SEND)?;
        let mut elder = Elder::new(running, self.pid, self.since);
        loop {
            match next(&mut self.wire)?.message {
                Message::Totals { totals } => totals::add(running, elder.began(), &totals),
                Message::States { pools } => remember(elder.began(), pools),
                Message::Go { next_id, remaining } => {
                    elder.has(remaining);
                    for core in &running.cores {
                        core.run(move |core| core.begin_ids_at(next_id));
                    }
                    break;
                }
                other => return Err(out_of_turn(&other)),
            }
        }
        accept().map_err(HeirError::Accept)?;
        self.wire.send(&Message::Serving, &[], &[], SEND)?;
        Ok(Successor {
            wire: self.wire,
            running: Arc::clone(running),
            elder,
            told: overrides(running),
        })
    }
}

fn next(wire: &mut Wire) -> Result<Frame, WireError> {
    wire.receive(Instant::now() + PATIENCE)
}

fn out_of_turn(message: &Message) -> HeirError {
    let text = serde_json::to_value(message).unwrap_or_default();
    HeirError::Order(text["message"].as_str().unwrap_or("something").to_owned())
}

/// Takes the socket out of standard input, which becomes `/dev/null`.
fn take_standard_input() -> io::Result<OwnedFd> {
    let input = rustix::stdio::stdin();
    let is_ours = sockopt::socket_domain(input)? == AddressFamily::UNIX
        && sockopt::socket_type(input)? == SocketType::STREAM
        && !sockopt::socket_acceptconn(input)?;
    if !is_ours {
        return Err(io::Error::other("it is another kind of socket"));
    }
    let socket = rustix::io::fcntl_dupfd_cloexec(input, 3)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

/// Where this process listens.
fn listening(configured: &Configured) -> Vec<Address> {
    let doors = configured.doors();
    let own = doors.iter().map(|door| door.address().clone());
    own.chain(configured.admin_address.clone()).collect()
}

fn remember(began: &Configured, pools: Vec<crate::pool::handover::PoolState>) {
    let file = &began.file.config;
    for memory in pools {
        let Some(pool) = began.pool(&memory.name) else {
            continue;
        };
        for (change, why) in pool.remember(memory, file) {
            tracing::warn!(
                pool = &*change.pool,
                backend = change.backend.as_deref(),
                field = change.change.field(),
                "a runtime change ends with the upgrade: {}",
                why.reason()
            );
        }
    }
}

fn overrides(running: &Running) -> Vec<OverrideRecord> {
    let configured = running.configured();
    let pools = configured.pools.iter();
    pools.flat_map(|pool| records(&pool.overrides())).collect()
}

/// The new process while the old one has connections.
#[derive(Debug)]
pub struct Successor {
    wire: Wire,
    running: Arc<Running>,
    elder: Elder,
    /// The runtime changes that the old process knows.
    told: Vec<OverrideRecord>,
}

impl Successor {
    /// Takes over connection after connection, until the old process has none or is gone.
    ///
    /// Blocks; not for the thread of a core.
    pub fn take_over(mut self) {
        loop {
            match self.step() {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!("the process before this one has nothing left");
                    return self.elder.has(super::message::Remaining::default());
                }
                Err(error) => {
                    tracing::warn!(%error, "the process before this one is not heard of any more");
                    return self.elder.is_gone();
                }
            }
        }
    }

    /// Whether that was the last message.
    fn step(&mut self) -> Result<bool, WireError> {
        if !self.wire.wait(LOOK)? {
            self.tell_overrides()?;
            return Ok(false);
        }
        let frame = next(&mut self.wire)?;
        match frame.message {
            Message::Connections { connections } => {
                self.immigrate(connections, frame.bytes, frame.fds)?;
            }
            Message::Totals { totals } => totals::add(&self.running, self.elder.began(), &totals),
            Message::Remaining(remaining) => self.elder.has(remaining),
            Message::Farewell => return Ok(true),
            other => return Err(WireError::Broken(out_of_turn(&other).to_string())),
        }
        Ok(false)
    }

    fn tell_overrides(&mut self) -> Result<(), WireError> {
        let overrides = overrides(&self.running);
        if overrides != self.told {
            self.told.clone_from(&overrides);
            let message = Message::Overrides { overrides };
            self.wire.send(&message, &[], &[], SEND)?;
        }
        Ok(())
    }

    /// Looks through what came, says that it is taken, and only then lets it go on.
    fn immigrate(
        &mut self,
        records: Vec<ConnectionRecord>,
        bytes: Vec<u8>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), WireError> {
        let unpacked = luggage::unpack(records, bytes, fds);
        let unpacked = unpacked.map_err(|error| WireError::Broken(error.to_string()))?;
        let mut unwanted = Vec::new();
        let mut taken = Vec::new();
        for (index, (passport, still)) in unpacked.into_iter().enumerate() {
            match self.admit(passport, still) {
                Some(immigrant) => taken.push(immigrant),
                None => unwanted.push(index),
            }
        }
        let said = self.wire.send(&Message::Taken { unwanted }, &[], &[], SEND);
        // It cannot be said only where the old process has ended: nobody else has them then.
        taken.into_iter().for_each(|(core, immigrant)| {
            self.running.cores[core].run(move |core| {
                runtime::spawn(go_on(std::rc::Rc::clone(core), *immigrant));
            });
        });
        self.elder.show();
        said
    }

    /// The connection with its places here; `None`: there is no such listener or backend.
    fn admit(&mut self, passport: Passport, still: Still) -> Option<(usize, Box<Immigrant>)> {
        let began = Arc::clone(self.elder.began());
        let mut listeners = began.every_listener();
        let listener = listeners.find(|l| l.origin.name == passport.listener)?;
        let pool = began.pool(&passport.pool)?;
        let backend = pool.backend(&passport.backend)?;
        if backend.location.address() != Some(&passport.backend_address) {
            return None;
        }
        // A reload may have renamed it meanwhile.
        let configured = self.running.configured();
        let now = configured.listener_that_counts(&listener.origin.counters);
        let process = &self.running.process;
        let core = process.least_loaded();
        let origin = Arc::clone(&now.unwrap_or(listener).origin);
        let immigrant = Immigrant {
            counted: origin.count(&passport.client),
            origin,
            lease: Lease::adopt(Arc::clone(pool), backend, passport.pick),
            permit: self.elder.gives(listener, &passport.pool),
            seat: Seat::take(process, core),
            pool: Arc::clone(pool),
            passport,
            still,
        };
        Some((core, Box::new(immigrant)))
    }
}

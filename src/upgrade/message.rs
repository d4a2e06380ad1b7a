//! What the two processes of an upgrade tell each other.
//!
//! | from the old process | from the new one |
//! | --- | --- |
//! | `hello`, `sockets`…, `start` | `ready` or `failed` |
//! | `states`…, `totals`…, `go` | `serving` |
//! | `connections`… | `taken` for each |
//! | `remaining`, `totals` now and then, `farewell` | `overrides` now and then |
//!
//! Times of day are given as such, ages as durations: the clocks of one machine tick alike.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::conn::moving::Passport;
use crate::conn::relay::Pose;
use crate::metrics::ledger::HistogramTotals;
use crate::net::Address;
use crate::pool::handover::{OverrideRecord, PoolState};

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Message {
    /// The old process is this one.
    Hello {
        /// Its number.
        pid: u32,
        /// Its version.
        version: String,
        /// Since when it runs.
        started_at: SystemTime,
    },
    /// Listening sockets; one descriptor for each.
    Sockets {
        /// What they are.
        sockets: Vec<SocketRecord>,
    },
    /// All sockets were sent: the new process is to start, and to accept nobody yet.
    Start,
    /// The new process has bound everything, and waits for `go`.
    Ready {
        /// Its version.
        version: String,
        /// The sockets that it goes on with.
        taken: Vec<Address>,
    },
    /// The new process cannot start, and ends.
    Failed {
        /// Why.
        reason: String,
        /// The configuration is the reason.
        invalid: bool,
    },
    /// What was counted since the last such message.
    Totals {
        /// By what it is about.
        totals: Vec<Total>,
    },
    /// What pools are.
    States {
        /// One for each.
        pools: Vec<PoolState>,
    },
    /// The old process accepts nobody any more.
    Go {
        /// Ids of new connections begin here.
        next_id: u64,
        /// Connections that it has.
        remaining: Remaining,
    },
    /// The new process accepts.
    Serving,
    /// Connections that move; the descriptors and bytes of all of them, in this order.
    Connections {
        /// Each.
        connections: Vec<ConnectionRecord>,
    },
    /// The new process has these connections, and will go on with them, but for some.
    Taken {
        /// Those that it does not want, by their place in the message.
        unwanted: Vec<usize>,
    },
    /// The connections that the old process still has.
    Remaining(Remaining),
    /// The runtime changes that hold now, for those who are held in the old process.
    Overrides {
        /// All of them.
        overrides: Vec<OverrideRecord>,
    },
    /// The old process has nothing left, and ends.
    Farewell,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketRecord {
    /// The name of its listener; `None`: it is the admin endpoint's.
    pub listener: Option<Arc<str>>,
    /// Where it listens as the file says, port 0 included.
    pub configured: Address,
    /// Where it really listens.
    pub bound: Address,
    /// A service manager made it.
    pub service_manager: bool,
}

/// What was counted for one thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// What it is about.
    pub of: Of,
    /// By name; names that are not known are for a later version.
    pub counts: BTreeMap<String, u64>,
    /// By name.
    #[serde(default)]
    pub histograms: BTreeMap<String, HistogramTotals>,
}

/// What is counted for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// The process.
    Process,
    /// A listener.
    Listener(Arc<str>),
    /// A pool.
    Pool(Arc<str>),
    /// A backend of a pool.
    Backend(Arc<str>, Arc<str>),
}

/// The connections that a process has, by what limits them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    /// By listener.
    pub listeners: BTreeMap<Arc<str>, u64>,
    /// By pool.
    pub pools: BTreeMap<Arc<str>, u64>,
    /// Slots of backends, by pool and backend: those in use, and those that clients who have
    /// no backend yet may take.
    pub backends: Vec<(Arc<str>, Arc<str>, u32)>,
}

/// A connection that moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// What is known of it.
    pub passport: Passport,
    /// What is known of its relay.
    pub pose: Pose,
    /// What it has in hand towards the backend.
    pub up: HandRecord,
    /// What it has in hand towards the client.
    pub down: HandRecord,
}

/// Bytes taken from one side and not given to the other yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandRecord {
    /// None.
    Nothing,
    /// So many of the bytes behind the message.
    Bytes(usize),
    /// So many in a pipe, of which both ends come along.
    Pipe(usize),
}

impl ConnectionRecord {
    /// How many descriptors it comes with.
    pub fn fds(&self) -> usize {
        2 + self.up.fds() + self.down.fds()
    }
}

impl HandRecord {
    fn fds(self) -> usize {
        match self {
            Self::Pipe(_) => 2,
            Self::Nothing | Self::Bytes(_) => 0,
        }
    }

    /// How many of the bytes behind the message are its.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bytes(n) => n,
            Self::Nothing | Self::Pipe(_) => 0,
        }
    }
}

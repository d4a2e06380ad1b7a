//! Which backend a connection gets. Pure: no socket, clock, thread or unseeded randomness.
//!
//! A strategy chooses among [`Members`]: those backends of a pool, in file order, that health
//! and operators let it choose from. Primaries and backups are two sets; the pool asks about
//! the backups only when no primary is open. The strategy's last step is to *reserve* the
//! chosen slot, so that choosing and counting are one step for everybody else.

/// What a strategy may know of, and do to, the backends it chooses among.
///
/// `i` is always below [`len`](Self::len).
pub trait Members {
    /// How many there are.
    fn len(&self) -> usize;
    /// Share of member `i`, at least 1.
    fn weight(&self, i: usize) -> u32;
    /// Connections that member `i` has now, those still connecting included.
    fn active(&self, i: usize) -> u32;
    /// Whether member `i` may get this connection: below its limits, not tried before.
    fn open(&self, i: usize) -> bool;
    /// Hash of the identity of member `i`.
    fn identity(&self, i: usize) -> u64;
    /// Peak-sensitive moving average of the latency of member `i` in seconds, as of now;
    /// `None`: no sample yet.
    fn latency(&self, i: usize) -> Option<f64>;
    /// Takes a slot of member `i`; false where it is not [`open`](Self::open) any more.
    fn reserve(&self, i: usize) -> bool;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Hash of the connection's key, see `pool.NAME.hash.key`.
    pub key: u64,
    /// The connection's first pick; a later one must not move a sequence on.
    pub first: bool,
}

/// What was chosen, its slot reserved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The member's index.
    pub index: usize,
    /// Why this one.
    pub why: Why,
}

/// Why a member was chosen; written as the log's `pick` word.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// Its turn.
    RoundRobin,
    /// Fewest connections for its weight: its own count, and that of the next best one.
    Least {
        /// Of the chosen, before this connection.
        active: u32,
        /// Of the next best, if there was another.
        next: Option<u32>,
    },
    /// Highest score for the key.
    Hash,
    /// The less loaded of two drawn.
    Two {
        /// Of the chosen, before this connection.
        active: u32,
        /// Of the other one, if there was one.
        other: Option<u32>,
    },
    /// The faster of two drawn.
    Latency,
    /// First in file order with room.
    First,
}

//! Replacing the running program by the one now on disk, with nothing left behind.
//!
//! The old process starts the new one and hands over, through a socket that only these two
//! have, every listening socket, what is known and counted, and every established connection:
//! both sockets and all that was taken from one and not given to the other yet. Then it ends.
//!
//! 1. The new process starts with the listening sockets, reads its file, binds what is new
//!    there, and says that it is ready. The old one serves as if nothing happened.
//! 2. The old process accepts nobody any more. Clients wait in the queue, which both have, for
//!    as long as it takes to tell what is known and counted; then the new process accepts.
//! 3. Established connections move, some at a time, each standing still for milliseconds.
//! 4. Those that cannot move (a client that is held or being connected) go on in the old
//!    process, and move as soon as they can; it ends when it has none left.
//!
//! *Failures.* Until step 2 the old process only listens. Up to the end of step 3 it has every
//! connection that the new one has not said to have: where the new one fails, is late, or says
//! what it should not, it is killed, what has not moved goes on, and the old process accepts
//! again.
//!
//! *Limits.* The new process counts what the old one has as its own ([`elder`]). The old one
//! takes no more slots of a limited backend than it has, or needs for clients that it has.
//!
//! | file | |
//! | --- | --- |
//! | `wire`, `message` | the socket: frames, bounds, versions; what is said |
//! | `luggage` | connections as frames |
//! | `totals` | what was counted |
//! | `program` | which program, and how it is started |
//! | `stops` | one order to stop for both |
//! | `leaving` | the old process |
//! | `heir`, `elder` | the new process, and what it knows of the old one |
//!
//! HAProxy hands over listening sockets alone, by a socket with a name; Envoy keeps both
//! processes until the last connection ends; NGINX inherits descriptors by numbers in the
//! environment. None moves connections.

pub mod elder;
pub mod heir;
pub mod leaving;
pub mod luggage;
pub mod message;
pub mod program;
pub mod stops;
pub mod totals;
pub mod wire;

//! What is counted, and under which names.

pub mod counters;
pub mod families;
pub mod histogram;
pub mod ledger;
pub mod listener;
pub mod lookups;
pub mod names;
pub mod process;

pub use counters::{Counter, PerCore};
pub use histogram::Histogram;
pub use listener::ListenerCounters;
pub use lookups::Lookups;
pub use names::{ConnectFailure, Ended, Failure, Lookup, Rejected, Replayed};
pub use process::{Process, Seat};

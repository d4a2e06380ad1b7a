//! What is counted, and under which names.

pub mod counters;
pub mod histogram;
pub mod listener;
pub mod names;
pub mod process;

pub use counters::{Counter, PerCore};
pub use histogram::Histogram;
pub use listener::ListenerCounters;
pub use names::{Ended, Rejected};
pub use process::{Process, Seat};

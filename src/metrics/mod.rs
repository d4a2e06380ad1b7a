//! What is counted, and under which names.

pub mod counters;
pub mod names;

pub use counters::{Counter, PerCore};
pub use names::{Ended, Rejected};

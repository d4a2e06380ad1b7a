//! What a configuration would have made of connections that were recorded: the access log of a
//! running balancer, replayed in virtual time.
//!
//! | file | |
//! | --- | --- |
//! | `log` | the lines of an access log, one at a time |
//! | `line` | what one of them says (pure) |
//! | `recording` | the connections of a log that can be replayed, and how many others there are |
//! | `sampling` | whether a part of them is missing (pure) |
//! | `routes` | to which pool of the file a recorded connection goes |
//! | `world` | the pools of a file in virtual time |
//! | `replay` | connections come, wait, connect, answer and end, one after the other |
//! | `tally` | what is counted of that |
//! | `outages` | the same once more for each backend that may be lost |
//! | `report` | what is told in the end |
//!
//! No strategy is written down here a second time. The pools are those of the balancer
//! ([`Pool`](crate::pool::Pool)), with their picks, limits, fallbacks and hold queues; they are
//! given a [`Stage`](crate::pool::Stage) for the clock and for what is drawn. Routes are decided
//! by the [`Way`](crate::conn::way::Way) of the listener. What is left for this module is to say
//! when things happen: a connection comes when it was accepted, has its backend for as long as it
//! was recorded less what it was held, and every connect succeeds. All backends are up but
//! those that are said to be lost; checks, ejections and slow starts play no part.
//!
//! The same log, file and seed give the same report, to the byte. Each pool draws from a
//! generator of its own, so that what happens in one leaves alone those that it has nothing to do
//! with; pools that fall back to each other are replayed together, all others apart.

mod line;
mod log;
mod outages;
mod recording;
mod replay;
mod report;
mod routes;
mod sampling;
mod tally;
mod world;

#[cfg(test)]
mod tests;

pub use log::LogError;
pub use outages::{NoSuchBackend, named};
pub use recording::{Recording, Skipped, Skips};
pub use report::{
    BackendReport, HeldReport, LogReport, OutageReport, PoolReport, RefusedReport, Report,
    SkippedReport, WithReport,
};

use crate::config::Config;

/// The seed where none is given.
pub const SEED: u64 = 1;

/// A backend of a file: the place of its pool among the pools, and its own in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// Of the pool.
    pub pool: usize,
    /// Of the backend.
    pub backend: usize,
}

/// What becomes of the recorded connections with `config`, where the backends of `lost` are down
/// from the start.
///
/// Where none is lost it is also looked at what the loss of each backend would do, as far as that
/// takes a bounded time: those with the most connections first.
pub fn simulate(config: &Config, recording: &Recording, lost: &[Spot], seed: u64) -> Report {
    let before = tally::of_all(config, recording, &[], seed);
    match lost {
        [] => {
            let outages = outages::all(config, recording, &before, seed);
            Report::of(config, recording, &before, &outages, seed)
        }
        lost => {
            let after = tally::of_all(config, recording, lost, seed);
            Report::without(config, recording, (&after, &before), lost, seed)
        }
    }
}

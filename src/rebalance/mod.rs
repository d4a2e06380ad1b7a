//! Evens a pool whose connections live long: closes, at quiet moments, just those whose redial
//! brings them where they are missing.
//!
//! | file | |
//! | --- | --- |
//! | `survey` | how the pool stands, what would even it, and which connections come first |
//! | `run` | asks them to leave, paced, and looks again until nothing is left to do |
//!
//! What is to be closed is planned by [`evening`](crate::balance::evening); which moment is
//! quiet is for the connection's own task to say, see [`leaving`](crate::conn::leaving); what
//! everybody sees of it is kept by the [`pool`](crate::pool::rebalance).
//!
//! A plan holds for a moment, so it is made again and again, redials under way counted where
//! they will be. It may become smaller that way, as clients leave by themselves. It never
//! becomes larger, so that clients that do not come back do not lead to more and more of them
//! being closed; only where the backends themselves change is it made anew.

mod run;
mod survey;

use std::sync::Arc;

pub use survey::{Candidate, Order, Proposal};

use crate::conn::CoreHandle;
use crate::pool::Pool;
use crate::pool::overrides::Stamp;
use crate::pool::rebalance::Wish;

/// Begins what is proposed, in a task of its own, in the place of what goes on.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn begin(pool: &Arc<Pool>, cores: &[CoreHandle], wish: Wish, stamp: Stamp, proposal: Proposal) {
    let (planned, imbalance) = (proposal.total(), proposal.evening.before);
    let rebalance = pool.begin_rebalance(wish, stamp, planned, imbalance);
    let run = run::Run::new(Arc::clone(pool), cores.to_vec(), rebalance);
    tokio::spawn(run.run(proposal));
}

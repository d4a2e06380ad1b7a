//! Asks connections to leave, paced, and looks again until nothing is left to do.
//!
//! A turn takes about a second: it looks how the pool stands, asks as many connections as the
//! rate allows, of those that are quiet or about to be, and waits until each has gone or its
//! time is over. A wish that was not fulfilled by then is withdrawn, so that no connection is
//! closed that is not wanted any more. A connection is asked at the rate, and goes at most
//! [`PATIENCE`] after it was to be quiet: so more than the rate can be closed for a moment, but
//! never more in all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout_at};

use super::survey::{Candidate, Order, Proposal};
use crate::conn::CoreHandle;
use crate::metrics::Ended;
use crate::pool::rebalance::{Outcome, Rebalance};
use crate::pool::{Pool, Taking};

/// Connections that are quiet within this are asked as those are that are quiet already; it is
/// also how often the pool is looked at.
const SOON: Duration = Duration::from_secs(1);
/// How long a connection that was to be quiet may take to go.
const PATIENCE: Duration = Duration::from_secs(1);
/// How late a timer may fire.
const LATE: Duration = Duration::from_millis(10);
/// With nothing to close for this long, and `quiet`, it gives up.
const GIVE_UP: Duration = Duration::from_secs(60);

/// A rebalance at work.
pub(super) struct Run {
    pool: Arc<Pool>,
    cores: Vec<CoreHandle>,
    rebalance: Arc<Rebalance>,
}

impl Run {
    pub(super) fn new(pool: Arc<Pool>, cores: Vec<CoreHandle>, rebalance: Arc<Rebalance>) -> Self {
        Self {
            pool,
            cores,
            rebalance,
        }
    }

    /// Does it, to its end.
    pub(super) async fn run(self, proposal: Proposal) {
        // Dropping the work takes back what it has asked for.
        let outcome = tokio::select! {
            outcome = self.even(proposal) => outcome,
            () = self.rebalance.ended() => Outcome::Stopped,
        };
        // Whoever stopped it has said how it ended.
        self.rebalance.end(outcome);
        self.announce();
    }

    fn announce(&self) {
        let progress = self.rebalance.progress();
        let outcome = progress.ended.map_or("", |(outcome, _)| outcome.as_str());
        let (closed, imbalance) = (progress.closed, progress.imbalance);
        let pool = &*self.pool.name;
        tracing::info!(pool, outcome, closed, imbalance, "the rebalance is over");
    }

    async fn even(&self, mut proposal: Proposal) -> Outcome {
        let mut budget = Budget::new(&proposal);
        let mut order = Order::new(self.rebalance.wish.idle_first);
        let mut pace = Pace::new(self.rebalance.wish.rate.interval());
        let mut progress_at = Instant::now();
        while budget.left > 0 {
            order.quiet_by = Some(proposal.at + SOON);
            let chosen = proposal.chosen(&order);
            let asked = self.ask(&proposal, &chosen, budget.left, &mut pace).await;
            let nobody = asked.is_empty();
            let mut closed = 0;
            for mut asked in asked {
                if asked.has_gone().await {
                    budget.close(asked.key);
                    closed += 1;
                } else {
                    order.note_in_vain(asked.id, asked.moved_at);
                }
            }
            let quiet = self.pool.settings().quiet;
            if closed > 0 {
                progress_at = Instant::now();
            } else if progress_at.elapsed() > GIVE_UP + quiet {
                return Outcome::NothingQuiet;
            }
            if nobody {
                tokio::time::sleep(SOON).await;
            }
            proposal = self.look_again(&mut budget).await;
            order.forget(&proposal);
        }
        Outcome::Done
    }

    /// Asks those that were chosen, as many as the rate allows in a turn.
    async fn ask(
        &self,
        proposal: &Proposal,
        chosen: &[&Candidate],
        left: u32,
        pace: &mut Pace,
    ) -> Vec<Asked> {
        let mut all = Vec::new();
        if proposal.taking.is_paused() {
            return all;
        }
        for candidate in chosen.iter().take(pace.in_a_turn().min(left as usize)) {
            pace.wait().await;
            all.push(Asked::ask(candidate, &self.cores, &self.rebalance));
        }
        all
    }

    async fn look_again(&self, budget: &mut Budget) -> Proposal {
        budget.note_arrivals(&self.pool.taking());
        let pending = budget.pending.iter().copied().collect();
        let target = self.rebalance.wish.target;
        let proposal = Proposal::make(&self.pool, &self.cores, pending, target).await;
        budget.renew(&proposal);
        self.rebalance.note(|progress| {
            progress.planned = progress.closed + budget.left;
            progress.imbalance = proposal.evening.before;
        });
        proposal
    }
}

/// Spaces connections evenly.
struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: Instant::now(),
        }
    }

    /// How many may be asked in one turn, at least one.
    fn in_a_turn(&self) -> usize {
        let fit = SOON.as_nanos() / self.interval.as_nanos().max(1);
        usize::try_from(fit).unwrap_or(usize::MAX).max(1)
    }

    async fn wait(&mut self) {
        sleep_until(self.next.into()).await;
        // A timer that fires late is made up for, a pause is not.
        let late = Instant::now() - LATE;
        self.next = self.next.max(late) + self.interval;
    }
}

/// How many may still be closed, and which of those that were have not come back.
struct Budget {
    left: u32,
    /// Their keys, in the order in which they were closed.
    pending: VecDeque<u64>,
    arrivals: u64,
    taking: Taking,
}

impl Budget {
    fn new(proposal: &Proposal) -> Self {
        Self {
            left: proposal.total(),
            pending: VecDeque::new(),
            arrivals: proposal.taking.arrivals(),
            taking: proposal.taking.clone(),
        }
    }

    fn close(&mut self, key: u64) {
        self.left = self.left.saturating_sub(1);
        self.pending.push_back(key);
    }

    /// Whoever comes may be one who was closed: nobody can tell.
    fn note_arrivals(&mut self, taking: &Taking) {
        let arrivals = taking.arrivals();
        if taking.is_same(&self.taking) {
            let came = usize::try_from(arrivals.saturating_sub(self.arrivals));
            let came = came.unwrap_or(usize::MAX).min(self.pending.len());
            self.pending.drain(..came);
        }
        self.arrivals = arrivals;
    }

    /// It becomes smaller where less is needed, and is made anew where the backends changed.
    fn renew(&mut self, proposal: &Proposal) {
        let total = proposal.total();
        if proposal.taking.is_same(&self.taking) {
            self.left = self.left.min(total);
        } else {
            self.left = total;
            self.arrivals = proposal.taking.arrivals();
            self.taking = proposal.taking.clone();
        }
    }
}

/// A connection that was asked to leave. Dropping it takes that back; whether it has gone by
/// then is counted all the same.
struct Asked {
    answer: Option<oneshot::Receiver<()>>,
    until: Instant,
    id: u64,
    moved_at: Instant,
    key: u64,
    rebalance: Arc<Rebalance>,
}

impl Asked {
    fn ask(candidate: &Candidate, cores: &[CoreHandle], rebalance: &Arc<Rebalance>) -> Self {
        let core = &cores[candidate.core];
        let answer = core.leave(candidate.id, &candidate.backend, Ended::Rebalanced);
        let now = Instant::now();
        Self {
            answer: Some(answer),
            until: candidate.quiet_at.map_or(now, |at| at.max(now)) + PATIENCE,
            id: candidate.id,
            moved_at: candidate.moved_at,
            key: candidate.key,
            rebalance: Arc::clone(rebalance),
        }
    }

    /// Waits until it has gone, or its time is over.
    async fn has_gone(&mut self) -> bool {
        if let Some(answer) = &mut self.answer {
            let answered = timeout_at(self.until.into(), &mut *answer).await;
            if let Ok(gone) = answered {
                self.answer = None;
                return self.count(gone.is_ok());
            }
        }
        self.take_back()
    }

    fn take_back(&mut self) -> bool {
        let Some(mut answer) = self.answer.take() else {
            return false;
        };
        answer.close();
        let gone = answer.try_recv().is_ok();
        self.count(gone)
    }

    fn count(&self, gone: bool) -> bool {
        if gone {
            self.rebalance.note(|progress| progress.closed += 1);
        }
        gone
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.take_back();
    }
}

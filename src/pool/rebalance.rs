//! A rebalance of a pool, as everybody sees it: what was asked for, how far it has come, how it
//! ended. What it does is in [`rebalance`](crate::rebalance).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::Pool;
use super::overrides::Stamp;
use crate::config::Rate;

/// The imbalance that is good enough where nobody says.
pub const TARGET: f64 = 0.1;
/// Connections that are closed in a second at most where nobody says.
pub const RATE: Rate = Rate::per_second(5);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wish {
    /// The imbalance that is good enough, from 0 to 1. Default 0.1.
    pub target: f64,
    /// Most connections that are closed in a time. Default 5/s.
    pub rate: Rate,
    /// Those first on which nothing has moved for longest, not the oldest. Default no.
    pub idle_first: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            target: TARGET,
            rate: RATE,
            idle_first: false,
        }
    }
}

/// How a rebalance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was to be closed is.
    Done,
    /// What is left was not quiet for so long that it gave up.
    NothingQuiet,
    /// Somebody stopped it, or the process stops.
    Stopped,
    /// Another one took its place.
    Replaced,
}

impl Outcome {
    /// In a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NothingQuiet => "nothing_quiet",
            Self::Stopped => "stopped",
            Self::Replaced => "replaced",
        }
    }
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Connections that are to be closed in all, as things stand.
    pub planned: u32,
    /// Those that were.
    pub closed: u32,
    /// When it was looked at last, counting redials under way where they will be.
    pub imbalance: f64,
    /// How it ended, and when; `None`: it goes on.
    pub ended: Option<(Outcome, SystemTime)>,
}

/// A rebalance that goes on, or the last one.
#[derive(Debug)]
pub struct Rebalance {
    /// What was asked for.
    pub wish: Wish,
    /// When, and by whom.
    pub stamp: Stamp,
    progress: Mutex<Progress>,
    stop: CancellationToken,
}

impl Rebalance {
    fn new(wish: Wish, stamp: Stamp, planned: u32, imbalance: f64) -> Arc<Self> {
        Arc::new(Self {
            wish,
            stamp,
            progress: Mutex::new(Progress {
                planned,
                imbalance,
                ..Progress::default()
            }),
            stop: CancellationToken::new(),
        })
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it goes on.
    pub fn goes_on(&self) -> bool {
        self.progress().ended.is_none()
    }

    /// Notes how far it has come.
    pub(crate) fn note(&self, note: impl FnOnce(&mut Progress)) {
        note(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends it, unless it has ended; whether this did.
    pub(crate) fn end(&self, outcome: Outcome) -> bool {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let first = progress.ended.is_none();
        if first {
            progress.ended = Some((outcome, SystemTime::now()));
        }
        drop(progress);
        self.stop.cancel();
        first
    }

    /// Completes when it has ended.
    pub(crate) async fn ended(&self) {
        self.stop.cancelled().await;
    }
}

impl Pool {
    /// The rebalance that goes on, or the last one.
    pub fn rebalance(&self) -> Option<Arc<Rebalance>> {
        let rebalance = self.rebalance.lock();
        rebalance.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins one, in the place of the one that goes on.
    pub(crate) fn begin_rebalance(
        &self,
        wish: Wish,
        stamp: Stamp,
        planned: u32,
        imbalance: f64,
    ) -> Arc<Rebalance> {
        let next = Rebalance::new(wish, stamp, planned, imbalance);
        let mut current = self
            .rebalance
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let last = current.replace(Arc::clone(&next));
        drop(current);
        if let Some(last) = last {
            last.end(Outcome::Replaced);
        }
        next
    }

    /// Stops the one that goes on; whether there was one.
    pub fn stop_rebalance(&self) -> bool {
        let current = self.rebalance();
        current.is_some_and(|current| current.end(Outcome::Stopped))
    }
}

//! The checks of a pool's backends.

use std::collections::HashSet;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio_util::sync::CancellationToken;

use super::{Check, Outcome, SetupError, Subject, Target, first_delay, run};
use crate::pool::{Backend, CheckResult, Pool};

/// What the checks of one pool need, made once: the files that it names are read here.
pub struct Checks {
    pool: Arc<Pool>,
    /// `None`: `kind = "none"`.
    check: Option<Arc<Check>>,
}

impl Checks {
    /// The checks of `pool`.
    ///
    /// # Errors
    /// [`SetupError`]: what the file says cannot be used.
    pub fn new(pool: Arc<Pool>) -> Result<Self, SetupError> {
        let check = Check::of(&pool.settings())?;
        Ok(Self::made(pool, check))
    }

    /// The checks of `pool` that were made before; `None`: it has none.
    pub fn made(pool: Arc<Pool>, check: Option<Check>) -> Self {
        let check = check.map(Arc::new);
        Self { pool, check }
    }

    /// Whose they are.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Starts one task for each backend, until `stop`, and keeps to what the pool has: checks of
    /// a backend that is added begin, those of one that is removed or put into maintenance end.
    /// Needs a `LocalSet`.
    ///
    /// All pools begin together, so positions in the first round are those within the pool:
    /// the first backends of every pool come first.
    pub fn spawn(self, stop: &CancellationToken) {
        let Some(check) = self.check else { return };
        let running = Running {
            pool: self.pool,
            check,
            stop: stop.clone(),
            tasks: Vec::new(),
        };
        tokio::task::spawn_local(running.follow());
    }
}

/// The checks of a pool that run.
struct Running {
    pool: Arc<Pool>,
    check: Arc<Check>,
    stop: CancellationToken,
    tasks: Vec<(Arc<Backend>, CancellationToken)>,
}

impl Running {
    async fn follow(mut self) {
        let mut changes = self.pool.changes();
        loop {
            changes.mark_unchanged();
            self.keep_to(&self.pool.checked_backends());
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    fn keep_to(&mut self, wanted: &[Arc<Backend>]) {
        let wanted_ones: HashSet<_> = wanted.iter().map(Arc::as_ptr).collect();
        self.tasks.retain(|(backend, stop)| {
            let stays = wanted_ones.contains(&Arc::as_ptr(backend));
            if !stays {
                stop.cancel();
            }
            stays
        });
        let running: HashSet<_> = self.tasks.iter().map(|(b, _)| Arc::as_ptr(b)).collect();
        let new = wanted.iter().filter(|b| !running.contains(&Arc::as_ptr(b)));
        let new: Vec<_> = new.collect();
        for (position, backend) in new.iter().enumerate() {
            self.begin(backend, position, new.len());
        }
    }

    fn begin(&mut self, backend: &Arc<Backend>, position: usize, of: usize) {
        let stop = self.stop.child_token();
        let target = Target::new(Arc::clone(&self.check), backend.address());
        let first = first_delay(position, of, &self.pool.settings().health);
        let subject = Checked {
            pool: Arc::clone(&self.pool),
            backend: Arc::clone(backend),
        };
        let rng = SmallRng::from_rng(&mut rand::rng());
        tokio::task::spawn_local(run(target, first, rng, subject, stop.clone()));
        self.tasks.push((Arc::clone(backend), stop));
    }
}

/// A backend as its checks see it.
struct Checked {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
}

impl Subject for Checked {
    fn unsettled(&self) -> bool {
        self.pool.is_unsettled(&self.backend)
    }

    async fn nudged(&self) {
        self.backend.nudged().await;
    }

    fn checked(&self, outcome: Outcome) {
        // A fault of this machine says nothing about the backend.
        if outcome.verdict().is_none() {
            return;
        }
        let check = CheckResult {
            at: outcome.at,
            took: outcome.took,
            error: outcome.result.err().map(|error| error.to_string()),
        };
        self.pool.checked(&self.backend, check);
    }
}

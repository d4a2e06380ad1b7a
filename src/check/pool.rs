//! The checks of a pool's backends.

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
        let check = Check::new(&pool.settings().health)?.map(Arc::new);
        Ok(Self { pool, check })
    }

    /// Starts one task for each backend, until `stop`. Needs a `LocalSet`.
    ///
    /// All pools begin together, so positions in the first round are those within the pool:
    /// the first backends of every pool come first.
    pub fn spawn(self, stop: &CancellationToken) {
        let Some(check) = self.check else { return };
        let settings = self.pool.settings();
        let backends = self.pool.snapshot().backends.clone();
        let count = backends.len();
        for (position, backend) in backends.into_iter().enumerate() {
            let target = Target::new(Arc::clone(&check), &backend.address);
            let first = first_delay(position, count, &settings.health);
            let subject = Checked {
                pool: Arc::clone(&self.pool),
                backend,
            };
            let rng = SmallRng::from_rng(&mut rand::rng());
            tokio::task::spawn_local(run(target, first, rng, subject, stop.clone()));
        }
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

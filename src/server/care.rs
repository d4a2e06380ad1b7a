//! What is done for each pool while it is there: its checks, its names, the clients that it holds,
//! what is due at a certain time, what live connections of a backend that is down are in for.

use std::rc::Rc;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{shed, tend};
use crate::check::Checks;
use crate::conn::CoreHandle;
use crate::pool::Pool;
use crate::resolve::{self, Resolver, System};

/// The tasks of one pool. Dropping it ends them.
pub(super) struct Care {
    pub(super) pool: Arc<Pool>,
    checks: CancellationToken,
    names: CancellationToken,
    rest: CancellationToken,
}

impl Care {
    /// Begins them. Checks, and questions to DNS, end with `halt` at the latest. Needs a
    /// `LocalSet`.
    pub(super) fn begin(
        checks: Checks,
        cores: &[CoreHandle],
        halt: &CancellationToken,
        resolver: &Rc<Resolver<System>>,
    ) -> Self {
        let pool = Arc::clone(checks.pool());
        let (rest, stop) = (CancellationToken::new(), halt.child_token());
        let names = halt.child_token();
        checks.spawn(&stop);
        let follow = resolve::follow(Arc::clone(&pool), Rc::clone(resolver));
        let until = names.clone().cancelled_owned();
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = until => {}
                () = follow => {}
            }
        });
        let tasks = {
            let (held, due, fallen) = (Arc::clone(&pool), Arc::clone(&pool), Arc::clone(&pool));
            let (rest, cores) = (rest.clone(), cores.to_vec());
            async move {
                tokio::select! {
                    () = rest.cancelled() => {}
                    () = held.tend() => {}
                    () = tend::keep_time(due, cores.clone()) => {}
                    () = shed::keep_shedding(fallen, cores) => {}
                }
            }
        };
        tokio::task::spawn_local(tasks);
        Self {
            pool,
            checks: stop,
            names,
            rest,
        }
    }

    /// Ends the checks that run, and begins these: what was found before stays.
    pub(super) fn check_anew(&mut self, checks: Checks, halt: &CancellationToken) {
        self.checks.cancel();
        self.checks = halt.child_token();
        checks.spawn(&self.checks);
    }
}

impl Drop for Care {
    fn drop(&mut self) {
        self.checks.cancel();
        self.names.cancel();
        self.rest.cancel();
    }
}

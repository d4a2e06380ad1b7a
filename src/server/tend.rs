//! What a pool has to do at a certain time: backends that wait for a check result count as up,
//! a pause ends, the connections of a drained backend have had their time.

use std::sync::Arc;
use std::time::Instant;

use crate::conn::CoreHandle;
use crate::conn::ending::Which;
use crate::metrics::Ended;
use crate::pool::{Backend, Pool};

/// Does all that until it is dropped.
pub(super) async fn keep_time(pool: Arc<Pool>, cores: Vec<CoreHandle>) {
    let mut changes = pool.changes();
    pool.begin(Instant::now());
    loop {
        changes.mark_unchanged();
        let due = pool.due(Instant::now());
        for backend in &due.overstayed {
            reset(&pool, backend, &cores).await;
        }
        tokio::select! {
            () = until(due.next) => {}
            changed = changes.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Resets what `backend` still has. Who is on the way to it is left to go elsewhere.
async fn reset(pool: &Pool, backend: &Arc<Backend>, cores: &[CoreHandle]) {
    let which = Which::EstablishedWith(Arc::clone(&backend.name));
    let mut closed = 0;
    for core in cores {
        let toll = core.end(&which, Some(Ended::DrainTimeout)).await;
        closed += toll.closed;
    }
    if closed > 0 {
        pool.count_reset(backend, closed as u64);
        let (pool, backend) = (&*pool.name, &*backend.name);
        tracing::warn!(
            pool,
            backend,
            closed,
            "drain_timeout is over, resetting what is left"
        );
    }
}

//! What of the running balancer a plan is made for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::admin::Configured;
use crate::config::Config;
use crate::plan::{LiveBackend, LivePool, LiveView};
use crate::pool::Pool;

/// The running balancer of this moment, for a plan with `file`.
pub(super) fn view(configured: &Configured, file: &Config) -> LiveView {
    let listeners = configured.every_listener().map(|listener| {
        let active = listener.origin.counters.active();
        (Arc::clone(&listener.origin.name), active)
    });
    let pools = configured.every_pool();
    LiveView {
        at: SystemTime::now(),
        listeners: listeners.collect(),
        pools: pools
            .map(|live| (Arc::clone(&live.name), pool(live, file)))
            .collect(),
    }
}

/// Removed backends of the pool are none any more to the plan, but their connections count.
fn pool(pool: &Arc<Pool>, file: &Config) -> LivePool {
    let settings = file.pool(&pool.name).cloned();
    let settings = settings.unwrap_or_else(|| pool.settings());
    let overview = pool.overview();
    let backends: HashMap<_, _> = overview
        .backends
        .iter()
        .map(|view| {
            let live = LiveBackend {
                active: view.backend.active().into(),
                state: view.state,
            };
            (Arc::clone(&view.backend.name), live)
        })
        .collect();
    LivePool {
        held: pool.held() as u64,
        drain_timeout: settings.drain_timeout,
        backends,
        names: pool.names(),
        overrides: pool.overrides(),
    }
}

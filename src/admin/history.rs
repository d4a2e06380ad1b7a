//! `GET /pools/P/backends/B/history`: why a backend is what it is.

use serde::Serialize;

use super::Running;
use super::error::Refusal;
use super::words::{At, Seconds};
use crate::pool::State;
use crate::pool::history::Entry;

/// The answer, oldest first.
#[derive(Debug, Serialize)]
pub(super) struct History {
    pool: String,
    backend: String,
    /// Since the start, those that are not kept any more included.
    transitions: u64,
    history: Vec<Transition>,
}

/// One change of a backend's state.
#[derive(Debug, Serialize)]
pub(super) struct Transition {
    at: At,
    from: State,
    to: State,
    cause: String,
    /// How long the check took that brought it about; null: none did.
    check_seconds: Option<Seconds>,
    by: String,
}

impl Transition {
    pub(super) fn of(entry: &Entry<State>) -> Self {
        Self {
            at: At(entry.at),
            from: entry.from,
            to: entry.to,
            cause: entry.cause.clone(),
            check_seconds: entry.check.map(Seconds),
            by: entry.by.clone().into_owned(),
        }
    }
}

impl History {
    /// Of one backend.
    pub(super) fn of(running: &Running, pool: &str, backend: &str) -> Result<Self, Refusal> {
        let Some(found) = running.pool(pool) else {
            return Err(no_pool(pool));
        };
        let mut views = found.overview().backends.into_iter();
        let view = views
            .find(|view| *view.backend.name == *backend)
            .ok_or_else(|| Refusal::not_found(format!("no backend {backend} in pool {pool}")))?;
        Ok(Self {
            pool: pool.to_owned(),
            backend: backend.to_owned(),
            transitions: view.transitions,
            history: view.history.iter().map(Transition::of).collect(),
        })
    }
}

/// There is no pool of that name.
pub(super) fn no_pool(name: &str) -> Refusal {
    Refusal::not_found(format!("no pool {name}"))
}

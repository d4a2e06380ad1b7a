//! `GET /pools/P/backends/B/history`: why a backend is what it is.

use serde::Serialize;

use super::Running;
use super::error::Refusal;
use super::words::{At, Seconds};
use crate::pool::State;
use crate::pool::history::Entry;

/// Pools that a refusal names at most.
const NAMED: usize = 20;

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
            return Err(no_pool(running, pool));
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

/// There is no pool of that name: which there are.
pub(super) fn no_pool(running: &Running, name: &str) -> Refusal {
    let configured = running.configured();
    let names: Vec<_> = configured.pools.iter().map(|pool| &*pool.name).collect();
    Refusal::not_found(format!("no pool {name}; {}", there_is(&names)))
}

fn there_is(names: &[&str]) -> String {
    match names.len() {
        0 => "there is none".to_owned(),
        1..=NAMED => format!("there is {}", names.join(", ")),
        all => {
            let first = names[..NAMED].join(", ");
            format!("there is {first} and {} more", all - NAMED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_the_first_are_said() {
        assert_eq!(there_is(&[]), "there is none");
        assert_eq!(there_is(&["a", "b"]), "there is a, b");
        let many = ["x"; NAMED + 2];
        assert!(there_is(&many).ends_with(", x and 2 more"));
    }
}

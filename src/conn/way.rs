//! Where the connections of a listener go.

use std::sync::Arc;
use std::time::Instant;

use super::visitor::Visitor;
use crate::admit::Admit;
use crate::config;
use crate::pool::Pool;

/// The rules of a listener for its connections, with the pools that they name. A reload
/// replaces it as one value.
#[derive(Debug)]
pub struct Way {
    /// `[listener.NAME]`.
    pub settings: Arc<config::Listener>,
    /// Where connections go that no route takes.
    pub pool: Option<Arc<Pool>>,
    /// Who may come in at all; `None`: everyone.
    pub admit: Option<Arc<Admit>>,
}

impl Way {
    /// That of a listener that nobody came through yet.
    pub fn new(settings: Arc<config::Listener>, pool: Option<Arc<Pool>>) -> Self {
        Self {
            admit: Admit::new(&settings),
            settings,
            pool,
        }
    }

    /// The same instead of another one, of whose clients it goes on to know.
    #[must_use]
    pub fn after(self, old: &Self, now: Instant) -> Self {
        let admit = Admit::renewed(old.admit.as_deref(), &self.settings, now);
        Self { admit, ..self }
    }

    /// The pool that a connection goes to; `None`: no route takes it.
    ///
    /// The one place that says so, for connections and for whoever asks about one: there are no
    /// routes yet, so that it is the listener's pool.
    pub fn route(&self, _visitor: &Visitor) -> Option<Arc<Pool>> {
        self.pool.clone()
    }

    /// Whether it has the same rules and the same pools.
    pub fn is_same(&self, other: &Self) -> bool {
        let same_pool = match (&self.pool, &other.pool) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_pool && self.settings == other.settings
    }
}

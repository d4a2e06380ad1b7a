//! What happened to a backend lately: a bounded list for the operator who asks why.
//!
//! Pure: times come in. Generic over the state, so that states by checks and states as a whole
//! can both be told.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Entries that are kept; the oldest go first.
pub const KEPT: usize = 64;

/// One change of state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<S> {
    /// When.
    pub at: SystemTime,
    /// The state before.
    pub from: S,
    /// The state since.
    pub to: S,
    /// Why, in one line.
    pub cause: String,
    /// How long the check took that brought it about, if one did.
    pub check: Option<Duration>,
    /// Who brought it about: `checks`, `traffic`, `reload`, a peer of the admin endpoint.
    pub by: Cow<'static, str>,
}

/// The last [`KEPT`] changes, and how many there have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History<S> {
    entries: VecDeque<Entry<S>>,
    total: u64,
}

impl<S> Default for History<S> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            total: 0,
        }
    }
}

impl<S> History<S> {
    /// Adds the newest.
    pub fn push(&mut self, entry: Entry<S>) {
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.total += 1;
    }

    /// What is kept, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry<S>> + ExactSizeIterator {
        self.entries.iter()
    }

    /// Changes since the start, those no longer kept included.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry<u64> {
        Entry {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(n),
            from: n,
            to: n + 1,
            cause: format!("cause {n}"),
            check: None,
            by: Cow::Borrowed("checks"),
        }
    }

    #[test]
    fn the_newest_64_are_kept_in_order_and_all_are_counted() {
        let mut history = History::default();
        (0..100).for_each(|n| history.push(entry(n)));
        assert_eq!(history.total(), 100);
        let kept: Vec<u64> = history.entries().map(|entry| entry.from).collect();
        assert_eq!(kept, (36..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_last_three_can_be_read_from_the_end() {
        let mut history = History::default();
        (0..5).for_each(|n| history.push(entry(n)));
        let last: Vec<u64> = history.entries().rev().take(3).map(|e| e.from).collect();
        assert_eq!(last, [4, 3, 2]);
    }
}

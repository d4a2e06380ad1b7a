//! What one core counts for one listener.

use super::ledger::{Named, by_word};
use super::{Counter, Ended, PerCore, Rejected};

/// Counts of one listener in one core. Every accepted socket is in `total`, and once it is
/// gone in exactly one of `rejected` and `ended`.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Sockets accepted.
    pub total: Counter,
    /// Payload that backends accepted, in bytes.
    pub bytes_in: Counter,
    /// Payload that clients accepted, in bytes.
    pub bytes_out: Counter,
    /// By [`Ended`].
    pub ended: [Counter; Ended::COUNT],
    /// By [`Rejected`].
    pub rejected: [Counter; Rejected::COUNT],
}

impl PerCore<ListenerCounters> {
    /// Connections that are open now: accepted, and neither refused nor ended.
    pub fn active(&self) -> u64 {
        // What left is read first: a connection that comes and goes meanwhile is then counted
        // as open, never below zero.
        let left = self.sum(|cell| {
            let ended = cell.ended.iter().chain(&cell.rejected);
            ended.map(Counter::value).sum()
        });
        self.sum(|cell| cell.total.value()).saturating_sub(left)
    }
}

impl Named for ListenerCounters {
    fn each<'a>(&'a self, tell: &mut dyn FnMut(&str, &'a Counter)) {
        tell("total", &self.total);
        tell("bytes_in", &self.bytes_in);
        tell("bytes_out", &self.bytes_out);
        by_word("ended", Ended::WORDS, &self.ended, tell);
        by_word("rejected", Rejected::WORDS, &self.rejected, tell);
    }
}

//! Ending a connection at a quiet moment, when neither side is in the middle of something.
//!
//! Isobar does not know the protocol, so it goes by what it sees: the last byte came from the
//! backend, so nobody waits for an answer; all is acknowledged, so nothing is lost; no side has
//! sent FIN; and nothing has moved for `quiet`. A client that waits for a slow answer has sent
//! the last byte and is never quiet, nor is a connection on which no byte has moved yet. A
//! backend that answers in parts, with pauses longer than `quiet`, looks quiet in between.
//!
//! Whoever wants a connection to leave only says so; its own task ends it when the moment comes.
//! It tells whoever asked, and tells them first: who has given up meanwhile gets no connection
//! ended, so that a wish can be withdrawn at any time, and is counted exactly.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::core::{Command, CoreHandle, Entry};
use crate::metrics::Ended;

/// Why a connection is to end at a quiet moment, and who is told.
#[derive(Debug)]
pub struct Leaving {
    ended: Ended,
    /// `None`: nobody can take it back.
    asked: Option<oneshot::Sender<()>>,
}

impl Leaving {
    /// Whether it can be taken back.
    pub(super) fn can_be_withdrawn(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether it was.
    pub(super) fn was_withdrawn(&self) -> bool {
        self.asked.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    /// The moment has come: as what the connection is to end; `None`: nobody wants it any more.
    pub(super) fn go(self) -> Option<Ended> {
        let wanted = self.asked.is_none_or(|asked| asked.send(()).is_ok());
        wanted.then_some(self.ended)
    }
}

/// What a core is told.
#[derive(Debug)]
pub struct Leave {
    id: u64,
    backend: Arc<str>,
    leaving: Leaving,
}

impl CoreHandle {
    /// Has the connection of that id end as `ended` at the first quiet moment, if it is with the
    /// backend whose name this is, by its very pointer.
    ///
    /// The answer comes in that moment, just before the end. Dropping it, or closing it, takes
    /// the wish back. A connection that ends otherwise, or is not there, leaves it unanswered.
    pub fn leave(&self, id: u64, backend: &Arc<str>, ended: Ended) -> oneshot::Receiver<()> {
        let (asked, answer) = oneshot::channel();
        let asked = Some(asked);
        self.tell(Command::Leave(Leave {
            id,
            backend: Arc::clone(backend),
            leaving: Leaving { ended, asked },
        }));
        answer
    }
}

impl Leave {
    /// Passes it on to the connection, found by its id.
    pub(super) fn pass_on(self, find: impl FnOnce(u64) -> Option<Rc<Entry>>) {
        let Some(entry) = find(self.id) else { return };
        let there = entry.place().backend.clone();
        if there.is_some_and(|there| Arc::ptr_eq(&there, &self.backend)) {
            entry.leave(self.leaving);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn entry(backend: &Arc<str>) -> Rc<Entry> {
        let client = "10.0.0.1:1000".parse().expect("an address");
        let entry = Entry::new("web".into(), client, Instant::now()).numbered(7);
        entry.set_backend(Some(Arc::clone(backend)));
        Rc::new(entry)
    }

    fn ask(entry: &Rc<Entry>, id: u64, backend: &Arc<str>) -> oneshot::Receiver<()> {
        let (core, mut commands) = CoreHandle::new();
        let answer = core.leave(id, backend, Ended::Rebalanced);
        let Ok(Command::Leave(leave)) = commands.try_recv() else {
            unreachable!("it was told just now");
        };
        leave.pass_on(|id| (id == 7).then(|| Rc::clone(entry)));
        answer
    }

    #[test]
    fn who_asked_is_told_in_the_moment_it_goes() {
        let b1: Arc<str> = "b1".into();
        let entry = entry(&b1);
        let mut answer = ask(&entry, 7, &b1);
        assert!(entry.is_leaving());
        answer.try_recv().expect_err("it has not gone yet");
        assert_eq!(entry.take_leave(), Some(Ended::Rebalanced));
        answer.try_recv().expect("told");
        assert!(!entry.is_leaving());
    }

    #[test]
    fn a_wish_that_was_taken_back_ends_nothing() {
        let b1: Arc<str> = "b1".into();
        let entry = entry(&b1);
        drop(ask(&entry, 7, &b1));
        assert!(!entry.is_leaving());
        assert_eq!(entry.take_leave(), None);
        // A later one stands.
        let _answer = ask(&entry, 7, &b1);
        assert_eq!(entry.take_leave(), Some(Ended::Rebalanced));
    }

    #[test]
    fn only_the_connection_that_was_meant_is_asked() {
        let (b1, namesake): (Arc<str>, Arc<str>) = ("b1".into(), "b1".into());
        let entry = entry(&b1);
        for (id, backend) in [(8, &b1), (7, &namesake)] {
            let mut answer = ask(&entry, id, backend);
            assert!(!entry.is_leaving());
            answer.try_recv().expect_err("nobody heard of it");
        }
    }

    #[test]
    fn a_wish_that_stands_is_not_replaced_by_one_that_may_be_withdrawn() {
        let b1: Arc<str> = "b1".into();
        let entry = entry(&b1);
        entry.leave(Leaving {
            ended: Ended::MaxAge,
            asked: None,
        });
        drop(ask(&entry, 7, &b1));
        assert_eq!(entry.take_leave(), Some(Ended::MaxAge));
    }
}

//! Which connections of a backend have been idle for longest: asked of a core when some of them
//! are to be ended, answered in portions, as [`listing`](super::listing) looks at them.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::core::{Command, CoreHandle, Entry, Phase};
use super::ending::is_established_with;
use super::listing::PORTION;

/// A connection on which nothing has moved since then. The longer, the less it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Idle {
    /// When the last byte or FIN moved.
    pub since: Instant,
    /// Its id.
    pub id: u64,
}

/// What a core is asked for.
#[derive(Debug)]
pub struct Question {
    backend: Arc<str>,
    by: Instant,
    /// Only ids above this.
    after: u64,
    most: usize,
    reply: oneshot::Sender<Portion>,
}

/// What a core has seen in one go.
#[derive(Debug, Default)]
struct Portion {
    found: Vec<Idle>,
    /// The last id that was looked at, if there are more.
    rest: Option<u64>,
}

impl CoreHandle {
    /// The `most` connections of the core that have been idle for longest, longest first, of
    /// those that were accepted `by` then and are established with the backend whose name this
    /// is, by its very pointer. None if the core is gone.
    pub async fn idlest(&self, backend: &Arc<str>, by: Instant, most: usize) -> Vec<Idle> {
        let mut found = Vec::new();
        let mut rest = Some(0);
        while let Some(after) = rest {
            let (reply, answer) = oneshot::channel();
            self.tell(Command::Idlest(Question {
                backend: Arc::clone(backend),
                by,
                after,
                most,
                reply,
            }));
            let mut portion = answer.await.unwrap_or_default();
            found.append(&mut portion.found);
            keep_idlest(&mut found, most);
            rest = portion.rest;
        }
        found
    }
}

/// Leaves the `most` that have been idle for longest, longest first.
fn keep_idlest(found: &mut Vec<Idle>, most: usize) {
    found.sort_unstable();
    found.truncate(most);
}

impl Question {
    /// Looks at the next portion of a core's table, whose ids grow in order of arrival.
    pub(super) fn answer(self, table: &BTreeMap<u64, Rc<Entry>>) {
        let portion = self.portion(table);
        // Whoever asked may have gone away meanwhile.
        let _ = self.reply.send(portion);
    }

    fn portion(&self, table: &BTreeMap<u64, Rc<Entry>>) -> Portion {
        let mut entries = table.range((Excluded(self.after), Unbounded));
        let mut last = self.after;
        let mut found = Vec::new();
        for (id, entry) in entries.by_ref().take(PORTION) {
            last = *id;
            if self.is_meant(entry) {
                let since = entry.last_moved();
                found.push(Idle { since, id: *id });
            }
        }
        keep_idlest(&mut found, self.most);
        Portion {
            found,
            rest: entries.next().map(|_| last),
        }
    }

    /// Who is being ended already is left out.
    fn is_meant(&self, entry: &Entry) -> bool {
        let lives = entry.phase() != Phase::Closing && entry.parting().is_none();
        lives && entry.accepted() <= self.by && is_established_with(entry, &self.backend)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Ended;

    /// A table of connections to `backend`, each silent for so many seconds.
    fn table(backend: &Arc<str>, silent: &[u64], now: Instant) -> BTreeMap<u64, Rc<Entry>> {
        let entry = |(index, seconds): (usize, &u64)| {
            let client = "10.0.0.1:1000".parse().expect("an address");
            let id = index as u64 + 1;
            let since = now - Duration::from_secs(*seconds);
            let entry = Entry::new("web".into(), client, since).numbered(id);
            entry.set_backend(Some(Arc::clone(backend)));
            entry.set_phase(Phase::Relaying);
            (id, Rc::new(entry))
        };
        silent.iter().enumerate().map(entry).collect()
    }

    /// Asks as a handle does, and answers as a core does.
    fn ask(
        table: &BTreeMap<u64, Rc<Entry>>,
        backend: &Arc<str>,
        by: Instant,
        most: usize,
    ) -> Vec<u64> {
        let (core, mut commands) = CoreHandle::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async {
            let answering = async {
                while let Some(Command::Idlest(question)) = commands.recv().await {
                    question.answer(table);
                }
            };
            tokio::select! {
                found = core.idlest(backend, by, most) => found.iter().map(|idle| idle.id).collect(),
                () = answering => unreachable!("the handle is alive"),
            }
        })
    }

    #[test]
    fn the_longest_silent_come_first_and_no_more_than_are_wanted() {
        let (b1, now): (Arc<str>, _) = ("b1".into(), Instant::now());
        let table = table(&b1, &[5, 50, 1, 500], now);
        assert_eq!(ask(&table, &b1, now, 3), [4, 2, 1]);
        assert_eq!(ask(&table, &b1, now, 0), [0; 0]);
        assert_eq!(ask(&table, &b1, now, 9), [4, 2, 1, 3]);
        let earlier = now - Duration::from_secs(20);
        assert_eq!(ask(&table, &b1, earlier, 9), [4, 2], "who came by then");
    }

    #[test]
    fn who_is_elsewhere_on_the_way_or_being_ended_is_left_out() {
        let (b1, now): (Arc<str>, _) = ("b1".into(), Instant::now());
        let table = table(&b1, &[5, 4, 3, 2], now);
        table[&1].set_backend(Some("b1".into()));
        table[&2].set_phase(Phase::Connecting);
        table[&3].part(Ended::BackendDown);
        assert_eq!(ask(&table, &b1, now, 9), [4]);
    }

    #[test]
    fn of_thousands_the_idlest_are_found_wherever_they_are() {
        let (b1, now): (Arc<str>, _) = ("b1".into(), Instant::now());
        let mut silent = vec![1; 4 * PORTION];
        silent[3 * PORTION + 7] = 100;
        silent[PORTION] = 50;
        let found = ask(&table(&b1, &silent, now), &b1, now, 2);
        assert_eq!(found, [3 * PORTION as u64 + 8, PORTION as u64 + 1]);
    }
}

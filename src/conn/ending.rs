//! Ending some of a core's connections: asked by the admin endpoint, by the clock and by checks,
//! done in portions, as [`listing`](super::listing) looks at them.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::core::{Command, CoreHandle, Entry, Phase};
use super::listing::{Filter, PORTION};
use crate::metrics::Ended;

/// Which connections are meant.
#[derive(Clone, Debug)]
pub enum Which {
    /// The one of this id.
    Id(u64),
    /// Those that a filter takes at that time.
    Matching(Arc<Filter>, Instant),
    /// Those that are established with the backend whose name this is, by its very pointer: not
    /// those of another that had the same name.
    EstablishedWith(Arc<str>),
    /// Those of them that were accepted by then.
    EstablishedBy(Arc<str>, Instant),
    /// The established ones of these ids, at most [`PORTION`].
    Each(Arc<[u64]>),
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Toll {
    /// Connections that were meant.
    pub matched: usize,
    /// Of those, how many were ended by this.
    pub closed: usize,
}

/// What a core is told.
#[derive(Debug)]
pub struct Order {
    which: Which,
    /// As which they end; `None`: they are counted, and go on.
    ended: Option<Ended>,
    /// Only ids above this.
    after: u64,
    reply: oneshot::Sender<Portion>,
}

/// What a core has done in one go.
#[derive(Debug, Default)]
struct Portion {
    toll: Toll,
    /// The last id that was looked at, if there are more.
    rest: Option<u64>,
}

impl CoreHandle {
    /// Ends the connections of the core that are meant; with no `ended` counts them. None if
    /// the core is gone.
    pub async fn end(&self, which: &Which, ended: Option<Ended>) -> Toll {
        let mut toll = Toll::default();
        let mut rest = Some(0);
        while let Some(after) = rest {
            let (reply, answer) = oneshot::channel();
            self.tell(Command::End(Order {
                which: which.clone(),
                ended,
                after,
                reply,
            }));
            let portion = answer.await.unwrap_or_default();
            toll.matched += portion.toll.matched;
            toll.closed += portion.toll.closed;
            rest = portion.rest;
        }
        toll
    }
}

impl Order {
    /// Does the next portion of a core's table, whose ids grow in order of arrival.
    pub(super) fn obey(self, table: &BTreeMap<u64, Rc<Entry>>) {
        let portion = self.portion(table);
        // Whoever asked may have gone away meanwhile.
        let _ = self.reply.send(portion);
    }

    fn portion(&self, table: &BTreeMap<u64, Rc<Entry>>) -> Portion {
        let mut portion = Portion::default();
        let named = match &self.which {
            Which::Id(id) => Some(std::slice::from_ref(id)),
            Which::Each(ids) => Some(&**ids),
            _ => None,
        };
        if let Some(named) = named {
            let named = named.iter().filter_map(|id| table.get(id));
            let meant = named.filter(|entry| self.which.takes(entry));
            meant.for_each(|entry| self.count(entry, &mut portion));
            return portion;
        }
        let mut entries = table.range((Excluded(self.after), Unbounded));
        let mut last = self.after;
        for (id, entry) in entries.by_ref().take(PORTION) {
            last = *id;
            if self.which.takes(entry) {
                self.count(entry, &mut portion);
            }
        }
        portion.rest = entries.next().map(|_| last);
        portion
    }

    fn count(&self, entry: &Entry, portion: &mut Portion) {
        portion.toll.matched += 1;
        let closed = match self.ended {
            // What the backend has said before it went down is delivered.
            Some(ended @ Ended::BackendDown) => entry.part(ended),
            Some(ended) => entry.end(ended),
            None => false,
        };
        portion.toll.closed += usize::from(closed);
    }
}

impl Which {
    fn takes(&self, entry: &Entry) -> bool {
        match self {
            Self::Id(id) => entry.id() == *id,
            Self::Matching(filter, now) => filter.takes(entry, *now),
            Self::EstablishedWith(name) => is_established_with(entry, name),
            Self::EstablishedBy(name, then) => {
                entry.accepted() <= *then && is_established_with(entry, name)
            }
            Self::Each(_) => is_established(entry),
        }
    }
}

fn is_established(entry: &Entry) -> bool {
    let phase = entry.phase();
    matches!(phase, Phase::Relaying | Phase::HalfClosed | Phase::Closing)
}

pub(super) fn is_established_with(entry: &Entry, name: &Arc<str>) -> bool {
    let place = entry.place();
    let there = place.backend.as_ref();
    is_established(entry) && there.is_some_and(|there| Arc::ptr_eq(there, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[&Arc<str>], phase: Phase) -> BTreeMap<u64, Rc<Entry>> {
        let entry = |(index, name): (usize, &&Arc<str>)| {
            let client = "10.0.0.1:1000".parse().expect("an address");
            let id = index as u64 + 1;
            let entry = Entry::new("web".into(), client, Instant::now()).numbered(id);
            entry.set_pool("web".into());
            entry.set_backend(Some(Arc::clone(name)));
            entry.set_phase(phase);
            (id, Rc::new(entry))
        };
        names.iter().enumerate().map(entry).collect()
    }

    /// Tells as a handle does, and obeys as a core does.
    fn end(table: &BTreeMap<u64, Rc<Entry>>, which: &Which, ended: Option<Ended>) -> Toll {
        let (core, mut commands) = CoreHandle::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(async {
            let obeying = async {
                while let Some(Command::End(order)) = commands.recv().await {
                    order.obey(table);
                }
            };
            tokio::select! {
                toll = core.end(which, ended) => toll,
                () = obeying => unreachable!("the handle is alive"),
            }
        })
    }

    fn toll(matched: usize, closed: usize) -> Toll {
        Toll { matched, closed }
    }

    #[test]
    fn a_namesake_and_who_is_on_the_way_are_left_alone() {
        let (old, new): (Arc<str>, Arc<str>) = ("b1".into(), "b1".into());
        let which = Which::EstablishedWith(Arc::clone(&old));
        let drained = Some(Ended::DrainTimeout);
        let all = table(&[&old, &new, &old], Phase::Relaying);
        assert_eq!(end(&all, &which, drained), toll(2, 2));
        assert_eq!(end(&all, &which, drained), toll(2, 0), "once is enough");
        let dialling = table(&[&old, &old], Phase::Connecting);
        assert_eq!(end(&dialling, &which, drained), toll(0, 0));
        let held = table(&[&old], Phase::Held);
        assert_eq!(end(&held, &which, drained), toll(0, 0));
    }

    #[test]
    fn those_of_a_backend_that_is_down_part_and_who_came_later_does_not() {
        let b1: Arc<str> = "b1".into();
        let all = table(&[&b1, &b1], Phase::Relaying);
        let down = Some(Ended::BackendDown);
        let earlier = Instant::now() - std::time::Duration::from_secs(1);
        let before = Which::EstablishedBy(Arc::clone(&b1), earlier);
        assert_eq!(end(&all, &before, down), toll(0, 0));
        let by_now = Which::EstablishedBy(b1, Instant::now());
        assert_eq!(end(&all, &by_now, down), toll(2, 2));
        assert_eq!(end(&all, &by_now, down), toll(2, 0), "once is enough");
        assert!(all.values().all(|entry| entry.ending().is_none()));
        assert!(all.values().all(|entry| entry.parting() == down));
    }

    #[test]
    fn of_several_ids_those_that_are_there_and_established_are_ended() {
        let b1: Arc<str> = "b1".into();
        let all = table(&[&b1, &b1, &b1], Phase::Relaying);
        all[&2].set_phase(Phase::Connecting);
        let these = Which::Each([1, 2, 9].into());
        assert_eq!(end(&all, &these, Some(Ended::BackendDown)), toll(1, 1));
        assert_eq!(all[&1].parting(), Some(Ended::BackendDown));
        assert_eq!(end(&all, &Which::Each([].into()), None), toll(0, 0));
    }

    #[test]
    fn thousands_are_ended_in_portions_and_none_is_missed() {
        let name: Arc<str> = "b1".into();
        let all = table(&[&name; 9 * PORTION / 2], Phase::Relaying);
        let filter = Filter {
            backend: Some("b1".to_owned()),
            ..Filter::default()
        };
        let which = Which::Matching(Arc::new(filter), Instant::now());
        assert_eq!(end(&all, &which, None), toll(all.len(), 0));
        assert_eq!(end(&all, &Which::Id(7), Some(Ended::Killed)), toll(1, 1));
        assert_eq!(end(&all, &Which::Id(0), Some(Ended::Killed)), toll(0, 0));
        let closed = all.len() - 1;
        assert_eq!(
            end(&all, &which, Some(Ended::Killed)),
            toll(all.len(), closed)
        );
    }
}

//! How well the network carries a connection to its backend, by what the kernel knows of it: asked
//! now and then, of connections that last.
//!
//! To ask costs a system call, so no connection is asked for being there. Each core walks through
//! its table, [`LOOKED_AT`] connections in a step, and wakes at most [`ASKED`] of those that it
//! finds; each asks the kernel at its next poll, as only its own task has its socket. The next step
//! comes after [`PAUSE`], and the next walk begins [`ROUND`] after the last one began, or when that
//! has come to its end: so every connection has its turn, however many there are, no step looks at
//! more of them than a listing does at once, and no core asks more than 128 connections a second.
//!
//! Not asked are connections that are younger than [`OLD_ENOUGH`] (those of a balancer that sees
//! tens of thousands of them in a second never are), and those of which nothing has moved since the
//! kernel said that everything is acknowledged: what is idle costs a look and no call. Who was asked
//! once asks again at its end, so that what is counted of it is complete; who never was does not.
//!
//! Counted is what has changed since the last time: no byte is counted twice, and a round-trip
//! time only if something was acknowledged meanwhile, as the kernel goes on telling the last one
//! that it measured.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::core::{Core, Entry, Phase};
use crate::net::{Kind, TcpInfo};
use crate::pool::quality::{Sample, Sent};

/// Connections that are looked at in a step, as many as for a list of them.
const LOOKED_AT: usize = 512;
/// Connections that are asked in a step. To ask takes a task some microseconds.
const ASKED: usize = 32;
/// Between two steps, so that traffic sees one step of delay at most.
const PAUSE: Duration = Duration::from_millis(250);
/// The shortest time between two samples of a connection.
const ROUND: Duration = Duration::from_secs(1);
/// Of younger connections nothing is asked.
const OLD_ENOUGH: Duration = Duration::from_secs(1);

/// What was counted of a connection: a later sample adds what has come since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    sent: u64,
    retransmitted: u64,
    acked: Option<u64>,
}

/// Whether and when a connection is to ask the kernel.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    turn: Cell<Turn>,
    last: RefCell<Option<Box<Last>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// The kernel has nothing to tell of its backend's socket, or it has none.
    #[default]
    Never,
    /// It is not its turn.
    NotNow,
    /// It asks at its next poll.
    Now,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    /// Everything was acknowledged, so that nothing changes unless something moves.
    settled: bool,
    counted: Counted,
}

impl Sampling {
    /// One that goes on where another process has left it.
    pub(super) fn again(counted: Counted, now: Instant) -> Self {
        let last = Last {
            at: now,
            settled: false,
            counted,
        };
        Self {
            turn: Cell::default(),
            last: RefCell::new(Some(Box::new(last))),
        }
    }

    /// It has a new backend, by a socket of this kind.
    pub(super) fn begin(&self, kind: Kind) {
        self.last.replace(None);
        self.go_on(kind);
    }

    /// It has the backend that it had, by a socket of this kind.
    pub(super) fn go_on(&self, kind: Kind) {
        self.turn.set(match kind {
            Kind::Tcp => Turn::NotNow,
            Kind::Unix => Turn::Never,
        });
    }

    /// Whether the kernel is to be asked now.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.turn.get() == Turn::Now
    }

    /// Whether it was asked before.
    #[inline]
    pub(super) fn has_begun(&self) -> bool {
        self.last.borrow().is_some()
    }

    /// What was counted, for the process that goes on with it.
    pub(super) fn counted(&self) -> Option<Counted> {
        self.last.borrow().as_ref().map(|last| last.counted)
    }

    /// What the kernel says now, less what was counted. `None`: it says nothing, and is not
    /// asked again.
    pub(super) fn take(&self, info: Option<TcpInfo>, now: Instant) -> Option<Sample> {
        let Some(info) = info else {
            self.turn.set(Turn::Never);
            return None;
        };
        self.turn.set(Turn::NotNow);
        let mut last = self.last.borrow_mut();
        let before = last.as_ref().map(|last| last.counted);
        let (sample, counted) = since(before, &info);
        let newest = Last {
            at: now,
            settled: info.settled,
            counted,
        };
        match &mut *last {
            Some(last) => **last = newest,
            None => *last = Some(Box::new(newest)),
        }
        Some(sample)
    }

    /// Whether there may be something new.
    fn is_worth_it(&self, moved_at: Instant) -> bool {
        let last = self.last.borrow();
        let known = |last: &Last| last.settled && moved_at < last.at;
        self.turn.get() == Turn::NotNow && !last.as_deref().is_some_and(known)
    }

    fn ask(&self) {
        self.turn.set(Turn::Now);
    }
}

/// What `info` adds to what was counted `before`, and what is counted then.
fn since(before: Option<Counted>, info: &TcpInfo) -> (Sample, Counted) {
    let known = before.unwrap_or_default();
    let counted = Counted {
        sent: info.sent.unwrap_or(known.sent),
        retransmitted: info.retransmitted.unwrap_or(known.retransmitted),
        acked: info.acked,
    };
    // A kernel that does not say what was acknowledged is taken at its word each time.
    let measured = before.is_none() || info.acked.is_none() || info.acked != known.acked;
    let sample = Sample {
        rtt: info.rtt.filter(|_| measured),
        delivery_rate: info.delivery_rate.filter(|_| measured),
        sent: Sent {
            bytes: counted.sent.saturating_sub(known.sent),
            retransmitted: counted.retransmitted.saturating_sub(known.retransmitted),
        },
    };
    (sample, counted)
}

/// Has the connections of a core be sampled in turn, for good.
pub async fn keep_sampling(core: Rc<Core>) {
    let timers = Rc::clone(core.timers());
    loop {
        let next_round = Instant::now() + ROUND;
        let mut rest = Some(0);
        while let Some(after) = rest {
            rest = core.ask_for_samples(after, Instant::now());
            if rest.is_some() {
                timers.sleep(PAUSE).await;
            }
        }
        timers.sleep_until(next_round).await;
    }
}

/// Asks some of the connections of a table, of those with ids above `after`, in the order of
/// their arrival; the last that was looked at, if there are more.
pub(super) fn ask(table: &BTreeMap<u64, Rc<Entry>>, after: u64, now: Instant) -> Option<u64> {
    let mut entries = table.range((Excluded(after), Unbounded));
    let (mut last, mut asked) = (after, 0);
    for (id, entry) in entries.by_ref().take(LOOKED_AT) {
        last = *id;
        if is_meant(entry, now) {
            entry.sampling().ask();
            entry.wake();
            asked += 1;
        }
        if asked == ASKED {
            break;
        }
    }
    entries.next().map(|_| last)
}

fn is_meant(entry: &Entry, now: Instant) -> bool {
    let established = matches!(entry.phase(), Phase::Relaying | Phase::HalfClosed);
    let age = now.saturating_duration_since(entry.accepted());
    established && age >= OLD_ENOUGH && entry.sampling().is_worth_it(entry.last_moved())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(sent: u64, retransmitted: u64, acked: u64) -> TcpInfo {
        TcpInfo {
            rtt: Some(Duration::from_micros(100)),
            acked: Some(acked),
            sent: Some(sent),
            retransmitted: Some(retransmitted),
            delivery_rate: Some(1000),
            settled: sent - retransmitted == acked,
        }
    }

    fn sent(bytes: u64, retransmitted: u64) -> Sent {
        Sent {
            bytes,
            retransmitted,
        }
    }

    /// A connection that has been relayed for so many seconds, all of them silent.
    fn entry(id: u64, age: u64, now: Instant) -> (u64, Rc<Entry>) {
        let client = "10.0.0.1:1000".parse().expect("an address");
        let accepted = now - Duration::from_secs(age);
        let entry = Entry::new("web".into(), client, accepted).numbered(id);
        entry.set_phase(Phase::Relaying);
        entry.sampling().begin(Kind::Tcp);
        (id, Rc::new(entry))
    }

    fn table(n: u64, now: Instant) -> BTreeMap<u64, Rc<Entry>> {
        (1..=n).map(|id| entry(id * 2, 9, now)).collect()
    }

    /// The ids of those who are asked, who ask the kernel then: all is quiet there.
    fn due(table: &BTreeMap<u64, Rc<Entry>>, now: Instant) -> Vec<u64> {
        let due = table.iter().filter(|(_, entry)| entry.sampling().is_due());
        due.map(|(id, entry)| {
            entry.sampling().take(Some(info(9, 0, 9)), now);
            *id
        })
        .collect()
    }

    #[test]
    fn a_sample_has_what_came_since_the_last_one() {
        let (sampling, now) = (Sampling::default(), Instant::now());
        let first = sampling.take(Some(info(1000, 100, 800)), now);
        let first = first.expect("a sample");
        assert_eq!(first.sent, sent(1000, 100));
        assert_eq!(first.rtt, Some(Duration::from_micros(100)));
        let second = sampling.take(Some(info(1500, 110, 1390)), now);
        assert_eq!(second.expect("a sample").sent, sent(500, 10));
        let third = sampling.take(Some(info(1500, 110, 1390)), now);
        assert_eq!(third, Some(Sample::default()), "nothing was measured");
    }

    #[test]
    fn what_the_kernel_does_not_know_changes_nothing() {
        let (sampling, now) = (Sampling::default(), Instant::now());
        sampling.take(Some(info(1000, 100, 800)), now);
        let unknown = TcpInfo {
            sent: None,
            retransmitted: None,
            acked: None,
            delivery_rate: None,
            ..info(0, 0, 0)
        };
        let sample = sampling.take(Some(unknown), now).expect("a sample");
        assert_eq!(sample.sent, Sent::default());
        assert_eq!((sample.rtt, sample.delivery_rate), (unknown.rtt, None));
    }

    #[test]
    fn another_backend_begins_anew_and_a_move_does_not() {
        let (sampling, now) = (Sampling::default(), Instant::now());
        sampling.take(Some(info(1000, 100, 900)), now);
        let counted = sampling.counted().expect("it was sampled");
        let text = serde_json::to_string(&counted).expect("JSON");
        let counted = serde_json::from_str(&text).expect("the same");
        let moved = Sampling::again(counted, now);
        moved.go_on(Kind::Tcp);
        let sample = moved.take(Some(info(1001, 100, 901)), now);
        assert_eq!(sample.expect("a sample").sent, sent(1, 0));
        sampling.begin(Kind::Tcp);
        assert!(!sampling.has_begun());
        let sample = sampling.take(Some(info(7, 0, 7)), now);
        assert_eq!(sample.expect("a sample").sent, sent(7, 0));
    }

    #[test]
    fn the_young_the_unconnected_and_those_on_unix_sockets_are_not_asked() {
        let now = Instant::now();
        let ages = [(1, 0), (2, 5), (3, 5), (4, 5)];
        let table = ages.into_iter().map(|(id, age)| entry(id, age, now));
        let table: BTreeMap<_, _> = table.collect();
        table[&2].set_phase(Phase::Connecting);
        table[&3].sampling().begin(Kind::Unix);
        assert_eq!(ask(&table, 0, now), None);
        assert_eq!(due(&table, now), [4]);
    }

    #[test]
    fn who_is_idle_and_settled_is_left_alone_until_something_moves() {
        let (now, later) = (Instant::now(), Instant::now() + ROUND);
        let table = table(3, now);
        ask(&table, 0, now);
        assert_eq!(due(&table, later), [2, 4, 6]);
        ask(&table, 0, later + ROUND);
        assert_eq!(due(&table, later + ROUND), [0; 0]);
        table[&4].moved_at(later + ROUND);
        ask(&table, 0, later + ROUND);
        assert_eq!(due(&table, later + ROUND), [4]);
        let unsettled = info(100, 10, 80);
        table[&6]
            .sampling()
            .take(Some(unsettled), later + ROUND * 2);
        ask(&table, 0, later + ROUND * 3);
        assert!(due(&table, later + ROUND * 3).contains(&6));
    }

    #[test]
    fn everybody_has_a_turn_and_no_step_is_long() {
        let now = Instant::now();
        let table = table(3000, now);
        let (mut rest, mut turns, mut steps) = (Some(0), Vec::new(), 0);
        while let Some(after) = rest {
            rest = ask(&table, after, now);
            let asked = due(&table, now + ROUND);
            assert!(asked.len() <= ASKED);
            turns.extend(asked);
            steps += 1;
        }
        assert_eq!(turns, table.keys().copied().collect::<Vec<_>>());
        assert_eq!(steps, 3000_usize.div_ceil(ASKED));
        // They are all idle now: only as many steps as it takes to look at them.
        let (mut rest, mut steps) = (Some(0), 0);
        while let Some(after) = rest {
            rest = ask(&table, after, now + ROUND);
            steps += 1;
        }
        assert_eq!(steps, 3000_usize.div_ceil(LOOKED_AT));
        assert_eq!(due(&table, now), [0; 0]);
    }
}

//! Which connections a core has: asked by the admin endpoint, answered in portions.
//!
//! The table of a core lives on its thread, so the core itself must look; meanwhile its
//! connections wait. A portion is short, and between two of them the core goes on with its
//! other work. Only as many connections are described as will be shown.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::core::{Command, ConnectionView, CoreHandle, Entry, Phase};
use crate::net::{Address, Cidr};

/// Connections that a core looks at in one go: a tenth of a millisecond, as much as it spends
/// on a few new connections.
pub(super) const PORTION: usize = 512;

/// What a connection must be; nothing given: anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// The name of its pool.
    pub pool: Option<String>,
    /// The name of its backend.
    pub backend: Option<String>,
    /// The name of its listener.
    pub listener: Option<String>,
    /// Where its client is.
    pub client: Option<Source>,
    /// How far it has come.
    pub state: Option<Phase>,
    /// It was accepted longer ago than this.
    pub older: Option<Duration>,
    /// No byte has moved for longer than this.
    pub idle: Option<Duration>,
}

/// Where clients come from: a block of addresses, or Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Unix sockets.
    Unix,
    /// The addresses of a block.
    Block(Cidr),
}

/// Connections that were found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// How many match.
    pub total: usize,
    /// The oldest of them, as many as were wanted.
    pub views: Vec<ConnectionView>,
}

/// What a core is asked for.
#[derive(Debug)]
pub struct Ask {
    filter: Arc<Filter>,
    /// Of which ages are counted.
    now: Instant,
    /// Only ids above this.
    after: u64,
    /// At most so many are described.
    room: usize,
    reply: oneshot::Sender<Portion>,
}

/// What a core has seen in one go.
#[derive(Debug, Default)]
struct Portion {
    matched: usize,
    views: Vec<ConnectionView>,
    /// The last id that was looked at, if there are more.
    rest: Option<u64>,
}

impl CoreHandle {
    /// The core's connections that `filter` takes at `now`: how many, and the `limit` oldest of
    /// them, oldest first. None if the core is gone.
    ///
    /// A connection that comes or goes meanwhile may be part of it or not.
    pub async fn connections(&self, filter: &Arc<Filter>, limit: usize, now: Instant) -> Found {
        let mut found = Found::default();
        let mut rest = Some(0);
        while let Some(after) = rest {
            let (reply, answer) = oneshot::channel();
            self.tell(Command::Connections(Ask {
                filter: Arc::clone(filter),
                now,
                after,
                room: limit - found.views.len(),
                reply,
            }));
            let mut portion = answer.await.unwrap_or_default();
            found.total += portion.matched;
            found.views.append(&mut portion.views);
            rest = portion.rest;
        }
        found
    }
}

impl Ask {
    /// Looks at the next portion of a core's table, whose ids grow in order of arrival.
    pub(super) fn answer(self, table: &BTreeMap<u64, Rc<Entry>>) {
        let portion = self.portion(table);
        // Whoever asked may have gone away meanwhile.
        let _ = self.reply.send(portion);
    }

    fn portion(&self, table: &BTreeMap<u64, Rc<Entry>>) -> Portion {
        let mut portion = Portion::default();
        let mut entries = table.range((Excluded(self.after), Unbounded));
        let everything = self.filter.takes_everything();
        let size = if everything { self.room } else { PORTION };
        let mut last = self.after;
        for (id, entry) in entries.by_ref().take(size.min(PORTION)) {
            last = *id;
            if self.filter.takes(entry, self.now) {
                portion.matched += 1;
                if portion.views.len() < self.room {
                    portion.views.push(entry.view());
                }
            }
        }
        if everything && self.room <= PORTION {
            // What is not shown is only counted, for which no connection need be looked at.
            portion.matched += entries.count();
        } else {
            portion.rest = entries.next().map(|_| last);
        }
        portion
    }
}

impl Filter {
    fn takes_everything(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn takes(&self, entry: &Entry, now: Instant) -> bool {
        fn is(wanted: &Option<String>, name: Option<&Arc<str>>) -> bool {
            wanted
                .as_deref()
                .is_none_or(|wanted| name.is_some_and(|name| **name == *wanted))
        }
        fn exceeds(time: Option<Duration>, since: Instant, now: Instant) -> bool {
            time.is_none_or(|time| now.saturating_duration_since(since) > time)
        }
        let place = entry.place();
        is(&self.pool, place.pool.as_ref())
            && is(&self.backend, place.backend.as_ref())
            && is(&self.listener, Some(entry.listener()))
            && self
                .client
                .is_none_or(|source| source.holds(entry.client()))
            && self.state.is_none_or(|state| entry.phase() == state)
            && exceeds(self.older, entry.accepted(), now)
            && exceeds(self.idle, entry.last_moved(), now)
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let block = text.parse().map(Self::Block);
        block.map_err(|_| "an address, a CIDR such as 10.0.0.0/8, or unix".to_owned())
    }
}

impl Source {
    fn holds(self, client: &Address) -> bool {
        match (self, client.ip()) {
            (Self::Unix, ip) => ip.is_none(),
            (Self::Block(_), None) => false,
            (Self::Block(block), Some(ip)) => block.contains(ip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of clients with their ages in seconds; a third of a second ago each moved a byte.
    fn table(clients: &[(&str, u64)], now: Instant) -> BTreeMap<u64, Rc<Entry>> {
        let entry = |(index, (client, age)): (usize, &(&str, u64))| {
            let client = client.parse().expect("an address");
            let accepted = now - Duration::from_secs(*age);
            // Ids of one core are not dense.
            let id = index as u64 * 2 + 2;
            let entry = Entry::new("web".into(), client, accepted).numbered(id);
            entry.moved_at(now - Duration::from_millis(333));
            entry.set_phase(Phase::Relaying);
            entry.set_pool("web".into());
            entry.set_backend((index % 2 == 1).then(|| "b1".into()));
            (id, Rc::new(entry))
        };
        clients.iter().enumerate().map(entry).collect()
    }

    fn few(now: Instant) -> BTreeMap<u64, Rc<Entry>> {
        let clients = [
            ("[2001:db8::1]:1000", 500),
            ("10.1.0.1:1000", 50),
            ("10.0.0.1:1000", 5),
            ("unix:/run/web.sock", 1),
        ];
        table(&clients, now)
    }

    /// Asks as a handle does, and answers as a core does; also the size of each portion.
    fn ask(
        table: &BTreeMap<u64, Rc<Entry>>,
        filter: Filter,
        limit: usize,
        now: Instant,
    ) -> (Found, Vec<usize>) {
        let (core, mut commands) = CoreHandle::new();
        let filter = Arc::new(filter);
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(async {
            let mut sizes = Vec::new();
            let answering = async {
                while let Some(Command::Connections(ask)) = commands.recv().await {
                    sizes.push(ask.portion(table).views.len());
                    ask.answer(table);
                }
            };
            let found = tokio::select! {
                found = core.connections(&filter, limit, now) => found,
                () = answering => unreachable!("the handle is alive"),
            };
            (found, sizes)
        })
    }

    fn clients(filter: Filter) -> Vec<String> {
        let now = Instant::now();
        let (found, _) = ask(&few(now), filter, 10, now);
        assert_eq!(found.total, found.views.len());
        let clients = found.views.iter().map(|view| view.client.to_string());
        clients.collect()
    }

    #[test]
    fn every_filter_must_hold() {
        let (six, four, unix) = ("[2001:db8::1]:1000", "10.1.0.1:1000", "unix:/run/web.sock");
        let name = |name: &str| Some(name.to_owned());
        let seconds = |n| Some(Duration::from_secs(n));
        let all = Filter::default();
        let with_backend = Filter {
            backend: name("b1"),
            ..all.clone()
        };
        assert_eq!(clients(with_backend.clone()), [four, unix]);
        let older = Filter {
            listener: name("web"),
            older: seconds(5),
            ..all.clone()
        };
        assert_eq!(clients(older), [six, four]);
        for nobody in [
            Filter {
                pool: name("other"),
                ..all.clone()
            },
            Filter {
                idle: seconds(1),
                ..all.clone()
            },
            Filter {
                state: Some(Phase::Held),
                ..all.clone()
            },
        ] {
            assert_eq!(clients(nobody), [""; 0]);
        }
        let idle = Some(Duration::from_millis(300));
        let both = Filter {
            state: Some(Phase::Relaying),
            idle,
            ..with_backend
        };
        assert_eq!(clients(both), [four, unix]);
    }

    #[test]
    fn clients_are_found_by_address_and_block() {
        let cases: [(&str, &[usize]); 9] = [
            ("10.0.0.1", &[2]),
            ("10.0.0.0/8", &[1, 2]),
            ("10.0.0.7/16", &[2]),
            ("::ffff:10.0.0.1", &[2]),
            ("0.0.0.0/0", &[1, 2]),
            ("2001:db8::/32", &[0]),
            ("::/0", &[0]),
            ("unix", &[3]),
            ("192.0.2.1", &[]),
        ];
        let everybody = clients(Filter::default());
        for (block, expected) in cases {
            let client = Some(block.parse().expect("a source"));
            let found = clients(Filter {
                client,
                ..Filter::default()
            });
            let expected: Vec<_> = expected.iter().map(|index| &everybody[*index]).collect();
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{block}");
        }
    }

    fn many(now: Instant) -> BTreeMap<u64, Rc<Entry>> {
        table(&[("10.0.0.1:1000", 1); 9000], now)
    }

    #[test]
    fn a_core_describes_no_more_of_its_connections_than_are_wanted() {
        let now = Instant::now();
        let table = many(now);
        let matching = Filter {
            pool: Some("web".to_owned()),
            ..Filter::default()
        };
        for filter in [Filter::default(), matching] {
            for limit in [0, 1, 100] {
                let (found, sizes) = ask(&table, filter.clone(), limit, now);
                assert_eq!(found.total, 9000);
                assert_eq!(found.views.len(), limit);
                assert_eq!(sizes.iter().sum::<usize>(), limit, "{sizes:?}");
            }
        }
    }

    /// Nobody's bytes wait while thousands of connections are described.
    #[test]
    fn a_long_listing_comes_in_short_portions_and_misses_none() {
        let now = Instant::now();
        let table = many(now);
        let ids: Vec<_> = table.keys().copied().collect();
        for limit in [PORTION - 1, PORTION, PORTION + 1, 9000, usize::MAX] {
            let (found, sizes) = ask(&table, Filter::default(), limit, now);
            assert_eq!(found.total, 9000);
            let shown: Vec<_> = found.views.iter().map(|view| view.id).collect();
            assert_eq!(shown, ids[..limit.min(ids.len())]);
            assert!(sizes.iter().all(|size| *size <= PORTION), "{sizes:?}");
        }
    }

    #[test]
    fn a_core_that_is_gone_has_none() {
        let (core, commands) = CoreHandle::new();
        drop(commands);
        let filter = Arc::default();
        let asked = core.connections(&filter, 10, Instant::now());
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let found = runtime.expect("a runtime").block_on(asked);
        assert_eq!((found.total, found.views.len()), (0, 0));
    }
}

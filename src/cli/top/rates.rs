//! What comes in a second, as the growth of totals from one answer to the next.

use std::collections::HashMap;

use crate::cli::stats::Stats;

/// What came in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// New connections.
    pub(super) new: f64,
    /// Bytes from clients to backends.
    pub(super) into: f64,
    /// Bytes from backends to clients.
    pub(super) out: f64,
}

/// Totals since the start, of which rates are the growth.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    connections: u64,
    into: u64,
    out: u64,
}

impl Totals {
    fn since(self, before: Self, seconds: f64) -> Rates {
        // Less than before: it was taken away and is there again.
        let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Rates {
            new: each(self.connections, before.connections),
            into: each(self.into, before.into),
            out: each(self.out, before.out),
        }
    }
}

/// What rates are of.
pub(super) type Name = (Kind, String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Listener,
    Pool,
    Backend,
}

/// Totals of everything at one moment.
#[derive(Debug, Default)]
pub(super) struct Moment {
    pub(super) pid: u32,
    uptime: f64,
    totals: HashMap<Name, Totals>,
}

impl Moment {
    pub(super) fn of(stats: &Stats) -> Self {
        let mut totals = HashMap::new();
        for (name, listener) in stats.listeners.iter() {
            let of = Totals {
                connections: listener.connections.total,
                into: listener.bytes_in,
                out: listener.bytes_out,
            };
            totals.insert((Kind::Listener, name.to_owned(), String::new()), of);
        }
        for (pool, stats) in stats.pools.iter() {
            let of = Totals {
                connections: stats.connections.total,
                into: stats.bytes_in,
                out: stats.bytes_out,
            };
            totals.insert((Kind::Pool, pool.to_owned(), String::new()), of);
            for (name, backend) in stats.backends.iter() {
                let of = Totals {
                    connections: backend.connections.total,
                    into: backend.bytes_in,
                    out: backend.bytes_out,
                };
                totals.insert((Kind::Backend, pool.to_owned(), name.to_owned()), of);
            }
        }
        Self {
            pid: stats.pid,
            uptime: stats.uptime_seconds,
            totals,
        }
    }

    /// Nothing, where the two are not of one process.
    pub(super) fn since(&self, before: &Self) -> HashMap<Name, Rates> {
        let seconds = self.uptime - before.uptime;
        if self.pid != before.pid || seconds <= 0.0 {
            return HashMap::new();
        }
        let rate = |(name, now): (&Name, &Totals)| {
            let before = before.totals.get(name)?;
            Some((name.clone(), now.since(*before, seconds)))
        };
        self.totals.iter().filter_map(rate).collect()
    }
}

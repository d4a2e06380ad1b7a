//! Who may come in: `allow` and `deny`, `max_connections_per_ip`, `rate_per_ip` and `rate`.
//!
//! | file | |
//! | --- | --- |
//! | `lists` | whose address is in a list of blocks |
//! | `bucket` | a rate, as a token bucket in whole numbers |
//! | `sources` | the table of addresses: who is connected how often, and their buckets |
//! | `shard` | a part of it |
//!
//! A connection is judged once, by the address that holds: lists, limit of its address, rate of
//! its address, rate of the listener, in this order. It counts only where all of them let it in:
//! who is refused takes no token and no place. A refusal costs no system call but those of the
//! reset. Where a listener has no such rule it has no [`Admit`].
//!
//! Pure but for its locks: the time is given.

mod bucket;
mod lists;
mod shard;
mod sources;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

pub use bucket::Tokens;
pub use lists::{Listed, Table};
pub use sources::Place;

use crate::config::{Listener, Rate};
use crate::metrics::Rejected;
use crate::net::{Address, Cidr};
use bucket::{Bucket, Pace, since};
use lists::Lists;
use shard::{Known, Over};
use sources::{Sources, network};

/// The rules of a listener, with what they have to remember.
#[derive(Debug)]
pub struct Admit {
    lists: Option<Lists>,
    /// Connections at once of one address; 0: no limit.
    limit: u32,
    /// There where one address is limited.
    sources: Option<Arc<Sources>>,
    /// The rate of the listener.
    whole: Option<Arc<Whole>>,
}

impl Admit {
    /// The rules of a listener that nobody came to yet; `None`: it has none.
    pub fn new(settings: &Listener) -> Option<Arc<Self>> {
        Self::renewed(None, settings, Instant::now())
    }

    /// The rules of a listener that had others before. Who is connected goes on to count; the
    /// buckets of a rate that is still the same are as they were, others are full.
    pub fn renewed(old: Option<&Self>, settings: &Listener, now: Instant) -> Option<Arc<Self>> {
        let limit = settings.max_connections_per_ip;
        let limited = limit > 0 || settings.rate_per_ip.is_some();
        let pace = settings.rate_per_ip.map(Pace::new);
        let sources = limited.then(|| match old.and_then(|old| old.sources.as_ref()) {
            Some(sources) => {
                sources.set_pace(pace, now);
                Arc::clone(sources)
            }
            None => Sources::new(pace),
        });
        let whole = settings.rate.map(|rate| {
            let kept = old.and_then(|old| old.whole.as_ref());
            match kept.filter(|whole| whole.rate == rate) {
                Some(whole) => Arc::clone(whole),
                None => Arc::new(Whole::new(rate, now)),
            }
        });
        let lists = Lists::new(settings);
        let any = lists.is_some() || sources.is_some() || whole.is_some();
        any.then(|| {
            Arc::new(Self {
                lists,
                limit,
                sources,
                whole,
            })
        })
    }

    /// Lets a client in. It counts towards the limit of its address, where there is one, as long
    /// as the place that is given.
    ///
    /// # Errors
    /// Why it is to be refused.
    pub fn admit(&self, client: &Address, now: Instant) -> Result<Option<Place>, Rejected> {
        let ip = client.ip();
        if self.listed(ip).is_refused() {
            return Err(Rejected::Denied);
        }
        let whole = || self.whole.as_ref().is_none_or(|whole| whole.take(now));
        match (ip, &self.sources) {
            (Some(ip), Some(sources)) => {
                sources.admit(ip, self.limit, now, whole).map_err(rejected)
            }
            _ if whole() => Ok(None),
            _ => Err(Rejected::Rate),
        }
    }

    /// A place for a connection that is there already, where there is a limit, whatever it is.
    pub fn count(&self, client: &Address, now: Instant) -> Option<Place> {
        let sources = self.sources.as_ref().filter(|_| self.limit > 0)?;
        Some(sources.count(client.ip()?, now))
    }

    /// Whether it counts connections that came before it and that `old` did not count.
    pub fn begins_to_count(&self, old: Option<&Self>) -> bool {
        self.limit > 0 && old.is_none_or(|old| old.limit == 0)
    }

    /// Whether a connection with this place counts here already.
    pub fn counts(&self, place: &Place) -> bool {
        self.sources
            .as_ref()
            .is_some_and(|sources| place.is_in(sources))
    }

    /// What would become of a client now; nothing is changed by asking.
    pub fn explain(&self, client: &Address, now: Instant) -> Judgement {
        let ip = client.ip();
        let listed = self.listed(ip);
        let source = ip
            .zip(self.sources.as_ref())
            .map(|(ip, sources)| (network(ip), sources.known(ip, now)));
        let judged = source.map(|(_, (known, pace))| known.judge(pace, self.limit));
        let whole = self
            .whole
            .as_ref()
            .map(|whole| (whole.rate, whole.tokens(now)));
        let refused = match (listed.is_refused(), judged, whole) {
            (true, ..) => Some(Rejected::Denied),
            (false, Some(Err(over)), _) => Some(rejected(over)),
            (false, _, Some((_, Tokens { left: 0, .. }))) => Some(Rejected::Rate),
            _ => None,
        };
        Judgement {
            refused,
            listed: self.lists.as_ref().map(|_| listed),
            source: source.map(|(network, (known, pace))| self.source(network, known, pace)),
            whole,
        }
    }

    fn source(&self, network: Cidr, known: Known, pace: Option<Pace>) -> Source {
        Source {
            network,
            active: (self.limit > 0).then_some(known.active),
            limit: self.limit,
            tokens: known
                .bucket
                .zip(pace)
                .map(|(bucket, pace)| bucket.tokens(pace)),
        }
    }

    fn listed(&self, ip: Option<IpAddr>) -> Listed {
        let lists = self.lists.as_ref();
        lists.map_or(Listed::Everyone, |lists| lists.of(ip))
    }
}

fn rejected(over: Over) -> Rejected {
    match over {
        Over::Limit => Rejected::IpLimit,
        Over::Rate => Rejected::Rate,
    }
}

/// What would become of a client, and what that comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// `None`: it would be let in.
    pub refused: Option<Rejected>,
    /// What the lists say of it; `None`: there are none.
    pub listed: Option<Listed>,
    /// What is known of its address; `None`: addresses are not limited, or it has none.
    pub source: Option<Source>,
    /// The rate of the listener.
    pub whole: Option<(Rate, Tokens)>,
}

/// What is known of the address of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The addresses that are limited as one.
    pub network: Cidr,
    /// Connections that it has; `None`: they are not limited, and not counted.
    pub active: Option<u32>,
    /// Connections that it may have; 0: any.
    pub limit: u32,
    /// What is left of its rate; `None`: it has none.
    pub tokens: Option<Tokens>,
}

/// The rate of a listener, over all cores.
///
/// All of them take from one bucket, as the rate is exact: a lock for a few instructions, beside
/// the tens of microseconds that a connection costs.
#[derive(Debug)]
struct Whole {
    rate: Rate,
    start: Instant,
    bucket: Mutex<Bucket>,
}

impl Whole {
    fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            start: now,
            bucket: Mutex::new(Bucket::full(Pace::new(rate), 0)),
        }
    }

    fn take(&self, now: Instant) -> bool {
        let pace = Pace::new(self.rate);
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = bucket.until(pace, since(self.start, now)).take(pace);
        taken.map(|rest| *bucket = rest).is_some()
    }

    fn tokens(&self, now: Instant) -> Tokens {
        let pace = Pace::new(self.rate);
        let bucket = *self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.until(pace, since(self.start, now)).tokens(pace)
    }
}

#[cfg(test)]
mod tests;

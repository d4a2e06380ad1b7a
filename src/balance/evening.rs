//! Which connections must be redialled so that a pool is even: after a backend was added, it has
//! none, and with connections that live for hours it stays so.
//!
//! A plan is made by playing it through: a connection of the fullest member is closed, the
//! strategy itself picks for its redial, and so on until the counts are even. Nothing is assumed
//! of a strategy. With `least-connections` every redial lands where one is missing; with
//! `round-robin` only a part of them does, so that more must be closed; with `consistent-hash` a
//! connection goes where its key maps now, so only one whose key maps elsewhere is ever closed.
//! What is drawn at random is drawn from a fixed seed: the plan is one outcome of many.
//!
//! # What is even
//! Member i of weight wᵢ has aᵢ connections. With the mean m = Σa / Σw, its share is m·wᵢ, and
//! the *imbalance* of the pool is the largest |aᵢ/wᵢ − m| / m: 0 is even, 1 is a member that has
//! none, or twice its share. A pool is even where that is within the target or, as connections
//! are not divisible, every member is less than one connection away from its share.
//!
//! `first` does not want to be even, it wants to fill one member after the other. There the
//! share of a member is what it would have if all came again, and the imbalance is the part of
//! all connections that are not where they then would be.
//!
//! # Cost
//! O(n) for each connection that is closed, n² pairs at most for `consistent-hash`.

use std::cell::Cell;
use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Balancer, Members, Request};
use crate::config::Balance;

/// For what strategies draw.
const SEED: u64 = 1;

/// A member as it is when the plan is made.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// At least 1.
    pub weight: u32,
    /// Connections that it has.
    pub active: u32,
    /// Of those, how many may be closed.
    pub closable: u32,
    /// Most connections; 0: no limit.
    pub limit: u32,
    /// Hash of its identity.
    pub identity: u64,
    /// Its latency in seconds, if it has a sample.
    pub latency: Option<f64>,
}

/// What is to be evened.
#[derive(Clone, Copy, Debug)]
pub struct Uneven<'a> {
    /// The strategy.
    pub balance: Balance,
    /// The same with its memory, which does not change by this.
    pub balancer: &'a Balancer,
    /// In the order of the strategy.
    pub shares: &'a [Share],
    /// For `consistent-hash`: the closable connections, each by its member and the hash of its
    /// key.
    pub keys: &'a [(usize, u64)],
    /// Redials that are under way, by their keys: they are counted where they will be.
    pub pending: &'a [u64],
    /// The imbalance that is good enough.
    pub target: f64,
}

/// Connections that are to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Of this member.
    pub from: usize,
    /// For `consistent-hash`: those whose key maps here.
    pub onto: Option<usize>,
    /// So many.
    pub count: u32,
}

/// What would even it.
#[derive(Clone, Debug, PartialEq)]
pub struct Evening {
    /// What is to be closed; as little as will do.
    pub closings: Vec<Closing>,
    /// The imbalance before.
    pub before: f64,
    /// And after, when all who were closed have redialled.
    pub after: f64,
    /// The connections of each member then.
    pub then: Vec<u32>,
}

impl Evening {
    /// How many connections are closed.
    pub fn total(&self) -> u32 {
        self.closings.iter().map(|closing| closing.count).sum()
    }
}

/// Where the connection of `key` would go, if anybody could take it.
pub fn home(shares: &[Share], key: u64) -> Option<usize> {
    let table = Table::of(shares);
    table.redial(&Balancer::new(Balance::ConsistentHash), key, &mut rng())
}

impl Uneven<'_> {
    /// The plan; it closes nothing where all is even, or nothing would help.
    pub fn plan(&self) -> Evening {
        let mut play = Play::begin(self);
        let before = play.measure.imbalance(&play.table);
        let closings = match self.balance {
            Balance::ConsistentHash => play.move_keys(self.keys),
            _ => play.move_counts(self),
        };
        Evening {
            closings,
            before,
            after: play.measure.imbalance(&play.table),
            then: play.table.active(),
        }
    }
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(SEED)
}

/// The members, with counts that are moved in play.
struct Table<'a> {
    shares: &'a [Share],
    active: Vec<Cell<u32>>,
}

impl<'a> Table<'a> {
    fn of(shares: &'a [Share]) -> Self {
        let active = shares.iter().map(|share| Cell::new(share.active)).collect();
        Self { shares, active }
    }

    fn active(&self) -> Vec<u32> {
        self.active.iter().map(Cell::get).collect()
    }

    fn set_active(&self, counts: &[u32]) {
        let pairs = self.active.iter().zip(counts);
        pairs.for_each(|(cell, count)| cell.set(*count));
    }

    fn shift(&self, i: usize, by: i64) {
        let count = i64::from(self.active[i].get()) + by;
        self.active[i].set(u32::try_from(count).unwrap_or(0));
    }

    fn redial(&self, balancer: &Balancer, key: u64, rng: &mut StdRng) -> Option<usize> {
        let request = Request { key, first: true };
        balancer.pick(self, request, rng).map(|choice| choice.index)
    }
}

impl Members for Table<'_> {
    fn len(&self) -> usize {
        self.shares.len()
    }

    fn weight(&self, i: usize) -> u32 {
        self.shares[i].weight
    }

    fn active(&self, i: usize) -> u32 {
        self.active[i].get()
    }

    fn open(&self, i: usize) -> bool {
        let limit = self.shares[i].limit;
        limit == 0 || self.active[i].get() < limit
    }

    fn identity(&self, i: usize) -> u64 {
        self.shares[i].identity
    }

    fn latency(&self, i: usize) -> Option<f64> {
        self.shares[i].latency
    }

    fn reserve(&self, i: usize) -> bool {
        let open = self.open(i);
        if open {
            self.shift(i, 1);
        }
        open
    }
}

/// What each member should have.
struct Measure {
    balance: Balance,
    /// Connections per weight of the whole pool.
    mean: f64,
    total: f64,
    target: f64,
    /// By member.
    share: Vec<f64>,
    /// Fewest connections with which it is even,
    low: Vec<f64>,
    /// and most.
    high: Vec<f64>,
}

impl Measure {
    fn of(table: &Table<'_>, balance: Balance, target: f64) -> Self {
        let total: f64 = table.active.iter().map(|a| f64::from(a.get())).sum();
        let weights = || table.shares.iter().map(|share| f64::from(share.weight));
        let mean = total / weights().sum::<f64>().max(1.0);
        let share: Vec<f64> = match balance {
            Balance::First => filled(table.shares, total),
            _ => weights().map(|weight| weight * mean).collect(),
        };
        // What is whole but for rounding is whole.
        const ROUNDING: f64 = 1e-9;
        let low = |share: &f64| {
            let within = (share * (1.0 - target) - ROUNDING).ceil();
            within.min((share + ROUNDING).floor())
        };
        let high = |share: &f64| {
            let within = (share * (1.0 + target) + ROUNDING).floor();
            within.max((share - ROUNDING).ceil())
        };
        Self {
            balance,
            mean,
            total,
            target,
            low: share.iter().map(low).collect(),
            high: share.iter().map(high).collect(),
            share,
        }
    }

    /// More than its share.
    fn surplus(&self, table: &Table<'_>, i: usize) -> f64 {
        f64::from(table.active[i].get()) - self.share[i]
    }

    /// More than is even.
    fn excess(&self, table: &Table<'_>, i: usize) -> f64 {
        f64::from(table.active[i].get()) - self.high[i]
    }

    /// Fewer than is even.
    fn lack(&self, table: &Table<'_>, i: usize) -> f64 {
        self.low[i] - f64::from(table.active[i].get())
    }

    /// Connections that are somewhere where they make the pool uneven, or missing somewhere; 0:
    /// it is even.
    fn distance(&self, table: &Table<'_>) -> f64 {
        if self.balance == Balance::First {
            let allowed = (self.total * self.target).floor();
            return (self.misplaced(table) - allowed).max(0.0);
        }
        let off = |i| self.excess(table, i).max(self.lack(table, i)).max(0.0);
        (0..table.len()).map(off).sum()
    }

    fn misplaced(&self, table: &Table<'_>) -> f64 {
        let surplus = |i| self.surplus(table, i).max(0.0);
        (0..table.len()).map(surplus).sum()
    }

    fn imbalance(&self, table: &Table<'_>) -> f64 {
        if self.total == 0.0 {
            return 0.0;
        }
        if self.balance == Balance::First {
            return self.misplaced(table) / self.total;
        }
        let off = |i: usize| {
            let load = f64::from(table.active[i].get()) / f64::from(table.shares[i].weight);
            (load - self.mean).abs() / self.mean
        };
        (0..table.len()).map(off).fold(0.0, f64::max)
    }
}

/// What each would have if `total` connections came to `first`.
fn filled(shares: &[Share], total: f64) -> Vec<f64> {
    let mut left = total;
    let mut take = |share: &Share| {
        let room = match share.limit {
            0 => left,
            // It may have more since its limit was lowered; it gets no more.
            limit => f64::from(limit).min(left),
        };
        left -= room;
        room
    };
    shares.iter().map(&mut take).collect()
}

struct Play<'a> {
    table: Table<'a>,
    measure: Measure,
    balancer: Balancer,
    rng: StdRng,
}

impl<'a> Play<'a> {
    fn begin(uneven: &Uneven<'a>) -> Self {
        let table = Table::of(uneven.shares);
        let (balancer, mut rng) = (uneven.balancer.fork(), rng());
        for key in uneven.pending {
            // Who finds no room is held, and counted nowhere.
            let _ = table.redial(&balancer, *key, &mut rng);
        }
        let measure = Measure::of(&table, uneven.balance, uneven.target);
        Self {
            table,
            measure,
            balancer,
            rng,
        }
    }

    /// Moves connections of which it does not matter which they are.
    fn move_counts(&mut self, uneven: &Uneven<'_>) -> Vec<Closing> {
        let mut closed = Closed::none(uneven.shares);
        let mut stuck = vec![false; uneven.shares.len()];
        let mut best = Best::of(self, &closed);
        while best.distance > 0.0 {
            let Some(from) = self.fullest(|i| closed.left(i) && !stuck[i]) else {
                break;
            };
            self.table.shift(from, -1);
            let onto = self.table.redial(&self.balancer, 0, &mut self.rng);
            // Where the strategy has only one answer, it would be the same answer each time.
            let decided = !matches!(
                uneven.balance,
                Balance::RoundRobin | Balance::RandomTwo | Balance::LeastLatency
            );
            match onto {
                Some(onto) if onto != from || !decided => {
                    closed.counts[from] += 1;
                    stuck.fill(false);
                    best.improve(self, &closed);
                }
                back => {
                    if back.is_none() {
                        self.table.shift(from, 1);
                    }
                    stuck[from] = true;
                }
            }
        }
        self.table.set_active(&best.active);
        best.closings()
    }

    /// From whom one is closed next.
    fn fullest(&self, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let (measure, table) = (&self.measure, &self.table);
        let above = (0..table.len()).filter(|&i| eligible(i) && measure.surplus(table, i) > 0.0);
        if measure.balance == Balance::First {
            return above.last();
        }
        // Those that have too many first, as they must give in any case. Counted in connections,
        // not by weight: that way fewest are closed.
        above.max_by(|&a, &b| {
            let rank = |i| (measure.excess(table, i).max(0.0), measure.surplus(table, i));
            rank(a)
                .0
                .total_cmp(&rank(b).0)
                .then(rank(a).1.total_cmp(&rank(b).1))
        })
    }

    /// Moves connections to where their keys map, those that help.
    fn move_keys(&mut self, keys: &[(usize, u64)]) -> Vec<Closing> {
        let mut astray: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for (from, key) in keys {
            let home = home(self.table.shares, *key).filter(|home| home != from);
            if let Some(home) = home {
                *astray.entry((*from, home)).or_default() += 1;
            }
        }
        let mut closed: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        while let Some((from, onto)) = self.most_useful(&astray) {
            self.table.shift(from, -1);
            self.table.shift(onto, 1);
            *closed.entry((from, onto)).or_default() += 1;
            astray.entry((from, onto)).and_modify(|left| *left -= 1);
        }
        let closing = |((from, onto), count)| Closing {
            from,
            onto: Some(onto),
            count,
        };
        closed.into_iter().map(closing).collect()
    }

    /// The move that makes the pool most even; `None`: none makes it more so.
    fn most_useful(&self, astray: &BTreeMap<(usize, usize), u32>) -> Option<(usize, usize)> {
        let (measure, table) = (&self.measure, &self.table);
        let gain = |from: usize, onto: usize| {
            let too_many = measure.excess(table, from) > 0.0;
            let too_few = measure.lack(table, onto) > 0.0;
            // One less may be too few, one more too many.
            let spoils = measure.lack(table, from) > -1.0 || measure.excess(table, onto) > -1.0;
            let gain = i32::from(too_many) + i32::from(too_few) - i32::from(spoils);
            let further = measure.surplus(table, from) - measure.surplus(table, onto);
            (gain, further)
        };
        let possible = astray.iter().filter(|(_, left)| **left > 0);
        let gains = possible.map(|((from, onto), _)| (gain(*from, *onto), (*from, *onto)));
        let best = gains.max_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        best.filter(|((gain, _), _)| *gain > 0)
            .map(|(_, pair)| pair)
    }
}

/// How many were closed of whom.
struct Closed<'a> {
    shares: &'a [Share],
    counts: Vec<u32>,
}

impl<'a> Closed<'a> {
    fn none(shares: &'a [Share]) -> Self {
        let counts = vec![0; shares.len()];
        Self { shares, counts }
    }

    fn left(&self, i: usize) -> bool {
        self.counts[i] < self.shares[i].closable
    }
}

/// The fewest closings with which it was most even.
struct Best {
    distance: f64,
    closed: Vec<u32>,
    active: Vec<u32>,
}

impl Best {
    fn of(play: &Play<'_>, closed: &Closed<'_>) -> Self {
        Self {
            distance: play.measure.distance(&play.table),
            closed: closed.counts.clone(),
            active: play.table.active(),
        }
    }

    fn improve(&mut self, play: &Play<'_>, closed: &Closed<'_>) {
        if play.measure.distance(&play.table) < self.distance {
            *self = Self::of(play, closed);
        }
    }

    fn closings(self) -> Vec<Closing> {
        let counts = self.closed.into_iter().enumerate();
        let closing = |(from, count)| Closing {
            from,
            onto: None,
            count,
        };
        counts
            .filter(|(_, count)| *count > 0)
            .map(closing)
            .collect()
    }
}

#[cfg(test)]
#[path = "evening_tests.rs"]
mod tests;

//! Which share of the hash keys moves when the backends of a `consistent-hash` pool change, and
//! from which backend to which: exactly, without hashing a key.
//!
//! Backend i has weight wᵢ before and w′ᵢ after, 0 where it is not there. For a key its score is
//! w / E with E = −ln u of a hash that does not depend on weights, see
//! [`crate::balance::consistent_hash`]. The Eᵢ are independent and exponentially distributed, so
//! the winner is who comes first in a race: before the least Eᵢ/wᵢ, after the least Eᵢ/w′ᵢ.
//!
//! A key moves from a to b where E_a = w_a t is first before, E_b = w′_b s is first after, and
//! nobody else comes earlier in either race: Eᵢ ≥ max(wᵢ t, w′ᵢ s). With s = x t,
//!
//! ```text
//! density  w_a w′_b t exp(−A(x) t)        A(x) = Σ max(wᵢ, w′ᵢ x)
//! a, b     1/r_b ≤ x ≤ 1/r_a              r = w′/w: who loses weight loses keys, to whom gains
//! over t   w_a w′_b / A(x)²
//! share    w_a w′_b (G(1/r_a) − G(1/r_b))  G(x) = ∫₀ˣ dy / A(y)²
//! ```
//!
//! A is linear between the points 1/rᵢ, and ∫ over [x₀, x₁] is (x₁ − x₀) / (A(x₀) A(x₁)) there;
//! for x₁ = ∞ it is 1 / (W′ A(x₀)) with W′ = Σ w′ᵢ. So G is computed at all points in
//! O(n log n), and a share in O(1).

use std::cmp::Ordering;
use std::sync::Arc;

use serde::Serialize;

/// Moves that are listed one by one; the others are summed up.
pub const LISTED: usize = 20;

/// A backend of the race with its weights.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Racer {
    pub(super) name: Arc<str>,
    /// 0: not there, or takes no keys.
    pub(super) before: u32,
    /// Likewise.
    pub(super) after: u32,
}

/// What moves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Moves {
    /// Share of all keys that get another backend, from 0 to 1.
    pub share: f64,
    /// From where to where, the largest first; at most [`LISTED`].
    pub moves: Vec<Move>,
    /// Moves that are not listed, and their share of all keys.
    pub not_listed: NotListed,
}

/// Keys that change from one backend to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Move {
    /// Who has them.
    pub from: Arc<str>,
    /// Who will have them.
    pub to: Arc<str>,
    /// Share of all keys, from 0 to 1.
    pub share: f64,
}

/// What is left out of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct NotListed {
    /// How many moves.
    pub count: usize,
    /// Share of all keys.
    pub share: f64,
}

/// What moves between racers where keys are hashed the same before and after; `None`: nobody
/// takes keys before, or nobody does after, so that no key has a backend that it could leave.
pub(super) fn reweighted(racers: &[Racer]) -> Option<Moves> {
    let race = Race::new(racers)?;
    let mut top = Top::default();
    for (rank, loser) in race.groups.iter().enumerate() {
        for gainer in &race.groups[rank + 1..] {
            race.offer(loser, gainer, &mut top);
        }
    }
    Some(top.moves(race.total()))
}

/// What moves where keys are hashed otherwise than before, so that where a key was says nothing
/// about where it will be; `None` as above.
pub(super) fn rehashed(racers: &[Racer]) -> Option<Moves> {
    let sum = |weight: fn(&Racer) -> u32| racers.iter().map(|r| f64::from(weight(r))).sum::<f64>();
    let (before, after) = (sum(|r| r.before), sum(|r| r.after));
    if before == 0.0 || after == 0.0 {
        return None;
    }
    let mut top = Top::default();
    let (mut total, mut from, mut to) = (1.0, Vec::new(), Vec::new());
    for racer in racers {
        let had = f64::from(racer.before) / before;
        let has = f64::from(racer.after) / after;
        total -= had * has;
        from.push((&racer.name, had));
        to.push((&racer.name, has));
    }
    largest(&mut from);
    largest(&mut to);
    let count = |r: &[Racer], weight: fn(&Racer) -> u32| r.iter().filter(|r| weight(r) > 0).count();
    let both = count(racers, |r| r.before.min(r.after));
    top.count = count(racers, |r| r.before) * count(racers, |r| r.after) - both;
    top.offer_all(&from, &to, |had, has| had * has);
    Some(top.moves(total))
}

/// Leaves those with the largest weights, as many as a list of pairs can name. One more than
/// are listed, because nobody moves to himself.
fn largest(all: &mut Vec<(&Arc<str>, f64)>) {
    all.retain(|(_, weight)| *weight > 0.0);
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    all.truncate(LISTED + 1);
}

/// Racers whose weights change by the same factor, in order of that factor.
struct Group<'a> {
    /// G at the reciprocal of the factor.
    integral: f64,
    /// Sums and counts of those with a weight.
    before: (f64, usize),
    after: (f64, usize),
    from: Vec<(&'a Arc<str>, f64)>,
    to: Vec<(&'a Arc<str>, f64)>,
}

struct Race<'a> {
    groups: Vec<Group<'a>>,
}

/// By w′/w, compared exactly.
fn by_factor(one: &Racer, other: &Racer) -> Ordering {
    let product = |a: u32, b: u32| u64::from(a) * u64::from(b);
    product(one.after, other.before).cmp(&product(other.after, one.before))
}

impl<'a> Race<'a> {
    fn new(racers: &'a [Racer]) -> Option<Self> {
        let mut racers: Vec<&Racer> = racers.iter().filter(|r| r.before + r.after > 0).collect();
        racers.sort_by(|a, b| by_factor(a, b));
        let sum = |weight: fn(&Racer) -> u32| racers.iter().map(|r| f64::from(weight(r))).sum();
        let (before, after): (f64, f64) = (sum(|r| r.before), sum(|r| r.after));
        if before == 0.0 || after == 0.0 {
            return None;
        }
        let equal = |a: &&Racer, b: &&Racer| by_factor(a, b) == Ordering::Equal;
        let mut groups: Vec<Group<'_>> = racers.chunk_by(equal).map(Group::new).collect();
        integrate(&mut groups, before, after);
        Some(Self { groups })
    }

    /// Offers the moves from one group to another to the list, and counts all of them.
    fn offer(&self, loser: &Group<'a>, gainer: &Group<'a>, top: &mut Top<'a>) {
        let integral = loser.integral - gainer.integral;
        top.count += loser.before.1 * gainer.after.1;
        top.offer_all(&loser.from, &gainer.to, |from, to| from * to * integral);
    }

    /// The share of all moves, from the sums of the groups.
    fn total(&self) -> f64 {
        let (mut gain, mut gain_integral, mut total) = (0.0, 0.0, 0.0);
        for group in self.groups.iter().rev() {
            total += group.before.0 * (gain * group.integral - gain_integral);
            gain += group.after.0;
            gain_integral += group.after.0 * group.integral;
        }
        total
    }
}

impl<'a> Group<'a> {
    fn new(members: &[&'a Racer]) -> Self {
        let sums = |weight: fn(&Racer) -> u32| {
            let weights = members.iter().map(|r| weight(r)).filter(|w| *w > 0);
            (weights.clone().map(f64::from).sum(), weights.count())
        };
        let list = |weight: fn(&Racer) -> u32| {
            let mut list = members
                .iter()
                .map(|r| (&r.name, f64::from(weight(r))))
                .collect();
            largest(&mut list);
            list
        };
        Self {
            integral: 0.0,
            before: sums(|r| r.before),
            after: sums(|r| r.after),
            from: list(|r| r.before),
            to: list(|r| r.after),
        }
    }
}

/// Computes G at the point of every group. `groups` stand by w′/w, so the last one's point is
/// the first: there the sum of the weights before holds for A, and at each point the weights
/// after of its group take the place of those before.
fn integrate(groups: &mut [Group<'_>], before: f64, after: f64) {
    let (mut still, mut slope) = (before, 0.0);
    let (mut at, mut integral) = (0.0, 0.0);
    for group in groups.iter_mut().rev() {
        let value = |x: f64| still + slope * x;
        if group.after.0 == 0.0 {
            // Its point is infinite; whoever is there afterwards has passed his own.
            integral += 1.0 / (after * value(at));
        } else {
            let point = group.before.0 / group.after.0;
            integral += (point - at) / (value(at) * value(point));
            at = point;
        }
        group.integral = integral;
        still -= group.before.0;
        slope += group.after.0;
    }
}

/// The largest moves so far.
#[derive(Default)]
struct Top<'a> {
    best: Vec<(f64, &'a Arc<str>, &'a Arc<str>)>,
    count: usize,
}

impl<'a> Top<'a> {
    /// `from` and `to` have the largest weights first, and `share` grows with both.
    fn offer_all(
        &mut self,
        from: &[(&'a Arc<str>, f64)],
        to: &[(&'a Arc<str>, f64)],
        share: impl Fn(f64, f64) -> f64,
    ) {
        for (loser, had) in from {
            let least = self.best.get(LISTED - 1).map_or(0.0, |least| least.0);
            let listed = self.best.len();
            for (gainer, has) in to.iter().filter(|(gainer, _)| loser != gainer) {
                let share = share(*had, *has);
                if share <= least {
                    break;
                }
                self.best.push((share, *loser, *gainer));
            }
            if self.best.len() > listed {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        self.best.sort_by(|a, b| {
            let names = || (a.1, a.2).cmp(&(b.1, b.2));
            b.0.total_cmp(&a.0).then_with(names)
        });
        self.best.truncate(LISTED);
    }

    fn moves(self, total: f64) -> Moves {
        let listed: f64 = self.best.iter().map(|(share, ..)| share).sum();
        let left_out = self.count - self.best.len();
        let share = total.clamp(0.0, 1.0);
        Moves {
            share,
            not_listed: NotListed {
                count: left_out,
                share: match left_out {
                    0 => 0.0,
                    _ => (share - listed).max(0.0),
                },
            },
            moves: self.best.into_iter().map(listed_move).collect(),
        }
    }
}

fn listed_move((share, from, to): (f64, &Arc<str>, &Arc<str>)) -> Move {
    Move {
        from: Arc::clone(from),
        to: Arc::clone(to),
        share,
    }
}

#[cfg(test)]
mod tests;

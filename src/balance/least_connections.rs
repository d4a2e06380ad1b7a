//! `least-connections`: the lowest active/weight; ties by turns among the tied.
//!
//! Fractions are compared exactly. The tied take turns by [smooth weighted round
//! robin](super::smooth) instead of in file order, so that an idle pool with one connection at
//! a time, where all are tied always, is used evenly. Retries take turns of their own, as in
//! [`round_robin`](super::round_robin). The counts are read and the slot is reserved
//! under one lock, so that simultaneous picks do not all see the same minimum.

use std::cmp::Ordering;
use std::sync::Mutex;

use super::load::Load;
use super::smooth::Turns;
use super::{Choice, Members, Request, Score, Why, lock, share};

/// The sequences of the tied, shared by all threads.
#[derive(Debug, Default)]
pub struct LeastConnections(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct State {
    turns: Turns,
    /// The tied during one choice, by index and weight; kept for its memory.
    tied: Vec<(usize, u32)>,
}

impl LeastConnections {
    pub(super) fn pick(&self, members: &impl Members, request: Request) -> Option<Choice> {
        let State { turns, tied } = &mut *lock(&self.0);
        let sequence = turns.of(request.first, members.len());
        for _ in 0..members.len() {
            let Lowest { load, next } = lowest(members, tied)?;
            let candidates = tied.iter().copied();
            let (index, weight) = sequence.next(candidates.clone())?;
            if members.reserve(index) {
                sequence.advance(index, candidates);
                let why = Why::Least {
                    active: load.active_at(weight),
                    next: next.map(|load| load.active),
                };
                return Some(Choice { index, why });
            }
        }
        None
    }

    /// What a pick compares now: the loads, and the turns of those that are tied for the lowest.
    pub(super) fn scores(&self, members: &impl Members, request: Request) -> Vec<Option<Score>> {
        let State { turns, tied } = &mut *lock(&self.0);
        let mut scores = Load::scores(members);
        let sequence = turns.of(request.first, members.len());
        if lowest(members, tied).is_none() || tied.len() < 2 {
            return scores;
        }
        for (i, turns) in sequence.dues(tied.iter().copied()) {
            if let Some(Score::Load { due, .. }) = &mut scores[i] {
                *due = Some(turns);
            }
        }
        scores
    }

    pub(super) fn fork(&self) -> Self {
        Self(Mutex::new(lock(&self.0).clone()))
    }
}

/// The lowest load, and the next best, if there is another.
struct Lowest {
    load: Load,
    next: Option<Load>,
}

/// The lowest load and all that have it. Every count is read once.
fn lowest(members: &impl Members, tied: &mut Vec<(usize, u32)>) -> Option<Lowest> {
    let mut lowest: Option<Lowest> = None;
    for i in (0..members.len()).filter(|&i| share(members, i) > 0) {
        let load = Load::of(members, i);
        let order = lowest
            .as_mut()
            .map_or(Ordering::Less, |lowest| lowest.take(load));
        if order.is_lt() {
            let next = lowest.map(|lowest| lowest.load);
            lowest = Some(Lowest { load, next });
            tied.clear();
        }
        if order.is_le() {
            tied.push((i, load.weight));
        }
    }
    lowest
}

impl Lowest {
    /// How `load` compares; where it is not lower it may be the next best.
    fn take(&mut self, load: Load) -> Ordering {
        let order = load.cmp(self.load);
        if order.is_ge() && self.next.is_none_or(|next| load.cmp(next).is_lt()) {
            self.next = Some(load);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{Pool, counts, hold, picks, released};
    use crate::config::Balance::LeastConnections;

    use super::*;

    #[test]
    fn idle_members_take_turns() {
        let pool = Pool::weighted(&[1, 1]);
        let picks = released(LeastConnections, &pool, 10);
        assert_eq!(counts(&pool, &picks), [5, 5]);
    }

    #[test]
    fn idle_members_take_turns_by_weight() {
        let pool = Pool::weighted(&[5, 1, 1]);
        let picks = released(LeastConnections, &pool, 14);
        assert_eq!(counts(&pool, &picks), [10, 2, 2]);
    }

    #[test]
    fn an_idle_member_is_chosen_before_a_busy_one() {
        let pool = Pool::weighted(&[1, 1]);
        hold(&pool, 0, 3);
        let choice = picks(LeastConnections, &pool, 1)[0];
        let why = Why::Least {
            active: 0,
            next: Some(3),
        };
        assert_eq!(choice, Choice { index: 1, why });
    }

    #[test]
    fn held_connections_follow_the_weights() {
        let pool = Pool::weighted(&[1, 2]);
        assert_eq!(counts(&pool, &picks(LeastConnections, &pool, 3)), [1, 2]);
        assert_eq!(
            counts(&pool, &picks(LeastConnections, &pool, 300)),
            [100, 200]
        );
    }

    #[test]
    fn the_next_best_is_named_and_is_never_the_chosen_itself() {
        let pool = Pool::weighted(&[1, 1, 1]);
        hold(&pool, 0, 2);
        hold(&pool, 1, 2);
        hold(&pool, 2, 5);
        let why = Why::Least {
            active: 2,
            next: Some(2),
        };
        assert_eq!(picks(LeastConnections, &pool, 1)[0].why, why);

        let alone = Pool::weighted(&[1]);
        let why = Why::Least {
            active: 0,
            next: None,
        };
        assert_eq!(picks(LeastConnections, &alone, 1)[0].why, why);
    }

    #[test]
    fn one_that_was_busy_for_long_gets_no_burst_when_it_is_idle_again() {
        let pool = Pool::weighted(&[1, 1, 1]);
        let balancer = crate::balance::Balancer::new(LeastConnections);
        hold(&pool, 2, 1);
        let before = crate::balance::testing::released_by(&balancer, &pool, 100);
        assert_eq!(counts(&pool, &before), [50, 50, 0]);
        pool.release(2);
        let after = crate::balance::testing::released_by(&balancer, &pool, 30);
        assert!(counts(&pool, &after).iter().all(|n| (9..=11).contains(n)));
    }
}

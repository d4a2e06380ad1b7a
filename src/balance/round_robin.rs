//! `round-robin`: in turn, by weight, exact over the process.
//!
//! Turns are given by [smooth weighted round robin](super::smooth). In any run of first picks
//! as long as the sum of the weights each member gets exactly its weight, as long as the same
//! members are open. One that is not open is passed over without losing or gaining: the others
//! share its turns by weight, off by at most one turn each in the first such run after it
//! closed or opened again and exact from then on.
//!
//! A retry takes no turn of a first pick. Retries have a sequence of their own, so that what one
//! failing backend leaves over is spread over all others by weight, instead of falling
//! to the next in file order.

use std::sync::Mutex;

use super::smooth::Turns;
use super::{Choice, Members, Request, Score, Why, lock, share};

/// The sequences, shared by all threads.
#[derive(Debug, Default)]
pub struct RoundRobin(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct State {
    turns: Turns,
    /// Weights of the open members during one choice; kept for its memory.
    shares: Vec<u32>,
}

impl RoundRobin {
    pub(super) fn pick(&self, members: &impl Members, request: Request) -> Option<Choice> {
        let State { turns, shares } = &mut *lock(&self.0);
        let sequence = turns.of(request.first, members.len());
        for _ in 0..members.len() {
            shares.clear();
            shares.extend((0..members.len()).map(|i| share(members, i)));
            let candidates = shares.iter().copied().enumerate();
            let (index, _) = sequence.next(candidates.clone())?;
            if members.reserve(index) {
                sequence.advance(index, candidates);
                let why = Why::RoundRobin;
                return Some(Choice { index, why });
            }
        }
        None
    }

    /// What a pick compares now.
    pub(super) fn scores(&self, members: &impl Members, request: Request) -> Vec<Option<Score>> {
        let State { turns, .. } = &mut *lock(&self.0);
        let sequence = turns.of(request.first, members.len());
        let shares: Vec<_> = (0..members.len()).map(|i| share(members, i)).collect();
        let dues = sequence.dues(shares.iter().copied().enumerate());
        dues.map(|(i, due)| (shares[i] > 0).then_some(Score::Turn { due }))
            .collect()
    }

    pub(super) fn fork(&self) -> Self {
        Self(Mutex::new(lock(&self.0).clone()))
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{Pool, counts, picks};
    use crate::config::Balance;

    use super::*;

    #[test]
    fn a_closed_member_gets_nothing_and_the_others_share_by_weight() {
        let pool = Pool::weighted(&[1, 3, 2]);
        pool.close(1);
        assert_eq!(
            counts(&pool, &picks(Balance::RoundRobin, &pool, 30)),
            [10, 0, 20]
        );
    }

    /// Three members, the first refuses: each connection that it gets is retried elsewhere.
    #[test]
    fn what_a_failing_member_leaves_over_is_spread_evenly() {
        let (pool, strategy) = (Pool::weighted(&[1, 1, 1]), RoundRobin::default());
        let mut served = [0; 3];
        for _ in 0..30 {
            let first = Request {
                key: 0,
                first: true,
            };
            let mut index = strategy.pick(&pool, first).expect("one is open").index;
            if index == 0 {
                pool.close(0);
                let retry = Request {
                    key: 0,
                    first: false,
                };
                index = strategy.pick(&pool, retry).expect("one is open").index;
                pool.open(0);
            }
            served[index] += 1;
        }
        assert_eq!(served, [0, 15, 15]);
    }

    #[test]
    fn a_member_whose_last_slot_is_lost_in_between_is_passed_over() {
        let pool = Pool::weighted(&[1, 1]);
        pool.lose(0);
        assert_eq!(counts(&pool, &picks(Balance::RoundRobin, &pool, 4)), [0, 4]);
    }

    #[test]
    fn a_shrunken_and_a_grown_pool_start_anew() {
        let strategy = RoundRobin::default();
        for len in [4, 1, 3] {
            let pool = Pool::weighted(&vec![1; len]);
            let first = Request {
                key: 0,
                first: true,
            };
            let picks: Vec<_> = (0..len)
                .map(|_| strategy.pick(&pool, first).expect("all are open").index)
                .collect();
            assert_eq!(picks, Vec::from_iter(0..len));
        }
    }

    #[test]
    fn a_thread_that_panicked_leaves_a_sequence_that_goes_on() {
        let strategy = RoundRobin::default();
        let panicked = std::thread::scope(|scope| {
            let hold = || {
                let _turns = lock(&strategy.0);
                panic!("on purpose, with the lock held");
            };
            scope.spawn(hold).join()
        });
        assert!(panicked.is_err());
        let first = Request {
            key: 0,
            first: true,
        };
        assert!(strategy.pick(&Pool::weighted(&[1]), first).is_some());
    }
}

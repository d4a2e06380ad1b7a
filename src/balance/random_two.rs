//! `random-two`: the less loaded of two distinct members drawn by weight.
//!
//! Two choices instead of one bring the fullest of n backends from log n / log log n down to
//! log log n above the mean, and a third hardly helps: M. Mitzenmacher, "The Power of Two Choices
//! in Randomized Load Balancing", IEEE Transactions on Parallel and Distributed Systems 12(10),
//! 2001. Unlike the lowest of all it needs no lock, and a herd of simultaneous picks does
//! not run to the same backend. Equally loaded, the first drawn wins, which keeps an
//! idle pool in proportion to the weights.

use rand::Rng;

use super::load::Load;
use super::{Choice, Members, Why, draw, reserve_chosen};

pub(super) fn pick(members: &impl Members, rng: &mut impl Rng) -> Option<Choice> {
    reserve_chosen(members, || {
        let (first, second) = draw::two(members, rng)?;
        Some(choose(members, first, second))
    })
}

/// The winner of two that were drawn, the first of them first.
pub(super) fn choose(members: &impl Members, first: usize, second: Option<usize>) -> Choice {
    let load = Load::of(members, first);
    let Some(second) = second else {
        return choice(first, load, None);
    };
    let other = Load::of(members, second);
    if other.cmp(load).is_lt() {
        choice(second, other, Some(load))
    } else {
        choice(first, load, Some(other))
    }
}

fn choice(index: usize, load: Load, other: Option<Load>) -> Choice {
    let why = Why::Two {
        active: load.active,
        other: other.map(|other| other.active),
    };
    Choice { index, why }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{Pool, counts, hold, picks, released};
    use crate::config::Balance::RandomTwo;

    use super::*;

    #[test]
    fn of_two_members_the_less_loaded_is_always_chosen() {
        let pool = Pool::weighted(&[1, 1]);
        hold(&pool, 0, 4);
        let why = Why::Two {
            active: 0,
            other: Some(4),
        };
        for choice in released(RandomTwo, &pool, 20) {
            assert_eq!(choice, Choice { index: 1, why });
        }
    }

    #[test]
    fn a_lone_member_is_chosen_with_no_other() {
        let pool = Pool::weighted(&[1]);
        let why = Why::Two {
            active: 0,
            other: None,
        };
        assert_eq!(picks(RandomTwo, &pool, 1)[0], Choice { index: 0, why });
    }

    #[test]
    fn idle_members_are_chosen_by_weight() {
        let pool = Pool::weighted(&[1, 2]);
        let counts = counts(&pool, &released(RandomTwo, &pool, 10_000));
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((0.47..=0.53).contains(&ratio), "{counts:?}");
    }

    #[test]
    fn held_connections_stay_near_the_mean() {
        let pool = Pool::weighted(&[1; 50]);
        let counts = counts(&pool, &picks(RandomTwo, &pool, 5000));
        assert!(counts.iter().all(|n| (90..=106).contains(n)), "{counts:?}");
    }
}

//! What holds for every strategy.

use std::sync::Barrier;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::testing::{Pool, counts, picks, released, released_by};
use super::*;

const ALL: [Balance; 6] = [
    Balance::RoundRobin,
    Balance::LeastConnections,
    Balance::ConsistentHash,
    Balance::RandomTwo,
    Balance::LeastLatency,
    Balance::First,
];

/// Picks of 100 threads that start together.
fn simultaneous(balance: Balance, pool: &Pool) -> Vec<Choice> {
    let (balancer, barrier) = (Balancer::new(balance), Barrier::new(100));
    let pick = |key| {
        let mut rng = StdRng::seed_from_u64(key);
        barrier.wait();
        balancer.pick(pool, Request { key, first: true }, &mut rng)
    };
    std::thread::scope(|scope| {
        let pick = &pick;
        let threads: Vec<_> = (0..100).map(|key| scope.spawn(move || pick(key))).collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().expect("a pick never panics"))
            .collect()
    })
}

#[test]
fn simultaneous_picks_are_spread_exactly_by_the_strategies_that_promise_it() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let pool = Pool::weighted(&[1; 4]);
        let counts = counts(&pool, &simultaneous(balance, &pool));
        assert_eq!(counts, [25; 4], "{balance:?}");
    }
}

#[test]
fn simultaneous_picks_never_exceed_a_limit() {
    for balance in ALL {
        let pool = Pool::weighted(&[1; 4]);
        (0..4).for_each(|i| pool.limit(i, 10));
        let counts = counts(&pool, &simultaneous(balance, &pool));
        assert_eq!(counts, [10; 4], "{balance:?}");
    }
}

#[test]
fn a_lone_member_is_chosen_by_every_strategy() {
    for balance in ALL {
        let pool = Pool::weighted(&[3]);
        assert_eq!(counts(&pool, &picks(balance, &pool, 5)), [5], "{balance:?}");
    }
}

#[test]
fn nothing_is_chosen_where_nothing_may_be() {
    for balance in ALL {
        let closed = Pool::weighted(&[1, 2]);
        closed.close(0);
        closed.close(1);
        for pool in [Pool::weighted(&[]), Pool::weighted(&[0, 0]), closed] {
            assert_eq!(picks(balance, &pool, 3), [], "{balance:?} {pool:?}");
        }
    }
}

#[test]
fn a_weight_of_zero_gets_nothing() {
    for balance in ALL {
        let pool = Pool::weighted(&[0, 3, 0]).latencies(&[Some(0.0), Some(0.1), None]);
        assert_eq!(
            counts(&pool, &picks(balance, &pool, 16)),
            [0, 16, 0],
            "{balance:?}"
        );
    }
}

/// Every slot turns out to be taken in the moment it is wanted.
#[test]
fn a_pick_ends_where_every_slot_is_lost() {
    for balance in ALL {
        let pool = Pool::weighted(&[1; 20]);
        (0..20).for_each(|i| pool.lose(i));
        assert_eq!(picks(balance, &pool, 1), [], "{balance:?}");
    }
}

#[test]
fn a_fork_goes_on_from_the_same_place_and_moves_nothing() {
    for balance in ALL {
        let pool = Pool::weighted(&[5, 1, 1]);
        let balancer = Balancer::new(balance);
        released_by(&balancer, &pool, 3);
        let foretold = released_by(&balancer.fork(), &pool, 9);
        assert_eq!(released_by(&balancer.fork(), &pool, 9), foretold);
        assert_eq!(released_by(&balancer, &pool, 9), foretold, "{balance:?}");
    }
}

#[test]
fn a_retry_leaves_the_sequence_of_first_picks_alone() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let pool = Pool::weighted(&[5, 1, 1]);
        let undisturbed = released(balance, &pool, 14);
        let (balancer, mut rng) = (Balancer::new(balance), StdRng::seed_from_u64(7));
        let mut pick = |first| {
            let choice = balancer.pick(&pool, Request { key: 0, first }, &mut rng);
            let choice = choice.expect("all are open");
            pool.release(choice.index);
            choice
        };
        let mut disturbed = || {
            pick(false);
            pick(true)
        };
        let disturbed: Vec<_> = (0..14).map(|_| disturbed()).collect();
        assert_eq!(disturbed, undisturbed, "{balance:?}");
    }
}

/// Whether `own` is a winner among `others` that `why` may speak of.
fn wins(own: Score, others: &[Score], why: Why) -> bool {
    let load = |score: &Score| match *score {
        Score::Load { active, weight, .. } => f64::from(active) / weight,
        _ => unreachable!("all have scores of one kind"),
    };
    match (own, why) {
        (Score::Turn { due }, _) => others
            .iter()
            .all(|other| matches!(other, Score::Turn { due: other } if *other <= due)),
        (
            Score::Load { active, due, .. },
            Why::Two {
                active: told,
                other,
            },
        ) => {
            // The pair of the log: somebody has that many, and is not less loaded.
            let of_pair = |score: &Score| match (*score, other) {
                (Score::Load { active, .. }, Some(other)) => active == other,
                _ => false,
            };
            let pair = others
                .iter()
                .any(|score| of_pair(score) && load(&own) <= load(score));
            active == told && due.is_none() && (pair || (other.is_none() && others.is_empty()))
        }
        (Score::Load { due, .. }, _) => others.iter().all(|other| match *other {
            Score::Load {
                due: Some(other), ..
            } => Some(other) <= due,
            _ => load(&own) < load(other),
        }),
        (Score::Hash { score, .. }, _) => others
            .iter()
            .all(|other| matches!(other, Score::Hash { score: other, .. } if *other <= score)),
        // Drawn against one of the others.
        (Score::Latency { cost, .. }, _) => {
            let not_cheaper = |other: &Score| matches!(other, Score::Latency { cost: other, .. } if *other >= cost * (1.0 - 1e-9));
            others.is_empty() || others.iter().any(not_cheaper)
        }
        (Score::Place { place }, _) => others
            .iter()
            .all(|other| matches!(other, Score::Place { place: other } if *other > place)),
    }
}

fn members() -> impl Strategy<Value = Vec<(u32, u32, bool, Option<f64>)>> {
    let latency = prop::option::of(0.0..10.0);
    let member = (0u32..=1000, 0u32..50, any::<bool>(), latency);
    prop::collection::vec(member, 0..20)
}

/// Members in any state, behind a strategy with a past.
fn in_any_state(
    balance: Balance,
    members: &[(u32, u32, bool, Option<f64>)],
    past: u64,
) -> (Pool, Balancer) {
    let weights: Vec<_> = members.iter().map(|member| member.0).collect();
    let latencies: Vec<_> = members.iter().map(|member| member.3).collect();
    let pool = Pool::weighted(&weights).latencies(&latencies);
    let balancer = Balancer::new(balance);
    released_by(&balancer, &pool, past);
    for (i, (_, active, closed, _)) in members.iter().enumerate() {
        testing::hold(&pool, i, *active);
        if *closed {
            pool.close(i);
        }
    }
    (pool, balancer)
}

/// The member that is chosen for certain, if any is.
fn certain(standings: &[Standing]) -> Option<usize> {
    let chance = |standing: &Standing| standing.chance.expect("few enough");
    let likely: Vec<_> = (0..standings.len())
        .filter(|&i| chance(&standings[i]) > 0.0)
        .collect();
    match likely[..] {
        [only] => Some(only),
        _ => None,
    }
}

proptest! {
    #[test]
    fn what_is_explained_is_what_is_picked(
        members in members(),
        past in 0u64..20,
        key: u64,
        first: bool,
    ) {
        for balance in ALL {
            let (pool, balancer) = in_any_state(balance, &members, past);
            let request = Request { key, first };
            let still = Still::of(&pool);
            let standings = balancer.standings(&still, request);
            prop_assert_eq!(&balancer.standings(&still, request), &standings);
            let foretold = balancer.fork().pick(&still, request, &mut StdRng::seed_from_u64(key));
            let picked = balancer.pick(&pool, request, &mut StdRng::seed_from_u64(key));
            prop_assert_eq!(picked, foretold, "{:?}", balance);
            let Some(Choice { index, .. }) = picked else {
                prop_assert!(standings.iter().all(|standing| standing.chance == Some(0.0)));
                continue;
            };
            prop_assert!(standings[index].score.is_some());
            match balancer.draws() {
                true => prop_assert!(standings[index].chance > Some(0.0)),
                false => prop_assert_eq!(certain(&standings), Some(index)),
            }
            let sum: f64 = standings.iter().filter_map(|standing| standing.chance).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9, "{}", sum);
        }
    }

    /// The scores alone say who is chosen, by the rule of each strategy.
    #[test]
    fn the_chosen_has_the_score_that_wins(
        members in members(),
        past in 0u64..20,
        key: u64,
    ) {
        for balance in ALL {
            let (pool, balancer) = in_any_state(balance, &members, past);
            let request = Request { key, first: true };
            let scores: Vec<_> = balancer
                .standings(&Still::of(&pool), request)
                .into_iter()
                .map(|standing| standing.score)
                .collect();
            let Some(choice) = balancer.pick(&pool, request, &mut StdRng::seed_from_u64(key))
            else {
                continue;
            };
            let open = (0..members.len()).filter(|&i| members[i].0 > 0 && !members[i].2);
            let others: Vec<_> = open
                .filter(|&i| i != choice.index)
                .map(|i| scores[i].expect("an open member has a score"))
                .collect();
            let own = scores[choice.index].expect("so has the chosen");
            prop_assert!(wins(own, &others, choice.why), "{:?} {:?} {:?}", balance, own, others);
        }
    }

    #[test]
    fn a_pick_is_open_and_there_is_one_if_and_only_if_a_member_is_open(
        members in members(),
        key: u64,
        first: bool,
    ) {
        for balance in ALL {
            let weights: Vec<_> = members.iter().map(|member| member.0).collect();
            let latencies: Vec<_> = members.iter().map(|member| member.3).collect();
            let pool = Pool::weighted(&weights).latencies(&latencies);
            for (i, (_, active, closed, _)) in members.iter().enumerate() {
                testing::hold(&pool, i, *active);
                if *closed {
                    pool.close(i);
                }
            }
            let may = |i: usize| members[i].0 > 0 && !members[i].2;
            let mut rng = StdRng::seed_from_u64(key);
            let choice = Balancer::new(balance).pick(&pool, Request { key, first }, &mut rng);
            prop_assert_eq!(choice.is_some(), (0..members.len()).any(may));
            if let Some(Choice { index, .. }) = choice {
                prop_assert!(may(index));
                prop_assert_eq!(pool.active(index), members[index].1 + 1);
            }
        }
    }
}

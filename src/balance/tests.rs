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

fn members() -> impl Strategy<Value = Vec<(u32, u32, bool, Option<f64>)>> {
    let latency = prop::option::of(0.0..10.0);
    let member = (0u32..=1000, 0u32..50, any::<bool>(), latency);
    prop::collection::vec(member, 0..20)
}

proptest! {
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

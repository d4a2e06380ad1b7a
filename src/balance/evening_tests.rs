use proptest::prelude::*;

use super::super::consistent_hash;
use super::*;

fn share(weight: u32, active: u32) -> Share {
    Share {
        weight,
        active,
        closable: active,
        limit: 0,
        identity: 0,
        latency: None,
    }
}

fn shares(all: &[(u32, u32)]) -> Vec<Share> {
    let named = |(i, (weight, active)): (usize, &(u32, u32))| Share {
        identity: consistent_hash::identity(&format!("b{i}")),
        ..share(*weight, *active)
    };
    all.iter().enumerate().map(named).collect()
}

fn planned(balance: Balance, shares: &[Share], target: f64) -> Evening {
    planned_with(balance, shares, &[], target)
}

fn planned_with(balance: Balance, shares: &[Share], keys: &[(usize, u64)], target: f64) -> Evening {
    Uneven {
        balance,
        balancer: &Balancer::new(balance),
        shares,
        keys,
        pending: &[],
        target,
    }
    .plan()
}

fn by_member(evening: &Evening) -> Vec<u32> {
    let mut counts = vec![0; evening.then.len()];
    for closing in &evening.closings {
        counts[closing.from] += closing.count;
    }
    counts
}

#[test]
fn a_new_member_gets_its_share_with_least_connections() {
    let evening = planned(
        Balance::LeastConnections,
        &shares(&[(1, 20), (1, 20), (1, 0)]),
        0.1,
    );
    assert_eq!(evening.before, 1.0);
    assert!(evening.after <= 0.1 + 1e-9, "{evening:?}");
    // A tenth below its share of 13.3 is 12.
    assert_eq!((evening.total(), evening.then[2]), (12, 12));
}

#[test]
fn weights_are_shares() {
    let evening = planned(
        Balance::LeastConnections,
        &shares(&[(1, 30), (2, 60), (3, 0)]),
        0.0,
    );
    assert_eq!(evening.then, [15, 30, 45]);
    assert_eq!(by_member(&evening), [15, 30, 0]);
    assert_eq!(evening.after, 0.0);
}

#[test]
fn what_is_even_enough_is_left_alone() {
    for balance in [
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::RandomTwo,
        Balance::LeastLatency,
        Balance::ConsistentHash,
    ] {
        let evening = planned(balance, &shares(&[(1, 21), (1, 20), (1, 19)]), 0.1);
        assert_eq!(evening.closings, [], "{balance:?}");
        // A connection cannot be halved.
        let evening = planned(balance, &shares(&[(1, 2), (1, 1), (1, 1)]), 0.1);
        assert_eq!(evening.closings, [], "{balance:?}");
        let evening = planned(balance, &shares(&[(1, 0), (1, 0)]), 0.1);
        assert_eq!((evening.before, evening.total()), (0.0, 0), "{balance:?}");
    }
}

/// A third of the redials comes to the new one, so nearly all are closed.
#[test]
fn round_robin_spreads_every_redial_over_all() {
    let evening = planned(
        Balance::RoundRobin,
        &shares(&[(1, 20), (1, 20), (1, 0)]),
        0.1,
    );
    assert!(evening.after <= 0.1 + 1e-9, "{evening:?}");
    assert!((34..=36).contains(&evening.total()), "{evening:?}");
}

#[test]
fn a_turn_that_has_begun_goes_on() {
    let all = shares(&[(1, 20), (1, 20), (1, 0)]);
    let balancer = Balancer::new(Balance::RoundRobin);
    let request = Request {
        key: 0,
        first: true,
    };
    let uneven = Uneven {
        balance: Balance::RoundRobin,
        balancer: &balancer,
        shares: &all,
        keys: &[],
        pending: &[],
        target: 0.1,
    };
    let plan = uneven.plan();
    assert_eq!(plan, uneven.plan(), "a plan moves nothing");
    balancer
        .pick(&Table::of(&all), request, &mut rng())
        .expect("a choice");
    assert!(
        uneven.plan().total() < plan.total(),
        "the new one is nearer"
    );
}

#[test]
fn redials_under_way_are_not_asked_for_again() {
    let all = shares(&[(1, 14), (1, 14), (1, 0)]);
    let uneven = Uneven {
        balance: Balance::LeastConnections,
        balancer: &Balancer::new(Balance::LeastConnections),
        shares: &all,
        keys: &[],
        pending: &[0; 12],
        target: 0.1,
    };
    assert_eq!(uneven.plan().total(), 0);
    let pending = &[][..];
    assert!(Uneven { pending, ..uneven }.plan().total() > 0);
}

#[test]
fn connections_that_cannot_be_closed_stay() {
    let mut all = shares(&[(1, 20), (1, 20), (1, 0)]);
    all[0].closable = 3;
    all[1].closable = 0;
    let evening = planned(Balance::LeastConnections, &all, 0.1);
    assert_eq!(by_member(&evening), [3, 0, 0]);
    assert!(evening.after > 0.1);
}

#[test]
fn nobody_is_sent_where_there_is_no_room() {
    let mut all = shares(&[(1, 20), (1, 0)]);
    all[1].limit = 4;
    let evening = planned(Balance::LeastConnections, &all, 0.1);
    assert_eq!((evening.total(), &*evening.then), (4, &[16, 4][..]));
}

#[test]
fn first_moves_what_is_not_where_it_would_be() {
    let mut all = shares(&[(1, 3), (1, 10), (1, 5)]);
    all[0].limit = 10;
    let evening = planned(Balance::First, &all, 0.0);
    // Of 18 ten fit into the first, and eight into the second.
    assert_eq!(evening.then, [10, 8, 0]);
    assert_eq!(by_member(&evening), [0, 2, 5]);
    let evening = planned(Balance::First, &shares(&[(1, 9), (1, 0)]), 0.0);
    assert_eq!(
        evening.total(),
        0,
        "a member that was added behind is for later"
    );
}

/// `n` connections dealt to the members below `taken` by their keys.
fn dealt(all: &mut [Share], taken: usize, n: u64) -> Vec<(usize, u64)> {
    let keys: Vec<_> = (0..n)
        .map(|key| key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .map(|key| (home(&all[..taken], key).expect("a member"), key))
        .collect();
    for (i, share) in all.iter_mut().enumerate() {
        share.active = keys.iter().filter(|(from, _)| *from == i).count() as u32;
        share.closable = share.active;
    }
    keys
}

#[test]
fn a_connection_is_never_taken_from_the_member_of_its_key() {
    let mut all = shares(&[(1, 0), (1, 0), (1, 0)]);
    let keys = dealt(&mut all, 2, 3000);
    let evening = planned_with(Balance::ConsistentHash, &all, &keys, 0.1);
    assert!(evening.total() > 0 && evening.after <= 0.1, "{evening:?}");
    assert!(evening.closings.iter().all(|c| c.onto == Some(2)));
    // At home already: however uneven, nothing is gained by a redial.
    let keys = dealt(&mut all, 3, 30);
    let evening = planned_with(Balance::ConsistentHash, &all, &keys, 0.0);
    assert_eq!(evening.total(), 0);
    assert!(evening.before > 0.0);
}

/// The fewest closings after which a pool is even, by trying all; `None`: none is.
fn fewest(balance: Balance, all: &[Share], target: f64) -> Option<u32> {
    fn all_ways(all: &[Share]) -> Vec<Vec<u32>> {
        let Some((first, rest)) = all.split_first() else {
            return vec![Vec::new()];
        };
        let rest = all_ways(rest);
        let with = |n: u32| rest.iter().map(move |rest| [&[n], &rest[..]].concat());
        (0..=first.closable).flat_map(with).collect()
    }
    let measure = Measure::of(&Table::of(all), balance, target);
    let is_even = |closed: &Vec<u32>| {
        let table = Table::of(all);
        let (balancer, mut rng) = (Balancer::new(balance), rng());
        for (i, n) in closed.iter().enumerate() {
            table.shift(i, -i64::from(*n));
        }
        for _ in 0..closed.iter().sum() {
            table.redial(&balancer, 0, &mut rng);
        }
        measure.distance(&table) == 0.0
    };
    let even = all_ways(all).into_iter().filter(is_even);
    even.map(|closed| closed.iter().sum()).min()
}

/// How many connections are still elsewhere than they should be, after such a plan.
fn distance(all: &[Share], target: f64, evening: &Evening) -> f64 {
    let measure = Measure::of(&Table::of(all), Balance::LeastConnections, target);
    let table = Table::of(all);
    table.set_active(&evening.then);
    measure.distance(&table)
}

fn any_shares(most: u32) -> impl Strategy<Value = Vec<Share>> {
    prop::collection::vec((1u32..=4, 0..=most), 2..=4).prop_map(|all| shares(&all))
}

proptest! {
    #[test]
    fn least_connections_is_even_afterwards_with_as_few_as_can_be(
        all in any_shares(7),
        weight in 1u32..=4,
        target in prop::sample::select(vec![0.0, 0.1, 0.3]),
    ) {
        let all: Vec<_> = all.into_iter().map(|share| Share { weight, ..share }).collect();
        let evening = planned(Balance::LeastConnections, &all, target);
        if let Some(fewest) = fewest(Balance::LeastConnections, &all, target) {
            prop_assert_eq!(distance(&all, target, &evening), 0.0, "{:?}", evening);
            prop_assert_eq!(evening.total(), fewest, "{:?}", evening);
        }
    }

    /// With several weights two members may be level where only one of them has room: whose turn
    /// it is decides, and all that were closed at once may end otherwise than one by one.
    #[test]
    fn weighted_least_connections_is_but_one_off_where_members_are_level(
        all in any_shares(7),
        target in prop::sample::select(vec![0.0, 0.1, 0.3]),
    ) {
        let evening = planned(Balance::LeastConnections, &all, target);
        if fewest(Balance::LeastConnections, &all, target).is_some() {
            prop_assert!(distance(&all, target, &evening) <= 1.0, "{:?}", evening);
        }
    }

    /// However the strategy deals them.
    #[test]
    fn nobody_is_lost_and_it_never_gets_worse(
        all in any_shares(60),
        target in 0.0f64..0.5,
        balance in prop::sample::select(vec![
            Balance::RoundRobin, Balance::LeastConnections, Balance::RandomTwo,
            Balance::LeastLatency, Balance::First,
        ]),
    ) {
        let evening = planned(balance, &all, target);
        let total = |counts: &[u32]| counts.iter().sum::<u32>();
        let before: Vec<u32> = all.iter().map(|share| share.active).collect();
        prop_assert_eq!(total(&evening.then), total(&before));
        for (closed, share) in by_member(&evening).iter().zip(&all) {
            prop_assert!(*closed <= share.closable);
        }
        let measure = Measure::of(&Table::of(&all), balance, target);
        let (then, now) = (Table::of(&all), Table::of(&all));
        then.set_active(&evening.then);
        let (then, now) = (measure.distance(&then), measure.distance(&now));
        prop_assert!(then < now || evening.total() == 0, "{:?}", evening);
    }

    /// Round robin ends even if only enough may be closed: all dealt anew are.
    #[test]
    fn round_robin_is_even_afterwards(n in 2usize..6, each in 10u32..60) {
        let mut all = shares(&vec![(1, each); n]);
        all.push(share(1, 0));
        let evening = planned(Balance::RoundRobin, &all, 0.1);
        prop_assert!(
            evening.after <= 0.1 + 1e-9 || {
                let table = Table::of(&all);
                let measure = Measure::of(&table, Balance::RoundRobin, 0.1);
                table.set_active(&evening.then);
                measure.distance(&table) == 0.0
            },
            "{:?}", evening
        );
    }

    #[test]
    fn each_key_that_moves_helps(
        taken in 1usize..4, more in 1usize..3, n in 0u64..300, target in 0.0f64..0.3,
    ) {
        let mut all = shares(&vec![(1, 0); taken + more]);
        let keys = dealt(&mut all, taken, n);
        let evening = planned_with(Balance::ConsistentHash, &all, &keys, target);
        let measure = Measure::of(&Table::of(&all), Balance::ConsistentHash, target);
        let (then, now) = (Table::of(&all), Table::of(&all));
        then.set_active(&evening.then);
        let gained = measure.distance(&now) - measure.distance(&then);
        prop_assert!(gained >= f64::from(evening.total()) - 1e-9, "{:?}", evening);
        for closing in &evening.closings {
            let astray = keys.iter().filter(|(from, key)| {
                *from == closing.from && home(&all, *key) == closing.onto
            });
            prop_assert!(closing.count as usize <= astray.count());
            prop_assert!(closing.onto != Some(closing.from));
        }
    }
}

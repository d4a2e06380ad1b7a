use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::balance::{Balancer, Members, Request, consistent_hash};
use crate::config::Balance;

fn racers(weights: &[(u32, u32)]) -> Vec<Racer> {
    let racer = |(i, &(before, after)): (usize, &(u32, u32))| Racer {
        name: format!("b{i}").into(),
        before,
        after,
    };
    weights.iter().enumerate().map(racer).collect()
}

/// Open members with these weights; who has none is left out, as a pool does it.
struct Ring(Vec<(u64, u32, usize)>);

impl Ring {
    fn new(racers: &[Racer], weight: fn(&Racer) -> u32) -> Self {
        let all = racers.iter().enumerate();
        let member = |(i, r): (usize, &Racer)| (consistent_hash::identity(&r.name), weight(r), i);
        Self(all.map(member).filter(|member| member.1 > 0).collect())
    }

    fn owner(&self, key: u64, rng: &mut StdRng) -> usize {
        let balancer = Balancer::new(Balance::ConsistentHash);
        let choice = balancer.pick(self, Request { key, first: true }, rng);
        self.0[choice.expect("somebody takes it").index].2
    }
}

impl Members for Ring {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn weight(&self, i: usize) -> u32 {
        self.0[i].1
    }
    fn active(&self, _: usize) -> u32 {
        0
    }
    fn open(&self, _: usize) -> bool {
        true
    }
    fn identity(&self, i: usize) -> u64 {
        self.0[i].0
    }
    fn latency(&self, _: usize) -> Option<f64> {
        None
    }
    fn reserve(&self, _: usize) -> bool {
        true
    }
}

const KEYS: u32 = 200_000;

/// Compares a computed share with a counted one, within five standard deviations.
#[track_caller]
fn agree(computed: f64, counted: u32) {
    let n = f64::from(KEYS);
    let deviation = (computed * (1.0 - computed) / n).sqrt();
    let off = (f64::from(counted) / n - computed).abs();
    assert!(
        off <= 5.0 * deviation,
        "{computed} computed, {counted} of {KEYS} counted"
    );
}

/// Steps: the keys of 200,000 clients are hashed over the pool before and after by the balancer
/// itself; each pair of backends is compared with what is computed.
#[test]
fn what_is_computed_is_what_the_balancer_does() {
    for weights in [
        &[(1, 1), (1, 1), (1, 0)][..],
        &[(1, 1), (1, 1), (0, 1)],
        &[(1, 3), (1, 1), (1, 1)],
        &[(2, 1), (3, 5), (0, 2), (4, 0), (1, 1)],
        &[(1000, 1), (1, 1000), (10, 10)],
        &[(1, 0), (1, 0), (0, 1), (0, 3)],
    ] {
        let racers = racers(weights);
        let (old, new) = (
            Ring::new(&racers, |r| r.before),
            Ring::new(&racers, |r| r.after),
        );
        let (n, mut rng) = (racers.len(), StdRng::seed_from_u64(0));
        let mut counted = vec![0; n * n];
        for client in 0..KEYS {
            let key = consistent_hash::key_client_ip(std::net::Ipv4Addr::from(client).into());
            counted[old.owner(key, &mut rng) * n + new.owner(key, &mut rng)] += 1;
        }
        let moves = reweighted(&racers).expect("both take keys");
        assert_eq!(moves.not_listed, NotListed::default());
        let mut moved = 0;
        for (from, to) in (0..n).flat_map(|from| (0..n).map(move |to| (from, to))) {
            if from != to {
                let mut all = moves.moves.iter();
                let is_it = |m: &&Move| (&m.from, &m.to) == (&racers[from].name, &racers[to].name);
                agree(
                    all.find(is_it).map_or(0.0, |m| m.share),
                    counted[from * n + to],
                );
                moved += counted[from * n + to];
            }
        }
        agree(moves.share, moved);
    }
}

/// Steps: the same with the keys of another kind after the change.
#[test]
fn with_another_key_every_connection_is_dealt_anew() {
    let racers = racers(&[(1, 1), (2, 2), (0, 3)]);
    let (old, new) = (
        Ring::new(&racers, |r| r.before),
        Ring::new(&racers, |r| r.after),
    );
    let (mut moved, mut rng) = (0, StdRng::seed_from_u64(0));
    for client in 0..KEYS {
        let ip = std::net::Ipv4Addr::from(client);
        let before = consistent_hash::key_client_ip(ip.into());
        let after = consistent_hash::key_client_ip_port((ip, 5432).into());
        moved += u32::from(old.owner(before, &mut rng) != new.owner(after, &mut rng));
    }
    let moves = rehashed(&racers).expect("both take keys");
    agree(moves.share, moved);
    let sum: f64 = moves.moves.iter().map(|m| m.share).sum();
    assert!((sum - moves.share).abs() < 1e-12 && moves.moves.len() == 4);
}

#[test]
fn simple_changes_have_simple_shares() {
    let share = |weights: &[(u32, u32)]| reweighted(&racers(weights)).map(|moves| moves.share);
    let close = |weights: &[(u32, u32)], expected: f64| {
        let share = share(weights).expect("both take keys");
        assert!((share - expected).abs() < 1e-12, "{weights:?}: {share}");
    };
    close(&[(1, 1), (1, 1)], 0.0);
    close(&[(1, 2), (1, 2), (3, 6)], 0.0);
    close(&[(1, 1), (1, 1), (1, 1), (1, 0)], 0.25);
    close(&[(1, 1), (1, 1), (1, 1), (0, 1)], 0.25);
    close(&[(1, 0), (0, 1)], 1.0);
    assert_eq!(share(&[(0, 1)]), None);
    assert_eq!(share(&[(1, 0)]), None);
    assert_eq!(share(&[]), None);
    assert_eq!(rehashed(&racers(&[(1, 0)])), None);
}

#[test]
fn of_many_moves_the_largest_are_listed() {
    let weights: Vec<_> = (0..1000).map(|i| (1 + i % 50, 1 + i * 7 % 91)).collect();
    let moves = reweighted(&racers(&weights)).expect("both take keys");
    assert_eq!(moves.moves.len(), LISTED);
    assert!(moves.moves.is_sorted_by(|a, b| a.share >= b.share));
    let listed: f64 = moves.moves.iter().map(|m| m.share).sum();
    assert!((listed + moves.not_listed.share - moves.share).abs() < 1e-9);
    assert!(moves.not_listed.count > 100_000);
}

#[test]
fn the_list_has_the_largest_of_all_moves() {
    let weights: Vec<_> = (0..40).map(|i| (1 + i * 13 % 29, 1 + i * 7 % 31)).collect();
    let all = racers(&weights);
    let listed = reweighted(&all).expect("both take keys");
    let race = Race::new(&all).expect("both take keys");
    let mut every = Vec::new();
    for (rank, loser) in race.groups.iter().enumerate() {
        for gainer in &race.groups[rank + 1..] {
            for from in &loser.from {
                let shares = gainer.to.iter().map(|to| to.1 * from.1);
                every.extend(shares.map(|s| s * (loser.integral - gainer.integral)));
            }
        }
    }
    every.sort_by(|a, b| b.total_cmp(a));
    let shares: Vec<_> = listed.moves.iter().map(|m| m.share).collect();
    assert_eq!(shares, every[..LISTED]);
    assert_eq!(listed.not_listed.count, every.len() - LISTED);
}

proptest! {
    #[test]
    fn what_one_loses_others_gain(
        weights in prop::collection::vec((0..=1000u32, 0..=1000u32), 1..5),
        rehash: bool,
    ) {
        let all = racers(&weights);
        let moves = if rehash { rehashed(&all) } else { reweighted(&all) };
        let sum = |weight: fn(&Racer) -> u32| all.iter().map(|r| f64::from(weight(r))).sum::<f64>();
        let (before, after) = (sum(|r| r.before), sum(|r| r.after));
        let Some(moves) = moves else {
            prop_assert!(before == 0.0 || after == 0.0);
            return Ok(());
        };
        prop_assert_eq!(moves.not_listed.count, 0);
        for racer in &all {
            let of = |name: fn(&Move) -> &Arc<str>| {
                let mine = moves.moves.iter().filter(|m| *name(m) == racer.name);
                mine.map(|m| m.share).sum::<f64>()
            };
            let had = f64::from(racer.before) / before;
            let has = had - of(|m| &m.from) + of(|m| &m.to);
            prop_assert!((has - f64::from(racer.after) / after).abs() < 1e-9);
        }
        let total: f64 = moves.moves.iter().map(|m| m.share).sum();
        prop_assert!((total - moves.share).abs() < 1e-9);
        prop_assert!(moves.moves.iter().all(|m| m.share > 0.0));
    }
}

//! `consistent-hash`: weighted rendezvous hashing.
//!
//! Each backend has a score for a key, and the highest score wins:
//!
//! ```text
//! score = weight / −log2(u)       u = XXH3(identity of the backend, key) / 2⁶⁴
//! ```
//!
//! That is the logarithmic method of C. Schindelhauer and G. Schomaker, "Weighted Distributed Hash
//! Tables", SPAA 2005: −log(u) of a uniform u is exponentially distributed, and of
//! exponential variables divided by weights each is the least with a probability in proportion to
//! its weight. A score depends on one backend alone. So with a backend gone only its keys move,
//! each to its second choice; with one added, or a weight raised, only the keys that it takes.
//! There is no table, so there is nothing that the order in the file, the order of changes or a
//! restart could leave its mark on. The next after a failure or at a limit is the next highest.
//!
//! # Who agrees
//! Every machine and every version: hashes are XXH3-64 with a fixed seed over bytes that are fixed
//! below, and everything after them is integers. Scores are compared by cross multiplication:
//! 2³² × 2⁵⁴ fits 128 bits. Equal scores go to the higher hash, equal hashes to the higher
//! identity. `tests/golden/consistent_hash.txt` pins the mapping.
//!
//! # Cost
//! O(n), with one hash of 16 bytes for each backend. A cheap bound on `−log2`
//! rules out nearly all that cannot win. It never grows with the hash, so of two backends
//! of the same weight the higher hash wins without a logarithm.

use std::net::{IpAddr, SocketAddr};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::neg_log2::{BITS, neg_log2, neg_log2_at_least};
use super::{Choice, Members, Request, Why, reserve_chosen, share};

/// Seed of every hash, "isobar 1" as bytes. Any number would do; another one moves every client.
const SEED: u64 = u64::from_be_bytes(*b"isobar 1");

/// Identity of a backend: the hash of its name; for a resolved name, of name and address.
pub fn identity(name: &str) -> u64 {
    hash(name.as_bytes())
}

/// Key `client-ip`: the 4 or 16 bytes of the address; an IPv4-mapped one has 4.
pub fn key_client_ip(client: IpAddr) -> u64 {
    hash(IpBytes::of(client).as_slice())
}

/// Key `client-ip-port`: the bytes of the address as in [`key_client_ip`], then the port
/// as 2 bytes, the high one first.
pub fn key_client_ip_port(client: SocketAddr) -> u64 {
    let mut bytes = IpBytes::of(client.ip());
    bytes.push(client.port().to_be_bytes());
    hash(bytes.as_slice())
}

/// Up to 16 address bytes and 2 of a port.
struct IpBytes {
    bytes: [u8; 18],
    len: usize,
}

impl IpBytes {
    fn of(ip: IpAddr) -> Self {
        let mut this = Self {
            bytes: [0; 18],
            len: 0,
        };
        match ip.to_canonical() {
            IpAddr::V4(ip) => this.push(ip.octets()),
            IpAddr::V6(ip) => this.push(ip.octets()),
        }
        this
    }

    fn push<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.len..self.len + N].copy_from_slice(&bytes);
        self.len += N;
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn hash(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, SEED)
}

/// The hash of a backend and a key, 8 bytes each, the low one first.
#[inline]
fn hash_pair(identity: u64, key: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&identity.to_le_bytes());
    bytes[8..].copy_from_slice(&key.to_le_bytes());
    xxh3_64_with_seed(&bytes, SEED)
}

pub(super) fn pick(members: &impl Members, request: Request) -> Option<Choice> {
    let why = Why::Hash;
    reserve_chosen(members, || {
        highest(members, request.key).map(|index| Choice { index, why })
    })
}

/// The open member with the highest score for `key`.
fn highest(members: &impl Members, key: u64) -> Option<usize> {
    let mut best: Option<(usize, Highest)> = None;
    for i in 0..members.len() {
        let score = Score::of(members, i, key);
        // Few beat the best so far, so whether one is open is asked last.
        let beaten = |(_, highest): &(_, Highest)| highest.is_beaten_by(score);
        if best.as_ref().is_none_or(beaten) && share(members, i) > 0 {
            best = Some((i, Highest::new(score)));
        }
    }
    best.map(|(i, _)| i)
}

/// The score of a backend for a key, as a number to look at: weight / −log2(u).
pub fn score(identity: u64, weight: u32, key: u64) -> f64 {
    let score = Score::new(identity, weight, key);
    let neg_log2 = neg_log2(score.hash) as f64 / (1u64 << BITS) as f64;
    f64::from(score.weight) / neg_log2
}

/// What a backend's score for a key is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Score {
    weight: u32,
    hash: u64,
    identity: u64,
}

impl Score {
    #[inline]
    fn of(members: &impl Members, i: usize, key: u64) -> Self {
        Self::new(members.identity(i), members.weight(i), key)
    }

    #[inline]
    fn new(identity: u64, weight: u32, key: u64) -> Self {
        Self {
            weight,
            hash: hash_pair(identity, key),
            identity,
        }
    }
}

/// The highest score so far, and what others need to be compared with it.
#[derive(Clone, Copy, Debug)]
struct Highest {
    score: Score,
    neg_log2: u64,
    /// −log2(u) / weight in units of 2⁻³², rounded up.
    per_weight: u64,
}

impl Highest {
    fn new(score: Score) -> Self {
        let neg_log2 = neg_log2(score.hash);
        Self {
            score,
            neg_log2,
            per_weight: neg_log2 / (u64::from(score.weight.max(1)) << 16) + 1,
        }
    }

    #[inline]
    fn is_beaten_by(&self, other: Score) -> bool {
        self.may_be_beaten_by(other)
            && if other.weight == self.score.weight {
                (other.hash, other.identity) > (self.score.hash, self.score.identity)
            } else {
                self.is_beaten_in_full_by(other)
            }
    }

    /// False only where the full comparison is false too: one multiplication of 64 bits, one
    /// branch that is nearly always taken the same way.
    #[inline]
    fn may_be_beaten_by(&self, other: Score) -> bool {
        neg_log2_at_least(other.hash) <= self.per_weight.saturating_mul(other.weight.into())
    }

    /// weight / −log2(u) of both, by cross multiplication; then the hashes, then the identities.
    fn is_beaten_in_full_by(&self, other: Score) -> bool {
        let product = |weight: u32, neg_log2: u64| u128::from(weight) * u128::from(neg_log2);
        let theirs = product(other.weight, self.neg_log2);
        let ours = product(self.score.weight, neg_log2(other.hash));
        (theirs, other.hash, other.identity) > (ours, self.score.hash, self.score.identity)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::balance::testing::Pool;

    use super::*;

    /// `names` with their weights.
    fn pool(names: &[(String, u32)]) -> Pool {
        let weights: Vec<u32> = names.iter().map(|(_, weight)| *weight).collect();
        Pool::weighted(&weights).named(names.iter().map(|(name, _)| &**name))
    }

    fn equal(n: usize) -> Vec<(String, u32)> {
        (0..n).map(|i| (format!("backend-{i}"), 1)).collect()
    }

    /// The names that `keys` keys go to.
    fn map(names: &[(String, u32)], keys: u64) -> Vec<&str> {
        let pool = pool(names);
        let winner = |key| highest(&pool, hash(&u64::to_le_bytes(key))).expect("all are open");
        (0..keys).map(|key| &*names[winner(key)].0).collect()
    }

    fn moved<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<(&'a str, &'a str)> {
        let pairs = before.iter().zip(after).map(|(a, b)| (*a, *b));
        pairs.filter(|(a, b)| a != b).collect()
    }

    #[test]
    fn the_hash_is_xxh3() {
        // From the reference implementation's documentation: no bytes, seed 0.
        assert_eq!(xxh3_64_with_seed(b"", 0), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn key_bytes_are_those_of_the_contract() {
        let ip = |text: &str| key_client_ip(text.parse().expect("an address"));
        let ip_port = |text: &str| key_client_ip_port(text.parse().expect("an address"));
        assert_eq!(ip("10.0.0.200"), hash(&[10, 0, 0, 200]));
        assert_eq!(ip("::ffff:10.0.0.200"), hash(&[10, 0, 0, 200]));
        let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff];
        assert_eq!(ip("2001:db8::ff"), hash(&v6));
        assert_eq!(ip_port("10.0.0.1:258"), hash(&[10, 0, 0, 1, 1, 2]));
        assert_eq!(ip_port("[::ffff:10.0.0.1]:258"), hash(&[10, 0, 0, 1, 1, 2]));
        let v6_port: Vec<u8> = v6.into_iter().chain([1, 2]).collect();
        assert_eq!(ip_port("[2001:db8::ff]:258"), hash(&v6_port));
    }

    #[test]
    fn an_added_backend_takes_its_share_and_nothing_else_moves() {
        for weight in [1, 10] {
            let mut names = equal(50);
            let before = names.clone();
            names.insert(17, ("new".into(), weight));
            let keys = 1000.0;
            let (before, after) = (map(&before, 1000), map(&names, 1000));
            let moved = moved(&before, &after);
            let share = f64::from(weight) / f64::from(50 + weight);
            assert!(moved.iter().all(|(_, to)| *to == "new"));
            assert!(
                (moved.len() as f64) <= 1.3 * keys * share,
                "{}",
                moved.len()
            );
            assert!(
                (moved.len() as f64) >= 0.6 * keys * share,
                "{}",
                moved.len()
            );
        }
    }

    #[test]
    fn a_raised_weight_takes_keys_and_loses_none() {
        let mut names = equal(10);
        let before = names.clone();
        names[3].1 = 5;
        let (before, after) = (map(&before, 5000), map(&names, 5000));
        let moved = moved(&before, &after);
        assert!(!moved.is_empty() && moved.iter().all(|(_, to)| *to == "backend-3"));
    }

    #[test]
    fn keys_of_a_closed_backend_go_to_their_second_choice_and_come_back() {
        let names = equal(5);
        let pool = pool(&names);
        for key in 0..200 {
            let first = highest(&pool, key).expect("all are open");
            pool.close(first);
            let without: Vec<_> = names
                .iter()
                .filter(|name| *name != &names[first])
                .cloned()
                .collect();
            let second = highest(&pool, key).expect("four are open");
            let of_the_rest = highest(&self::pool(&without), key).expect("all are open");
            assert_eq!(names[second], without[of_the_rest]);
            pool.open(first);
            assert_eq!(highest(&pool, key), Some(first));
        }
    }

    /// 100,000 keys over 100 backends: 1,000 each with a standard deviation of 31, so that 1.12
    /// times the mean is nearly four of them.
    #[test]
    fn keys_spread_evenly() {
        let names = equal(100);
        let winners = map(&names, 100_000);
        let most = names
            .iter()
            .map(|(name, _)| winners.iter().filter(|winner| *winner == name).count())
            .max();
        assert!(most.expect("there are backends") <= 1120);
    }

    /// For the bound see the chi-square distribution: four degrees of freedom, p = 0.001.
    #[test]
    fn keys_spread_in_proportion_to_weights() {
        let weights = [1, 2, 5, 10, 82];
        let names: Vec<_> = weights.map(|w| (format!("of weight {w}"), w)).into();
        let winners = map(&names, 100_000);
        let chi_square: f64 = names
            .iter()
            .map(|(name, weight)| {
                let won = winners.iter().filter(|winner| *winner == name).count() as f64;
                let expected = f64::from(*weight) * 1000.0;
                (won - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_square < 18.5, "{chi_square}");
    }

    fn score() -> impl Strategy<Value = Score> {
        // Hashes near the top are where scores are close.
        let hash = (any::<u64>(), 0u32..64).prop_map(|(hash, shift)| !(hash >> shift));
        let fields = (1u32..=1000, hash, any::<u64>());
        fields.prop_map(|(weight, hash, identity)| Score {
            weight,
            hash,
            identity,
        })
    }

    proptest! {
        #[test]
        fn both_shortcuts_agree_with_the_full_comparison(
            a in score(),
            mut b in score(),
            same_weight: bool,
            same_hash: bool,
        ) {
            b.weight = if same_weight { a.weight } else { b.weight };
            b.hash = if same_hash { a.hash } else { b.hash };
            let highest = Highest::new(a);
            prop_assert_eq!(highest.is_beaten_by(b), highest.is_beaten_in_full_by(b));
        }

        #[test]
        fn of_two_scores_exactly_one_wins(a in score(), b in score()) {
            let wins = |a, b| Highest::new(b).is_beaten_by(a);
            prop_assert!(a == b || wins(a, b) != wins(b, a));
        }

        #[test]
        fn the_greatest_weights_do_not_overflow(a in score(), b in score()) {
            let heavy = |score: Score| Score { weight: u32::MAX - score.weight, ..score };
            let wins = |a, b| Highest::new(b).is_beaten_by(a);
            prop_assert!(a == b || wins(heavy(a), heavy(b)) != wins(heavy(b), heavy(a)));
        }

        #[test]
        fn order_in_the_file_does_not_matter(
            (names, shuffled) in names().prop_flat_map(|n| (Just(n.clone()), Just(n).prop_shuffle())),
        ) {
            prop_assert_eq!(map(&names, 50), map(&shuffled, 50));
        }

        #[test]
        fn with_a_backend_gone_only_its_keys_move(names in names(), gone: prop::sample::Index) {
            let mut rest = names.clone();
            let gone = rest.remove(gone.index(names.len())).0;
            prop_assume!(!rest.is_empty());
            let (before, after) = (map(&names, 50), map(&rest, 50));
            prop_assert!(moved(&before, &after).iter().all(|(from, _)| **from == *gone));
        }
    }

    /// Different names with any weights.
    fn names() -> impl Strategy<Value = Vec<(String, u32)>> {
        let names = prop::collection::btree_map("[a-z]{1,8}", 1u32..=1000, 1..12);
        names.prop_map(Vec::from_iter)
    }
}

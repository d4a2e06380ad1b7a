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
//! # Bounded load
//! With `max_load` a member that would have more than its bound is passed over, and the next in the
//! order of scores takes the connection: only keys of the overloaded move. Counts and weights
//! are those of the members it is chosen among, so that a backend that is drained or down
//! neither counts nor has a share. See [`Room`].
//!
//! # Cost
//! O(n), with one hash of 16 bytes for each backend. A cheap bound on `−log2`
//! rules out nearly all that cannot win. It never grows with the hash, so of two backends
//! of the same weight the higher hash wins without a logarithm.

use std::net::{IpAddr, SocketAddr};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::neg_log2::{BITS, neg_log2, neg_log2_at_least};
use std::sync::Mutex;

use super::{Choice, Members, Request, Why, lock, reserve_chosen, share};

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

/// Key `sni`: the bytes of the name, which is in lower case and without a final dot.
pub fn key_sni(name: &str) -> u64 {
    hash(name.as_bytes())
}

/// Key `destination-ip-port`: the bytes of address and port as in [`key_client_ip_port`].
pub fn key_destination_ip_port(destination: SocketAddr) -> u64 {
    key_client_ip_port(destination)
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

/// The strategy: without a bound it keeps nothing and takes no lock.
#[derive(Debug, Default)]
pub struct ConsistentHash {
    bound: Option<Bound>,
}

/// `max_load`, and the lock under which it is looked at and a slot is taken.
#[derive(Debug)]
struct Bound {
    /// In millionths.
    factor: u64,
    picking: Mutex<()>,
}

impl ConsistentHash {
    /// With a bound of so many times the share of a member; 0: none.
    pub(super) fn bounded(max_load: f64) -> Self {
        let bound = (max_load > 0.0).then(|| Bound {
            factor: (max_load * MILLION as f64).round() as u64,
            picking: Mutex::new(()),
        });
        Self { bound }
    }

    /// The same strategy.
    pub(super) fn fork(&self) -> Self {
        let bound = self.bound.as_ref().map(|bound| Bound {
            factor: bound.factor,
            picking: Mutex::new(()),
        });
        Self { bound }
    }

    pub(super) fn pick(&self, members: &impl Members, request: Request) -> Option<Choice> {
        let why = Why::Hash;
        let Some(bound) = &self.bound else {
            return reserve_chosen(members, || {
                highest(members, request.key).map(|index| Choice { index, why })
            });
        };
        // From the counts to the reservation, so that no other pick comes in between.
        let _picking = lock(&bound.picking);
        reserve_chosen(members, || {
            let room = Room::of(members, bound.factor);
            let below = highest_of(members, request.key, |i| room.has(members, i));
            // Nobody waits, and no failover fails, for the sake of evenness.
            let index = below.or_else(|| highest(members, request.key))?;
            Some(Choice { index, why })
        })
    }

    /// Of each member: the most connections that it may have once this one is among them, and
    /// whether it would have more. Without a bound: `None`.
    pub(super) fn loads(&self, members: &impl Members) -> Option<Vec<Load>> {
        let room = Room::of(members, self.bound.as_ref()?.factor);
        let open = |i: &usize| share(members, *i) > 0;
        let any = (0..members.len()).any(|i| open(&i) && room.has(members, i));
        let load = |i| Load {
            most: room.most(members.weight(i)),
            // Where nobody with room is below it, it does not hold.
            over: any && !room.has(members, i),
        };
        Some((0..members.len()).map(load).collect())
    }
}

/// How a member stands to its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) most: u32,
    pub(super) over: bool,
}

const MILLION: u64 = 1_000_000;

/// What all members have together, which the bound of each is a share of.
///
/// *active + 1 ≤ ⌈c × (all active + 1) × weight / all weights⌉*, in integers: c counts in millionths, so
/// that 1.1 × 10 is 11 and not a little more. V. Mirrokni, M. Thorup and M. Zadimoghaddam, "Consistent
/// Hashing with Bounded Loads", SODA 2018. With c ≥ 1 some member is always below its bound: were
/// none, the sum of all would be above all. That one may be at a limit, or tried already.
#[derive(Clone, Copy, Debug)]
struct Room {
    factor: u64,
    /// Connections, this one included.
    all: u64,
    weights: u64,
}

impl Room {
    fn of(members: &impl Members, factor: u64) -> Self {
        let all = 0..members.len();
        let active = all.clone().map(|i| u64::from(members.active(i)));
        Self {
            factor,
            all: active.sum::<u64>() + 1,
            weights: all.map(|i| u64::from(members.weight(i))).sum(),
        }
    }

    fn most(&self, weight: u32) -> u32 {
        let share = u128::from(self.factor) * u128::from(self.all) * u128::from(weight);
        let most = share.div_ceil(u128::from(self.weights.max(1)) * u128::from(MILLION));
        most.try_into().unwrap_or(u32::MAX)
    }

    fn has(&self, members: &impl Members, i: usize) -> bool {
        members.active(i) < self.most(members.weight(i))
    }
}

/// The open member with the highest score for `key`.
fn highest(members: &impl Members, key: u64) -> Option<usize> {
    highest_of(members, key, |_| true)
}

/// The same of those that `allowed` says.
fn highest_of(members: &impl Members, key: u64, allowed: impl Fn(usize) -> bool) -> Option<usize> {
    let mut best: Option<(usize, Highest)> = None;
    for i in 0..members.len() {
        let score = Score::of(members, i, key);
        // Few beat the best so far, so whether one is open is asked last.
        let beaten = |(_, highest): &(_, Highest)| highest.is_beaten_by(score);
        if best.as_ref().is_none_or(beaten) && share(members, i) > 0 && allowed(i) {
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

    fn bounded(c: f64) -> ConsistentHash {
        ConsistentHash::bounded(c)
    }

    fn take(strategy: &ConsistentHash, pool: &Pool, key: u64) -> Option<usize> {
        let choice = strategy.pick(pool, Request { key, first: true });
        choice.map(|choice| choice.index)
    }

    /// The contract's sum, in fractions: active + 1 ≤ ⌈c × (all + 1) × weight / weights⌉.
    fn may(pool: &Pool, i: usize, millionths: u64) -> bool {
        let all: u64 = (0..pool.len()).map(|i| u64::from(pool.active(i))).sum();
        let weights: u64 = (0..pool.len()).map(|i| u64::from(pool.weight(i))).sum();
        let most = (millionths * (all + 1) * u64::from(pool.weight(i))).div_ceil(weights * MILLION);
        u64::from(pool.active(i)) < most
    }

    #[test]
    fn a_decimal_counts_as_it_is_written() {
        let pool = Pool::weighted(&[1]);
        let room = |c: f64, all: u64| Room {
            factor: bounded(c).bound.expect("a bound").factor,
            all,
            ..Room::of(&pool, 0)
        };
        // In floating point 1.1 is a little more than that.
        assert_eq!((room(1.1, 10).most(1), room(1.1, 11).most(1)), (11, 13));
        assert_eq!((room(1.0, 7).most(1), room(1000.0, 3).most(1)), (7, 3000));
        assert!(bounded(0.0).bound.is_none());
    }

    /// 100 clients of one key: two members of weight 1 and one of 2, with c = 1.25.
    #[test]
    fn an_overloaded_member_is_passed_over_for_the_next() {
        let (pool, strategy) = (Pool::weighted(&[1, 1, 2]), bounded(1.25));
        for _ in 0..100 {
            let allowed: Vec<_> = (0..3).filter(|&i| may(&pool, i, 1_250_000)).collect();
            let expected = highest_of(&pool, 7, |i| allowed.contains(&i));
            assert_eq!(take(&strategy, &pool, 7), expected);
        }
        let counts: Vec<_> = (0..3).map(|i| pool.active(i)).collect();
        assert_eq!(counts.iter().sum::<u32>(), 100);
        assert!(
            counts
                .iter()
                .zip([1, 1, 2])
                .all(|(n, w)| *n <= 125 * w / 4 + 1),
            "{counts:?}"
        );
    }

    /// The others are full, or were tried: then nobody waits for the sake of evenness.
    #[test]
    fn the_bound_does_not_hold_where_nobody_with_room_is_below_it() {
        let (pool, strategy) = (Pool::weighted(&[1, 1]), bounded(1.0));
        pool.close(1);
        for _ in 0..5 {
            assert_eq!(take(&strategy, &pool, 7), Some(0));
        }
        pool.close(0);
        assert_eq!(take(&strategy, &pool, 7), None);
    }

    #[test]
    fn simultaneous_picks_stay_within_the_bound() {
        let (pool, strategy) = (Pool::weighted(&[1; 4]), bounded(1.0));
        std::thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| take(&strategy, &pool, 7).expect("all are open"));
                scope.spawn(|| take(&strategy, &pool, 8).expect("all are open"));
            }
        });
        let counts: Vec<_> = (0..4).map(|i| pool.active(i)).collect();
        assert_eq!(counts, [25; 4]);
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

        /// Whoever comes goes to the highest of those that may take it; so a key leaves its own
        /// only where that may not, and nobody ever has more than its bound allowed when it took
        /// its last.
        #[test]
        fn keys_move_from_the_overloaded_alone_and_nobody_exceeds_its_bound(
            names in names(),
            millionths in 1_000_000..3_000_000u64,
            keys in prop::collection::vec(0..6u64, 1..60),
            leave in any::<u64>(),
        ) {
            let pool = pool(&names);
            let strategy = bounded(millionths as f64 / MILLION as f64);
            let mut taken = Vec::new();
            for (turn, key) in keys.into_iter().enumerate() {
                if leave >> (turn % 64) & 1 == 1 && let Some(i) = taken.pop() {
                    pool.release(i);
                }
                let allowed: Vec<_> = (0..pool.len()).map(|i| may(&pool, i, millionths)).collect();
                prop_assert!(allowed.contains(&true), "somebody is below the bound");
                let own = highest(&pool, key).expect("all are open");
                let got = take(&strategy, &pool, key).expect("all are open");
                prop_assert!(allowed[got]);
                prop_assert_eq!(got == own, allowed[own]);
                prop_assert_eq!(Some(got), highest_of(&pool, key, |i| allowed[i]));
                taken.push(got);
            }
        }

        #[test]
        fn a_bound_knows_no_order_in_the_file(
            (names, shuffled) in names().prop_flat_map(|n| (Just(n.clone()), Just(n).prop_shuffle())),
            keys in prop::collection::vec(0..4u64, 1..40),
        ) {
            let map = |names: &[(String, u32)]| {
                let (pool, strategy) = (pool(names), bounded(1.1));
                let keys = keys.iter().filter_map(|key| take(&strategy, &pool, *key));
                keys.map(|i| names[i].0.clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(map(&names), map(&shuffled));
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

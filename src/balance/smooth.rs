//! Smooth weighted round robin: turns in proportion to weights, spread as evenly as they can be.
//!
//! The algorithm is nginx's (`ngx_http_upstream_get_peer`, since 1.3.1): at each turn every
//! candidate's *lag* grows by its weight, the one with the greatest lag is chosen (of equals the
//! first), and pays the sum of the weights. So 5:1:1 gives `a a b a c a a`. From equal lags
//! the sequence repeats after the sum W of the weights, so any W turns in a row are exact.
//!
//! What is not nginx's is the unit. Candidates change from turn to turn: a backend reaches its
//! limit, or is not among the tied. nginx counts lag in units of 1/W turn, whatever W is at the
//! time; what is a small lag while a member of weight 1000 takes part is 500 turns between two
//! of weight 1 once it does not. Here weights are first scaled by [`TURN`]/W, so that lag
//! is in turns, always, and a member that sits out keeps its lag. While the candidates stay the same, every
//! lag is scaled alike and the sequence is nginx's; after a change each member's count is off
//! by at most one turn in the W turns that follow, and exact from then on.

/// One turn as lag. W is 2²⁰ for a thousand members of weight 1000, which leaves 28 bits
/// to tell lags apart; lags stay within a few turns, so an `i64` never overflows.
const TURN: u64 = 1 << 48;

/// A sequence of turns. A turn is two calls: who is [`next`](Self::next) and, once it is certain
/// that the turn is taken, [`advance`](Self::advance) with the same candidates.
#[derive(Clone, Debug, Default)]
pub(super) struct Smooth {
    /// Turns that each member has not got yet, in units of 1/[`TURN`]; negative: got ahead of time.
    lag: Vec<i64>,
}

impl Smooth {
    /// Makes sure that there is room for `len` members. Where that changes, all lags are 0 again.
    pub(super) fn fit(&mut self, len: usize) {
        if self.lag.len() != len {
            self.lag = vec![0; len];
        }
    }

    /// Which of the candidates takes the turn; `None` where all sit out.
    pub(super) fn next(&self, candidates: impl Candidates) -> Option<(usize, u32)> {
        let (_, scale) = total_and_scale(candidates.clone());
        let mut next = None;
        let mut greatest = i64::MIN;
        for (i, weight) in candidates {
            let lag = self.due(i, weight, scale);
            if lag > greatest && weight > 0 {
                (next, greatest) = (Some((i, weight)), lag);
            }
        }
        next
    }

    /// The turns that are due to each of the candidates, this one's share included: what
    /// [`next`](Self::next) compares.
    pub(super) fn dues(&self, candidates: impl Candidates) -> impl Iterator<Item = (usize, f64)> {
        let (_, scale) = total_and_scale(candidates.clone());
        candidates.map(move |(i, weight)| (i, self.due(i, weight, scale) as f64 / TURN as f64))
    }

    /// The lag of member `i` once this turn is counted.
    #[inline]
    fn due(&self, i: usize, weight: u32, scale: i64) -> i64 {
        self.lag[i] + i64::from(weight) * scale
    }

    /// Gives the turn to `chosen`, one of the candidates.
    pub(super) fn advance(&mut self, chosen: usize, candidates: impl Candidates) {
        let (total, scale) = total_and_scale(candidates.clone());
        for (i, weight) in candidates {
            self.lag[i] += i64::from(weight) * scale;
        }
        self.lag[chosen] -= total * scale;
    }
}

/// Sum of all weights, and the lag for each unit of weight, at least 1.
fn total_and_scale(candidates: impl Candidates) -> (i64, i64) {
    let total: u64 = candidates.map(|(_, weight)| u64::from(weight)).sum();
    let scale = (TURN / total.max(1)).max(1);
    (total.cast_signed(), scale.cast_signed())
}

/// Members by index, each at most once, with their weights; with a weight of 0 one sits out.
pub(super) trait Candidates: Iterator<Item = (usize, u32)> + Clone {}

impl<T: Iterator<Item = (usize, u32)> + Clone> Candidates for T {}

/// The sequence of first picks and, apart from it, that of retries.
///
/// A retry that moved the sequence of first picks on would take the turn of somebody who is well,
/// and one that moved nothing would always go to the same one, the next after the failed.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    first: Smooth,
    retry: Smooth,
}

impl Turns {
    /// The one for a pick among `len` members that is, or is not, a connection's first.
    pub(super) fn of(&mut self, first: bool, len: usize) -> &mut Smooth {
        let sequence = if first {
            &mut self.first
        } else {
            &mut self.retry
        };
        sequence.fit(len);
        sequence
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `turns` turns with these weights.
    fn run(smooth: &mut Smooth, weights: &[u32], turns: usize) -> Vec<usize> {
        (0..turns)
            .map(|_| {
                let candidates = weights.iter().copied().enumerate();
                smooth.fit(weights.len());
                let (next, _) = smooth
                    .next(candidates.clone())
                    .expect("somebody takes part");
                smooth.advance(next, candidates);
                next
            })
            .collect()
    }

    fn count(turns: &[usize], i: usize) -> u32 {
        turns.iter().filter(|&&turn| turn == i).count() as u32
    }

    fn sum(weights: &[u32]) -> usize {
        weights.iter().sum::<u32>() as usize
    }

    /// Which turns in a row differ from the weights, and by how much at most.
    fn unevenness(turns: &[usize], weights: &[u32]) -> u32 {
        let members = (0..weights.len()).filter(|&i| weights[i] > 0);
        members
            .map(|i| count(turns, i).abs_diff(weights[i]))
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn the_sequence_is_that_of_nginx() {
        assert_eq!(
            run(&mut Smooth::default(), &[5, 1, 1], 7),
            [0, 0, 1, 0, 2, 0, 0]
        );
        assert_eq!(
            run(&mut Smooth::default(), &[1, 1, 1], 6),
            [0, 1, 2, 0, 1, 2]
        );
    }

    #[test]
    fn a_heavy_member_never_has_more_than_four_of_five_to_two_in_a_row() {
        let turns = run(&mut Smooth::default(), &[5, 1, 1], 70);
        let longest = turns
            .chunk_by(|a, b| a == b)
            .map(<[usize]>::len)
            .max()
            .expect("there are turns");
        assert!(longest <= 4, "{turns:?}");
        assert!(
            turns
                .windows(7)
                .all(|window| unevenness(window, &[5, 1, 1]) == 0)
        );
    }

    #[test]
    fn no_rounding_loses_a_small_weight_beside_large_ones() {
        for weights in [vec![256, 1], vec![100, 100, 1], vec![1000, 999, 1, 1]] {
            let turns = run(&mut Smooth::default(), &weights, 2 * sum(&weights));
            let even = |window| unevenness(window, &weights) == 0;
            assert!(turns.windows(sum(&weights)).all(even), "{weights:?}");
        }
    }

    #[test]
    fn a_heavy_member_that_leaves_does_not_unbalance_the_light_ones() {
        let mut smooth = Smooth::default();
        run(&mut smooth, &[1000, 1, 1], 510);
        let turns = run(&mut smooth, &[0, 1, 1], 10);
        assert_eq!((count(&turns, 1), count(&turns, 2)), (5, 5));
    }

    #[test]
    fn where_all_sit_out_it_is_nobodys_turn() {
        let mut smooth = Smooth::default();
        run(&mut smooth, &[1, 1], 1);
        assert_eq!(smooth.next([(0, 0), (1, 0)].into_iter()), None);
        assert_eq!(smooth.next(std::iter::empty()), None);
    }

    #[test]
    fn the_greatest_weights_do_not_overflow() {
        let weights = [u32::MAX; 1000];
        let turns = run(&mut Smooth::default(), &weights, 2000);
        assert!((0..1000).all(|i| count(&turns, i) == 2));
    }

    proptest! {
        #[test]
        fn any_turns_in_a_row_as_long_as_the_sum_of_weights_are_exact(
            weights in prop::collection::vec(1u32..=1000, 1..8),
            offset in 0usize..10_000,
        ) {
            let turns = run(&mut Smooth::default(), &weights, offset + sum(&weights));
            prop_assert_eq!(unevenness(&turns[offset..], &weights), 0);
        }

        /// Members come and go at any time; then the set stays.
        #[test]
        fn after_changes_a_count_is_off_by_one_at_most_and_then_exact(
            weights in prop::collection::vec(1u32..=40, 2..7),
            changes in prop::collection::vec((any::<u8>(), 1usize..100), 0..10),
            last in any::<u8>(),
        ) {
            let some = |mask: u8| -> Vec<u32> {
                let one = usize::from(mask) % weights.len();
                let part = |i| i == one || mask >> i & 1 == 1;
                (0..weights.len()).map(|i| if part(i) { weights[i] } else { 0 }).collect()
            };
            let mut smooth = Smooth::default();
            for (mask, turns) in changes {
                run(&mut smooth, &some(mask), turns);
            }
            let weights = some(last);
            let turns = run(&mut smooth, &weights, 3 * sum(&weights));
            for (start, window) in turns.windows(sum(&weights)).enumerate() {
                let allowed = u32::from(start < sum(&weights));
                prop_assert!(unevenness(window, &weights) <= allowed, "from turn {}", start);
            }
        }
    }
}

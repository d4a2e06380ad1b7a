//! `least-latency`: the lower cost of two distinct members drawn by weight.
//!
//! cost = latency × (active + 1) / weight, where latency is the [moving average](super::PeakEwma)
//! that the pool keeps. Two are drawn and not all compared, so that the fastest is not flooded
//! before its average rises: this is the load balancer of Finagle and linkerd, peak EWMA over power
//! of two choices. Equal costs go to the first drawn.
//!
//! A member without a sample counts as the median of those that have one (the upper one of an
//! even number), open or not: it is tried soon and not flooded. Where neither of the two has a
//! sample, both count the same, whatever the median; so it is looked for only where one of the
//! two has one, and a pool without any sample goes by (active + 1) / weight.

use rand::Rng;

use super::{Choice, Members, Score, Why, draw, reserve_chosen, share};

pub(super) fn pick(members: &impl Members, rng: &mut impl Rng) -> Option<Choice> {
    reserve_chosen(members, || {
        let (first, second) = draw::two(members, rng)?;
        Some(choose(members, first, second))
    })
}

/// The winner of two that were drawn, the first of them first.
pub(super) fn choose(members: &impl Members, first: usize, second: Option<usize>) -> Choice {
    let index = second.map_or(first, |second| cheaper(members, first, second));
    let why = Why::Latency;
    Choice { index, why }
}

/// What the open members cost, each as beside one that has a sample.
pub(super) fn scores(members: &impl Members) -> Vec<Option<Score>> {
    let median = median(members);
    let score = |i| {
        let sample = members.latency(i);
        // Where nobody has a sample all count the same.
        let seconds = sample.or(median).unwrap_or(1.0);
        Score::Latency {
            seconds: sample.or(median),
            sampled: sample.is_some(),
            active: members.active(i),
            weight: members.weight(i).into(),
            cost: cost(members, i, seconds),
        }
    };
    (0..members.len())
        .map(|i| (share(members, i) > 0).then(|| score(i)))
        .collect()
}

fn cheaper(members: &impl Members, first: usize, second: usize) -> usize {
    let (of_first, of_second) = latencies(members, first, second);
    let costs = (
        cost(members, first, of_first),
        cost(members, second, of_second),
    );
    if costs.1.total_cmp(&costs.0).is_lt() {
        second
    } else {
        first
    }
}

/// latency × (active + 1) / weight.
#[inline]
fn cost(members: &impl Members, i: usize, latency: f64) -> f64 {
    let connections = f64::from(members.active(i)) + 1.0;
    latency * connections / f64::from(members.weight(i).max(1))
}

/// Latencies of two members in seconds, on one scale.
fn latencies(members: &impl Members, first: usize, second: usize) -> (f64, f64) {
    match (members.latency(first), members.latency(second)) {
        (Some(first), Some(second)) => (first, second),
        (Some(first), None) => (first, median(members).unwrap_or(first)),
        (None, Some(second)) => (median(members).unwrap_or(second), second),
        (None, None) => (1.0, 1.0),
    }
}

/// The median of the members that have a sample; the upper one of an even number.
fn median(members: &impl Members) -> Option<f64> {
    let mut samples: Vec<f64> = (0..members.len())
        .filter_map(|i| members.latency(i))
        .collect();
    let middle = samples.len() / 2;
    if samples.is_empty() {
        return None;
    }
    Some(*samples.select_nth_unstable_by(middle, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{Pool, counts, hold, released};
    use crate::config::Balance::LeastLatency;

    use super::*;

    #[test]
    fn of_two_members_the_faster_is_chosen() {
        let pool = Pool::weighted(&[1, 1]).latencies(&[Some(0.050), Some(0.010)]);
        assert_eq!(counts(&pool, &released(LeastLatency, &pool, 20)), [0, 20]);
    }

    #[test]
    fn connections_and_weight_are_part_of_the_cost() {
        let pool = Pool::weighted(&[1, 1]).latencies(&[Some(0.050), Some(0.010)]);
        hold(&pool, 1, 5);
        assert_eq!(counts(&pool, &released(LeastLatency, &pool, 20)), [20, 0]);

        let pool = Pool::weighted(&[10, 1]).latencies(&[Some(0.050), Some(0.010)]);
        assert_eq!(counts(&pool, &released(LeastLatency, &pool, 20)), [20, 0]);
    }

    #[test]
    fn one_without_a_sample_counts_as_the_median() {
        let samples = [Some(0.001), Some(0.010), Some(0.100), None];
        let pool = Pool::weighted(&[1; 4]).latencies(&samples);
        assert_eq!(median(&pool), Some(0.010));
        assert_eq!(cheaper(&pool, 3, 0), 0);
        assert_eq!(cheaper(&pool, 2, 3), 3);
        assert_eq!(cheaper(&pool, 3, 1), 3, "a tie goes to the first drawn");
        assert_eq!(cheaper(&pool, 1, 3), 1, "a tie goes to the first drawn");
    }

    #[test]
    fn a_pool_without_samples_goes_by_connections_per_weight() {
        let pool = Pool::weighted(&[1, 1]);
        hold(&pool, 0, 1);
        assert_eq!(median(&pool), None);
        assert_eq!(counts(&pool, &released(LeastLatency, &pool, 20)), [0, 20]);
    }
}

//! Two distinct members, drawn by weight.

use rand::{Rng, RngExt};

use super::{Members, share};

/// An open member, then another one, each with a chance in proportion to its weight among those
/// that are left; no other where only one is open, `None` where none is.
pub(super) fn two(members: &impl Members, rng: &mut impl Rng) -> Option<(usize, Option<usize>)> {
    let total: u64 = (0..members.len())
        .map(|i| u64::from(share(members, i)))
        .sum();
    let first = one(members, total, None, rng)?;
    let rest = total.saturating_sub(members.weight(first).into());
    Some((first, one(members, rest, Some(first), rng)))
}

/// Every draw that [`two`] may make, with its probability.
pub(super) fn every_two(members: &impl Members) -> Vec<(usize, Option<usize>, f64)> {
    let open: Vec<(usize, f64)> = (0..members.len())
        .map(|i| (i, f64::from(share(members, i))))
        .filter(|(_, share)| *share > 0.0)
        .collect();
    let total: f64 = open.iter().map(|(_, share)| share).sum();
    if let [(only, _)] = open[..] {
        return vec![(only, None, 1.0)];
    }
    let of_first = |&(first, share): &(usize, f64)| {
        let others = open.iter().filter(move |(i, _)| *i != first);
        others.map(move |&(second, other)| {
            let chance = share / total * other / (total - share);
            (first, Some(second), chance)
        })
    };
    open.iter().flat_map(of_first).collect()
}

/// A member other than `except`, where the weights of all those sum up to `total`.
///
/// If less than that is open by now, the last one takes what nobody else does.
fn one(
    members: &impl Members,
    total: u64,
    except: Option<usize>,
    rng: &mut impl Rng,
) -> Option<usize> {
    if total == 0 {
        return None;
    }
    let mut point = rng.random_range(0..total);
    let mut last = None;
    for i in (0..members.len()).filter(|&i| Some(i) != except) {
        let share = u64::from(share(members, i));
        if share > point {
            return Some(i);
        }
        point -= share;
        last = if share > 0 { Some(i) } else { last };
    }
    last
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use crate::balance::testing::Pool;

    use super::*;

    fn draws(pool: &Pool, n: usize) -> Vec<(usize, Option<usize>)> {
        let mut rng = StdRng::seed_from_u64(1);
        (0..n)
            .map(|_| two(pool, &mut rng).expect("one is open"))
            .collect()
    }

    #[test]
    fn the_two_are_distinct_and_open() {
        let pool = Pool::weighted(&[1, 1000, 1, 7]);
        pool.close(2);
        for (first, second) in draws(&pool, 1000) {
            let second = second.expect("three are open");
            assert!(first != second && first != 2 && second != 2);
        }
    }

    #[test]
    fn one_open_member_is_drawn_alone_and_none_not_at_all() {
        let pool = Pool::weighted(&[1, 1]);
        pool.close(0);
        assert_eq!(draws(&pool, 1), [(1, None)]);
        pool.close(1);
        assert_eq!(two(&pool, &mut StdRng::seed_from_u64(1)), None);
    }

    /// See the chi-square distribution: five degrees of freedom, p = 0.001.
    #[test]
    fn every_draw_comes_as_often_as_its_probability_says() {
        let pool = Pool::weighted(&[1, 2, 3, 9]);
        pool.close(3);
        let (n, draws) = (12_000, draws(&pool, 12_000));
        let every = every_two(&pool);
        assert_eq!(every.len(), 6);
        assert!((every.iter().map(|draw| draw.2).sum::<f64>() - 1.0).abs() < 1e-12);
        let chi_square: f64 = every
            .iter()
            .map(|&(first, second, chance)| {
                let drawn = draws.iter().filter(|draw| **draw == (first, second));
                let expected = f64::from(n) * chance;
                (drawn.count() as f64 - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_square < 20.5, "{chi_square}");
    }

    #[test]
    fn one_open_member_is_the_only_draw_and_none_is_no_draw() {
        let pool = Pool::weighted(&[1, 5]);
        pool.close(0);
        assert_eq!(every_two(&pool), [(1, None, 1.0)]);
        pool.close(1);
        assert_eq!(every_two(&pool), []);
    }

    /// Of weights 1:2:3 the first is drawn 1/6, 2/6, 3/6 of the time. For the bound see
    /// the chi-square distribution: two degrees of freedom, p = 0.001.
    #[test]
    fn the_first_is_drawn_in_proportion_to_its_weight() {
        let n = 12_000;
        let draws = draws(&Pool::weighted(&[1, 2, 3]), n);
        let chi_square: f64 = (0..3)
            .map(|i| {
                let drawn = draws.iter().filter(|draw| draw.0 == i).count() as f64;
                let expected = n as f64 * (i + 1) as f64 / 6.0;
                (drawn - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_square < 13.8, "{chi_square}");
    }
}

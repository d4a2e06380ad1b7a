//! −log2(u) in integers, so that every machine and version computes the same.
//!
//! u = h / 2⁶⁴ for a 64-bit hash h; 0 counts as 1. With h = 2^e × m, 1 ≤ m < 2:
//! −log2(u) = 64 − e − log2(m). m is split into c × (1 + r), where c is the nearest lower of 256
//! steps and r < 2⁻⁸; log2(c) is tabulated, log2(1 + r) is the Taylor series up to r⁶, whose
//! next term is below 2⁻⁵⁸.
//!
//! The result is within 2⁻⁴⁷ of the true value, and never grows while h grows: r is kept in
//! multiples of 2⁻⁵⁶, and from one to the next the series rises by far more than the rounding of
//! its terms, some 2⁻⁶³, could take away; that it does not fall from one step to the next is
//! tested for all of them.

/// Fractional bits of the result.
pub(super) const BITS: u32 = 48;

/// −log2(h / 2⁶⁴) in units of 2⁻⁴⁸: 1 to 2⁵⁴.
pub(super) fn neg_log2(h: u64) -> u64 {
    let h = h.max(1);
    let zeros = h.leading_zeros();
    let fraction = h << zeros << 1;
    (u64::from(zeros + 1) << BITS) - (log2_mantissa(fraction) >> (UNIT - BITS))
}

/// A bound from below on −log2(h / 2⁶⁴) in units of 2⁻³², exact within a third near u = 1, where
/// the winners are: −log2(u) = −ln(u) × log2(e) ≥ (1 − u) × log2(e) > 1 − u.
#[inline]
pub(super) fn neg_log2_at_least(h: u64) -> u64 {
    !h >> 32
}

/// Fractional bits of the table and of what is added to it.
const UNIT: u32 = 60;

/// log2(1 + `fraction` × 2⁻⁶⁴) in units of 2⁻⁶⁰.
fn log2_mantissa(fraction: u64) -> u64 {
    let step = fraction >> 56;
    let above = fraction << 8;
    let r = (above / (256 + step)) & !0xff;
    let log2 = (u128::from(ln_1p(r)) * LOG2_E) >> (63 + 64 - UNIT);
    STEPS[step as usize] + log2 as u64
}

/// ln(1 + r) for r < 2⁻⁸, both in units of 2⁻⁶⁴.
fn ln_1p(r: u64) -> u64 {
    let mut sum = u64::MAX / 6;
    for n in [5, 4, 3, 2] {
        sum = u64::MAX / n - high(r, sum);
    }
    r - high(high(r, r), sum)
}

/// The product of two numbers in units of 2⁻⁶⁴.
fn high(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

/// log2(e) in units of 2⁻⁶³.
const LOG2_E: u128 = 0xb8aa_3b29_5c17_f0bc;

/// log2(1 + i/256) in units of 2⁻⁶⁰.
static STEPS: [u64; 256] = steps();

const fn steps() -> [u64; 256] {
    let mut steps = [0; 256];
    let mut i = 0;
    while i < 256 {
        steps[i] = log2_by_squaring((256 + i as u64) << 55);
        i += 1;
    }
    steps
}

/// log2 of a mantissa in units of 2⁻⁶³, bit by bit: squaring doubles the logarithm, and
/// its next bit is whether the square reached 2. Rounding takes less than 2⁻⁵⁹ away.
const fn log2_by_squaring(mut mantissa: u64) -> u64 {
    let mut log2 = 0;
    let mut bit = UNIT;
    while bit > 0 {
        bit -= 1;
        let square = (mantissa as u128 * mantissa as u128) >> 63;
        let reached = (square >> 64) as u32;
        log2 |= (reached as u64) << bit;
        mantissa = (square >> reached) as u64;
    }
    log2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By floating point; log1p keeps precision where u is close to 1.
    fn reference(h: u64) -> f64 {
        let below_one = (u64::MAX - h) as f64 / 2f64.powi(64) + 2f64.powi(-64);
        if h < 1 << 63 {
            64.0 - (h.max(1) as f64).log2()
        } else {
            -(-below_one).ln_1p() / std::f64::consts::LN_2
        }
    }

    #[track_caller]
    fn check(h: u64) {
        let value = neg_log2(h) as f64 / 2f64.powi(BITS as i32);
        let error = (value - reference(h)).abs();
        assert!(error <= 2f64.powi(-46), "{h}: {value}, off by {error}");
        assert!(neg_log2_at_least(h) << 16 <= neg_log2(h), "{h}");
    }

    #[test]
    fn powers_of_two_are_exact() {
        for e in 0..64 {
            assert_eq!(neg_log2(1 << e), (64 - u64::from(e as u32)) << BITS);
        }
    }

    #[test]
    fn the_ends_are_in_range() {
        assert_eq!(neg_log2(0), 64 << BITS);
        assert_eq!(neg_log2(u64::MAX), 1);
        (0..1000).for_each(|i| check(u64::MAX - i));
        (0..1000).for_each(check);
    }

    /// Just below, at and just above every step of every octave.
    #[test]
    fn it_does_not_grow_from_one_step_to_the_next() {
        for zeros in 0..56 {
            for step in 256..512u64 {
                let at = step << 55 >> zeros;
                let around: Vec<u64> = (at.saturating_sub(600)..at.saturating_add(600)).collect();
                assert!(around.is_sorted_by(|a, b| neg_log2(*a) >= neg_log2(*b)));
                check(at);
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_the_logarithm(h: u64, shift in 0u32..64) {
            check(h >> shift);
            check(!(h >> shift));
        }

        #[test]
        fn it_never_grows_while_the_hash_grows(h: u64, shift in 0u32..64, by: u64, less in 0u32..64) {
            let (low, by) = (h >> shift, by >> less);
            prop_assert!(neg_log2(low) >= neg_log2(low.saturating_add(by)));
        }
    }
}

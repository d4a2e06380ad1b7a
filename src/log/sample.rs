//! Which of the ordinary access lines are written: `log.access_sample`.

/// A share of all connections, chosen by their numbers.
///
/// The choice is a hash of the number: as cheap as a counter, without one that cores would
/// have to share, and the same for every line about one connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Hashes below it are in; `None`: all are.
    below: Option<u64>,
}

impl Sample {
    /// A share from 0.0, nothing, to 1.0, everything.
    pub(super) fn new(share: f64) -> Self {
        // 2^64, exact in a float; the cast back saturates.
        let below = (share < 1.0).then_some((share * 18_446_744_073_709_551_616.0) as u64);
        Self { below }
    }

    /// Whether the connection of this number is in the sample.
    pub(super) fn takes(self, id: u64) -> bool {
        self.below.is_none_or(|below| mixed(id) < below)
    }
}

/// The least share whose sample takes the connection of this number.
///
/// Of all connections these are spread evenly over 0.0 to 1.0, of a sampled log none is above its
/// share: so lines tell by their numbers that others are missing.
pub fn least_share(id: u64) -> f64 {
    mixed(id) as f64 / 18_446_744_073_709_551_616.0
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014): numbers in a row become evenly spread.
fn mixed(id: u64) -> u64 {
    let id = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    id ^ (id >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_holds_for_numbers_in_a_row_and_for_those_of_one_core() {
        const TRIES: u64 = 100_000;
        for share in [0.01, 0.1, 0.5, 0.9] {
            let sample = Sample::new(share);
            for step in [1, 8, 1 << 20] {
                let taken = (0..TRIES).filter(|id| sample.takes(id * step)).count();
                let off = (taken as f64 / TRIES as f64 - share).abs();
                assert!(off < 0.01, "share {share}, step {step}: off by {off}");
            }
        }
    }

    #[test]
    fn no_number_of_a_sample_needs_a_larger_share() {
        for share in [0.01, 0.5, 0.99] {
            let sample = Sample::new(share);
            let taken = (0..10_000).filter(|id| sample.takes(*id));
            let largest = taken.map(least_share).fold(0.0, f64::max);
            assert!(largest <= share && largest > share * 0.95, "{largest}");
        }
    }

    #[test]
    fn the_ends_are_nothing_and_everything() {
        let ids = || (0..1000).chain([u64::MAX]);
        assert!(ids().all(|id| Sample::new(1.0).takes(id)));
        assert!(!ids().any(|id| Sample::new(0.0).takes(id)));
    }
}

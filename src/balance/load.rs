//! Connections per weight, compared exactly.

use std::cmp::Ordering;

use super::{Members, Score, share};

/// How busy a member is for its size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    /// Connections that it has.
    pub(super) active: u32,
    /// Its weight, at least 1.
    pub(super) weight: u32,
}

impl Load {
    /// That of member `i` now.
    pub(super) fn of(members: &impl Members, i: usize) -> Self {
        Self {
            active: members.active(i),
            weight: members.weight(i),
        }
    }

    /// Those of all open members.
    pub(super) fn scores(members: &impl Members) -> Vec<Option<Score>> {
        let score = |i| {
            let Self { active, weight } = Self::of(members, i);
            Score::Load {
                active,
                weight: weight.into(),
                due: None,
            }
        };
        (0..members.len())
            .map(|i| (share(members, i) > 0).then(|| score(i)))
            .collect()
    }

    /// The connections of a member of another weight that is equally loaded.
    pub(super) fn active_at(self, weight: u32) -> u32 {
        let active = u64::from(self.active) * u64::from(weight) / u64::from(self.weight.max(1));
        u32::try_from(active).unwrap_or(u32::MAX)
    }

    /// Compares active/weight as fractions, by cross multiplication; nothing is rounded.
    pub(super) fn cmp(self, other: Self) -> Ordering {
        let scaled = |load: Self, by: Self| u64::from(load.active) * u64::from(by.weight);
        scaled(self, other).cmp(&scaled(other, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_compared_without_rounding() {
        let load = |active, weight| Load { active, weight };
        assert_eq!(load(3, 1).cmp(load(0, 1)), Ordering::Greater);
        assert_eq!(load(0, 1).cmp(load(0, 1000)), Ordering::Equal);
        assert_eq!(load(333, 1000).cmp(load(1, 3)), Ordering::Less);
        let nearly_one = load(u32::MAX - 1, u32::MAX);
        assert_eq!(nearly_one.cmp(load(1, 1)), Ordering::Less);
    }

    #[test]
    fn equally_loaded_members_have_connections_in_proportion_to_their_weights() {
        let load = Load {
            active: 6,
            weight: 3,
        };
        assert_eq!(load.active_at(5), 10);
        assert_eq!(
            load.cmp(Load {
                active: 10,
                weight: 5
            }),
            Ordering::Equal
        );
    }
}

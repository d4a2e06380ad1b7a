//! `first`: the first in file order with room.
//!
//! Fills one backend up to its limit before the next gets any, so that those at the end can be
//! switched off when there is little to do.

use super::{Choice, Members, Why, share};

pub(super) fn pick(members: &impl Members) -> Option<Choice> {
    (0..members.len())
        .find(|&i| share(members, i) > 0 && members.reserve(i))
        .map(|index| Choice {
            index,
            why: Why::First,
        })
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{Pool, counts, picks};
    use crate::config::Balance::First;

    #[test]
    fn members_fill_up_in_file_order() {
        let pool = Pool::weighted(&[1, 5, 1]);
        pool.limit(0, 3);
        pool.limit(1, 2);
        assert_eq!(counts(&pool, &picks(First, &pool, 9)), [3, 2, 4]);
    }

    #[test]
    fn a_slot_lost_in_between_leads_to_the_next() {
        let pool = Pool::weighted(&[1, 1]);
        pool.lose(0);
        assert_eq!(counts(&pool, &picks(First, &pool, 2)), [0, 2]);
    }
}

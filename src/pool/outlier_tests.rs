//! Who is ejected, and for how long, with times and pools of our own.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn ejections(eject_for: Duration, n: usize) -> Vec<u64> {
    let mut outlier = Outlier::default();
    let mut eject = || {
        let length = outlier.eject(eject_for, false, Instant::now(), SystemTime::UNIX_EPOCH);
        outlier.release();
        length.as_secs()
    };
    (0..n).map(|_| eject()).collect()
}

#[test]
fn each_repeat_lasts_twice_as_long_up_to_five_minutes() {
    assert_eq!(
        ejections(SECOND * 10, 8),
        [10, 20, 40, 80, 160, 300, 300, 300]
    );
    assert_eq!(ejections(SECOND * 600, 3), [600, 600, 600]);
    assert_eq!(
        ejections(SECOND, 60).last(),
        Some(&300),
        "however often it was"
    );
}

#[test]
fn one_that_is_forgiven_begins_anew() {
    let mut outlier = Outlier::default();
    let at = SystemTime::UNIX_EPOCH;
    let now = Instant::now();
    let mut eject = |forgiven| outlier.eject(SECOND, forgiven, now, at).as_secs();
    let lengths = [false, false, false, true, false].map(&mut eject);
    assert_eq!(lengths, [1, 2, 4, 1, 2]);
    let ejection = outlier.ejection().expect("it is ejected");
    assert_eq!(ejection.until, now + SECOND * 2);
    assert_eq!(ejection.until_at, at + SECOND * 2);
    assert_eq!(outlier.release(), Some(SECOND * 2));
    assert_eq!(outlier.release(), None);
}

/// `u` serves, `d` is down, `e` is ejected; capitals are backups.
fn seats(text: &str) -> Vec<Seat> {
    let seat = |c: char| Seat {
        backup: c.is_ascii_uppercase(),
        serves: !c.eq_ignore_ascii_case(&'d'),
        ejected: c.eq_ignore_ascii_case(&'e'),
    };
    text.chars().map(seat).collect()
}

#[test]
fn the_share_is_that_after_the_ejection_and_somebody_is_left() {
    for (pool, percent, expected) in [
        ("u", 100, Err(Spared::Last)),
        ("uu", 50, Ok(())),
        ("uu", 49, Err(Spared::Share)),
        ("uuu", 50, Ok(())),
        ("uue", 50, Err(Spared::Share)),
        ("uuue", 50, Ok(())),
        ("uuee", 50, Err(Spared::Share)),
        ("uuee", 75, Ok(())),
        ("uuee", 100, Ok(())),
        ("ueee", 100, Err(Spared::Last)),
        // Those that are down count in the whole, and are not usable.
        ("uud", 34, Ok(())),
        ("ud", 100, Err(Spared::Last)),
        // Backups count neither way, but are usable.
        ("uU", 50, Err(Spared::Share)),
        ("uU", 100, Ok(())),
        ("uE", 100, Err(Spared::Last)),
        ("uuE", 50, Ok(())),
        ("Uu", 0, Ok(())),
        ("Ud", 100, Err(Spared::Last)),
        ("uu", 0, Err(Spared::Share)),
        // The first takes no connections; or is on trial, and is counted once.
        ("du", 100, Err(Spared::Idle)),
        ("eu", 50, Ok(())),
        ("eu", 40, Err(Spared::Share)),
        ("ed", 50, Err(Spared::Last)),
    ] {
        let found = may_eject(&seats(pool), 0, percent);
        assert_eq!(found, expected, "{pool} {percent}");
    }
    assert_eq!(may_eject(&[], 0, 100), Err(Spared::Idle));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Fail(usize),
    Return(usize),
    Checks(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..12usize).prop_map(Step::Fail),
        1 => (0..12usize).prop_map(Step::Return),
        1 => (0..12usize, any::<bool>()).prop_map(|(i, up)| Step::Checks(i, up)),
    ]
}

proptest! {
    /// Whatever fails, returns, goes down and comes up in whatever order: after no ejection is
    /// the share above the maximum, or nobody left who is usable.
    #[test]
    fn the_share_of_ejected_never_exceeds_the_maximum(
        backups in vec(any::<bool>(), 1..12),
        percent in 0..=100u32,
        steps in vec(step(), 1..80),
    ) {
        let seat = |backup| Seat { backup, serves: true, ejected: false };
        let mut pool: Vec<_> = backups.into_iter().map(seat).collect();
        let len = pool.len();
        for step in steps {
            match step {
                Step::Return(i) => pool[i % len].ejected = false,
                Step::Checks(i, up) => pool[i % len].serves = up,
                Step::Fail(i) => {
                    let i = i % len;
                    if may_eject(&pool, i, percent).is_ok() {
                        pool[i].ejected = true;
                        prop_assert!(pool.iter().any(|seat| seat.serves && !seat.ejected));
                    }
                }
            }
            let primaries = || pool.iter().filter(|seat| !seat.backup);
            let ejected = primaries().filter(|seat| seat.ejected).count();
            prop_assert!(ejected * 100 <= primaries().count() * percent as usize);
        }
    }
}

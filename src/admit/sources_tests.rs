use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn pace(rate: &str) -> Option<Pace> {
    Some(Pace::new(rate.parse().expect("a rate")))
}

fn ip(number: u32) -> IpAddr {
    Ipv4Addr::from(number).into()
}

impl Sources {
    fn bytes(&self) -> usize {
        (0..self.shards.len())
            .map(|index| self.shard(index).bytes())
            .sum()
    }

    /// Addresses that are remembered, and connections that are counted.
    fn counts(&self) -> (usize, u64) {
        let counts = (0..self.shards.len()).map(|index| self.shard(index).counts());
        counts.fold((0, 0), |(n, m), (entries, active)| {
            (n + entries, m + active)
        })
    }

    fn try_in(
        self: &Arc<Self>,
        ip: IpAddr,
        limit: u32,
        now: Instant,
    ) -> Result<Option<Place>, Over> {
        self.admit(ip, limit, now, || true)
    }
}

/// What the contract promises of a crowd: bytes, worked out from what the tables hold.
const MOST: usize = 64 << 20;

#[test]
fn a_million_addresses_are_remembered_in_less_than_64_mib() {
    const MILLION: u32 = 1_000_000;
    let sources = Sources::new(pace("1/h"));
    let now = Instant::now();
    for number in 0..MILLION {
        assert!(sources.try_in(ip(number), 0, now).is_ok());
    }
    assert_eq!(sources.counts().0, MILLION as usize);
    assert!(sources.bytes() <= MOST, "{} bytes", sources.bytes());
    // Each is known: its one token is gone.
    let mut some = (0..MILLION).step_by(97);
    assert!(some.all(|n| sources.try_in(ip(n), 0, now).err() == Some(Over::Rate)));
    // More take the places of those who came first, and no more memory.
    for number in MILLION..MILLION + MILLION / 4 {
        assert!(sources.try_in(ip(number), 0, now).is_ok());
    }
    assert!(sources.bytes() <= MOST, "{} bytes", sources.bytes());
    assert!(sources.counts().0 <= SHARDS * CAPACITY);
}

#[test]
fn who_was_seen_longest_ago_is_forgotten_first_and_never_who_is_connected() {
    let sources = Sources::with(pace("1/h"), 1, 4);
    let now = Instant::now();
    let connected = sources.try_in(ip(0), 9, now).expect("let in");
    for number in 1..4 {
        sources.try_in(ip(number), 0, now).expect("let in");
    }
    // 1 is seen once more, though it is refused: 2 was seen longest ago.
    assert_eq!(sources.try_in(ip(1), 0, now).err(), Some(Over::Rate));
    sources.try_in(ip(4), 0, now).expect("let in");
    let tokens = |number| {
        sources
            .known(ip(number), now)
            .0
            .judge(pace("1/h"), 0)
            .is_ok()
    };
    assert_eq!(
        [0, 1, 2, 3, 4].map(tokens),
        [false, false, true, false, false]
    );
    for number in 5..99 {
        sources.try_in(ip(number), 0, now).expect("let in");
    }
    assert_eq!(sources.known(ip(0), now).0.active, 1);
    assert_eq!(sources.counts(), (4, 1));
    drop(connected);
    assert_eq!(sources.counts(), (4, 0));
}

#[test]
fn the_table_grows_where_everybody_in_it_is_connected_and_stays_exact() {
    let sources = Sources::with(None, 1, 4);
    let now = Instant::now();
    let places: Vec<_> = (0..40)
        .map(|n| sources.try_in(ip(n), 1, now).expect("let in"))
        .collect();
    assert_eq!(sources.counts(), (40, 40));
    for number in 0..40 {
        assert_eq!(sources.try_in(ip(number), 1, now).err(), Some(Over::Limit));
    }
    drop(places);
    assert_eq!(sources.counts(), (40, 0));
    // The entries of those who left are used again.
    let again: Vec<_> = (40..80)
        .map(|n| sources.try_in(ip(n), 1, now).expect("let in"))
        .collect();
    assert_eq!((sources.counts(), again.len()), ((40, 40), 40));
}

#[test]
fn who_has_a_full_bucket_and_no_connection_makes_room_before_the_table_grows() {
    let sources = Sources::with(pace("1/s"), 1, 1000);
    let now = Instant::now();
    for number in 0..500 {
        let later = now + Duration::from_secs(u64::from(number));
        sources.try_in(ip(number), 0, later).expect("let in");
    }
    // Each was full again when the next came.
    assert_eq!(sources.counts().0, 1);
}

#[test]
fn whom_others_keep_out_takes_no_token_and_leaves_no_trace() {
    let sources = Sources::with(pace("1/h"), 1, 4);
    let now = Instant::now();
    for number in 0..100 {
        assert_eq!(
            sources.admit(ip(number), 1, now, || false).err(),
            Some(Over::Rate)
        );
    }
    assert_eq!(sources.counts(), (0, 0));
    let place = sources.try_in(ip(0), 1, now).expect("let in");
    drop(place);
    sources.set_pace(pace("2/h"), now);
    assert_eq!(
        sources.admit(ip(0), 1, now, || false).err(),
        Some(Over::Rate)
    );
    // Neither the token nor the place is gone.
    let again = sources.try_in(ip(0), 1, now).expect("let in");
    drop(again);
    sources.try_in(ip(0), 1, now).expect("let in");
    assert_eq!(sources.try_in(ip(0), 1, now).err(), Some(Over::Rate));
}

#[test]
fn another_rate_fills_every_bucket_and_leaves_the_counts() {
    let sources = Sources::with(pace("1/h"), 2, 16);
    let now = Instant::now();
    let _place = sources.try_in(ip(1), 1, now).expect("let in");
    assert_eq!(sources.try_in(ip(1), 9, now).err(), Some(Over::Rate));
    sources.set_pace(pace("1/h"), now);
    assert_eq!(sources.try_in(ip(1), 9, now).err(), Some(Over::Rate));
    sources.set_pace(pace("2/m"), now);
    assert_eq!(sources.try_in(ip(1), 1, now).err(), Some(Over::Limit));
    assert!(sources.try_in(ip(1), 9, now).is_ok());
    sources.set_pace(None, now);
    assert!(sources.try_in(ip(1), 9, now).is_ok());
    assert_eq!(
        sources.known(ip(1), now).0,
        Known {
            active: 1,
            bucket: None
        }
    );
}

#[test]
fn an_ipv6_client_is_its_64_and_a_mapped_one_is_ipv4() {
    let sources = Sources::new(None);
    let now = Instant::now();
    let of = |text: &str| -> IpAddr { text.parse().expect(text) };
    let active = |text| sources.known(of(text), now).0.active;
    let _places = [
        "2001:db8::1",
        "2001:db8::ffff:0:0:1",
        "2001:db8:0:1::1",
        "::ffff:10.0.0.1",
    ]
    .map(|text| sources.try_in(of(text), 9, now).expect("let in"));
    assert_eq!(active("2001:db8::2"), 2);
    assert_eq!(active("2001:db8:0:1:ffff::"), 1);
    assert_eq!(active("10.0.0.1"), 1);
    assert_eq!(active("10.0.0.2"), 0);
    // The same 64 bits, and another family.
    assert_eq!(active("0:0:a00:1::"), 0);
    assert_eq!(network(of("2001:db8::5")).to_string(), "2001:db8::/64");
    assert_eq!(network(of("10.0.0.1")).to_string(), "10.0.0.1");
}

#[test]
fn asking_changes_nothing() {
    let sources = Sources::with(pace("2/h"), 1, 16);
    let now = Instant::now();
    for _ in 0..9 {
        let (known, pace) = sources.known(ip(1), now);
        assert!(known.judge(pace, 1).is_ok());
    }
    assert_eq!(sources.counts(), (0, 0));
    let _place = sources.try_in(ip(1), 1, now).expect("let in");
    for _ in 0..9 {
        let (known, pace) = sources.known(ip(1), now);
        assert_eq!(known.judge(pace, 1), Err(Over::Limit));
        assert!(known.judge(pace, 2).is_ok());
    }
}

/// Many threads, few addresses: never more than the limit at once, and nobody left at the end.
#[test]
fn a_limit_is_exact_over_all_threads() {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    const LIMIT: u32 = 3;
    let sources = Sources::new(None);
    let inside: [AtomicU32; 4] = Default::default();
    let let_in = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for round in 0..2000u32 {
                    let number = round % 4;
                    let admitted = sources.try_in(ip(number), LIMIT, Instant::now());
                    let Ok(place) = admitted else { continue };
                    let now = &inside[number as usize];
                    assert!(now.fetch_add(1, SeqCst) < LIMIT);
                    let_in.fetch_add(1, SeqCst);
                    std::thread::yield_now();
                    now.fetch_sub(1, SeqCst);
                    drop(place);
                }
            });
        }
    });
    assert!(let_in.load(SeqCst) >= 2000);
    assert_eq!(sources.counts().1, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Come(u32),
    Count(u32),
    /// The nth of those who are connected.
    Leave(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0u32..12).prop_map(Step::Come),
        1 => (0u32..12).prop_map(Step::Count),
        4 => any::<usize>().prop_map(Step::Leave),
        2 => (0u64..400_000).prop_map(Step::Wait),
    ]
}

proptest! {
    /// The model: a map, and a bucket for each address in 128 bits. The table has room for all
    /// addresses, so that it may forget only what is as good as never seen.
    #[test]
    fn the_table_equals_its_model(steps in vec(step(), 0..300), limit in 0u32..4) {
        const RATE: (u128, u128) = (3, 1_000_000);
        let sources = Sources::with(pace("3/s"), 2, 16);
        let mut now = sources.start;
        let mut inside: Vec<(u32, Place)> = Vec::new();
        let mut levels: HashMap<u32, u128> = HashMap::new();
        let full = RATE.0 * RATE.1;
        for step in steps {
            match step {
                Step::Wait(micros) => {
                    now += Duration::from_micros(micros);
                    for level in levels.values_mut() {
                        *level = (*level + u128::from(micros) * RATE.0).min(full);
                    }
                }
                Step::Leave(nth) if !inside.is_empty() => {
                    inside.swap_remove(nth % inside.len());
                }
                Step::Leave(_) => {}
                Step::Count(number) => inside.push((number, sources.count(ip(number), now))),
                Step::Come(number) => {
                    let active = inside.iter().filter(|(n, _)| *n == number).count() as u32;
                    let level = levels.entry(number).or_insert(full);
                    let expected = match (limit > 0 && active >= limit, *level >= RATE.1) {
                        (true, _) => Err(Over::Limit),
                        (false, false) => Err(Over::Rate),
                        (false, true) => Ok(()),
                    };
                    let found = sources.try_in(ip(number), limit, now);
                    prop_assert_eq!(found.as_ref().map(|_| ()).map_err(|over| *over), expected);
                    if let Ok(place) = found {
                        *level -= RATE.1;
                        prop_assert_eq!(place.is_some(), limit > 0);
                        inside.extend(place.map(|place| (number, place)));
                    }
                }
            }
            for number in 0..12 {
                let active = inside.iter().filter(|(n, _)| *n == number).count() as u32;
                prop_assert_eq!(sources.known(ip(number), now).0.active, active);
            }
        }
        inside.clear();
        prop_assert_eq!(sources.counts().1, 0);
        prop_assert!(sources.counts().0 <= 12);
    }
}

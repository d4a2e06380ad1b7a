use std::time::Duration;

use super::*;
use crate::net::Source as Entry;

fn listener(change: impl FnOnce(&mut Listener)) -> Listener {
    let mut listener = crate::config::plain_listener();
    change(&mut listener);
    listener
}

fn client(text: &str) -> Address {
    text.parse().expect(text)
}

fn rate(text: &str) -> Option<Rate> {
    Some(text.parse().expect(text))
}

fn admit(change: impl FnOnce(&mut Listener)) -> Arc<Admit> {
    Admit::new(&listener(change)).expect("rules")
}

#[test]
fn a_listener_without_a_rule_has_nothing_to_ask() {
    assert!(Admit::new(&listener(|_| {})).is_none());
    assert!(Admit::new(&listener(|l| l.max_connections = 5)).is_none());
}

#[test]
fn lists_come_first_then_the_address_then_the_listener() {
    let admit = admit(|l| {
        l.deny = vec!["10.9.0.0/16".parse().expect("a block")];
        l.max_connections_per_ip = 1;
        l.rate_per_ip = rate("2/h");
        l.rate = rate("3/h");
    });
    let now = Instant::now();
    let come = |text: &str| admit.admit(&client(text), now);
    // Whoever is refused takes no token: of the listener's three all are left.
    for _ in 0..9 {
        assert_eq!(come("10.9.0.1:1").err(), Some(Rejected::Denied));
    }
    let first = come("10.0.0.1:1").expect("let in").expect("a place");
    for _ in 0..9 {
        assert_eq!(come("10.0.0.1:2").err(), Some(Rejected::IpLimit));
    }
    drop(first);
    let second = come("[::ffff:10.0.0.1]:3").expect("let in");
    drop(second);
    for _ in 0..9 {
        assert_eq!(come("10.0.0.1:4").err(), Some(Rejected::Rate));
    }
    let third = come("10.0.0.2:1").expect("let in");
    assert_eq!(come("10.0.0.3:1").err(), Some(Rejected::Rate));
    assert_eq!(come("10.0.0.2:2").err(), Some(Rejected::IpLimit));
    drop(third);
}

#[test]
fn unix_clients_have_no_address_and_are_limited_by_the_rate_of_the_listener_alone() {
    let admit = admit(|l| {
        l.max_connections_per_ip = 1;
        l.rate_per_ip = rate("1/h");
        l.rate = rate("2/h");
    });
    let now = Instant::now();
    let unix = client("unix:/run/client.sock");
    assert!(matches!(admit.admit(&unix, now), Ok(None)));
    assert!(matches!(admit.admit(&unix, now), Ok(None)));
    assert_eq!(admit.admit(&unix, now).err(), Some(Rejected::Rate));
    assert!(admit.count(&unix, now).is_none());
}

#[test]
fn the_rate_of_the_listener_is_exact_over_all_threads() {
    let admit = admit(|l| l.rate = rate("1000/h"));
    let now = Instant::now();
    let let_in: usize = std::thread::scope(|scope| {
        let come = |thread: u8| {
            let admit = &admit;
            let client = Address::Ip(([10, 0, 0, thread], 1).into());
            move || {
                (0..500)
                    .filter(|_| admit.admit(&client, now).is_ok())
                    .count()
            }
        };
        let threads: Vec<_> = (0..8).map(|thread| scope.spawn(come(thread))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .sum()
    });
    assert_eq!(let_in, 1000);
    let next = now + Duration::from_millis(3600);
    let ten = client("10.0.0.1:1");
    assert!(admit.admit(&ten, next).is_ok());
    assert!(admit.admit(&ten, next).is_err());
}

#[test]
fn what_is_explained_is_what_happens_and_changes_nothing() {
    let admit = admit(|l| {
        l.allow = vec![
            Entry::Block("10.0.0.0/8".parse().expect("a block")),
            Entry::Unix,
        ];
        l.max_connections_per_ip = 2;
        l.rate_per_ip = rate("3/h");
        l.rate = rate("4/h");
    });
    let now = Instant::now();
    let clients = [
        "10.0.0.1:1",
        "10.0.0.1:2",
        "10.0.0.2:1",
        "11.0.0.1:1",
        "unix:/a",
    ]
    .map(client);
    let mut places = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for round in 0..12 {
        for client in &clients {
            let judged = admit.explain(client, now);
            assert_eq!(admit.explain(client, now), judged);
            let come = admit.admit(client, now);
            assert_eq!(
                judged.refused,
                come.as_ref().err().copied(),
                "{round} {client}"
            );
            seen.insert(judged.refused.map(Rejected::as_str));
            places.push(come);
        }
        if round % 3 == 2 {
            places.clear();
        }
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    let judged = admit.explain(&clients[0], now);
    let source = judged.source.expect("an address");
    assert_eq!(
        (source.network.to_string(), source.limit),
        ("10.0.0.1".to_owned(), 2)
    );
    assert_eq!(judged.whole.map(|(_, tokens)| tokens.left), Some(0));
}

#[test]
fn a_reload_keeps_counts_and_the_buckets_of_a_rate_that_stays() {
    let with = |limit: u32, per_ip: &str, whole: &str| {
        listener(|l| {
            l.max_connections_per_ip = limit;
            l.rate_per_ip = rate(per_ip);
            l.rate = rate(whole);
        })
    };
    let now = Instant::now();
    let before = Admit::new(&with(1, "2/h", "2/h")).expect("rules");
    let ten = client("10.0.0.1:1");
    let _place = before.admit(&ten, now).expect("let in");
    // The limit is another one, the rates are as they were: one token is left of each.
    let after = Admit::renewed(Some(&before), &with(3, "2/h", "2/h"), now).expect("rules");
    let _second = after.admit(&ten, now).expect("let in");
    assert_eq!(after.admit(&ten, now).err(), Some(Rejected::Rate));
    assert!(!after.begins_to_count(Some(&before)));
    // Other rates: full buckets, and the connections still count.
    let last = Admit::renewed(Some(&after), &with(3, "5/h", "5/h"), now).expect("rules");
    let _third = last.admit(&ten, now).expect("let in");
    assert_eq!(last.admit(&ten, now).err(), Some(Rejected::IpLimit));
    assert_eq!(
        last.explain(&ten, now).whole.map(|(_, tokens)| tokens.left),
        Some(4)
    );
    assert!(Admit::renewed(Some(&last), &listener(|_| {}), now).is_none());
}

#[test]
fn a_limit_that_is_new_can_count_who_is_there_already() {
    let now = Instant::now();
    let ten = client("10.0.0.1:1");
    let before = admit(|l| l.rate_per_ip = rate("9/h"));
    assert!(matches!(before.admit(&ten, now), Ok(None)));
    let settings = listener(|l| {
        l.rate_per_ip = rate("9/h");
        l.max_connections_per_ip = 1;
    });
    let after = Admit::renewed(Some(&before), &settings, now).expect("rules");
    assert!(after.begins_to_count(Some(&before)) && after.begins_to_count(None));
    let there = after.count(&ten, now).expect("a place");
    assert!(after.counts(&there));
    assert_eq!(after.admit(&ten, now).err(), Some(Rejected::IpLimit));
    drop(there);
    assert!(after.admit(&ten, now).is_ok());
}

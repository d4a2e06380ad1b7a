//! Which backend a client gets, by each strategy, as the backends themselves see it.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use support::{Backend, Family, Isobar, Stream, web};

const STRATEGIES: [&str; 6] = [
    "round-robin",
    "least-connections",
    "consistent-hash",
    "random-two",
    "least-latency",
    "first",
];

/// `n` backends that say their names, `b1` first.
fn named(n: usize) -> Vec<Backend> {
    (1..=n).map(|i| Backend::named(&format!("b{i}"))).collect()
}

/// Pool `web` over `backends`, each with its own further keys.
///
/// Nobody is ejected: it is the strategy alone that is looked at.
fn balance(strategy: &str, backends: &[Backend], keys: &[&str]) -> Isobar {
    let keys = keys.iter().copied().chain(std::iter::repeat(""));
    let entries: Vec<_> = backends
        .iter()
        .zip(keys)
        .map(|(backend, keys)| backend.entry_with(keys))
        .collect();
    let settings = format!("balance = \"{strategy}\"\noutlier.consecutive_failures = 0");
    Isobar::start(&web(&settings, &entries))
}

/// As many clients as staying, one after the other, and how many each backend has of them.
fn crowd(isobar: &Isobar, n: usize) -> (Vec<(Stream, String)>, HashMap<String, usize>) {
    let crowd: Vec<_> = (0..n).map(|_| isobar.stay("web")).collect();
    let counts = count(crowd.iter().map(|(_, name)| name.clone()));
    (crowd, counts)
}

/// The same with all of them coming at once.
fn rush(isobar: &Isobar, n: usize) -> (Vec<(Stream, String)>, HashMap<String, usize>) {
    let (threads, each) = (8, n / 8);
    let crowd: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let clients: Vec<_> = (0..each).map(|_| isobar.connect("web")).collect();
                    let with_name = |client: Stream| {
                        let name = client.read_line();
                        (client, name)
                    };
                    clients.into_iter().map(with_name).collect::<Vec<_>>()
                })
            })
            .collect();
        let crowds = threads.into_iter().map(|thread| thread.join());
        crowds.flat_map(|crowd| crowd.expect("clients")).collect()
    });
    let counts = count(crowd.iter().map(|(_, name)| name.clone()));
    (crowd, counts)
}

fn count(names: impl IntoIterator<Item = String>) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[track_caller]
fn leave_all(clients: impl IntoIterator<Item = (Stream, String)>) {
    clients.into_iter().for_each(|(client, _)| leave(&client));
}

#[track_caller]
fn assert_counts<const N: usize>(counts: &HashMap<String, usize>, expected: [(&str, usize); N]) {
    let expected: BTreeMap<_, _> = expected.into_iter().filter(|(_, n)| *n > 0).collect();
    let counts: BTreeMap<_, _> = counts.iter().map(|(name, n)| (&**name, *n)).collect();
    assert_eq!(counts, expected);
}

/// Waits until isobar, too, knows that the connections to a backend are over.
#[track_caller]
fn wait_active(isobar: &Isobar, backend: &str, n: u64) {
    isobar.wait_count(
        &format!("/pools/web/backends/{backend}/connections/active"),
        n,
    );
}

#[test]
fn every_strategy_uses_the_only_backend() {
    for strategy in STRATEGIES {
        let backends = named(1);
        let isobar = balance(strategy, &backends, &[]);
        assert_counts(&isobar.visits("web", 5), [("b1", 5)]);
    }
}

/// A refusing backend costs its clients nothing but an attempt.
#[test]
fn every_strategy_passes_over_a_backend_that_refuses() {
    for strategy in STRATEGIES {
        let backends = [
            Backend::refusing("b1"),
            Backend::named("b2"),
            Backend::named("b3"),
        ];
        let isobar = balance(strategy, &backends, &[]);
        let counts = isobar.visits("web", 12);
        assert!(!counts.contains_key("b1"), "{strategy}: {counts:?}");
        assert_eq!(counts.values().sum::<usize>(), 12, "{strategy}");
        assert_eq!(isobar.count("/pools/web/held_total"), 0, "{strategy}");
    }
}

#[test]
fn no_strategy_gives_a_new_connection_to_weight_zero() {
    for strategy in STRATEGIES {
        let backends = named(2);
        let isobar = balance(strategy, &backends, &["weight = 0", "weight = 3"]);
        assert_counts(&isobar.visits("web", 16), [("b2", 16)]);
    }
}

#[test]
fn no_strategy_exceeds_the_limits_of_backends_in_a_rush() {
    for strategy in STRATEGIES {
        let backends = named(3);
        let limits = [
            "max_connections = 5",
            "max_connections = 7",
            "max_connections = 4",
        ];
        let isobar = balance(strategy, &backends, &limits);
        let (crowd, counts) = rush(&isobar, 16);
        assert_counts(&counts, [("b1", 5), ("b2", 7), ("b3", 4)]);
        let late = isobar.connect("web");
        isobar.wait_count("/pools/web/held", 1);
        leave_all(crowd);
        late.read_line();
        leave(&late);
    }
}

#[test]
fn every_strategy_keeps_backups_for_when_no_other_has_room() {
    for strategy in STRATEGIES {
        let backends = named(2);
        let isobar = balance(
            strategy,
            &backends,
            &["max_connections = 2", "backup = true"],
        );
        let (mut crowd, _) = crowd(&isobar, 6);
        let names: Vec<_> = crowd.iter().map(|(_, name)| &**name).collect();
        assert_eq!(names, ["b1", "b1", "b2", "b2", "b2", "b2"], "{strategy}");
        leave(&crowd.remove(0).0);
        wait_active(&isobar, "b1", 1);
        assert_eq!(isobar.visit("web"), "b1", "{strategy}");
        leave_all(crowd);
    }
}

#[test]
fn a_backup_takes_over_while_the_others_refuse_and_no_longer() {
    let backends = [Backend::refusing("b1"), Backend::named("b2")];
    let isobar = balance("round-robin", &backends, &["", "backup = true"]);
    assert_counts(&isobar.visits("web", 10), [("b2", 10)]);
    backends[0].listen();
    assert_counts(&isobar.visits("web", 10), [("b1", 10)]);
}

#[test]
fn round_robin_is_exact_one_after_the_other() {
    let backends = named(2);
    let isobar = balance("round-robin", &backends, &[]);
    assert_counts(&isobar.visits("web", 30), [("b1", 15), ("b2", 15)]);
}

#[test]
fn round_robin_is_exact_in_a_rush() {
    let backends = named(4);
    let isobar = balance("round-robin", &backends, &[]);
    let (crowd, counts) = rush(&isobar, 400);
    assert_counts(
        &counts,
        [("b1", 100), ("b2", 100), ("b3", 100), ("b4", 100)],
    );
    leave_all(crowd);
}

/// Each run as long as the sum of the weights has each backend as often as its weight says,
/// and the heavy one is spread over it.
#[test]
fn round_robin_is_exact_and_smooth_in_every_run() {
    let backends = named(3);
    let isobar = balance("round-robin", &backends, &["weight = 5"]);
    let names: Vec<_> = (0..70).map(|_| isobar.visit("web")).collect();
    for run in names.windows(7) {
        assert_counts(&count(run.to_vec()), [("b1", 5), ("b2", 1), ("b3", 1)]);
    }
    let longest = names.chunk_by(|a, b| a == b).map(<[_]>::len).max();
    assert!(longest <= Some(4), "{names:?}");
}

#[test]
fn round_robin_does_not_lose_the_light_beside_the_heavy() {
    let backends = named(3);
    let keys = ["weight = 30", "weight = 30", "weight = 1"];
    let isobar = balance("round-robin", &backends, &keys);
    assert_counts(
        &isobar.visits("web", 61),
        [("b1", 30), ("b2", 30), ("b3", 1)],
    );
}

#[test]
fn least_connections_rotates_among_idle_backends() {
    let backends = named(2);
    let isobar = balance("least-connections", &backends, &[]);
    let counts = count((0..10).map(|_| {
        let name = isobar.visit("web");
        wait_active(&isobar, &name, 0);
        name
    }));
    assert_counts(&counts, [("b1", 5), ("b2", 5)]);
}

#[test]
fn least_connections_avoids_the_busy_backend() {
    let backends = named(2);
    let isobar = balance("least-connections", &backends, &[]);
    let (crowd, counts) = crowd(&isobar, 6);
    assert_counts(&counts, [("b1", 3), ("b2", 3)]);
    let (stay, go): (Vec<_>, Vec<_>) = crowd.into_iter().partition(|(_, name)| name == "b1");
    leave_all(go);
    wait_active(&isobar, "b2", 0);
    for _ in 0..10 {
        assert_eq!(isobar.visit("web"), "b2");
    }
    leave_all(stay);
}

#[test]
fn least_connections_follows_the_weights() {
    let backends = named(2);
    let isobar = balance(
        "least-connections",
        &backends,
        &["weight = 1", "weight = 2"],
    );
    let (crowd, counts) = crowd(&isobar, 30);
    assert_counts(&counts, [("b1", 10), ("b2", 20)]);
    leave_all(crowd);
}

/// The slot is taken at the pick: a hundred clients at once do not see the same minimum.
#[test]
fn least_connections_is_exact_in_a_rush() {
    let backends = named(4);
    let isobar = balance("least-connections", &backends, &[]);
    let (crowd, counts) = rush(&isobar, 96);
    assert_counts(&counts, [("b1", 24), ("b2", 24), ("b3", 24), ("b4", 24)]);
    leave_all(crowd);
}

/// However connections ended, the counts that the strategy goes by are back at zero.
#[test]
fn least_connections_is_even_after_all_kinds_of_endings() {
    let backends = named(2);
    let isobar = balance("least-connections", &backends, &[]);
    for round in 0..60 {
        let (client, _) = isobar.stay("web");
        match round % 3 {
            0 => leave(&client),
            1 => client.reset(),
            _ => {
                backends.iter().for_each(Backend::reset_all);
                client.expect_reset();
            }
        }
    }
    backends[0].stop();
    for _ in 0..20 {
        assert_eq!(isobar.visit("web"), "b2");
    }
    backends[0].listen();
    isobar.wait_count("/connections/active", 0);
    let (crowd, counts) = crowd(&isobar, 10);
    assert_counts(&counts, [("b1", 5), ("b2", 5)]);
    leave_all(crowd);
}

#[test]
fn random_two_of_two_takes_the_less_loaded() {
    let backends = named(2);
    let isobar = balance("random-two", &backends, &[]);
    let (crowd, counts) = crowd(&isobar, 20);
    assert_counts(&counts, [("b1", 10), ("b2", 10)]);
    leave_all(crowd);
}

/// Two of eight at random, the less loaded of them: far more even than chance alone.
#[test]
fn random_two_spreads_over_many() {
    let backends = named(8);
    let isobar = balance("random-two", &backends, &[]);
    let (crowd, counts) = crowd(&isobar, 160);
    let (least, most) = (counts.values().min(), counts.values().max());
    assert!(counts.len() == 8, "{counts:?}");
    assert!(least >= Some(&10) && most <= Some(&30), "{counts:?}");
    leave_all(crowd);
}

#[test]
fn random_two_follows_the_weights() {
    let backends = named(2);
    let isobar = balance("random-two", &backends, &["weight = 1", "weight = 3"]);
    let (crowd, counts) = crowd(&isobar, 40);
    let heavy = counts["b2"];
    assert!((28..=32).contains(&heavy), "{counts:?}");
    leave_all(crowd);
}

/// One backend takes its time before its first byte, the other does not.
#[test]
fn least_latency_prefers_the_faster_backend() {
    let slow = Backend::serving(Family::Ipv4, "slow", |stream| {
        if stream.try_read_line().is_ok() {
            std::thread::sleep(Duration::from_millis(60));
            let _ = stream.try_write("slow\n");
            while stream.read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
        }
    });
    let fast = Backend::named_when_asked("fast");
    let entries = [slow.entry(), fast.entry()];
    let isobar = Isobar::start(&web("balance = \"least-latency\"", &entries));
    let counts = count((0..40).map(|_| {
        let client = isobar.connect("web");
        client.write("who?\n");
        let name = client.read_line();
        leave(&client);
        name
    }));
    assert!(counts["fast"] >= 30, "{counts:?}");
    assert!(
        counts.contains_key("slow"),
        "without a sample there is no preference"
    );
}

#[test]
fn first_fills_the_backends_in_the_order_of_the_file() {
    let backends = named(3);
    let keys = ["max_connections = 2", "max_connections = 1"];
    let isobar = balance("first", &backends, &keys);
    let (mut crowd, _) = crowd(&isobar, 5);
    let names: Vec<_> = crowd.iter().map(|(_, name)| &**name).collect();
    assert_eq!(names, ["b1", "b1", "b2", "b3", "b3"]);
    leave(&crowd.remove(2).0);
    wait_active(&isobar, "b2", 0);
    assert_eq!(isobar.visit("web"), "b2");
    leave_all(crowd);
}

/// The backend that each of `n` client addresses gets.
fn mapping(isobar: &Isobar, n: u8) -> BTreeMap<u8, String> {
    let ask = |i| {
        let client = isobar.connect_from(&format!("127.0.1.{i}"), "web");
        let name = client.read_line();
        leave(&client);
        (i, name)
    };
    (1..=n).map(ask).collect()
}

#[test]
fn consistent_hash_sends_an_address_to_the_same_backend_every_time() {
    let backends = named(4);
    let isobar = balance("consistent-hash", &backends, &[]);
    let first = mapping(&isobar, 60);
    assert_eq!(mapping(&isobar, 60), first);
    assert_eq!(count(first.into_values()).len(), 4, "all are used");
}

/// Neither the order in the file, nor the addresses, nor the process matter, only the names.
#[test]
fn consistent_hash_is_the_same_in_every_process() {
    let (here, mut there) = (named(5), named(5));
    there.reverse();
    let one = balance("consistent-hash", &here, &[]);
    let other = balance("consistent-hash", &there, &[]);
    assert_eq!(mapping(&one, 80), mapping(&other, 80));
}

#[test]
fn consistent_hash_moves_only_the_clients_of_a_backend_that_is_gone() {
    let backends = named(5);
    let whole = mapping(&balance("consistent-hash", &backends, &[]), 80);
    let fewer = mapping(&balance("consistent-hash", &backends[1..], &[]), 80);
    for (client, backend) in &whole {
        if backend != "b1" {
            assert_eq!(&fewer[client], backend, "client {client} moved for nothing");
        }
    }
    assert_ne!(whole, fewer, "nobody was at the backend that is gone");
}

/// While a backend refuses its clients go where they would go without it, and back after.
#[test]
fn consistent_hash_takes_the_next_choice_while_a_backend_refuses() {
    let backends = named(4);
    let isobar = balance("consistent-hash", &backends, &[]);
    let whole = mapping(&isobar, 60);
    let without = mapping(&balance("consistent-hash", &backends[1..], &[]), 60);
    backends[0].stop();
    assert_eq!(mapping(&isobar, 60), without);
    backends[0].listen();
    assert_eq!(mapping(&isobar, 60), whole);
}

#[test]
fn consistent_hash_follows_the_weights() {
    let backends = named(2);
    let isobar = balance("consistent-hash", &backends, &["weight = 1", "weight = 3"]);
    let counts = count(mapping(&isobar, 200).into_values());
    // Four standard deviations around a quarter of 200; the mapping never changes.
    assert!((25..=75).contains(&counts["b1"]), "{counts:?}");
}

#[test]
fn consistent_hash_of_address_and_port_tells_connections_of_one_client_apart() {
    let backends = named(3);
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let settings = "balance = \"consistent-hash\"\n[pool.web.hash]\nkey = \"client-ip-port\"";
    let isobar = Isobar::start(&web(settings, &entries));
    let (crowd, counts) = crowd(&isobar, 60);
    assert_eq!(counts.len(), 3, "{counts:?}");
    leave_all(crowd);
}

/// A Unix client has no address to hash; it must be served all the same.
#[test]
fn consistent_hash_serves_clients_without_an_address() {
    let backends = named(3);
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let text = web("balance = \"consistent-hash\"", &entries);
    let isobar = Isobar::start(&text.replace("127.0.0.1:0\"\npool", "unix:$DIR/web.sock\"\npool"));
    let counts = isobar.visits("web", 6);
    assert_eq!(counts.values().sum::<usize>(), 6);
}

/// The log says in a word why a backend was picked.
#[test]
fn the_log_says_why_a_backend_was_picked() {
    let words = [
        ("round-robin", "rr"),
        ("least-connections", "least:0<0"),
        ("consistent-hash", "hash"),
        ("random-two", "two:0<0"),
        ("least-latency", "latency"),
        ("first", "first"),
    ];
    for (strategy, word) in words {
        let backends = named(2);
        let isobar = balance(strategy, &backends, &[]);
        let (client, name) = isobar.stay("web");
        let local = client.local().expect("an address");
        leave(&client);
        let line = isobar.wait_access(local);
        assert_eq!(line.text("pick"), Some(word), "{strategy}");
        assert_eq!(line.text("backend"), Some(&*name), "{strategy}");
        assert_eq!(line.fields()["attempts"], 1, "{strategy}");
    }
}

#[test]
fn the_log_tells_a_second_attempt_and_a_backup() {
    let backends = [
        Backend::refusing("b1"),
        Backend::named("b2"),
        Backend::named("b3"),
    ];
    let isobar = balance(
        "first",
        &backends,
        &["", "max_connections = 1", "backup = true"],
    );
    let (retried, _) = isobar.stay("web");
    let (to_backup, name) = isobar.stay("web");
    assert_eq!(name, "b3");
    let locals = [&retried, &to_backup].map(|client| client.local().expect("an address"));
    leave(&retried);
    leave(&to_backup);
    let line = isobar.wait_access(locals[0]);
    assert_eq!(line.text("pick"), Some("retry2"));
    assert_eq!(line.fields()["attempts"], 2);
    let line = isobar.wait_access(locals[1]);
    assert_eq!(line.text("backend"), Some("b3"));
}

/// A connect that fails is no load: nothing is left on the count of the backend that refused.
#[test]
fn a_backend_that_refused_a_hundred_times_gets_its_fair_share_afterwards() {
    let backends = [Backend::refusing("b1"), Backend::named("b2")];
    let isobar = balance("least-connections", &backends, &[]);
    assert_counts(&isobar.visits("web", 100), [("b2", 100)]);
    wait_active(&isobar, "b1", 0);
    assert!(isobar.count("/pools/web/backends/b1/connections/failed") > 0);
    backends[0].listen();
    isobar.wait_count("/connections/active", 0);
    let (crowd, counts) = crowd(&isobar, 10);
    assert_counts(&counts, [("b1", 5), ("b2", 5)]);
    leave_all(crowd);
}

/// Hundreds of short connections over every strategy at once, from several threads.
#[test]
fn every_strategy_serves_a_stream_of_short_connections() {
    for strategy in STRATEGIES {
        let backends = named(3);
        let isobar = balance(strategy, &backends, &[]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| isobar.visits("web", 50));
            }
        });
        isobar.wait_ended("web", "client_closed", 200);
    }
}

//! What holds of every replay, whatever the connections.

use proptest::prelude::*;

use super::line::Entry;
use super::recording::Recording;
use super::replay::{Became, Replay};
use super::tally::{PoolTally, Tally};
use super::world::World;
use super::{Spot, named, simulate, tally};
use crate::config::{self, Config};

/// What these tests know of a connection: when it came, for how long it had a backend, and from
/// where. Times are in milliseconds.
type Visit = (u64, u64, u8);

pub(super) fn config(text: &str) -> Config {
    let loaded = config::parse(text, "lb.toml", &|_| None);
    loaded.unwrap_or_else(|faults| panic!("{faults}")).config
}

/// A connection of this client, and of no pool.
pub(super) fn entry(client: &str) -> Entry {
    Entry {
        at: 0,
        id: None,
        listener: "web".to_owned(),
        client: client.parse().ok(),
        pool: None,
        backend: None,
        connect: Some(200),
        first_byte: None,
        lasts: 1000,
        is_ordinary: true,
    }
}

/// The line of a connection to backend b1 of pool web, with times in milliseconds.
pub(super) fn line(id: u64, at: u64, lasts: u64) -> String {
    visit_line(id, (at, lasts, 1))
}

fn visit_line(id: u64, (at, lasts, client): Visit) -> String {
    let (second, millisecond) = (at / 1000, at % 1000);
    let (minute, second) = (second / 60, second % 60);
    format!(
        "{{\"target\":\"isobar::access\",\"id\":\"{id}\",\
         \"accepted_at\":\"2026-01-01T00:{minute:02}:{second:02}.{millisecond:03}000Z\",\
         \"listener\":\"web\",\"client\":\"10.0.0.{client}:4711\",\"pool\":\"web\",\
         \"backend\":\"b{}\",\"hold_ms\":null,\"connect_ms\":0.2,\"first_byte_ms\":0.5,\
         \"duration_ms\":{lasts}.000,\"ended\":\"client_closed\"}}\n",
        1 + client % 3
    )
}

fn recorded(config: &Config, visits: &[Visit]) -> Recording {
    let lines = visits.iter().zip(0..);
    let lines: String = lines.map(|(visit, id)| visit_line(id, *visit)).collect();
    Recording::read(config, "a.jsonl", lines.as_bytes(), 1).expect("a recording")
}

/// Pool web with three backends that have these further keys, and these settings.
fn web(settings: &str, keys: [&str; 3]) -> Config {
    let backend = |(n, keys): (usize, &&str)| {
        format!("{{ name = \"b{n}\", address = \"10.0.0.{n}:80\"{keys} }}")
    };
    let backends: Vec<_> = keys
        .iter()
        .enumerate()
        .map(|(n, k)| backend((n + 1, k)))
        .collect();
    config(&format!(
        "[listener.web]\nbind = \"127.0.0.1:1\"\npool = \"web\"\n\
         [pool.web]\nbackends = [{}]\n{settings}\n",
        backends.join(", ")
    ))
}

/// What became of each connection of the first group in the end, and what was counted.
fn replayed(config: &Config, recording: &Recording, lost: &[Spot]) -> (Vec<Became>, Tally) {
    let group = &recording.groups[0];
    let mut tally = Tally::new(config);
    let mut became = vec![Became::Held; group.arrivals.len()];
    let world = World::new(config, &group.pools, lost, 1);
    Replay::new(
        config,
        &world,
        &group.arrivals,
        recording.names(),
        &mut tally,
    )
    .run(&mut |who, what| became[who] = what);
    (became, tally)
}

/// Connections that came to nothing.
fn refused(pool: &PoolTally) -> u64 {
    pool.not_held + pool.hold_full + pool.hold_timeout
}

const STRATEGIES: [&str; 6] = [
    "round-robin",
    "least-connections",
    "consistent-hash",
    "random-two",
    "least-latency",
    "first",
];

fn visits() -> impl Strategy<Value = Vec<Visit>> {
    prop::collection::vec((0u64..20_000, 1u64..3000, 1u8..250), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_same_seed_tells_the_same_to_the_byte(visits in visits(), of in 0usize..6, seed: u64) {
        let config = web(&format!("balance = \"{}\"", STRATEGIES[of]), [", weight = 2", "", ""]);
        let told = |seed| {
            let recording = recorded(&config, &visits);
            let report = simulate(&config, &recording, &[], seed);
            serde_json::to_string(&report).expect("JSON")
        };
        prop_assert_eq!(told(seed), told(seed));
    }

    #[test]
    fn round_robin_gives_each_its_weight_in_every_round(rounds in 1usize..40, weights in [1u32..6, 1..6, 1..6]) {
        let keys = weights.map(|weight| format!(", weight = {weight}"));
        let config = web("", [&keys[0], &keys[1], &keys[2]]);
        let in_a_round = weights.iter().sum::<u32>() as usize;
        let visits: Vec<_> = (0..rounds * in_a_round).map(|n| (n as u64 * 7, 50, 1)).collect();
        let recording = recorded(&config, &visits);
        let tally = tally::of_all(&config, &recording, &[], 1);
        let got = tally.pools[0].backends.iter().map(|of| of.connections);
        let due = weights.map(|weight| u64::from(weight) * rounds as u64);
        prop_assert_eq!(got.collect::<Vec<_>>(), due);
    }

    /// Each got one backend, was reset, or waits for ever, and the bounds of the file hold.
    #[test]
    fn every_connection_comes_to_one_end_within_the_limits(
        visits in visits(),
        of in 0usize..6,
        limits in [1u32..4, 1..4, 1..4],
        (max, timeout, connecting) in (0usize..6, 0u64..1500, 0u32..3),
    ) {
        let keys = limits.map(|limit| format!(", max_connections = {limit}"));
        let settings = format!(
            "balance = \"{}\"\nmax_connecting = {connecting}\n[pool.web.hold]\nmax = {max}\n\
             timeout = \"{timeout}ms\"",
            STRATEGIES[of]
        );
        let config = web(&settings, [&keys[0], &keys[1], &keys[2]]);
        let recording = recorded(&config, &visits);
        let (became, tally) = replayed(&config, &recording, &[]);
        let pool = &tally.pools[0];
        let count = |what: fn(&Became) -> bool| became.iter().filter(|b| what(b)).count() as u64;
        prop_assert_eq!(pool.arrived, visits.len() as u64);
        prop_assert_eq!(pool.served(), count(|b| matches!(b, Became::Served(_))));
        prop_assert_eq!(refused(pool), count(|b| matches!(b, Became::Refused)));
        prop_assert_eq!(pool.stuck, 0, "slots come free in the end");
        prop_assert_eq!(pool.served() + refused(pool), pool.arrived);
        prop_assert!(pool.held_peak <= max);
        prop_assert!(timeout == 0 || pool.longest <= timeout * 1000);
        prop_assert!(max > 0 || pool.held == 0);
        for (backend, limit) in pool.backends.iter().zip(limits) {
            prop_assert!(backend.peak <= limit);
        }
    }

    /// By brute force: how many of those that went to the same backend were there still when
    /// each one came.
    #[test]
    fn a_peak_is_that_of_a_sweep_over_all_connections(visits in visits(), of in 0usize..6) {
        let config = web(&format!("balance = \"{}\"", STRATEGIES[of]), ["", "", ""]);
        let recording = recorded(&config, &visits);
        let (became, tally) = replayed(&config, &recording, &[]);
        let arrivals = &recording.groups[0].arrivals;
        for (index, backend) in tally.pools[0].backends.iter().enumerate() {
            let spot = Became::Served(Spot { pool: 0, backend: index });
            let mine: Vec<_> = (0..arrivals.len()).filter(|who| became[*who] == spot).collect();
            let there = |at: usize| {
                let now = arrivals[mine[at]].at;
                let before = mine[..=at].iter().map(|who| arrivals[*who]);
                before.filter(|other| other.at + other.lasts > now).count()
            };
            let peak = (0..mine.len()).map(there).max().unwrap_or(0);
            prop_assert_eq!(backend.peak as usize, peak);
        }
    }

    #[test]
    fn a_lost_backend_moves_its_own_connections_alone_where_they_are_hashed(
        visits in visits(),
        lost in 0usize..3,
    ) {
        let config = web("balance = \"consistent-hash\"", ["", ", weight = 3", ""]);
        let recording = recorded(&config, &visits);
        let lost = Spot { pool: 0, backend: lost };
        let (before, _) = replayed(&config, &recording, &[]);
        let (after, _) = replayed(&config, &recording, &[lost]);
        for (before, after) in before.iter().zip(&after) {
            let stays = *before != Became::Served(lost);
            prop_assert_eq!(before == after, stays, "{:?} {:?}", before, after);
        }
    }
}

/// Steps: one slot. The first has it from 0 to 100 ms, the second waits for it from 40, the
/// third, from 50 on, has it at 130 where each lasts for 30 ms.
#[test]
fn who_is_held_has_the_slot_when_it_is_given_back_in_order_of_arrival() {
    let limit = ", max_connections = 1";
    let config = web("", [limit, ", weight = 0", ", weight = 0"]);
    let recording = recorded(&config, &[(0, 100, 1), (40, 30, 1), (50, 30, 1)]);
    let pool = &replayed(&config, &recording, &[]).1.pools[0];
    assert_eq!((pool.held, pool.held_peak, refused(pool)), (2, 2, 0));
    assert_eq!((pool.longest, pool.waited), (80_000, 60_000 + 80_000));
    assert_eq!(
        (pool.backends[0].connections, pool.backends[0].peak),
        (3, 1)
    );
}

#[test]
fn who_comes_when_another_ends_finds_its_slot() {
    let config = web(
        "",
        [", max_connections = 1", ", weight = 0", ", weight = 0"],
    );
    let recording = recorded(&config, &[(0, 100, 1), (100, 100, 1)]);
    let pool = &replayed(&config, &recording, &[]).1.pools[0];
    assert_eq!((pool.held, pool.backends[0].connections), (0, 2));
}

#[test]
fn a_fallback_takes_over_before_anybody_is_held() {
    let config = config(
        "[listener.web]\nbind = \"127.0.0.1:1\"\npool = \"web\"\n\
         [pool.web]\nfallback = \"spare\"\n\
         backends = [{ address = \"10.0.0.1:80\", max_connections = 1 }]\n\
         [pool.spare]\nbackends = [{ address = \"10.0.0.2:80\", max_connections = 1 }]\n",
    );
    let recording = recorded(&config, &[(0, 100, 1), (1, 50, 1), (2, 10, 1)]);
    let (_, tally) = replayed(&config, &recording, &[]);
    let [web, spare] = &tally.pools[..] else {
        panic!("two pools");
    };
    // The third waits in its own pool, and has what comes free first.
    assert_eq!(
        (web.arrived, web.moved, web.held, web.longest),
        (3, 2, 1, 49_000)
    );
    assert_eq!((web.served(), spare.served(), spare.arrived), (1, 2, 0));
}

#[test]
fn backups_have_connections_only_while_no_other_can() {
    let config = web(
        "",
        [", max_connections = 2", ", backup = true", ", weight = 0"],
    );
    let visits: Vec<_> = (0..5).map(|n| (n, 100, 1)).collect();
    let recording = recorded(&config, &visits);
    let report = simulate(&config, &recording, &[], 1);
    let got: Vec<_> = report.pools[0]
        .backends
        .iter()
        .map(|of| of.connections)
        .collect();
    assert_eq!(got, [2, 3, 0]);
    let due: Vec<_> = report.pools[0]
        .backends
        .iter()
        .map(|of| of.expected_share)
        .collect();
    assert_eq!(due, [Some(1.0), Some(0.0), Some(0.0)]);
}

/// Nobody is left, whether checks would say so or not.
#[test]
fn with_every_backend_lost_connections_are_held_and_time_out() {
    let config = web(
        "when_all_down = \"try\"\nhold.timeout = \"2s\"",
        ["", "", ""],
    );
    let recording = recorded(&config, &[(0, 100, 1), (500, 100, 2)]);
    let lost: Vec<_> = ["b1", "web/b2", "b3"]
        .iter()
        .flat_map(|name| named(&config, name).expect("a backend"))
        .collect();
    let report = simulate(&config, &recording, &lost, 1);
    let pool = &report.pools[0];
    assert_eq!(report.without, ["web/b1", "web/b2", "web/b3"]);
    assert_eq!((pool.held.connections, pool.refused.hold_timeout), (2, 2));
    assert_eq!(pool.held.longest_seconds, Some(2.0));
    assert!(
        pool.backends
            .iter()
            .all(|of| of.lost && of.connections == 0)
    );
    let with_all: u64 = pool
        .backends
        .iter()
        .filter_map(|of| of.with_all)
        .map(|w| w.connections)
        .sum();
    assert_eq!(with_all, 2);
}

#[test]
fn without_an_end_to_waiting_they_wait_for_ever() {
    let config = web("hold.timeout = \"0s\"", ["", "", ""]);
    let recording = recorded(&config, &[(0, 100, 1), (500, 100, 2)]);
    let lost: Vec<_> = (0..3).map(|backend| Spot { pool: 0, backend }).collect();
    let (_, tally) = replayed(&config, &recording, &lost);
    assert_eq!((tally.pools[0].stuck, refused(&tally.pools[0])), (2, 0));
}

/// b1 answers in 0.5 ms in the recording and b2 in 400 ms, and in its second half the other way
/// round.
#[test]
fn least_latency_goes_by_how_quick_each_backend_was_when_it_was_recorded() {
    let config = web(
        "balance = \"least-latency\"\nlatency.decay = \"500ms\"",
        ["", "", ", weight = 0"],
    );
    let lines = (0..800u64).map(|n| {
        // Clients 3 and 4 were with b1 and b2.
        let first_byte = if (n % 2 == 0) == (n < 400) {
            "0.5"
        } else {
            "400.0"
        };
        let line = visit_line(n, (n * 10, 500, 3 + (n % 2) as u8));
        line.replace(
            "\"first_byte_ms\":0.5",
            &format!("\"first_byte_ms\":{first_byte}"),
        )
    });
    let lines: String = lines.collect();
    let recording = Recording::read(&config, "a.jsonl", lines.as_bytes(), 1).expect("a recording");
    let (became, _) = replayed(&config, &recording, &[]);
    let of = |backend: usize, part: std::ops::Range<usize>| {
        let spot = Became::Served(Spot { pool: 0, backend });
        became[part]
            .iter()
            .filter(|became| **became == spot)
            .count()
    };
    assert!(of(0, 100..400) > 10 * of(1, 100..400), "{became:?}");
    assert!(of(1, 600..800) > 10 * of(0, 600..800), "{became:?}");
}

/// A pool that has nothing to do with another one draws what it drew without it.
#[test]
fn pools_draw_each_for_themselves() {
    let file = |more: &str| {
        config(&format!(
            "[listener.web]\nbind = \"127.0.0.1:1\"\npool = \"web\"\n{more}\
             [pool.web]\nbalance = \"random-two\"\nbackends = [\"10.0.0.1:80\", \"10.0.0.2:80\", \
             \"10.0.0.3:80\"]\n"
        ))
    };
    let more = "[[listener.web.route]]\nclient = [\"10.0.0.7\"]\npool = \"other\"\n\
                [pool.other]\nbalance = \"random-two\"\nbackends = [\"10.0.0.1:80\"]\n";
    let visits: Vec<_> = (0..200).map(|n| (n * 3, 40, 1)).collect();
    let both: Vec<_> = visits.iter().flat_map(|v| [*v, (v.0 + 1, 40, 7)]).collect();
    let (alone, with_other) = (file(""), file(more));
    let of_web = |config: &Config, visits: &[Visit]| {
        let tally = tally::of_all(config, &recorded(config, visits), &[], 5);
        let place = config.pools.iter().position(|pool| *pool.name == *"web");
        tally.pools[place.expect("a pool")].clone()
    };
    assert_eq!(of_web(&alone, &visits), of_web(&with_other, &both));
}

#[test]
fn the_loss_of_each_backend_is_told_by_what_it_does_to_the_others() {
    let limit = ", max_connections = 3";
    let config = web("balance = \"least-connections\"", [limit, limit, limit]);
    let visits: Vec<_> = (0..9).map(|n| (n * 10, 1000, 1)).collect();
    let report = simulate(&config, &recorded(&config, &visits), &[], 1);
    let pool = &report.pools[0];
    assert_eq!(pool.held.connections, 0);
    let lost: Vec<_> = pool.if_lost.iter().map(|of| &*of.backend).collect();
    assert_eq!(lost, ["b1", "b2", "b3"]);
    for outage in &pool.if_lost {
        assert_eq!((outage.peak, outage.held.connections), (3, 3), "{outage:?}");
        assert_ne!(outage.most_loaded.as_ref(), Some(&outage.backend));
        assert_eq!(outage.held.longest_seconds, Some(0.94));
    }
}

#[test]
fn notes_say_what_the_log_does_not_have() {
    let config = config(
        "[listener.web]\nbind = \"127.0.0.1:1\"\npool = \"web\"\nrate = \"1/s\"\n\
         deny = [\"10.0.0.9\"]\n\
         [pool.web]\nbalance = \"consistent-hash\"\nhash.key = \"sni\"\n\
         backends = [\"10.0.0.1:80\"]\n",
    );
    let report = simulate(&config, &recorded(&config, &[(0, 1, 9)]), &[], 1);
    assert_eq!(
        report.notes,
        [
            "pool web hashes the server name, which the log does not have: the client's address is \
             hashed instead",
            "listener web lets every recorded connection in: deny, rate play no part",
        ]
    );
}

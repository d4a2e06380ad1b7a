//! What is foretold to thousands of clients, and what then happens to them: `explain` against the
//! backend that each gets, `plan` against the clients whose backend changes.

mod support;

use std::collections::HashMap;

use serde_json::Value;
use support::{Backend, Isobar, Stream, web};

/// Clients that are there at once: counts and turns differ from one to the next.
const STAYING: usize = 40;

fn named(n: usize) -> Vec<Backend> {
    (1..=n).map(|i| Backend::named(&format!("b{i}"))).collect()
}

/// A file of pool `web` over `backends`, with further keys for each in turn.
fn file(settings: &str, backends: &[Backend], keys: &[&str]) -> String {
    let keys = keys.iter().copied().chain(std::iter::repeat(""));
    let entries = backends.iter().zip(keys);
    let entries: Vec<_> = entries.map(|(b, keys)| b.entry_with(keys)).collect();
    web(settings, &entries)
}

/// Client `n` has an address of its own.
fn source(n: usize) -> String {
    format!("127.{}.{}.{}", 2 + n / 62_500, n / 250 % 250, 1 + n % 250)
}

#[track_caller]
fn explained(isobar: &Isobar, client: &str) -> Value {
    let response = isobar.get(&format!("/explain?listener=web&client={client}"));
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()["outcome"].take()
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// With nobody else there, each of `clients` is explained and then comes.
fn foretell(clients: usize) {
    for strategy in [
        "round-robin",
        "least-connections",
        "consistent-hash",
        "first",
    ] {
        let backends = named(5);
        let keys = ["weight = 3", "max_connections = 12", "weight = 2"];
        let settings = format!("balance = \"{strategy}\"");
        let isobar = Isobar::start(&file(&settings, &backends, &keys));
        let mut staying = std::collections::VecDeque::new();
        let mut foretold = HashMap::new();
        for n in 0..clients {
            let source = source(n);
            let outcome = explained(&isobar, &source);
            assert_eq!(outcome["result"], "backend", "{strategy}: {outcome}");
            let client = isobar.connect_from(&source, "web");
            assert_eq!(outcome["backend"], client.read_line(), "{strategy}: {n}");
            let address = client.local().expect("an address").to_string();
            foretold.insert(address, outcome);
            staying.push_back(client);
            if staying.len() > STAYING {
                // The next one is explained when this one is gone.
                let active = isobar.count("/connections/active");
                leave(&staying.pop_front().expect("somebody stays"));
                isobar.wait_count("/connections/active", active - 1);
            }
        }
        staying.iter().for_each(leave);
        isobar.wait_ended("web", "client_closed", clients as u64);
        support::wait_until("every line was written", || {
            isobar.access_lines().len() == clients
        });
        for line in isobar.access_lines() {
            let outcome = &foretold[line.text("client").expect("an address")];
            for field in ["backend", "pick"] {
                assert_eq!(line.fields()[field], outcome[field], "{strategy}");
            }
        }
    }
}

#[test]
fn hundreds_of_clients_get_the_backend_that_was_explained() {
    foretell(150);
}

#[test]
#[ignore = "needs minutes"]
fn ten_thousand_clients_get_the_backend_that_was_explained() {
    // Of each of four strategies.
    foretell(2500);
}

/// 1. A plan says which shares of the keys of a hashing pool move, from where to where.
/// 2. Of so many clients just those move, each as one of these moves says.
fn keys_that_move(clients: usize) {
    let backends = named(5);
    let hashed = |keys: &[&str], n| {
        let settings = "balance = \"consistent-hash\"";
        file(settings, &backends[..n], keys)
    };
    let isobar = Isobar::start(&hashed(&["weight = 2", "", "", ""], 4));
    let homes = || -> Vec<String> {
        let of = |n| explained(&isobar, &source(n))["backend"].take();
        let name = |home: Value| home.as_str().expect("a backend").to_owned();
        (0..clients).map(|n| name(of(n))).collect()
    };
    let before = homes();
    let next = hashed(&["weight = 1", "", "", ""], 5);
    isobar.rewrite(&next);
    let plan = isobar.tell("POST", "/plan", "");
    let keys = &plan["pools"][0]["hash_keys"];
    let moves = keys["moves"].as_array().expect("moves");
    let planned: HashMap<_, _> = moves
        .iter()
        .map(|part| {
            let name = |side: &str| part[side].as_str().expect("a backend").to_owned();
            let share = part["share"].as_f64().expect("a share");
            ((name("from"), name("to")), share)
        })
        .collect();
    let share: f64 = planned.values().sum();
    assert!((share - keys["share"].as_f64().expect("a share")).abs() < 1e-9);
    isobar.reload();
    let after = homes();
    let mut moved = HashMap::<_, f64>::new();
    for (from, to) in before.into_iter().zip(after) {
        if from != to {
            *moved.entry((from, to)).or_default() += 1.0;
        }
    }
    let clients = clients as f64;
    assert!(
        moved.keys().all(|step| planned.contains_key(step)),
        "{moved:?}, {planned:?}"
    );
    for (step, share) in planned {
        // So many standard deviations are a mistake, not chance; the clients are always the same.
        let deviation = (clients * share * (1.0 - share)).sqrt();
        let found = moved.get(&step).copied().unwrap_or(0.0);
        let off = (found - clients * share).abs();
        assert!(
            off <= 4.0 * deviation,
            "{step:?}: {found} of {clients}, planned {share}"
        );
    }
}

#[test]
fn the_keys_of_a_plan_are_those_of_a_thousand_clients() {
    keys_that_move(1000);
}

#[test]
#[ignore = "needs minutes"]
fn the_keys_of_a_plan_are_those_of_ten_thousand_clients() {
    keys_that_move(10_000);
}

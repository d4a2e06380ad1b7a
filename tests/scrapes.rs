//! To look at a balancer costs its connections nothing: no core is asked for what it counts, and
//! nothing is lost or seen twice by whoever looks while bytes flow.

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use serde_json::Value;
use support::crowd::{PAYLOAD, play_if_told};
use support::{Crowd, Echoes, Isobar, web};

/// Not a case: the program that the cases start.
#[test]
#[ignore = "the program that the other tests start"]
fn the_other_process() {
    play_if_told();
}

const CLIENTS: usize = 300;

/// Two cores with as many clients that talk to these backends.
fn crowded(echoes: &Echoes) -> (Isobar, Crowd) {
    let pool = web("", &echoes.entries());
    let isobar = Isobar::start(&format!("[runtime]\nthreads = 2\n{pool}"));
    let mut crowd = Crowd::start();
    crowd.open(CLIENTS, &[isobar.address("web")]);
    (isobar, crowd)
}

/// How often the cores have been put on a processor.
fn wake_ups(isobar: &Isobar) -> u64 {
    let cores = isobar.process().threads("core-");
    assert_eq!(cores.len(), 2);
    cores.iter().map(|(_, wake_ups)| wake_ups).sum()
}

#[test]
fn no_core_is_woken_to_tell_what_it_has_counted() {
    const LOOKS: u64 = 50;
    let echoes = Echoes::start(2);
    let (isobar, mut crowd) = crowded(&echoes);
    isobar.assert_calm();
    let woken_by = |paths: [&str; 2]| {
        let before = wake_ups(&isobar);
        for path in paths.into_iter().cycle().take(2 * LOOKS as usize) {
            assert_eq!(isobar.get(path).status, 200);
        }
        wake_ups(&isobar) - before
    };
    let by_counts = woken_by(["/stats", "/metrics"]);
    assert!(by_counts < LOOKS, "{by_counts} times by {LOOKS} looks");
    // Who is connected only the cores know, so each of them is asked.
    let by_listings = woken_by(["/connections", "/connections?limit=1"]);
    assert!(
        by_listings >= 2 * LOOKS,
        "{by_listings} times by {LOOKS} looks"
    );
    crowd.leave(CLIENTS);
}

#[test]
fn who_looks_while_bytes_flow_loses_none_and_counts_none_twice() {
    const ROUNDS: usize = 20;
    let mut echoes = Echoes::start(2);
    let (isobar, mut crowd) = crowded(&echoes);
    let enough = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut last = Seen::default();
            let mut looks = 0;
            while !enough.load(SeqCst) {
                last = last.then(Seen::of(&isobar));
                assert_all_are_listed(&isobar);
                looks += 1;
            }
            looks
        });
        let come_and_go = scope.spawn(|| {
            while !enough.load(SeqCst) {
                let client = isobar.connect("web");
                client.fin();
                client.expect_fin();
            }
        });
        for _ in 0..ROUNDS {
            crowd.talk(CLIENTS);
        }
        enough.store(true, SeqCst);
        come_and_go.join().expect("every one was served");
        looking.join().expect("every look was right")
    });
    assert!(looks > 0);
    let bytes = (CLIENTS * (ROUNDS + 1) * PAYLOAD) as u64;
    assert_eq!((crowd.bytes(), echoes.bytes()), (bytes, bytes));
    isobar.wait_count("/listeners/web/bytes_in", bytes);
    isobar.wait_count("/pools/web/bytes_out", bytes);
    assert_eq!(
        isobar.metric("isobar_listener_bytes_total", &[]),
        2.0 * bytes as f64
    );
    crowd.leave(CLIENTS);
}

/// Counts that never go back.
#[derive(Debug, Default)]
struct Seen {
    total: u64,
    bytes_in: u64,
    bytes_out: u64,
    connections_of_metrics: u64,
}

impl Seen {
    fn of(isobar: &Isobar) -> Self {
        let stats = isobar.stats();
        let web = &stats["listeners"]["web"];
        let count = |value: &Value| value.as_u64().expect("a count");
        let sum = |table: &Value| -> u64 {
            table
                .as_object()
                .expect("a table")
                .values()
                .map(count)
                .sum()
        };
        let total = count(&web["connections"]["total"]);
        let gone = sum(&web["ended"]) + sum(&web["rejected"]);
        assert_eq!(total, count(&web["connections"]["active"]) + gone, "{web}");
        Self {
            total,
            bytes_in: count(&web["bytes_in"]),
            bytes_out: count(&web["bytes_out"]),
            connections_of_metrics: isobar.metric("isobar_listener_connections_total", &[]) as u64,
        }
    }

    fn then(self, later: Self) -> Self {
        assert!(later.total >= self.total, "{self:?}, then {later:?}");
        assert!(later.bytes_in >= self.bytes_in, "{self:?}, then {later:?}");
        assert!(
            later.bytes_out >= self.bytes_out,
            "{self:?}, then {later:?}"
        );
        // Read after the same answer's `total`.
        assert!(later.connections_of_metrics >= later.total, "{later:?}");
        assert!(
            self.connections_of_metrics <= later.total,
            "{self:?}, then {later:?}"
        );
        later
    }
}

/// Those who stay, and perhaps the one who comes and goes or was just let go.
fn assert_all_are_listed(isobar: &Isobar) {
    let answer = isobar.get("/connections?limit=100000").json();
    let list = answer["connections"].as_array().expect("a list");
    let ids: HashSet<_> = list.iter().map(|line| line["id"].as_str()).collect();
    assert_eq!(ids.len(), list.len());
    let oldest: Vec<_> = list.iter().take(CLIENTS).collect();
    assert_eq!(oldest.len(), CLIENTS);
    assert!(
        oldest
            .iter()
            .all(|line| line["bytes_out"].as_u64() > Some(0))
    );
}

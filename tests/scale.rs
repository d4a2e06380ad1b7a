//! As large as it gets: 9,000 connections, 1,000 listeners, 1,000 backends, all at full
//! function.

mod support;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use isobar::net::Address;
use rustix::process::{Resource, Signal, getrlimit};
use serde_json::Value;
use support::crowd::{PAYLOAD, play_if_told};
use support::programs::{Connection, balancer, logged_connections};
use support::{Crowd, Echoes, Isobar, Line, is_listening, samples, wait_until};

/// Not a case: the program that the cases start.
#[test]
#[ignore = "the program that the other tests start"]
fn the_other_process() {
    play_if_told();
}

/// Connections at once, where a process may have so many [`DESCRIPTORS`].
const CONNECTIONS: usize = 9000;
const DESCRIPTORS: u64 = 20_000;

/// Enough for whoever is let in wrongly to be seen.
const LOOK: Duration = Duration::from_millis(300);

/// Pool `web` of these entries, with checks that soon see a backend refuse, and are patient
/// where a busy machine is slow.
fn checked(settings: &str, entries: &[String]) -> String {
    let health = "[pool.web.health]\ninterval = \"500ms\"\ntimeout = \"10s\"\n";
    support::web(&format!("{settings}\n{health}"), entries)
}

/// The values under `key` of all objects of a table.
fn each<'a>(table: &'a Value, pointer: &'a str) -> impl Iterator<Item = &'a Value> {
    let table = table.as_object().expect("a table");
    table.values().map(move |value| {
        let found = value.pointer(pointer);
        found.unwrap_or_else(|| panic!("no {pointer} in {value}"))
    })
}

fn sum(table: &Value, pointer: &str) -> usize {
    let counts = each(table, pointer).map(|value| value.as_u64().expect("a count"));
    usize::try_from(counts.sum::<u64>()).expect("a count")
}

/// Steps: fill it to its limit; look at it; let everybody talk at once, while a backend fails
/// and comes back; one more client; empty it; fill it again; stop it while everybody talks.
#[test]
fn nine_thousand_connections_are_served_and_watched_and_drained_like_nine() {
    let (mut echoes, mut crowd) = (Echoes::start(3), Crowd::start());
    let text = checked("", &echoes.entries());
    let text = text.replace("[pool.web]", "backlog = 1024\n[pool.web]");
    let mut isobar = balancer(&format!(
        "[runtime]\nthreads = 2\nmax_connections = {CONNECTIONS}\ndrain_timeout = \"5m\"\n{text}"
    ));
    let limit = isobar.count("/connections/limit") as usize;
    let allowed = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    assert!(limit == CONNECTIONS || allowed < DESCRIPTORS, "{limit}");

    let mut served = Served::default();
    served.fill(&isobar, &mut crowd, limit);
    assert_listed(&isobar, limit);
    assert_counted(&isobar, limit);
    served.everybody_talks(&isobar, &mut crowd, &mut echoes);

    let checks = || {
        isobar.metric(
            "isobar_backend_health_checks_total",
            &[("result", "passed")],
        )
    };
    let before = checks();
    wait_until("every backend was checked again", || {
        checks() >= before + 6.0
    });
    echoes.refuse(1);
    isobar.wait_state("web", "b1", "down");
    served.everybody_talks(&isobar, &mut crowd, &mut echoes);
    echoes.accept(1);
    isobar.wait_state("web", "b1", "up");

    served.one_more(&isobar, &mut crowd);
    crowd.leave(limit - 1);
    let ended = served.connections as u64;
    isobar.wait_ended("web", "client_closed", ended);
    isobar.check_invariants();

    served.fill(&isobar, &mut crowd, limit);
    let Address::Ip(address) = *isobar.address("web") else {
        panic!("it listens on an IP address");
    };
    isobar.signal(Signal::TERM);
    wait_until("nobody was let in any more", || !is_listening(address));
    served.everybody_talks(&isobar, &mut crowd, &mut echoes);
    assert_counted(&isobar, limit);
    crowd.leave(limit);
    assert!(isobar.wait_exit().success());
    served.assert_logged(&isobar);
}

/// What was served so far.
#[derive(Default)]
struct Served {
    connections: usize,
    open: usize,
    /// Bytes of the crowd, and of whoever else came.
    crowd: u64,
    others: u64,
}

impl Served {
    /// Everybody who enters sends a payload, and gets it back.
    #[track_caller]
    fn fill(&mut self, isobar: &Isobar, crowd: &mut Crowd, limit: usize) {
        self.open = limit;
        self.connections += limit;
        self.crowd += (limit * PAYLOAD) as u64;
        crowd.open(limit, &[isobar.address("web")]);
        isobar.wait_count("/connections/active", limit as u64);
    }

    /// Those who counted on either side agree with isobar, to the byte.
    #[track_caller]
    fn everybody_talks(&mut self, isobar: &Isobar, crowd: &mut Crowd, echoes: &mut Echoes) {
        crowd.talk(self.open);
        self.crowd += (self.open * PAYLOAD) as u64;
        let bytes = self.crowd + self.others;
        assert_eq!((crowd.bytes(), echoes.bytes()), (self.crowd, bytes));
        isobar.wait_count("/listeners/web/bytes_in", bytes);
        isobar.wait_count("/pools/web/bytes_out", bytes);
    }

    /// Whoever comes above the limit waits, unaccepted, until somebody leaves.
    #[track_caller]
    fn one_more(&mut self, isobar: &Isobar, crowd: &mut Crowd) {
        let more = isobar.connect("web");
        more.write("let me in\n");
        assert!(
            more.is_silent_for(LOOK),
            "somebody was let in above the limit"
        );
        let paused = [("listener", "web"), ("reason", "limit")];
        assert_eq!(isobar.metric("isobar_accept_paused", &paused), 1.0);
        assert_eq!(isobar.count("/connections/total"), self.connections as u64);
        crowd.leave(1);
        assert_eq!(more.read_line(), "let me in");
        isobar.wait_count("/connections/active", self.open as u64);
        more.fin();
        more.expect_fin();
        self.connections += 1;
        self.others += more.sent();
    }

    /// Each has its line, and all of them together every byte.
    #[track_caller]
    fn assert_logged(&self, isobar: &Isobar) {
        let lines = logged_connections(isobar);
        assert_eq!(lines.len(), self.connections);
        assert!(lines.iter().all(|line| line.ended == "client_closed"));
        let sum = |of: fn(&Connection) -> u64| lines.iter().map(of).sum::<u64>();
        let bytes = self.crowd + self.others;
        assert_eq!(sum(|line| line.bytes_in), bytes);
        assert_eq!(sum(|line| line.bytes_out), bytes);
    }
}

/// `/stats` and `/metrics` tell of `n` connections, evenly over three backends and both cores.
#[track_caller]
fn assert_counted(isobar: &Isobar, n: usize) {
    let stats = isobar.stats();
    assert_eq!(stats["connections"]["active"], n);
    assert_eq!(sum(&stats["listeners"], "/connections/active"), n);
    assert_eq!(sum(&stats["pools"], "/connections/active"), n);
    let backends = &stats["pools"]["web"]["backends"];
    assert_eq!(sum(backends, "/connections/active"), n);
    let metrics = isobar.metrics();
    let total = |name| samples(&metrics, name, &[]).sum::<f64>();
    assert_eq!(total("isobar_listener_connections_active"), n as f64);
    assert_eq!(total("isobar_backend_connections_active"), n as f64);
    assert!(total("process_open_fds") > 2.0 * n as f64);
    assert!(total("process_open_fds") < total("process_max_fds"));
}

/// All of them can be listed, oldest first, or a few of them.
#[track_caller]
fn assert_listed(isobar: &Isobar, n: usize) {
    let ask = |query: &str| isobar.get(&format!("/connections?{query}")).json();
    let listed = |answer: &Value| answer["connections"].as_array().expect("a list").clone();
    let all = ask("limit=1000000");
    assert_eq!(all["total"], n);
    let all = listed(&all);
    for field in ["id", "client"] {
        let values: HashSet<_> = all.iter().map(|line| line[field].as_str()).collect();
        assert_eq!(values.len(), n, "{field}");
    }
    let ages: Vec<_> = all
        .iter()
        .map(|line| line["age_seconds"].as_f64())
        .collect();
    assert!(ages.is_sorted_by(|older, newer| older >= newer));
    let few = ask("limit=7");
    let ids = |lines: &[Value]| -> Vec<_> { lines.iter().map(|line| line["id"].clone()).collect() };
    assert_eq!(few["total"], n);
    assert_eq!(ids(&listed(&few)), ids(&all[..7]));
    let of_one = isobar.stat("/pools/web/backends/b1/connections/active");
    assert_eq!(ask("backend=b1&limit=0")["total"], of_one);
    assert_eq!(ask("client=192.0.2.0/24")["total"], 0);
}

/// A file of `n` listeners of pool `web`, `l0` and so on.
fn listeners(n: usize, echoes: &Echoes) -> String {
    let listener = |n| format!("[listener.l{n}]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n");
    let listeners: String = (0..n).map(listener).collect();
    let pool = support::web("", &echoes.entries());
    let (_, pool) = pool.split_once("[pool.web]").expect("it has a pool");
    format!("[runtime]\nthreads = 2\n{listeners}[pool.web]{pool}")
}

#[test]
fn a_thousand_listeners_all_serve_and_all_close() {
    const LISTENERS: usize = 1000;
    let (echoes, mut crowd) = (Echoes::start(1), Crowd::start());
    let mut isobar = Isobar::start(&listeners(LISTENERS, &echoes));
    let names: Vec<_> = (0..LISTENERS).map(|n| format!("l{n}")).collect();
    let addresses: Vec<_> = names.iter().map(|name| isobar.address(name)).collect();
    crowd.open(LISTENERS, &addresses);
    let stats = isobar.stats();
    let table = &stats["listeners"];
    assert_eq!(table.as_object().map(serde_json::Map::len), Some(LISTENERS));
    assert!(each(table, "/connections/active").all(|active| active == 1));
    assert!(each(table, "/accepting").all(|accepting| accepting == true));
    let metrics = isobar.metrics();
    let active = samples(&metrics, "isobar_listener_connections_active", &[]);
    assert_eq!(active.filter(|active| *active == 1.0).count(), LISTENERS);

    let addresses: Vec<_> = addresses.into_iter().cloned().collect();
    isobar.signal(Signal::TERM);
    for address in &addresses {
        wait_until("every listener was closed", || {
            isobar.try_connect(None, address).is_err()
        });
    }
    crowd.talk(LISTENERS);
    let stats = isobar.stats();
    assert!(each(&stats["listeners"], "/accepting").all(|accepting| accepting == false));
    crowd.leave(LISTENERS);
    assert!(isobar.wait_exit().success());
    // Others may have been let in just before a listener was closed: they said nothing.
    let talked = |line: &Line| line.fields()["bytes_out"] == 2 * PAYLOAD;
    let lines = isobar.access_lines().into_iter().filter(talked);
    let names: Vec<_> = lines
        .filter_map(|line| line.text("listener").map(str::to_owned))
        .collect();
    assert_eq!(names.len(), LISTENERS);
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), LISTENERS);
}

/// Four times the listeners may take four times the work, and some more for the start itself;
/// were each compared with all others it would be sixteen times.
#[test]
fn the_work_of_a_start_grows_with_the_listeners_and_no_faster() {
    let echoes = Echoes::start(1);
    let work = |n| {
        let isobar = Isobar::start(&listeners(n, &echoes));
        isobar.process().cpu_time().as_secs_f64()
    };
    let (few, many) = (work(250), work(1000));
    assert!(many < 8.0 * few, "{few} s for 250, {many} s for 1,000");
}

const BACKENDS: usize = 1000;

/// Each strategy with how it spreads as many connections as there are backends: how many
/// backends get any, and the most that one gets.
type Spread = (&'static str, fn(used: usize, most: u64) -> bool);

const STRATEGIES: [Spread; 6] = [
    ("round-robin", |used, most| used == BACKENDS && most == 1),
    ("least-connections", |used, most| {
        used == BACKENDS && most == 1
    }),
    // Nearly all differ from the mean by two at most; seven above it come once in ages.
    ("random-two", |used, most| used > BACKENDS / 2 && most <= 8),
    // As a hash spreads: two thirds of them get any.
    ("consistent-hash", |used, most| {
        used > BACKENDS / 2 && most <= 15
    }),
    // The fastest get more, though none gets all.
    ("least-latency", |used, most| {
        used > BACKENDS / 20 && most < 100
    }),
    ("first", |used, most| used == 1 && most == BACKENDS as u64),
];

#[test]
fn every_strategy_picks_among_a_thousand_backends() {
    let (mut echoes, mut crowd) = (Echoes::start(BACKENDS), Crowd::start());
    let entries = echoes.entries().join(", ");
    let pool = |(balance, _): Spread| {
        format!(
            "[listener.{balance}]\nbind = \"127.0.0.1:0\"\npool = \"{balance}\"\n\
             [pool.{balance}]\nbalance = \"{balance}\"\nbackends = [{entries}]\n\
             [pool.{balance}.hash]\nkey = \"client-ip-port\"\n\
             [pool.{balance}.health]\nkind = \"none\"\n"
        )
    };
    let text: String = STRATEGIES.into_iter().map(pool).collect();
    let mut isobar = balancer(&text);
    for (balance, fits) in STRATEGIES {
        crowd.open(BACKENDS, &[isobar.address(balance)]);
        let stats = isobar.stats();
        let backends = &stats["pools"][balance]["backends"];
        let active = |value: &Value| value.as_u64().expect("a count");
        let mut counts: Vec<_> = each(backends, "/connections/active").map(active).collect();
        counts.sort_unstable();
        assert_eq!(counts.len(), BACKENDS);
        assert_eq!(counts.iter().sum::<u64>(), BACKENDS as u64);
        let used = counts.iter().filter(|count| **count > 0).count();
        let most = counts[BACKENDS - 1];
        assert!(
            fits(used, most),
            "{balance}: {used} backends, {most} at most"
        );
    }
    let n = STRATEGIES.len() * BACKENDS;
    let bytes = (n * PAYLOAD) as u64;
    assert_eq!((crowd.bytes(), echoes.bytes()), (bytes, bytes));
    crowd.leave(n);
    // The invariants are left to the next case: they read six times as much here.
    assert!(isobar.stop().success());
    assert_eq!(logged_connections(&isobar).len(), n);
}

#[test]
fn a_thousand_backends_are_all_checked_and_told_of() {
    let (mut echoes, mut crowd) = (Echoes::start(BACKENDS), Crowd::start());
    let text = checked("balance = \"round-robin\"", &echoes.entries());
    // A thousand checks in this time are no busy process, not even in a build for debugging.
    let text = text.replace("\"500ms\"", "\"12s\"");
    let isobar = Isobar::start(&format!("[runtime]\nthreads = 2\n{text}"));
    wait_until("every backend was checked", || {
        isobar.metric("isobar_pool_backends_usable", &[]) == BACKENDS as f64
    });
    wait_until("checks were spread over their interval", || {
        is_spread(&isobar)
    });
    crowd.open(BACKENDS, &[isobar.address("web")]);

    echoes.refuse(500);
    isobar.wait_state("web", "b500", "down");
    crowd.open(BACKENDS - 1, &[isobar.address("web")]);
    let stats = isobar.stats();
    let backends = stats["pools"]["web"]["backends"]
        .as_object()
        .expect("a table");
    assert_eq!(backends.len(), BACKENDS);
    for (name, of) in backends {
        let state = if name == "b500" { "down" } else { "up" };
        let n = if name == "b500" { 1 } else { 2 };
        assert_eq!(of["state"], state, "{name}");
        assert_eq!(of["connections"]["active"], n, "{name}");
    }
    assert_complete(&isobar);
    echoes.accept(500);
    isobar.wait_state("web", "b500", "up");
    crowd.leave(2 * BACKENDS - 1);
}

/// No fifth of a second has more than a quarter of the last checks: evenly spread over half an
/// interval, two seconds, it would be a tenth.
fn is_spread(isobar: &Isobar) -> bool {
    let stats = isobar.stats();
    let mut per_fifth = BTreeMap::<i64, usize>::new();
    for last in each(&stats["pools"]["web"]["backends"], "/health/last_at") {
        let last = last.as_str().expect("it was checked");
        let last: jiff::Timestamp = last.parse().expect("a time");
        *per_fifth.entry(last.as_millisecond() / 200).or_default() += 1;
    }
    per_fifth.values().all(|checks| *checks <= BACKENDS / 4)
}

/// Every family of backends has every backend, with all its states and reasons.
#[track_caller]
fn assert_complete(isobar: &Isobar) {
    let metrics = isobar.metrics();
    let mut per_family = BTreeMap::<&str, BTreeMap<&str, usize>>::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, rest)) = line.split_once("backend=\"") else {
            continue;
        };
        let (family, _) = line.split_once('{').expect("labels");
        let (backend, _) = rest.split_once('"').expect("a closed quote");
        *per_family
            .entry(family)
            .or_default()
            .entry(backend)
            .or_default() += 1;
    }
    assert!(per_family.len() >= 10, "{:?}", per_family.keys());
    for (family, per_backend) in per_family {
        assert_eq!(per_backend.len(), BACKENDS, "{family}");
        let series: HashSet<_> = per_backend.values().collect();
        assert_eq!(series.len(), 1, "{family}: {series:?} series of a backend");
    }
}

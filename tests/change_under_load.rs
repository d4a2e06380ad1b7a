//! Everything that an operator changes, while clients come and go at a pace, others stay, and
//! streams flow: nobody is refused, nobody is cut, no byte is wrong, no socket is bound anew, and
//! descriptors and memory stay what they were.
//!
//! Each case is there twice: small, and at the size that is promised, which wants the machine for
//! itself.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use isobar::net::Address;
use serde_json::Value;
use support::crowd::{PAYLOAD, play_if_told};
use support::{
    Crowd, Echoes, Exit, Flow, Isobar, Launch, Streams, Visitors, listening_at, scaled, wait_until,
};

/// Not a case: the program that the cases start.
#[test]
#[ignore = "the program that the other tests start"]
fn the_other_process() {
    play_if_told();
}

/// How much of everything.
#[derive(Clone, Copy)]
struct Size {
    /// New connections a second.
    pace: usize,
    streams: usize,
    /// Clients who stay.
    residents: usize,
    reloads: usize,
    upgrades: usize,
    pauses: usize,
}

const SMALL: Size = Size {
    pace: 200,
    streams: 20,
    residents: 200,
    reloads: 20,
    upgrades: 4,
    pauses: 3,
};

/// As promised, or the share of it that `ISOBAR_TEST_SHARE` says, for machines that cannot carry
/// all of it beside a debug build.
fn full() -> Size {
    let share = std::env::var("ISOBAR_TEST_SHARE").ok();
    let share: f64 = share.map_or(1.0, |share| share.parse().expect("a number"));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count"
    )]
    let of = |n: usize| (n as f64 * share).ceil() as usize;
    Size {
        pace: of(2000),
        streams: of(200),
        residents: of(3000),
        reloads: of(100),
        upgrades: of(20),
        pauses: of(10),
    }
}

const FLOW: Flow = Flow {
    burst: 256 << 10,
    pause: Duration::from_millis(500),
    bursts: 1_000_000,
};

/// Streams that clients begin anew now and then, as they must where a backend is to be empty.
const RENEWED: Flow = Flow { bursts: 3, ..FLOW };

/// Backends of each pool.
const BACKENDS: usize = 4;

/// Resident memory may grow by this much over a case: what the allocator keeps differs.
const GROWTH: u64 = 24 << 20;

/// A balancer in full use.
struct Scene {
    size: Size,
    visitors: Visitors,
    streams: Streams,
    crowd: Crowd,
    watch: Watch,
    isobar: Isobar,
    /// Of pool `web`, for visitors and residents, and of pool `bulk`. Each pool uses the first
    /// half at first.
    echoes: Echoes,
    bulk: Echoes,
}

impl Scene {
    fn start(size: Size, flow: Flow) -> Self {
        let (echoes, bulk) = (Echoes::start(2 * BACKENDS), Echoes::start(2 * BACKENDS));
        let mut isobar = support::programs::balancer(&text(0, &echoes, &bulk));
        isobar.skip_byte_check();
        wait_until("all backends were checked", || {
            isobar.get("/readyz").status == 200
        });
        let mut scene = Self {
            size,
            visitors: Visitors::start(),
            streams: Streams::start(),
            crowd: Crowd::start(),
            watch: Watch::over(&isobar),
            isobar,
            echoes,
            bulk,
        };
        let web = scene.isobar.address("web");
        scene.crowd.open(size.residents, &[web]);
        scene.visitors.come(size.pace, web);
        let address = scene.isobar.address("bulk");
        scene.streams.open(size.streams, flow, address);
        let streams = "/listeners/bulk/connections/total";
        wait_until("every stream had begun", || {
            scene.isobar.count(streams) >= size.streams as u64
        });
        scene.goes_on();
        scene
    }

    /// Visitors were served since, and bytes came back; nobody failed.
    #[track_caller]
    fn goes_on(&mut self) {
        let visits = self.visitors.report().done;
        let bytes = self.streams.report().done;
        wait_until("visitors were served", || {
            self.visitors.report().done > visits
        });
        wait_until("streams flowed", || self.streams.report().done > bytes);
    }

    /// Everybody leaves; all the time nobody failed, and isobar has counted everybody once, and
    /// every byte.
    #[track_caller]
    fn ends_well(mut self, talks: usize) {
        let began = Instant::now();
        let visitors = self.visitors.stop();
        let streams = self.streams.stop();
        self.crowd.talk(self.size.residents);
        self.crowd.leave(self.size.residents);
        let served = visitors.done + self.size.residents as u64;
        self.isobar.wait_ended("web", "client_closed", served);
        self.isobar.wait_count("/connections/active", 0);
        let stats = self.isobar.stats();
        for listener in ["web", "bulk"] {
            let listener = &stats["listeners"][listener];
            for kind in ["ended", "rejected"] {
                let counts = listener[kind].as_object().expect("a table").iter();
                let bad = |(reason, n): &(&String, &Value)| {
                    *reason != "client_closed" && n.as_u64() != Some(0)
                };
                assert_eq!(counts.filter(bad).count(), 0, "{listener:#}");
            }
        }
        let web = &stats["listeners"]["web"];
        assert_eq!(web["connections"]["total"], served);
        let payloads = visitors.done + ((talks + 2) * self.size.residents) as u64;
        assert_eq!(web["bytes_in"], payloads * PAYLOAD as u64);
        assert_eq!(web["bytes_out"], payloads * PAYLOAD as u64);
        assert_eq!(stats["listeners"]["bulk"]["bytes_out"], streams.done);
        self.watch.saw_one_socket_each();
        eprintln!("all left in {:?}", began.elapsed());
    }
}

/// Whoever listens at an address of a listener, all the time.
struct Watch {
    over: Arc<AtomicBool>,
    seen: Option<JoinHandle<BTreeMap<String, BTreeSet<u64>>>>,
}

impl Watch {
    fn over(isobar: &Isobar) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let addresses = [
            isobar.address("web"),
            isobar.address("bulk"),
            isobar.admin(),
        ];
        let addresses = addresses.map(Clone::clone);
        let seen = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let mut seen = BTreeMap::<_, BTreeSet<_>>::new();
                while !over.load(SeqCst) {
                    for address in &addresses {
                        let Address::Ip(ip) = address else {
                            panic!("{address} has no row in /proc/net/tcp");
                        };
                        let sockets = seen.entry(address.to_string()).or_default();
                        sockets.extend(listening_at(*ip));
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                seen
            }
        });
        Self {
            over,
            seen: Some(seen),
        }
    }

    #[track_caller]
    fn saw_one_socket_each(&mut self) {
        self.over.store(true, SeqCst);
        let seen = self.seen.take().expect("it is asked once");
        let seen = seen.join().expect("it saw IP addresses");
        assert!(seen.values().all(|inodes| inodes.len() == 1), "{seen:?}");
        assert_eq!(seen.len(), 3);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
    }
}

/// Files that differ in what a reload may change: strategies, weights, settings, checks, a
/// backend more or less, a listener and a pool that come and go.
fn text(n: usize, echoes: &Echoes, bulk: &Echoes) -> String {
    let strategies = ["least-connections", "round-robin", "random-two"];
    let settings = format!(
        "balance = \"{}\"\nkeepalive = \"{}s\"\nhold.max = 20000\n\
         [pool.web.health]\ninterval = \"{}ms\"\ntimeout = \"10s\"\n",
        strategies[n % 3],
        30 + n % 2,
        400 + n % 5,
    );
    let weighed = |(index, entry): (usize, String)| {
        entry.replace(" }", &format!(", weight = {} }}", 1 + (n + index) % 3))
    };
    let entries = echoes.entries().into_iter().enumerate().map(weighed);
    let entries: Vec<_> = entries.take(BACKENDS + n % 2).collect();
    let mut text = support::web(&settings, &entries);
    text += &format!(
        "[listener.bulk]\nbind = \"127.0.0.1:0\"\npool = \"bulk\"\nbacklog = {}\n\
         [pool.bulk]\nbackends = [{}]\nconnect_attempts = {}\n\
         health.interval = \"500ms\"\nhealth.timeout = \"10s\"\nhold.max = 20000\n",
        4000 + n % 7,
        bulk.entries()[..BACKENDS].join(", "),
        1 + n % 3,
    );
    if n % 3 == 1 {
        text += "[listener.extra]\nbind = \"127.0.0.1:0\"\npool = \"extra\"\n";
        text += &format!("[pool.extra]\nbackends = [{}]\n", echoes.entries()[0]);
    }
    text
}

fn reloads(size: Size) {
    let mut scene = Scene::start(size, FLOW);
    scene.isobar.expect_removal();
    scene.isobar.expect_departure();
    let mut memory = Memory::default();
    for n in 1..=size.reloads {
        let text = text(n, &scene.echoes, &scene.bulk);
        scene.isobar.reload_to(&with_log(&text));
        scene.goes_on();
        memory.is(scene.isobar.process().resident());
    }
    // What the last one brought takes descriptors of its own.
    let first = text(0, &scene.echoes, &scene.bulk);
    scene.isobar.reload_to(&with_log(&first));
    let generation = scene.isobar.count("/config/generation");
    assert_eq!(generation, size.reloads as u64 + 2);
    memory.is_flat();
    scene.ends_well(0);
}

/// The log of the start, which stays.
fn with_log(text: &str) -> String {
    format!("{text}\n{}", support::programs::LOG)
}

#[test]
fn reloads_in_full_use_are_seen_by_nobody() {
    reloads(SMALL);
}

#[test]
#[ignore = "needs the machine for itself"]
fn a_hundred_reloads_at_two_thousand_connections_a_second_are_seen_by_nobody() {
    reloads(full());
}

/// Resident memory as it goes.
#[derive(Default)]
struct Memory(Vec<u64>);

impl Memory {
    fn is(&mut self, bytes: u64) {
        self.0.push(bytes);
    }

    /// The most of the last half is not above that of the first one.
    #[track_caller]
    fn is_flat(&self) {
        let (first, last) = self.0.split_at(self.0.len() / 2);
        let most = |some: &[u64]| some.iter().copied().max().unwrap_or(0);
        assert!(most(last) <= most(first) + GROWTH, "{:?}", self.0);
    }
}

/// Another process takes the place of this one, and this one ends; how long that took.
#[track_caller]
fn upgrade(scene: &Scene, at_least: usize) -> Duration {
    let began = Instant::now();
    let (answer, mut old) = scene.isobar.upgrade_leaving_some();
    assert!(old.wait().success());
    let took = began.elapsed();
    let moved = answer["moved"].as_u64().expect("a count");
    eprintln!(
        "moved {moved} in {} s, the old process was gone after {took:?}",
        answer["seconds"]
    );
    assert!(moved >= at_least as u64, "{answer}");
    took
}

fn upgrades(size: Size) {
    let mut scene = Scene::start(size, FLOW);
    let mut memory = Memory::default();
    for n in 1..=size.upgrades {
        let took = upgrade(&scene, size.residents + size.streams);
        assert!(took < scaled(Duration::from_secs(20)), "{took:?}");
        memory.is(scene.isobar.process().resident());
        let visits = scene.visitors.report();
        let bytes = scene.streams.report();
        eprintln!(
            "{} visits, the longest {:?}; {} MB, nothing came for {:?}",
            visits.done,
            visits.longest,
            bytes.done >> 20,
            bytes.longest
        );
        // Their bytes are their own, whoever serves them.
        if n % 5 == 0 {
            scene.crowd.talk(size.residents);
        }
        scene.goes_on();
    }
    memory.is_flat();
    scene.ends_well(size.upgrades / 5);
}

#[test]
fn upgrades_in_full_use_are_seen_by_nobody() {
    upgrades(SMALL);
}

#[test]
#[ignore = "needs the machine for itself"]
fn twenty_upgrades_with_three_thousand_connections_and_two_hundred_streams_are_seen_by_nobody() {
    upgrades(full());
}

/// One after the other, as fast as they go: one process is left, which has everybody.
#[test]
fn five_upgrades_in_ten_seconds_leave_one_process_with_everybody() {
    let size = SMALL;
    let mut scene = Scene::start(size, FLOW);
    let began = Instant::now();
    let mut processes = BTreeSet::from([scene.isobar.process().0]);
    for _ in 0..5 {
        upgrade(&scene, size.residents + size.streams);
        processes.insert(scene.isobar.process().0);
    }
    let took = began.elapsed();
    assert!(took < scaled(Duration::from_secs(10)), "{took:?}");
    assert_eq!(processes.len(), 6);
    wait_until("one generation was left", || {
        scene.isobar.stat("/generations").as_array().map(Vec::len) == Some(1)
    });
    scene.goes_on();
    scene.ends_well(0);
}

/// Pause, wait until nobody is active, restart, resume, as the guide says for any protocol.
fn pauses(size: Size) {
    // Nobody stays, or the wait would not end.
    let size = Size {
        residents: 0,
        ..size
    };
    let mut scene = Scene::start(size, RENEWED);
    for n in 0..size.pauses {
        let (pool, backends) = match n % 3 {
            0 => ("bulk", &mut scene.bulk),
            _ => ("web", &mut scene.echoes),
        };
        command(&scene.isobar, &["pause", pool, "--wait"]);
        (0..BACKENDS).for_each(|backend| backends.refuse(backend));
        (0..BACKENDS).for_each(|backend| backends.accept(backend));
        command(&scene.isobar, &["resume", pool]);
        scene.goes_on();
    }
    scene.ends_well(0);
}

/// A command for the balancer, which succeeds.
#[track_caller]
fn command(isobar: &Isobar, arguments: &[&str]) -> Exit {
    let admin = isobar.admin().to_string();
    let arguments = [arguments, &["--admin", &admin]].concat();
    let exit = Launch::new("").run_to_exit(&arguments);
    assert_eq!(exit.code, Some(0), "{arguments:?}: {}", exit.stderr);
    exit
}

#[test]
fn every_backend_restarts_while_its_pool_is_paused_and_nobody_notices() {
    pauses(SMALL);
}

#[test]
#[ignore = "needs the machine for itself"]
fn backends_restart_while_two_thousand_clients_a_second_wait_and_nobody_notices() {
    pauses(full());
}

/// Each backend of both pools in turn, by the commands of the guide: add its successor, wait until
/// that is up, drain, end its server, remove.
fn replacements(size: Size) {
    let size = Size {
        residents: 0,
        ..size
    };
    let mut scene = Scene::start(size, RENEWED);
    scene.isobar.expect_removal();
    for n in 0..BACKENDS {
        for pool in ["web", "bulk"] {
            let backends = match pool {
                "web" => &mut scene.echoes,
                _ => &mut scene.bulk,
            };
            let (old, new) = (format!("{pool}/b{n}"), format!("new{n}"));
            let address = backends.address(BACKENDS + n).to_string();
            command(&scene.isobar, &["add", pool, &address, "--name", &new]);
            scene.isobar.wait_state(pool, &new, "up");
            let drain = ["drain", &old, "--timeout", "10m", "--wait"];
            command(&scene.isobar, &drain);
            backends.refuse(n);
            command(&scene.isobar, &["remove", &old]);
        }
        scene.goes_on();
    }
    for pool in ["web", "bulk"] {
        let backends = scene.isobar.stat(&format!("/pools/{pool}/backends"));
        let backends = backends.as_object().expect("a table");
        assert!(
            backends.keys().all(|name| name.starts_with("new")),
            "{backends:?}"
        );
    }
    scene.ends_well(0);
}

#[test]
fn every_backend_is_replaced_in_turn_and_nobody_notices() {
    replacements(SMALL);
}

#[test]
#[ignore = "needs the machine for itself"]
fn every_backend_is_replaced_in_full_use_and_nobody_notices() {
    replacements(full());
}

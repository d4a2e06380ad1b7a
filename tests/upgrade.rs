//! The program now on disk takes the place of the running one, with every connection.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use isobar::net::Address;
use procfs::net::TcpState;
use rustix::process::Signal;
use serde_json::Value;
use support::{
    Backend, End, Family, Isobar, Launch, Pattern, Stream, on_every_path, sockets_at, wait_until,
    web,
};

/// Upgrades `path.isobar` once all threads of a case have come to a point: one for all.
struct Once {
    wanted: AtomicU64,
    done: AtomicU64,
}

impl Once {
    const fn new() -> Self {
        Self {
            wanted: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    /// Waits for all nine paths, upgrades, and lets all of them go on.
    #[track_caller]
    fn upgrade(&self, isobar: &Isobar) {
        let place = self.wanted.fetch_add(1, SeqCst) + 1;
        if place.is_multiple_of(9) {
            isobar.upgrade();
            self.done.fetch_add(9, SeqCst);
        }
        wait_until("everybody was upgraded", || self.done.load(SeqCst) >= place);
    }
}

fn inode(address: &Address) -> BTreeSet<u64> {
    let Address::Ip(ip) = address else {
        panic!("a Unix socket has no row in /proc/net/tcp");
    };
    let sockets = sockets_at(*ip, &TcpState::Listen);
    sockets.iter().map(|socket| socket.inode).collect()
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[test]
fn bytes_that_flow_both_ways_arrive_whole_through_upgrades() {
    static ONCE: [Once; 3] = [Once::new(), Once::new(), Once::new()];
    const BYTES: u64 = 12 << 20;
    on_every_path(|path| {
        let (client, backend) = path.open();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                client.write_pattern(Pattern(1), BYTES);
                client.fin();
            });
            scope.spawn(|| {
                backend.write_pattern(Pattern(2), BYTES);
                backend.fin();
            });
            // Read slowly enough for all of it to happen under way.
            let up = scope.spawn(|| backend.expect_pattern(Pattern(1), BYTES / 2));
            client.expect_pattern(Pattern(2), BYTES / 2);
            up.join().expect("the right bytes");
            ONCE.iter().for_each(|once| once.upgrade(path.isobar));
            let up = scope.spawn(|| backend.read_rest_of_pattern(Pattern(1)));
            assert_eq!(client.read_rest_of_pattern(Pattern(2)), (BYTES, End::Fin));
            assert_eq!(up.join().expect("the right bytes"), (BYTES, End::Fin));
        });
    });
}

#[test]
fn what_is_in_hand_while_nobody_reads_moves_along() {
    static ONCE: Once = Once::new();
    on_every_path(|path| {
        let (client, backend) = path.open();
        let up = client.fill(Pattern(1), u64::MAX, support::STALL);
        let down = backend.fill(Pattern(2), u64::MAX, support::STALL);
        ONCE.upgrade(path.isobar);
        client.fin();
        backend.fin();
        let reader = std::thread::scope(|scope| {
            let reader = scope.spawn(|| backend.read_pattern_to_end(Pattern(1)));
            assert_eq!(client.read_pattern_to_end(Pattern(2)), (down, End::Fin));
            reader.join().expect("the right bytes")
        });
        assert_eq!(reader, (up, End::Fin));
    });
}

#[test]
fn a_half_closed_connection_moves_and_its_other_half_goes_on() {
    static ONCE: Once = Once::new();
    on_every_path(|path| {
        let (client, backend) = path.open();
        let (late_client, late_backend) = path.open();
        client.write("question");
        client.fin();
        backend.expect("question");
        backend.expect_fin();
        late_backend.write("first");
        late_backend.fin();
        late_client.expect("first");
        late_client.expect_fin();
        ONCE.upgrade(path.isobar);
        backend.write("answer");
        backend.fin();
        client.expect("answer");
        client.expect_fin();
        late_client.write("last");
        late_client.fin();
        late_backend.expect("last");
        late_backend.expect_fin();
        path.wait_ended("client_closed", 1);
        path.wait_ended("backend_closed", 1);
    });
}

#[test]
fn a_reset_is_passed_on_after_an_upgrade_as_before() {
    static ONCE: Once = Once::new();
    on_every_path(|path| {
        let (client, backend) = path.open();
        let (other_client, other_backend) = path.open();
        client.write("a");
        backend.expect("a");
        ONCE.upgrade(path.isobar);
        client.write("b");
        backend.expect("b");
        client.reset();
        backend.expect_reset();
        other_backend.write("c");
        other_client.expect("c");
        other_backend.reset();
        other_client.expect_reset();
    });
}

/// Connects and talks without a pause; none may fail.
fn visit_on_and_on(isobar: &Isobar, stop: &AtomicBool) -> u64 {
    let mut visits = 0;
    while !stop.load(SeqCst) {
        let client = isobar.connect("web");
        client.write("ping");
        client.expect("ping");
        leave(&client);
        visits += 1;
    }
    visits
}

/// The counts of `/stats` that must never go back.
fn totals(stats: &Value) -> Vec<(String, u64)> {
    let mut totals = Vec::new();
    collect("", stats, &mut totals);
    totals
}

fn collect(path: &str, value: &Value, totals: &mut Vec<(String, u64)>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{key}");
        let grows = ["total", "bytes_in", "bytes_out", "held_total", "count"];
        let counts = grows.contains(&&**key) || path.contains("/ended/");
        if let Some(count) = value.as_u64().filter(|_| counts) {
            totals.push((path.clone(), count));
        }
        collect(&path, value, totals);
    }
}

#[track_caller]
fn assert_grown(before: &[(String, u64)], after: &[(String, u64)]) {
    for ((name, old), (same, new)) in before.iter().zip(after) {
        assert_eq!(name, same);
        assert!(new >= old, "{name} went from {old} back to {new}");
    }
}

/// 1. Idle clients, streams both ways, and clients who come and go.
/// 2. Twenty upgrades in a row: each old process is soon gone.
/// 3. Nobody was refused or cut, every byte is right, no count went back, no socket was bound
///    anew, nothing is left open.
#[test]
fn twenty_upgrades_in_a_row_under_load_are_seen_by_nobody() {
    const UPGRADES: usize = 20;
    const IDLE: usize = 150;
    const STREAMS: usize = 6;
    let backend = Backend::echo(Family::Ipv4);
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let listening = inode(isobar.address("web"));
    let admin = inode(isobar.admin());
    let idle: Vec<_> = (0..IDLE).map(|_| isobar.connect("web")).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| visit_on_and_on(&isobar, &stop)))
            .collect();
        let streams: Vec<_> = (0..STREAMS)
            .map(|n| {
                scope.spawn({
                    let (isobar, stop) = (&isobar, &stop);
                    move || stream_on_and_on(isobar, n, stop)
                })
            })
            .collect();
        // Whatever fails, the others must end.
        let _stop = StopOnDrop(&stop);
        // Who is still on the way to the backend does not move.
        wait_until("all who stay have their backend", || {
            let relaying = isobar.get("/connections?state=relaying&limit=1").json();
            relaying["total"].as_u64() >= Some((IDLE + STREAMS) as u64)
        });
        let mut before = totals(&isobar.stats());
        for n in 0..UPGRADES {
            let began = Instant::now();
            let answer = isobar.upgrade();
            let took = began.elapsed();
            assert!(took < support::scaled(Duration::from_secs(10)), "{took:?}");
            let moved = answer["moved"].as_u64().expect("a count");
            assert!(moved >= (IDLE + STREAMS) as u64, "{answer}");
            let after = totals(&isobar.stats());
            assert_grown(&before, &after);
            before = after;
            let some = &idle[n * IDLE / UPGRADES..];
            some.iter().for_each(|client| client.write("still"));
            some.iter().for_each(|client| client.expect("still"));
        }
        stop.store(true, SeqCst);
        for visitor in visitors {
            assert!(visitor.join().expect("no visit failed") > 0);
        }
        for stream in streams {
            assert!(stream.join().expect("every byte is right") > 0);
        }
    });
    assert_eq!(inode(isobar.address("web")), listening);
    assert_eq!(inode(isobar.admin()), admin);
    idle.iter().for_each(leave);
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Sends without a pause, and reads it back at the same time.
fn stream_on_and_on(isobar: &Isobar, n: usize, stop: &AtomicBool) -> u64 {
    const PART: u64 = 256 << 10;
    let client = isobar.connect("web");
    let pattern = Pattern(n + 1);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| client.read_pattern_to_end(pattern));
        let mut sent = 0;
        while !stop.load(SeqCst) {
            client
                .try_write_range(pattern, sent, sent + PART)
                .expect("a stream goes on");
            sent += PART;
        }
        client.fin();
        assert_eq!(reader.join().expect("the right bytes"), (sent, End::Fin));
        sent
    })
}

#[test]
fn ages_counts_and_what_is_logged_of_a_connection_move_along() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = isobar.connect("web");
    client.write("before");
    client.expect("before");
    let local = client.local().expect("an address");
    let shown = |isobar: &Isobar| isobar.get("/connections").json()["connections"][0].clone();
    let before = shown(&isobar);
    wait_until("some time passed", || {
        shown(&isobar)["age_seconds"].as_f64() > Some(0.3)
    });
    isobar.upgrade();
    let after = shown(&isobar);
    for key in [
        "id", "listener", "client", "pool", "backend", "state", "bytes_in",
    ] {
        assert_eq!(after[key], before[key], "{key}");
    }
    assert!(after["age_seconds"].as_f64() > Some(0.3), "{after}");
    assert!(after["idle_seconds"].as_f64() > Some(0.2), "{after}");
    client.write("after");
    client.expect("after");
    let next = isobar.connect("web");
    next.write("x");
    next.expect("x");
    let ids = isobar.get("/connections").json();
    assert_ne!(ids["connections"][0]["id"], ids["connections"][1]["id"]);
    leave(&client);
    leave(&next);
    let line = isobar.wait_access(local);
    assert_eq!(line.text("ended"), Some("client_closed"));
    assert_eq!(line.text("pick"), Some("rr"));
    let fields = line.fields();
    assert_eq!(
        (&fields["bytes_in"], &fields["attempts"]),
        (&11.into(), &1.into())
    );
    assert!(fields["duration_ms"].as_f64() > Some(300.0), "{}", line.raw);
    assert!(fields["first_byte_ms"].as_f64().is_some(), "{}", line.raw);
    assert_eq!(isobar.count("/listeners/web/connections/total"), 2);
}

/// 1. A backend takes three at a time; there are more clients than that, all the time.
/// 2. Upgrades come while clients hold slots and others wait for one.
/// 3. The backend never had a fourth connection.
#[test]
fn a_limit_of_a_backend_holds_over_both_processes() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    static MOST: AtomicU64 = AtomicU64::new(0);
    let backend = Backend::serving(Family::Ipv4, "b1", |stream| {
        MOST.fetch_max(NOW.fetch_add(1, SeqCst) + 1, SeqCst);
        let mut byte = [0];
        let _ = stream.read(&mut byte);
        // Long enough for others to queue up, and to be seen by an upgrade.
        std::thread::sleep(Duration::from_millis(15));
        NOW.fetch_sub(1, SeqCst);
        let _ = stream.try_write(byte);
        let _ = stream.read(&mut byte);
    });
    let entry = backend.entry_with("max_connections = 3");
    let isobar = Isobar::start(&web("", &[entry]));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut served = 0;
                    while !stop.load(SeqCst) {
                        let client = isobar.connect("web");
                        client.write("x");
                        client.expect("x");
                        leave(&client);
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        let _stop = StopOnDrop(&stop);
        for _ in 0..6 {
            isobar.wait_count("/pools/web/backends/b1/connections/active", 3);
            let (_, mut old) = isobar.upgrade_leaving_some();
            assert!(old.wait().success());
            wait_until("one generation was left", || {
                isobar.stat("/generations").as_array().map(Vec::len) == Some(1)
            });
        }
        stop.store(true, SeqCst);
        let served: u32 = clients
            .into_iter()
            .map(|client| client.join().expect("nobody was refused"))
            .sum();
        assert!(served > 0);
    });
    assert_eq!(MOST.load(SeqCst), 3);
}

#[test]
fn runtime_changes_and_what_checks_know_survive_an_upgrade() {
    let (b1, b2, b3) = (
        Backend::named("b1"),
        Backend::refusing("b2"),
        Backend::named("b3"),
    );
    let health = "[pool.web.health]\ninterval = \"1h\"\nfast_interval = \"20ms\"\nfall = 1\n";
    let isobar = Isobar::start(&web(health, &[b1.entry(), b2.entry()]));
    isobar.wait_state("web", "b1", "up");
    isobar.wait_state("web", "b2", "down");
    isobar.set("web/b1", "{\"state\": \"drain\", \"weight\": 7}");
    let added = format!("{{\"name\": \"b3\", \"address\": \"{}\"}}", b3.address());
    isobar.tell("POST", "/pools/web/backends", &added);
    isobar.wait_state("web", "b3", "up");
    let of = |isobar: &Isobar| {
        let stats = isobar.stats();
        let pool = &stats["pools"]["web"];
        let of = |name: &str| {
            let backend = &pool["backends"][name];
            let health = &backend["health"];
            [
                backend["state"].clone(),
                backend["admin"].clone(),
                backend["weight"].clone(),
                health["since"].clone(),
                health["transitions"].clone(),
                health["history"].clone(),
            ]
        };
        (stats["overrides"].clone(), [of("b1"), of("b2"), of("b3")])
    };
    let before = of(&isobar);
    isobar.upgrade();
    assert_eq!(of(&isobar), before);
    assert_eq!(isobar.visit("web"), "b3");
    isobar.set("web/b1", "{\"state\": \"ready\"}");
    isobar.wait_state("web", "b1", "up");
}

#[test]
fn the_signal_upgrades_as_the_order_does_and_says_so() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = isobar.connect("web");
    client.write("a");
    client.expect("a");
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).expect("a process may adopt");
    isobar.signal(Signal::USR2);
    let line = isobar.log().wait("the upgrade", |line| {
        line.message() == "upgraded: another process serves now"
    });
    let pid = line.fields()["pid"].as_u64().expect("a process id");
    let mut old = isobar.follow(u32::try_from(pid).expect("a process id"));
    assert!(old.wait().success());
    client.write("b");
    client.expect("b");
    leave(&client);
}

#[test]
fn the_command_says_what_came_of_it() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = isobar.connect("web");
    client.write("a");
    client.expect("a");
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).expect("a process may adopt");
    let admin = format!("http://{}", isobar.admin());
    let command = Launch::new("");
    let exit = command.run_to_exit(&["upgrade", "--admin", &admin]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(
        exit.stdout.contains("1 connections moved"),
        "{}",
        exit.stdout
    );
    let pid = isobar.count("/pid");
    let mut old = isobar.follow(u32::try_from(pid).expect("a process id"));
    assert!(old.wait().success());
    leave(&client);
}

#[test]
fn the_file_of_a_unix_socket_goes_with_the_last_process() {
    let backend = Backend::echo(Family::Ipv4);
    let text = web("", &[backend.entry()]).replace("127.0.0.1:0", "unix:$DIR/web.sock");
    let mut isobar = Isobar::start(&format!("[admin]\nbind = \"unix:$DIR/admin.sock\"\n{text}"));
    let client = isobar.connect("web");
    for _ in 0..2 {
        isobar.upgrade();
        client.write("on");
        client.expect("on");
        let next = isobar.connect("web");
        next.write("new");
        next.expect("new");
        leave(&next);
    }
    leave(&client);
    isobar.check_invariants();
    let files = [
        isobar.dir().join("web.sock"),
        isobar.dir().join("admin.sock"),
    ];
    assert!(files.iter().all(|file| file.exists()));
    isobar.stop();
    assert!(!files.iter().any(|file| file.exists()));
}

/// 1. The file of the new process has one listener less and one more.
/// 2. Who came through the one that is gone finishes in the old process; nobody is refused who
///    was in its queue.
/// 3. The new one is bound.
#[test]
fn listeners_come_and_go_with_the_file_of_the_new_process() {
    let backend = Backend::echo(Family::Ipv4);
    let text = web("", &[backend.entry()]);
    let old_listener = "[listener.old]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n";
    let mut isobar = Isobar::start(&format!("{old_listener}{text}"));
    let client = isobar.connect("old");
    client.write("a");
    client.expect("a");
    let file = isobar.dir().join("lb.toml");
    let started_with = std::fs::read_to_string(&file).expect("the file");
    let new_listener = "[listener.new]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n";
    let changed = started_with.replace(old_listener, new_listener);
    std::fs::write(&file, changed).expect("the file");
    let (answer, mut old) = isobar.upgrade_leaving_some();
    assert_eq!(answer["remaining"], 1);
    let new: SocketAddr = isobar
        .stat("/listeners/new/addresses/0")
        .as_str()
        .expect("an address")
        .parse()
        .expect("an address");
    let visitor = isobar.connect_to(&new.into());
    visitor.write("b");
    visitor.expect("b");
    leave(&visitor);
    client.write("c");
    client.expect("c");
    leave(&client);
    assert!(old.wait().success());
    assert!(isobar.try_connect(None, isobar.address("old")).is_err());
    // What the old listener counted is gone with it, so that the counts do not add up.
    assert!(isobar.stop().success());
}

#[test]
fn signals_that_come_at_once_are_one_upgrade() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = isobar.connect("web");
    client.write("a");
    client.expect("a");
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).expect("a process may adopt");
    (0..3).for_each(|_| isobar.signal(Signal::USR2));
    let upgraded = |line: &support::Line| line.message() == "upgraded: another process serves now";
    let line = isobar.log().wait("the upgrade", upgraded);
    let pid = line.fields()["pid"].as_u64().expect("a process id");
    let mut old = isobar.follow(u32::try_from(pid).expect("a process id"));
    assert!(old.wait().success());
    client.write("b");
    client.expect("b");
    assert_eq!(isobar.count("/pid"), pid);
    let lines = isobar.log().lines();
    assert_eq!(lines.iter().filter(|line| upgraded(line)).count(), 1);
    leave(&client);
}

//! After a scale-up a pool is evened at quiet moments, and nobody is cut in the middle.

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    Backend, Exit, Family, Isobar, Launch, Pattern, STALL, Stream, auto_finds_bulk,
    on_every_path_with, wait_for, wait_until, web,
};

const LEAST: &str = "balance = \"least-connections\"\nquiet = \"200ms\"\n";

/// Answers each line with its name.
fn answering(name: &str) -> Backend {
    let line = format!("{name}\n");
    Backend::serving(Family::Ipv4, name, move |stream| {
        while stream.try_read_line().is_ok() {
            if stream.try_write(&line).is_err() {
                break;
            }
        }
    })
}

fn started(settings: &str, backends: &[Backend]) -> Isobar {
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let mut isobar = Isobar::start(&web(settings, &entries));
    // What is in flight when a connection is reset is counted by one side alone.
    isobar.skip_byte_check();
    isobar
}

#[track_caller]
fn add(isobar: &Isobar, backend: &Backend) {
    let table = json!({"name": backend.name(), "address": backend.address().to_string()});
    isobar.tell("POST", "/pools/web/backends", &table.to_string());
}

#[track_caller]
fn rebalance(isobar: &Isobar, order: &Value) -> Value {
    isobar.tell("POST", "/pools/web/rebalance", &order.to_string())
}

#[track_caller]
fn last(isobar: &Isobar) -> Value {
    wait_for("the rebalance ended", || {
        let shown = isobar.get("/pools/web/rebalance").json();
        (!shown["last"].is_null()).then(|| shown["last"].clone())
    })
}

fn active(isobar: &Isobar, name: &str) -> u64 {
    isobar.count(&format!("/pools/web/backends/{name}/connections/active"))
}

/// Asks, and gets the whole answer.
#[track_caller]
fn talk(client: &Stream) -> String {
    client.write("hello\n");
    client.read_line()
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// Clients that stay, each on a thread of its own, and redial when they are reset.
#[derive(Default)]
struct Faithful {
    over: AtomicBool,
    redials: AtomicUsize,
    /// When each was reset.
    resets: Mutex<Vec<Instant>>,
}

impl Faithful {
    /// One client, from its first request to the end of the test.
    #[track_caller]
    fn stay(&self, dial: impl Fn() -> Stream) {
        let mut client = dial();
        let mut name = talk(&client);
        while !self.over.load(SeqCst) {
            if client.is_silent_for(Duration::from_millis(20)) {
                continue;
            }
            client.expect_reset();
            self.resets.lock().expect("no panic").push(Instant::now());
            client = dial();
            name = talk(&client);
            self.redials.fetch_add(1, SeqCst);
        }
        assert_eq!(talk(&client), name, "it is where it was");
        leave(&client);
    }

    /// Runs `test` while `n` of them stay, the n-th of which dials so.
    fn while_they_stay(
        &self,
        n: usize,
        dial: impl Fn(usize) -> Stream + Sync,
        test: impl FnOnce(),
    ) {
        std::thread::scope(|scope| {
            for i in 0..n {
                let dial = &dial;
                scope.spawn(move || self.stay(|| dial(i)));
            }
            // Where it panics they end too, and the case fails.
            let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
            self.over.store(true, SeqCst);
            tested.expect("what was tested holds");
        });
    }
}

#[test]
fn a_backend_that_was_added_gets_its_share_and_no_more_are_closed_than_need_be() {
    let backends = ["b1", "b2"].map(answering);
    let third = answering("b3");
    let isobar = started(LEAST, &backends);
    let clients = Faithful::default();
    clients.while_they_stay(
        40,
        |_| isobar.connect("web"),
        || {
            isobar.wait_count("/pools/web/connections/active", 40);
            wait_until("all have been answered", || {
                isobar.count("/pools/web/backends/b1/bytes_out") >= 60
                    && isobar.count("/pools/web/backends/b2/bytes_out") >= 60
            });
            add(&isobar, &third);
            let dry = rebalance(&isobar, &json!({"dry_run": true}));
            assert_eq!(dry["closing"], 12, "{dry}");
            assert_eq!(dry["imbalance"]["before"], 1.0);
            assert!(dry["imbalance"]["after"].as_f64() <= Some(0.1001), "{dry}");
            assert_eq!(dry["backends"]["b3"]["after"], 12);
            let named = dry["connections"].as_array().expect("a list");
            assert_eq!(named.len(), 12);
            let shown = isobar.get("/pools/web/rebalance").json();
            assert_eq!(
                shown,
                json!({"pool": "web", "rebalancing": null, "last": null})
            );
            assert_eq!(
                isobar.ended("web", "rebalanced"),
                0,
                "a dry run closes nothing"
            );
            // The same again, and for real.
            let real = rebalance(&isobar, &json!({"rate": "100/s"}));
            for same in ["closing", "imbalance", "backends"] {
                assert_eq!(real[same], dry[same]);
            }
            let end = last(&isobar);
            assert_eq!(
                (&end["outcome"], &end["closed"]),
                (&json!("done"), &json!(12))
            );
            isobar.wait_ended("web", "rebalanced", 12);
            wait_until("all have redialled", || clients.redials.load(SeqCst) == 12);
            let counts = ["b1", "b2", "b3"].map(|name| active(&isobar, name));
            assert_eq!(counts, [14, 14, 12]);
            assert_eq!(isobar.stat("/pools/web/rebalancing"), Value::Null);
            // Even already.
            let again = rebalance(&isobar, &json!({"rate": "100/s"}));
            assert_eq!(again["closing"], 0);
            assert_eq!(last(&isobar)["outcome"], "done");
            assert_eq!(isobar.ended("web", "rebalanced"), 12);
        },
    );
    let lines = isobar.access_lines();
    let rebalanced = lines.iter().filter(|line| line.says("ended", "rebalanced"));
    assert_eq!(rebalanced.count(), 12);
    let audit = |line: &&support::Line| {
        line.says("target", "isobar::audit") && line.says("what", "rebalance")
    };
    assert_eq!(isobar.log().lines().iter().filter(audit).count(), 2);
}

/// Who waits for an answer, who is busy, who takes nothing, who has sent FIN, and who has said
/// nothing yet. The rest is closed; who waited is closed only once the answer was quiet.
#[test]
fn nobody_is_cut_in_the_middle_of_something() {
    const BUSY: usize = 4;
    const WAITING: usize = 4;
    const UNREAD: u64 = 1 << 20;
    let b1 = Backend::manual_as("b1");
    let b2 = answering("b2");
    let isobar = started(
        "balance = \"least-connections\"\nquiet = \"1s\"\n",
        &[Backend::manual_as("unused")],
    );
    isobar.tell("DELETE", "/pools/web/backends/unused", "");
    add(&isobar, &b1);
    let pair = || (isobar.connect("web"), b1.accept());
    let exchanged = || {
        let (client, server) = pair();
        client.write("q");
        server.expect("q");
        server.write("a");
        client.expect("a");
        (client, server)
    };
    let quiet: Vec<_> = (0..3).map(|_| exchanged()).collect();
    let waiting: Vec<_> = (0..WAITING).map(|_| exchanged()).collect();
    for (client, server) in &waiting {
        client.write("slow?");
        server.expect("slow?");
    }
    let silent = pair();
    let half_closed = exchanged();
    half_closed.0.fin();
    half_closed.1.expect_fin();
    let stalled = pair();
    stalled.0.write("much?");
    stalled.1.expect("much?");
    let much = stalled
        .1
        .fill(Pattern(1), 64 << 20, Duration::from_millis(300));
    // All of it has left the hands of isobar, and the client's kernel has no room for it.
    let unread = exchanged();
    let held = if auto_finds_bulk() {
        unread.1.write_pattern(Pattern(2), UNREAD);
        unread.1.wait_acknowledged();
        UNREAD
    } else {
        // Sockets that hold this little have no such moment.
        unread
            .1
            .fill(Pattern(2), 64 << 20, Duration::from_millis(300))
    };
    let busy: Vec<_> = (0..BUSY).map(|_| exchanged()).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (client, server) in &busy {
            let over = &over;
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    client.write("q");
                    server.expect("q");
                    server.write("a");
                    client.expect("a");
                    std::thread::sleep(Duration::from_millis(10));
                }
                client.fin();
                server.expect_fin();
                server.fin();
                client.expect_fin();
            });
        }
        let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            add(&isobar, &b2);
            let plan = rebalance(&isobar, &json!({"target": "0%", "rate": "1000/s"}));
            // Half of 15, rounded.
            assert_eq!(plan["closing"], 7, "{plan}");
            for (client, server) in &quiet {
                client.expect_reset();
                server.expect_reset();
            }
            // Several turns later all others are there, and it still goes on.
            wait_until("it looked again", || {
                let shown = isobar.stat("/pools/web/rebalancing");
                shown["closed"] == 3 && shown["planned"] == 7
            });
            let several_turns = Duration::from_millis(2500);
            assert!(silent.0.is_silent_for(several_turns));
            assert_eq!(isobar.ended("web", "rebalanced"), 3);
            // The answer comes at last, in two parts, and whole.
            for (client, server) in &waiting {
                server.write("an ");
                client.expect("an ");
                server.write("answer");
                client.expect("answer");
            }
            for (client, server) in &waiting {
                client.expect_reset();
                server.expect_reset();
            }
            let end = last(&isobar);
            assert_eq!(
                (&end["outcome"], &end["closed"]),
                (&json!("done"), &json!(7))
            );
            isobar.wait_ended("web", "rebalanced", 7);
        }));
        over.store(true, SeqCst);
        tested.expect("what was tested holds");
    });
    // Everything that was on its way arrives.
    stalled.1.fin();
    let (got, _) = stalled.0.read_pattern_to_end(Pattern(1));
    assert_eq!(got, much);
    stalled.0.fin();
    unread.0.expect_pattern(Pattern(2), held);
    unread.1.fin();
    unread.0.fin();
    unread.0.expect_fin();
    half_closed.1.write("late");
    half_closed.1.fin();
    assert_eq!(half_closed.0.read_to_end().0, b"late");
    silent.0.write("now");
    silent.1.expect("now");
    silent.0.fin();
    silent.1.fin();
    silent.0.expect_fin();
}

/// Whoever was about to be quiet, and so was asked to leave, may think better of it.
#[test]
fn a_client_that_asks_again_in_time_gets_its_answer() {
    let (b1, b2) = (Backend::manual_as("b1"), Backend::manual_as("b2"));
    let entries = [b1.entry()];
    let settings = "balance = \"least-connections\"\nquiet = \"1s\"\n";
    let mut isobar = Isobar::start(&web(settings, &entries));
    isobar.skip_byte_check();
    let pairs = [0, 1].map(|_| (isobar.connect("web"), b1.accept()));
    add(&isobar, &b2);
    for (client, server) in &pairs {
        client.write("q");
        server.expect("q");
        server.write("a");
        client.expect("a");
    }
    let plan = rebalance(&isobar, &json!({"target": "0%", "rate": "1000/s"}));
    assert_eq!(plan["closing"], 1, "{plan}");
    assert_eq!(plan["connections"][0]["quiet"], false, "{plan}");
    for (client, server) in &pairs {
        client.write("slow?");
        server.expect("slow?");
    }
    let longer_than_any_wish = Duration::from_millis(3500);
    assert!(pairs[0].0.is_silent_for(longer_than_any_wish));
    for (client, server) in &pairs {
        server.write("answer");
        client.expect("answer");
    }
    isobar.wait_ended("web", "rebalanced", 1);
    assert_eq!(last(&isobar)["closed"], 1);
    let left = pairs
        .iter()
        .filter(|(client, _)| client.is_silent_for(Duration::ZERO));
    assert_eq!(left.count(), 1);
}

/// Small answers and bulk, whoever moves the bytes: the whole of it is delivered before the end.
#[test]
fn a_quiet_connection_ends_with_everything_delivered_on_every_path() {
    const BULK: u64 = 3 << 20;
    let settings = "balance = \"least-connections\"\nquiet = \"100ms\"";
    on_every_path_with(settings, |path| {
        let second = Backend::manual_as("second");
        // The oldest of all, and it looks quiet: but its client does not read.
        let stalled = path.open();
        let much = stalled.1.fill(Pattern(1), 64 << 20, STALL);
        let pairs = [path.open(), path.open()];
        for (client, server) in &pairs {
            client.write("q");
            server.expect("q");
        }
        let table = json!({"name": "second", "address": second.address().to_string()});
        let pool = format!("/pools/{}", path.name);
        path.isobar
            .tell("POST", &format!("{pool}/backends"), &table.to_string());
        let order = json!({"target": "0%", "rate": "100/s"}).to_string();
        let plan = path
            .isobar
            .tell("POST", &format!("{pool}/rebalance"), &order);
        assert_eq!(plan["closing"], 1, "{}", path.name);
        // Both are asked: the one that is answered first goes, and the other one stays.
        let (client, server) = &pairs[0];
        std::thread::scope(|scope| {
            scope.spawn(|| server.write_pattern(Pattern(3), BULK));
            client.expect_pattern(Pattern(3), BULK);
        });
        client.assert_is_reset(client.end());
        server.assert_is_reset(server.end());
        path.wait_ended("rebalanced", 1);
        let (got, _) = std::thread::scope(|scope| {
            scope.spawn(|| stalled.1.fin());
            stalled.0.read_pattern_to_end(Pattern(1))
        });
        assert_eq!(got, much, "{}", path.name);
        stalled.0.fin();
        let (client, server) = &pairs[1];
        server.write("a");
        client.expect("a");
        client.fin();
        server.expect_fin();
        server.fin();
        client.expect_fin();
    });
}

/// The first half has been silent for longest, the second half is older.
#[test]
fn the_oldest_go_first_or_those_that_are_silent_longest_and_no_faster_than_the_rate() {
    for idle_first in [false, true] {
        let backends = [answering("b1")];
        let second = answering("b2");
        let isobar = started(LEAST, &backends);
        let idle = |time: &str, n: usize| {
            wait_until(&format!("{n} have been idle for {time}"), || {
                let found = isobar.get(&format!("/connections?idle={time}")).json();
                found["total"] == n
            });
        };
        // Cores do not accept in the order of their clients: the younger half comes later.
        let mut all: Vec<_> = (0..8).map(|_| isobar.connect("web")).collect();
        idle("20ms", 8);
        all.extend((0..8).map(|_| isobar.connect("web")));
        for half in [&all[8..], &all[..8]] {
            for client in half {
                assert_eq!(talk(client), "b1");
            }
            idle("20ms", 16);
        }
        idle("200ms", 16);
        add(&isobar, &second);
        let order = json!({"target": "0%", "rate": "10/s", "idle_first": idle_first});
        let begun = Instant::now();
        let plan = rebalance(&isobar, &order);
        assert_eq!(plan["closing"], 8);
        let (go, stay) = match idle_first {
            true => (&all[8..], &all[..8]),
            false => (&all[..8], &all[8..]),
        };
        for client in go {
            client.expect_reset();
        }
        // The first goes at once, each other one a tenth of a second after another.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(600), "{took:?}");
        assert_eq!(last(&isobar)["closed"], 8);
        for client in stay {
            assert_eq!(talk(client), "b1");
            leave(client);
        }
    }
}

#[test]
fn with_consistent_hash_only_those_move_whose_key_maps_elsewhere() {
    let backends = ["b1", "b2"].map(answering);
    let third = answering("b3");
    let isobar = started(
        "balance = \"consistent-hash\"\nquiet = \"100ms\"\n",
        &backends,
    );
    let from =
        |i: usize| isobar.connect_from(&format!("127.0.{}.{}", 1 + i / 200, 1 + i % 200), "web");
    let all: Vec<_> = (0..60)
        .map(from)
        .map(|client| (talk(&client), client))
        .collect();
    add(&isobar, &third);
    let plan = rebalance(
        &isobar,
        &json!({"target": "0%", "rate": "1000/s", "dry_run": true}),
    );
    let closing = plan["closing"].as_u64().expect("a count");
    assert!(closing > 0, "{plan}");
    let plan = rebalance(&isobar, &json!({"target": "0%", "rate": "1000/s"}));
    assert_eq!(plan["closing"], closing);
    let end = last(&isobar);
    assert_eq!(
        (&end["outcome"], &end["closed"]),
        (&json!("done"), &json!(closing))
    );
    isobar.wait_ended("web", "rebalanced", closing);
    let mut moved = 0;
    for (i, (name, client)) in all.iter().enumerate() {
        let probe = from(i);
        let home = talk(&probe);
        leave(&probe);
        if client.is_silent_for(Duration::ZERO) {
            assert_eq!(&talk(client), name);
            leave(client);
            continue;
        }
        client.expect_reset();
        assert_eq!(home, "b3", "client {i} was with {name}");
        moved += 1;
    }
    assert_eq!(moved, closing);
}

#[test]
fn it_can_be_stopped_and_replaced_and_goes_on_only_where_clients_can_come_back() {
    let backends = [answering("b1")];
    let second = answering("b2");
    let mut isobar = started(LEAST, &backends);
    let all: Vec<_> = (0..4).map(|_| isobar.connect("web")).collect();
    all.iter().for_each(|client| drop(talk(client)));
    add(&isobar, &second);
    let path = "/pools/web/rebalance";
    for (order, status) in [
        (r#"{"target": "5"}"#, 422),
        (r#"{"rate": "0/s"}"#, 422),
        (r#"{"idle": true}"#, 422),
        ("[]", 400),
    ] {
        assert_eq!(isobar.ask("POST", path, order).status, status, "{order}");
    }
    assert_eq!(isobar.ask("POST", "/pools/wbe/rebalance", "").status, 404);
    isobar.tell("POST", "/pools/web/pause", "");
    let refused = isobar.ask("POST", path, "");
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("paused"), "{}", refused.body);
    let dry = rebalance(&isobar, &json!({"dry_run": true, "target": "0%"}));
    assert_eq!(dry["closing"], 2);
    isobar.tell("POST", "/pools/web/resume", "");
    // Nobody else goes for an hour.
    rebalance(&isobar, &json!({"target": "0%", "rate": "1/h"}));
    isobar.wait_ended("web", "rebalanced", 1);
    let shown = isobar.stat("/pools/web/rebalancing");
    assert_eq!(
        (&shown["rate"], &shown["planned"]),
        (&json!("1/h"), &json!(2))
    );
    assert!(
        shown["by"].is_string() && shown["outcome"].is_null(),
        "{shown}"
    );
    isobar
        .log()
        .wait("an hour", |line| line.says("what", "rebalance"));
    rebalance(&isobar, &json!({"target": "100%", "rate": "1/h"}));
    isobar.log().wait("the first one's end", |line| {
        line.says("outcome", "replaced")
    });
    assert_eq!(last(&isobar)["outcome"], "done");
    // Three are left, two of which may stay: with no one redialling there is one to close.
    rebalance(&isobar, &json!({"target": "0%", "rate": "1/h"}));
    isobar.wait_ended("web", "rebalanced", 2);
    let stopped = isobar.tell("DELETE", path, "");
    assert_eq!(stopped["rebalancing"], Value::Null);
    assert_eq!(isobar.tell("DELETE", path, ""), stopped, "once is enough");
    let left = all
        .iter()
        .filter(|client| client.is_silent_for(Duration::ZERO));
    assert_eq!(left.count(), 2);
    // A stop does not wait for it.
    rebalance(&isobar, &json!({"target": "0%", "rate": "1/h"}));
    drop(all);
    assert_eq!(isobar.stop().code(), Some(0));
}

#[test]
fn the_command_says_what_it_does() {
    let backends = [answering("b1")];
    let second = answering("b2");
    let isobar = started(LEAST, &backends);
    let all: Vec<_> = (0..4).map(|_| isobar.connect("web")).collect();
    all.iter().for_each(|client| drop(talk(client)));
    add(&isobar, &second);
    let address = isobar.admin().to_string();
    let run = |args: &[&str]| -> Exit {
        let whole = [&["rebalance"], args, &["--admin", &address]].concat();
        Launch::new("").run_to_exit(&whole)
    };
    let dry = run(&["web", "--target", "0%", "--dry-run"]);
    assert_eq!((dry.code, &*dry.stderr), (Some(0), ""));
    let first = "web: 2 of 4 connections would be closed, imbalance 100% now, 0% once they have \
                 redialled\n";
    assert!(dry.stdout.starts_with(first), "{}", dry.stdout);
    assert!(dry.stdout.contains("CLIENT"), "{}", dry.stdout);
    let json = run(&["web", "--target", "0%", "--dry-run", "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["closing"], 2);
    assert_eq!(isobar.ended("web", "rebalanced"), 0);
    let done = run(&["web", "--target", "0%", "--rate", "50/s", "--wait"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(
        done.stdout.contains("web: rebalanced, 2 of 2 closed"),
        "{}",
        done.stdout
    );
    isobar.wait_ended("web", "rebalanced", 2);
    let stop = run(&["web", "--stop"]);
    assert!(
        stop.stdout.starts_with("web: rebalanced"),
        "{}",
        stop.stdout
    );
    assert_eq!(run(&["wbe"]).code, Some(1));
    for wrong in [
        &[][..],
        &["web", "--target", "5"],
        &["web", "--rate", "5"],
        &["web", "--stop", "--wait"],
        &["web", "--dry-run", "--wait"],
    ] {
        assert_eq!(run(wrong).code, Some(2), "{wrong:?}");
    }
}

//! Backends are drained, weighed, added and removed while traffic flows, and nobody notices.

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Backend, Family, Isobar, Pattern, Stream, patience, wait_until, web};

const FAST: &str = "[pool.web.health]\ninterval = \"100ms\"\nfast_interval = \"50ms\"\n";

fn three() -> [Backend; 3] {
    ["b1", "b2", "b3"].map(Backend::named)
}

fn started(settings: &str, backends: &[Backend]) -> Isobar {
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    Isobar::start(&web(settings, &entries))
}

/// Adds `backend` to pool `web`, by its name and with these further fields.
#[track_caller]
fn add(isobar: &Isobar, backend: &Backend, further: &Value) -> Value {
    let mut table = json!({"name": backend.name(), "address": backend.address().to_string()});
    let fields = table.as_object_mut().expect("an object");
    fields.extend(further.as_object().expect("an object").clone());
    isobar.tell("POST", "/pools/web/backends", &table.to_string())
}

#[track_caller]
fn remove(isobar: &Isobar, name: &str) -> Value {
    isobar.tell("DELETE", &format!("/pools/web/backends/{name}"), "")
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// Both sides close, of a connection that the test plays both ends of.
#[track_caller]
fn finish((client, server): &(Stream, Stream)) {
    client.fin();
    server.expect_fin();
    server.fin();
    client.expect_fin();
}

#[test]
fn a_drained_backend_keeps_what_it_has_and_gets_nothing_new() {
    let backends = three();
    let isobar = started("", &backends);
    let stays: Vec<_> = (0..3).map(|_| isobar.stay("web")).collect();
    let answer = isobar.set("web/b1", r#"{"state": "drain"}"#);
    assert_eq!(answer["state"], "draining");
    assert_eq!(answer["admin"], "drain");
    assert_eq!(answer["connections"]["active"], 1);
    assert_eq!(isobar.visits("web", 20).get("b1"), None);
    for (client, _) in &stays {
        assert!(client.is_silent_for(Duration::ZERO));
        leave(client);
    }
    isobar.wait_count("/pools/web/backends/b1/connections/active", 0);
    isobar.set("web/b1", r#"{"state": "ready"}"#);
    assert_eq!(isobar.visits("web", 30)["b1"], 10);
    assert_eq!(isobar.stat("/overrides"), json!([]));
}

/// Everything at once, over and over, while connections come and go and streams run.
#[test]
fn no_connection_is_lost_by_any_change() {
    const STREAMS: usize = 6;
    let backends = three();
    let echo = Backend::echo(Family::Ipv4);
    let named: Vec<_> = backends.iter().map(Backend::entry).collect();
    let text = web(FAST, &named)
        + "[listener.bulk]\nbind = \"127.0.0.1:0\"\npool = \"bulk\"\n"
        + &format!("[pool.bulk]\nbackends = [{}]\n", echo.entry());
    let mut isobar = Isobar::start(&text);
    isobar.skip_byte_check();
    backends
        .iter()
        .for_each(|b| isobar.wait_state("web", b.name(), "up"));
    let isobar = &isobar;
    let (over, visits) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for n in 0..STREAMS {
            scope.spawn(move || {
                let client = isobar.connect("bulk");
                let pattern = Pattern(n);
                let mut moved = 0;
                while !over.load(SeqCst) {
                    client
                        .try_write_range(pattern, moved, moved + 50_000)
                        .expect("it goes on");
                    let mut left = 50_000;
                    while left > 0 {
                        let part = client.read_exact(left.min(10_000));
                        assert_eq!(part, pattern.at(moved, part.len()));
                        moved += part.len() as u64;
                        left -= part.len();
                    }
                }
                leave(&client);
            });
        }
        for _ in 0..4 {
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    let name = isobar.visit("web");
                    assert!(name.starts_with('b'), "{name}");
                    visits.fetch_add(1, SeqCst);
                }
            });
        }
        let change = || {
            isobar.set("web/b1", r#"{"state": "drain"}"#);
            isobar.tell("POST", "/pools/bulk/pause", "");
            isobar.set("web/b2", r#"{"weight": 0}"#);
            isobar.tell("POST", "/pools/web/pause", r#"{"for": "20ms"}"#);
            isobar.set("web/b1", r#"{"state": "ready", "weight": 5}"#);
            isobar.set("web/b2", r#"{"state": "maintenance", "weight": 1}"#);
            remove(isobar, "b3");
            isobar.tell("POST", "/pools/web/pause", "");
            add(isobar, &backends[2], &json!({"weight": 2}));
            isobar.tell("POST", "/pools/web/resume", "");
            isobar.set("web/b2", r#"{"state": "ready"}"#);
            isobar.set("web/b1", r#"{"weight": 1}"#);
            isobar.tell("POST", "/pools/bulk/resume", "");
            isobar.set("bulk/echo", r#"{"state": "drain"}"#);
            isobar.set("bulk/echo", r#"{"state": "ready"}"#);
        };
        // Where one of them panics the others end too, and the case fails.
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..15).for_each(|_| change());
            let before = visits.load(SeqCst);
            wait_until("traffic flowed", || visits.load(SeqCst) > before + 20);
        }));
        over.store(true, SeqCst);
        changed.expect("every change is granted");
    });
    let total = isobar.count("/pools/web/connections/total");
    assert_eq!(total, visits.load(SeqCst) as u64);
    isobar.wait_ended("web", "client_closed", total);
    isobar.wait_ended("bulk", "client_closed", STREAMS as u64);
}

#[test]
fn what_is_left_after_the_drain_time_out_is_reset_on_both_sides() {
    let backends = [Backend::manual_as("b1"), Backend::manual_as("b2")];
    let isobar = started("drain_timeout = \"300ms\"", &backends);
    let client = isobar.connect("web");
    let server = backends[0].accept();
    let (other, at_other) = (isobar.connect("web"), backends[1].accept());
    let local = client.local().expect("an address");
    let begun = Instant::now();
    let answer = isobar.set("web/b1", r#"{"state": "drain"}"#);
    assert!(answer["leaving"]["until"].is_string(), "{answer}");
    client.expect_reset();
    assert!(begun.elapsed() >= Duration::from_millis(290), "too early");
    server.expect_reset();
    let line = isobar.wait_access(local);
    assert_eq!(line.text("ended"), Some("drain_timeout"));
    assert_eq!(isobar.count("/pools/web/backends/b1/leaving/reset"), 1);
    other.write("x");
    at_other.expect("x");
    // The same for one that is removed.
    remove(&isobar, "b2");
    other.expect_reset();
    at_other.expect_reset();
    isobar.wait_ended("web", "drain_timeout", 2);
}

#[test]
fn a_time_out_that_is_asked_for_wins_over_that_of_the_pool() {
    let backends = [Backend::manual_as("b1"), Backend::named("b2")];
    let isobar = started("drain_timeout = \"1h\"", &backends);
    let client = isobar.connect("web");
    let server = backends[0].accept();
    isobar.set("web/b1", r#"{"state": "maintenance", "timeout": "200ms"}"#);
    client.expect_reset();
    server.expect_reset();
    isobar.wait_ended("web", "drain_timeout", 1);
}

/// The new one of the name starts from zero, and the old one's end takes nothing from it.
#[test]
fn a_removed_backend_and_its_namesake_do_not_share_a_count() {
    let backends = [Backend::manual_as("b1"), Backend::manual_as("b2")];
    let isobar = started("balance = \"least-connections\"", &backends);
    let stay = |place: usize| (isobar.connect("web"), backends[place].accept());
    let old = [stay(0), stay(1)];
    let answer = remove(&isobar, "b1");
    assert_eq!(answer["state"], "removed");
    isobar.wait_state("web", "b1", "removed");
    assert_eq!(isobar.count("/pools/web/backends/b1/connections/active"), 1);
    old[0].0.write("still here");
    old[0].1.expect("still here");
    let again = add(&isobar, &backends[0], &json!({}));
    assert_eq!(again["connections"]["active"], 0);
    assert_eq!(
        isobar.stat("/overrides"),
        json!([]),
        "it is as in the file again"
    );
    let active = |name: &str| format!("/pools/web/backends/{name}/connections/active");
    let new = stay(0);
    assert_eq!(isobar.count(&active("b1")), 1);
    // The old ones end in whatever order; the counts of those who are there stay exact.
    finish(&old[0]);
    isobar.wait_count("/pools/web/connections/active", 2);
    assert_eq!(isobar.count(&active("b1")), 1);
    finish(&old[1]);
    isobar.wait_count(&active("b2"), 0);
    // One each: had the old one's end been taken from the new one, b1 would be preferred.
    let next = stay(1);
    assert_eq!(isobar.count(&active("b1")), 1);
    finish(&new);
    finish(&next);
}

#[test]
fn totals_of_a_pool_include_backends_that_were_removed() {
    let backends = three();
    let isobar = started("", &backends);
    isobar.visits("web", 9);
    isobar.wait_ended("web", "client_closed", 9);
    let before = isobar.stat("/pools/web");
    remove(&isobar, "b2");
    let after = isobar.stat("/pools/web");
    assert_eq!(
        after["backends"].get("b2"),
        None,
        "it had no connection left"
    );
    for field in ["bytes_in", "bytes_out", "connections", "ended"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(isobar.visits("web", 4).len(), 2);
}

#[test]
fn a_backend_that_is_added_is_checked_first_and_then_takes_its_share() {
    let backends = three();
    let mut isobar = started(FAST, &backends[..2]);
    isobar.skip_byte_check();
    isobar.wait_state("web", "b1", "up");
    isobar.wait_state("web", "b2", "up");
    let answer = add(&isobar, &backends[2], &json!({"weight": 2}));
    assert_eq!(answer["state"], "starting");
    isobar.wait_state("web", "b3", "up");
    assert_eq!(isobar.visits("web", 8)["b3"], 4);
    let entry = &isobar.stat("/overrides")[0];
    assert_eq!(entry["field"], "added");
    assert_eq!(entry["backend"], "b3");
    let dead = Backend::refusing("b4");
    add(&isobar, &dead, &json!({}));
    isobar.wait_state("web", "b4", "down");
    assert_eq!(isobar.visits("web", 8).get("b4"), None);
    remove(&isobar, "b4");
    assert_eq!(isobar.get("/readyz").status, 200);
}

#[test]
fn checks_stop_in_maintenance_and_begin_again_afterwards() {
    let backends = [Backend::named("b1"), Backend::named("b2")];
    let mut isobar = started(FAST, &backends);
    isobar.skip_byte_check();
    isobar.wait_state("web", "b1", "up");
    isobar.set("web/b1", r#"{"state": "maintenance"}"#);
    // One may have been under way.
    let checked = |name: &str| {
        let passed = [("backend", name), ("result", "passed")];
        isobar.metric("isobar_backend_health_checks_total", &passed)
    };
    let (mut before, mut other) = (checked("b1"), checked("b2"));
    wait_until("checks of the other went on without it", || {
        let (now, of_other) = (checked("b1"), checked("b2"));
        if now != before {
            (before, other) = (now, of_other);
        }
        of_other >= other + 5.0
    });
    backends[0].stop();
    isobar.set("web/b1", r#"{"state": "ready"}"#);
    isobar.wait_state("web", "b1", "down");
    backends[0].listen();
    isobar.wait_state("web", "b1", "up");
}

#[test]
fn a_client_that_is_held_gets_the_backend_that_is_added() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[]));
    let client = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    add(&isobar, &backend, &json!({}));
    assert_eq!(client.read_line(), "b1");
    leave(&client);
}

#[test]
fn connections_are_killed_by_id_and_by_filter_and_both_sides_see_a_reset() {
    let backend = Backend::manual(Family::Ipv4);
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = |source: &str| (isobar.connect_from(source, "web"), backend.accept());
    let all = [
        client("127.0.0.1"),
        client("127.0.0.2"),
        client("127.0.0.3"),
    ];
    let listed = isobar.get("/connections?client=127.0.0.2").json();
    let id = listed["connections"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let path = format!("/connections/{id}");
    let looked = isobar.tell("DELETE", &format!("{path}?dry_run=true"), "");
    assert_eq!(looked, json!({"matched": 1, "closed": 0}));
    for wrong in ["dry_run=yes", "dryrun=true", "pool=web"] {
        let refused = isobar.ask("DELETE", &format!("{path}?{wrong}"), "");
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.body);
    }
    all[1].0.write("still here");
    all[1].1.expect("still here");
    let killed = isobar.tell("DELETE", &path, "");
    assert_eq!(killed, json!({"matched": 1, "closed": 1}));
    all[1].0.expect_reset();
    all[1].1.expect_reset();
    isobar.wait_ended("web", "killed", 1);
    assert_eq!(
        isobar
            .ask("DELETE", &format!("/connections/{id}"), "")
            .status,
        404
    );
    let dry = isobar.tell("DELETE", "/connections?pool=web&dry_run=true", "");
    assert_eq!(dry, json!({"matched": 2, "closed": 0}));
    let none = isobar.tell("DELETE", "/connections?older=1h&backend=manual", "");
    assert_eq!(none, json!({"matched": 0, "closed": 0}));
    all[0].0.write("alive");
    all[0].1.expect("alive");
    let some = isobar.tell(
        "DELETE",
        "/connections?client=127.0.0.3/32&state=relaying",
        "",
    );
    assert_eq!(some, json!({"matched": 1, "closed": 1}));
    all[2].0.expect_reset();
    let rest = isobar.tell("DELETE", "/connections?backend=manual", "");
    assert_eq!(rest, json!({"matched": 1, "closed": 1}));
    all[0].1.expect_reset();
    isobar.wait_ended("web", "killed", 3);
}

#[test]
fn held_clients_are_killed_too() {
    let isobar = Isobar::start(&web("", &[Backend::refusing("b1").entry()]));
    let client = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    let listed = isobar.get("/connections?state=held").json();
    assert_eq!(
        listed["connections"][0]["backend"],
        Value::Null,
        "it has none"
    );
    isobar.tell("DELETE", "/connections?state=held", "");
    client.expect_reset();
    isobar.wait_count("/pools/web/held", 0);
}

/// What is asked for and cannot be is refused under the right status, with a sentence, and
/// changes nothing.
#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let backends = three();
    let isobar = started("", &backends);
    let b1 = "/pools/web/backends/b1";
    let taken = json!({"name": "b1", "address": "127.0.0.1:1"}).to_string();
    let cases = [
        ("PUT", "/pools/nope/backends/b1", r#"{"weight": 1}"#, 404),
        ("PUT", "/pools/web/backends/b9", r#"{"weight": 1}"#, 404),
        ("PUT", b1, "", 400),
        ("PUT", b1, "{}", 400),
        ("PUT", b1, "{", 400),
        ("PUT", b1, "[]", 400),
        ("PUT", b1, r#"{"wieght": 1}"#, 422),
        ("PUT", b1, r#"{"weight": 1001}"#, 422),
        ("PUT", b1, r#"{"weight": -1}"#, 422),
        ("PUT", b1, r#"{"weight": 1.5}"#, 422),
        ("PUT", b1, r#"{"weight": "1"}"#, 422),
        ("PUT", b1, r#"{"state": "up"}"#, 422),
        ("PUT", b1, r#"{"state": "drain", "timeout": "5"}"#, 422),
        ("PUT", b1, r#"{"state": "ready", "timeout": "5s"}"#, 400),
        ("POST", "/pools/web/backends", &taken, 409),
        ("POST", "/pools/nope/backends", &taken, 404),
        ("POST", "/pools/web/backends", "", 400),
        ("POST", "/pools/web/backends", "{}", 422),
        ("POST", "/pools/web/backends", r#"{"address": "x"}"#, 422),
        ("DELETE", "/pools/web/backends/b9", "", 404),
        ("POST", "/pools/nope/pause", "", 404),
        ("POST", "/pools/web/pause", r#"{"for": "0s"}"#, 422),
        ("POST", "/pools/web/pause", r#"{"for": "soon"}"#, 422),
        ("POST", "/pools/web/pause", r#"{"until": "1s"}"#, 422),
        ("POST", "/pools/web/resume", r#"{"for": "1s"}"#, 422),
        ("DELETE", "/connections", "", 400),
        ("DELETE", "/connections?dry_run=true", "", 400),
        ("DELETE", "/connections?pool=", "", 400),
        ("DELETE", "/connections?nope=1", "", 400),
        ("DELETE", "/connections?pool=wbe", "", 404),
        ("DELETE", "/connections?pool=wbe&dry_run=true", "", 404),
        ("GET", "/connections?pool=wbe", "", 404),
        ("DELETE", "/connections/x", "", 404),
        ("POST", b1, "", 405),
        ("GET", "/pools/web/resume", "", 405),
        ("PUT", "/connections/1", "", 405),
    ];
    for (method, path, body, status) in cases {
        let refused = isobar.ask(method, path, body);
        assert_eq!(
            refused.status, status,
            "{method} {path} {body}: {}",
            refused.body
        );
        assert!(refused.json()["error"].is_string(), "{}", refused.body);
    }
    let never = isobar.ask("POST", "/pools/web/pause", "{\n \"for\": \"0s\"}");
    let problem = &never.json()["problems"][0];
    assert_eq!(problem["line"], 2, "{}", never.body);
    assert!(never.body.contains("without `for`"), "{}", never.body);
    assert_eq!(isobar.stat("/overrides"), json!([]));
    assert_eq!(isobar.visits("web", 3).len(), 3);
    let plain = "Content-Type: text/plain\r\n";
    let toml = "Content-Type: application/toml\r\n";
    for kind in [plain, toml, ""] {
        let refused = support::request(isobar.admin(), "PUT", b1, kind, r#"{"weight": 2}"#);
        assert_eq!(refused.status, 415, "{kind}");
    }
    let huge = format!("{{\"weight\": 1{}}}", " ".repeat(5 << 20));
    assert_eq!(isobar.ask("PUT", b1, &huge).status, 413);
}

/// A table that cannot be one is told as a file would be, with the place of each field.
#[test]
fn every_fault_of_a_table_is_told_with_its_place() {
    let isobar = Isobar::start(&web("", &[]));
    let body = "{\"address\": \"10.0.0.1\",\n  \"weigth\": 2,\n  \"weight\": 2000}";
    let refused = isobar.ask("POST", "/pools/web/backends", body);
    assert_eq!(refused.status, 422);
    let problems = refused.json()["problems"].clone();
    let problems = problems.as_array().expect("problems").clone();
    let place = |part: &str| {
        let mut all = problems.iter();
        let found = all.find(|p| p["message"].as_str().is_some_and(|m| m.contains(part)));
        let found = found.unwrap_or_else(|| panic!("no {part} in {problems:?}"));
        (found["line"].clone(), found["column"].clone())
    };
    assert_eq!(place("10.0.0.1"), (json!(1), json!(2)));
    assert_eq!(place("did you mean `weight`?"), (json!(2), json!(3)));
    assert_eq!(place("0 to 1000"), (json!(3), json!(3)));
}

#[test]
fn a_body_that_does_not_come_is_waited_for_ten_seconds() {
    use std::io::{Read, Write};
    let isobar = Isobar::start(&web("", &[Backend::named("b1").entry()]));
    let address = isobar.admin().to_string();
    let mut slow = std::net::TcpStream::connect(address).expect("it listens");
    slow.set_read_timeout(Some(patience())).expect("a time-out");
    let head = "PUT /pools/web/backends/b1 HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{";
    slow.write_all(head.as_bytes()).expect("it takes it");
    // Nobody else waits for it.
    assert_eq!(isobar.get("/healthz").status, 200);
    isobar.set("web/b1", r#"{"weight": 3}"#);
    let mut answer = String::new();
    let _ = slow.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    isobar.tell("DELETE", "/pools/web/backends/b1", "");
}

#[test]
fn every_change_is_listed_until_it_is_undone() {
    let backends = three();
    let isobar = started("", &backends);
    let fields = || -> HashSet<String> {
        let all = isobar.stat("/overrides");
        let all = all.as_array().expect("a list").clone();
        all.iter()
            .map(|o| format!("{} {}", o["backend"].as_str().unwrap_or("-"), o["field"]))
            .collect()
    };
    isobar.set("web/b1", r#"{"state": "drain", "weight": 7}"#);
    remove(&isobar, "b2");
    isobar.tell("POST", "/pools/web/pause", r#"{"for": "1h"}"#);
    let expected = [
        "b1 \"state\"",
        "b1 \"weight\"",
        "b2 \"removed\"",
        "- \"paused\"",
    ];
    assert_eq!(fields(), expected.map(str::to_owned).into());
    let entry = &isobar.stat("/overrides")[0];
    assert_eq!(entry["pool"], "web");
    let by = entry["by"].as_str().expect("who");
    assert!(by.starts_with("127.0.0.1:"), "{by}");
    isobar.tell("POST", "/pools/web/resume", "");
    isobar.set("web/b1", r#"{"state": "ready", "weight": 1}"#);
    add(&isobar, &backends[1], &json!({}));
    assert_eq!(fields(), HashSet::new());
}

#[test]
fn every_change_is_one_audit_line() {
    let backends = three();
    let isobar = started("", &backends);
    let client = isobar.stay("web");
    isobar.set("web/b1", r#"{"state": "drain", "weight": 4}"#);
    isobar.tell("POST", "/pools/web/pause", "");
    isobar.tell("POST", "/pools/web/resume", "");
    isobar.tell("DELETE", "/connections?backend=b1", "");
    isobar.tell("DELETE", "/connections?backend=b2&dry_run=true", "");
    remove(&isobar, "b1");
    add(&isobar, &backends[0], &json!({}));
    client.0.expect_reset();
    let audit = || -> Vec<_> {
        let lines = isobar.log().lines().into_iter();
        lines
            .filter(|line| line.says("target", "isobar::audit"))
            .collect()
    };
    wait_until("six lines were written", || audit().len() >= 6);
    let lines = audit();
    let told: Vec<_> = lines
        .iter()
        .map(|line| ["what", "backend", "before", "after"].map(|field| line.text(field)))
        .collect();
    let b1 = Some("b1");
    assert_eq!(
        told,
        [
            [
                Some("set"),
                b1,
                Some("state=ready weight=1"),
                Some("state=drain weight=4")
            ],
            [Some("pause"), None, Some("running"), Some("paused")],
            [Some("resume"), None, Some("paused"), Some("running")],
            [
                Some("kill"),
                None,
                Some("backend=b1 matched=1"),
                Some("closed=1")
            ],
            [
                Some("remove"),
                b1,
                Some("state=drain weight=4"),
                Some("removed active=0")
            ],
            [
                Some("add"),
                b1,
                Some("absent"),
                Some(&*format!(
                    "address={} weight=1 max_connections=0 backup=false",
                    backends[0].address()
                )),
            ],
        ]
    );
    let by = lines[0].text("by").expect("who");
    assert!(by.starts_with("127.0.0.1:"), "{by}");
}

#[test]
fn on_a_unix_socket_the_user_is_told() {
    let backend = Backend::named("b1");
    let text = web("", &[backend.entry()]) + "[admin]\nbind = \"unix:$DIR/admin.sock\"\n";
    let isobar = Isobar::start(&text);
    isobar.set("web/b1", r#"{"weight": 2}"#);
    let uid = rustix::process::getuid().as_raw();
    let line = isobar
        .log()
        .wait("who changed it", |line| line.says("what", "set"));
    assert_eq!(line.text("by"), Some(&*format!("uid {uid}")));
    assert_eq!(isobar.stat("/overrides/0/by"), format!("uid {uid}"));
}

#[test]
fn nobody_changes_anything_without_the_right_to() {
    let backend = Backend::named("b1");
    let with = |admin: &str| {
        let text = format!("{}[admin]\n{admin}\n", web("", &[backend.entry()]));
        support::Launch::new(&text)
    };
    let changes = [
        ("PUT", "/pools/web/backends/b1", r#"{"state": "drain"}"#),
        ("DELETE", "/pools/web/backends/b1", ""),
        (
            "POST",
            "/pools/web/backends",
            r#"{"address": "127.0.0.1:1"}"#,
        ),
        ("POST", "/pools/web/pause", ""),
        ("DELETE", "/connections?pool=web", ""),
    ];
    let kind = "Content-Type: application/json\r\n";
    let refused = |isobar: &Isobar, headers: &str, status: u16| {
        let (client, _) = isobar.stay("web");
        for (method, path, body) in changes {
            let headers = format!("{kind}{headers}");
            let answer = support::request(isobar.admin(), method, path, &headers, body);
            assert_eq!(answer.status, status, "{method} {path}");
        }
        leave(&client);
        assert_eq!(isobar.stat("/overrides"), json!([]));
        let line = isobar.log().wait("that it was refused", |line| {
            line.message() == "change refused"
        });
        // At most one a second is written: the first.
        assert_eq!(line.text("method"), Some("PUT"));
        assert_eq!(line.text("path"), Some("/pools/web/backends/b1"));
    };
    let token = "bind = \"127.0.0.1:0\"\ntoken = \"s3cret\"";
    let isobar = with(token).token("s3cret").start();
    refused(&isobar, "", 401);
    refused(&isobar, "Authorization: Bearer s3cre\r\n", 401);
    refused(&isobar, "Host: evil.com\r\n", 421);
    isobar.set("web/b1", r#"{"weight": 2}"#);
    let origin = "Host: localhost\r\nOrigin: http://evil.com\r\n";
    let isobar = with("bind = \"127.0.0.1:0\"").start();
    refused(&isobar, origin, 403);
    let isobar = with("bind = \"127.0.0.1:0\"\nread_only = true").start();
    refused(&isobar, "", 403);
    let name = format!("unix:@isobar-test-{}", std::process::id());
    let isobar = with(&format!("bind = \"{name}\"")).start();
    refused(&isobar, "", 403);
}

//! A reload puts another file into force, in full or not at all, and touches nothing else.

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    Backend, Family, Isobar, Pattern, Stream, get, patience, request, scaled, wait_until, web,
};

const FAST: &str = "[pool.web.health]\ninterval = \"100ms\"\nfast_interval = \"50ms\"\n";

fn named(names: &[&str]) -> Vec<Backend> {
    names.iter().map(|name| Backend::named(name)).collect()
}

fn entries(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(Backend::entry).collect()
}

/// Listener `web` and pool `web` with these backends.
fn file(settings: &str, backends: &[Backend]) -> String {
    web(settings, &entries(backends))
}

/// A listener that names its pool.
fn listener(name: &str, bind: &str, pool: &str) -> String {
    format!("[listener.{name}]\nbind = \"{bind}\"\npool = \"{pool}\"\n")
}

fn pool(name: &str, backends: &[Backend]) -> String {
    let backends = entries(backends).join(", ");
    format!("[pool.{name}]\nbackends = [{backends}]\n[pool.{name}.health]\nkind = \"none\"\n")
}

/// An address that nobody listens at now.
fn free() -> String {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("an address").to_string()
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[track_caller]
fn generation(isobar: &Isobar) -> u64 {
    isobar.count("/config/generation")
}

#[test]
fn a_backend_is_added_and_used_at_once() {
    let backends = named(&["b1", "b2"]);
    let isobar = Isobar::start(&file("", &backends[..1]));
    assert_eq!(isobar.visits("web", 2)["b1"], 2);
    let answer = isobar.reload_to(&file("", &backends));
    assert_eq!(
        (&answer["applied"], &answer["generation"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(answer["plan"]["pools"][0]["backends"][0]["change"], "added");
    assert_eq!(isobar.visits("web", 4)["b2"], 2);
    assert_eq!(isobar.count("/pools/web/backends/b1/connections/total"), 4);
    assert_eq!(isobar.metric("isobar_config_generation", &[]), 2.0);
}

#[test]
fn a_removed_backend_keeps_what_it_has_until_it_ends() {
    let backends = named(&["b1", "b2"]);
    let isobar = Isobar::start(&file("", &backends));
    isobar.expect_removal();
    let stays: Vec<_> = (0..2).map(|_| isobar.stay("web")).collect();
    isobar.reload_to(&file("", &backends[1..]));
    assert_eq!(isobar.stat("/pools/web/backends/b1/state"), "removed");
    assert_eq!(isobar.visits("web", 4)["b2"], 4);
    for (client, _) in &stays {
        assert!(client.is_silent_for(Duration::ZERO));
        leave(client);
    }
    wait_until("b1 was gone from /stats and /metrics", || {
        let gone = isobar.stats()["pools"]["web"]["backends"]["b1"].is_null();
        gone && !isobar.metrics().contains("backend=\"b1\"")
    });
}

#[test]
fn a_removed_backend_has_the_drain_timeout_of_the_new_file() {
    let backends = named(&["b1", "b2"]);
    let isobar = Isobar::start(&file("", &backends));
    isobar.expect_removal();
    let stays: Vec<_> = (0..2).map(|_| isobar.stay("web")).collect();
    let text = file("drain_timeout = \"200ms\"", &backends[1..]);
    isobar.rewrite(&text);
    let planned = isobar.ask("POST", "/plan", "").json();
    assert_eq!(planned["connections"]["drained"], 1);
    assert_eq!(
        planned["pools"][0]["backends"][0]["connections"]["drain_seconds"],
        0.2
    );
    isobar.reload();
    for (client, name) in stays {
        match &*name {
            "b1" => client.expect_reset(),
            _ => leave(&client),
        }
    }
    isobar.wait_ended("web", "drain_timeout", 1);
}

#[test]
fn weights_strategies_and_limits_hold_for_the_next_connections() {
    let backends = named(&["b1", "b2"]);
    let weighed = |weight: u32, settings: &str| {
        let entries = [
            backends[0].entry_with(&format!("weight = {weight}")),
            backends[1].entry(),
        ];
        web(settings, &entries)
    };
    let isobar = Isobar::start(&weighed(1, ""));
    assert_eq!(isobar.visits("web", 4)["b1"], 2);
    isobar.reload_to(&weighed(3, ""));
    assert_eq!(isobar.visits("web", 4)["b1"], 3);
    isobar.reload_to(&weighed(3, "balance = \"first\""));
    assert_eq!(isobar.visits("web", 4)["b1"], 4);
}

#[test]
fn a_limit_that_is_raised_lets_in_who_waits_and_one_that_is_lowered_ends_nobody() {
    let backends = named(&["b1"]);
    let limited = |of_backend: u32| {
        let keys = format!("max_connections = {of_backend}");
        web("", &[backends[0].entry_with(&keys)])
    };
    let isobar = Isobar::start(&limited(1));
    let (first, _) = isobar.stay("web");
    let held = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    isobar.reload_to(&limited(2));
    assert_eq!(held.read_line(), "b1");
    isobar.reload_to(&limited(1));
    assert!(first.is_silent_for(Duration::ZERO) && held.is_silent_for(Duration::ZERO));
    let third = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    leave(&first);
    isobar.wait_count("/pools/web/connections/active", 2);
    assert_eq!(
        isobar.count("/pools/web/held"),
        1,
        "one has the only slot still"
    );
    leave(&held);
    assert_eq!(third.read_line(), "b1");
    leave(&third);
}

#[test]
fn limits_of_listener_and_process_change_while_clients_wait() {
    let backends = named(&["b1"]);
    let limited = |listener: u32, process: u32| {
        format!("[runtime]\nmax_connections = {process}\n")
            + &file("", &backends).replacen(
                "[listener.web]\n",
                &format!("[listener.web]\nmax_connections = {listener}\n"),
                1,
            )
    };
    let isobar = Isobar::start(&limited(1, 100));
    let (first, _) = isobar.stay("web");
    let second = isobar.connect("web");
    wait_until("the listener paused", || {
        isobar.stat("/listeners/web/accepting") == false
    });
    isobar.reload_to(&limited(0, 100));
    assert_eq!(second.read_line(), "b1");
    isobar.reload_to(&limited(0, 2));
    assert_eq!(isobar.count("/connections/limit"), 2);
    let third = isobar.connect("web");
    wait_until("the process paused", || {
        isobar.stat("/listeners/web/accepting") == false
    });
    isobar.reload_to(&limited(0, 3));
    assert_eq!(third.read_line(), "b1");
    [first, second, third].iter().for_each(leave);
}

/// The same file is no change: no sequence starts anew, no health is lost, nothing is logged of
/// changes.
#[test]
fn a_file_that_changes_nothing_changes_nothing() {
    let backends = named(&["b1", "b2", "b3"]);
    let text = file("", &backends);
    let isobar = Isobar::start(&text);
    assert_eq!(isobar.visit("web"), "b1");
    isobar.wait_count("/pools/web/backends/b1/duration_seconds/count", 1);
    let before = isobar.stats();
    let comment = format!("# a comment\n{}", text.replace("bind = ", "bind    = "));
    let answer = isobar.reload_to(&comment);
    assert_eq!(
        (&answer["applied"], &answer["generation"]),
        (&json!(false), &json!(1))
    );
    assert_eq!(answer["plan"]["changes"], false);
    let after = isobar.stats();
    assert_eq!(before["config"]["loaded_at"], after["config"]["loaded_at"]);
    assert_eq!(
        before["pools"]["web"]["backends"],
        after["pools"]["web"]["backends"]
    );
    assert_eq!(isobar.visit("web"), "b2");
    let said = isobar.log().wait("that nothing changes", |line| {
        line.message() == "reload: nothing to change"
    });
    assert!(said.says("level", "info"), "{}", said.raw);
}

/// As for a change over HTTP, whoever asked for it; what changes nothing is none.
#[test]
fn a_signal_that_changes_something_is_one_audit_line() {
    let backends = named(&["b1", "b2"]);
    let isobar = Isobar::start(&file("", &backends[..1]));
    isobar.signal(Signal::HUP);
    isobar.log().wait("that nothing changes", |line| {
        line.message() == "reload: nothing to change"
    });
    isobar.rewrite("nonsense\n");
    isobar.signal(Signal::HUP);
    isobar
        .log()
        .wait("it was refused", |line| line.message() == "reload refused");
    isobar.rewrite(&file("", &backends));
    isobar.signal(Signal::HUP);
    let audit = |line: &support::Line| line.says("target", "isobar::audit");
    let line = isobar.log().wait("who changed it", audit);
    let said = ["by", "what", "before", "after"].map(|field| line.text(field));
    let expected = ["SIGHUP", "reload", "generation=1", "generation=2"];
    assert_eq!(said, expected.map(Some));
    assert_eq!(
        isobar
            .log()
            .lines()
            .iter()
            .filter(|line| audit(line))
            .count(),
        1
    );
}

#[test]
fn what_is_known_of_a_backend_outlives_a_change_of_something_else() {
    let backends = named(&["b1", "b2"]);
    let isobar = Isobar::start(&file(FAST, &backends));
    isobar.wait_state("web", "b1", "up");
    backends[1].stop();
    isobar.wait_state("web", "b2", "down");
    let since = isobar.stat("/pools/web/backends/b2/health/since");
    let total = isobar.count("/pools/web/connections/total");
    isobar.reload_to(&file(&format!("idle_timeout = \"5m\"\n{FAST}"), &backends));
    assert_eq!(isobar.stat("/pools/web/backends/b2/state"), "down");
    assert_eq!(isobar.stat("/pools/web/backends/b2/health/since"), since);
    assert_eq!(isobar.count("/pools/web/connections/total"), total);
    backends[1].listen();
    isobar.wait_state("web", "b2", "up");
}

/// Checks of another kind begin without a gap: nobody goes down for the change itself.
#[test]
fn checks_follow_the_new_file() {
    let backends = named(&["b1"]);
    let isobar = Isobar::start(&file("", &backends));
    assert_eq!(isobar.stat("/pools/web/backends/b1/health/kind"), "none");
    isobar.reload_to(&file(FAST, &backends));
    assert_eq!(isobar.stat("/pools/web/backends/b1/state"), "up");
    wait_until("it was checked", || {
        isobar.stat("/pools/web/backends/b1/health/last_ok") == true
    });
    backends[0].stop();
    isobar.wait_state("web", "b1", "down");
    isobar.reload_to(&file("", &backends));
    assert_eq!(isobar.stat("/pools/web/backends/b1/state"), "up");
    backends[0].listen();
}

/// Time-outs of the new file are for connections that are routed after it.
#[test]
fn a_live_connection_keeps_the_settings_it_was_routed_with() {
    let backend = Backend::echo(Family::Ipv4);
    let file = |settings: &str| web(settings, &[backend.entry()]);
    let isobar = Isobar::start(&file(""));
    let old = isobar.connect("web");
    old.write("x");
    old.expect("x");
    isobar.reload_to(&file("idle_timeout = \"150ms\""));
    let new = isobar.connect("web");
    new.expect_reset();
    isobar.wait_ended("web", "idle_timeout", 1);
    old.write("y");
    old.expect("y");
    leave(&old);
}

#[test]
fn an_invalid_file_leaves_all_as_it_was_and_the_next_one_is_taken() {
    let backends = named(&["b1", "b2"]);
    let good = file("", &backends[..1]);
    let isobar = Isobar::start(&good);
    let faulty = good.replacen("[pool.web]", "[pool.web]\nblance = \"first\"", 1);
    let refused = isobar.refuses(&faulty);
    assert_eq!(refused.status, 422);
    let problem = &refused.json()["problems"][0];
    assert_eq!(
        (&problem["file"], &problem["line"]),
        (&json!("lb.toml"), &json!(5))
    );
    assert!(
        problem["message"]
            .as_str()
            .expect("text")
            .contains("blance")
    );
    assert_eq!(isobar.visits("web", 2)["b1"], 2);
    assert_eq!(generation(&isobar), 1);
    let last = isobar.stat("/config/last_reload");
    assert_eq!(last["ok"], false);
    assert!(
        last["error"]
            .as_str()
            .expect("a reason")
            .contains("lb.toml:5:1: "),
        "{last}"
    );
    assert_eq!(
        isobar.metric("isobar_config_last_reload_successful", &[]),
        0.0
    );
    isobar.log().wait("the reason", |line| {
        line.says("place", "lb.toml:5:1") && line.says("level", "error")
    });
    isobar.reload_to(&file("", &backends));
    assert_eq!(isobar.visits("web", 2)["b2"], 1);
    assert_eq!(isobar.stat("/config/last_reload/ok"), true);
    assert_eq!(isobar.stat("/config/last_reload/error"), Value::Null);
    assert_eq!(
        isobar.metric("isobar_config_last_reload_successful", &[]),
        1.0
    );
}

/// A new listener's port is taken by somebody else, another one of the same file is free, and a
/// backend changes: nothing of it happens, and all of it once the port is free.
#[test]
fn a_busy_address_refuses_the_whole_file_and_the_next_reload_works() {
    let backends = named(&["b1", "b2"]);
    let mut isobar = Isobar::start(&file("", &backends[..1]));
    let inodes = isobar.process().listening();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let busy = taken.local_addr().expect("an address");
    let text = file("", &backends)
        + &listener("free", "127.0.0.1:0", "web")
        + &listener("busy", &busy.to_string(), "web");
    let refused = isobar.refuses(&text);
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert!(refused.body.contains(&busy.to_string()), "{}", refused.body);
    assert_eq!(isobar.process().listening(), inodes);
    assert_eq!(
        isobar.stats()["listeners"].as_object().map(|all| all.len()),
        Some(1)
    );
    assert_eq!(isobar.visits("web", 2)["b1"], 2);
    drop(taken);
    isobar.reload();
    isobar.renew_baseline();
    let at_busy = isobar.connect_to(&busy.to_string().parse().expect("an address"));
    at_busy.read_line();
    leave(&at_busy);
    let listening = isobar.process().listening();
    assert!(
        inodes
            .iter()
            .all(|(at, inode)| listening.get(at) == Some(inode))
    );
}

#[test]
fn a_ca_file_that_is_missing_refuses_the_whole_file() {
    let backends = named(&["b1", "b2"]);
    let isobar = Isobar::start(&file("", &backends[..1]));
    let checks = "[pool.web.health]\nkind = \"tls\"\nca = \"$DIR/ca.pem\"\n";
    let refused = isobar.refuses(&file(checks, &backends));
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert!(refused.body.contains("ca.pem"), "{}", refused.body);
    assert_eq!(isobar.visits("web", 2)["b1"], 2);
    isobar.reload_to(&file("", &backends));
    assert_eq!(isobar.visits("web", 2)["b2"], 1);
}

#[test]
fn a_file_that_is_gone_or_unreadable_is_refused() {
    let backends = named(&["b1"]);
    let isobar = Isobar::start(&file("", &backends));
    let path = isobar.dir().join("lb.toml");
    std::fs::remove_file(&path).expect("a file");
    isobar.signal(Signal::HUP);
    isobar.log().wait("that it is gone", |line| {
        line.message() == "there is no such file" && line.says("level", "error")
    });
    wait_until("it was noted", || {
        isobar.stat("/config/last_reload/ok") == false
    });
    std::fs::create_dir(&path).expect("a directory");
    assert_eq!(isobar.ask("POST", "/reload", "").status, 422);
    std::fs::remove_dir(&path).expect("a directory");
    isobar.reload_to(&file("connect_attempts = 2", &backends));
    assert_eq!(isobar.visit("web"), "b1");
}

/// Whatever it is called, an address that stays keeps its socket; and so does one that goes to
/// another listener.
#[test]
fn an_address_that_stays_is_never_bound_again() {
    let (one, two) = (named(&["one"]), named(&["two"]));
    let (a, b) = (free(), free());
    let pools = pool("one", &one) + &pool("two", &two);
    let start = listener("a", &a, "one") + &listener("b", &b, "two") + &pools;
    let isobar = Isobar::start(&start);
    let inodes = isobar.process().listening();
    let answers = |address: &str| {
        let client = isobar.connect_to(&address.parse().expect("an address"));
        let name = client.read_line();
        leave(&client);
        name
    };
    assert_eq!((&*answers(&a), &*answers(&b)), ("one", "two"));
    // Renamed: what it has counted goes with it.
    isobar.reload_to(&(listener("x", &a, "one") + &listener("b", &b, "two") + &pools));
    assert_eq!((&*answers(&a), &*answers(&b)), ("one", "two"));
    assert_eq!(isobar.count("/listeners/x/connections/total"), 2);
    // Both addresses at one listener, in another order.
    let both = format!("[listener.b]\nbind = [\"{a}\", \"{b}\"]\npool = \"one\"\n");
    isobar.expect_departure();
    isobar.reload_to(&(both + &pools));
    assert_eq!((&*answers(&a), &*answers(&b)), ("one", "one"));
    // And apart again, swapped.
    isobar.reload_to(&(listener("a", &b, "one") + &listener("b", &a, "two") + &pools));
    assert_eq!((&*answers(&a), &*answers(&b)), ("two", "one"));
    assert_eq!(isobar.process().listening(), inodes);
}

/// Whoever connects while a limit keeps the listener from accepting is in its accept queue, and
/// is served when the listener goes.
#[test]
fn the_accept_queue_of_a_removed_listener_is_served() {
    let backends = named(&["b1"]);
    let address = free();
    let keep = file("", &backends);
    let going = listener("going", &address, "web").replace("pool =", "max_connections = 1\npool =");
    let isobar = Isobar::start(&(keep.clone() + &going));
    isobar.expect_departure();
    let first = isobar.connect("going");
    assert_eq!(first.read_line(), "b1");
    let queued: Vec<_> = (0..3).map(|_| isobar.connect("going")).collect();
    wait_until("it paused", || {
        isobar.stat("/listeners/going/accepting") == false
    });
    isobar.reload_to(&keep);
    let gone: isobar::net::Address = address.parse().expect("an address");
    assert!(isobar.try_connect(None, &gone).is_err());
    assert_eq!(isobar.count("/listeners/going/connections/active"), 4);
    assert!(first.is_silent_for(Duration::ZERO));
    leave(&first);
    // One slot, and cores of their own: in any order.
    std::thread::scope(|scope| {
        for client in &queued {
            scope.spawn(|| {
                assert_eq!(client.read_line(), "b1");
                leave(client);
            });
        }
    });
    wait_until("it was gone", || {
        isobar.stats()["listeners"]["going"].is_null()
    });
}

#[test]
fn a_unix_socket_comes_and_goes_with_its_file_and_takes_a_new_mode() {
    use std::os::unix::fs::MetadataExt;
    let backends = named(&["b1"]);
    let keep = file("", &backends);
    let socket = |mode: &str| {
        let unix = listener("unix", "unix:$DIR/a.sock", "web");
        keep.clone() + &unix.replace("pool =", &format!("unix_mode = \"{mode}\"\npool ="))
    };
    let isobar = Isobar::start(&keep);
    isobar.expect_departure();
    let path = isobar.dir().join("a.sock");
    isobar.reload_to(&socket("0666"));
    let file = || path.metadata().expect("a socket");
    let inode = file().ino();
    let client = isobar.connect_to(&isobar.addresses_now("unix")[0]);
    assert_eq!(client.read_line(), "b1");
    isobar.reload_to(&socket("0600"));
    assert_eq!((file().mode() & 0o777, file().ino()), (0o600, inode));
    isobar.reload_to(&keep);
    wait_until("the file was gone", || !path.exists());
    leave(&client);
}

#[test]
fn a_pool_is_replaced_by_another_without_a_client_noticing() {
    let (old, new) = (named(&["old"]), named(&["new"]));
    let text = |name: &str, backends: &[Backend]| {
        listener("web", "127.0.0.1:0", name) + &pool(name, backends)
    };
    let isobar = Isobar::start(&text("blue", &old));
    isobar.expect_departure();
    let (client, name) = isobar.stay("web");
    assert_eq!(name, "old");
    isobar.reload_to(&text("green", &new));
    assert_eq!(isobar.visit("web"), "new");
    assert_eq!(isobar.count("/pools/blue/connections/active"), 1);
    leave(&client);
    wait_until("it was gone", || isobar.stats()["pools"]["blue"].is_null());
    isobar.reload_to(&text("blue", &old));
    assert_eq!(isobar.visit("web"), "old");
}

/// A fallback is named, changed and taken back; those who are held go to it.
#[test]
fn fallbacks_follow_the_file() {
    let (away, there) = (named(&["away"]), named(&["there"]));
    let hang = listener("web", "127.0.0.1:0", "web") + &pool("spare", &there);
    let down = "[pool.web.health]\ninterval = \"100ms\"\nfast_interval = \"50ms\"\nfall = 1\n";
    let web = |fallback: &str| {
        let entries = entries(&away).join(", ");
        format!("{hang}[pool.web]\nbackends = [{entries}]\n{fallback}\n{down}")
    };
    away[0].stop();
    let isobar = Isobar::start(&web(""));
    isobar.wait_state("web", "away", "down");
    let held = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    isobar.reload_to(&web("fallback = \"spare\""));
    assert_eq!(held.read_line(), "there");
    assert_eq!(isobar.visit("web"), "there");
    leave(&held);
    isobar.reload_to(&web(""));
    let held = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    away[0].listen();
    assert_eq!(held.read_line(), "away");
    leave(&held);
}

#[test]
fn runtime_changes_survive_until_the_file_changes_that_very_thing() {
    let backends = named(&["b1", "b2", "b3"]);
    let weighed = |weight: u32| {
        let keys = format!("weight = {weight}");
        web("", &[backends[0].entry_with(&keys), backends[1].entry()])
    };
    let isobar = Isobar::start(&weighed(1));
    isobar.expect_removal();
    isobar.set("web/b1", r#"{"weight": 5}"#);
    isobar.set("web/b2", r#"{"state": "drain"}"#);
    let added = json!({"name": "b3", "address": backends[2].address().to_string()});
    isobar.tell("POST", "/pools/web/backends", &added.to_string());
    let longer = weighed(1).replacen("backends =", "idle_timeout = \"3h\"\nbackends =", 1);
    let answer = isobar.reload_to(&longer);
    let changes = &answer["plan"]["runtime_changes"];
    assert_eq!(
        changes["kept"].as_array().map(Vec::len),
        Some(3),
        "{changes}"
    );
    assert_eq!(changes["ended"], json!([]));
    assert_eq!(isobar.stat("/pools/web/backends/b1/weight"), 5);
    assert_eq!(isobar.stat("/pools/web/backends/b2/state"), "draining");
    assert_eq!(isobar.visits("web", 6)["b1"], 5);
    let answer = isobar.reload_to(&weighed(2));
    let ended = &answer["plan"]["runtime_changes"]["ended"];
    assert_eq!(
        (&ended[0]["field"], &ended[0]["ended"]),
        (&json!("weight"), &json!("file_changes"))
    );
    assert_eq!(isobar.stat("/pools/web/backends/b1/weight"), 2);
    assert_eq!(isobar.visits("web", 3)["b3"], 1);
    isobar.log().wait("which change ended", |line| {
        line.message() == "runtime change ended" && line.says("backend", "b1")
    });
    let left = isobar.stat("/overrides");
    assert_eq!(left.as_array().map(Vec::len), Some(2), "{left}");
}

#[test]
fn a_larger_change_than_allowed_is_refused() {
    let backends = named(&["b1", "b2", "b3"]);
    let isobar = Isobar::start(&file("drain_timeout = \"60s\"", &backends));
    isobar.expect_removal();
    let (client, _) = isobar.stay("web");
    isobar.rewrite(&file("drain_timeout = \"60s\"", &backends[2..]));
    for (query, body, reason) in [
        (
            "",
            r#"{"max_removed": "50%"}"#,
            "66.7% of the backends of pool web",
        ),
        (
            "?max_removed=50%25",
            "",
            "66.7% of the backends of pool web",
        ),
        (
            "?max_dropped=0",
            "",
            "up to 1 live connections would be reset",
        ),
    ] {
        let refused = isobar.ask("POST", &format!("/reload{query}"), body);
        assert_eq!(refused.status, 409, "{}", refused.body);
        assert!(refused.body.contains(reason), "{}", refused.body);
    }
    for query in ["?max_removed=2", "?max_dropped=-1", "?max=1", "?text=red"] {
        assert_eq!(
            isobar.ask("POST", &format!("/reload{query}"), "").status,
            400
        );
    }
    assert_eq!(generation(&isobar), 1);
    let body = r#"{"max_removed": "70%", "max_dropped": 1}"#;
    assert_eq!(isobar.ask("POST", "/reload", body).status, 200);
    assert_eq!(generation(&isobar), 2);
    leave(&client);
}

/// What needs a restart is named until that, and the rest is applied.
#[test]
fn keys_that_need_a_restart_keep_their_value_and_are_named() {
    let backends = named(&["b1", "b2"]);
    let isobar = Isobar::start(&file("", &backends[..1]));
    let threads = format!("[runtime]\nthreads = 7\n{}", file("", &backends));
    let answer = isobar.reload_to(&threads);
    assert_eq!(answer["pending_restart"], json!(["runtime.threads"]));
    assert_eq!(isobar.visits("web", 2)["b2"], 1);
    for _ in 0..2 {
        let pending = isobar.stat("/config/last_reload/pending_restart");
        assert_eq!(pending, json!(["runtime.threads"]));
        assert_eq!(isobar.reload()["applied"], false);
    }
    assert!(!isobar.get("/config").body.contains("threads = 7"));
    assert_eq!(generation(&isobar), 2);
    isobar.reload_to(&file("", &backends));
    assert_eq!(
        isobar.stat("/config/last_reload/pending_restart"),
        json!([])
    );
}

#[test]
fn the_log_changes_level_format_and_file() {
    let backends = named(&["b1"]);
    let logged = |log: &str| format!("[log]\n{log}\n{}", file("", &backends));
    let mut isobar = Isobar::start(&logged("format = \"json\""));
    isobar.visit("web");
    isobar.reload_to(&logged("format = \"json\"\naccess_file = \"$DIR/a.log\""));
    let client = isobar.connect("web");
    let local = client.local().expect("an address").to_string();
    client.read_line();
    leave(&client);
    let path = isobar.dir().join("a.log");
    wait_until("the line was in the file", || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&local))
    });
    assert!(!isobar.log().text().contains(&local));
    let refused = isobar.refuses(&logged(
        "format = \"json\"\naccess_file = \"$DIR/no/a.log\"",
    ));
    assert_eq!(refused.status, 422, "{}", refused.body);
    isobar.reload_to(&logged("format = \"text\"\nlevel = \"debug\""));
    isobar.visit("web");
    wait_until("lines were text", || {
        isobar.log().text().contains("level=info")
    });
    isobar.renew_baseline();
}

#[test]
fn the_admin_endpoint_takes_new_rules_at_once_and_moves() {
    let backends = named(&["b1"]);
    let admin = |section: &str| format!("[admin]\n{section}\n{}", file("", &backends));
    let mut isobar = Isobar::start(&admin("bind = \"127.0.0.1:0\""));
    isobar.reload_to(&admin("bind = \"127.0.0.1:0\"\ntoken = \"s3cret\""));
    let refused = request(isobar.admin(), "POST", "/reload", "", "");
    assert_eq!(refused.status, 401);
    isobar.show_token("s3cret");
    isobar.reload();
    let other = free();
    isobar.reload_to(&admin(&format!("bind = \"{other}\"")));
    let other = other.parse().expect("an address");
    assert_eq!(get(&other, "/stats", "").status, 200);
    let old = isobar.admin().clone();
    wait_until("nobody listened at the old address", || {
        isobar.try_connect(None, &old).is_err()
    });
    isobar.move_admin(other);
    assert_eq!(isobar.count("/config/generation"), 3);
}

/// SIGHUP as fast as it goes, with another file each time: none gets lost, and in the end the
/// last one is in force.
#[test]
fn a_storm_of_signals_ends_with_the_last_file() {
    let backends = named(&["b1", "b2"]);
    let isobar = Isobar::start(&file("", &backends));
    isobar.reload_to(&file("connect_attempts = 2", &backends));
    let threads = isobar.process().threads("").len();
    for n in 3..=102 {
        let text = isobar.completed(&file(&format!("connect_attempts = {n}"), &backends));
        let new = isobar.dir().join("new.toml");
        std::fs::write(&new, text).expect("room");
        std::fs::rename(&new, isobar.dir().join("lb.toml")).expect("renamed");
        isobar.signal(Signal::HUP);
    }
    wait_until("the last file was in force", || {
        isobar
            .get("/config")
            .body
            .contains("connect_attempts = 102")
    });
    assert!(generation(&isobar) <= 102);
    assert!(isobar.process().threads("").len() <= threads + 2);
    assert_eq!(isobar.visits("web", 4)["b1"], 2);
}

#[test]
fn held_clients_outlive_a_reload_and_reach_a_backend_that_it_brings() {
    let backends = named(&["b1", "b2"]);
    backends[0].stop();
    let isobar = Isobar::start(&file(FAST, &backends[..1]));
    isobar.wait_state("web", "b1", "down");
    let held: Vec<_> = (0..5).map(|_| isobar.connect("web")).collect();
    isobar.wait_count("/pools/web/held", 5);
    isobar.reload_to(&file(
        &format!("idle_timeout = \"3h\"\n{FAST}"),
        &backends[..1],
    ));
    isobar.wait_count("/pools/web/held", 5);
    isobar.reload_to(&file(FAST, &backends));
    for client in &held {
        assert_eq!(client.read_line(), "b2");
        leave(client);
    }
    backends[0].listen();
}

#[test]
fn no_reload_is_taken_once_a_stop_has_begun() {
    let backends = named(&["b1", "b2"]);
    let mut isobar = Isobar::start(&file("", &backends[..1]));
    let (client, _) = isobar.stay("web");
    isobar.signal(Signal::TERM);
    wait_until("the stop began", || isobar.get("/readyz").status == 503);
    let refused = isobar.refuses(&file("", &backends));
    assert_eq!(refused.status, 503, "{}", refused.body);
    isobar.signal(Signal::HUP);
    isobar.log().wait("that it is refused", |line| {
        line.says("error", "isobar is stopping") && line.says("by", "SIGHUP")
    });
    assert_eq!(generation(&isobar), 1);
    leave(&client);
    assert!(isobar.wait_exit().success());
}

/// Reloads from several sides at once come one after the other, and operators' changes among
/// them are not lost.
#[test]
fn reloads_and_changes_at_the_same_time_all_count() {
    let backends = named(&["b1", "b2"]);
    let isobar = Isobar::start(&file("", &backends));
    std::thread::scope(|scope| {
        let reloads = scope.spawn(|| {
            for n in 1..=20 {
                isobar.reload_to(&file(&format!("connect_attempts = {n}"), &backends));
            }
        });
        for weight in 2..=20 {
            isobar.set("web/b1", &json!({"weight": weight}).to_string());
        }
        reloads.join().expect("reloads");
    });
    assert_eq!(isobar.stat("/pools/web/backends/b1/weight"), 20);
    assert!(isobar.get("/config").body.contains("connect_attempts = 20"));
}

/// Idle connections and one in the middle of a stream, over a change of everything about their
/// pool: not a byte is missing.
#[test]
fn a_stream_goes_on_over_reloads() {
    const BYTES: u64 = 8 << 20;
    let echo = Backend::echo(Family::Ipv4);
    let isobar = Isobar::start(&web("", &[echo.entry()]));
    let client = isobar.connect("web");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write_pattern(Pattern(1), BYTES);
            client.fin();
        });
        let started = Instant::now();
        for n in 11..=20 {
            isobar.reload_to(&web(&format!("connect_attempts = {n}"), &[echo.entry()]));
            assert!(started.elapsed() < scaled(patience()));
        }
        let (read, end) = client.read_pattern_to_end(Pattern(1));
        assert_eq!((read, end), (BYTES, support::End::Fin));
    });
    assert_eq!(generation(&isobar), 11);
}

/// Nobody is left to serve whoever is held for a pool that goes: the plan says so, and they are
/// reset when their time is over. Who comes meanwhile goes where the listener sends now.
#[test]
fn clients_held_for_a_pool_that_goes_are_counted_and_end_in_their_time() {
    let (old, new) = (named(&["old"]), named(&["new"]));
    old[0].stop();
    let text = |name: &str, backends: &[Backend], settings: &str| {
        let entries = entries(backends).join(", ");
        listener("web", "127.0.0.1:0", name)
            + &format!("[pool.{name}]\nbackends = [{entries}]\n{settings}\n")
    };
    let down = "[pool.blue.hold]\ntimeout = \"1s\"\n\
                [pool.blue.health]\ninterval = \"100ms\"\nfall = 1\n";
    let isobar = Isobar::start(&text("blue", &old, down));
    isobar.expect_departure();
    isobar.wait_state("blue", "old", "down");
    let held = isobar.connect("web");
    isobar.wait_count("/pools/blue/held", 1);
    let answer = isobar.reload_to(&text("green", &new, ""));
    assert_eq!(answer["plan"]["connections"]["stranded"], 1);
    assert_eq!(isobar.visit("web"), "new");
    held.expect_reset();
    isobar.wait_ended("web", "hold_timeout", 1);
    old[0].listen();
}

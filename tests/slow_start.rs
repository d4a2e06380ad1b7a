//! A backend that comes back, or is new, gets its share bit by bit.

mod support;

use std::time::{Duration, Instant};

use support::{Backend, Isobar, Stream, wait_until, web};

const FAST: &str = "[pool.web.health]\ninterval = \"100ms\"\nfast_interval = \"50ms\"\n\
                    rise = 1\nfall = 1\n";
const UNCHECKED: &str = "[pool.web.health]\nkind = \"none\"\n";

fn file(slow_start: &str, health: &str, backends: &[&Backend]) -> String {
    let entries: Vec<_> = backends.iter().map(|backend| backend.entry()).collect();
    web(
        &format!("slow_start = \"{slow_start}\"\n{health}"),
        &entries,
    )
}

fn named(names: [&str; 2]) -> [Backend; 2] {
    names.map(Backend::named)
}

fn weight(isobar: &Isobar, name: &str) -> f64 {
    let pointer = format!("/pools/web/backends/{name}/effective_weight");
    isobar.stat(&pointer).as_f64().expect("a weight")
}

/// The most that a weight of 1 can have grown to since `began`.
fn most(began: Instant, length: Duration) -> f64 {
    0.1 + 0.9 * began.elapsed().as_secs_f64() / length.as_secs_f64() + 1e-6
}

fn set_state(isobar: &Isobar, name: &str, states: &[&str]) {
    for state in states {
        isobar.set(
            &format!("web/{name}"),
            &format!("{{\"state\": \"{state}\"}}"),
        );
    }
}

#[test]
fn nobody_ramps_when_the_process_starts() {
    let [b1, b2] = named(["b1", "b2"]);
    for health in [FAST, UNCHECKED] {
        let isobar = Isobar::start(&file("10m", health, &[&b1, &b2]));
        for name in ["b1", "b2"] {
            isobar.wait_state("web", name, "up");
            assert!((weight(&isobar, name) - 1.0).abs() < f64::EPSILON, "{name}");
        }
        let visits = isobar.visits("web", 10);
        assert_eq!((visits["b1"], visits["b2"]), (5, 5));
        isobar.assert_calm();
    }
}

/// Steps: b1 goes down and comes up again. Its weight never is above the even line from a tenth to
/// the whole, never falls, and gets to the whole; then the turns are exact again.
#[test]
fn a_backend_that_is_up_again_grows_to_its_whole_weight() {
    let [b1, b2] = named(["b1", "b2"]);
    let length = Duration::from_secs(4);
    let isobar = Isobar::start(&file("4s", FAST, &[&b1, &b2]));
    b1.stop();
    isobar.wait_state("web", "b1", "down");
    let began = Instant::now();
    b1.listen();
    isobar.wait_state("web", "b1", "up");
    let mut seen = vec![weight(&isobar, "b1")];
    assert!(seen[0] <= most(began, length), "{seen:?}");
    wait_until("the whole weight is there", || {
        let now = weight(&isobar, "b1");
        let bound = most(began, length);
        assert!(now <= bound, "{now} above {bound}");
        seen.push(now);
        (now - 1.0).abs() < f64::EPSILON
    });
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.iter().any(|weight| *weight < 1.0), "{seen:?}");
    let twentieths = seen.iter().map(|weight| weight * 20.0);
    assert!(twentieths.into_iter().all(|n| (n - n.round()).abs() < 1e-6));
    let visits = isobar.visits("web", 10);
    assert_eq!((visits["b1"], visits["b2"]), (5, 5));
    isobar.assert_calm();
}

/// Steps: while b1 ramps over ten minutes, connections come. It gets a tenth of what b2 gets.
#[test]
fn the_share_follows_the_weight() {
    let [b1, b2] = named(["b1", "b2"]);
    for balance in ["round-robin", "random-two"] {
        let settings = format!("balance = \"{balance}\"\nslow_start = \"1h\"\n{UNCHECKED}");
        let isobar = Isobar::start(&web(&settings, &[b1.entry(), b2.entry()]));
        set_state(&isobar, "b1", &["maintenance", "ready"]);
        assert!((weight(&isobar, "b1") - 0.1).abs() < 1e-9);
        // With random-two the two drawn are the same two each time: the loads decide.
        let visits = isobar.visits("web", 110);
        if balance == "round-robin" {
            assert_eq!((visits["b1"], visits["b2"]), (10, 100));
        } else {
            assert!(visits["b1"] < visits["b2"], "{visits:?}");
        }
        isobar.assert_calm();
    }
}

#[test]
fn least_connections_holds_a_ramping_backend_to_its_weight() {
    let [b1, b2] = named(["b1", "b2"]);
    let settings = format!("balance = \"least-connections\"\nslow_start = \"1h\"\n{UNCHECKED}");
    let isobar = Isobar::start(&web(&settings, &[b1.entry(), b2.entry()]));
    set_state(&isobar, "b1", &["maintenance", "ready"]);
    let clients: Vec<_> = (0..22).map(|_| isobar.stay("web")).collect();
    let on_b1 = clients.iter().filter(|(_, name)| name == "b1").count();
    assert_eq!(on_b1, 2, "a tenth of the 20 of b2");
    let explained = isobar.get("/explain?listener=web&client=127.0.0.1").json();
    let backends = &explained["pools"][0]["backends"];
    assert_eq!(backends[0]["weight"], 1, "{explained}");
    assert_eq!(backends[0]["effective_weight"], 0.1, "{explained}");
    assert_eq!(backends[0]["score"]["value"], 20.0, "{explained}");
    let configured = isobar.metric(
        "isobar_backend_weight",
        &[("pool", "web"), ("backend", "b1")],
    );
    assert!((configured - 1.0).abs() < f64::EPSILON);
    for (client, _) in &clients {
        client.fin();
        client.expect_fin();
    }
}

#[test]
fn whoever_is_added_ramps_and_a_drain_or_a_hash_does_not() {
    let backends = ["b1", "b2", "b3"].map(Backend::named);
    let [b1, b2, b3] = &backends;
    let isobar = Isobar::start(&file("1h", UNCHECKED, &[b1]));
    isobar.reload_to(&file("1h", UNCHECKED, &[b1, b2]));
    let address = b3.address().to_string();
    let body = format!("{{\"name\": \"b3\", \"address\": \"{address}\"}}");
    isobar.tell("POST", "/pools/web/backends", &body);
    set_state(&isobar, "b1", &["drain", "ready"]);
    let weights = ["b1", "b2", "b3"].map(|name| (weight(&isobar, name) * 10.0).round() as u32);
    assert_eq!(weights, [10, 1, 1]);
    isobar.reload_to(&file("0s", UNCHECKED, &[b1, b2]));
    assert!((weight(&isobar, "b2") - 1.0).abs() < f64::EPSILON);
    let hash = format!("balance = \"consistent-hash\"\nslow_start = \"1h\"\n{UNCHECKED}");
    isobar.reload_to(&web(&hash, &[b1.entry(), b2.entry()]));
    set_state(&isobar, "b2", &["maintenance", "ready"]);
    assert!((weight(&isobar, "b2") - 1.0).abs() < f64::EPSILON);
}

/// Steps: in the middle of a ramp come a reload of something else and an upgrade: it goes on where
/// it was, neither anew nor at once.
#[test]
fn a_ramp_outlives_a_reload_and_an_upgrade() {
    let [b1, b2] = named(["b1", "b2"]);
    let length = Duration::from_secs(60);
    let text = file("60s", UNCHECKED, &[&b1, &b2]);
    let isobar = Isobar::start(&text);
    let began = Instant::now();
    set_state(&isobar, "b1", &["maintenance", "ready"]);
    wait_until("it has grown", || weight(&isobar, "b1") > 0.1);
    isobar.reload_to(&format!("{text}\n[pool.web.hold]\nmax = 7\n"));
    let before = weight(&isobar, "b1");
    isobar.upgrade();
    let after = weight(&isobar, "b1");
    assert!(
        before <= after && after <= most(began, length),
        "{before} {after}"
    );
    assert!((weight(&isobar, "b2") - 1.0).abs() < f64::EPSILON);
}

/// Steps: the only backend is down while clients wait, with a cap on connects. It comes up: all of
/// them are let in at once, as fast as the cap allows, whatever its weight is.
#[test]
fn who_is_held_does_not_wait_for_a_ramp() {
    let backend = Backend::named("b1");
    let text = format!("max_connecting = 2\nslow_start = \"1h\"\n{FAST}");
    let isobar = Isobar::start(&web(&text, &[backend.entry()]));
    isobar.wait_state("web", "b1", "up");
    backend.stop();
    isobar.wait_state("web", "b1", "down");
    let clients: Vec<_> = (0..30).map(|_| isobar.connect("web")).collect();
    isobar.wait_count("/pools/web/held", 30);
    backend.listen();
    for client in &clients {
        assert_eq!(client.read_line(), "b1");
    }
    assert!(weight(&isobar, "b1") < 0.2);
    clients.iter().for_each(Stream::fin);
    clients.iter().for_each(Stream::expect_fin);
}

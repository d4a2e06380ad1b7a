//! A paused pool holds its new connections, and lets them in again.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Backend, Isobar, Stream, wait_until, web};

#[track_caller]
fn pause(isobar: &Isobar, length: &str) -> Value {
    let body = match length {
        "" => String::new(),
        length => format!(r#"{{"for": "{length}"}}"#),
    };
    isobar.tell("POST", "/pools/web/pause", &body)
}

#[track_caller]
fn resume(isobar: &Isobar) -> Value {
    isobar.tell("POST", "/pools/web/resume", "")
}

fn started(settings: &str, backend: &Backend) -> Isobar {
    Isobar::start(&web(settings, &[backend.entry()]))
}

#[track_caller]
fn queue_up(isobar: &Isobar, place: u64) -> Stream {
    let client = isobar.connect("web");
    isobar.wait_count("/pools/web/held", place);
    client
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[test]
fn new_connections_wait_and_live_ones_go_on() {
    let backend = Backend::echo(support::Family::Ipv4);
    let isobar = started("", &backend);
    let live = isobar.connect("web");
    live.write("a");
    live.expect("a");
    let answer = pause(&isobar, "");
    assert_eq!(answer["paused"], true);
    assert_eq!(answer["paused_until"], Value::Null);
    assert_eq!(answer["active"], 1);
    let waiting = queue_up(&isobar, 1);
    waiting.write("b");
    live.write("c");
    live.expect("c");
    assert_eq!(isobar.stat("/pools/web/paused"), true);
    assert_eq!(isobar.stat("/overrides/0/field"), "paused");
    let listed = isobar.get("/connections?state=held").json();
    assert_eq!(listed["total"], 1);
    // Nothing is wrong with the backend.
    assert_eq!(isobar.get("/readyz?pool=web").status, 200);
    isobar.assert_calm();
    let answer = resume(&isobar);
    assert_eq!(answer["paused"], false);
    waiting.expect("b");
    leave(&waiting);
    leave(&live);
    assert_eq!(isobar.stat("/overrides"), json!([]));
}

#[test]
fn a_pause_ends_by_itself() {
    let backend = Backend::named("b1");
    let isobar = started("", &backend);
    let begun = Instant::now();
    let answer = pause(&isobar, "400ms");
    assert!(answer["paused_until"].is_string(), "{answer}");
    assert!(isobar.stat("/pools/web/paused_until").is_string());
    let client = queue_up(&isobar, 1);
    assert_eq!(client.read_line(), "b1");
    assert!(begun.elapsed() >= Duration::from_millis(390), "too early");
    leave(&client);
    assert_eq!(isobar.stat("/pools/web/paused"), false);
    assert_eq!(isobar.stat("/overrides"), json!([]));
}

/// A second pause replaces the end of the first one, also by none.
#[test]
fn a_longer_pause_replaces_a_shorter_one() {
    let backend = Backend::named("b1");
    let isobar = started("", &backend);
    pause(&isobar, "200ms");
    pause(&isobar, "");
    let client = queue_up(&isobar, 1);
    assert!(client.is_silent_for(Duration::from_millis(500)));
    resume(&isobar);
    assert_eq!(client.read_line(), "b1");
    leave(&client);
    // Asking for what is so already is no fault.
    resume(&isobar);
    assert_eq!(isobar.visit("web"), "b1");
}

#[test]
fn held_clients_are_let_in_in_the_order_in_which_they_came() {
    let backend = Backend::named("b1");
    let settings = "max_connecting = 1";
    let isobar = Isobar::start(&web(settings, &[backend.entry_with("max_connections = 1")]));
    pause(&isobar, "");
    let waiting: Vec<_> = (1..=6).map(|place| queue_up(&isobar, place)).collect();
    resume(&isobar);
    for (place, client) in waiting.iter().enumerate() {
        assert_eq!(client.read_line(), "b1");
        let mut others = waiting[place + 1..].iter();
        let overtook = others.any(|other| !other.is_silent_for(Duration::ZERO));
        assert!(!overtook, "somebody overtook the head of the queue");
        leave(client);
    }
}

/// However long it lasts: `hold.timeout` does not run, and all of it is there afterwards.
#[test]
fn the_hold_time_out_begins_when_the_pause_ends() {
    let backend = Backend::refusing("b1");
    let isobar = started("[pool.web.hold]\ntimeout = \"600ms\"\n", &backend);
    // Half of its time is used up before.
    let client = queue_up(&isobar, 1);
    assert!(client.is_silent_for(Duration::from_millis(300)));
    pause(&isobar, "");
    assert!(client.is_silent_for(Duration::from_millis(1500)));
    let resumed = Instant::now();
    resume(&isobar);
    client.expect_reset();
    assert!(resumed.elapsed() >= Duration::from_millis(590), "too early");
    isobar.wait_ended("web", "hold_timeout", 1);
}

#[test]
fn a_client_may_leave_a_paused_pool_and_a_full_queue_refuses() {
    let backend = Backend::named("b1");
    let isobar = started("[pool.web.hold]\nmax = 2\n", &backend);
    pause(&isobar, "");
    let waiting = [queue_up(&isobar, 1), queue_up(&isobar, 2)];
    isobar.connect("web").expect_reset();
    isobar.wait_ended("web", "hold_full", 1);
    let [first, second] = waiting;
    first.reset();
    second.fin();
    isobar.wait_ended("web", "client_left", 2);
    isobar.wait_count("/pools/web/held", 0);
    second.end();
    resume(&isobar);
    assert_eq!(isobar.visit("web"), "b1");
}

/// Clients of a paused pool are to wait, not to go elsewhere; and nobody comes in through
/// another pool that falls back to it.
#[test]
fn a_paused_pool_neither_falls_back_nor_is_fallen_back_to() {
    let backends = [Backend::named("b1"), Backend::named("spare")];
    let text = web("fallback = \"spare\"", &[backends[0].entry()])
        + "[listener.other]\nbind = \"127.0.0.1:0\"\npool = \"other\"\n"
        + "[pool.other]\nbackends = []\nfallback = \"web\"\n"
        + &format!("[pool.spare]\nbackends = [{}]\n", backends[1].entry());
    let mut isobar = Isobar::start(&text);
    isobar.skip_byte_check();
    isobar.wait_state("spare", "spare", "up");
    pause(&isobar, "");
    let client = queue_up(&isobar, 1);
    let other = isobar.connect("other");
    isobar.wait_count("/pools/other/held", 1);
    assert!(client.is_silent_for(Duration::from_millis(200)));
    assert_eq!(isobar.count("/pools/spare/connections/total"), 0);
    resume(&isobar);
    assert_eq!(client.read_line(), "b1");
    assert_eq!(other.read_line(), "b1");
    leave(&client);
    leave(&other);
}

#[test]
fn a_pool_that_holds_nothing_is_not_paused() {
    let backend = Backend::named("b1");
    let isobar = started("[pool.web.hold]\nmax = 0\n", &backend);
    let refused = isobar.ask("POST", "/pools/web/pause", "");
    assert_eq!(refused.status, 409);
    assert!(
        refused.json()["error"]
            .as_str()
            .is_some_and(|e| e.contains("hold.max"))
    );
    assert_eq!(isobar.visit("web"), "b1");
}

/// The recipe for connections that last: those who wait are not reset with those who idle.
#[test]
fn idle_connections_of_a_paused_pool_can_be_reset_without_those_who_wait() {
    let backend = Backend::named("b1");
    let isobar = started("", &backend);
    let (idle, _) = isobar.stay("web");
    pause(&isobar, "");
    let waiting = queue_up(&isobar, 1);
    wait_until("both were idle for a while", || {
        let found = isobar.get("/connections?pool=web&idle=100ms&limit=0");
        found.json()["total"] == 2
    });
    let filters = "/connections?pool=web&state=relaying&idle=100ms";
    assert_eq!(isobar.tell("DELETE", filters, "")["closed"], 1);
    idle.expect_reset();
    isobar.wait_count("/pools/web/backends/b1/connections/active", 0);
    resume(&isobar);
    assert_eq!(waiting.read_line(), "b1");
    leave(&waiting);
}

/// The recipe that fails no connection of any protocol: pause, wait until nothing is active,
/// restart, resume.
#[test]
fn the_only_backend_restarts_and_no_client_notices() {
    const CLIENTS: usize = 4;
    let backend = Backend::named("b1");
    let isobar = &started("", &backend);
    let (over, visits) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    assert_eq!(isobar.visit("web"), "b1");
                    visits.fetch_add(1, SeqCst);
                }
            });
        }
        let restarted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..10 {
                pause(isobar, "");
                isobar.wait_count("/pools/web/backends/b1/connections/active", 0);
                // Gone at once, with whatever it would have had.
                backend.crash();
                let before = visits.load(SeqCst);
                isobar.wait_count("/pools/web/held", CLIENTS as u64);
                backend.listen();
                resume(isobar);
                wait_until("they were let in", || {
                    visits.load(SeqCst) > before + CLIENTS
                });
            }
        }));
        over.store(true, SeqCst);
        // Nobody is left waiting, whatever went wrong.
        backend.listen();
        isobar.ask("POST", "/pools/web/resume", "");
        restarted.expect("every restart went well");
    });
    let total = visits.load(SeqCst) as u64;
    isobar.wait_ended("web", "client_closed", total);
    assert_eq!(isobar.count("/listeners/web/connections/total"), total);
    assert_eq!(isobar.count("/pools/web/backends/b1/connections/failed"), 0);
}

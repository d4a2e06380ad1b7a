//! Clients that no backend can take now wait, in order, instead of failing.

mod support;

use std::collections::VecDeque;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use support::{Backend, Blackhole, End, Family, Isobar, Pattern, Stream, wait_until, web};

/// Waits until pool `web` holds `n` clients.
#[track_caller]
fn wait_held(isobar: &Isobar, n: usize) {
    isobar.wait_count("/pools/web/held", n as u64);
}

/// One more client, in the queue behind those there are.
#[track_caller]
fn queue_up(isobar: &Isobar, place: usize) -> Stream {
    let client = isobar.connect("web");
    wait_held(isobar, place);
    client
}

/// Pool `web` with one backend that takes one connection at a time.
fn one_at_a_time(backend: &Backend, settings: &str) -> Isobar {
    Isobar::start(&web(settings, &[backend.entry_with("max_connections = 1")]))
}

/// `[pool.web.hold]` with these keys.
fn hold(keys: &str) -> String {
    format!("[pool.web.hold]\n{keys}\n")
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[test]
fn a_client_waits_until_the_only_backend_listens() {
    let backend = Backend::refusing("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = queue_up(&isobar, 1);
    let local = client.local().expect("an address");
    let held = isobar.metric("isobar_held_connections", &[("pool", "web")]);
    assert!((held - 1.0).abs() < f64::EPSILON, "{held}");
    assert!(client.is_silent_for(Duration::ZERO));
    backend.listen();
    assert_eq!(client.read_line(), "b1");
    leave(&client);
    let line = isobar.wait_access(local);
    assert_eq!(line.text("ended"), Some("client_closed"));
    assert_eq!(line.text("pick"), Some("held"));
    assert!(
        line.fields()["hold_ms"].as_f64() > Some(0.0),
        "{}",
        line.raw
    );
    assert_eq!(isobar.count("/pools/web/held_total"), 1);
}

#[test]
fn held_clients_cost_no_processor_time() {
    let backend = Backend::named("b1");
    let isobar = one_at_a_time(&backend, "");
    let (first, _) = isobar.stay("web");
    let waiting: Vec<_> = (1..=20).map(|place| queue_up(&isobar, place)).collect();
    for client in &waiting {
        client.write("while waiting");
    }
    isobar.assert_calm();
    // Those in the queue first, or they would be served one by one.
    waiting.into_iter().for_each(Stream::reset);
    isobar.wait_ended("web", "client_left", 20);
    leave(&first);
}

/// The only slot is given back again and again, and each time the longest waiting client gets
/// it, while newcomers join the end of the queue.
#[test]
fn held_clients_are_served_in_the_order_in_which_they_came() {
    let backend = Backend::named("b1");
    let isobar = one_at_a_time(&backend, "");
    let (mut served, _) = isobar.stay("web");
    let mut waiting: VecDeque<_> = (1..=5).map(|place| queue_up(&isobar, place)).collect();
    for round in 0..10 {
        leave(&served);
        let next = waiting.pop_front().expect("somebody waits");
        assert_eq!(next.read_line(), "b1");
        let overtook = waiting
            .iter()
            .any(|other| !other.is_silent_for(Duration::ZERO));
        assert!(!overtook, "somebody overtook the head of the queue");
        served = next;
        if round < 5 {
            waiting.push_back(queue_up(&isobar, waiting.len() + 1));
        }
    }
    leave(&served);
    assert_eq!(isobar.count("/pools/web/held_total"), 10);
}

#[test]
fn hundreds_of_held_clients_are_all_let_in() {
    const CLIENTS: usize = 300;
    let backend = Backend::refusing("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let clients: Vec<_> = (0..CLIENTS).map(|_| isobar.connect("web")).collect();
    wait_held(&isobar, CLIENTS);
    backend.listen();
    for client in &clients {
        assert_eq!(client.read_line(), "b1");
        leave(client);
    }
    isobar.wait_ended("web", "client_closed", CLIENTS as u64);
}

/// One slot, and far more clients than slots: a lost wake-up would leave the rest waiting.
#[test]
fn a_slot_that_is_given_back_is_never_forgotten() {
    const CLIENTS: usize = 6;
    const VISITS: usize = 60;
    let backend = Backend::named("b1");
    let isobar = one_at_a_time(&backend, &hold("timeout = \"1m\""));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..VISITS).for_each(|_| assert_eq!(isobar.visit("web"), "b1")));
        }
    });
    isobar.wait_ended("web", "client_closed", (CLIENTS * VISITS) as u64);
}

#[test]
fn a_full_queue_refuses_the_next_client() {
    let backend = Backend::refusing("b1");
    let isobar = Isobar::start(&web(&hold("max = 2"), &[backend.entry()]));
    let waiting = [queue_up(&isobar, 1), queue_up(&isobar, 2)];
    let late = isobar.connect("web");
    late.expect_reset();
    isobar.wait_ended("web", "hold_full", 1);
    assert_eq!(isobar.count("/pools/web/ended/hold_full"), 1);
    backend.listen();
    for client in &waiting {
        assert_eq!(client.read_line(), "b1");
        leave(client);
    }
}

#[test]
fn a_client_that_waited_for_the_hold_time_out_is_reset() {
    let backend = Backend::refusing("b1");
    let isobar = Isobar::start(&web(&hold("timeout = \"600ms\""), &[backend.entry()]));
    let started = Instant::now();
    let client = isobar.connect("web");
    client.expect_reset();
    assert!(started.elapsed() >= Duration::from_millis(590), "too early");
    isobar.wait_ended("web", "hold_timeout", 1);
}

#[test]
fn without_a_time_out_a_client_waits_on() {
    let backend = Backend::named("b1");
    let isobar = one_at_a_time(&backend, &hold("timeout = \"0s\""));
    let (first, _) = isobar.stay("web");
    let client = queue_up(&isobar, 1);
    assert!(client.is_silent_for(Duration::from_millis(300)));
    leave(&first);
    assert_eq!(client.read_line(), "b1");
    leave(&client);
}

#[test]
fn a_pool_that_does_not_hold_refuses_what_no_backend_can_take() {
    let backend = Backend::named("b1");
    let isobar = one_at_a_time(&backend, &hold("max = 0"));
    let (first, _) = isobar.stay("web");
    isobar.connect("web").expect_reset();
    isobar.wait_ended("web", "no_backend", 1);
    leave(&first);
    isobar.wait_count("/pools/web/connections/active", 0);
    assert_eq!(isobar.visit("web"), "b1");
    assert_eq!(isobar.count("/pools/web/held_total"), 0);
}

#[test]
fn a_pool_that_does_not_hold_says_that_its_backends_refused() {
    let backends = [Backend::refusing("b1"), Backend::refusing("b2")];
    let entries = backends.each_ref().map(Backend::entry);
    let isobar = Isobar::start(&web(&hold("max = 0"), &entries));
    let client = isobar.connect("web");
    let local = client.local().expect("an address");
    client.expect_reset();
    isobar.wait_ended("web", "connect_failed", 1);
    let line = isobar.wait_access(local);
    assert_eq!(line.text("ended"), Some("connect_failed"));
    for name in ["b1", "b2"] {
        let failed = format!("/pools/web/backends/{name}/connections/failed");
        assert!(isobar.count(&failed) >= 1, "{name} was not tried");
    }
}

#[test]
fn a_pool_that_does_not_hold_says_that_its_backend_did_not_answer() {
    let hole = Blackhole::new();
    let settings = format!("connect_timeout = \"200ms\"\n{}", hold("max = 0"));
    let isobar = Isobar::start(&web(&settings, &[hole.entry("hole", "")]));
    isobar.connect("web").expect_reset();
    isobar.wait_ended("web", "connect_timeout", 1);
}

#[test]
fn a_held_client_that_resets_has_left() {
    let backend = Backend::refusing("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = queue_up(&isobar, 1);
    client.write("some bytes");
    client.reset();
    isobar.wait_ended("web", "client_left", 1);
    wait_held(&isobar, 0);
}

#[test]
fn a_held_client_that_sends_fin_and_not_a_byte_has_left() {
    let backend = Backend::refusing("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = queue_up(&isobar, 1);
    client.fin();
    isobar.wait_ended("web", "client_left", 1);
    client.end();
}

#[test]
fn a_held_client_that_sends_bytes_and_fin_keeps_its_place() {
    let backend = Backend::manual(Family::Ipv4);
    backend.stop();
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = queue_up(&isobar, 1);
    client.write_and_fin(b"request");
    assert!(client.is_silent_for(Duration::from_millis(100)));
    wait_held(&isobar, 1);
    isobar.assert_calm();
    backend.listen();
    let server = backend.accept();
    assert_eq!(server.read_to_end(), (b"request".to_vec(), End::Fin));
    server.write("response");
    server.fin();
    assert_eq!(client.read_to_end(), (b"response".to_vec(), End::Fin));
    isobar.wait_ended("web", "client_closed", 1);
}

/// The bytes wait in the kernel, where TCP holds the client back, not in isobar.
#[test]
fn a_held_client_may_send_more_than_fits_and_all_of_it_arrives() {
    const N: u64 = 16 << 20;
    let backend = Backend::manual(Family::Ipv4);
    backend.stop();
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = queue_up(&isobar, 1);
    let before = isobar.process().resident();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write_pattern(Pattern(0), N);
            client.fin();
        });
        client.wait_for_stall();
        let grown = isobar.process().resident().saturating_sub(before);
        assert!(grown < 4 << 20, "{grown} bytes for one held client");
        backend.listen();
        let server = backend.accept();
        assert_eq!(server.read_pattern_to_end(Pattern(0)), (N, End::Fin));
    });
    client.expect_fin();
}

/// Those who leave, by reset, by FIN or at their time-out, free their place in the queue.
#[test]
fn places_of_those_who_left_are_free_again() {
    let backend = Backend::refusing("b1");
    let isobar = Isobar::start(&web(&hold("max = 3"), &[backend.entry()]));
    for _ in 0..3 {
        let waiting: Vec<_> = (1..=3).map(|place| queue_up(&isobar, place)).collect();
        waiting[0].fin();
        wait_held(&isobar, 2);
        waiting.into_iter().for_each(Stream::reset);
        wait_held(&isobar, 0);
    }
    isobar.wait_ended("web", "client_left", 9);
    assert_eq!(isobar.ended("web", "hold_full"), 0);
}

/// The only backend restarts under a stream of clients. Its listening socket is closed when no
/// connection is on the way to it, as a server does that stops in good order: then nobody
/// fails, and whoever comes in between waits.
#[test]
fn no_client_fails_while_the_only_backend_restarts() {
    const CLIENTS: usize = 4;
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let quiet = RwLock::new(());
    let done = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    let _visiting = quiet.read().expect("no panic in the test");
                    assert_eq!(isobar.visit("web"), "b1");
                    served.fetch_add(1, SeqCst);
                }
            });
        }
        let restarts = || {
            for _ in 0..4 {
                let before = served.load(SeqCst);
                wait_until("clients were served", || served.load(SeqCst) >= before + 20);
                let nobody_visits = quiet.write().expect("no panic in the test");
                backend.stop();
                drop(nobody_visits);
                wait_held(&isobar, CLIENTS);
                backend.listen();
            }
        };
        // Whatever happens the clients must stop, or the scope waits for ever.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(restarts));
        done.store(true, SeqCst);
        backend.listen();
        if let Err(failure) = outcome {
            std::panic::resume_unwind(failure);
        }
    });
    let total = isobar.count("/listeners/web/connections/total");
    isobar.wait_ended("web", "client_closed", total);
}

/// A crash costs the connections that were open then, and no other.
#[test]
fn a_crash_of_the_only_backend_costs_only_its_open_connections() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let open: Vec<_> = (0..5).map(|_| isobar.stay("web").0).collect();
    backend.crash();
    for client in open {
        client.expect_reset();
    }
    isobar.wait_ended("web", "backend_reset", 5);
    let waiting: Vec<_> = (1..=5).map(|place| queue_up(&isobar, place)).collect();
    backend.listen();
    for client in &waiting {
        assert_eq!(client.read_line(), "b1");
        leave(client);
    }
}

#[test]
fn another_pool_takes_what_this_one_cannot_before_anybody_waits() {
    let (main, spare) = (Backend::refusing("main"), Backend::named("spare"));
    let isobar = with_fallback(&main.entry(), &spare);
    for _ in 0..3 {
        assert_eq!(isobar.visit("web"), "spare");
    }
    assert_eq!(isobar.count("/pools/web/held_total"), 0);
    assert_eq!(
        isobar.count("/pools/spare/backends/spare/connections/total"),
        3
    );
    main.listen();
    assert_eq!(isobar.visit("web"), "main");
}

#[test]
fn another_pool_takes_what_is_above_the_limit_of_this_one() {
    let (main, spare) = (Backend::named("main"), Backend::named("spare"));
    let isobar = with_fallback(&main.entry_with("max_connections = 1"), &spare);
    let (first, name) = isobar.stay("web");
    assert_eq!(name, "main");
    assert_eq!(isobar.visit("web"), "spare");
    leave(&first);
    isobar.wait_count("/pools/web/backends/main/connections/active", 0);
    assert_eq!(isobar.visit("web"), "main");
}

fn with_fallback(main: &str, spare: &Backend) -> Isobar {
    let mut text = web("fallback = \"spare\"", &[main.to_owned()]);
    text.push_str(&format!(
        "[pool.spare]\nbackends = [{}]\n[pool.spare.health]\nkind = \"none\"\n",
        spare.entry()
    ));
    Isobar::start(&text)
}

/// A pool without backends is allowed, with a warning: its clients wait.
#[test]
fn clients_of_a_pool_without_backends_wait() {
    let isobar = Isobar::start(&web(&hold("timeout = \"300ms\""), &[]));
    let client = queue_up(&isobar, 1);
    client.expect_reset();
    isobar.wait_ended("web", "hold_timeout", 1);
    isobar.log().wait("a warning about it", |line| {
        line.raw.contains("web") && is_warning(line)
    });
}

fn is_warning(line: &support::Line) -> bool {
    line.text("level")
        .is_some_and(|level| level.eq_ignore_ascii_case("warn"))
}

/// Weight 0 is for backends that shall get nothing new.
#[test]
fn clients_wait_where_all_weights_are_zero() {
    let backend = Backend::named("b1");
    let settings = hold("timeout = \"300ms\"");
    let isobar = Isobar::start(&web(&settings, &[backend.entry_with("weight = 0")]));
    isobar.connect("web").expect_reset();
    isobar.wait_ended("web", "hold_timeout", 1);
    assert_eq!(backend.accepted(), 0);
}

/// The backend is up for its listener but fails its checks.
fn failing_its_checks(backend: &Backend, when_all_down: &str) -> Isobar {
    let settings = format!(
        "when_all_down = \"{when_all_down}\"\n\
         [pool.web.health]\nkind = \"exchange\"\nsend = \"\"\nexpect = \"never said\"\n\
         interval = \"50ms\"\nfast_interval = \"50ms\"\ntimeout = \"50ms\"\nfall = 1\n{}",
        hold("timeout = \"400ms\"")
    );
    let mut isobar = Isobar::start(&web(&settings, &[backend.entry()]));
    isobar.skip_byte_check();
    isobar.wait_state("web", "b1", "down");
    isobar
}

#[test]
fn a_backend_that_is_down_by_checks_gets_nobody() {
    let backend = Backend::named("b1");
    let isobar = failing_its_checks(&backend, "hold");
    isobar.connect("web").expect_reset();
    isobar.wait_ended("web", "hold_timeout", 1);
}

#[test]
fn a_backend_that_is_down_by_checks_is_tried_where_that_is_wished() {
    let backend = Backend::named("b1");
    let isobar = failing_its_checks(&backend, "try");
    let (client, name) = isobar.stay("web");
    let local = client.local().expect("an address");
    assert_eq!(name, "b1");
    leave(&client);
    assert_eq!(isobar.wait_access(local).text("pick"), Some("try"));
}

/// The pauses are 100, 200, 400 and 800 ms, then 1 s each; the machine may be slower than that.
#[test]
fn a_client_that_is_held_alone_tries_at_ever_longer_pauses() {
    let backend = Backend::refusing("b1");
    let settings = "connect_attempts = 1\n[pool.web.health]\nkind = \"none\"\n";
    let isobar = Isobar::start(&web(settings, &[backend.entry()]));
    let begun = Instant::now();
    let client = queue_up(&isobar, 1);
    let tried = || {
        let tried = isobar.stat("/pools/web/backends/b1/connections/failed");
        tried.as_u64().expect("a count")
    };
    wait_until("it tried five times", || tried() >= 5);
    // The first try is no tick; four ticks end after 1.5 s.
    assert!(begun.elapsed() >= Duration::from_millis(1_400));
    let (tried_by_now, since) = (tried(), Instant::now());
    wait_until("it tried thrice more", || tried() >= tried_by_now + 3);
    assert!(since.elapsed() >= Duration::from_millis(1_800));
    backend.listen();
    assert_eq!(client.read_line(), "b1");
    leave(&client);
}

/// 1. The only slots of pool `web` and of its fallback are taken; a client is held.
/// 2. Another arrives: it queues behind, although its turn in the fallback would come first.
/// 3. A slot of the fallback is given back: the held client gets it, then the other one does.
#[test]
fn who_is_held_comes_before_newcomers_in_the_fallback_too() {
    let (own, other) = (Backend::named("own"), Backend::named("other"));
    let text = web(
        "fallback = \"spare\"",
        &[own.entry_with("max_connections = 1")],
    ) + &format!(
        "[pool.spare]\nbackends = [{}]\n[pool.spare.health]\nkind = \"none\"\n",
        other.entry_with("max_connections = 1")
    );
    let isobar = Isobar::start(&text);
    let (first, name) = isobar.stay("web");
    assert_eq!(name, "own");
    let (second, name) = isobar.stay("web");
    assert_eq!(name, "other");
    let held = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    let newcomer = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 2);
    second.fin();
    second.expect_fin();
    assert_eq!(held.read_line(), "other");
    isobar.wait_count("/pools/web/held", 1);
    held.fin();
    held.expect_fin();
    assert_eq!(newcomer.read_line(), "other");
    for client in [first, newcomer] {
        client.fin();
        client.expect_fin();
    }
    isobar.wait_ended("web", "client_closed", 4);
}

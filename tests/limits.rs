//! Limits on connections, and the limit of the machine on descriptors: exact, and nobody who
//! is over one is refused or forgotten.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use support::{
    Backend, Blackhole, Family, Isobar, Launch, Line, Stream, scaled, wait_for, wait_until, web,
};

/// Enough for whoever is let in wrongly to be seen.
const LOOK: Duration = Duration::from_millis(300);

/// A backend that says its name, and the most connections that it ever had at once.
fn counting() -> (Backend, Arc<AtomicUsize>) {
    let most = Arc::new(AtomicUsize::new(0));
    let now = AtomicUsize::new(0);
    let seen = Arc::clone(&most);
    let backend = Backend::serving(Family::Ipv4, "b1", move |stream| {
        seen.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        let _ = stream.try_write("b1\n");
        while let Ok(1..) = stream.read(&mut [0; 64]) {}
        // Before the connection is closed, or the next one could be there already.
        now.fetch_sub(1, SeqCst);
    });
    (backend, most)
}

/// A second listener of pool `web`, with these keys.
fn listener(name: &str, keys: &str) -> String {
    format!("[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n{keys}\n")
}

fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[track_caller]
fn assert_served(client: &Stream) {
    assert_eq!(client.read_line(), "b1");
}

/// Asserts that none of `clients` is served.
#[track_caller]
fn assert_waiting(clients: &[Stream]) {
    let served = clients.iter().filter(|client| is_served(client));
    assert_eq!(served.count(), 0, "somebody was let in above the limit");
}

/// The value of a gauge that is one number.
#[track_caller]
fn gauge(isobar: &Isobar, name: &str, labels: &[(&str, &str)]) -> u64 {
    isobar.metric(name, labels) as u64
}

/// The configuration that limits listener `web` to `n` connections at once, by each of the
/// three limits there are.
fn limited(n: usize, backend: &Backend) -> [(&'static str, String); 3] {
    let plain = web("", &[backend.entry()]);
    let by_process = format!("[runtime]\nmax_connections = {n}\n{plain}");
    let by_listener = plain.replace(
        "bind = \"127.0.0.1:0\"\n",
        &format!("bind = \"127.0.0.1:0\"\nmax_connections = {n}\n"),
    );
    let by_backend = web("", &[backend.entry_with(&format!("max_connections = {n}"))]);
    [
        ("process", by_process),
        ("listener", by_listener),
        ("backend", by_backend),
    ]
}

#[test]
fn every_limit_is_exact_and_a_slot_that_is_given_back_is_used_at_once() {
    const LIMIT: usize = 5;
    let (backend, most) = counting();
    for (of, text) in limited(LIMIT, &backend) {
        let isobar = Isobar::start(&text);
        let mut inside: Vec<_> = (0..LIMIT).map(|_| isobar.stay("web").0).collect();
        let mut waiting: Vec<_> = (0..LIMIT).map(|_| isobar.connect("web")).collect();
        std::thread::sleep(LOOK);
        assert_waiting(&waiting);
        isobar.assert_calm();
        while !waiting.is_empty() {
            leave(&inside.remove(0));
            let next = wait_for("one of them was let in", || {
                waiting.iter().position(is_served)
            });
            let next = waiting.swap_remove(next);
            assert_served(&next);
            inside.push(next);
        }
        inside.iter().for_each(leave);
        assert_eq!(most.load(SeqCst), LIMIT, "{of}");
        isobar.wait_ended("web", "client_closed", 2 * LIMIT as u64);
    }
}

/// Whether something has come for it.
fn is_served(client: &Stream) -> bool {
    !client.is_silent_for(Duration::ZERO)
}

#[test]
fn no_limit_is_exceeded_in_a_rush_and_everybody_is_served() {
    const LIMIT: usize = 4;
    const THREADS: usize = 12;
    const VISITS: usize = 25;
    let (backend, most) = counting();
    for (of, text) in limited(LIMIT, &backend) {
        let isobar = Isobar::start(&text);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| (0..VISITS).for_each(|_| assert_eq!(isobar.visit("web"), "b1")));
            }
        });
        assert!(most.load(SeqCst) <= LIMIT, "{of}: {}", most.load(SeqCst));
        isobar.wait_ended("web", "client_closed", (THREADS * VISITS) as u64);
    }
}

#[test]
fn a_listener_at_its_limit_says_so_and_stops_saying_so() {
    let backend = Backend::named("b1");
    let [_, (_, text), _] = limited(1, &backend);
    let isobar = Isobar::start(&text);
    let paused = |reason| {
        let labels = [("listener", "web"), ("reason", reason)];
        gauge(&isobar, "isobar_accept_paused", &labels)
    };
    assert_eq!((paused("limit"), paused("descriptors")), (0, 0));
    assert_eq!(isobar.stat("/listeners/web/accepting"), true);
    let (first, _) = isobar.stay("web");
    let second = isobar.connect("web");
    wait_until("it was known to be full", || paused("limit") == 1);
    assert_eq!(isobar.stat("/listeners/web/accepting"), false);
    assert_eq!(isobar.count("/listeners/web/connections/total"), 1);
    leave(&first);
    assert_served(&second);
    leave(&second);
    wait_until("it was known to have room", || paused("limit") == 0);
    assert_eq!(isobar.stat("/listeners/web/accepting"), true);
}

/// The first listener has used up the limit of the process.
#[test]
fn a_second_listener_gets_the_next_slot_of_the_process() {
    let backend = Backend::named("b1");
    let [(_, mut text), ..] = limited(2, &backend);
    text.push_str(&listener("second", ""));
    let isobar = Isobar::start(&text);
    let (first, _) = isobar.stay("web");
    let (other, _) = isobar.stay("web");
    let waiting = isobar.connect("second");
    assert!(waiting.is_silent_for(LOOK));
    isobar.assert_calm();
    leave(&first);
    assert_served(&waiting);
    leave(&waiting);
    leave(&other);
}

/// A crowd waits at the first listener; whoever comes to the second need not wait for all of
/// them.
#[test]
fn a_crowd_at_one_listener_does_not_starve_another() {
    const CROWD: usize = 40;
    let backend = Backend::named("b1");
    let [(_, mut text), ..] = limited(1, &backend);
    text.push_str(&listener("second", ""));
    let isobar = Isobar::start(&text);
    let (first, _) = isobar.stay("web");
    let mut crowd: Vec<_> = (0..CROWD).map(|_| isobar.connect("web")).collect();
    let lonely = isobar.connect("second");
    // Until the second listener, too, stands in line for a slot.
    std::thread::sleep(LOOK);
    leave(&first);
    let mut before = 0;
    wait_until("the lonely one was served", || {
        if let Some(next) = crowd.iter().position(is_served) {
            leave_as_served(&crowd.remove(next));
            before += 1;
        }
        is_served(&lonely)
    });
    assert!(
        before < CROWD / 2,
        "{before} of the crowd were served first"
    );
    leave_as_served(&lonely);
    crowd.iter().for_each(leave_as_served);
}

fn leave_as_served(client: &Stream) {
    assert_served(client);
    leave(client);
}

#[test]
fn a_listener_at_its_own_limit_takes_no_slot_from_another() {
    let backend = Backend::named("b1");
    let mut text = format!(
        "[runtime]\nmax_connections = 3\n{}",
        web("", &[backend.entry()])
    );
    text.push_str(&listener("narrow", "max_connections = 1"));
    let isobar = Isobar::start(&text);
    let (first, _) = isobar.stay("narrow");
    let crowd: Vec<_> = (0..10).map(|_| isobar.connect("narrow")).collect();
    std::thread::sleep(LOOK);
    for _ in 0..10 {
        assert_eq!(isobar.visit("web"), "b1");
    }
    leave(&first);
    crowd.iter().for_each(leave_as_served);
}

#[test]
fn at_most_max_connecting_connects_to_a_backend_are_in_progress() {
    let hole = Blackhole::new();
    let settings = "max_connecting = 2\nconnect_timeout = \"1m\"\n";
    let isobar = Isobar::start(&web(settings, &[hole.entry("hole", "")]));
    let clients: Vec<_> = (0..6).map(|_| isobar.connect("web")).collect();
    isobar.wait_count("/pools/web/held", 4);
    let connecting = "/pools/web/backends/hole/connections/connecting";
    assert_eq!(isobar.count(connecting), 2);
    std::thread::sleep(LOOK);
    assert_eq!(isobar.count(connecting), 2);
    assert_eq!(isobar.count("/pools/web/held"), 4);
    clients.into_iter().for_each(Stream::reset);
    isobar.wait_ended("web", "client_left", 6);
}

#[test]
fn a_limit_above_what_the_machine_allows_is_lowered_with_a_warning() {
    let (backend, most) = counting();
    let [(_, text), ..] = limited(5000, &backend);
    let isobar = Launch::new(&text).nofile(64).start();
    let limit = isobar.count("/connections/limit");
    assert!((1..32).contains(&limit), "{limit}");
    assert_eq!(gauge(&isobar, "isobar_connections_limit", &[]), limit);
    let warning = isobar.log().wait("a warning about it", |line: &Line| {
        is_warning(line) && line.raw.contains("max_connections = 5000")
    });
    assert!(warning.raw.contains(&limit.to_string()), "{}", warning.raw);
    let limit = usize::try_from(limit).expect("a few");
    let inside: Vec<_> = (0..limit).map(|_| isobar.stay("web").0).collect();
    let late = isobar.connect("web");
    assert!(late.is_silent_for(LOOK));
    inside.iter().for_each(leave);
    leave_as_served(&late);
    assert_eq!(most.load(SeqCst), limit);
}

/// Steps: as many clients as the limit says, at once; each is served, with room for a request
/// to the admin endpoint.
#[test]
fn the_limit_that_few_descriptors_allow_is_one_that_is_served() {
    for (threads, nofile) in [(1, 24), (2, 32), (4, 40), (1, 64), (2, 64), (4, 64)] {
        let backend = Backend::named("b1");
        let text = web("", &[backend.entry()]);
        let text = format!("[runtime]\nthreads = {threads}\n{text}");
        let isobar = Launch::new(&text).nofile(nofile).start();
        let limit = isobar.count("/connections/limit");
        assert!(limit >= 1, "{threads} threads, {nofile} descriptors");
        let inside: Vec<_> = (0..limit).map(|_| isobar.stay("web").0).collect();
        assert_eq!(isobar.count("/connections/active"), limit);
        let late = isobar.connect("web");
        assert!(late.is_silent_for(LOOK));
        inside.iter().for_each(leave);
        leave_as_served(&late);
    }
}

fn is_warning(line: &Line) -> bool {
    line.text("level")
        .is_some_and(|level| level.eq_ignore_ascii_case("warn"))
}

/// Far more clients than the process has descriptors for.
#[test]
fn with_few_descriptors_everybody_waits_and_is_served_in_the_end() {
    const CLIENTS: usize = 200;
    let backend = Backend::named("b1");
    let isobar = Launch::new(&web("", &[backend.entry()])).nofile(64).start();
    let start = Instant::now();
    let (live, _) = isobar.stay("web");
    let clients: Vec<_> = (0..CLIENTS).map(|_| isobar.connect("web")).collect();
    std::thread::sleep(LOOK);
    isobar.assert_calm();
    live.write("still here");
    for client in &clients {
        leave_as_served(client);
    }
    leave(&live);
    isobar.wait_ended("web", "client_closed", CLIENTS as u64 + 1);
    assert_few_warnings(&isobar, start);
}

/// At most one line a second, by either cause, and one for the beginning.
#[track_caller]
fn assert_few_warnings(isobar: &Isobar, start: Instant) {
    let allowed = 2 * (start.elapsed().as_secs() as usize + 2);
    let lines = isobar.log().lines();
    let warnings = lines.iter().filter(|line| is_warning(line)).count();
    assert!(
        warnings <= allowed,
        "{warnings} lines:\n{}",
        isobar.log().text()
    );
}

/// The descriptors are gone although the limit on connections is far away: somebody has
/// lowered the limit of the running process.
#[test]
fn without_a_descriptor_clients_wait_and_live_connections_go_on() {
    let echo = Backend::echo(Family::Ipv4);
    let isobar = Isobar::start(&web("", &[echo.entry()]));
    let live = isobar.connect("web");
    live.write("ping");
    live.expect("ping");
    let start = Instant::now();
    let shortage = isobar.process().leave_descriptors(0);
    let waiting: Vec<_> = (0..50).map(|_| isobar.connect("web")).collect();
    isobar.log().wait("that it cannot accept", |line: &Line| {
        is_warning(line) && line.raw.contains("Too many open files")
    });
    for _ in 0..20 {
        live.write("ping");
        live.expect("ping");
    }
    isobar.assert_calm();
    assert!(
        waiting
            .iter()
            .all(|client| client.is_silent_for(Duration::ZERO))
    );
    assert_few_warnings(&isobar, start);
    drop(shortage);
    for client in &waiting {
        client.write("pong");
        client.expect("pong");
        leave(client);
    }
    leave(&live);
    let errors = isobar.metric("isobar_accept_errors_total", &[("errno", "EMFILE")]);
    assert!(errors >= 1.0, "{errors}");
    let labels = [("listener", "web"), ("reason", "descriptors")];
    wait_until("accepting went on", || {
        gauge(&isobar, "isobar_accept_paused", &labels) == 0
    });
}

/// One descriptor is left: enough to accept, not enough to connect a backend.
#[test]
fn without_a_descriptor_for_the_backend_a_client_is_held() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let shortage = isobar.process().leave_descriptors(1);
    let client = isobar.connect("web");
    assert!(client.is_silent_for(LOOK));
    isobar.assert_calm();
    drop(shortage);
    let local = client.local().expect("an address");
    leave_as_served(&client);
    let line = isobar.wait_access(local);
    assert_eq!(line.text("ended"), Some("client_closed"));
    assert!(
        line.fields()["hold_ms"].as_f64() > Some(0.0),
        "{}",
        line.raw
    );
    assert_not_blamed(&isobar);
}

#[test]
fn where_nobody_is_held_a_local_error_ends_the_connection_as_such() {
    let backend = Backend::named("b1");
    let settings = "connect_attempts = 3\n[pool.web.hold]\nmax = 0\n";
    let isobar = Isobar::start(&web(settings, &[backend.entry()]));
    for _ in 0..6 {
        let shortage = isobar.process().leave_descriptors(1);
        let client = isobar.connect("web");
        let local = client.local().expect("an address");
        client.expect_reset();
        let line = isobar.wait_access(local);
        assert_eq!(line.text("ended"), Some("local_error"), "{}", line.raw);
        assert_eq!(
            line.fields()["attempts"],
            1,
            "another would meet the same fault"
        );
        drop(shortage);
    }
    isobar.wait_ended("web", "local_error", 6);
    assert_not_blamed(&isobar);
    assert_eq!(isobar.visit("web"), "b1");
}

/// More local errors than connects of a backend may fail before it is put out.
#[track_caller]
fn assert_not_blamed(isobar: &Isobar) {
    assert_eq!(isobar.stat("/pools/web/backends/b1/state"), "up");
    assert_eq!(isobar.count("/pools/web/backends/b1/connections/failed"), 0);
    let labels = |reason| [("backend", "b1"), ("reason", reason)];
    for reason in ["refused", "timeout", "unreachable", "reset", "other"] {
        let name = "isobar_backend_connect_failures_total";
        assert_eq!(gauge(isobar, name, &labels(reason)), 0, "{reason}");
    }
    assert_eq!(
        gauge(isobar, "isobar_ejections_total", &[("pool", "web")]),
        0
    );
}

/// A check that has no descriptor says nothing about its backend.
#[test]
fn without_a_descriptor_no_check_takes_a_backend_down() {
    let backend = Backend::named("b1");
    let settings = "[pool.web.health]\nkind = \"tcp\"\ninterval = \"50ms\"\ntimeout = \"2s\"\n\
                    fast_interval = \"50ms\"\nfall = 2\n";
    let mut isobar = Isobar::start(&web(settings, &[backend.entry()]));
    isobar.skip_byte_check();
    isobar.wait_state("web", "b1", "up");
    let before = backend.accepted();
    let shortage = isobar.process().leave_descriptors(0);
    std::thread::sleep(scaled(Duration::from_millis(500)));
    drop(shortage);
    wait_until("checks went on", || backend.accepted() > before + 2);
    assert_eq!(isobar.stat("/pools/web/backends/b1/state"), "up");
    assert_eq!(isobar.count("/pools/web/backends/b1/connections/failed"), 0);
    assert_eq!(isobar.count("/pools/web/backends/b1/health/transitions"), 1);
}

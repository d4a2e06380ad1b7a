//! Active checks: when they come, and what their results do to a backend. What passes is in
//! `health_kinds.rs`.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Backend, Family, Isobar, Stream, wait_for, wait_until, web};

/// `[pool.web.health]` of checks whose verdict the backend gives in words.
fn asked(keys: &str) -> String {
    format!("[pool.web.health]\nkind = \"exchange\"\nexpect = \"ok\"\n{keys}\n")
}

/// A backend that says "ok", or "no", to whoever comes, checks and clients alike.
fn moody(name: &str) -> (Backend, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let mood = Arc::clone(&well);
    let backend = Backend::serving(Family::Ipv4, name, move |stream| {
        if mood.load(SeqCst) {
            let _ = stream.try_write("ok\n");
        } else {
            let _ = stream.try_write("no\n");
            stream.fin();
        }
        while let Ok(1..) = stream.read(&mut [0; 64]) {}
    });
    (backend, well)
}

/// A backend that notes when somebody came.
fn timed(name: &str, arrivals: &Arc<Mutex<Vec<Instant>>>) -> Backend {
    let arrivals = Arc::clone(arrivals);
    Backend::serving(Family::Ipv4, name, move |stream| {
        arrivals.lock().expect("no panic").push(Instant::now());
        while let Ok(1..) = stream.read(&mut [0; 64]) {}
    })
}

/// Backends see the bytes of checks, too.
fn start(text: &str) -> Isobar {
    let mut isobar = Isobar::start(text);
    isobar.skip_byte_check();
    isobar
}

fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// A value of backend `b1`.
#[track_caller]
fn of_b1(isobar: &Isobar, pointer: &str) -> serde_json::Value {
    isobar.stat(&format!("/pools/web/backends/b1/{pointer}"))
}

/// Backend `b1`, played by the test, which answers one check after the other.
struct Examined<'a> {
    isobar: &'a Isobar,
    backend: &'a Backend,
    check: Stream,
}

impl<'a> Examined<'a> {
    /// Waits for the first check.
    fn new(isobar: &'a Isobar, backend: &'a Backend) -> Self {
        let check = backend.accept();
        Self {
            isobar,
            backend,
            check,
        }
    }

    /// Answers, waits for the next check, and says what state the answer made.
    #[track_caller]
    fn answers(&mut self, passes: bool) -> String {
        self.check.write(if passes { "ok" } else { "no" });
        self.check.fin();
        self.check = self.backend.accept();
        let state = of_b1(self.isobar, "state");
        state.as_str().expect("a word").to_owned()
    }

    /// Answers in turn; the states must be these.
    #[track_caller]
    fn goes_through<const N: usize>(&mut self, answers: [(bool, &str); N]) {
        for (i, (passes, state)) in answers.into_iter().enumerate() {
            assert_eq!(self.answers(passes), state, "after answer {i}");
        }
    }
}

/// No check may be left without an answer, or its descriptor would look like a leak.
impl Drop for Examined<'_> {
    fn drop(&mut self) {
        self.backend.dismiss();
    }
}

/// Quick, with as much time for an answer as the test wants.
const QUICK: &str = "interval = \"100ms\"\nfast_interval = \"50ms\"\ntimeout = \"9s\"\n";

#[test]
fn rise_and_fall_are_exact_and_a_result_of_the_other_kind_starts_anew() {
    let (b1, b2) = (Backend::manual_as("b1"), moody("b2").0);
    let settings = asked(&format!("{QUICK}rise = 2\nfall = 3"));
    let isobar = start(&web(&settings, &[b1.entry(), b2.entry()]));
    let mut b1 = Examined::new(&isobar, &b1);
    assert_eq!(of_b1(&isobar, "state"), "starting");
    b1.goes_through([
        (true, "up"),
        (false, "up"),
        (false, "up"),
        (true, "up"),
        (false, "up"),
        (false, "up"),
        (false, "down"),
        (true, "down"),
        (false, "down"),
        (true, "down"),
        (true, "up"),
    ]);
    assert_eq!(of_b1(&isobar, "health/transitions"), 3);
    let changes = |state: &str| {
        let lines = isobar.log().lines().into_iter();
        let of_b1 = lines.filter(|line| line.message() == "backend");
        let of_b1 = of_b1.filter(|line| line.text("backend") == Some("b1"));
        of_b1
            .filter(|line| line.text("state") == Some(state))
            .count()
    };
    assert_eq!((changes("up"), changes("down")), (2, 1));
}

#[test]
fn a_backend_that_comes_and_goes_needs_more_passed_checks_each_time() {
    let (b1, b2) = (Backend::manual_as("b1"), moody("b2").0);
    let settings = asked(&format!("{QUICK}rise = 2\nfall = 1"));
    let isobar = start(&web(&settings, &[b1.entry(), b2.entry()]));
    let mut b1 = Examined::new(&isobar, &b1);
    b1.goes_through([(true, "up")]);
    for needed in [2, 4, 8, 16, 16] {
        b1.goes_through([(false, "down")]);
        for left in (1..=needed).rev() {
            assert_eq!(of_b1(&isobar, "health/passes_needed"), left);
            let state = b1.answers(true);
            assert_eq!(state == "up", left == 1, "{left} of {needed} were missing");
        }
        assert_eq!(of_b1(&isobar, "health/passes_needed"), 0);
    }
}

#[test]
fn the_first_result_alone_takes_a_backend_down() {
    let (b1, b2) = (Backend::manual_as("b1"), moody("b2").0);
    let settings = asked(&format!("{QUICK}fall = 5"));
    let isobar = start(&web(&settings, &[b1.entry(), b2.entry()]));
    let mut b1 = Examined::new(&isobar, &b1);
    b1.goes_through([(false, "down")]);
    let error = of_b1(&isobar, "health/last_error");
    assert!(
        error.as_str().is_some_and(|error| error.contains("no")),
        "{error}"
    );
    assert_eq!(of_b1(&isobar, "health/last_ok"), false);
}

#[test]
fn one_passed_check_brings_the_only_backend_up() {
    let b1 = Backend::manual_as("b1");
    let settings = asked(&format!("{QUICK}rise = 7\nfall = 1"));
    let isobar = start(&web(&settings, &[b1.entry()]));
    let mut b1 = Examined::new(&isobar, &b1);
    b1.goes_through([
        (true, "up"),
        (false, "down"),
        (true, "up"),
        (false, "down"),
        (true, "up"),
    ]);
}

#[test]
fn clients_wait_for_the_first_result_and_readiness_does_too() {
    let b1 = Backend::manual_as("b1");
    let isobar = start(&web(&asked(QUICK), &[b1.entry()]));
    let check = b1.accept();
    let ready = isobar.get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("b1"), "{}", ready.body);
    let client = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    client.write("hello");
    check.write("ok");
    // Checks may come in between.
    let server = wait_for("the client got through", || {
        let next = b1.accept();
        next.write("ok");
        (next.try_read_up_to(5) == b"hello").then_some(next)
    });
    client.expect("ok");
    client.fin();
    server.fin();
    client.expect_fin();
    assert_eq!(isobar.get("/readyz").status, 200);
    b1.dismiss();
}

#[test]
fn a_starting_backend_is_not_used_while_another_is_up() {
    let (b1, b2) = (Backend::manual_as("b1"), moody("b2").0);
    let isobar = start(&web(&asked(QUICK), &[b1.entry(), b2.entry()]));
    let check = b1.accept();
    isobar.wait_state("web", "b2", "up");
    assert_eq!(isobar.visits("web", 10), [("ok".to_owned(), 10)].into());
    assert_eq!(
        (b1.accepted(), of_b1(&isobar, "state").as_str()),
        (1, Some("starting"))
    );
    drop(check);
    b1.dismiss();
}

#[test]
fn a_backend_that_is_down_gets_no_new_connection_and_keeps_its_old_ones() {
    let ((b1, well), (b2, _)) = (moody("b1"), moody("b2"));
    let settings = asked("interval = \"50ms\"\nfast_interval = \"50ms\"\ntimeout = \"5s\"");
    let isobar = start(&web(&settings, &[b1.entry(), b2.entry()]));
    isobar.wait_state("web", "b1", "up");
    isobar.wait_state("web", "b2", "up");
    let both = [isobar.stay("web").0, isobar.stay("web").0];
    well.store(false, SeqCst);
    isobar.wait_state("web", "b1", "down");
    assert_eq!(isobar.visits("web", 10), [("ok".to_owned(), 10)].into());
    assert_eq!(of_b1(&isobar, "connections/active"), 1);
    both.iter().for_each(leave);
    well.store(true, SeqCst);
    isobar.wait_state("web", "b1", "up");
}

/// The ordinary interval is half a minute: nobody waits for that here.
const SLOW: &str = "[pool.web.health]\nkind = \"tcp\"\ninterval = \"30s\"\n\
                    fast_interval = \"50ms\"\ntimeout = \"5s\"\n";

#[test]
fn a_failed_connect_brings_checks_forward() {
    let backends = [Backend::named("b1"), Backend::named("b2")];
    let isobar = start(&web(SLOW, &backends.each_ref().map(Backend::entry)));
    isobar.wait_state("web", "b1", "up");
    isobar.wait_state("web", "b2", "up");
    backends[0].stop();
    assert_eq!(isobar.visits("web", 2), [("b2".to_owned(), 2)].into());
    isobar.wait_state("web", "b1", "down");
    assert_eq!(of_b1(&isobar, "health/transitions"), 2);
}

#[test]
fn a_held_client_brings_checks_forward() {
    let backend = Backend::refusing("b1");
    let isobar = start(&web(SLOW, &[backend.entry()]));
    isobar.wait_state("web", "b1", "down");
    let client = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    backend.listen();
    assert_eq!(client.read_line(), "b1");
    leave(&client);
}

#[test]
fn a_refusing_backend_is_down_for_a_check_that_only_connects() {
    let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
    let settings = "[pool.web.health]\nkind = \"tcp\"\ninterval = \"50ms\"\ntimeout = \"5s\"\n";
    let isobar = start(&web(settings, &[b1.entry(), b2.entry()]));
    isobar.wait_state("web", "b1", "up");
    b1.stop();
    isobar.wait_state("web", "b1", "down");
    let error = of_b1(&isobar, "health/last_error");
    assert!(
        error
            .as_str()
            .is_some_and(|error| error.contains("refused")),
        "{error}"
    );
    b1.listen();
    isobar.wait_state("web", "b1", "up");
}

#[test]
fn another_port_may_be_checked_and_a_fault_names_it() {
    let (traffic, checked) = (Backend::named("b1"), Backend::named("checked"));
    let port = checked.address().to_string();
    let port = port.rsplit(':').next().expect("a port");
    let settings = format!(
        "[pool.web.health]\nkind = \"tcp\"\ninterval = \"50ms\"\ntimeout = \"5s\"\nport = {port}\n"
    );
    let isobar = start(&web(&settings, &[traffic.entry()]));
    isobar.wait_state("web", "b1", "up");
    assert_eq!(isobar.visit("web"), "b1");
    assert_eq!(traffic.accepted(), 1);
    checked.stop();
    isobar.wait_state("web", "b1", "down");
    let error = of_b1(&isobar, "health/last_error");
    assert!(
        error.as_str().is_some_and(|error| error.contains(port)),
        "{error}"
    );
}

#[test]
fn a_check_that_is_slower_than_the_interval_is_the_only_one_under_way() {
    let b1 = Backend::manual_as("b1");
    let settings = asked("interval = \"20ms\"\nfast_interval = \"20ms\"\ntimeout = \"9s\"");
    let isobar = start(&web(&settings, &[b1.entry()]));
    let check = b1.accept();
    assert!(check.is_silent_for(Duration::from_millis(400)));
    assert_eq!(b1.accepted(), 1);
    assert_eq!(isobar.get("/readyz").status, 503);
    drop(check);
    b1.dismiss();
}

#[test]
fn checks_count_for_nothing_of_what_is_counted_for_clients() {
    let b1 = Backend::named("b1");
    let settings = "balance = \"least-connections\"\n[pool.web.health]\nkind = \"tcp\"\n\
                    interval = \"20ms\"\ntimeout = \"5s\"\n";
    let isobar = start(&web(settings, &[b1.entry()]));
    wait_until("it was checked a few times", || b1.accepted() >= 5);
    let stats = isobar.stats();
    let pool = &stats["pools"]["web"];
    assert_eq!(pool["connections"]["total"], 0);
    let connections = &pool["backends"]["b1"]["connections"];
    assert_eq!(
        (&connections["active"], &connections["total"]),
        (&0.into(), &0.into())
    );
    assert_eq!(
        (&pool["bytes_in"], &pool["bytes_out"]),
        (&0.into(), &0.into())
    );
    assert_eq!(pool["backends"]["b1"]["connect_seconds"]["count"], 0);
    let passed = isobar.metric(
        "isobar_backend_health_checks_total",
        &[("result", "passed")],
    );
    assert!(passed >= 4.0, "{passed}");
}

/// All checks are overdue when the process goes on.
#[test]
fn after_a_pause_of_the_process_there_is_no_burst_of_checks_and_nobody_goes_down() {
    const INTERVAL: Duration = Duration::from_millis(200);
    let arrivals: [Arc<Mutex<Vec<Instant>>>; 5] = Default::default();
    let backends: Vec<_> = (1..)
        .zip(&arrivals)
        .map(|(i, at)| timed(&format!("b{i}"), at))
        .collect();
    let settings = "[pool.web.health]\nkind = \"tcp\"\ninterval = \"200ms\"\n\
                    fast_interval = \"200ms\"\ntimeout = \"500ms\"\nfall = 1\n";
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let isobar = start(&web(settings, &entries));
    for backend in &backends {
        isobar.wait_state("web", backend.name(), "up");
    }
    isobar.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(3));
    let resumed = Instant::now();
    isobar.signal(Signal::CONT);
    for arrivals in &arrivals {
        let since = || {
            let arrivals = arrivals.lock().expect("no panic");
            arrivals.iter().filter(|at| **at > resumed).count()
        };
        wait_until("checks went on", || since() >= 2);
        // A burst would make up for the fifteen that were missed.
        let due = resumed.elapsed().div_duration_f64(INTERVAL.mul_f64(0.9));
        assert!(since() <= due as usize + 3, "{} checks", since());
    }
    for backend in &backends {
        let pointer = format!("/pools/web/backends/{}", backend.name());
        assert_eq!(isobar.stat(&format!("{pointer}/state")), "up");
        assert_eq!(isobar.stat(&format!("{pointer}/health/transitions")), 1);
    }
}

/// Looks at the first round of a hundred backends, which is to take a second. Whether the
/// checks come at once is for isobar, when they are seen is for a machine that may be busy:
/// so one good round in three is enough.
#[test]
fn the_first_checks_of_a_hundred_backends_do_not_come_all_at_once() {
    let crowded: Vec<_> = (0..3).map(|_| most_in_a_tenth_of_a_second(100)).collect();
    let least = crowded.iter().min().expect("three rounds");
    assert!(*least <= 30, "{crowded:?} of 100 within 100 ms");
}

fn most_in_a_tenth_of_a_second(backends: usize) -> usize {
    let arrivals = Arc::<Mutex<Vec<Instant>>>::default();
    let backends: Vec<_> = (0..backends)
        .map(|i| timed(&format!("b{i}"), &arrivals))
        .collect();
    let settings = "[pool.web.health]\nkind = \"tcp\"\ninterval = \"5s\"\ntimeout = \"2s\"\n";
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let isobar = start(&web(settings, &entries));
    let seen = || arrivals.lock().expect("no panic").clone();
    wait_until("each was checked", || seen().len() >= backends.len());
    drop(isobar);
    let seen = &seen()[..backends.len()];
    let within = |from: &Instant| {
        let after = seen.iter().filter(|at| *at >= from);
        after
            .filter(|at| **at - *from < Duration::from_millis(100))
            .count()
    };
    seen.iter().map(within).max().unwrap_or(0)
}

#[test]
fn a_backend_without_checks_is_up_at_once_and_left_alone() {
    let b1 = Backend::named("b1");
    let isobar = start(&web("", &[b1.entry()]));
    assert_eq!(isobar.get("/readyz").status, 200);
    assert_eq!(of_b1(&isobar, "state"), "up");
    assert!(of_b1(&isobar, "health/last_at").is_null());
    assert_eq!(b1.accepted(), 0);
}

//! What connections show of a backend: one that fails in a row is put out, and comes back by a
//! trial.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::time::Duration;

use serde_json::Value;
use support::{Backend, End, Family, Isobar, Line, Stream, wait_until, web};

/// Three failures eject, for long enough that no test sees the end of it.
const LONG: &str = "[pool.web.outlier]\nconsecutive_failures = 3\neject_for = \"5m\"\n";
/// The same, for so short a time that a test can wait for it.
const SHORT: &str = "[pool.web.outlier]\nconsecutive_failures = 3\neject_for = \"300ms\"\n";

/// What a backend does with its connections, changed at any time.
#[derive(Clone, Default)]
struct Mood(Arc<AtomicU8>);

const WELL: u8 = 0;
const CLOSES: u8 = 1;
const RESETS: u8 = 2;
const SILENT: u8 = 3;

impl Mood {
    fn set(&self, mood: u8) {
        self.0.store(mood, SeqCst);
    }

    /// A backend in this mood: it says its name, or ends every connection at once, or says
    /// nothing.
    fn backend(&self, name: &str) -> Backend {
        let (mood, line) = (Arc::clone(&self.0), format!("{name}\n"));
        Backend::serving(Family::Ipv4, name, move |stream| {
            match mood.load(SeqCst) {
                CLOSES => return,
                RESETS => return stream.abort(),
                SILENT => {}
                _ => {
                    let _ = stream.try_write(&line);
                }
            }
            let mut buffer = [0; 1024];
            while let Ok(1..) = stream.read(&mut buffer) {}
        })
    }
}

/// Connects, says nothing, and waits for the end; what came before it.
fn look_in(isobar: &Isobar) -> String {
    let client = isobar.connect("web");
    match client.try_read_line() {
        Ok(line) => {
            client.fin();
            client.expect_gone();
            line
        }
        Err(_) => String::new(),
    }
}

fn backend_stat(isobar: &Isobar, name: &str, pointer: &str) -> Value {
    isobar.stat(&format!("/pools/web/backends/{name}{pointer}"))
}

fn state(isobar: &Isobar, name: &str) -> String {
    let state = backend_stat(isobar, name, "/state");
    state.as_str().expect("a state").to_owned()
}

fn failures(isobar: &Isobar, name: &str, reason: &str) -> f64 {
    let labels = [("pool", "web"), ("backend", name), ("reason", reason)];
    isobar.metric("isobar_backend_failures_total", &labels)
}

fn ejections(isobar: &Isobar) -> f64 {
    isobar.metric("isobar_ejections_total", &[("pool", "web")])
}

/// Lets clients come until `name` is ejected.
#[track_caller]
fn eject(isobar: &Isobar, name: &str) {
    wait_until("the backend is ejected", || {
        look_in(isobar);
        state(isobar, name) == "ejected"
    });
}

/// Lines about a change of state of `name`.
fn told(isobar: &Isobar, name: &str) -> Vec<Line> {
    let lines = isobar.log().lines().into_iter();
    let mine = lines.filter(|line| line.message() == "backend" && line.says("backend", name));
    mine.collect()
}

/// Waits until the last of those lines says this state; the line.
#[track_caller]
fn wait_told(isobar: &Isobar, name: &str, state: &str) -> Line {
    support::wait_for("the line about the state", || {
        let last = told(isobar, name).pop();
        last.filter(|line| line.says("state", state))
    })
}

/// The picks that went to `name`, in order.
fn picks(isobar: &Isobar, name: &str) -> Vec<String> {
    let lines = isobar.access_lines().into_iter();
    let mine = lines.filter(|line| line.says("backend", name));
    mine.map(|line| line.text("pick").expect("a pick").to_owned())
        .collect()
}

/// Steps: of two backends in turn one refuses. Its third failure is its last; every client is
/// served by the other one. It listens again, and comes back by one trial.
#[test]
fn a_refusing_backend_is_ejected_and_comes_back_by_one_trial() {
    let (b1, b2) = (Backend::refusing("b1"), Backend::named("b2"));
    let isobar = Isobar::start(&web(LONG, &[b1.entry(), b2.entry()]));
    assert_eq!(isobar.visits("web", 30)["b2"], 30);
    assert_eq!(backend_stat(&isobar, "b1", "/connections/failed"), 3);
    assert_eq!(state(&isobar, "b1"), "ejected");
    assert!(backend_stat(&isobar, "b1", "/ejected_until").is_string());
    assert_eq!(backend_stat(&isobar, "b1", "/checks"), "up");
    assert!(backend_stat(&isobar, "b2", "/ejected_until").is_null());
    assert!((failures(&isobar, "b1", "connect") - 3.0).abs() < f64::EPSILON);
    assert!((ejections(&isobar) - 1.0).abs() < f64::EPSILON);
    let usable = isobar.metric("isobar_pool_backends_usable", &[("pool", "web")]);
    assert!((usable - 1.0).abs() < f64::EPSILON);
    let history = isobar.get("/pools/web/backends/b1/history").json();
    let entry = &history["history"][0];
    assert_eq!(
        (&entry["from"], &entry["to"]),
        (&"up".into(), &"ejected".into())
    );
    assert_eq!(entry["by"], "traffic");
    let cause = entry["cause"].as_str().expect("a cause");
    assert!(
        cause.starts_with("3 failures in a row, the last: connect: "),
        "{cause}"
    );
    wait_told(&isobar, "b1", "ejected");
    let lines = told(&isobar, "b1");
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].text("state"), Some("ejected"));
    assert_eq!(lines[0].text("ejected_for"), Some("5m"));

    b1.listen();
    let short = isobar.reload_to(&web(SHORT, &[b1.entry(), b2.entry()]));
    assert_eq!(short["applied"], true, "{short}");
    assert_eq!(
        state(&isobar, "b1"),
        "ejected",
        "the time it was given stays"
    );
    for state in ["maintenance", "ready"] {
        isobar.set("web/b1", &format!("{{\"state\": \"{state}\"}}"));
    }
    b1.stop();
    wait_until("it is ejected again", || {
        isobar.visit("web");
        state(&isobar, "b1") == "ejected"
    });
    b1.listen();
    let before = b1.accepted();
    wait_until("it is back", || {
        isobar.visit("web");
        state(&isobar, "b1") == "up"
    });
    wait_until("the trial was logged", || {
        picks(&isobar, "b1").contains(&"trial".to_owned())
    });
    let trials = picks(&isobar, "b1");
    assert_eq!(trials.iter().filter(|pick| *pick == "trial").count(), 1);
    assert!(b1.accepted() > before);
    let visits = isobar.visits("web", 10);
    assert_eq!((visits["b1"], visits["b2"]), (5, 5));
    let last = wait_told(&isobar, "b1", "up");
    assert_eq!(last.text("cause"), Some("its trial succeeded"));
}

#[test]
fn a_backend_that_closes_or_resets_before_its_first_byte_is_ejected() {
    for (mood, reason) in [(CLOSES, "early_close"), (RESETS, "early_reset")] {
        let sick = Mood::default();
        sick.set(mood);
        let (b1, b2) = (sick.backend("b1"), Backend::named("b2"));
        let isobar = Isobar::start(&web(LONG, &[b1.entry(), b2.entry()]));
        eject(&isobar, "b1");
        // A reset may be there before the connect is done, and then is one that failed.
        let counted = failures(&isobar, "b1", reason) + failures(&isobar, "b1", "connect");
        assert!(counted >= 3.0, "{reason}");
        assert_eq!(isobar.visits("web", 10)["b2"], 10);
        let line = wait_told(&isobar, "b1", "ejected");
        let cause = line.text("cause").map(str::to_owned);
        let cause = cause.expect("a cause");
        let known = cause.ends_with("before its first byte") || cause.contains("connect: ");
        assert!(known, "{cause}");
    }
}

/// Steps: clients that leave with FIN or RST, or say something and get no answer; ten of each
/// on two backends. With one failure in between everybody would be out.
/// A client that answers the FIN with its own at once does not hide that the backend's came first.
#[test]
fn an_early_close_is_counted_however_soon_the_client_closes_too() {
    const TIMES: usize = 300;
    let mood = Mood::default();
    mood.set(CLOSES);
    let b1 = mood.backend("b1");
    let settings = "replay = \"off\"\n[pool.web.health]\nkind = \"none\"\n\
                    [pool.web.outlier]\nconsecutive_failures = 1000\n";
    let isobar = Isobar::start(&web(settings, &[b1.entry()]));
    (0..TIMES).for_each(|_| assert_eq!(look_in(&isobar), ""));
    wait_until("each was counted", || {
        failures(&isobar, "b1", "early_close") >= TIMES as f64
    });
}

#[test]
fn what_clients_do_ejects_nobody() {
    let close_when_asked = |name: &str| {
        Backend::serving(Family::Ipv4, name, |stream| {
            let _ = stream.read(&mut [0; 1]);
        })
    };
    let backends = ["b1", "b2"].map(close_when_asked);
    let one = "[pool.web.outlier]\nconsecutive_failures = 1\neject_for = \"5m\"\n";
    let isobar = Isobar::start(&web(one, &backends.each_ref().map(Backend::entry)));
    for _ in 0..10 {
        let client = isobar.connect("web");
        client.fin();
        client.expect_gone();
        let client = isobar.connect("web");
        client.write("x");
        assert_eq!(client.end(), End::Fin);
        client.fin();
        isobar.connect("web").reset();
    }
    wait_until("all have ended", || {
        isobar.count("/connections/active") == 0
    });
    for name in ["b1", "b2"] {
        assert_eq!(state(&isobar, name), "up");
        for reason in ["connect", "connect_timeout", "early_close", "early_reset"] {
            let count = failures(&isobar, name, reason);
            assert!(count.abs() < f64::EPSILON, "{name} {reason}: {count}");
        }
    }
}

#[test]
fn the_last_backend_is_never_ejected_and_a_line_says_so() {
    let backend = Backend::refusing("b1");
    let settings = format!("{LONG}[pool.web.hold]\nmax = 0\n");
    let isobar = Isobar::start(&web(&settings, &[backend.entry()]));
    for _ in 0..10 {
        isobar.connect("web").expect_reset();
    }
    assert_eq!(state(&isobar, "b1"), "up");
    assert!(ejections(&isobar).abs() < f64::EPSILON);
    let line = isobar.log().wait("the line", |line| {
        line.message() == "backend fails and is not ejected"
    });
    assert_eq!(line.text("why"), Some("no other backend is usable"));
    backend.listen();
    assert_eq!(isobar.visit("web"), "b1");
}

/// Steps: all five backends fail, for several clients at once, while somebody looks.
#[test]
fn never_more_than_the_share_is_out() {
    let sick = Mood::default();
    sick.set(CLOSES);
    let backends = ["b1", "b2", "b3", "b4", "b5"].map(|name| sick.backend(name));
    let settings = "[pool.web.outlier]\nconsecutive_failures = 2\neject_for = \"200ms\"\n\
                    max_ejected_percent = 40\n";
    let isobar = Isobar::start(&web(settings, &backends.each_ref().map(Backend::entry)));
    let done = AtomicBool::new(false);
    let mut most = 0;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    look_in(&isobar);
                }
            });
        }
        wait_until("trials have failed as well", || {
            let stats = isobar.stat("/pools/web/backends");
            let all = stats.as_object().expect("backends").values();
            let ejected = all.filter(|backend| backend["state"] == "ejected").count();
            most = most.max(ejected);
            let enough = ejections(&isobar) > 6.0;
            done.store(enough, SeqCst);
            enough
        });
    });
    assert_eq!(most, 2, "two of five are 40%");
}

/// Steps: b1 is ejected, and in the middle of that come a reload and an upgrade. Nobody comes to it
/// before its time; then a trial does, in the new process.
#[test]
fn an_ejection_outlives_a_reload_and_an_upgrade() {
    let sick = Mood::default();
    sick.set(CLOSES);
    let (b1, b2, b3) = (
        sick.backend("b1"),
        Backend::named("b2"),
        Backend::named("b3"),
    );
    let settings = "[pool.web.outlier]\nconsecutive_failures = 3\neject_for = \"10s\"\n";
    let isobar = Isobar::start(&web(settings, &[b1.entry(), b2.entry()]));
    eject(&isobar, "b1");
    sick.set(WELL);
    let until = backend_stat(&isobar, "b1", "/ejected_until");
    let accepted = b1.accepted();
    isobar.reload_to(&web(settings, &[b1.entry(), b2.entry(), b3.entry()]));
    assert_eq!(isobar.visits("web", 6)["b3"], 3);
    assert_eq!(backend_stat(&isobar, "b1", "/ejected_until"), until);
    let (stays, _) = isobar.stay("web");
    isobar.upgrade();
    assert_eq!(state(&isobar, "b1"), "ejected");
    assert_eq!(backend_stat(&isobar, "b1", "/ejected_until"), until);
    assert!((ejections(&isobar) - 1.0).abs() < f64::EPSILON);
    isobar.visits("web", 6);
    assert_eq!(b1.accepted(), accepted);
    wait_until("it is back", || {
        isobar.visit("web");
        state(&isobar, "b1") == "up"
    });
    wait_until("the trial was logged", || {
        picks(&isobar, "b1").contains(&"trial".to_owned())
    });
    stays.fin();
    stays.expect_fin();
}

/// Steps: b1 is ejected, b2 is drained, a client comes and is held.
#[test]
fn a_held_client_is_served_by_the_trial() {
    let sick = Mood::default();
    sick.set(RESETS);
    let (b1, b2) = (sick.backend("b1"), Backend::named("b2"));
    let settings = "[pool.web.outlier]\nconsecutive_failures = 3\neject_for = \"2s\"\n";
    let isobar = Isobar::start(&web(settings, &[b1.entry(), b2.entry()]));
    eject(&isobar, "b1");
    sick.set(WELL);
    isobar.set("web/b2", "{\"state\": \"drain\"}");
    let client = isobar.connect("web");
    let local = client.local().expect("an address");
    assert_eq!(client.read_line(), "b1");
    client.fin();
    client.expect_fin();
    let line = isobar.wait_access(local);
    assert_eq!(line.text("pick"), Some("trial"));
    assert!(
        line.fields()["hold_ms"].as_f64() > Some(0.0),
        "{}",
        line.raw
    );
    isobar.wait_state("web", "b1", "up");
}

/// Steps: the trial stays open and silent. While it has shown nothing everybody else goes to b2; a
/// second of relaying returns b1.
#[test]
fn one_connection_tries_and_a_second_of_relaying_is_enough() {
    let sick = Mood::default();
    sick.set(CLOSES);
    let (b1, b2) = (sick.backend("b1"), Backend::named("b2"));
    let isobar = Isobar::start(&web(SHORT, &[b1.entry(), b2.entry()]));
    eject(&isobar, "b1");
    sick.set(SILENT);
    let before = b1.accepted();
    let mut clients = Vec::new();
    wait_until("a trial is under way", || {
        clients.push(isobar.connect("web"));
        b1.accepted() > before
    });
    if state(&isobar, "b1") == "ejected" {
        let explained = isobar.get("/explain?listener=web&client=127.0.0.1").json();
        let verdict = &explained["pools"][0]["backends"][0]["verdict"];
        let known = verdict == "trying" || verdict == "candidate";
        assert!(known, "{explained}");
    }
    isobar.wait_state("web", "b1", "up");
    let back = wait_told(&isobar, "b1", "up");
    assert_eq!(back.text("cause"), Some("its trial succeeded"));
    assert_eq!(b1.accepted(), before + 1, "nobody else came meanwhile");
    for client in &clients {
        client.fin();
    }
    clients.iter().for_each(Stream::expect_gone);
}

/// Steps: two failures of three, a connection that is silent for more than a second, two failures,
/// and then the third.
#[test]
fn a_second_of_relaying_ends_the_row() {
    let sick = Mood::default();
    let b1 = sick.backend("b1");
    let idle = Backend::named("b2");
    let settings = format!("balance = \"first\"\n{LONG}");
    let isobar = Isobar::start(&web(&settings, &[b1.entry(), idle.entry()]));
    let fail = |n: f64| {
        sick.set(CLOSES);
        let before = failures(&isobar, "b1", "early_close");
        let wanted = before + n;
        wait_until("so many failures more", || {
            let now = failures(&isobar, "b1", "early_close");
            if now < wanted {
                look_in(&isobar);
            }
            now >= wanted
        });
    };
    fail(2.0);
    sick.set(SILENT);
    let client = isobar.connect("web");
    assert!(client.is_silent_for(Duration::from_millis(1200)));
    client.fin();
    client.expect_gone();
    fail(2.0);
    assert_eq!(state(&isobar, "b1"), "up");
    fail(1.0);
    assert_eq!(state(&isobar, "b1"), "ejected");
}

/// Steps: trial after trial fails. Each time it is out for twice as long.
#[test]
fn a_failed_trial_ejects_for_twice_as_long() {
    let sick = Mood::default();
    sick.set(CLOSES);
    let (b1, b2) = (sick.backend("b1"), Backend::named("b2"));
    let isobar = Isobar::start(&web(SHORT, &[b1.entry(), b2.entry()]));
    eject(&isobar, "b1");
    let times = || {
        let lines = told(&isobar, "b1").into_iter();
        let times = lines.map(|line| line.text("ejected_for").map(str::to_owned));
        times.collect::<Option<Vec<_>>>().expect("a time")
    };
    wait_until("the ejection is told", || !times().is_empty());
    assert_eq!(times()[0], "300ms");
    wait_until("a repeat is told", || {
        look_in(&isobar);
        times().len() > 1
    });
    // The lines of repeats come once a second at most.
    let doubled = ["600ms", "1s200ms", "2s400ms", "4s800ms", "9s600ms"];
    assert!(doubled.contains(&&*times()[1]), "{:?}", times());
    assert!(ejections(&isobar) >= 2.0);
    assert_eq!(state(&isobar, "b1"), "ejected");
    let explained = isobar.get("/explain?listener=web&client=127.0.0.1").json();
    let b1 = &explained["pools"][0]["backends"][0];
    let why = b1["why"].as_str().expect("a reason");
    assert!(why.starts_with("ejected until 20"), "{why}");
    assert!(b1["ejected_until"].is_string());
}

#[test]
fn an_ejected_backend_costs_no_processor_time() {
    let (b1, b2) = (Backend::refusing("b1"), Backend::named("b2"));
    let isobar = Isobar::start(&web(LONG, &[b1.entry(), b2.entry()]));
    isobar.visits("web", 10);
    assert_eq!(state(&isobar, "b1"), "ejected");
    isobar.assert_calm();
}

//! Stops and upgrades: whichever comes first, one order to stop ends the whole balancer, and nothing
//! brings it back.

mod support;

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Backend, Family, Isobar, Stream, wait_until, web};

/// `[runtime]` with these keys, before the tables of [`web`].
fn with_runtime(keys: &str, entries: &[String]) -> String {
    format!("[runtime]\n{keys}\n{}", web("", entries))
}

/// How many lines say so.
fn lines(isobar: &Isobar, message: &str) -> usize {
    let lines = isobar.log().lines();
    lines.iter().filter(|l| l.message() == message).count()
}

/// 1. A client is connected, and isobar is told to stop: it waits for that client, or for its
///    `stop_delay`.
/// 2. An upgrade is refused, however it is asked for, and says why.
/// 3. Another order to stop ends it.
#[test]
fn no_upgrade_begins_once_a_stop_has() {
    const REFUSED: &str = "not upgraded, nothing has changed: isobar is stopping";
    for runtime in ["drain_timeout = \"10m\"", "stop_delay = \"10m\""] {
        let backend = Backend::manual(Family::Ipv4);
        let mut isobar = Isobar::start(&with_runtime(runtime, &[backend.entry()]));
        let client = isobar.connect("web");
        let server = backend.accept();
        let pid = isobar.process().0;
        isobar.signal(Signal::TERM);
        wait_until("it was not ready", || isobar.get("/readyz").status == 503);
        let refused = isobar.ask("POST", "/upgrade", "");
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert_eq!(refused.json()["error"], "isobar is stopping");
        wait_until("it was logged", || lines(&isobar, REFUSED) == 1);
        isobar.signal(Signal::USR2);
        wait_until("the signal was refused", || lines(&isobar, REFUSED) == 2);
        assert_eq!(isobar.count("/pid"), u64::from(pid));
        isobar.signal(Signal::TERM);
        client.expect_reset();
        server.expect_reset();
        assert!(isobar.wait_exit().success());
    }
}

/// Says that it has told the other process.
const PASSED_ON: &str = "told to stop, and the process that serves now is";
/// The last line of a process that was replaced.
const REPLACED: &str = "replaced, nothing is left";

/// A client that is held in the process before the one that serves, and cannot move.
struct Case {
    isobar: Isobar,
    old: Option<support::Running>,
    held: Stream,
    backend: Backend,
}

impl Case {
    #[track_caller]
    fn start(runtime: &str) -> Self {
        let backend = Backend::refusing("b1");
        let isobar = Isobar::start(&with_runtime(runtime, &[backend.entry()]));
        let held = isobar.connect("web");
        isobar.wait_count("/pools/web/held", 1);
        let (answer, old) = isobar.upgrade_leaving_some();
        assert_eq!(answer["remaining"], 1);
        Self {
            isobar,
            old: Some(old),
            held,
            backend,
        }
    }

    fn signal_old(&self, signal: Signal) {
        send(self.old.as_ref().expect("it was started"), signal);
    }

    /// Both end, in good order, and the client has been reset.
    #[track_caller]
    fn ends(mut self, ended: &str) {
        self.held.expect_reset();
        let old = self.old.take().expect("it was started").wait();
        assert!(old.success(), "{}", self.isobar.log().text());
        assert!(self.isobar.wait_exit().success());
        let lines = self.isobar.access_lines();
        let endings: Vec<_> = lines.iter().filter_map(|l| l.text("ended")).collect();
        assert_eq!(endings, [ended]);
        // The new one waited for the old one.
        let all = self.isobar.log().lines();
        let at = |message: &str| all.iter().position(|l| l.message() == message);
        let (replaced, stopped) = (at(REPLACED), at("stopped"));
        assert!(replaced.is_some() && stopped.is_some());
        assert!(replaced < stopped, "{}", self.isobar.log().text());
    }
}

fn send(process: &support::Running, signal: Signal) {
    let pid = Pid::from_raw(process.id().cast_signed()).expect("a process id");
    kill_process(pid, signal).expect("our own child");
}

/// 1. A client is held in the old process; the new one is told to stop.
/// 2. For `drain_timeout` both go on, then the client is reset and both are gone.
#[test]
fn a_stop_ends_the_process_before_as_well_at_one_deadline() {
    let time = Duration::from_millis(800);
    let case = Case::start("drain_timeout = \"800ms\"");
    let start = Instant::now();
    case.isobar.signal(Signal::TERM);
    case.held.expect_reset();
    assert!(start.elapsed() >= time, "{:?}", start.elapsed());
    case.ends("drain_timeout");
}

#[test]
fn a_stop_waits_for_who_is_served_at_last_from_the_process_before() {
    let mut case = Case::start("drain_timeout = \"10m\"");
    case.isobar.signal(Signal::TERM);
    wait_until("it was not ready", || {
        case.isobar.get("/readyz").status == 503
    });
    assert!(case.held.is_silent_for(Duration::from_millis(200)));
    assert_eq!(case.isobar.stat("/generations/1/active"), 1);
    case.backend.listen();
    assert_eq!(case.held.read_line(), "b1");
    case.held.fin();
    case.held.expect_fin();
    assert!(case.old.take().expect("it was started").wait().success());
    assert!(case.isobar.wait_exit().success());
}

#[test]
fn a_second_order_resets_what_the_process_before_has_left() {
    for runtime in ["drain_timeout = \"10m\"", "stop_delay = \"10m\""] {
        let case = Case::start(runtime);
        case.isobar.signal(Signal::TERM);
        wait_until("it was not ready", || {
            case.isobar.get("/readyz").status == 503
        });
        assert!(case.held.is_silent_for(Duration::from_millis(100)));
        case.isobar.signal(Signal::TERM);
        case.ends("killed");
    }
}

/// Whoever sends it knows the number that the balancer had, and means the balancer.
#[test]
fn orders_to_the_process_before_are_orders_to_the_balancer() {
    let case = Case::start("drain_timeout = \"10m\"");
    case.signal_old(Signal::TERM);
    wait_until("it was not ready", || {
        case.isobar.get("/readyz").status == 503
    });
    assert!(case.held.is_silent_for(Duration::from_millis(100)));
    assert_eq!(lines(&case.isobar, PASSED_ON), 1);
    case.signal_old(Signal::TERM);
    case.ends("killed");
}

/// 1. As a service manager does that tells every process of a service: both get the same order.
/// 2. That is one order: nobody is reset for it.
#[test]
fn one_order_that_comes_to_both_processes_is_one() {
    let mut case = Case::start("drain_timeout = \"10m\"");
    case.isobar.signal(Signal::TERM);
    case.signal_old(Signal::TERM);
    wait_until("both knew", || lines(&case.isobar, PASSED_ON) == 1);
    wait_until("it was not ready", || {
        case.isobar.get("/readyz").status == 503
    });
    assert!(case.held.is_silent_for(Duration::from_millis(200)));
    case.backend.listen();
    assert_eq!(case.held.read_line(), "b1");
    case.held.fin();
    case.held.expect_fin();
    assert!(case.old.take().expect("it was started").wait().success());
    assert!(case.isobar.wait_exit().success());
    assert_eq!(
        lines(&case.isobar, "told to stop again, resetting what is left"),
        0
    );
}

/// 1. Half a request keeps the old process for a moment, of which every connection has moved.
/// 2. An order to stop that comes to it then is obeyed by the new one.
#[test]
fn an_order_that_comes_while_the_process_before_ends_is_not_lost() {
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).expect("a process may adopt");
    for _ in 0..20 {
        let backend = Backend::named("b1");
        let mut isobar = Isobar::start(&with_runtime("", &[backend.entry()]));
        let half = isobar.connect_to(isobar.admin());
        half.write("GET /stats HTTP/1.1\r\n");
        assert_eq!(isobar.visit("web"), "b1");
        isobar.signal(Signal::USR2);
        let upgraded = isobar.log().wait("the upgrade", |line| {
            line.message() == "upgraded: another process serves now"
        });
        let pid = upgraded.fields()["pid"].as_u64().expect("a process id");
        let mut old = isobar.follow(u32::try_from(pid).expect("a process id"));
        send(&old, Signal::TERM);
        let came_late = lines(&isobar, REPLACED) > 0;
        if came_late {
            assert!(old.wait().success());
            assert!(isobar.stop().success());
            continue;
        }
        assert!(old.wait().success());
        assert!(isobar.wait_exit().success());
        return;
    }
    panic!("the old process was always gone before the order came");
}

/// 1. A client is held in the old process; the new one is killed.
/// 2. The old one goes on with that client, and says so. An order to stop is for itself then.
#[test]
fn a_process_that_has_lost_the_one_after_it_goes_on_and_obeys_alone() {
    const ALONE: &str = "the process after this one is not heard of any more";
    let mut case = Case::start("drain_timeout = \"300ms\"");
    let old = case.old.take().expect("it was started");
    // The new one is killed; from here on the old one is followed, once.
    drop(case.isobar.follow(old.id()));
    std::mem::forget(old);
    wait_until("it was alone", || lines(&case.isobar, ALONE) == 1);
    assert!(case.held.is_silent_for(Duration::from_millis(600)));
    case.isobar.signal(Signal::TERM);
    case.held.expect_reset();
    assert!(case.isobar.wait_exit().success());
    assert_eq!(lines(&case.isobar, PASSED_ON), 0);
}

//! Stops and upgrades: whichever comes first, one order to stop ends the whole balancer, and nothing
//! brings it back.

mod support;

use rustix::process::Signal;
use support::{Backend, Family, Isobar, wait_until, web};

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

//! What an upgrade leaves in the old process, for as long as it cannot move: clients who are held.

mod support;

use std::time::Duration;

use support::{Backend, Family, Isobar, Stream, wait_until, web};

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// 1. A client is held, as its backend refuses; the other pool is idle.
/// 2. The upgrade leaves it in the old process, and says so.
/// 3. The backend listens: the client is served, moves, and the old process is gone.
#[test]
fn who_is_held_stays_in_the_old_process_until_it_is_served() {
    let backend = Backend::refusing("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let held = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    let (answer, mut old) = isobar.upgrade_leaving_some();
    assert_eq!(
        (&answer["moved"], &answer["remaining"]),
        (&0.into(), &1.into())
    );
    let generations = isobar.stat("/generations");
    assert_eq!(generations[0]["pid"], answer["pid"]);
    assert_eq!(generations[0]["active"], 0);
    assert_eq!(generations[1]["pid"], old.id());
    assert_eq!(generations[1]["active"], 1);
    assert_eq!(isobar.count("/connections/active"), 1);
    assert_eq!(isobar.count("/pools/web/held"), 1);
    let metrics = isobar.get("/metrics").body;
    assert!(metrics.contains("isobar_held_connections{pool=\"web\"} 1\n"));
    // The list is that of the process that serves.
    assert_eq!(isobar.get("/connections").json()["total"], 0);
    assert!(held.is_silent_for(Duration::from_millis(50)));
    backend.listen();
    assert_eq!(held.read_line(), "b1");
    assert!(old.wait().success());
    wait_until("one generation was left", || {
        isobar.stat("/generations").as_array().map(Vec::len) == Some(1)
    });
    assert_eq!(isobar.count("/generations/0/active"), 1);
    assert_eq!(isobar.count("/pools/web/held"), 0);
    leave(&held);
    isobar.wait_ended("web", "client_closed", 1);
    assert_eq!(isobar.count("/pools/web/held_total"), 1);
}

#[test]
fn no_third_process_comes_in_while_the_first_has_somebody() {
    let backend = Backend::refusing("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    isobar.tell("POST", "/pools/web/pause", "");
    let held = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    let (_, mut old) = isobar.upgrade_leaving_some();
    let refused = isobar.ask("POST", "/upgrade", "");
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert!(
        refused.body.contains("still has 1 connections"),
        "{}",
        refused.body
    );
    backend.listen();
    isobar.tell("POST", "/pools/web/resume", "");
    assert_eq!(held.read_line(), "b1");
    assert!(old.wait().success());
    isobar.upgrade();
    leave(&held);
}

#[test]
fn who_is_left_in_the_old_process_is_reset_after_upgrade_timeout() {
    let backend = Backend::refusing("b1");
    let text = web("[pool.web.hold]\ntimeout = \"10m\"", &[backend.entry()]);
    let isobar = Isobar::start(&format!("[runtime]\nupgrade_timeout = \"300ms\"\n{text}"));
    let held = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    let (_, mut old) = isobar.upgrade_leaving_some();
    held.expect_reset();
    assert!(old.wait().success());
    isobar.wait_ended("web", "drain_timeout", 1);
}

#[test]
fn a_pause_survives_an_upgrade_and_ends_for_those_who_were_held_before() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    isobar.tell("POST", "/pools/web/pause", "");
    let before = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    let (_, mut old) = isobar.upgrade_leaving_some();
    assert_eq!(isobar.stat("/pools/web/paused"), true);
    let after = isobar.connect("web");
    // One in each process.
    isobar.wait_count("/pools/web/held", 2);
    assert_eq!(isobar.get("/pools/web/pause").json()["held"], 2);
    assert!(before.is_silent_for(Duration::from_millis(50)));
    isobar.tell("POST", "/pools/web/resume", "");
    assert_eq!(after.read_line(), "b1");
    assert_eq!(before.read_line(), "b1");
    assert!(old.wait().success());
    leave(&before);
    leave(&after);
}

/// 1. Every time-out of a stop is short. Clients are idle for longer than all of them; others are
///    held, and stay in the old process.
/// 2. An upgrade is no stop: nobody ends, then or after as long a time again.
#[test]
fn an_upgrade_ends_nobody_however_long_they_were_idle_or_held() {
    let time_out = Duration::from_millis(200);
    let backends = [Backend::echo(Family::Ipv4), Backend::refusing("late")];
    let pool = |name: &str, backend: &Backend| {
        let text = web("drain_timeout = \"200ms\"", &[backend.entry()]);
        text.replace("web", name)
    };
    let pools = [pool("web", &backends[0]), pool("other", &backends[1])].concat();
    let isobar = Isobar::start(&format!("[runtime]\ndrain_timeout = \"200ms\"\n{pools}"));
    let idle: Vec<_> = (0..20).map(|_| isobar.connect("web")).collect();
    idle.iter().for_each(|client| client.write("a"));
    idle.iter().for_each(|client| client.expect("a"));
    let held: Vec<_> = (1..=5)
        .map(|place| {
            let client = isobar.connect("other");
            isobar.wait_count("/pools/other/held", place);
            client
        })
        .collect();
    let idle_for = |time: Duration| {
        let query = format!("/connections?pool=web&idle={}ms&limit=0", time.as_millis());
        wait_until("they were idle for long enough", || {
            isobar.get(&query).json()["total"] == 20
        });
    };
    idle_for(3 * time_out);
    let (answer, mut old) = isobar.upgrade_leaving_some();
    assert_eq!(
        (&answer["moved"], &answer["remaining"]),
        (&20.into(), &5.into())
    );
    idle_for(6 * time_out);
    assert_eq!(isobar.count("/connections/active"), 25);
    backends[1].listen();
    for client in &held {
        assert_eq!(client.read_line(), "late");
    }
    assert!(old.wait().success());
    idle.iter().for_each(|client| client.write("b"));
    idle.iter().for_each(|client| client.expect("b"));
    idle.iter().chain(&held).for_each(leave);
}

/// 1. A client is held in the old process, others have moved. The old process is killed.
/// 2. That client is lost, and counted so; all others go on, and so do upgrades.
#[test]
fn an_old_process_that_is_killed_takes_only_what_it_had_with_it() {
    let backends = [Backend::echo(Family::Ipv4), Backend::refusing("late")];
    let text = web("", &[backends[0].entry()]);
    let other = web("", &[backends[1].entry()]).replace("web", "other");
    let mut isobar = Isobar::start(&format!("{text}{other}"));
    isobar.skip_byte_check();
    let client = isobar.connect("web");
    client.write("a");
    client.expect("a");
    let held = isobar.connect("other");
    isobar.wait_count("/pools/other/held", 1);
    let (_, old) = isobar.upgrade_leaving_some();
    assert_eq!(isobar.count("/connections/active"), 2);
    // Killed, and waited for.
    drop(old);
    held.end();
    isobar.wait_ended("other", "killed", 1);
    isobar.wait_count("/connections/active", 1);
    wait_until("one generation was left", || {
        isobar.stat("/generations").as_array().map(Vec::len) == Some(1)
    });
    client.write("b");
    client.expect("b");
    isobar.upgrade();
    client.write("c");
    client.expect("c");
    leave(&client);
}

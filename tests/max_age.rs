//! Connections that are old end at a quiet moment, and at twice the age whatever they do.

mod support;

use std::time::{Duration, Instant};

use support::{Backend, Family, Isobar, Pattern, Stream, scaled, web};

/// As soon as one side is reset some of what the other sent is on its way for nobody.
fn started(settings: &str, backend: &Backend) -> Isobar {
    let mut isobar = Isobar::start(&web(settings, &[backend.entry()]));
    isobar.skip_byte_check();
    isobar
}

/// A connection of which the test plays both ends.
#[track_caller]
fn pair(isobar: &Isobar, backend: &Backend) -> (Stream, Stream) {
    let client = isobar.connect("web");
    (client, backend.accept())
}

/// Asks and answers once.
#[track_caller]
fn talk((client, server): &(Stream, Stream)) {
    client.write("question\n");
    server.expect("question\n");
    server.write("answer\n");
    client.expect("answer\n");
}

/// How old a connection was when it ended, by the log, in milliseconds.
#[track_caller]
fn age_of(isobar: &Isobar, client: &Stream) -> f64 {
    let line = isobar.wait_access(client.local().expect("an address"));
    assert_eq!(line.text("ended"), Some("max_age"), "{:?}", line.fields());
    line.fields()["duration_ms"].as_f64().expect("a number")
}

#[test]
fn an_old_connection_ends_when_it_is_quiet() {
    let backend = Backend::manual(Family::Ipv4);
    let isobar = started("max_age = \"1s\"\nquiet = \"100ms\"", &backend);
    let old = pair(&isobar, &backend);
    talk(&old);
    old.0.expect_reset();
    old.1.expect_reset();
    assert!(age_of(&isobar, &old.0) >= 900.0);
    isobar.wait_ended("web", "max_age", 1);
    assert_eq!(isobar.count("/pools/web/ended/max_age"), 1);
}

/// A slow query: the client has asked, and hears nothing for longer than `quiet`.
#[test]
fn who_waits_for_an_answer_is_not_quiet_and_gets_it() {
    let backend = Backend::manual(Family::Ipv4);
    let isobar = started("max_age = \"4s\"\nquiet = \"100ms\"", &backend);
    let begun = Instant::now();
    let (client, server) = pair(&isobar, &backend);
    client.write("select\n");
    server.expect("select\n");
    let old = Duration::from_millis(4500).saturating_sub(begun.elapsed());
    assert!(client.is_silent_for(old), "it was ended while it waited");
    server.write("rows\n");
    client.expect("rows\n");
    client.expect_reset();
    server.expect_reset();
    assert!(age_of(&isobar, &client) >= 4500.0);
}

/// Busy, silent from the start, and half closed: none of them is ever quiet.
#[test]
fn at_twice_the_age_it_ends_whatever_it_does() {
    let backend = Backend::manual(Family::Ipv4);
    let isobar = started("max_age = \"1s\"\nquiet = \"300ms\"", &backend);
    let busy = pair(&isobar, &backend);
    let silent = pair(&isobar, &backend);
    let half = pair(&isobar, &backend);
    half.0.fin();
    half.1.expect_fin();
    while busy.0.try_write("x").is_ok() {
        let mut byte = [0];
        if !matches!(busy.1.read(&mut byte), Ok(1)) || busy.1.try_write("y").is_err() {
            break;
        }
        if !matches!(busy.0.read(&mut byte), Ok(1)) {
            break;
        }
    }
    for (client, server) in [&busy, &silent, &half] {
        client.expect_gone();
        server.expect_gone();
        assert!(age_of(&isobar, client) >= 1800.0);
    }
    isobar.wait_ended("web", "max_age", 3);
}

/// A download in the middle of which the time is over: what the backend has given to isobar is
/// delivered, and then it does not look complete.
#[test]
fn what_is_in_hand_is_delivered_before_the_end() {
    for relay in ["copy", "splice"] {
        let backend = Backend::source(Family::Ipv4, u64::MAX / 2);
        let settings = format!("max_age = \"1s\"\nrelay = \"{relay}\"");
        let isobar = started(&settings, &backend);
        let client = isobar.connect("web");
        let (got, end) = client.read_pattern_to_end(Pattern(0));
        client.assert_is_reset(end);
        assert!(age_of(&isobar, &client) >= 1800.0);
        assert_eq!(isobar.count("/pools/web/bytes_out"), got, "{relay}");
    }
}

#[test]
fn connections_that_came_together_do_not_go_together() {
    const N: usize = 20;
    let backend = Backend::echo(Family::Ipv4);
    let isobar = started("max_age = \"2s\"\nquiet = \"50ms\"", &backend);
    let clients: Vec<_> = (0..N).map(|_| isobar.connect("web")).collect();
    for client in &clients {
        client.write("x");
        client.expect("x");
    }
    isobar.wait_ended("web", "max_age", N as u64);
    let ages: Vec<_> = clients.iter().map(|c| age_of(&isobar, c)).collect();
    let least = ages.iter().copied().fold(f64::MAX, f64::min);
    let most = ages.iter().copied().fold(0.0, f64::max);
    assert!(least >= 1800.0 && most - least >= 200.0, "{ages:?}");
}

/// The age moves along: from the accept, not from the upgrade.
#[test]
fn an_upgrade_makes_nobody_younger() {
    let backend = Backend::manual(Family::Ipv4);
    let isobar = started("max_age = \"5s\"\nquiet = \"100ms\"", &backend);
    let begun = Instant::now();
    let old = pair(&isobar, &backend);
    talk(&old);
    let wait = Duration::from_secs(3).saturating_sub(begun.elapsed());
    assert!(old.0.is_silent_for(wait));
    isobar.upgrade();
    old.0.expect_reset();
    old.1.expect_reset();
    let age = age_of(&isobar, &old.0);
    // Counted anew it would be 3 s and 4.5 s at the least.
    let late = scaled(Duration::from_millis(7500)).as_secs_f64() * 1000.0;
    assert!((4500.0..late).contains(&age), "{age}");
}

/// With a new file the old connection keeps what it was routed with.
#[test]
fn a_reload_changes_the_age_of_new_connections_alone() {
    let backend = Backend::manual(Family::Ipv4);
    let text = |age: &str| {
        let settings = format!("max_age = \"{age}\"\nquiet = \"100ms\"");
        web(&settings, &[backend.entry()])
    };
    let mut isobar = Isobar::start(&text("2s"));
    isobar.skip_byte_check();
    let first = pair(&isobar, &backend);
    talk(&first);
    let done = isobar.reload_to(&text("0s"));
    let change = &done["plan"]["pools"][0]["fields"][0];
    assert_eq!(change["key"], "max_age", "{done}");
    assert_eq!(change["effect"], "new_connections");
    let second = pair(&isobar, &backend);
    talk(&second);
    first.0.expect_reset();
    assert!(age_of(&isobar, &first.0) >= 1800.0);
    talk(&second);
    second.0.fin();
    second.1.expect_fin();
    second.1.fin();
    second.0.expect_fin();
    isobar.wait_ended("web", "client_closed", 1);
}

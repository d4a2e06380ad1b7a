//! How long live connections may go on when their backend, or its pool, takes no new ones.

mod support;

use std::time::{Duration, Instant};

use support::{Backend, Family, Isobar, STALL, Stream, scaled, web};

fn started(settings: &str, backends: &[&Backend]) -> Isobar {
    Isobar::start(&text(settings, backends))
}

fn text(settings: &str, backends: &[&Backend]) -> String {
    let entries: Vec<_> = backends.iter().map(|backend| backend.entry()).collect();
    web(settings, &entries)
}

#[track_caller]
fn talk(client: &Stream) {
    client.write("x");
    client.expect("x");
}

#[track_caller]
fn stay(isobar: &Isobar) -> Stream {
    let client = isobar.connect("web");
    talk(&client);
    client
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[track_caller]
fn remove(isobar: &Isobar, name: &str) {
    isobar.tell("DELETE", &format!("/pools/web/backends/{name}"), "");
}

/// Longer than any time-out here.
const LATER: Duration = Duration::from_millis(900);

#[test]
fn who_is_ready_again_in_time_keeps_what_it_has() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = started("drain_timeout = \"2s\"", &[&backend]);
    let client = stay(&isobar);
    for state in ["drain", "maintenance"] {
        let answer = isobar.set("web/echo", &format!("{{\"state\": \"{state}\"}}"));
        assert!(answer["leaving"]["until"].is_string(), "{answer}");
    }
    let answer = isobar.set("web/echo", r#"{"state": "ready"}"#);
    assert!(answer["leaving"].is_null(), "{answer}");
    assert!(client.is_silent_for(Duration::from_millis(2500)));
    talk(&client);
    leave(&client);
    isobar.wait_ended("web", "client_closed", 1);
    assert_eq!(isobar.ended("web", "drain_timeout"), 0);
}

/// From drain to maintenance, and to nothing: one time, from the first of them on.
#[test]
fn one_time_runs_whatever_comes_after() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = started("drain_timeout = \"1s\"", &[&backend]);
    isobar.expect_removal();
    let client = stay(&isobar);
    let begun = Instant::now();
    let until = isobar.set("web/echo", r#"{"state": "drain"}"#)["leaving"]["until"].clone();
    assert!(client.is_silent_for(STALL));
    let answer = isobar.set("web/echo", r#"{"state": "maintenance"}"#);
    assert_eq!(answer["leaving"]["until"], until);
    assert!(client.is_silent_for(STALL));
    remove(&isobar, "echo");
    assert_eq!(isobar.stat("/pools/web/backends/echo/leaving/until"), until);
    client.expect_reset();
    assert!(begun.elapsed() >= Duration::from_millis(990), "too early");
    isobar.wait_ended("web", "drain_timeout", 1);
}

#[test]
fn without_end_is_without_end_where_it_was_asked_for() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = started("drain_timeout = \"300ms\"", &[&backend]);
    isobar.expect_removal();
    let client = stay(&isobar);
    isobar.set("web/echo", r#"{"state": "drain", "timeout": "0s"}"#);
    remove(&isobar, "echo");
    assert!(client.is_silent_for(LATER));
    talk(&client);
    leave(&client);
    isobar.wait_ended("web", "client_closed", 1);
}

/// It has the time of the pool as it was, and nobody else's connections are touched.
#[test]
fn a_pool_that_goes_gives_its_connections_their_time() {
    let (goes, stays) = (Backend::echo(Family::Ipv4), Backend::echo(Family::Ipv6));
    let other = "[listener.other]\nbind = \"127.0.0.1:0\"\npool = \"other\"\n[pool.other]\n";
    let other = format!(
        "{other}backends = [{}]\nhealth.kind = \"none\"\n",
        stays.entry()
    );
    let before = text("drain_timeout = \"300ms\"", &[&goes]) + &other;
    let isobar = Isobar::start(&before);
    let client = stay(&isobar);
    let untouched = isobar.connect("other");
    talk(&untouched);
    isobar.expect_departure();
    let begun = Instant::now();
    let plan = isobar.reload_to(&other)["plan"].clone();
    assert_eq!(plan["connections"]["drained"], 1, "{plan}");
    client.expect_reset();
    assert!(begun.elapsed() >= Duration::from_millis(290), "too early");
    talk(&untouched);
    leave(&untouched);
    isobar.wait_ended("other", "client_closed", 1);
}

/// A listener is no backend: `drain_timeout` says nothing of it.
#[test]
fn who_came_by_a_listener_that_goes_stays() {
    let backend = Backend::echo(Family::Ipv4);
    let settings = "drain_timeout = \"300ms\"";
    let second = "[listener.second]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n";
    let isobar = Isobar::start(&(text(settings, &[&backend]) + second));
    let client = isobar.connect("second");
    talk(&client);
    isobar.expect_departure();
    isobar.reload_to(&text(settings, &[&backend]));
    assert!(client.is_silent_for(LATER));
    talk(&client);
    leave(&client);
    isobar.wait_count("/connections/active", 0);
}

/// The time of a stop is another one, and so is that of a pool.
#[test]
fn a_new_file_changes_no_time_that_runs() {
    let backend = Backend::echo(Family::Ipv4);
    let with = |time: &str| text(&format!("drain_timeout = \"{time}\""), &[&backend]);
    let isobar = Isobar::start(&format!(
        "[runtime]\ndrain_timeout = \"300ms\"\n{}",
        with("0s")
    ));
    let client = stay(&isobar);
    isobar.set("web/echo", r#"{"state": "drain"}"#);
    isobar.reload_to(&with("300ms"));
    assert!(client.is_silent_for(LATER));
    talk(&client);
    // Asked for anew it has the new one.
    isobar.set("web/echo", r#"{"state": "ready"}"#);
    isobar.set("web/echo", r#"{"state": "drain"}"#);
    client.expect_reset();
    isobar.wait_ended("web", "drain_timeout", 1);
}

#[track_caller]
fn until(isobar: &Isobar) -> jiff::Timestamp {
    let until = isobar.stat("/pools/web/backends/drained/leaving/until");
    until
        .as_str()
        .and_then(|at| at.parse().ok())
        .expect("a time")
}

/// Both kinds: one that is drained moves, one that was removed stays in the old process.
#[test]
fn an_upgrade_begins_no_time_anew() {
    let (drained, removed) = (Backend::echo(Family::Ipv4), Backend::echo(Family::Ipv6));
    let entries = [
        format!(
            "{{ name = \"drained\", address = \"{}\" }}",
            drained.address()
        ),
        format!(
            "{{ name = \"removed\", address = \"{}\" }}",
            removed.address()
        ),
    ];
    let isobar = Isobar::start(&web("drain_timeout = \"4s\"", &entries));
    isobar.expect_removal();
    let clients = [stay(&isobar), stay(&isobar)];
    let begun = Instant::now();
    isobar.set("web/drained", r#"{"state": "drain"}"#);
    remove(&isobar, "removed");
    let wait = Duration::from_millis(2500).saturating_sub(begun.elapsed());
    assert!(clients[0].is_silent_for(wait));
    let before = until(&isobar);
    let (_, mut old) = isobar.upgrade_leaving_some();
    let off = until(&isobar).duration_since(before).abs();
    assert!(off < jiff::SignedDuration::from_millis(200), "{off:?}");
    clients.iter().for_each(Stream::expect_reset);
    let took = begun.elapsed();
    // Anew it would be 6.5 s at the least.
    let late = scaled(Duration::from_millis(6400));
    assert!(
        took >= Duration::from_millis(3900) && took < late,
        "{took:?}"
    );
    assert!(old.wait().success());
    isobar.wait_ended("web", "drain_timeout", 2);
}

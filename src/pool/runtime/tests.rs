//! The state machine of a pool's backends under what operators ask, with times of our own.

use super::super::{Attempt, CheckResult, Client, Due, Lease, State};
use super::*;
use std::time::SystemTime;

fn config(settings: &str, backends: &str) -> Arc<config::Pool> {
    let text = format!("[pool.p]\nbackends = [{backends}]\n{settings}\n");
    let loaded = config::parse(&text, "lb.toml", &|_| None).expect("a configuration");
    Arc::clone(&loaded.config.pools[0])
}

const UNCHECKED: &str = "[pool.p.health]\nkind = \"none\"";

fn entry(name: &str, port: u16) -> String {
    format!("{{ name = \"{name}\", address = \"127.0.0.1:{port}\" }}")
}

/// A pool whose backends are up at once.
fn pool(settings: &str) -> Arc<Pool> {
    let backends = [entry("a", 1), entry("b", 2)].join(", ");
    Pool::new(config(&format!("{settings}\n{UNCHECKED}"), &backends), 1)
}

fn stamp() -> Stamp {
    Stamp {
        since: SystemTime::now(),
        by: "127.0.0.1:1".into(),
    }
}

fn backend(name: &str, port: u16) -> config::Backend {
    config("", &entry(name, port)).backends[0].clone()
}

fn to(state: AdminState) -> Wanted {
    Wanted {
        state: Some(state),
        ..Wanted::default()
    }
}

fn state(pool: &Arc<Pool>, name: &str) -> Option<State> {
    let all = pool.overview().backends.into_iter();
    let found = all.into_iter().find(|view| *view.backend.name == *name);
    found.map(|view| view.state)
}

/// `other` takes what `pool` cannot take.
fn fall_back(pool: &Arc<Pool>, other: &Arc<Pool>) {
    pool.change(|control| control.fallback = Some(Arc::downgrade(other)));
    other.change(|control| control.dependents.push(Arc::downgrade(pool)));
}

fn attempt() -> Attempt {
    Attempt::new(Client::Unix(7))
}

fn picks(pool: &Arc<Pool>, n: usize) -> Vec<String> {
    let pick = |_| {
        pool.acquire(&attempt())
            .map(|l| l.backend().name.to_string())
    };
    (0..n).filter_map(pick).collect()
}

fn lease_of(pool: &Arc<Pool>, name: &str) -> Lease {
    let mut leases = std::iter::from_fn(|| pool.acquire(&attempt()));
    let found = leases.by_ref().take(8);
    let mut found: Vec<_> = found.filter(|l| *l.backend().name == *name).collect();
    found.pop().expect("it is picked in turn")
}

fn due(pool: &Pool, now: Instant) -> Due {
    pool.look(|control| control.tick(now)).due
}

fn check(pool: &Arc<Pool>, name: &str, error: Option<&str>) {
    let backends = pool.every_backend();
    let backend = backends.iter().rev().find(|b| *b.name == *name);
    let result = CheckResult {
        at: SystemTime::now(),
        took: Duration::from_millis(1),
        error: error.map(str::to_owned),
    };
    pool.checked(backend.expect("a backend"), result);
}

#[test]
fn a_drained_backend_gets_no_new_connection_until_it_is_ready_again() {
    let pool = pool("");
    assert_eq!(picks(&pool, 4), ["a", "b", "a", "b"]);
    let changed = pool.set("a", to(AdminState::Drain), &stamp()).expect("a");
    assert_eq!(changed.before.state, State::Up);
    assert_eq!(changed.after.state, State::Draining);
    assert_eq!(picks(&pool, 3), ["b", "b", "b"]);
    pool.set("a", to(AdminState::Ready), &stamp()).expect("a");
    assert_eq!(state(&pool, "a"), Some(State::Up));
    assert_eq!(picks(&pool, 4), ["a", "b", "a", "b"]);
    let refused = pool.set("c", to(AdminState::Ready), &stamp());
    assert!(matches!(refused, Err(Refused::NoBackend { .. })));
}

#[test]
fn a_weight_of_zero_takes_no_new_connection_and_the_file_s_undoes_the_change() {
    let pool = pool("");
    let weight = |weight| Wanted {
        weight: Some(weight),
        ..Wanted::default()
    };
    pool.set("a", weight(0), &stamp()).expect("a");
    assert_eq!(picks(&pool, 3), ["b", "b", "b"]);
    assert_eq!(state(&pool, "a"), Some(State::Up));
    assert_eq!(pool.snapshot().usable(), 1);
    pool.set("a", weight(3), &stamp()).expect("a");
    let of_a = picks(&pool, 8).iter().filter(|name| *name == "a").count();
    assert_eq!(of_a, 6);
    assert!(!pool.overrides().is_empty());
    pool.set("a", weight(1), &stamp()).expect("a");
    assert!(pool.overrides().is_empty());
}

#[test]
fn states_come_in_order_of_precedence() {
    let settings = "[pool.p.health]\nfall = 1\n";
    let pool = Pool::new(config(settings, &entry("a", 1)), 1);
    assert_eq!(state(&pool, "a"), Some(State::Starting));
    check(&pool, "a", Some("refused"));
    assert_eq!(state(&pool, "a"), Some(State::Down));
    for (admin, expected) in [
        (AdminState::Drain, State::Draining),
        (AdminState::Maintenance, State::Maintenance),
        (AdminState::Drain, State::Draining),
    ] {
        pool.set("a", to(admin), &stamp()).expect("a");
        assert_eq!(state(&pool, "a"), Some(expected));
    }
    let changed = pool.remove("a", &stamp()).expect("a");
    assert_eq!(changed.after.state, State::Removed);
}

/// While drained it goes on being checked, so that it comes back as what it is.
#[test]
fn checks_go_on_while_it_drains_and_stop_in_maintenance() {
    let pool = Pool::new(config("", &entry("a", 1)), 1);
    check(&pool, "a", None);
    pool.set("a", to(AdminState::Drain), &stamp()).expect("a");
    assert_eq!(pool.checked_backends().len(), 1);
    (0..3).for_each(|_| check(&pool, "a", Some("refused")));
    assert_eq!(state(&pool, "a"), Some(State::Draining));
    pool.set("a", to(AdminState::Ready), &stamp()).expect("a");
    assert_eq!(state(&pool, "a"), Some(State::Down));
    pool.set("a", to(AdminState::Maintenance), &stamp())
        .expect("a");
    assert!(pool.checked_backends().is_empty());
    check(&pool, "a", None);
    pool.set("a", to(AdminState::Ready), &stamp()).expect("a");
    assert_eq!(state(&pool, "a"), Some(State::Starting));
    check(&pool, "a", None);
    assert_eq!(state(&pool, "a"), Some(State::Up));
}

#[test]
fn one_that_was_added_starts_and_counts_as_up_without_a_result_in_time() {
    let pool = Pool::new(config("", &entry("a", 1)), 1);
    check(&pool, "a", None);
    pool.add(backend("b", 2), &stamp()).expect("b is new");
    assert_eq!(state(&pool, "b"), Some(State::Starting));
    assert_eq!(pool.checked_backends().len(), 2);
    let now = Instant::now();
    let next = due(&pool, now).next.expect("its time-out");
    assert!(next > now && next < now + Duration::from_secs(2));
    assert_eq!(state(&pool, "b"), Some(State::Starting));
    due(&pool, next);
    assert_eq!(state(&pool, "b"), Some(State::Up));
    let refused = pool.add(backend("b", 3), &stamp());
    assert!(matches!(refused, Err(Refused::Duplicate { .. })));
}

#[test]
fn readiness_does_not_wait_for_what_was_added_or_is_not_checked() {
    let backends = [entry("a", 1), entry("b", 2)].join(", ");
    let pool = Pool::new(config("", &backends), 1);
    pool.add(backend("c", 3), &stamp()).expect("c is new");
    let names = |pool: &Pool| pool.unchecked().iter().map(|n| n.to_string()).collect();
    let waiting: Vec<String> = names(&pool);
    assert_eq!(waiting, ["a", "b"]);
    pool.set("a", to(AdminState::Maintenance), &stamp())
        .expect("a");
    pool.remove("b", &stamp()).expect("b");
    let waiting: Vec<String> = names(&pool);
    assert!(waiting.is_empty(), "{waiting:?}");
}

#[test]
fn a_removed_backend_stays_until_its_last_connection_ends() {
    let pool = pool("");
    let lease = lease_of(&pool, "a");
    lease.backend().counters.here().bytes_in.add(5);
    pool.remove("a", &stamp()).expect("a");
    assert_eq!(state(&pool, "a"), Some(State::Removed));
    assert_eq!(picks(&pool, 2), ["b", "b"]);
    assert!(pool.remove("a", &stamp()).is_err(), "it was removed");
    drop(lease);
    assert_eq!(state(&pool, "a"), None);
    let overview = pool.overview();
    assert_eq!(overview.others.into, 5, "what it moved still counts");
    assert_eq!(pool.every_backend().len(), 1);
}

/// The one that left and the one that came in its place share a name and nothing else.
#[test]
fn a_name_that_comes_back_has_counts_of_its_own() {
    let pool = pool("");
    let old = lease_of(&pool, "a");
    pool.remove("a", &stamp()).expect("a");
    pool.add(backend("a", 1), &stamp())
        .expect("the name is free");
    assert!(pool.overrides().is_empty(), "all is as in the file again");
    let new = lease_of(&pool, "a");
    assert!(!Arc::ptr_eq(old.backend(), new.backend()));
    assert!(!Arc::ptr_eq(&old.backend().name, &new.backend().name));
    assert_eq!((old.backend().active(), new.backend().active()), (1, 1));
    let shown = pool.overview().backends;
    let shown: Vec<_> = shown.iter().filter(|v| &*v.backend.name == "a").collect();
    assert_eq!(shown.len(), 1, "names are unique");
    assert_eq!(pool.overview().active, 2, "nobody is forgotten");
    assert_eq!(shown[0].state, State::Up);
    drop((old, shown));
    assert_eq!(new.backend().active(), 1);
    // In its place of the file, not behind the others.
    drop(new);
    assert_eq!(&*pool.snapshot().backends[0].name, "a");
}

#[test]
fn a_tier_that_does_not_change_keeps_its_sequence() {
    let pool = pool("");
    assert_eq!(picks(&pool, 1), ["a"]);
    pool.pause(None, &stamp()).expect("it holds");
    pool.resume();
    let spare = config(
        "",
        "{ name = \"s\", address = \"127.0.0.1:9\", backup = true }",
    );
    pool.add(spare.backends[0].clone(), &stamp()).expect("new");
    assert_eq!(picks(&pool, 2), ["b", "a"]);
}

#[test]
fn live_connections_have_the_drain_time_out_of_the_pool_or_the_one_asked_for() {
    let pool = pool("drain_timeout = \"30s\"");
    let lease = lease_of(&pool, "a");
    let leaving = |pool: &Arc<Pool>| {
        let views = pool.overview().backends;
        views[0].leaving.expect("it leaves")
    };
    pool.set("a", to(AdminState::Drain), &stamp()).expect("a");
    let given = leaving(&pool);
    assert_eq!(given.until, Some(given.since + Duration::from_secs(30)));
    pool.set("a", to(AdminState::Maintenance), &stamp())
        .expect("a");
    assert_eq!(leaving(&pool), given, "it keeps the time that it was given");
    let now = Instant::now();
    assert!(due(&pool, now).overstayed.is_empty());
    assert!(due(&pool, now).next <= Some(now + Duration::from_secs(30)));
    let over = now + Duration::from_secs(31);
    let overstayed = due(&pool, over);
    assert!(Arc::ptr_eq(&overstayed.overstayed[0], lease.backend()));
    assert_eq!(overstayed.next, Some(over + Duration::from_secs(1)));
    let asked = |timeout| Wanted {
        timeout: Some(timeout),
        ..to(AdminState::Drain)
    };
    pool.set("a", asked(Duration::ZERO), &stamp()).expect("a");
    assert_eq!(leaving(&pool).until, None);
    assert_eq!(due(&pool, over).next, None);
    pool.set("a", asked(Duration::from_secs(5)), &stamp())
        .expect("a");
    assert!(due(&pool, over).overstayed.len() == 1);
    pool.set("a", to(AdminState::Ready), &stamp()).expect("a");
    assert!(due(&pool, over).overstayed.is_empty());
}

#[test]
fn a_removed_backend_s_connections_have_the_time_of_the_pool() {
    let pool = pool("drain_timeout = \"30s\"");
    let lease = lease_of(&pool, "a");
    pool.remove("a", &stamp()).expect("a");
    let over = Instant::now() + Duration::from_secs(31);
    assert_eq!(due(&pool, over).overstayed.len(), 1);
    drop(lease);
    assert!(due(&pool, over).overstayed.is_empty());
}

#[test]
fn a_paused_pool_gives_out_nothing_and_does_not_fall_back() {
    let (pool, other) = (pool(""), pool(""));
    fall_back(&pool, &other);
    pool.pause(Some(Duration::from_secs(60)), &stamp())
        .expect("it holds");
    assert!(pool.acquire(&attempt()).is_none());
    assert!(pool.fallback().is_none());
    assert_eq!(pool.snapshot().usable(), 2, "its backends are fine");
    let held = pool.hold(&attempt(), None).expect("room");
    assert_eq!(pool.held(), 1, "the fallback does not take it either");
    let now = Instant::now();
    let next = due(&pool, now).next.expect("the end of the pause");
    assert!(next > now + Duration::from_secs(50));
    pool.due(next);
    assert_eq!(pool.held(), 0);
    assert!(!pool.pause_state().is_on());
    assert!(pool.overrides().is_empty());
    assert!(pool.fallback().is_some());
    drop(held);
}

#[test]
fn clients_of_another_pool_do_not_come_in_by_the_back_door() {
    let other = Pool::new(config("", ""), 1);
    let pool = pool("");
    fall_back(&other, &pool);
    pool.pause(None, &stamp()).expect("it holds");
    let held = other.hold(&attempt(), None).expect("room");
    assert_eq!(other.held(), 1);
    pool.resume();
    assert_eq!(other.held(), 0);
    drop(held);
}

/// As after a restart of the backends: not everybody at once.
#[test]
fn those_who_are_held_come_back_four_to_a_backend() {
    let pool = Pool::new(config(UNCHECKED, &entry("a", 1)), 1);
    // Hundreds have come and gone before.
    for _ in 0..100 {
        let mut lease = pool.acquire(&attempt()).expect("it is up");
        lease.connected(Duration::from_millis(1), Instant::now());
    }
    pool.pause(None, &stamp()).expect("it holds");
    let held: Vec<_> = (0..10)
        .map(|_| pool.hold(&attempt(), None).expect("room"))
        .collect();
    pool.resume();
    assert_eq!(pool.held(), 6);
    drop(held);
}

#[test]
fn a_pool_that_holds_nothing_is_not_paused() {
    let pool = pool("[pool.p.hold]\nmax = 0");
    let refused = pool.pause(None, &stamp());
    assert_eq!(refused, Err(Refused::HoldsNothing("p".into())));
    assert!(pool.acquire(&attempt()).is_some());
    assert!(pool.overrides().is_empty());
}

#[test]
fn every_change_is_among_the_overrides_until_it_is_undone() {
    let pool = pool("");
    let fields = |pool: &Pool| -> Vec<&str> {
        let all = pool.overrides();
        all.iter().map(|change| change.change.field()).collect()
    };
    pool.set("a", to(AdminState::Drain), &stamp()).expect("a");
    pool.add(backend("c", 3), &stamp()).expect("c");
    pool.remove("b", &stamp()).expect("b");
    pool.pause(None, &stamp()).expect("it holds");
    assert_eq!(fields(&pool), ["state", "added", "removed", "paused"]);
    pool.resume();
    pool.add(backend("b", 2), &stamp()).expect("as in the file");
    pool.remove("c", &stamp()).expect("c");
    pool.set("a", to(AdminState::Ready), &stamp()).expect("a");
    assert_eq!(fields(&pool), [""; 0]);
    assert_eq!(pool.snapshot().backends.len(), 2);
}

/// CH-14: where a backend stands in the file, and whether it stands there, is nothing to the hash.
#[test]
fn a_backend_added_at_run_time_takes_the_keys_that_it_would_have_in_the_file() {
    let hash = format!("balance = \"consistent-hash\"\n{UNCHECKED}");
    let all = [entry("a", 1), entry("b", 2), entry("c", 3)].join(", ");
    let in_file = Pool::new(config(&hash, &all), 1);
    let grown = Pool::new(config(&hash, &entry("c", 3)), 1);
    grown.add(backend("b", 2), &stamp()).expect("b");
    grown.add(backend("a", 1), &stamp()).expect("a");
    for key in 0..1000 {
        let attempt = Attempt::new(Client::Unix(key));
        let name = |pool: &Arc<Pool>| {
            let lease = pool.acquire(&attempt).expect("all are up");
            lease.backend().name.to_string()
        };
        assert_eq!(name(&in_file), name(&grown));
    }
}

/// CH-13: what it has it keeps, and takes more.
#[test]
fn a_weight_that_rises_moves_keys_to_its_backend_alone() {
    let hash = format!("balance = \"consistent-hash\"\n{UNCHECKED}");
    let all = [entry("a", 1), entry("b", 2), entry("c", 3)].join(", ");
    let pool = Pool::new(config(&hash, &all), 1);
    let owners = || -> Vec<String> {
        let owner = |key| {
            let lease = pool.acquire(&Attempt::new(Client::Unix(key)));
            lease.expect("all are up").backend().name.to_string()
        };
        (0..1000).map(owner).collect()
    };
    let before = owners();
    let weight = Wanted {
        weight: Some(3),
        ..Wanted::default()
    };
    pool.set("b", weight, &stamp()).expect("b");
    let after = owners();
    let moved = before.iter().zip(&after).filter(|(old, new)| old != new);
    assert!(moved.clone().count() > 100, "three fifths are its own now");
    assert!(moved.clone().all(|(_, new)| new == "b"));
}

#[test]
fn the_weight_of_a_backend_that_was_added_is_part_of_its_entry() {
    let pool = pool("");
    pool.add(backend("c", 3), &stamp()).expect("c is new");
    let weight = Wanted {
        weight: Some(2),
        ..Wanted::default()
    };
    let changed = pool.set("c", weight, &stamp()).expect("c");
    assert_eq!(changed.after.settings.weight, 2);
    assert_eq!(pool.overrides().iter().count(), 1);
    let of_c = picks(&pool, 8).iter().filter(|name| *name == "c").count();
    assert_eq!(of_c, 4);
}

/// One that came to maintenance before its first result has the whole wait before it.
#[test]
fn back_from_maintenance_a_result_is_waited_for_as_at_the_start() {
    let pool = Pool::new(config("", &entry("a", 1)), 1);
    pool.set("a", to(AdminState::Maintenance), &stamp())
        .expect("a");
    let later = Instant::now() + Duration::from_secs(60);
    assert_eq!(due(&pool, later).next, None, "nothing is waited for");
    pool.look(|control| {
        let ready = to(AdminState::Ready);
        control.set("a", ready, &stamp(), later).expect("a");
    });
    due(&pool, later);
    assert_eq!(state(&pool, "a"), Some(State::Starting));
    due(&pool, later + Duration::from_secs(2));
    assert_eq!(state(&pool, "a"), Some(State::Up));
}

#[test]
fn a_removal_changes_no_time_that_was_asked_for_or_runs() {
    let pool = pool("drain_timeout = \"30s\"");
    let _leases = ["a", "b"].map(|name| lease_of(&pool, name));
    let leaving = |name: &str| {
        let mut views = pool.overview().backends.into_iter();
        let view = views.find(|view| *view.backend.name == *name);
        view.and_then(|view| view.leaving).expect("it leaves")
    };
    let without_end = Wanted {
        timeout: Some(Duration::ZERO),
        ..to(AdminState::Drain)
    };
    pool.set("a", without_end, &stamp()).expect("a");
    pool.set("b", to(AdminState::Drain), &stamp()).expect("b");
    let before = ["a", "b"].map(leaving);
    assert_eq!(before.map(|leaving| leaving.asked), [true, false]);
    for name in ["a", "b"] {
        pool.remove(name, &stamp()).expect("a backend");
    }
    assert_eq!(["a", "b"].map(leaving), before);
    assert_eq!((before[0].until, before[1].until.is_some()), (None, true));
}

/// Steps: of two backends with `rise = 3` one goes down, then the other.
#[test]
fn one_pass_is_needed_where_no_other_is_usable() {
    let backends = [entry("a", 1), entry("b", 2)].join(", ");
    let settings = "[pool.p.health]\nfall = 1\nrise = 3";
    let pool = Pool::new(config(settings, &backends), 1);
    let needed = |name: &str| {
        let mut all = pool.overview().backends.into_iter();
        let view = all.find(|view| *view.backend.name == *name);
        view.expect("a backend").passes_needed
    };
    check(&pool, "a", None);
    check(&pool, "b", None);
    check(&pool, "a", Some("refused"));
    assert_eq!((needed("a"), needed("b")), (3, 0));
    check(&pool, "b", Some("refused"));
    assert_eq!((needed("a"), needed("b")), (1, 1));
    check(&pool, "b", None);
    assert_eq!(state(&pool, "b"), Some(State::Up));
    assert_eq!((needed("a"), needed("b")), (3, 0));
}

//! Ejections, trials and slow starts of a pool, with times of our own.

use std::io;

use rustix::io::Errno;

use super::super::overrides::Stamp;
use super::super::{
    AdminState, Attempt, BackendView, CheckResult, Client, Lease, Obstacle, Wanted,
};
use super::*;
use crate::log::Pick;
use crate::metrics::Failure;
use crate::net::DialError;

const SECOND: Duration = Duration::from_secs(1);

fn loaded(settings: &str, backends: usize) -> crate::config::Loaded {
    let entry = |i| format!("{{ name = \"b{i}\", address = \"127.0.0.1:{i}\" }}");
    let backends: Vec<_> = (1..=backends).map(entry).collect();
    let kind = match settings.contains("health") {
        true => "",
        false => "[pool.p.health]\nkind = \"none\"\n",
    };
    let text = format!(
        "[pool.p]\nbackends = [{}]\n{settings}\n{kind}",
        backends.join(", ")
    );
    crate::config::parse(&text, "lb.toml", &|_| None).expect("a configuration")
}

fn pool(settings: &str, backends: usize) -> Arc<Pool> {
    Pool::new(Arc::clone(&loaded(settings, backends).config.pools[0]), 1)
}

fn stamp() -> Stamp {
    Stamp {
        since: SystemTime::UNIX_EPOCH,
        by: "uid 0".into(),
    }
}

fn view(pool: &Arc<Pool>, name: &str) -> BackendView {
    let mut all = pool.overview().backends.into_iter();
    all.find(|view| *view.backend.name == *name)
        .expect("a backend")
}

fn state(pool: &Arc<Pool>, name: &str) -> State {
    view(pool, name).state
}

fn backend(pool: &Arc<Pool>, name: &str) -> Arc<Backend> {
    pool.backend(name).expect("a backend")
}

fn fail(pool: &Arc<Pool>, name: &str, times: usize, now: Instant) {
    let backend = backend(pool, name);
    (0..times).for_each(|_| pool.went_wrong(&backend, false, &"refused", now));
}

fn acquire(pool: &Arc<Pool>) -> Option<Lease> {
    pool.acquire(&Attempt::new(Client::Unix(7)))
}

fn names(leases: &[Lease]) -> Vec<String> {
    let name = |lease: &Lease| lease.backend().name.to_string();
    leases.iter().map(name).collect()
}

/// The next `n` that are picked, all of which stay.
fn picks(pool: &Arc<Pool>, n: usize) -> Vec<Lease> {
    (0..n).filter_map(|_| acquire(pool)).collect()
}

fn refused() -> DialError {
    DialError::from(io::Error::from(Errno::CONNREFUSED))
}

const QUICK: &str = "outlier = { consecutive_failures = 3, eject_for = \"10s\" }";

/// Steps: b1 of two is refused three times. The fourth client does not come to it, before
/// anybody of the control plane has heard of it.
#[test]
fn the_failure_that_is_one_too_many_ejects_at_once() {
    let pool = pool(&format!("balance = \"first\"\n{QUICK}"), 2);
    for _ in 0..3 {
        let lease = acquire(&pool).expect("a slot");
        assert_eq!(&*lease.backend().name, "b1");
        lease.failed(&refused());
    }
    let lease = acquire(&pool).expect("a slot");
    assert_eq!(&*lease.backend().name, "b2");
    let view = view(&pool, "b1");
    assert_eq!(view.state, State::Ejected);
    assert!(view.ejected_until > Some(SystemTime::now()));
    let entry = view.history.last().expect("an entry");
    assert_eq!((entry.from, entry.to), (State::Up, State::Ejected));
    assert_eq!(entry.by, "traffic");
    let refused = refused();
    let cause = format!("3 failures in a row, the last: connect: {refused}");
    assert_eq!(entry.cause, cause);
    assert_eq!(pool.counters.sum(|cell| cell.ejections.value()), 1);
    assert_eq!(pool.snapshot().usable(), 1);
}

#[test]
fn a_success_in_between_and_faults_of_this_machine_eject_nobody() {
    let pool = pool(QUICK, 2);
    let now = Instant::now();
    for _ in 0..3 {
        fail(&pool, "b1", 2, now);
        let leases = picks(&pool, 2);
        leases.iter().for_each(|lease| lease.answered(SECOND, now));
        fail(&pool, "b1", 1, now);
        leases.iter().for_each(|lease| lease.lasted(now));
    }
    for _ in 0..20 {
        let local = DialError::from(io::Error::from(Errno::MFILE));
        acquire(&pool).expect("a slot").failed(&local);
        // Nor does a client who leaves.
        drop(acquire(&pool).expect("a slot"));
    }
    assert_eq!(state(&pool, "b1"), State::Up);
    assert_eq!(backend(&pool, "b1").conduct.streak(), 0);
}

#[test]
fn early_ends_count_as_connects_do_and_are_counted_by_their_reason() {
    let pool = pool(&format!("balance = \"first\"\n{QUICK}"), 2);
    let now = Instant::now();
    for how in [
        Failure::EarlyClose,
        Failure::EarlyReset,
        Failure::EarlyReset,
    ] {
        let mut lease = acquire(&pool).expect("a slot");
        lease.connected(SECOND, now);
        lease.ended_early(how, now);
    }
    assert_eq!(state(&pool, "b1"), State::Ejected);
    let counters = &backend(&pool, "b1").counters;
    let counts = [0, 1].map(|how| counters.sum(|cell| cell.ended_early[how].value()));
    assert_eq!(counts, [1, 2]);
}

/// Steps: b1 is ejected for 10 s. Then one connection tries it, and while it has shown nothing no
/// other comes; it leaves without a word, and the next one is the trial, which succeeds.
#[test]
fn an_expired_ejection_admits_one_connection_and_its_success_returns_the_backend() {
    let pool = pool(QUICK, 2);
    let now = Instant::now();
    fail(&pool, "b1", 3, now);
    assert_eq!(names(&picks(&pool, 3)), ["b2"; 3]);
    let due = pool.due(now + SECOND * 9);
    let next = due.next.expect("the end of the ejection");
    assert_eq!(next, now + SECOND * 10);
    pool.due(next);
    assert_eq!(
        state(&pool, "b1"),
        State::Ejected,
        "until the trial succeeds"
    );
    let leases = picks(&pool, 4);
    assert_eq!(names(&leases), ["b1", "b2", "b2", "b2"]);
    assert_eq!(leases[0].pick(), Pick::Trial);
    assert!(leases[0].is_doubted());
    let obstacle = pool.explain(crate::pool::explain::Whom::Unix).pools[0].backends[0].verdict;
    let expected = crate::pool::explain::Verdict::Obstacle(Obstacle::Trying);
    assert_eq!(obstacle, expected);
    drop(leases);
    let leases = picks(&pool, 3);
    let trials: Vec<_> = leases.iter().filter(|l| l.pick() == Pick::Trial).collect();
    assert_eq!(trials.len(), 1);
    trials[0].answered(SECOND, next);
    let view = view(&pool, "b1");
    assert_eq!((view.state, view.ejected_until), (State::Up, None));
    let entry = view.history.last().expect("an entry");
    assert_eq!(entry.cause, "its trial succeeded");
    let mut both = names(&picks(&pool, 2));
    both.sort();
    assert_eq!(both, ["b1", "b2"]);
}

/// Steps: trials fail, one after the other; then b1 is back for a while, and fails again.
#[test]
fn a_trial_that_fails_ejects_for_twice_as_long_until_that_is_forgiven() {
    let pool = pool(&format!("balance = \"first\"\n{QUICK}"), 2);
    let mut now = Instant::now();
    fail(&pool, "b1", 3, now);
    for seconds in [10, 20, 40] {
        let next = pool.due(now).next.expect("the end of the ejection");
        assert_eq!(next, now + SECOND * seconds);
        now = next;
        pool.due(now);
        let trial = acquire(&pool).expect("a slot");
        assert_eq!(trial.pick(), Pick::Trial);
        pool.went_wrong(trial.backend(), trial.take_trial(), &"closed", now);
    }
    now = pool.due(now).next.expect("the end of the ejection");
    pool.due(now);
    acquire(&pool).expect("a slot").answered(SECOND, now);
    assert_eq!(state(&pool, "b1"), State::Up);
    // For 80 s it was out, and after 79 s it fails.
    now += SECOND * 79;
    fail(&pool, "b1", 3, now);
    let next = pool.due(now).next.expect("the end of the ejection");
    assert_eq!(next, now + SECOND * 160);
    pool.due(next);
    acquire(&pool).expect("a slot").answered(SECOND, next);
    assert_eq!(state(&pool, "b1"), State::Up);
    now = next + SECOND * 160;
    fail(&pool, "b1", 3, now);
    let next = pool.due(now).next.expect("the end of the ejection");
    assert_eq!(next, now + SECOND * 10, "forgiven");
    assert_eq!(pool.counters.sum(|cell| cell.ejections.value()), 6);
}

#[test]
fn the_last_usable_backend_and_more_than_the_share_are_never_ejected() {
    let now = Instant::now();
    let alone = pool(QUICK, 1);
    fail(&alone, "b1", 30, now);
    assert_eq!(state(&alone, "b1"), State::Up);
    let five = pool(QUICK, 5);
    for name in ["b1", "b2", "b3", "b4", "b5"] {
        fail(&five, name, 30, now);
    }
    let views = five.overview().backends;
    let ejected = views.iter().filter(|view| view.state == State::Ejected);
    assert_eq!(ejected.count(), 2, "half of five, rounded down");
}

/// Steps: many threads report failures of every backend at once.
#[test]
fn the_share_holds_whoever_fails_at_the_same_time() {
    for _ in 0..50 {
        let pool = pool(QUICK, 8);
        let now = Instant::now();
        std::thread::scope(|scope| {
            for i in 1..=8 {
                let pool = &pool;
                scope.spawn(move || fail(pool, &format!("b{i}"), 5, now));
            }
        });
        let gates = pool.snapshot().seats();
        assert_eq!(gates.iter().filter(|seat| seat.ejected).count(), 4);
    }
}

/// Steps: b1 is on trial when b2, the only other, goes down.
#[test]
fn where_no_other_is_usable_a_failed_trial_does_not_eject() {
    let checks = format!("{QUICK}\n[pool.p.health]\nfall = 1");
    let pool = pool(&checks, 2);
    check(&pool, "b1", None);
    check(&pool, "b2", None);
    let now = Instant::now();
    fail(&pool, "b1", 3, now);
    pool.due(now + SECOND * 10);
    let leases = picks(&pool, 2);
    let trial = leases.iter().find(|l| l.pick() == Pick::Trial);
    let trial = trial.expect("a trial");
    check(&pool, "b2", Some("refused"));
    pool.went_wrong(trial.backend(), trial.take_trial(), &"closed", now);
    let view = view(&pool, "b1");
    assert_eq!(view.state, State::Up);
    let entry = view.history.last().expect("an entry");
    let cause = "its trial failed: closed, but no other backend is usable";
    assert_eq!(entry.cause, cause);
}

fn check(pool: &Arc<Pool>, name: &str, error: Option<&str>) {
    let result = CheckResult {
        at: SystemTime::now(),
        took: Duration::ZERO,
        error: error.map(str::to_owned),
    };
    pool.checked(&backend(pool, name), result);
}

/// Steps: b1 is ejected, then its checks fail, then they pass.
#[test]
fn what_checks_say_stays_apart_and_down_beats_ejected() {
    let checks = format!("{QUICK}\n[pool.p.health]\nfall = 1\nrise = 1");
    let pool = pool(&checks, 2);
    check(&pool, "b1", None);
    check(&pool, "b2", None);
    fail(&pool, "b1", 3, Instant::now());
    assert_eq!(state(&pool, "b1"), State::Ejected);
    check(&pool, "b1", Some("refused"));
    let down = view(&pool, "b1");
    assert_eq!(down.state, State::Down);
    assert!(down.ejected_until.is_some());
    check(&pool, "b1", None);
    let ejected = view(&pool, "b1");
    assert_eq!(ejected.state, State::Ejected);
    assert_eq!(ejected.checks, super::super::health::State::Up);
    assert_eq!(ejected.passes_needed, 0);
}

/// Steps: b1 is ejected, b2 goes down by checks: with `try` b2 is used, b1 is not.
#[test]
fn an_ejected_backend_is_not_tried_for_all_being_down() {
    let checks = format!("when_all_down = \"try\"\n{QUICK}\n[pool.p.health]\nfall = 1\nrise = 1");
    let pool = pool(&checks, 2);
    check(&pool, "b1", None);
    check(&pool, "b2", None);
    fail(&pool, "b1", 3, Instant::now());
    check(&pool, "b2", Some("refused"));
    let leases = picks(&pool, 3);
    assert_eq!(names(&leases), ["b2"; 3]);
    assert!(leases.iter().all(|lease| lease.pick() == Pick::Try));
    // What fails by checks is not ejected on top, however often it fails.
    fail(&pool, "b2", 9, Instant::now());
    assert_eq!(names(&picks(&pool, 1)), ["b2"]);
}

/// Steps: b1 is ejected, b2 is drained: whoever comes is held, and served by the trial.
#[test]
fn who_is_held_is_served_when_the_ejection_expires() {
    let pool = pool(QUICK, 2);
    let now = Instant::now();
    fail(&pool, "b1", 3, now);
    let drain = Wanted {
        state: Some(AdminState::Drain),
        ..Wanted::default()
    };
    pool.set("b2", drain, &stamp()).expect("a backend");
    let attempt = Attempt::new(Client::Unix(7));
    assert!(pool.acquire(&attempt).is_none());
    let held = pool.hold(&attempt, None).expect("room");
    pool.due(now + SECOND * 9);
    assert_eq!(pool.held(), 1);
    pool.due(now + SECOND * 10);
    assert_eq!(pool.held(), 0);
    let mut held = std::pin::pin!(held);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(lease) = held.as_mut().poll(&mut cx) else {
        panic!("nothing granted")
    };
    assert_eq!((lease.pick(), &*lease.backend().name), (Pick::Trial, "b1"));
}

#[test]
fn back_from_maintenance_nothing_is_held_against_a_backend() {
    let pool = pool(QUICK, 2);
    fail(&pool, "b1", 3, Instant::now());
    for (to, expected) in [
        (AdminState::Drain, State::Draining),
        (AdminState::Ready, State::Ejected),
        (AdminState::Maintenance, State::Maintenance),
        (AdminState::Ready, State::Up),
    ] {
        let wanted = Wanted {
            state: Some(to),
            ..Wanted::default()
        };
        pool.set("b1", wanted, &stamp()).expect("a backend");
        assert_eq!(state(&pool, "b1"), expected);
    }
    assert_eq!(names(&picks(&pool, 2)), ["b1", "b2"]);
}

fn reload(pool: &Arc<Pool>, to: &crate::config::Loaded) {
    pool.reload(super::super::Reload {
        config: &to.config,
        file: to.config.pools.first(),
        wiring: super::super::Wiring::default(),
        stamp: stamp(),
    });
}

#[test]
fn a_reload_keeps_ejections_and_ends_them_where_it_switches_them_off() {
    let pool = pool(QUICK, 2);
    fail(&pool, "b1", 3, Instant::now());
    reload(&pool, &loaded(QUICK, 3));
    assert_eq!(state(&pool, "b1"), State::Ejected);
    reload(&pool, &loaded("outlier.consecutive_failures = 0", 3));
    let view = view(&pool, "b1");
    assert_eq!(view.state, State::Up);
    let entry = view.history.last().expect("an entry");
    assert_eq!(entry.cause, "outlier detection is switched off");
    fail(&pool, "b1", 99, Instant::now());
    assert_eq!(state(&pool, "b1"), State::Up);
}

/// Through JSON, as between two processes.
fn handed_over(from: &Arc<Pool>, to: &crate::config::Loaded) -> Arc<Pool> {
    let json = serde_json::to_string(&from.memory()).expect("JSON");
    let pool = Pool::new(Arc::clone(&to.config.pools[0]), 1);
    pool.remember(serde_json::from_str(&json).expect("JSON"), &to.config);
    pool
}

#[test]
fn another_process_goes_on_with_ejections_and_with_trials() {
    let old = pool(QUICK, 4);
    let now = Instant::now();
    fail(&old, "b1", 3, now);
    fail(&old, "b2", 2, now);
    let new = handed_over(&old, &loaded(QUICK, 4));
    assert_eq!(state(&new, "b1"), State::Ejected);
    assert_eq!(
        view(&new, "b1").ejected_until,
        view(&old, "b1").ejected_until
    );
    fail(&new, "b2", 1, now);
    assert_eq!(state(&new, "b2"), State::Ejected, "the third in a row");
    old.due(now + SECOND * 10);
    let trial = picks(&old, 4);
    assert!(trial.iter().any(|lease| lease.pick() == Pick::Trial));
    let newer = handed_over(&old, &loaded(QUICK, 4));
    let leases = picks(&newer, 4);
    let trials = leases.iter().filter(|lease| lease.pick() == Pick::Trial);
    assert_eq!(trials.count(), 1);
}

/// What an older version sends knows nothing of all this.
#[test]
fn a_message_of_an_older_version_is_understood() {
    let old = pool(QUICK, 2);
    let mut message = serde_json::to_value(old.memory()).expect("JSON");
    for backend in message["backends"].as_array_mut().expect("a list") {
        let backend = backend.as_object_mut().expect("an object");
        for field in ["conduct", "ramping", "newcomer"] {
            assert!(backend.remove(field).is_some());
        }
    }
    let to = loaded(QUICK, 2);
    let new = Pool::new(Arc::clone(&to.config.pools[0]), 1);
    new.remember(
        serde_json::from_value(message).expect("understood"),
        &to.config,
    );
    assert_eq!(state(&new, "b1"), State::Up);
}

const SLOW: &str = "slow_start = \"18s\"\n\
                    outlier = { consecutive_failures = 3, eject_for = \"10s\" }";

fn weight(pool: &Arc<Pool>, name: &str) -> f64 {
    view(pool, name).effective_weight
}

/// Which share of 1000 picks in a row `name` gets.
fn share(pool: &Arc<Pool>, name: &str, n: usize) -> f64 {
    let picked = (0..n).filter_map(|_| acquire(pool));
    let mine = picked.filter(|lease| *lease.backend().name == *name);
    mine.count() as f64 / n as f64
}

#[test]
fn nobody_ramps_at_the_start_of_the_process() {
    let pool = pool(SLOW, 2);
    assert_eq!((weight(&pool, "b1"), weight(&pool, "b2")), (1.0, 1.0));
    assert_eq!(pool.due(Instant::now()).next, None, "nothing to wait for");
}

/// Steps: b1 returns from an ejection. Its weight is a tenth, and grows by a twentieth each
/// second, until nothing is waited for any more.
#[test]
fn after_an_ejection_the_weight_grows_evenly_from_a_tenth() {
    let pool = pool(SLOW, 2);
    let now = Instant::now();
    fail(&pool, "b1", 3, now);
    assert_eq!(weight(&pool, "b1"), 1.0);
    let back = now + SECOND * 10;
    pool.due(back);
    let trial = acquire(&pool).expect("a slot");
    assert_eq!(trial.pick(), Pick::Trial);
    trial.answered(SECOND, back);
    drop(trial);
    for second in 0..18 {
        let due = pool.due(back + SECOND * second);
        assert_eq!(due.next, Some(back + SECOND * (second + 1)));
        let expected = 0.1 + 0.05 * f64::from(second);
        assert!((weight(&pool, "b1") - expected).abs() < 1e-9, "{second}");
        let exact = expected / (1.0 + expected);
        assert!((share(&pool, "b1", 880) - exact).abs() < 0.02, "{second}");
    }
    assert_eq!(pool.due(back + SECOND * 18).next, None);
    assert_eq!(weight(&pool, "b1"), 1.0);
    assert_eq!(names(&picks(&pool, 4)), ["b1", "b2", "b1", "b2"]);
}

/// Steps: between two steps of a ramp come fewer connections than the sum of the weights. The
/// sequence goes on over the steps, or the ramping one would never be picked.
#[test]
fn a_ramp_gives_a_rare_connection_to_the_ramping_one_too() {
    let pool = pool(SLOW, 10);
    let now = Instant::now();
    fail(&pool, "b10", 3, now);
    let back = now + SECOND * 10;
    pool.due(back);
    let mut trial = picks(&pool, 10);
    trial.retain(|lease| lease.pick() == Pick::Trial);
    trial[0].answered(SECOND, back);
    drop(trial);
    let mut mine = 0.0;
    for second in 0..18 {
        pool.due(back + SECOND * second);
        mine += 12.0 * share(&pool, "b10", 12);
    }
    // The sum of w / (9 + w) over the steps, times 12.
    assert!((10.0..=13.0).contains(&mine), "{mine}");
}

#[test]
fn whoever_comes_later_or_is_back_from_maintenance_ramps() {
    for balance in [
        "round-robin",
        "least-connections",
        "random-two",
        "least-latency",
    ] {
        let settings = format!("balance = \"{balance}\"\n{SLOW}");
        let pool = pool(&settings, 2);
        reload(&pool, &loaded(&settings, 3));
        assert_eq!(weight(&pool, "b3"), 0.1, "{balance}");
        assert_eq!(weight(&pool, "b1"), 1.0, "{balance}");
        for state in [AdminState::Maintenance, AdminState::Ready] {
            let wanted = Wanted {
                state: Some(state),
                ..Wanted::default()
            };
            pool.set("b1", wanted, &stamp()).expect("a backend");
        }
        assert_eq!(weight(&pool, "b1"), 0.1, "{balance}");
        reload(&pool, &loaded(&format!("balance = \"{balance}\""), 3));
        assert_eq!(weight(&pool, "b1"), 1.0, "{balance}: switched off");
    }
    for balance in ["consistent-hash", "first"] {
        let settings = format!("balance = \"{balance}\"\n{SLOW}");
        let pool = pool(&settings, 2);
        reload(&pool, &loaded(&settings, 3));
        assert_eq!(weight(&pool, "b3"), 1.0, "{balance}");
    }
}

/// Steps: checks. The first result up is none of a return; down and up is. A drain in between
/// begins nothing.
#[test]
fn down_and_up_again_ramps_and_a_drain_does_not() {
    let settings = format!("{SLOW}\n[pool.p.health]\nfall = 1\nrise = 1");
    let pool = pool(&settings, 2);
    check(&pool, "b1", None);
    check(&pool, "b2", None);
    assert_eq!(weight(&pool, "b1"), 1.0);
    for state in [AdminState::Drain, AdminState::Ready] {
        let wanted = Wanted {
            state: Some(state),
            ..Wanted::default()
        };
        pool.set("b1", wanted, &stamp()).expect("a backend");
    }
    assert_eq!(weight(&pool, "b1"), 1.0);
    check(&pool, "b1", Some("refused"));
    check(&pool, "b1", None);
    assert_eq!(weight(&pool, "b1"), 0.1);
    let new = handed_over(&pool, &loaded(&settings, 3));
    assert!((0.1..0.2).contains(&weight(&new, "b1")), "it goes on");
    check(&new, "b3", None);
    assert_eq!(weight(&new, "b3"), 0.1, "the other process had it not");
}

/// What is told of a pick is in whole weights, however they are counted.
#[test]
fn an_explanation_has_the_weight_as_it_counts() {
    let settings = format!("balance = \"least-connections\"\n{SLOW}");
    let pool = pool(&settings, 2);
    reload(&pool, &loaded(&settings, 3));
    let explanation = pool.explain(crate::pool::explain::Whom::Unix);
    let weights: Vec<_> = explanation.pools[0]
        .backends
        .iter()
        .map(|step| match step.score {
            Some(crate::balance::Score::Load { weight, .. }) => weight,
            _ => panic!("{step:?}"),
        })
        .collect();
    assert_eq!(weights, [1.0, 1.0, 0.1]);
}

/// Steps: with `max_connecting = 2` a backend that is back takes two connects at a time, of
/// whoever was held, while it ramps.
#[test]
fn max_connecting_and_a_ramp_hold_beside_each_other() {
    let settings = format!("max_connecting = 2\n{SLOW}\n[pool.p.health]\nfall = 1\nrise = 1");
    let pool = pool(&settings, 1);
    check(&pool, "b1", None);
    check(&pool, "b1", Some("refused"));
    let attempt = Attempt::new(Client::Unix(7));
    let held: Vec<_> = (0..5)
        .map(|_| pool.hold(&attempt, None).expect("room"))
        .collect();
    check(&pool, "b1", None);
    assert_eq!((state(&pool, "b1"), weight(&pool, "b1")), (State::Up, 0.1));
    assert_eq!((pool.held(), backend(&pool, "b1").connecting()), (3, 2));
    drop(held);
    assert_eq!((pool.held(), backend(&pool, "b1").connecting()), (0, 0));
}

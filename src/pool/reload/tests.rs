//! What a pool keeps over a reload, and what it does not.

use std::time::SystemTime;

use super::super::overrides::Change;
use super::super::{AdminState, Attempt, BackendView, CheckResult, Client, State, Wanted};
use super::*;

fn stamp() -> Stamp {
    Stamp {
        since: SystemTime::now(),
        by: "test".into(),
    }
}

/// A file of pools `p` and `q`, the first with these settings.
fn file(settings: &str, backends: &[(&str, u16)]) -> Config {
    let entry = |(name, port): &(&str, u16)| {
        format!("{{ name = \"{name}\", address = \"127.0.0.1:{port}\" }}")
    };
    let backends: Vec<_> = backends.iter().map(entry).collect();
    let backends = backends.join(", ");
    let text = format!(
        "[pool.q]\nbackends = [\"127.0.0.1:9\"]\n[pool.q.health]\nkind = \"none\"\n\
         [pool.p]\nbackends = [{backends}]\n{settings}\n"
    );
    let loaded = config::parse(&text, "lb.toml", &|_| None).expect("a configuration");
    loaded.config
}

const UNCHECKED: &str = "[pool.p.health]\nkind = \"none\"";
const AB: [(&str, u16); 2] = [("a", 1), ("b", 2)];

fn start(config: &Config) -> Arc<Pool> {
    Pool::new(Arc::clone(config.pool("p").expect("a pool")), 1)
}

fn reload(pool: &Arc<Pool>, config: &Config) -> Vec<(Override, Ended)> {
    pool.reload(Reload {
        config,
        file: config.pool("p"),
        wiring: Wiring::default(),
        stamp: stamp(),
    })
}

fn views(pool: &Arc<Pool>) -> Vec<BackendView> {
    pool.overview().backends
}

fn states(pool: &Arc<Pool>) -> Vec<(String, State)> {
    let views = views(pool).into_iter();
    views
        .map(|view| (view.backend.name.to_string(), view.state))
        .collect()
}

fn picks(pool: &Arc<Pool>, n: usize) -> Vec<String> {
    let pick = |_| {
        let lease = pool.acquire(&Attempt::new(Client::Unix(7)));
        lease.map(|lease| lease.backend().name.to_string())
    };
    (0..n).filter_map(pick).collect()
}

fn check(pool: &Arc<Pool>, name: &str, error: Option<&str>) {
    let mut views = views(pool).into_iter();
    let view = views.find(|view| *view.backend.name == *name);
    let backend = view.expect("a backend").backend;
    let result = CheckResult {
        at: SystemTime::now(),
        took: std::time::Duration::ZERO,
        error: error.map(str::to_owned),
    };
    pool.checked(&backend, result);
}

#[test]
fn a_file_that_says_the_same_publishes_nothing() {
    let config = file(UNCHECKED, &AB);
    let pool = start(&config);
    let before = pool.snapshot();
    assert!(reload(&pool, &file(UNCHECKED, &AB)).is_empty());
    assert!(Arc::ptr_eq(&before, &pool.snapshot()));
}

#[test]
fn a_change_of_something_else_restarts_no_sequence_and_no_backend() {
    let pool = start(&file(UNCHECKED, &AB));
    assert_eq!(picks(&pool, 1), ["a"]);
    let before: Vec<_> = views(&pool).into_iter().map(|view| view.backend).collect();
    reload(
        &pool,
        &file(&format!("idle_timeout = \"5s\"\n{UNCHECKED}"), &AB),
    );
    let after = views(&pool).into_iter().map(|view| view.backend);
    let same = before
        .iter()
        .zip(after)
        .all(|(one, other)| Arc::ptr_eq(one, &other));
    assert!(same);
    assert_eq!(picks(&pool, 2), ["b", "a"]);
}

#[test]
fn another_strategy_takes_over_at_once() {
    let pool = start(&file(UNCHECKED, &AB));
    assert_eq!(picks(&pool, 2), ["a", "b"]);
    reload(
        &pool,
        &file(&format!("balance = \"first\"\n{UNCHECKED}"), &AB),
    );
    assert_eq!(picks(&pool, 3), ["a", "a", "a"]);
}

#[test]
fn what_checks_have_found_stays_and_new_thresholds_hold() {
    let pool = start(&file("", &AB));
    check(&pool, "a", Some("refused"));
    check(&pool, "b", None);
    reload(
        &pool,
        &file("[pool.p.health]\nrise = 1\nkind = \"tls\"\nfall = 1", &AB),
    );
    let up_and_down = [("a".to_owned(), State::Down), ("b".to_owned(), State::Up)];
    assert_eq!(states(&pool), up_and_down);
    check(&pool, "a", None);
    check(&pool, "b", Some("refused"));
    let turned = [("a".to_owned(), State::Up), ("b".to_owned(), State::Down)];
    assert_eq!(states(&pool), turned);
}

#[test]
fn without_checks_everybody_is_up_and_with_new_ones_stays_so_until_they_fail() {
    let pool = start(&file("", &AB));
    check(&pool, "a", Some("refused"));
    reload(&pool, &file(UNCHECKED, &AB));
    assert!(states(&pool).iter().all(|(_, state)| *state == State::Up));
    reload(&pool, &file("[pool.p.health]\nfall = 2", &AB));
    check(&pool, "a", Some("refused"));
    assert!(states(&pool).iter().all(|(_, state)| *state == State::Up));
    check(&pool, "a", Some("refused"));
    assert_eq!(states(&pool)[0].1, State::Down);
}

#[test]
fn another_address_is_another_backend() {
    let pool = start(&file(UNCHECKED, &AB));
    let lease = pool
        .acquire(&Attempt::new(Client::Unix(7)))
        .expect("a slot");
    assert_eq!(&*lease.backend().name, "a");
    reload(&pool, &file(UNCHECKED, &[("a", 3), ("b", 2)]));
    let mut now = views(&pool).into_iter().map(|view| view.backend);
    assert!(!now.any(|backend| Arc::ptr_eq(&backend, lease.backend())));
    assert_eq!(pool.overview().active, 1);
    drop(lease);
    assert_eq!(pool.overview().active, 0);
}

#[test]
fn a_runtime_change_survives_until_the_file_changes_that_very_thing() {
    let pool = start(&file(UNCHECKED, &AB));
    let drained = Wanted {
        state: Some(AdminState::Drain),
        ..Wanted::default()
    };
    pool.set("a", drained, &stamp()).expect("a backend");
    let weighed = Wanted {
        weight: Some(5),
        ..Wanted::default()
    };
    pool.set("b", weighed, &stamp()).expect("a backend");
    assert!(reload(&pool, &file(UNCHECKED, &[("c", 3), ("b", 2), ("a", 1)])).is_empty());
    let views_now = views(&pool);
    assert_eq!(views_now[2].state, State::Draining);
    assert_eq!(views_now[1].settings.weight, 5);
    let ended = reload(&pool, &file(UNCHECKED, &[("b", 2)]));
    assert_eq!(ended.len(), 1);
    assert!(matches!(ended[0].0.change, Change::State { .. }));
    assert_eq!(ended[0].1, Ended::FileRemoves);
    assert_eq!(views(&pool)[0].settings.weight, 5);
}

#[test]
fn a_pool_that_leaves_the_file_takes_nobody_and_can_come_back() {
    let config = file(UNCHECKED, &AB);
    let pool = start(&config);
    let _lease = pool
        .acquire(&Attempt::new(Client::Unix(7)))
        .expect("a slot");
    pool.pause(None, &stamp()).expect("a pool that holds");
    let ended = pool.reload(Reload {
        config: &Config {
            pools: Vec::new(),
            ..config.clone()
        },
        file: None,
        wiring: Wiring::default(),
        stamp: stamp(),
    });
    assert_eq!(ended[0].1, Ended::PoolRemoved);
    assert!(pool.is_retired());
    assert!(
        !pool.pause_state().is_on(),
        "or its clients waited for ever"
    );
    assert!(picks(&pool, 1).is_empty());
    assert_eq!(states(&pool), [("a".to_owned(), State::Removed)]);
    reload(&pool, &config);
    assert!(!pool.is_retired());
    assert_eq!(picks(&pool, 2).len(), 2);
}

/// `p` falls back to `q`, then `q` to `p`: in no order of the steps do they form a circle, in
/// which a connection would be looked for a backend for ever.
#[test]
fn pools_that_swap_their_fallbacks_form_no_circle() {
    let config = file(UNCHECKED, &AB);
    let pools: Vec<_> = config
        .pools
        .iter()
        .map(|p| Pool::new(Arc::clone(p), 1))
        .collect();
    let falls_back = |from: &str, to: &str| -> Vec<Arc<config::Pool>> {
        let pools = config.pools.iter();
        let pools = pools.map(|pool| {
            let fallback = (&*pool.name == from).then(|| to.into());
            Arc::new(config::Pool {
                fallback,
                ..config::Pool::clone(pool)
            })
        });
        pools.collect()
    };
    let (before, after) = (falls_back("p", "q"), falls_back("q", "p"));
    for (index, pool) in pools.iter().enumerate() {
        pool.wire(Wiring::of(&pools, &before, index));
    }
    let fallback = |index: usize| pools[index].fallback().map(|pool| pool.name.to_string());
    assert_eq!((fallback(0), fallback(1)), (None, Some("q".to_owned())));
    for (index, pool) in pools.iter().enumerate() {
        pool.unwire(&Wiring::of(&pools, &after, index));
        assert_eq!(fallback(0), None);
    }
    assert_eq!(fallback(1), None);
    for (index, pool) in pools.iter().enumerate() {
        pool.wire(Wiring::of(&pools, &after, index));
    }
    assert_eq!((fallback(0), fallback(1)), (Some("p".to_owned()), None));
}

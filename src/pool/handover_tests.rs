use super::*;
use crate::pool::{Attempt, Client, Lease, Wanted};

fn file(text: &str) -> crate::config::Loaded {
    let text = format!("[pool.web]\n{text}\n[pool.web.health]\nkind = \"tcp\"\nfall = 1\n");
    crate::config::parse(&text, "lb.toml", &|_| None).expect("a configuration")
}

fn pool(loaded: &crate::config::Loaded) -> Arc<Pool> {
    Pool::new(Arc::clone(&loaded.config.pools[0]), 1)
}

fn stamp() -> Stamp {
    Stamp {
        since: SystemTime::UNIX_EPOCH,
        by: "uid 0".into(),
    }
}

const TWO: &str = "backends = [\"127.0.0.1:1\", \"127.0.0.1:2\"]";

fn checked(pool: &Arc<Pool>, backend: usize, error: Option<&str>) {
    let backend = Arc::clone(&pool.snapshot().backends[backend]);
    let result = CheckResult {
        at: SystemTime::UNIX_EPOCH,
        took: Duration::from_millis(3),
        error: error.map(str::to_owned),
    };
    pool.checked(&backend, result);
}

/// Through JSON, as between two processes.
fn sent(memory: &PoolState) -> PoolState {
    let json = serde_json::to_string(memory).expect("JSON");
    serde_json::from_str(&json).expect("JSON")
}

#[test]
fn another_pool_goes_on_with_what_one_knows() {
    let loaded = file(TWO);
    let (old, new) = (pool(&loaded), pool(&loaded));
    checked(&old, 0, None);
    checked(&old, 1, None);
    checked(&old, 1, Some("refused"));
    let weight = Wanted {
        weight: Some(5),
        state: Some(AdminState::Drain),
        ..Wanted::default()
    };
    old.set("127.0.0.1:1", weight, &stamp()).expect("a backend");
    let ended = new.remember(sent(&old.memory()), &loaded.config);
    assert!(ended.is_empty());
    assert_eq!(new.overrides(), old.overrides());
    let shown = |pool: &Arc<Pool>| {
        let views = pool.overview().backends.into_iter();
        let of = |view: crate::pool::BackendView| {
            let checks = (view.checks, view.last_check, view.passes_needed);
            (view.state, view.since, view.history, view.settings, checks)
        };
        views.map(of).collect::<Vec<_>>()
    };
    assert_eq!(shown(&new), shown(&old));
    assert_eq!(sent(&new.memory()).overrides, sent(&old.memory()).overrides);
}

#[test]
fn a_file_that_changes_the_same_thing_ends_a_runtime_change() {
    let loaded = file(TWO);
    let old = pool(&loaded);
    let weight = Wanted {
        weight: Some(5),
        ..Wanted::default()
    };
    old.set("127.0.0.1:1", weight, &stamp()).expect("a backend");
    let changed = file("backends = [{ address = \"127.0.0.1:1\", weight = 3 }, \"127.0.0.1:2\"]");
    let new = pool(&changed);
    let ended = new.remember(sent(&old.memory()), &changed.config);
    assert_eq!(ended.len(), 1);
    assert!(new.overrides().is_empty());
    assert_eq!(new.overview().backends[0].settings.weight, 3);
}

#[test]
fn a_backend_of_another_address_begins_anew() {
    let old = pool(&file(
        "backends = [{ name = \"b\", address = \"127.0.0.1:1\" }]",
    ));
    checked(&old, 0, Some("refused"));
    let moved = file("backends = [{ name = \"b\", address = \"127.0.0.1:9\" }]");
    let new = pool(&moved);
    new.remember(sent(&old.memory()), &moved.config);
    assert_eq!(new.overview().backends[0].state, State::Starting);
}

#[test]
fn a_pause_goes_on_and_ends_with_it() {
    let loaded = file(TWO);
    let (old, new) = (pool(&loaded), pool(&loaded));
    old.pause(None, &stamp()).expect("it holds");
    new.remember(sent(&old.memory()), &loaded.config);
    assert!(new.pause_state().is_on());
    old.follow(&[]);
    assert!(!old.pause_state().is_on());
    assert!(old.overrides().is_empty());
}

fn limited(limit: u32) -> Arc<Pool> {
    let text = format!(
        "[pool.web]\nbackends = [{{ address = \"127.0.0.1:1\", max_connections = {limit} }}]\n\
         [pool.web.health]\nkind = \"none\"\n"
    );
    pool(&crate::config::parse(&text, "lb.toml", &|_| None).expect("a configuration"))
}

fn slot(pool: &Arc<Pool>) -> Option<Lease> {
    pool.acquire(&Attempt::new(Client::Unix(0)))
}

#[test]
fn connections_elsewhere_take_up_the_limit_until_they_move_or_end() {
    let pool = limited(3);
    let backend = Arc::clone(&pool.snapshot().backends[0]);
    pool.set_elsewhere(&backend, 2);
    let own = slot(&pool).expect("one is left");
    assert!(slot(&pool).is_none());
    let moved = Lease::adopt(Arc::clone(&pool), Arc::clone(&backend), None);
    assert_eq!((backend.active(), backend.elsewhere()), (3, 1));
    assert!(slot(&pool).is_none());
    drop(moved);
    let other = slot(&pool).expect("it was given back");
    pool.set_elsewhere(&backend, 0);
    assert_eq!(backend.active(), 2);
    drop((own, other));
    assert_eq!(backend.active(), 0);
    // One that nobody told of counts as well, whatever the limit.
    pool.set_elsewhere(&backend, 3);
    let more: Vec<_> = (0..5)
        .map(|_| Lease::adopt(Arc::clone(&pool), Arc::clone(&backend), None))
        .collect();
    assert_eq!((backend.active(), backend.elsewhere()), (5, 0));
    drop(more);
    assert_eq!(backend.active(), 0);
}

#[test]
fn a_ceiling_leaves_the_rest_of_a_limit_to_another_process() {
    let pool = limited(3);
    let backend = Arc::clone(&pool.snapshot().backends[0]);
    let first = slot(&pool).expect("a slot");
    assert_eq!(backend.set_ceiling(2), 1);
    let _second = slot(&pool).expect("a slot");
    assert!(slot(&pool).is_none());
    backend.lower_ceiling();
    drop(first);
    assert!(slot(&pool).is_none());
    backend.set_ceiling(u32::MAX);
    backend.lower_ceiling();
    assert_eq!(backend.ceiling(), u32::MAX);
    assert!(slot(&pool).is_some());
}

/// A time that is over is not without end, and when it ends is told as it was.
#[test]
fn the_time_of_a_drained_backend_goes_on() {
    let loaded = file(TWO);
    let (old, new) = (pool(&loaded), pool(&loaded));
    let hour = Duration::from_secs(3600);
    let drained = Wanted {
        state: Some(AdminState::Drain),
        timeout: Some(hour),
        ..Wanted::default()
    };
    old.set("127.0.0.1:1", drained, &stamp())
        .expect("a backend");
    let until = |pool: &Arc<Pool>| {
        let leaving = pool.overview().backends[0].leaving;
        leaving.and_then(|leaving| leaving.until).expect("a time")
    };
    let mut memory = sent(&old.memory());
    let mut leaving = memory.backends[0].leaving.expect("it leaves");
    assert!(leaving.asked);
    leaving.since -= hour / 2;
    leaving.left = Some(hour / 2);
    memory.backends[0].leaving = Some(leaving);
    new.remember(memory.clone(), &loaded.config);
    let left = until(&new).duration_since(SystemTime::now());
    let left = left.expect("half an hour");
    assert!(left <= hour / 2 && left > hour / 3, "{left:?}");
    memory.backends[0].leaving = Some(LeavingState {
        left: Some(Duration::ZERO),
        ..leaving
    });
    let newer = pool(&loaded);
    newer.remember(memory, &loaded.config);
    assert!(until(&newer) <= SystemTime::now(), "it is over");
}

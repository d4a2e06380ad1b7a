//! Runtime changes against new files, in tables.

use std::time::Duration;

use super::*;

fn stamp() -> Stamp {
    Stamp {
        since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600),
        by: "127.0.0.1:5555".into(),
    }
}

fn file(backends: &str) -> Config {
    let text = format!("[pool.web]\nbackends = [{backends}]\n[pool.other]\n");
    let loaded = config::parse(&text, "lb.toml", &|_| None);
    loaded.expect("a valid file").config
}

const A: &str = r#"{ name = "a", address = "10.0.0.1:80" },"#;
const A_HEAVY: &str = r#"{ name = "a", address = "10.0.0.1:80", weight = 5 },"#;
const A_MOVED: &str = r#"{ name = "a", address = "10.0.0.9:80" },"#;
const B: &str = r#"{ name = "b", address = "10.0.0.2:80" },"#;
const C: &str = r#"{ name = "c", address = "10.0.0.3:80" },"#;

fn name(name: &str) -> Arc<str> {
    name.into()
}

fn backend(text: &str) -> config::Backend {
    file(text).pools[0].backends[0].clone()
}

/// One runtime change of a pool with `a` and `b`.
type Make = fn(&mut Overrides, &config::Pool);

const DRAIN_A: Make = |o, pool| o.set_state(&pool.name, &name("a"), AdminState::Drain, stamp());
const WEIGH_A: Make = |o, pool| o.set_weight(pool, &name("a"), 5, stamp());
const REMOVE_A: Make = |o, pool| o.remove(pool, &name("a"), stamp());
const MOVE_A: Make = |o, pool| {
    o.remove(pool, &name("a"), stamp());
    o.add(pool, backend(A_MOVED), stamp());
};
const ADD_C: Make = |o, pool| o.add(pool, backend(C), stamp());
const ADD_AND_DRAIN_C: Make = |o, pool| {
    o.add(pool, backend(C), stamp());
    o.set_state(&pool.name, &name("c"), AdminState::Drain, stamp());
};
const PAUSE: Make = |o, pool| o.pause(&pool.name, None, stamp());

fn made(make: Make) -> Overrides {
    let mut overrides = Overrides::default();
    make(&mut overrides, &file(&[A, B].concat()).pools[0]);
    overrides
}

/// `field` of what is kept, then `field: reason` of what ends.
fn outcome(merge: &Merge) -> Vec<String> {
    let kept = merge.kept.iter().map(|o| o.change.field().to_owned());
    let ended = merge.ended.iter();
    let ended = ended.map(|(o, why)| format!("{}: {why:?}", o.change.field()));
    kept.chain(ended).collect()
}

/// Names with weights of the backends that are used.
fn used(overrides: &Overrides, file: &Config) -> String {
    let pool = overrides.effective(&file.pools[0]);
    let one = |b: &config::Backend| format!("{}={}@{}", b.name, b.weight, b.address);
    pool.backends.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_runtime_change_goes_on_until_the_file_changes_that_very_thing() {
    let same = [A, B].concat();
    let without_a = B.to_owned();
    let heavy = [A_HEAVY, B].concat();
    let moved = [A_MOVED, B].concat();
    let with_c = [A, B, C].concat();
    let (a, b, c) = ("a=1@10.0.0.1:80", "b=1@10.0.0.2:80", "c=1@10.0.0.3:80");
    let heavy_a = "a=5@10.0.0.1:80";
    let moved_a = "a=1@10.0.0.9:80";
    type Row<'a> = (&'a str, Make, &'a str, &'a [&'a str], &'a [&'a str]);
    #[rustfmt::skip]
    let table: &[Row<'_>] = &[
        ("drain, same",      DRAIN_A,  &same,      &["state"], &[a, b]),
        ("drain, removed",   DRAIN_A,  &without_a, &["state: FileRemoves"], &[b]),
        ("drain, weight",    DRAIN_A,  &heavy,     &["state"], &[heavy_a, b]),
        ("drain, address",   DRAIN_A,  &moved,     &["state"], &[moved_a, b]),
        ("drain, another",   DRAIN_A,  &with_c,    &["state"], &[a, b, c]),
        ("weight, same",     WEIGH_A,  &same,      &["weight"], &[heavy_a, b]),
        ("weight, removed",  WEIGH_A,  &without_a, &["weight: FileRemoves"], &[b]),
        ("weight, weight",   WEIGH_A,  &heavy,     &["weight: FileChanges"], &[heavy_a, b]),
        ("weight, address",  WEIGH_A,  &moved,     &["weight"], &["a=5@10.0.0.9:80", b]),
        ("weight, another",  WEIGH_A,  &with_c,    &["weight"], &[heavy_a, b, c]),
        ("removed, same",    REMOVE_A, &same,      &["removed"], &[b]),
        ("removed, removed", REMOVE_A, &without_a, &["removed: FileRemoves"], &[b]),
        ("removed, weight",  REMOVE_A, &heavy,     &["removed"], &[b]),
        ("removed, address", REMOVE_A, &moved,     &["removed"], &[b]),
        ("removed, another", REMOVE_A, &with_c,    &["removed"], &[b, c]),
        ("moved, same",      MOVE_A,   &same,      &["removed", "added"], &[b, moved_a]),
        ("moved, removed",   MOVE_A,   &without_a, &["removed: FileRemoves", "added: FileRemoves"], &[b]),
        ("moved, weight",    MOVE_A,   &heavy,     &["removed", "added"], &[b, moved_a]),
        ("moved, address",   MOVE_A,   &moved,     &["removed", "added"], &[b, moved_a]),
        ("added, same",      ADD_C,    &same,      &["added"], &[a, b, c]),
        ("added, removed",   ADD_C,    &without_a, &["added"], &[b, c]),
        ("added, weight",    ADD_C,    &heavy,     &["added"], &[heavy_a, b, c]),
        ("added, added",     ADD_C,    &with_c,    &["added: FileAdds"], &[a, b, c]),
        ("drained, same",    ADD_AND_DRAIN_C, &same,   &["added", "state"], &[a, b, c]),
        ("drained, added",   ADD_AND_DRAIN_C, &with_c, &["state", "added: FileAdds"], &[a, b, c]),
        ("paused, same",     PAUSE,    &same,      &["paused"], &[a, b]),
        ("paused, removed",  PAUSE,    &without_a, &["paused"], &[b]),
    ];
    for (what, make, new, expected, backends) in table {
        let file = file(new);
        let merge = made(*make).merge(&file);
        assert_eq!(outcome(&merge), *expected, "{what}");
        assert_eq!(used(&merge.kept, &file), backends.join(" "), "{what}");
    }
}

#[test]
fn every_runtime_change_ends_with_its_pool() {
    let mut without = file(A);
    without.pools.remove(0);
    for make in [
        DRAIN_A,
        WEIGH_A,
        REMOVE_A,
        MOVE_A,
        ADD_C,
        ADD_AND_DRAIN_C,
        PAUSE,
    ] {
        let before = made(make);
        let merge = before.merge(&without);
        assert!(merge.kept.is_empty());
        assert_eq!(merge.ended.len(), before.iter().count());
        let by_pool = |(_, why): &(Override, Ended)| *why == Ended::PoolRemoved;
        assert!(merge.ended.iter().all(by_pool));
    }
}

#[test]
fn what_is_kept_is_kept_again() {
    let file = file(&[A, B].concat());
    for make in [
        DRAIN_A,
        WEIGH_A,
        REMOVE_A,
        MOVE_A,
        ADD_C,
        ADD_AND_DRAIN_C,
        PAUSE,
    ] {
        let once = made(make).merge(&file);
        assert_eq!(once.kept, made(make));
        assert_eq!(once.kept.merge(&file), once);
    }
}

#[test]
fn what_is_undone_leaves_nothing() {
    let undo: [(&str, Make); 6] = [
        ("ready", |o, pool| {
            DRAIN_A(o, pool);
            o.set_state(&pool.name, &name("a"), AdminState::Ready, stamp());
        }),
        ("the weight of the file", |o, pool| {
            WEIGH_A(o, pool);
            o.set_weight(pool, &name("a"), 1, stamp());
        }),
        ("removed again", |o, pool| {
            ADD_AND_DRAIN_C(o, pool);
            o.remove(pool, &name("c"), stamp());
        }),
        ("back as the file has it", |o, pool| {
            REMOVE_A(o, pool);
            o.add(pool, backend(A), stamp());
        }),
        ("moved and moved back", |o, pool| {
            MOVE_A(o, pool);
            o.remove(pool, &name("a"), stamp());
            o.add(pool, backend(A), stamp());
        }),
        ("resumed", |o, pool| {
            PAUSE(o, pool);
            o.resume(&pool.name);
        }),
    ];
    for (what, make) in undo {
        assert!(made(make).is_empty(), "{what}");
    }
}

#[test]
fn a_later_change_of_the_same_thing_takes_the_place_of_the_earlier() {
    let overrides = made(|o, pool| {
        DRAIN_A(o, pool);
        o.set_state(&pool.name, &name("a"), AdminState::Maintenance, stamp());
        WEIGH_A(o, pool);
        o.set_weight(pool, &name("a"), 0, stamp());
        PAUSE(o, pool);
        o.pause(&pool.name, Some(SystemTime::UNIX_EPOCH), stamp());
    });
    assert_eq!(overrides.iter().count(), 3);
    assert_eq!(overrides.state("web", "a"), AdminState::Maintenance);
    assert_eq!(overrides.state("other", "a"), AdminState::Ready);
    assert_eq!(overrides.paused("web"), Some(Some(SystemTime::UNIX_EPOCH)));
    assert_eq!(overrides.paused("other"), None);
    let file = file(&[A, B].concat());
    assert!(used(&overrides, &file).starts_with("a=0@"));
}

#[test]
fn the_weight_of_an_added_backend_is_part_of_it() {
    let overrides = made(|o, pool| {
        ADD_C(o, pool);
        o.set_weight(pool, &name("c"), 7, stamp());
    });
    assert_eq!(overrides.iter().count(), 1);
    let file = file(A);
    assert!(used(&overrides, &file).ends_with("c=7@10.0.0.3:80"));
}

#[test]
fn removing_a_backend_takes_its_other_changes_with_it() {
    let overrides = made(|o, pool| {
        DRAIN_A(o, pool);
        WEIGH_A(o, pool);
        REMOVE_A(o, pool);
    });
    let merge = overrides.merge(&file(A));
    assert_eq!(outcome(&merge), ["removed"]);
}

#[test]
fn a_pool_without_changes_of_its_backends_is_the_same_value() {
    let file = file(A);
    let effective = made(PAUSE).effective(&file.pools[0]);
    assert!(Arc::ptr_eq(&effective, &file.pools[0]));
}

#[test]
fn each_is_shown_with_what_the_file_says_and_what_holds() {
    let shown = |make: Make| {
        let all = made(make);
        let values = all.iter().map(|o| serde_json::to_value(o).expect("JSON"));
        values.collect::<Vec<_>>()
    };
    let common = |field: &str, backend: Value, file: Value, runtime: Value| {
        json!({
            "pool": "web", "backend": backend, "field": field, "file": file, "runtime": runtime,
            "since": "2026-01-01T00:00:00.000000Z", "by": "127.0.0.1:5555",
        })
    };
    let c = json!({"address": "10.0.0.3:80", "weight": 1, "max_connections": 0, "backup": false});
    for (make, expected) in [
        (
            DRAIN_A,
            common("state", json!("a"), json!("ready"), json!("drain")),
        ),
        (WEIGH_A, common("weight", json!("a"), json!(1), json!(5))),
        (
            REMOVE_A,
            common("removed", json!("a"), json!(true), json!(false)),
        ),
        (ADD_C, common("added", json!("c"), json!(false), c)),
        (
            PAUSE,
            common("paused", Value::Null, json!(false), json!(true)),
        ),
    ] {
        assert_eq!(shown(make), [expected]);
    }
    let until = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_500);
    let paused = Change::Paused { until: Some(until) };
    assert_eq!(paused.runtime(), json!("2026-01-01T00:00:00.500000Z"));
}

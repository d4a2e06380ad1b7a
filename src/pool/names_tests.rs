use super::*;
use crate::pool::handover::PoolState;
use crate::pool::overrides::Ended;
use crate::pool::{
    Attempt, BackendView, CheckResult, Client, Refused, Reload, State, Wanted, Wiring,
};

fn loaded(entries: &str, settings: &str) -> config::Config {
    let text = format!("[pool.web]\nbackends = [{entries}]\n{settings}\n");
    let loaded = config::parse(&text, "lb.toml", &|_| None).expect("a configuration");
    loaded.config
}

const UNCHECKED: &str = "health = { kind = \"none\" }";

fn pool(config: &config::Config) -> Arc<Pool> {
    Pool::new(Arc::clone(&config.pools[0]), 1)
}

fn unchecked(entries: &str) -> Arc<Pool> {
    pool(&loaded(entries, UNCHECKED))
}

fn question(name: &str, family: Resolve) -> Question {
    let location: Location = name.parse().expect("a location");
    Question::of(&location, family).expect("a name")
}

fn host(ip: &str) -> Resolved {
    Resolved {
        record: None,
        ip: ip.parse().expect("an address"),
        host: HostName::of_host("app.internal").expect("a name"),
    }
}

fn service(ip: &str, priority: u16, weight: u16, port: u16) -> Resolved {
    Resolved {
        record: Some(Record {
            priority,
            weight,
            port,
        }),
        ..host(ip)
    }
}

fn app(pool: &Arc<Pool>, ips: &[&str]) {
    let addresses = ips.iter().map(|ip| host(ip)).collect();
    pool.resolve(&question("app.internal:80", Resolve::Any), addresses);
}

fn stamp() -> Stamp {
    Stamp {
        since: SystemTime::UNIX_EPOCH,
        by: "uid 0".into(),
    }
}

fn views(pool: &Arc<Pool>) -> Vec<BackendView> {
    pool.overview().backends
}

fn states(pool: &Arc<Pool>) -> Vec<String> {
    let views = views(pool).into_iter();
    views
        .map(|view| format!("{} {}", view.backend.name, view.state.as_str()))
        .collect()
}

fn weights(pool: &Arc<Pool>) -> Vec<u32> {
    let views = views(pool).into_iter();
    views.map(|view| view.settings.weight).collect()
}

fn set(pool: &Arc<Pool>, name: &str, state: Option<AdminState>, weight: Option<u32>) {
    let wanted = Wanted {
        state,
        weight,
        timeout: None,
    };
    pool.set(name, wanted, &stamp()).expect("a backend");
}

fn reload(pool: &Arc<Pool>, config: &config::Config) -> Vec<Ended> {
    let ended = pool.reload(Reload {
        config,
        file: config.pools.first(),
        wiring: Wiring::default(),
        stamp: stamp(),
    });
    ended.into_iter().map(|(_, ended)| ended).collect()
}

#[test]
fn a_name_that_is_not_resolved_is_one_backend_that_is_down() {
    let pool = unchecked("{ name = \"b4\", address = \"app.internal:80\" }");
    let view = views(&pool).remove(0);
    assert_eq!(states(&pool), ["b4 down"]);
    assert_eq!(view.backend.location.to_string(), "app.internal:80");
    assert_eq!(view.history[0].cause, "not resolved");
    assert_eq!(pool.snapshot().usable(), 0);
    assert!(pool.acquire(&Attempt::new(Client::Unix(1))).is_none());
}

#[test]
fn nobody_is_sent_to_a_name_where_those_that_are_down_are_tried() {
    let settings = "when_all_down = \"try\"\nhealth = { kind = \"tcp\" }";
    let pool = pool(&loaded("\"app.internal:80\"", settings));
    assert_eq!(pool.snapshot().usable(), 0);
    assert!(pool.checked_backends().is_empty());
}

#[test]
fn every_address_is_a_backend_with_the_settings_of_the_entry() {
    let pool = unchecked(
        "{ name = \"b4\", address = \"app.internal:80\", weight = 3, max_connections = 7, \
         backup = true }, \"10.0.0.9:80\"",
    );
    app(&pool, &["fd00::1", "10.0.0.2", "10.0.0.1", "10.0.0.2"]);
    assert_eq!(
        states(&pool),
        [
            "b4/10.0.0.1:80 up",
            "b4/10.0.0.2:80 up",
            "b4/[fd00::1]:80 up",
            "10.0.0.9:80 up"
        ]
    );
    for view in &views(&pool)[..3] {
        assert_eq!((view.settings.weight, view.backend.limit()), (3, 7));
        assert!(view.settings.backup);
    }
}

#[test]
fn another_order_of_the_same_answer_publishes_nothing() {
    let pool = unchecked("\"app.internal:80\"");
    app(&pool, &["10.0.0.1", "10.0.0.2"]);
    let before = pool.snapshot();
    app(&pool, &["10.0.0.2", "10.0.0.1", "10.0.0.1"]);
    assert!(Arc::ptr_eq(&before, &pool.snapshot()));
}

#[test]
fn an_address_that_is_gone_keeps_its_connections_and_gets_no_new_ones() {
    let pool = unchecked("\"app.internal:80\"");
    app(&pool, &["10.0.0.1"]);
    let lease = pool.acquire(&Attempt::new(Client::Unix(1)));
    let lease = lease.expect("a slot");
    app(&pool, &["10.0.0.2"]);
    assert_eq!(
        states(&pool),
        [
            "app.internal:80/10.0.0.2:80 up",
            "app.internal:80/10.0.0.1:80 removed"
        ]
    );
    drop(lease);
    assert_eq!(states(&pool), ["app.internal:80/10.0.0.2:80 up"]);
}

#[test]
fn a_name_that_loses_its_last_address_is_not_resolved_again() {
    let pool = unchecked("\"app.internal:80\"");
    app(&pool, &["10.0.0.1"]);
    app(&pool, &[]);
    assert_eq!(states(&pool), ["app.internal:80 down"]);
    app(&pool, &["10.0.0.1"]);
    assert_eq!(states(&pool), ["app.internal:80/10.0.0.1:80 up"]);
}

#[test]
fn the_records_of_a_service_give_port_weight_and_rank() {
    let pool = unchecked("\"srv:_pg._tcp.example.com\"");
    let asked = question("srv:_pg._tcp.example.com", Resolve::Any);
    let answer = vec![
        service("10.0.0.3", 20, 5, 5434),
        service("10.0.0.1", 10, 60, 5432),
        service("10.0.0.2", 10, 0, 5433),
        service("10.0.0.1", 20, 9, 5432),
    ];
    pool.resolve(&asked, answer);
    let views = views(&pool).into_iter();
    let found: Vec<_> = views
        .map(|view| {
            let of = view.settings;
            (of.address.to_string(), of.weight, of.backup)
        })
        .collect();
    assert_eq!(
        found,
        [
            ("10.0.0.2:5433".to_owned(), 1, false),
            ("10.0.0.1:5432".to_owned(), 60, false),
            ("10.0.0.3:5434".to_owned(), 5, true),
        ]
    );
}

#[test]
fn weights_of_a_service_that_are_too_large_keep_their_proportion() {
    let pool = unchecked("\"srv:_pg._tcp.example.com\"");
    let asked = question("srv:_pg._tcp.example.com", Resolve::Any);
    let answer = [("10.0.0.1", 65_535), ("10.0.0.2", 32_768), ("10.0.0.3", 1)];
    let answer = answer.map(|(ip, weight)| service(ip, 0, weight, 1));
    pool.resolve(&asked, answer.to_vec());
    let mut weights = weights(&pool);
    weights.sort_unstable();
    assert_eq!(weights, [1, 500, 1000]);
}

#[test]
fn a_reload_keeps_what_is_known_also_with_another_port() {
    let pool = unchecked("{ name = \"a\", address = \"app.internal:80\" }");
    app(&pool, &["10.0.0.1"]);
    let before = Arc::clone(&views(&pool)[0].backend);
    let idle = format!("idle_timeout = \"5s\"\n{UNCHECKED}");
    let entry = "{ name = \"a\", address = \"app.internal:80\" }";
    reload(&pool, &loaded(entry, &idle));
    assert!(Arc::ptr_eq(&before, &views(&pool)[0].backend));
    let entry = "{ name = \"a\", address = \"app.internal:81\" }";
    reload(&pool, &loaded(entry, UNCHECKED));
    assert_eq!(states(&pool), ["a/10.0.0.1:81 up"]);
}

#[test]
fn another_choice_of_families_goes_on_from_what_is_known() {
    let entry = "\"app.internal:80\"";
    let pool = unchecked(entry);
    app(&pool, &["10.0.0.1", "fd00::1"]);
    let settings = format!("resolve = \"ipv4\"\n{UNCHECKED}");
    reload(&pool, &loaded(entry, &settings));
    assert_eq!(states(&pool), ["app.internal:80/10.0.0.1:80 up"]);
    let asked = question("app.internal:80", Resolve::Ipv4);
    assert_eq!(pool.questions(), BTreeSet::from([asked.clone()]));
    pool.resolve(&asked, vec![host("10.0.0.1"), host("10.0.0.2")]);
    assert_eq!(states(&pool).len(), 2);
    // What stood in is forgotten: it may be long out of date when it is asked for again.
    reload(&pool, &loaded(entry, UNCHECKED));
    assert_eq!(states(&pool).len(), 2);
}

#[test]
fn an_answer_to_what_the_pool_does_not_ask_any_more_changes_nothing() {
    let pool = unchecked("\"app.internal:80\"");
    reload(&pool, &loaded("\"10.0.0.9:80\"", UNCHECKED));
    app(&pool, &["10.0.0.1"]);
    assert_eq!(states(&pool), ["10.0.0.9:80 up"]);
    assert!(pool.questions().is_empty());
}

#[test]
fn what_is_changed_about_a_name_holds_for_every_address_it_gets() {
    let pool = unchecked("\"app.internal:80\"");
    app(&pool, &["10.0.0.1"]);
    set(&pool, "app.internal:80", Some(AdminState::Drain), Some(4));
    app(&pool, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(
        states(&pool),
        [
            "app.internal:80/10.0.0.1:80 draining",
            "app.internal:80/10.0.0.2:80 draining"
        ]
    );
    assert_eq!(weights(&pool), [4, 4]);
    assert_eq!(pool.overrides().iter().count(), 2);
    set(&pool, "app.internal:80", Some(AdminState::Ready), Some(1));
    assert_eq!(weights(&pool), [1, 1]);
    assert!(pool.overrides().is_empty());
}

#[test]
fn what_is_changed_about_one_address_comes_before_what_holds_for_its_name() {
    let pool = unchecked("\"app.internal:80\"");
    app(&pool, &["10.0.0.1", "10.0.0.2"]);
    set(&pool, "app.internal:80", Some(AdminState::Drain), None);
    let one = "app.internal:80/10.0.0.1:80";
    set(&pool, one, Some(AdminState::Ready), Some(9));
    assert_eq!(views(&pool)[0].state, State::Up);
    assert_eq!(views(&pool)[1].state, State::Draining);
    assert_eq!(weights(&pool), [9, 1]);
    // It stands for as long as the name does, also while DNS does not have the address.
    app(&pool, &["10.0.0.2"]);
    app(&pool, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(weights(&pool), [9, 1]);
    assert!(reload(&pool, &loaded("\"app.internal:80\"", "quiet = \"2s\"")).is_empty());
    let ended = reload(&pool, &loaded("\"10.0.0.9:80\"", UNCHECKED));
    assert_eq!(ended, [Ended::FileRemoves; 3]);
    assert!(pool.overrides().is_empty());
}

#[test]
fn a_name_can_be_removed_but_not_one_of_its_addresses() {
    let pool = unchecked("\"app.internal:80\", \"10.0.0.9:80\"");
    app(&pool, &["10.0.0.1", "10.0.0.2"]);
    let refused = pool.remove("app.internal:80/10.0.0.1:80", &stamp());
    let refused = refused.expect_err("it would be back");
    assert!(matches!(refused, Refused::OfName { .. }), "{refused}");
    assert!(refused.to_string().contains("maintenance"), "{refused}");
    pool.remove("app.internal:80", &stamp()).expect("a name");
    assert_eq!(states(&pool), ["10.0.0.9:80 up"]);
    assert!(pool.questions().is_empty());
    let entry = config::backend(
        serde_json::json!({"address": "app.internal:80"})
            .as_object()
            .expect("an object"),
    );
    pool.add(entry.expect("a backend"), &stamp()).expect("room");
    assert!(pool.overrides().is_empty());
    assert_eq!(states(&pool)[0], "app.internal:80 down");
}

#[test]
fn a_start_waits_for_the_first_answer_and_then_for_the_checks_of_its_addresses() {
    let pool = pool(&loaded("\"app.internal:80\"", ""));
    let waiting = || -> Vec<_> {
        let names = pool.unchecked().into_iter();
        names.map(|name| name.to_string()).collect()
    };
    assert_eq!(waiting(), ["app.internal:80"]);
    app(&pool, &["10.0.0.1"]);
    assert_eq!(waiting(), ["app.internal:80/10.0.0.1:80"]);
    let passed = CheckResult {
        at: SystemTime::UNIX_EPOCH,
        took: std::time::Duration::ZERO,
        error: None,
    };
    pool.checked(&views(&pool)[0].backend, passed);
    assert_eq!(waiting(), Vec::<String>::new());
    // What comes later is not of the start.
    app(&pool, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(waiting(), Vec::<String>::new());
}

#[test]
fn a_start_does_not_wait_for_a_name_that_was_asked_for_in_vain() {
    let pool = pool(&loaded("\"app.internal:80\"", ""));
    app(&pool, &[]);
    assert!(pool.unchecked().is_empty());
    assert_eq!(states(&pool), ["app.internal:80 down"]);
}

#[test]
fn another_process_goes_on_with_addresses_and_what_is_known_of_them() {
    let config = loaded("\"app.internal:80\"", "health = { fall = 1 }");
    let (old, new) = (pool(&config), pool(&config));
    app(&old, &["10.0.0.1", "10.0.0.2"]);
    for (index, error) in [(0, None), (1, Some("refused".to_owned()))] {
        let result = CheckResult {
            at: SystemTime::UNIX_EPOCH,
            took: std::time::Duration::ZERO,
            error,
        };
        old.checked(&views(&old)[index].backend, result);
    }
    set(&old, "app.internal:80/10.0.0.1:80", None, Some(5));
    let sent = serde_json::to_string(&old.memory()).expect("JSON");
    let sent: PoolState = serde_json::from_str(&sent).expect("JSON");
    assert!(new.remember(sent, &config).is_empty());
    assert_eq!(states(&new), states(&old));
    assert_eq!(weights(&new), [5, 1]);
    assert!(new.unchecked().is_empty());
}

#[test]
fn a_process_that_knows_no_names_is_understood() {
    let old = serde_json::json!({"name": "web", "overrides": [], "backends": []});
    let old: PoolState = serde_json::from_value(old).expect("a state");
    let config = loaded("\"app.internal:80\"", UNCHECKED);
    let pool = pool(&config);
    pool.remember(old, &config);
    assert_eq!(states(&pool), ["app.internal:80 down"]);
}

#[test]
fn the_hash_identity_of_an_address_is_its_name_with_the_address() {
    let pool = unchecked("{ name = \"b4\", address = \"app.internal:80\" }");
    app(&pool, &["10.0.0.1"]);
    let expected = crate::balance::consistent_hash::identity("b4/10.0.0.1:80");
    assert_eq!(views(&pool)[0].backend.identity(), expected);
}

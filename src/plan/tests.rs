use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::parse;
use crate::pool::overrides::Stamp;
use crate::pool::{AdminState, State};

/// A running balancer, and the plan for another file.
struct Case {
    running: Loaded,
    overrides: Overrides,
    live: LiveView,
}

fn loaded(text: &str) -> Loaded {
    parse(text, "lb.toml", &|name| Some(format!("secret-{name}"))).expect("a valid file")
}

fn stamp() -> Stamp {
    Stamp {
        since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600),
        by: "uid 1000".into(),
    }
}

impl Case {
    /// Nobody is connected.
    fn new(running: &str) -> Self {
        Self {
            running: loaded(running),
            overrides: Overrides::default(),
            live: LiveView {
                at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600),
                listeners: HashMap::new(),
                pools: HashMap::new(),
            },
        }
    }

    fn listener(mut self, name: &str, active: u64) -> Self {
        self.live.listeners.insert(name.into(), active);
        self
    }

    fn pool(mut self, name: &str, held: u64, drain_timeout: u64) -> Self {
        let pool = self.live.pools.entry(name.into()).or_default();
        pool.held = held;
        pool.drain_timeout = Duration::from_secs(drain_timeout);
        self
    }

    fn backend(mut self, pool: &str, backend: &str, active: u64, state: State) -> Self {
        let pool = self.live.pools.entry(pool.into()).or_default();
        pool.backends
            .insert(backend.into(), LiveBackend { active, state });
        self
    }

    fn changed(mut self, change: impl FnOnce(&mut Overrides, &config::Pool)) -> Self {
        change(&mut self.overrides, &self.running.config.pools[0]);
        self
    }

    fn plan(&self, file: &str) -> Plan {
        Plan::new(Input {
            running: &self.running,
            overrides: &self.overrides,
            file: &loaded(file),
            live: &self.live,
        })
    }

    fn text(&self, file: &str) -> String {
        self.plan(file).render(false)
    }
}

const POSTGRES: &str = r#"
[listener.postgres]
bind = "0.0.0.0:5432"
pool = "postgres"
[pool.postgres]
balance = "least-connections"
backends = [
  { name = "pg1", address = "10.0.0.11:5432" },
  { name = "pg2", address = "10.0.0.12:5432" },
  { name = "pg3", address = "10.0.0.13:5432" },
]
"#;

fn postgres() -> Case {
    Case::new(POSTGRES)
        .listener("postgres", 240)
        .pool("postgres", 0, 300)
        .backend("postgres", "pg1", 80, State::Up)
        .backend("postgres", "pg2", 79, State::Draining)
        .backend("postgres", "pg3", 81, State::Up)
        .changed(|o, pool| o.set_state(&pool.name, &"pg2".into(), AdminState::Drain, stamp()))
        .changed(|o, pool| o.set_weight(pool, &"pg1".into(), 3, stamp()))
}

/// Steps: one of three database servers goes, one comes, the first gets another weight than an
/// operator gave it at run time, time-outs change, a listener for reads comes.
#[test]
fn a_change_of_databases_reads_like_this() {
    let file = r#"
[runtime]
threads = 4
drain_timeout = "1m"
[listener.postgres]
bind = "0.0.0.0:5432"
pool = "postgres"
max_connections = 500
[listener.postgres-read]
bind = "0.0.0.0:5433"
pool = "postgres"
[pool.postgres]
balance = "least-connections"
idle_timeout = "2h"
backends = [
  { name = "pg1", address = "10.0.0.11:5432", weight = 2 },
  { name = "pg2", address = "10.0.0.12:5432" },
  { name = "pg4", address = "10.0.0.14:5432" },
]
health.interval = "1s"
"#;
    let expected = r#"settings
  ~ runtime.threads        0 -> 4         with the next start
  ~ runtime.drain_timeout  "25s" -> "1m"

listeners
  ~ postgres       max_connections  0 -> 500
  + postgres-read  bind             "0.0.0.0:5433"
                   pool             "postgres"

pools
  ~ postgres  idle_timeout     "1h" -> "2h"  for new connections
              health.interval  "2s" -> "1s"
    ~ pg1     weight           3 -> 2        for new connections
              80 live connections untouched
    + pg4     address          "10.0.0.14:5432"
    - pg3     81 live connections: reset after 5m unless they end before

runtime changes
  - postgres/pg1  weight 3, file 1         ends: the file changes it  since 2026-01-01T00:00:00Z by uid 1000
  = postgres/pg2  state drain, file ready  kept                       since 2026-01-01T00:00:00Z by uid 1000

2 added, 5 changed, 1 removed
240 live connections: 159 untouched, 81 reset after their pool's drain_timeout unless they end before
with the next start alone: runtime.threads
"#;
    assert_eq!(postgres().text(file), expected);
}

const WEB: &str = r#"
[listener.web]
bind = "0.0.0.0:80"
pool = "web"
[listener.old]
bind = "0.0.0.0:8080"
pool = "legacy"
[pool.web]
balance = "consistent-hash"
backends = [
  { name = "a", address = "unix:/run/${A}" },
  { name = "b", address = "10.0.0.2:80" },
  { name = "c", address = "10.0.0.3:80" },
  { name = "d", address = "10.0.0.4:80" },
]
[pool.legacy]
backends = [{ name = "x", address = "10.0.1.1:80" }]
"#;

fn web() -> Case {
    Case::new(WEB)
        .listener("web", 400)
        .listener("old", 12)
        .pool("web", 0, 0)
        .pool("legacy", 2, 0)
        .backend("web", "a", 100, State::Up)
        .backend("web", "b", 100, State::Up)
        .backend("web", "c", 100, State::Up)
        .backend("web", "d", 100, State::Down)
        .backend("legacy", "x", 10, State::Up)
}

/// Steps: a web pool loses one backend of four (one is down), another moves, its listener gets
/// another name; a listener and its pool go while clients are held there; the token changes.
#[test]
fn a_change_of_a_hashing_pool_reads_like_this() {
    let file = r#"
[admin]
token = "${TOKEN}"
[listener.front]
bind = "0.0.0.0:80"
pool = "web"
[pool.web]
balance = "consistent-hash"
backends = [
  { name = "a", address = "unix:/run/${B}" },
  { name = "b", address = "10.0.0.2:80", weight = 2 },
  { name = "d", address = "10.0.0.4:80" },
  { name = "e", address = "10.0.0.5:80" },
]
"#;
    let expected = r#"settings
  ~ admin.token  (not shown)

listeners
  ~ front  was called web
  - old    closes 0.0.0.0:8080
           12 live connections: no time limit, they go on until they end

pools
  ~ web
    ~ a     address  (not shown)
            another address: its health starts anew
            100 live connections to the old address: no time limit, they go on until they end
    ~ b     weight   1 -> 2       for new connections
            100 live connections untouched
    + e     address  "10.0.0.5:80"
    - c     100 live connections: no time limit, they go on until they end
  - legacy  2 held clients: nobody is left to serve, reset when the wait is over
    - x     10 live connections: no time limit, they go on until they end

hash keys
  web   51.4%  of the keys move
        15.7%  c -> b
        12.6%  c -> e
         7.6%  a -> e
         5.7%  a -> b
         5.0%  c -> a
         4.8%  b -> e

1 added, 4 changed, 4 removed
412 live connections: 200 untouched, 210 left until they end, 2 held for a pool that goes, reset when their wait is over
"#;
    assert_eq!(web().text(file), expected);
}

#[test]
fn a_plan_without_changes_says_so_and_names_what_runs_beside_the_file() {
    let case = Case::new(POSTGRES).listener("postgres", 3);
    assert_eq!(case.text(POSTGRES), "nothing to change\n");
    assert!(!case.plan(POSTGRES).changes);
    let expected = "runtime changes\n  \
        = postgres/pg2  state drain, file ready  kept  since 2026-01-01T00:00:00Z by uid 1000\n  \
        = postgres/pg1  weight 3, file 1         kept  since 2026-01-01T00:00:00Z by uid 1000\n\n\
        nothing to change\n";
    assert_eq!(postgres().text(POSTGRES), expected);
    assert!(!postgres().plan(POSTGRES).changes);
}

/// What is left of a file of one pool with two backends.
const SMALL: &str = r#"
[pool.p]
backends = [{ name = "a", address = "10.0.0.1:1" }, { name = "b", address = "10.0.0.2:1" }]
"#;

/// Sections other than `pools` are left out where they do not matter.
#[test]
fn small_changes_read_like_this() {
    let remove_a = |o: &mut Overrides, p: &config::Pool| o.remove(p, &"a".into(), stamp());
    let pause = |o: &mut Overrides, p: &config::Pool| o.pause(&p.name, None, stamp());
    let added = |o: &mut Overrides, p: &config::Pool| {
        let mut backend = p.backends[0].clone();
        backend.name = "c".into();
        o.add(p, backend, stamp());
    };
    let since = "since 2026-01-01T00:00:00Z by uid 1000";
    let without_a = r#"[pool.p]
        backends = [{ name = "b", address = "10.0.0.2:1" }]"#;
    let heavy_a = SMALL.replace("10.0.0.1:1\"", "10.0.0.1:1\", weight = 3");
    let with_c = SMALL.replace("}]", "}, { name = \"c\", address = \"10.0.0.1:1\" }]");
    let table = [
        (
            "no backend is left",
            Case::new(SMALL).backend("p", "a", 1, State::Up).backend("p", "b", 0, State::Down),
            without_a.to_owned(),
            "pools\n  ~ p\n    - a  1 live connection: no time limit, they go on until they end\n    \
             !    no backend is left that takes new connections\n\n\
             0 added, 0 changed, 1 removed\n1 live connection: 1 left until they end\n".to_owned(),
        ),
        (
            "the file removes what was removed",
            Case::new(SMALL).changed(remove_a),
            without_a.to_owned(),
            format!("runtime changes\n  - p/a  removed  ends: the file has this backend no more  {since}\n\n\
                     0 added, 0 changed, 0 removed\nno live connections\n"),
        ),
        (
            "the file changes what was removed",
            Case::new(SMALL).changed(remove_a),
            heavy_a,
            format!("hidden by runtime changes\n  ~ p/a  weight  1 -> 3  for new connections\n\n\
                     runtime changes\n  = p/a  removed  kept  {since}\n\n\
                     0 added, 0 changed, 0 removed\nno live connections\n"),
        ),
        (
            "the file adds what was added",
            Case::new(SMALL).changed(added),
            with_c,
            format!("runtime changes\n  - p/c  added  ends: the file has this backend now  {since}\n\n\
                     0 added, 0 changed, 0 removed\nno live connections\n"),
        ),
        (
            "a paused pool goes",
            Case::new(SMALL).changed(pause),
            "[pool.q]\n".to_owned(),
            format!("pools\n  + q\n  - p\n    - a\n    - b\n\n\
                     runtime changes\n  - p  paused  ends: the file has this pool no more  {since}\n\n\
                     1 added, 0 changed, 3 removed\nno live connections\n"),
        ),
    ];
    for (what, case, file, expected) in table {
        assert_eq!(case.text(&file), expected, "{what}");
        assert!(case.plan(&file).changes, "{what}");
    }
}

#[test]
fn faults_are_part_of_the_plan() {
    let case = Case::new(SMALL);
    let mut plan = case.plan("[pool.q]\nbackends = [\"10.0.0.1:1\"]\n");
    let key = config::KeyPath::Ca("q");
    plan.faults = vec![case.running.fault(key, "cannot be read\u{1b}[2J")];
    let text = plan.render(false);
    assert!(text.contains("faults\n  lb.toml: "), "{text}");
    assert!(
        text.ends_with("a reload would be refused, see the faults above\n"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn no_value_of_a_file_commands_a_terminal() {
    let file = "[log]\naccess_file = \"/a\\u001b[2J\\u202e\"\n";
    let text = Case::new("").text(file);
    assert!(text.contains(r#""" -> "/a\u001B[2J\u{202e}""#), "{text}");
    let mut characters = text.chars().filter(|c| *c != '\n');
    assert!(!characters.any(crate::terminal::is_hostile), "{text}");
}

#[test]
fn colours_take_no_room() {
    let file = "[pool.q]\nhold.max = 0\n";
    let (plain, coloured) = (
        web().plan(file).render(false),
        web().plan(file).render(true),
    );
    assert!(coloured.contains("\u{1b}[32m  + q\u{1b}[0m"), "{coloured}");
    assert!(
        coloured.contains("\u{1b}[31m  - web\u{1b}[0m"),
        "{coloured}"
    );
    let stripped = ["0", "1", "31", "32", "33"]
        .iter()
        .fold(coloured, |text, colour| {
            text.replace(&format!("\u{1b}[{colour}m"), "")
        });
    assert_eq!(stripped, plain);
}

#[test]
fn what_passes_a_limit_is_refused_with_every_reason() {
    let none = Limits::default();
    let removed = |share| Limits {
        max_removed: Some(share),
        ..none
    };
    let dropped = |count| Limits {
        max_dropped: Some(count),
        ..none
    };
    let plan = postgres().plan(&POSTGRES.replace("{ name = \"pg3\"", "#"));
    let gone = web().plan("[pool.web]\nbalance = \"consistent-hash\"\n");
    let renamed = web().plan(&WEB.replace("[listener.old]", "[listener.new]"));
    let table: [(&Plan, Limits, &[&str]); 12] = [
        (&plan, none, &[]),
        (&plan, removed(0.34), &[]),
        (&plan, Limits::of_watch(0.34), &[]),
        (
            &plan,
            removed(0.3),
            &["33.3% of the backends of pool postgres would be removed (pg3), at most 30% may be"],
        ),
        (&plan, dropped(81), &[]),
        (
            &plan,
            dropped(0),
            &["up to 81 live connections would be reset, at most 0 may be"],
        ),
        (&gone, removed(1.0), &[]),
        (
            &gone,
            removed(0.99),
            &[
                "listener web would be removed, at most 99% may be removed",
                "listener old would be removed, at most 99% may be removed",
                "pool legacy would be removed, at most 99% may be removed",
                "100% of the backends of pool web would be removed (a, b, c, d), at most 99% may be",
            ],
        ),
        (
            &gone,
            Limits::of_watch(1.0),
            &[
                "listener web would be removed, an automatic reload removes no listener and no pool",
                "listener old would be removed, an automatic reload removes no listener and no pool",
                "pool legacy would be removed, an automatic reload removes no listener and no pool",
            ],
        ),
        (
            &gone,
            dropped(1),
            &["up to 2 live connections would be reset, at most 1 may be"],
        ),
        (&gone, dropped(2), &[]),
        (&renamed, Limits::of_watch(0.0), &[]),
    ];
    for (plan, limits, expected) in table {
        let found = limits.check(plan);
        let reasons = found
            .as_ref()
            .map_or_else(|refusal| refusal.reasons(), |()| &[]);
        assert_eq!(reasons, expected, "{limits:?}");
    }
    let refusal = dropped(0).check(&plan).expect_err("refused");
    assert!(
        refusal
            .to_string()
            .starts_with("refused, nothing was changed: up to 81 ")
    );
}

#[test]
fn percentages_are_never_rounded_to_nothing_or_to_all() {
    for (share, text) in [
        (0.0, "0%"),
        (0.00001, "<0.1%"),
        (0.3, "30%"),
        (1.0 / 3.0, "33.3%"),
        (0.9999, ">99.9%"),
        (1.0, "100%"),
    ] {
        assert_eq!(limits::percent(share), text);
    }
}

/// The names that scripts go by.
#[test]
fn as_json_it_has_these_names() {
    let file = WEB.replace("{ name = \"b\", address = \"10.0.0.2:80\" },", "");
    let file = file.replace("[listener.old]", "[runtime]\nthreads = 2\n[listener.old]");
    let case = web().changed(|o, pool| o.set_weight(pool, &"b".into(), 1000, stamp()));
    let plan = serde_json::to_value(case.plan(&file)).expect("JSON");
    let threads = json!({"key": "runtime.threads", "old": 0, "new": 2, "effect": "restart"});
    let b = json!({
        "name": "b", "change": "removed", "fields": [], "moves": false,
        "connections": {"active": 100, "fate": "kept", "drain_seconds": null},
    });
    let ended = json!([{
        "pool": "web", "backend": "b", "field": "weight", "file": 1, "runtime": 1000,
        "since": "2026-01-01T00:00:00.000000Z", "by": "uid 1000", "ended": "file_removes",
    }]);
    assert_eq!(plan["at"], "2026-01-01T00:00:00.000000Z");
    assert_eq!(plan["changes"], true);
    assert_eq!(plan["settings"], json!([threads]));
    assert_eq!(plan["pending_restart"], json!(["runtime.threads"]));
    assert_eq!(plan["listeners"], json!([]));
    assert_eq!(plan["covered"], json!([]));
    assert_eq!(plan["runtime_changes"], json!({"kept": [], "ended": ended}));
    let web = &plan["pools"][0];
    assert_eq!(
        (&web["name"], &web["change"]),
        (&json!("web"), &json!("changed"))
    );
    assert_eq!(web["backends"], json!([b]));
    assert_eq!(web["removed_share"], 0.25);
    assert_eq!(
        (&web["usable_before"], &web["usable_after"]),
        (&json!(3), &json!(2))
    );
    let connections =
        json!({"active": 400, "untouched": 300, "kept": 100, "drained": 0, "stranded": 0});
    assert_eq!(web["connections"], connections);
    let keys = &web["hash_keys"];
    assert_eq!(keys["rehashed"], false);
    assert!((keys["share"].as_f64().expect("a share") - 1000.0 / 1002.0).abs() < 1e-9);
    let moves = keys["moves"].as_array().expect("moves");
    let to_a = moves.iter().find(|m| m["to"] == "a").expect("a move");
    assert_eq!(to_a["from"], "b");
    assert_eq!(keys["not_listed"], json!({"count": 0, "share": 0.0}));
    let total = &plan["connections"];
    let expected =
        json!({"active": 412, "untouched": 312, "kept": 100, "drained": 0, "stranded": 0});
    assert_eq!(*total, expected);
    assert_eq!(
        (&plan["faults"], &plan["warnings"]),
        (&json!([]), &json!([]))
    );
}

fn live_view(of: &Loaded, counts: &[u64]) -> LiveView {
    let mut counts = counts.iter().copied().cycle();
    let mut count = || counts.next().unwrap_or_default();
    let backend = |active: u64| LiveBackend {
        active,
        state: State::ALL[active as usize % State::ALL.len()],
    };
    let pools = of.config.pools.iter().map(|pool| {
        let backends = pool.backends.iter();
        let live = LivePool {
            held: count(),
            drain_timeout: Duration::from_secs(count() % 2),
            backends: backends
                .map(|b| (Arc::clone(&b.name), backend(count())))
                .collect(),
            ..LivePool::default()
        };
        (Arc::clone(&pool.name), live)
    });
    let pools: HashMap<_, _> = pools.collect();
    let listeners = of.config.listeners.iter();
    LiveView {
        at: SystemTime::UNIX_EPOCH,
        listeners: listeners.map(|l| (Arc::clone(&l.name), count())).collect(),
        pools,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_changes_nothing_of_itself(
        running in config::any_loaded(),
        counts in prop::collection::vec(0..9u64, 20),
    ) {
        let (live, overrides) = (live_view(&running, &counts), Overrides::default());
        let input = Input { running: &running, overrides: &overrides, file: &running, live: &live };
        let plan = Plan::new(input);
        prop_assert!(!plan.changes);
        prop_assert_eq!(plan.render(false), "nothing to change\n");
        let strict = Limits { max_removed: Some(0.0), max_dropped: Some(0), keep_all: true };
        prop_assert_eq!(strict.check(&plan), Ok(()));
        prop_assert_eq!(plan.connections.untouched, plan.connections.active);
    }

    #[test]
    fn every_connection_has_one_fate(
        running in config::any_loaded(),
        file in config::any_loaded(),
        counts in prop::collection::vec(0..9u64, 20),
    ) {
        let (live, overrides) = (live_view(&running, &counts), Overrides::default());
        let plan = Plan::new(Input { running: &running, overrides: &overrides, file: &file, live: &live });
        let all = plan.pools.iter().map(|pool| pool.connections).chain([plan.connections]);
        for c in all {
            prop_assert_eq!(c.active, c.untouched + c.kept + c.drained + c.stranded);
        }
        prop_assert!(plan.pools.iter().all(|pool| (0.0..=1.0).contains(&pool.removed_share)));
        prop_assert!(plan.render(true).lines().all(|line| line == line.trim_end()));
        prop_assert!(serde_json::to_string(&plan).is_ok());
    }
}

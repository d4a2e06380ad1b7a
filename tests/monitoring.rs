//! What `deploy/` has for monitoring systems is true of what isobar exports: every name, and
//! every alert, tried on recorded scrapes of a balancer that is well and of one that is not.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use isobar::metrics::families::{ALL, Family, Kind};
use serde_json::{Value, json};
use support::programs::{Ended, run};
use support::{Backend, Isobar, wait_until};
use tempfile::TempDir;

/// How long promtool may take.
const LIMIT: Duration = Duration::from_secs(60);

fn deployed(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deployed(path)).expect("it is part of the project")
}

/// Words of a query that may be names of series.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)))
}

/// The metric that a series belongs to: histograms have three for each.
fn family(series: &str) -> Option<&'static Family> {
    ALL.iter().find(|family| {
        let endings: &[&str] = match family.kind {
            Kind::Histogram => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let mut names = endings.iter().map(|end| format!("{}{end}", family.name));
        names.any(|name| name == series)
    })
}

/// Asserts that everything that `text` names is exported, or recorded by a rule, and that labels
/// are compared with values that they have.
#[track_caller]
fn assert_known(text: &str, recorded: &BTreeSet<&str>) {
    for word in words(text) {
        if word.contains(':') {
            // Whatever else has a colon is no word: it is followed by a blank.
            let is_rule = word.contains(":isobar_");
            assert!(!is_rule || recorded.contains(word), "nobody records {word}");
        } else if word.starts_with("isobar_") || word.starts_with("process_") {
            assert!(family(word).is_some(), "isobar exports no {word}");
        }
    }
    for (series, label, value) in comparisons(text) {
        let Some(family) = family(series) else {
            continue;
        };
        if ["job", "instance"].contains(&label) {
            // Of the target, added by whoever scrapes it.
            continue;
        }
        let known = family.labels.iter().find(|known| known.name == label);
        let known = known.unwrap_or_else(|| panic!("{series} has no label {label}"));
        for value in value.split('|').filter(|value| !value.contains('$')) {
            let possible = known.values.is_empty() || known.values.contains(&value);
            assert!(possible, "{series}: {label} is never {value:?}");
        }
    }
}

/// Series, label and value of every `series{label="value"}`, operators of any kind.
fn comparisons(text: &str) -> Vec<(&str, &str, &str)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('{') {
        let Some(inside) = text[at + 1..].split('}').next() else {
            continue;
        };
        let series = words(&text[..at]).last().unwrap_or_default();
        for pair in inside.split(',') {
            if let Some((label, value)) = pair.split_once('=') {
                let label = label.trim().trim_end_matches('!');
                let value = value.trim_matches(|c| "~\"\\ ".contains(c));
                found.push((series, label, value));
            }
        }
    }
    found
}

/// The names that rules record.
fn recorded(rules: &str) -> BTreeSet<&str> {
    let lines = rules.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix("- record: "))
        .collect()
}

/// The alerts that there are.
fn alerts(rules: &str) -> BTreeSet<&str> {
    let lines = rules.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix("- alert: "))
        .collect()
}

#[test]
fn the_rules_name_what_isobar_exports() {
    let rules = read("prometheus/alerts.yml");
    assert!(alerts(&rules).len() > 10 && recorded(&rules).len() > 5);
    assert_known(&rules, &recorded(&rules));
}

#[test]
fn a_name_that_is_not_exported_is_found() {
    let wrong = [
        "isobar_no_such_total",
        "rate(isobar_first_byte_seconds[5m])",
        "isobar_backend_state{state=\"gone\"}",
        "isobar_backend_state{colour=\"up\"}",
        "pool:isobar_nobody:rate5m",
    ];
    for text in wrong {
        let checked = std::panic::catch_unwind(|| assert_known(text, &BTreeSet::new()));
        assert!(checked.is_err(), "{text} passes");
    }
    assert_known(
        "sum(isobar_backend_state{state=~\"up|down\"}) / process_open_fds",
        &BTreeSet::new(),
    );
}

/// Every query of a dashboard, wherever it is.
fn queries(of: &Value) -> Vec<&str> {
    match of {
        Value::Array(items) => items.iter().flat_map(queries).collect(),
        Value::Object(map) => {
            let own = map.get("expr").and_then(Value::as_str);
            own.into_iter()
                .chain(map.values().flat_map(queries))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/isobar.json")).expect("JSON")
}

#[test]
fn the_dashboard_names_what_isobar_exports() {
    let (dashboard, rules) = (dashboard(), read("prometheus/alerts.yml"));
    let queries = queries(&dashboard);
    assert!(queries.len() > 20, "{} queries", queries.len());
    for query in queries {
        assert_known(query, &recorded(&rules));
    }
    let variables = dashboard["templating"]["list"].as_array().expect("a list");
    for variable in variables {
        assert_known(
            variable["definition"].as_str().unwrap_or_default(),
            &[].into(),
        );
    }
}

#[test]
fn the_panels_of_the_dashboard_lie_side_by_side() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("a list");
    let (mut taken, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let place = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        assert!(place("x") + place("w") <= 24, "{panel}");
        assert!(ids.insert(panel["id"].as_u64()), "an id twice: {panel}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
    }
}

/// One look at `/metrics`: every series with its value.
#[derive(Clone)]
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// As Prometheus would store it: with the labels of the target, and `up`.
    fn of(isobar: &Isobar) -> Self {
        let text = isobar.metrics();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            let series = match series.split_once('{') {
                Some((name, labels)) => format!("{name}{{{TARGET},{labels}"),
                None => format!("{series}{{{TARGET}}}"),
            };
            (series, value.parse().expect("a number"))
        });
        let mut all: BTreeMap<_, _> = samples.collect();
        all.insert(format!("up{{{TARGET}}}"), 1.0);
        Self(all)
    }

    /// The same with other values of the series that begin so; each must have some.
    #[track_caller]
    fn with(mut self, series: &str, change: impl Fn(f64) -> f64) -> Self {
        let mut found = 0;
        for (_, value) in self
            .0
            .iter_mut()
            .filter(|(name, _)| name.starts_with(series))
        {
            *value = change(*value);
            found += 1;
        }
        assert!(found > 0, "there is no {series}");
        self
    }
}

const TARGET: &str = r#"instance="isobar:9900",job="balancers""#;

/// Minutes for which all is well, and as many for which it is not.
const WELL: usize = 20;
const ILL: usize = 20;

/// What Prometheus has of a balancer, at one scrape a minute, that was as in `well` and then as
/// in `ill`: counters grow by the difference each minute.
fn series(well: &Scrape, ill: &Scrape) -> Vec<Value> {
    let all = well.0.keys().chain(ill.0.keys()).collect::<BTreeSet<_>>();
    let of = |name: &String| {
        let before = well.0.get(name).copied();
        let after = ill.0.get(name).copied();
        let bare = name.split('{').next().unwrap_or_default();
        let grows = family(bare).is_some_and(|f| matches!(f.kind, Kind::Counter | Kind::Histogram));
        let values = (0..WELL).map(|_| before).chain((1..=ILL).map(|minute| {
            let (start, end) = (before.unwrap_or(0.0), after?);
            Some(match grows {
                true => start + (end - start) * minute as f64,
                false => end,
            })
        }));
        let values = values.map(|value| value.map_or("_".to_owned(), |value| value.to_string()));
        let values: Vec<_> = values.collect();
        json!({"series": name, "values": values.join(" ")})
    };
    all.into_iter().map(of).collect()
}

/// One situation, and which alerts fire in it, for how many things each.
fn case(name: &str, series: Vec<Value>, expected: &[(&str, usize)]) -> Value {
    let samples: Vec<_> = expected
        .iter()
        .map(|(alert, n)| json!({"labels": format!("{{alertname=\"{alert}\"}}"), "value": n}))
        .collect();
    json!({
        "name": name,
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [{
            "expr": "count by (alertname) (ALERTS{alertstate=\"firing\"})",
            "eval_time": format!("{}m", WELL + ILL - 1),
            "exp_samples": samples,
        }],
    })
}

fn promtool(arguments: &[&str], dir: &TempDir) -> Ended {
    let mut command = Command::new("promtool");
    run(command.args(arguments).current_dir(dir), LIMIT)
}

/// What has to do with three pools: one that goes on with a third of its backends, one that has
/// none left, one that is well.
struct Scene {
    isobar: Isobar,
    text: String,
    backends: BTreeMap<&'static str, Backend>,
}

/// How long clients are held, until that is changed.
const SHORT: &str = "600ms";

const LIMIT_OF_CONNECTIONS: usize = 10;

impl Scene {
    fn set() -> Self {
        let names = ["a", "b", "c", "d"];
        let backends: BTreeMap<_, _> = names.map(|name| (name, Backend::named(name))).into();
        let entries = |names: &[&str]| {
            let entries = names.iter().map(|name| backends[name].entry());
            entries.collect::<Vec<_>>().join(", ")
        };
        let pool = |name: &str, names: &[&str]| {
            format!(
                "[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n\
                 [pool.{name}]\nbackends = [{}]\n\
                 [pool.{name}.health]\ninterval = \"100ms\"\ntimeout = \"100ms\"\n\
                 fast_interval = \"50ms\"\nrise = 1\nfall = 1\n\
                 [pool.{name}.hold]\ntimeout = \"{SHORT}\"\n",
                entries(names)
            )
        };
        let text = format!(
            "[runtime]\nmax_connections = {LIMIT_OF_CONNECTIONS}\n{}{}",
            pool("web", &["a", "b", "c"]),
            pool("db", &["d"])
        );
        let isobar = Isobar::start(&text);
        for (pool, backend) in [("web", "a"), ("web", "b"), ("web", "c"), ("db", "d")] {
            isobar.wait_state(pool, backend, "up");
        }
        Self {
            isobar,
            text,
            backends,
        }
    }

    /// Some visits to each pool.
    fn visit(&self) {
        for listener in ["web", "db"] {
            for _ in 0..20 {
                self.isobar.visit(listener);
            }
        }
    }

    /// Takes backends away, has clients wait in vain, fills it up to its limit and gives it a
    /// configuration that is none. What it says then, and how the clients go.
    fn break_down(&self) -> Scrape {
        let isobar = &self.isobar;
        for (pool, backend) in [("web", "b"), ("web", "c"), ("db", "d")] {
            self.backends[backend].stop();
            isobar.wait_state(pool, backend, "down");
        }
        let in_vain: Vec<_> = (0..3).map(|_| isobar.connect("db")).collect();
        isobar.wait_ended("db", "hold_timeout", 3);
        drop(in_vain);
        isobar.reload_to(&self.text.replace(SHORT, "0s"));
        isobar.refuses("[pool.web]\nbackends = 7\n");
        let stay = (1..LIMIT_OF_CONNECTIONS).map(|_| isobar.stay("web"));
        let stay: Vec<_> = stay.collect();
        let held = isobar.connect("db");
        isobar.wait_count("/pools/db/held", 1);
        let outside = isobar.connect("web");
        let mut scrape = None;
        wait_until("one is held and one is outside", || {
            let now = Scrape::of(isobar);
            let value = |start: &str| {
                let mut found = now.0.range(start.to_owned()..);
                found
                    .find(|(name, _)| name.starts_with(start))
                    .map(|(_, value)| *value)
            };
            let all = value(&format!("isobar_held_connections{{{TARGET},pool=\"db\"")) == Some(1.0)
                && now
                    .0
                    .iter()
                    .any(|(name, value)| name.starts_with("isobar_accept_paused") && *value == 1.0);
            scrape = all.then_some(now);
            all
        });
        drop((stay, held, outside));
        scrape.expect("what was waited for")
    }
}

#[test]
#[ignore = "needs promtool (prometheus)"]
fn what_is_exported_is_as_prometheus_wants_it() {
    let scene = Scene::set();
    scene.visit();
    let dir = TempDir::new().expect("a directory");
    std::fs::write(dir.path().join("scrape"), scene.isobar.metrics()).expect("room for a file");
    let mut command = Command::new("sh");
    command
        .args(["-c", "promtool check metrics < scrape"])
        .current_dir(&dir);
    let ended = run(&mut command, LIMIT).expect_success();
    assert_eq!((ended.stdout.trim(), ended.stderr.trim()), ("", ""));
}

#[test]
#[ignore = "needs promtool (prometheus)"]
fn prometheus_takes_every_rule_and_every_query_of_the_dashboard() {
    let dir = TempDir::new().expect("a directory");
    let rules = deployed("prometheus/alerts.yml");
    promtool(&["check", "rules", rules.to_str().expect("a path")], &dir).expect_success();
    let dashboard = dashboard();
    let queries = queries(&dashboard)
        .into_iter()
        .enumerate()
        .map(|(n, query)| {
            let query = query
                .replace("$__rate_interval", "5m")
                .replace("$__range", "1h");
            json!({"record": format!("query:{n}"), "expr": query})
        });
    let queries: Vec<_> = queries.collect();
    let file = json!({"groups": [{"name": "dashboard", "rules": queries}]});
    std::fs::write(dir.path().join("queries.json"), file.to_string()).expect("room for a file");
    promtool(&["check", "rules", "queries.json"], &dir).expect_success();
}

/// 1. A scrape while all is well; no alert fires.
/// 2. A scrape when much is not: just the alerts for that fire.
/// 3. For whatever does not happen that easily, the first scrape with other numbers: just the
///    alert for it fires.
/// 4. No alert was left out.
#[test]
#[ignore = "needs promtool (prometheus)"]
fn alerts_fire_for_what_is_wrong_and_for_nothing_else() {
    let scene = Scene::set();
    scene.visit();
    let well = Scrape::of(&scene.isobar);
    let ill = scene.break_down();
    let mut expected = vec![
        ("IsobarPoolWithoutBackend", 1),
        ("IsobarPoolHalfGone", 1),
        ("IsobarBackendDown", 3),
        ("IsobarClientsHeld", 1),
        ("IsobarClientsUnserved", 1),
        ("IsobarConnectionsNearLimit", 1),
        ("IsobarAcceptPaused", 2),
        ("IsobarReloadFailed", 1),
    ];
    let mut cases = vec![
        case("all is well", series(&well, &well), &[]),
        case("much is wrong", series(&well, &ill), &expected),
    ];
    let altered: [(&'static str, Scrape); 7] = [
        ("IsobarGone", well.clone().with("up{", |_| 0.0)),
        (
            "IsobarBackendsEjected",
            well.clone()
                .with(&at("isobar_ejections_total", "pool=\"web\""), |n| n + 1.0),
        ),
        (
            "IsobarConnectsFail",
            well.clone()
                .with(
                    &at(
                        "isobar_backend_connect_failures_total",
                        "pool=\"web\",backend=\"a\",reason=\"timeout\"",
                    ),
                    |n| n + 2.0,
                )
                .with(
                    &at(
                        "isobar_backend_connections_total",
                        "pool=\"web\",backend=\"a\"",
                    ),
                    |n| n + 20.0,
                ),
        ),
        (
            "IsobarDescriptorsShort",
            well.clone().with("process_max_fds", |_| 12.0),
        ),
        (
            "IsobarCoreBusy",
            well.clone()
                .with(&at("isobar_core_busy_seconds_total", "core=\"0\""), |n| {
                    n + 58.0
                }),
        ),
        (
            "IsobarLogLinesDropped",
            well.clone().with(
                &at("isobar_log_lines_dropped_total", "sink=\"access\""),
                |n| n + 3.0,
            ),
        ),
        (
            "IsobarPanics",
            well.clone().with("isobar_panics_total", |n| n + 1.0),
        ),
    ];
    for (alert, scrape) in altered {
        cases.push(case(alert, series(&well, &scrape), &[(alert, 1)]));
        expected.push((alert, 1));
    }
    cases.push(flapping(&well));
    expected.push(("IsobarBackendFlaps", 1));
    let rules = read("prometheus/alerts.yml");
    let tried: BTreeSet<_> = expected.iter().map(|(alert, _)| *alert).collect();
    assert_eq!(tried, alerts(&rules));
    let dir = TempDir::new().expect("a directory");
    std::fs::write(dir.path().join("alerts.yml"), rules).expect("room for a file");
    let tests = json!({
        "rule_files": ["alerts.yml"],
        "evaluation_interval": "1m",
        "tests": cases,
    });
    std::fs::write(dir.path().join("tests.json"), tests.to_string()).expect("room for a file");
    let ended = promtool(&["test", "rules", "tests.json"], &dir);
    assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
}

/// The beginning of a series of the target, by its own labels. isobar writes these in the order
/// of `labels`.
fn at(name: &str, labels: &str) -> String {
    format!("{name}{{{TARGET},{labels}")
}

/// A backend that is down every other minute.
fn flapping(well: &Scrape) -> Value {
    let mut all = series(well, well);
    let state = |series: &Value, state: &str| {
        let name = series["series"].as_str().unwrap_or_default();
        name.starts_with("isobar_backend_state{")
            && name.contains("backend=\"a\"")
            && name.contains(&format!("state=\"{state}\""))
    };
    let alternating = |first: usize| {
        let values = (0..WELL + ILL).map(|minute| match minute < WELL {
            true => 1 - first,
            false => (minute + first) % 2,
        });
        let values: Vec<_> = values.map(|value| value.to_string()).collect();
        values.join(" ")
    };
    for series in &mut all {
        for (word, first) in [("up", 0), ("down", 1)] {
            if state(series, word) {
                series["values"] = json!(alternating(first));
            }
        }
    }
    case("it flaps", all, &[("IsobarBackendFlaps", 1)])
}

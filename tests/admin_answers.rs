//! What the admin endpoint answers, from outside: every key of the statistics, every declared
//! metric and no other, connections with their filters, readiness.

mod support;

use std::collections::{HashMap, HashSet};

use isobar::metrics::families::{self, Family, Kind};
use serde_json::{Value, json};
use support::{Backend, Isobar, Launch, wait_until, web};

/// One listener and pool with a backend that names itself.
fn one() -> (Isobar, Backend) {
    let backend = Backend::named("b1");
    (Isobar::start(&web("", &[backend.entry()])), backend)
}

/// The example of the documented format, with its shape alone: objects hold what must be
/// there, a text says of which type a value is, separated by `|` where several may be.
fn shape() -> Value {
    json!({
        "version": "string", "pid": "number", "started_at": "time", "uptime_seconds": "number",
        "config": {
            "path": "string", "generation": "number", "loaded_at": "time", "read_only": "bool",
            "last_reload": {
                "ok": "bool", "at": "time", "error": "null", "pending_restart": "array",
            },
        },
        "overrides": "array",
        "generations": "array",
        "connections": {"active": "number", "total": "number", "limit": "number"},
        "listeners": {"web": listener_shape()},
        "pools": {"web": pool_shape()},
    })
}

fn listener_shape() -> Value {
    json!({
        "addresses": "array", "pool": "string", "accepting": "bool",
        "connections": {"active": "number", "total": "number"},
        "rejected": names(families::REJECTED, "reason"),
        "ended": names(families::ENDED, "reason"),
        "bytes_in": "number", "bytes_out": "number",
    })
}

fn pool_shape() -> Value {
    json!({
        "balance": "string", "held": "number", "held_total": "number",
        "paused": "bool", "paused_until": "null", "rebalancing": "null",
        "connections": {"active": "number", "total": "number"},
        "bytes_in": "number", "bytes_out": "number",
        "ended": names(families::ENDED, "reason"),
        "replays": names(families::REPLAYS, "outcome"),
        "backends": {"b1": backend_shape()},
    })
}

fn backend_shape() -> Value {
    let seconds = json!({
        "count": "number", "p50": "number", "p90": "number", "p99": "number", "max": "number",
    });
    json!({
        "address": "string", "state": "string", "admin": "string", "checks": "string",
        "ejected_until": "null", "leaving": "null", "weight": "number", "effective_weight": "number",
        "backup": "bool",
        "connections": {
            "active": "number", "total": "number", "limit": "number", "connecting": "number",
            "failed": "number", "retried": "number",
        },
        "bytes_in": "number", "bytes_out": "number",
        "connect_seconds": seconds,
        "first_byte_seconds": seconds,
        "duration_seconds": seconds,
        "rtt_seconds": seconds,
        "delivery_rate": seconds,
        "retransmitted": {
            "sent_bytes": "number", "retransmitted_bytes": "number", "share": "number|null",
        },
        "health": {
            "kind": "string", "last_at": "time|null", "last_ok": "bool|null",
            "last_error": "string|null", "latency_seconds": "number|null", "since": "time",
            "transitions": "number", "passes_needed": "number", "history": "array",
        },
    })
}

/// Every value of a label as a key.
fn names(family: Family, label: &str) -> Value {
    let label = family.labels.iter().find(|own| own.name == label);
    let values = label.expect("a label").values.iter();
    values
        .map(|word| ((*word).to_owned(), json!("number")))
        .collect()
}

#[track_caller]
fn assert_shape(path: &str, value: &Value, shape: &Value) {
    if let Value::String(kinds) = shape {
        let fits = kinds.split('|').any(|kind| is(value, kind));
        return assert!(fits, "{path} is {value}, not {kinds}");
    }
    let (value, shape) = (value.as_object(), shape.as_object().expect("a shape"));
    let value = value.unwrap_or_else(|| panic!("{path} is no object"));
    let keys = |object: &serde_json::Map<_, _>| object.keys().cloned().collect::<HashSet<_>>();
    assert_eq!(keys(value), keys(shape), "{path}");
    for (key, shape) in shape {
        assert_shape(&format!("{path}/{key}"), &value[key], shape);
    }
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "number" => value.is_number(),
        "bool" => value.is_boolean(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        "time" => value.as_str().is_some_and(is_time),
        _ => panic!("unknown kind {kind}"),
    }
}

fn is_time(text: &str) -> bool {
    text.len() == "2026-01-01T00:00:00.000000Z".len()
        && text.ends_with('Z')
        && text.parse::<jiff::Timestamp>().is_ok()
}

#[test]
fn statistics_have_every_key_and_no_other() {
    let (isobar, _backend) = one();
    assert_shape("", &isobar.stats(), &shape());
    isobar.visit("web");
    isobar.wait_count("/listeners/web/connections/active", 0);
    let stats = isobar.stats();
    assert_shape("", &stats, &shape());
    assert_eq!(stats["config"]["path"], "lb.toml");
    assert_eq!(stats["config"]["last_reload"]["ok"], true);
    assert_eq!(stats["generations"][0]["pid"], isobar.process().0);
    assert_eq!(
        stats["listeners"]["web"]["addresses"][0],
        isobar.address("web").to_string()
    );
    assert_eq!(stats["listeners"]["web"]["accepting"], true);
}

#[test]
fn statistics_follow_a_connection_from_its_accept_to_its_end() {
    let (isobar, _backend) = one();
    let (client, name) = isobar.stay("web");
    assert_eq!(name, "b1");
    client.write("hello");
    for pointer in [
        "/connections/active",
        "/listeners/web/connections/active",
        "/pools/web/connections/active",
        "/pools/web/connections/total",
        "/pools/web/backends/b1/connections/active",
        "/pools/web/backends/b1/connections/total",
        "/pools/web/backends/b1/connect_seconds/count",
        "/generations/0/active",
    ] {
        isobar.wait_count(pointer, 1);
    }
    isobar.wait_count("/pools/web/bytes_in", 5);
    client.fin();
    client.expect_fin();
    isobar.wait_ended("web", "client_closed", 1);
    for (pointer, expected) in [
        ("/connections/active", 0),
        ("/connections/total", 1),
        ("/pools/web/ended/client_closed", 1),
        ("/pools/web/connections/active", 0),
        ("/listeners/web/bytes_in", 5),
        ("/listeners/web/bytes_out", 3),
        ("/pools/web/backends/b1/bytes_out", 3),
        ("/pools/web/backends/b1/duration_seconds/count", 1),
    ] {
        assert_eq!(isobar.count(pointer), expected, "{pointer}");
    }
}

/// One line of an exposition: a series with its value.
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        let mut labels = self.labels.iter();
        labels
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }

    fn parse(line: &str) -> Self {
        let end = line.find(['{', ' ']).expect("a name and a value");
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(set) = rest.strip_prefix('{') {
            rest = set;
            while !rest.starts_with('}') {
                let (label, behind) = rest.split_once("=\"").expect("a label");
                let (value, behind) = unquoted(behind);
                labels.push((label.to_owned(), value));
                rest = behind.strip_prefix(',').unwrap_or(behind);
            }
            rest = &rest[1..];
        }
        let value = rest.trim().parse().expect("a number");
        Self {
            name: name.to_owned(),
            labels,
            value,
        }
    }
}

/// A label's value without its escapes, and what follows its closing quote.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => match characters.next().expect("an escape").1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            plain => value.push(plain),
        }
    }
    panic!("no closing quote: {text}")
}

/// The name under which a family is described.
fn described(family: &Family, open_metrics: bool) -> &'static str {
    if open_metrics {
        family.stem()
    } else {
        family.name
    }
}

fn endings(family: &Family) -> &'static [&'static str] {
    match family.kind {
        Kind::Histogram => &["_bucket", "_sum", "_count"],
        _ => &[""],
    }
}

/// Checks a whole exposition against what is declared; its samples.
#[track_caller]
fn checked(text: &str, open_metrics: bool) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut seen = HashSet::new();
    let mut described_as = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match *words {
            ["#", "HELP", name, help] => described_as.push((name, help, "")),
            ["#", "TYPE", name, kind] => {
                let last = described_as.last_mut().expect("HELP comes first");
                assert_eq!(last.0, name);
                last.2 = kind;
            }
            ["#", "UNIT", name, unit] => assert!(name.ends_with(unit), "{line}"),
            ["#", "EOF"] => assert!(open_metrics),
            _ => {
                let series = line.rsplit_once(' ').expect("a value").0;
                assert!(seen.insert(series), "twice: {series}");
                let sample = Sample::parse(line);
                let family = &families::ALL[described_as.len() - 1];
                let own = endings(family).iter();
                let mut own = own.map(|ending| format!("{}{ending}", family.name));
                assert!(
                    own.any(|name| name == sample.name),
                    "{line} in {}",
                    family.name
                );
                assert_labels(&sample, family);
                samples.push(sample);
            }
        }
    }
    let declared: Vec<_> = families::ALL
        .iter()
        .map(|family| {
            let kind = match (family.kind, open_metrics) {
                (Kind::Info, true) => "info",
                (kind, _) => kind.as_str(),
            };
            (described(family, open_metrics), family.help, kind)
        })
        .collect();
    assert_eq!(described_as, declared);
    assert_eq!(text.ends_with("# EOF\n"), open_metrics);
    samples
}

#[track_caller]
fn assert_labels(sample: &Sample, family: &Family) {
    let own = sample.labels.iter().filter(|(name, _)| name != "le");
    let own: Vec<_> = own.map(|(name, _)| name.as_str()).collect();
    let declared: Vec<_> = family.labels.iter().map(|label| label.name).collect();
    assert_eq!(own, declared, "{}", family.name);
    for label in family
        .labels
        .iter()
        .filter(|label| !label.values.is_empty())
    {
        let value = sample.label(label.name).expect("a value");
        assert!(label.values.contains(&value), "{} has {value}", family.name);
    }
}

/// Buckets grow, the last one has all, and as many as are counted.
fn assert_histograms(samples: &[Sample]) {
    let mut last = HashMap::new();
    for sample in samples {
        let of = |ending: &str| {
            let mut labels = sample.labels.clone();
            labels.retain(|(name, _)| name != "le");
            sample
                .name
                .strip_suffix(ending)
                .map(|name| (name.to_owned(), labels))
        };
        if let Some(series) = of("_bucket") {
            let seen = last.entry(series).or_insert((0.0, 0));
            assert!(sample.value >= seen.0, "{}", sample.name);
            *seen = (sample.value, seen.1 + 1);
        }
        let count = of("_count").and_then(|series| last.get(&series));
        if let (Some((all, buckets)), false) = (count, sample.name.ends_with("_bucket")) {
            assert_eq!(*all, sample.value, "{}", sample.name);
            assert!(*buckets <= 12, "{}", sample.name);
        }
    }
    assert!(!last.is_empty());
}

#[test]
fn metrics_are_exactly_those_that_are_declared() {
    let (isobar, _backend) = one();
    for _ in 0..3 {
        isobar.visit("web");
    }
    isobar.wait_ended("web", "client_closed", 3);
    let response = isobar.get("/metrics");
    assert_eq!(
        response.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let samples = checked(&response.body, false);
    assert_histograms(&samples);
    let value = |name: &str, label: &str| {
        let mut all = samples.iter().filter(|sample| sample.name == name);
        let found = all.find(|sample| sample.labels.iter().any(|(_, value)| value == label));
        found
            .unwrap_or_else(|| panic!("no {name} with {label}"))
            .value
    };
    assert_eq!(value("isobar_ended_total", "client_closed"), 3.0);
    assert_eq!(value("isobar_ended_total", "client_lost"), 0.0);
    assert_eq!(value("isobar_backend_state", "up"), 1.0);
    assert_eq!(value("isobar_backend_state", "down"), 0.0);
    assert_eq!(value("isobar_backend_connect_seconds_count", "b1"), 3.0);
    assert_eq!(value("isobar_pool_backends_usable", "web"), 1.0);
    assert_eq!(value("isobar_listener_bytes_total", "out"), 9.0);
}

#[test]
fn open_metrics_has_the_same_series_under_its_own_rules() {
    let (isobar, _backend) = one();
    let plain = checked(&isobar.metrics(), false);
    let response = isobar.get_with("/metrics", "Accept: application/openmetrics-text\r\n");
    let kind = response.header("content-type").expect("a type");
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    let open = checked(&response.body, true);
    assert_histograms(&open);
    let series = |samples: &[Sample]| {
        let series = samples.iter().map(|sample| {
            let labels = sample.labels.iter().filter(|(name, _)| name != "le");
            (sample.name.clone(), labels.cloned().collect::<Vec<_>>())
        });
        series.collect::<HashSet<_>>()
    };
    assert_eq!(series(&open), series(&plain));
}

/// While connections come and go.
#[test]
fn fifty_scrapes_at_once_are_all_whole() {
    let (isobar, _backend) = one();
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                isobar.visit("web");
                assert_histograms(&checked(&isobar.metrics(), false));
                assert_shape("", &isobar.stats(), &shape());
            });
        }
    });
    isobar.wait_ended("web", "client_closed", 50);
}

#[test]
fn every_value_of_a_closed_label_is_always_there() {
    let backend = Backend::named("b1");
    let by_name = "\"localhost:1\"".to_owned();
    let isobar = Isobar::start(&web("", &[backend.entry(), by_name]));
    let samples = checked(&isobar.metrics(), false);
    for family in families::ALL {
        for label in family
            .labels
            .iter()
            .filter(|label| !label.values.is_empty())
        {
            for word in label.values {
                let has = |sample: &&Sample| {
                    sample.name == family.name && sample.label(label.name) == Some(word)
                };
                assert!(
                    samples.iter().any(|sample| has(&sample)),
                    "{} {word}",
                    family.name
                );
            }
        }
    }
}

#[test]
fn hostile_names_are_escaped_in_every_answer() {
    let name = r#"unix:/tmp/a"b\c.sock"#;
    let toml = r#"'unix:/tmp/a"b\c.sock'"#;
    let isobar = Isobar::start(&web("", &[toml.to_owned()]));
    assert!(isobar.stats()["pools"]["web"]["backends"][name].is_object());
    let samples = checked(&isobar.metrics(), false);
    assert!(
        samples
            .iter()
            .any(|sample| sample.label("backend") == Some(name))
    );
    let encoded = "unix%3A%2Ftmp%2Fa%22b%5Cc.sock";
    let history = isobar.get(&format!("/pools/web/backends/{encoded}/history"));
    assert_eq!(history.status, 200, "{}", history.body);
    assert_eq!(history.json()["backend"], name);
}

#[test]
fn failed_connects_are_counted_by_reason() {
    let gone = Backend::refusing("gone");
    let isobar = Isobar::start(&web("[pool.web.hold]\nmax = 0", &[gone.entry()]));
    isobar.connect("web").expect_gone();
    isobar.wait_ended("web", "connect_failed", 1);
    let metric =
        |name: &str, reason: &str| isobar.metric(name, &[("backend", "gone"), ("reason", reason)]);
    let failed = isobar.count("/pools/web/backends/gone/connections/failed");
    assert!(failed >= 1);
    let refused = metric("isobar_backend_connect_failures_total", "refused");
    assert_eq!(refused, failed as f64);
    assert_eq!(metric("isobar_backend_failures_total", "connect"), refused);
    assert_eq!(
        metric("isobar_backend_connect_failures_total", "local_error"),
        0.0
    );
}

#[test]
fn connections_are_listed_oldest_first_and_filtered() {
    let (isobar, _backend) = one();
    let (first, _) = isobar.stay("web");
    let (second, _) = isobar.stay("web");
    isobar.wait_count("/connections/active", 2);
    let list = |query: &str| isobar.get(&format!("/connections{query}")).json();
    let all = list("");
    assert_eq!(all["total"], 2);
    let clients = [&first, &second].map(|stream| stream.local().expect("an address").to_string());
    let listed = all["connections"].as_array().expect("an array");
    let listed: Vec<_> = listed.iter().map(|one| one["client"].as_str()).collect();
    assert_eq!(
        listed,
        clients.each_ref().map(|client| Some(client.as_str()))
    );
    assert_shape(
        "",
        &all["connections"][0],
        &json!({
            "id": "string", "listener": "string", "client": "string", "pool": "string",
            "backend": "string", "age_seconds": "number", "idle_seconds": "number",
            "bytes_in": "number", "bytes_out": "number", "state": "string",
        }),
    );
    assert_eq!(all["connections"][0]["bytes_out"], 3);
    for (query, total) in [
        ("?pool=web&backend=b1&listener=web", 2),
        ("?backend=b2", 0),
        ("?client=127.0.0.0/8&state=relaying", 2),
        ("?client=10.0.0.0/8", 0),
        ("?state=held", 0),
        ("?older=1h", 0),
        ("?idle=1h", 0),
    ] {
        assert_eq!(list(query)["total"], total, "{query}");
    }
    let limited = list("?limit=1");
    assert_eq!(limited["total"], 2);
    assert_eq!(limited["connections"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_filter_without_a_value_is_none() {
    let (isobar, _backend) = one();
    let (_stay, _) = isobar.stay("web");
    let none = "/connections?limit=&pool=&backend=&listener=&client=&state=&older=&idle=";
    assert_eq!(isobar.get(none).json()["total"], 1);
}

#[test]
fn an_unknown_or_wrong_filter_is_named() {
    let (isobar, _backend) = one();
    for (query, expected) in [
        ("pools=web", "pools"),
        ("limit=many", "limit"),
        ("client=evil.com", "client"),
        ("state=open", "state"),
        ("older=30", "older"),
        ("idle=never", "idle"),
    ] {
        let refused = isobar.get(&format!("/connections?{query}"));
        assert_eq!(refused.status, 400, "{query}");
        let sentence = refused.json()["error"].to_string();
        assert!(sentence.contains(expected), "{sentence}");
    }
}

/// The check is answered when the test says so, and then for ever.
#[test]
fn readiness_waits_for_the_first_result_of_every_backend() {
    let slow = Backend::manual(support::Family::Ipv4);
    let mut isobar = Isobar::start(&web(
        "[pool.web.health]\nkind = \"exchange\"\nsend = \"ping\"\nexpect = \"pong\"\n\
         timeout = \"60s\"\ninterval = \"60s\"",
        &[slow.entry()],
    ));
    for path in ["/readyz", "/readyz?pool=web"] {
        let response = isobar.get(path);
        assert_eq!(response.status, 503, "{path}");
        assert_eq!(response.json()["ready"], false);
        let reason = response.json()["reasons"][0].to_string();
        assert!(reason.contains(slow.name()), "{reason}");
    }
    assert_eq!(isobar.get("/healthz").status, 200);
    assert_eq!(isobar.get("/readyz?pool=other").status, 404);
    assert_eq!(isobar.get("/readyz?pools=web").status, 400);
    let check = slow.accept();
    check.expect("ping");
    check.write("pong");
    wait_until("it was ready", || {
        isobar.get("/readyz?pool=web").status == 200
    });
    check.expect_gone();
    isobar.skip_byte_check();
}

#[test]
fn readiness_of_a_pool_wants_a_backend_that_can_be_used() {
    let gone = Backend::refusing("gone");
    let text = web(
        "[pool.web.health]\ninterval = \"50ms\"\nfast_interval = \"10ms\"",
        &[gone.entry()],
    );
    let isobar = Isobar::start(&text);
    isobar.wait_state("web", "gone", "down");
    // A backend that is down has had its result: the process is ready, the pool is not.
    assert_eq!(isobar.get("/readyz").status, 200);
    assert_eq!(isobar.get("/readyz?pool=web").status, 503);
    gone.listen();
    isobar.wait_state("web", "gone", "up");
    let ready = isobar.get("/readyz?pool=web&pool=web");
    assert_eq!((ready.status, ready.json()), (200, json!({"ready": true})));
    let history = isobar.get("/pools/web/backends/gone/history").json();
    let states = |key: &str| {
        let entries = history["history"].as_array().expect("an array").iter();
        entries
            .map(|entry| entry[key].as_str().expect("a state").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(states("from"), ["starting", "down"]);
    assert_eq!(states("to"), ["down", "up"]);
    assert_eq!(isobar.get("/pools/web/backends/none/history").status, 404);
    assert_eq!(isobar.get("/pools/none/backends/gone/history").status, 404);
}

#[test]
fn readiness_ends_when_a_stop_begins() {
    let backend = Backend::named("b1");
    let text = format!(
        "{}[runtime]\nstop_delay = \"2s\"\n",
        web("", &[backend.entry()])
    );
    let mut isobar = Isobar::start(&text);
    assert_eq!(isobar.get("/readyz").status, 200);
    isobar.signal(rustix::process::Signal::TERM);
    wait_until("it was not ready", || isobar.get("/readyz").status == 503);
    assert_eq!(isobar.get("/healthz").status, 200);
    assert!(isobar.wait_exit().success());
}

#[test]
fn the_configuration_is_shown_without_its_secrets() {
    let backend = Backend::named("b1");
    let text = format!(
        "{}[admin]\nbind = \"127.0.0.1:0\"\ntoken = \"${{SECRET}}\"\n",
        web("", &[backend.entry()])
    );
    let isobar = Launch::new(&text).env("SECRET", "hunter2-hunter2").start();
    let config = isobar.get("/config");
    assert_eq!(config.status, 200);
    assert!(config.body.contains("[pool.web]"), "{}", config.body);
    assert!(
        config.body.contains("connect_timeout = \"3s\""),
        "{}",
        config.body
    );
    assert!(!config.body.contains("hunter2"), "{}", config.body);
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let (isobar, _backend) = one();
    let page = isobar.get("/");
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    for expected in ["<title>isobar", "stats", "metrics"] {
        assert!(page.body.contains(expected), "{expected}");
    }
    // A name that is never asked for.
    let body = page.body.replace("http://www.w3.org/2000/svg", "");
    assert!(!body.contains("://"), "{body}");
}

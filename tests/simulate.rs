//! `isobar simulate`: recorded connections replayed, beside what became of them in a real balancer,
//! and what is told of a log that cannot be replayed.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::{Backend, Exit, Isobar, Launch, Stream, web};

/// `n` backends that say their names, `b1` first.
fn named(n: usize) -> Vec<Backend> {
    (1..=n).map(|i| Backend::named(&format!("b{i}"))).collect()
}

/// Pool `web` on one core over `backends`, each with its own further keys, and the file of it.
fn on_one_core(settings: &str, backends: &[Backend], keys: &[&str]) -> (Isobar, String) {
    let keys = keys.iter().copied().chain(std::iter::repeat(""));
    let entries = backends.iter().zip(keys);
    let entries: Vec<_> = entries
        .map(|(backend, keys)| backend.entry_with(keys))
        .collect();
    let text = format!("[runtime]\nthreads = 1\n{}", web(settings, &entries));
    (Isobar::start(&text), text)
}

/// Everything that the balancer has logged, events included, replayed with this file.
#[track_caller]
fn replayed(isobar: &Isobar, file: &str, further: &[&str]) -> Value {
    let launch = Launch::new(file);
    let log = isobar.log().text();
    std::fs::write(launch.dir().join("access.jsonl"), log).expect("a file");
    let mut arguments = vec![
        "simulate",
        "-c",
        "lb.toml",
        "--log",
        "access.jsonl",
        "--json",
    ];
    arguments.extend(further);
    let exit = launch.run_to_exit(&arguments);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    serde_json::from_str(&exit.stdout).expect("JSON")
}

/// What each backend of the first pool got in a report.
fn simulated(report: &Value) -> BTreeMap<String, u64> {
    let backends = report["pools"][0]["backends"].as_array().expect("backends");
    let count = |of: &Value| {
        let name = of["backend"].as_str().expect("a name").to_owned();
        (name, of["connections"].as_u64().expect("a count"))
    };
    backends.iter().map(count).collect()
}

/// What each backend of pool `web` got in the balancer.
fn real(isobar: &Isobar) -> BTreeMap<String, u64> {
    let backends = isobar.stat("/pools/web/backends");
    let backends = backends.as_object().expect("backends");
    let count = |(name, of): (&String, &Value)| {
        let total = of["connections"]["total"].as_u64();
        (name.clone(), total.expect("a count"))
    };
    backends.iter().map(count).collect()
}

/// Where no two clients share an address.
fn source(n: usize) -> String {
    format!("127.{}.{}.{}", n % 3, n % 50, 1 + n % 251)
}

/// `n` clients, of whom the balancer has written the lines; `stay` of them at a time.
#[track_caller]
fn carry(isobar: &Isobar, n: usize, stay: usize) {
    let mut crowd = std::collections::VecDeque::<Stream>::new();
    let leave = |client: Stream| {
        client.fin();
        client.expect_fin();
        isobar.wait_access(client.local().expect("an address"));
    };
    for n in 0..n {
        let client = isobar.connect_from(&source(n), "web");
        client.read_line();
        crowd.push_back(client);
        if crowd.len() > stay {
            crowd.pop_front().into_iter().for_each(leave);
        }
    }
    crowd.into_iter().for_each(leave);
}

/// Steps: hundreds of clients from as many addresses come and go, some of them staying while
/// others come; what the log has of them is replayed with the same file.
#[test]
fn the_backends_of_a_real_run_are_told_again_by_its_log() {
    for (strategy, clients, stay) in [
        ("consistent-hash", 300, 20),
        ("round-robin", 120, 20),
        ("least-connections", 90, 90),
        ("first", 90, 90),
    ] {
        let backends = named(4);
        let keys = [
            "weight = 3",
            "max_connections = 40",
            "weight = 2",
            "backup = true",
        ];
        let settings = format!("balance = \"{strategy}\"\noutlier.consecutive_failures = 0");
        let (isobar, file) = on_one_core(&settings, &backends, &keys);
        carry(&isobar, clients, stay);
        let report = replayed(&isobar, &file, &[]);
        assert_eq!(report["log"]["connections"], clients, "{strategy}");
        assert_eq!(simulated(&report), real(&isobar), "{strategy}");
        let held = &report["pools"][0]["held"]["connections"];
        assert_eq!(*held, 0, "{strategy}");
    }
}

/// Steps: clients of a pool with two slots, of whom the third and fourth wait; another file has
/// room for all, and one has a backend less.
#[test]
fn another_file_is_tried_on_what_was_recorded() {
    let backends = named(2);
    let limit = "max_connections = 1";
    let (isobar, file) = on_one_core("", &backends, &[limit, limit]);
    let first: Vec<_> = (0..2).map(|_| isobar.stay("web").0).collect();
    let later: Vec<_> = (0..2).map(|_| isobar.connect("web")).collect();
    isobar.wait_count("/pools/web/held", 2);
    let leave = |client: Stream| {
        client.fin();
        client.expect_fin();
        isobar.wait_access(client.local().expect("an address"));
    };
    first.into_iter().for_each(leave);
    for client in later {
        client.read_line();
        leave(client);
    }
    let report = replayed(&isobar, &file, &[]);
    assert_eq!(report["pools"][0]["held"]["connections"], 2, "{report:#}");

    let roomy = file.replace(limit, "max_connections = 2");
    let report = replayed(&isobar, &roomy, &[]);
    assert_eq!(report["pools"][0]["held"]["connections"], 0, "{report:#}");
    let lost = &report["pools"][0]["if_lost"][0];
    assert_eq!(lost["most_loaded"], "b2", "{report:#}");
    assert_eq!(lost["peak"], 2, "{report:#}");

    let report = replayed(&isobar, &file, &["--without", "b2"]);
    assert_eq!(report["without"][0], "web/b2");
    assert_eq!(report["pools"][0]["held"]["connections"], 3, "{report:#}");
    let lost = &report["pools"][0]["backends"][1];
    assert_eq!(
        (&lost["lost"], &lost["connections"]),
        (&true.into(), &0.into())
    );
    assert_eq!(lost["with_all"]["connections"], 2);
}

const FILE: &str = include_str!("golden/simulate/lb.toml");
const LOG: &str = include_str!("golden/simulate/access.jsonl");
const REPORT: &str = include_str!("golden/simulate/report.txt");
const WITHOUT: &str = include_str!("golden/simulate/without.txt");

/// `simulate` with the golden file and this log.
fn simulate(log: impl AsRef<[u8]>, further: &[&str]) -> Exit {
    let launch = Launch::new(FILE);
    std::fs::write(launch.dir().join("access.jsonl"), log).expect("a file");
    let mut arguments = vec!["simulate", "-c", "lb.toml", "--log", "access.jsonl"];
    arguments.extend(further);
    launch.run_to_exit(&arguments)
}

#[track_caller]
fn told(further: &[&str]) -> String {
    let exit = simulate(LOG, further);
    assert_eq!((exit.code, &*exit.stderr), (Some(0), ""), "{exit:?}");
    exit.stdout
}

#[test]
fn the_report_of_a_small_log_is_the_one_of_the_documentation() {
    assert_eq!(told(&[]), REPORT.trim_end());
    assert_eq!(told(&["--without", "db1"]), WITHOUT.trim_end());
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let docs = std::fs::read_to_string(docs).expect("the documentation");
    for report in [REPORT, WITHOUT] {
        assert!(
            docs.contains(report),
            "not in docs/operations.md:\n{report}"
        );
    }
}

#[test]
fn the_same_seed_tells_the_same_and_another_one_draws_otherwise() {
    let launch = Launch::new(&FILE.replace("least-connections", "random-two"));
    std::fs::write(launch.dir().join("access.jsonl"), LOG).expect("a file");
    let told = |seed: &str| {
        let arguments = [
            "simulate",
            "--log",
            "access.jsonl",
            "-c",
            "lb.toml",
            "--seed",
            seed,
        ];
        launch.run_to_exit(&arguments).stdout
    };
    let first = told("1");
    assert!(first.contains(", seed 1\n"), "{first}");
    assert_eq!(told("1"), first);
    let numbers = |told: &str| told.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert!((2..12).any(|seed| numbers(&told(&seed.to_string())) != numbers(&first)));
}

/// From a pipe, as `zcat` writes into one.
#[test]
fn a_log_is_read_from_standard_input() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let (config, log) = (file("lb.toml", FILE), file("access.jsonl", LOG));
    let output = |log: Stdio| -> Output {
        Command::new(env!("CARGO_BIN_EXE_isobar"))
            .args(["simulate", "--log", "-", "-c"])
            .arg(&config)
            .stdin(log)
            .output()
            .expect("isobar runs")
    };
    let whole = output(std::fs::File::open(log).expect("a file").into());
    assert_eq!(String::from_utf8_lossy(&whole.stdout), REPORT);
    let nothing = output(Stdio::null());
    assert_eq!(nothing.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&nothing.stderr),
        "error: standard input: no connection to replay in it\n"
    );
}

#[test]
fn what_cannot_be_replayed_is_told_with_its_place_and_the_remedy() {
    let first = LOG.lines().next().expect("a line");
    let rest = |second: &str| format!("{first}\n{second}\n");
    let numbered = |id: u64| {
        let mut line: Value = serde_json::from_str(first).expect("JSON");
        line["id"] = id.to_string().into();
        line["ended"] = "client_closed".into();
        format!("{line}\n")
    };
    let ids = (1..4000).filter(|id| isobar::log::least_share(*id) < 0.1);
    let sampled: String = ids.map(numbered).collect();
    assert!(sampled.lines().count() > 100);
    for (log, expected) in [
        (
            rest("time=2026-01-01T00:00:00.250000Z level=info target=isobar::access id=7"),
            "access.jsonl:2: a line of text, where JSON is read: record the log with \
             `log.format = \"json\"`",
        ),
        (
            rest("{]"),
            "access.jsonl:2:2: no line of an access log in JSON: key must be a string",
        ),
        (
            rest(&first.replace("\"client\":\"1", "\"client\":\"x")),
            "access.jsonl:2: client is no address: x",
        ),
        (
            sampled,
            "error: access.jsonl: lines 1 to 431 have about 9.9 % of the connections",
        ),
        (
            String::new(),
            "error: access.jsonl: no connection to replay in it",
        ),
        (
            first.replace("\"listener\":\"postgres\"", "\"listener\":\"old\"") + "\n",
            "error: access.jsonl: no connection to replay: 1 of listener old, which the file does \
             not have",
        ),
    ] {
        let exit = simulate(log, &[]);
        assert_eq!((exit.code, &*exit.stdout), (Some(2), ""), "{exit:?}");
        assert!(exit.stderr.starts_with(expected), "{}", exit.stderr);
        assert_eq!(exit.stderr.lines().count(), 1, "{}", exit.stderr);
    }
    let exit = simulate([0x1f, 0x8b, 8, 0], &[]);
    let expected = "error: access.jsonl: it is no text but packed by gzip: let zcat unpack it";
    assert!(
        exit.code == Some(2) && exit.stderr.starts_with(expected),
        "{exit:?}"
    );
}

#[test]
fn a_wrong_name_or_file_has_the_exit_code_of_its_kind() {
    let exit = simulate(LOG, &["--without", "postgres/db9"]);
    assert_eq!(exit.code, Some(1));
    assert_eq!(exit.stderr, "error: no backend postgres/db9 in the file");
    let launch = Launch::new(FILE);
    let exit = launch.run_to_exit(&["simulate", "-c", "lb.toml", "--log", "none.jsonl"]);
    assert_eq!(exit.code, Some(2));
    assert!(
        exit.stderr.starts_with("error: none.jsonl: No such file"),
        "{exit:?}"
    );
    let exit = launch.run_to_exit(&["simulate", "-c", "lb.toml", "--log", "."]);
    assert_eq!(exit.code, Some(2));
    assert!(
        exit.stderr.starts_with("error: .: Is a directory"),
        "{exit:?}"
    );
    let faulty = Launch::new("[pool.web]\nblance = 1\n");
    let exit = faulty.run_to_exit(&["simulate", "-c", "lb.toml", "--log", "none.jsonl"]);
    assert_eq!(exit.code, Some(2));
    assert!(exit.stderr.contains("lb.toml:2:1: "), "{exit:?}");
}

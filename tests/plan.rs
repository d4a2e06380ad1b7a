//! `isobar plan` and `isobar reload`, and what happens then: the plan is what comes.

mod support;

use serde_json::{Value, json};
use support::{Backend, Exit, Isobar, Launch, Stream, request, web};

/// `isobar` with the endpoint of `isobar` and these arguments, in a directory with `text` as
/// its `lb.toml`.
#[track_caller]
fn run_with(isobar: &Isobar, text: &str, args: &[&str]) -> Exit {
    let address = isobar.admin().to_string();
    Launch::new(text).run_to_exit(&[args, &["--admin", &address]].concat())
}

#[track_caller]
fn run(isobar: &Isobar, args: &[&str]) -> Exit {
    run_with(isobar, "", args)
}

fn file(settings: &str, backends: &[Backend]) -> String {
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    web(settings, &entries)
}

fn three() -> Vec<Backend> {
    ["b1", "b2", "b3"].into_iter().map(Backend::named).collect()
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// A plan for this text.
#[track_caller]
fn plan(isobar: &Isobar, text: &str) -> Value {
    let headers = "Content-Type: application/toml\r\n";
    let answer = request(
        isobar.admin(),
        "POST",
        "/plan",
        headers,
        &isobar.completed(text),
    );
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// Without the instant, which differs.
fn timeless(mut plan: Value) -> Value {
    let fields = plan.as_object_mut().expect("an object");
    fields.remove("at");
    plan
}

#[test]
fn a_plan_changes_nothing_and_the_reload_does_just_that() {
    let backends = three();
    let isobar = Isobar::start(&file("", &backends[..2]));
    isobar.expect_removal();
    let stays: Vec<_> = (0..4).map(|_| isobar.stay("web").0).collect();
    isobar.set("web/b2", r#"{"weight": 3}"#);
    let text = file("drain_timeout = \"60s\"", &backends[1..]);
    let before = isobar.get("/config").body;
    let planned = plan(&isobar, &text);
    assert_eq!(isobar.get("/config").body, before);
    assert_eq!(isobar.count("/config/generation"), 1);
    assert_eq!(planned["changes"], true);
    assert_eq!(planned["faults"], json!([]));
    let pool = &planned["pools"][0];
    let backends: Vec<_> = pool["backends"]
        .as_array()
        .expect("a list")
        .iter()
        .collect();
    let of = |name: &str| {
        backends
            .iter()
            .find(|b| b["name"] == name)
            .expect("a backend")
    };
    assert_eq!(of("b1")["change"], "removed");
    assert_eq!(of("b1")["connections"]["active"], 2);
    assert_eq!(of("b1")["connections"]["fate"], "drained");
    assert_eq!(of("b3")["change"], "added");
    assert_eq!(planned["runtime_changes"]["kept"][0]["field"], "weight");
    assert_eq!(planned["connections"]["active"], 4);
    let done = isobar.reload_to(&text);
    assert_eq!(timeless(done["plan"].clone()), timeless(planned));
    assert_eq!(isobar.stat("/pools/web/backends/b2/weight"), 3);
    assert_eq!(plan(&isobar, &text)["changes"], false);
    stays.iter().for_each(leave);
}

/// The shares of hash keys that the plan names are those of real clients.
#[test]
fn the_keys_that_move_are_those_that_the_plan_names() {
    let backends = three();
    let hashed = |backends: &[Backend]| {
        file(
            "balance = \"consistent-hash\"\n[pool.web.hash]\nkey = \"client-ip\"",
            backends,
        )
    };
    let isobar = Isobar::start(&hashed(&backends[..2]));
    let clients: Vec<_> = (1..=60).map(|n| format!("127.0.1.{n}")).collect();
    let homes = || -> Vec<String> {
        let visit = |client: &String| {
            let stream = isobar.connect_from(client, "web");
            let name = stream.read_line();
            leave(&stream);
            name
        };
        clients.iter().map(visit).collect()
    };
    let before = homes();
    let planned = plan(&isobar, &hashed(&backends));
    let share = planned["pools"][0]["hash_keys"]["share"]
        .as_f64()
        .expect("a share");
    assert!((share - 1.0 / 3.0).abs() < 1e-9, "{share}");
    isobar.reload_to(&hashed(&backends));
    let after = homes();
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(one, other)| one != other);
    let moved: Vec<_> = moved.map(|(_, to)| to.as_str()).collect();
    assert!(moved.iter().all(|to| *to == "b3"), "{moved:?}");
    assert!((10..=30).contains(&moved.len()), "{} of 60", moved.len());
}

#[test]
fn the_exit_code_says_whether_something_would_change() {
    let backends = three();
    let same = file("", &backends[..2]);
    let other = file("", &backends);
    let isobar = Isobar::start(&same);
    let exit = run(&isobar, &["plan"]);
    assert_eq!(
        (exit.code, &*exit.stdout, &*exit.stderr),
        (Some(0), "nothing to change", "")
    );
    let admin = "[admin]\nbind = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n";
    let exit = run_with(
        &isobar,
        &(other.clone() + admin),
        &["plan", "-c", "lb.toml"],
    );
    assert_eq!(
        (exit.code, &*exit.stderr),
        (Some(10), ""),
        "{}",
        exit.stdout
    );
    assert!(exit.stdout.contains("+ b3"), "{}", exit.stdout);
    assert!(
        exit.stdout.contains("1 added, 0 changed, 0 removed"),
        "{}",
        exit.stdout
    );
    let exit = run_with(
        &isobar,
        &(other.clone() + admin),
        &["plan", "-c", "lb.toml", "--json"],
    );
    assert_eq!(exit.code, Some(10));
    let shown: Value = serde_json::from_str(&exit.stdout).expect("JSON");
    assert_eq!((&shown["changes"], shown.get("text")), (&json!(true), None));
    isobar.rewrite(&other);
    assert_eq!(run(&isobar, &["plan"]).code, Some(10));
    let nobody = Launch::new("").run_to_exit(&["plan", "--admin", "127.0.0.1:1"]);
    assert_eq!(nobody.code, Some(3));
}

#[test]
fn a_faulty_file_is_told_with_its_place_and_exit_code_2() {
    let backends = three();
    let isobar = Isobar::start(&file("", &backends));
    let faulty = "[admin]\nbind = \"127.0.0.1:0\"\n[pool.web]\nblance = 1\n";
    let exit = run_with(&isobar, faulty, &["plan", "-c", "lb.toml"]);
    assert_eq!((exit.code, &*exit.stdout), (Some(2), ""));
    assert!(
        exit.stderr.starts_with("lb.toml:4:1: unknown key"),
        "{}",
        exit.stderr
    );
    isobar.rewrite(faulty);
    for command in ["plan", "reload"] {
        let exit = run(&isobar, &[command]);
        assert_eq!((exit.code, &*exit.stdout), (Some(2), ""), "{command}");
        assert!(
            exit.stderr.starts_with("lb.toml:4:1: unknown key"),
            "{}",
            exit.stderr
        );
    }
}

/// What this machine would refuse is found without binding anything or making a file.
#[test]
fn faults_of_the_machine_are_foreseen() {
    let backends = three();
    let isobar = Isobar::start(&file("", &backends));
    let inodes = isobar.process().listening();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let busy = taken.local_addr().expect("an address").to_string();
    let bind = |bind: &str| {
        let listener = format!("[listener.other]\nbind = \"{bind}\"\npool = \"web\"\n");
        listener + &file("", &backends)
    };
    let planned = plan(&isobar, &bind(&busy));
    let fault = &planned["faults"][0];
    assert_eq!((&fault["line"], &fault["column"]), (&json!(2), &json!(8)));
    assert!(
        fault["message"].as_str().expect("text").contains("in use"),
        "{fault}"
    );
    let planned = plan(&isobar, &bind("unix:/nowhere/at/all.sock"));
    assert_eq!(
        planned["faults"].as_array().map(Vec::len),
        Some(1),
        "{planned}"
    );
    let fine = format!("unix:{}/new.sock", isobar.dir().display());
    assert_eq!(plan(&isobar, &bind(&fine))["faults"], json!([]));
    assert!(!isobar.dir().join("new.sock").exists());
    let checks = "[pool.web.health]\nkind = \"tls\"\nca = \"/nowhere/ca.pem\"\n";
    let planned = plan(&isobar, &file(checks, &backends));
    assert!(
        planned["faults"][0]["message"]
            .as_str()
            .expect("text")
            .contains("ca.pem")
    );
    assert_eq!(isobar.process().listening(), inodes);
}

#[test]
fn a_reload_prints_what_it_did_and_refuses_what_is_too_much() {
    let backends = three();
    let isobar = Isobar::start(&file("", &backends));
    isobar.expect_removal();
    isobar.rewrite(&file("", &backends[..1]));
    let exit = run(&isobar, &["reload", "--max-removed", "30%"]);
    assert_eq!(exit.code, Some(1), "{}", exit.stdout);
    assert!(
        exit.stderr.contains("66.7% of the backends of pool web"),
        "{}",
        exit.stderr
    );
    let exit = run(&isobar, &["reload", "--max-removed", "third"]);
    assert_eq!(exit.code, Some(2), "{}", exit.stdout);
    let exit = run(
        &isobar,
        &["reload", "--max-removed", "70%", "--max-dropped", "0"],
    );
    assert_eq!((exit.code, &*exit.stderr), (Some(0), ""));
    assert!(exit.stdout.contains("- b3"), "{}", exit.stdout);
    assert!(
        exit.stdout.ends_with("reloaded, this is generation 2"),
        "{}",
        exit.stdout
    );
    let exit = run(&isobar, &["reload"]);
    assert_eq!(exit.code, Some(0));
    assert_eq!(exit.stdout, "nothing to change\ngeneration 2 goes on");
    let exit = run(&isobar, &["reload", "--json"]);
    let shown: Value = serde_json::from_str(&exit.stdout).expect("JSON");
    assert_eq!(
        (&shown["applied"], &shown["generation"]),
        (&json!(false), &json!(2))
    );
}

/// A plan is no change: a read-only endpoint gives it, and reloads nothing.
#[test]
fn a_read_only_endpoint_plans_and_reloads_nothing() {
    let backends = three();
    let admin = "[admin]\nbind = \"127.0.0.1:0\"\nread_only = true\n";
    let isobar = Isobar::start(&(admin.to_owned() + &file("", &backends)));
    assert_eq!(isobar.ask("POST", "/plan", "").status, 200);
    assert_eq!(isobar.ask("POST", "/reload", "").status, 403);
    let json = request(
        isobar.admin(),
        "POST",
        "/plan",
        "Content-Type: application/json\r\n",
        "{}",
    );
    assert_eq!(json.status, 415);
}

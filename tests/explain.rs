//! What is explained against what then happens, through the real binary: by HTTP and by
//! `isobar explain`.

mod support;

use serde_json::{Value, json};
use support::{Backend, Exit, Isobar, Launch, Stream, wait_until, web};

/// `n` backends that say their names, `b1` first.
fn named(n: usize) -> Vec<Backend> {
    (1..=n).map(|i| Backend::named(&format!("b{i}"))).collect()
}

/// Pool `web` over `backends`, each with its own further keys.
fn started(settings: &str, backends: &[Backend], keys: &[&str]) -> Isobar {
    let keys = keys.iter().copied().chain(std::iter::repeat(""));
    let entries = backends.iter().zip(keys);
    let entries: Vec<_> = entries
        .map(|(backend, keys)| backend.entry_with(keys))
        .collect();
    Isobar::start(&web(settings, &entries))
}

/// What is explained of a client.
#[track_caller]
fn explained(isobar: &Isobar, client: &str) -> Value {
    let response = isobar.get(&format!("/explain?listener=web&client={client}"));
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()
}

/// The backend and the log's word of an outcome that is certain.
#[track_caller]
fn foretold(answer: &Value) -> (String, String) {
    let outcome = &answer["outcome"];
    assert_eq!(outcome["result"], "backend", "{answer:#}");
    (text(&outcome["backend"]), text(&outcome["pick"]))
}

#[track_caller]
fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}

/// What the access log says of a client that has left.
#[track_caller]
fn logged(isobar: &Isobar, client: &Stream) -> (String, String) {
    let line = isobar.wait_access(client.local().expect("an address"));
    (
        text(&line.fields()["backend"]),
        text(&line.fields()["pick"]),
    )
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// A client from `source` that is explained, comes, and stays.
#[track_caller]
fn come(isobar: &Isobar, source: &str) -> (Value, Stream) {
    let answer = explained(isobar, source);
    let client = isobar.connect_from(source, "web");
    client.read_line();
    (answer, client)
}

fn source(n: usize) -> String {
    format!("127.{}.{}.{}", n % 3, n % 50, 1 + n % 251)
}

/// The verdict and the sentence about one backend of the first pool.
#[track_caller]
fn about(answer: &Value, backend: &str) -> (String, String) {
    let backends = answer["pools"][0]["backends"].as_array().expect("backends");
    let found = backends.iter().find(|found| found["backend"] == backend);
    let found = found.unwrap_or_else(|| panic!("no {backend} in {answer:#}"));
    (text(&found["verdict"]), text(&found["why"]))
}

/// Hundreds of clients from as many addresses. They stay, so that counts and turns change
/// from one to the next.
#[test]
fn a_client_gets_the_backend_that_was_explained_and_the_log_agrees() {
    for (strategy, clients) in [
        ("consistent-hash", 300),
        ("round-robin", 60),
        ("least-connections", 60),
        ("first", 60),
    ] {
        let backends = named(4);
        let keys = [
            "weight = 3",
            "max_connections = 40",
            "weight = 2",
            "backup = true",
        ];
        let isobar = started(&format!("balance = \"{strategy}\""), &backends, &keys);
        let crowd: Vec<_> = (0..clients).map(|n| come(&isobar, &source(n))).collect();
        crowd.iter().for_each(|(_, client)| leave(client));
        for (answer, client) in &crowd {
            assert_eq!(logged(&isobar, client), foretold(answer), "{strategy}");
        }
    }
}

#[test]
fn explaining_leaves_no_trace() {
    let backends = named(3);
    let isobar = started("", &backends, &[]);
    assert_eq!(isobar.visit("web"), "b1");
    isobar.wait_ended("web", "client_closed", 1);
    let state = || {
        let stats = isobar.stats();
        ["listeners", "pools", "connections", "overrides"].map(|part| stats[part].clone())
    };
    let before = state();
    for n in 0..50 {
        assert_eq!(foretold(&explained(&isobar, &source(n))).0, "b2");
    }
    assert_eq!(state(), before);
    assert_eq!(isobar.visit("web"), "b2", "the turn was not taken");
}

/// A refused connect, and the next backend takes it: as the explanation says for this case.
#[test]
fn the_attempts_that_are_explained_are_those_that_are_made() {
    let backends = [
        Backend::refusing("b1"),
        Backend::refusing("b2"),
        Backend::named("b3"),
    ];
    let isobar = started("balance = \"first\"", &backends, &[]);
    let answer = explained(&isobar, "127.0.0.1");
    let attempts = answer["pools"][0]["attempts"].as_array().expect("attempts");
    let names: Vec<_> = attempts
        .iter()
        .map(|attempt| text(&attempt["backend"]))
        .collect();
    assert_eq!(names, ["b1", "b2", "b3"]);
    let client = isobar.connect("web");
    assert_eq!(client.read_line(), "b3");
    leave(&client);
    let last = &attempts[2];
    assert_eq!(
        logged(&isobar, &client),
        (text(&last["backend"]), text(&last["pick"]))
    );
    assert_eq!(last["pick"], "retry3");
}

/// One after the other cannot take it any more, each for a reason of its own.
#[test]
fn every_backend_that_cannot_take_it_has_its_reason() {
    let mut backends = named(5);
    backends.push(Backend::refusing("b6"));
    let keys = ["", "weight = 0", "max_connections = 1", "", "backup = true"];
    let settings = "balance = \"first\"\n[pool.web.health]\ninterval = \"100ms\"\n";
    let isobar = started(settings, &backends, &keys);
    isobar.wait_state("web", "b6", "down");
    isobar.set("web/b1", r#"{"state": "drain"}"#);
    let full = isobar.connect("web");
    assert_eq!(full.read_line(), "b3");
    let answer = explained(&isobar, "127.0.0.1");
    assert_eq!(
        about(&answer, "b1"),
        ("state".into(), "draining: set to drain".into())
    );
    assert_eq!(
        about(&answer, "b2"),
        ("weight".into(), "weight 0: takes no new connections".into())
    );
    assert_eq!(
        about(&answer, "b3"),
        ("limit".into(), "at its limit of 1 connections".into())
    );
    assert_eq!(
        about(&answer, "b4"),
        ("candidate".into(), "chosen: no other can take it".into())
    );
    assert_eq!(
        about(&answer, "b5"),
        ("spare".into(), "kept for when no other can take it".into())
    );
    let (verdict, why) = about(&answer, "b6");
    assert_eq!(verdict, "state");
    assert!(
        why.starts_with("down: ") && why.contains("refused"),
        "{why}"
    );
    assert_eq!(foretold(&answer), ("b4".into(), "first".into()));

    isobar.set("web/b4", r#"{"state": "maintenance"}"#);
    let (answer, client) = come(&isobar, "127.0.0.1");
    assert_eq!(
        about(&answer, "b4"),
        ("state".into(), "maintenance: set to maintenance".into())
    );
    leave(&client);
    assert_eq!(logged(&isobar, &client), foretold(&answer));
    assert_eq!(foretold(&answer), ("b5".into(), "backup".into()));
    leave(&full);
}

/// All are down: the pool says whether its clients wait or try.
#[test]
fn with_every_backend_down_the_explanation_says_what_the_pool_does() {
    let health = "[pool.web.health]\ninterval = \"100ms\"\nfast_interval = \"100ms\"\n";
    for (settings, expected) in [
        (
            "",
            json!({"result": "held", "pool": "web", "pick": "held", "reason": null}),
        ),
        (
            "hold.max = 0",
            json!({"result": "reset", "pool": "web", "pick": null, "reason": "no_backend"}),
        ),
        (
            "when_all_down = \"try\"",
            json!({"result": "backend", "pool": "web", "pick": "try", "reason": null}),
        ),
    ] {
        let isobar = started(
            &format!("{settings}\n{health}"),
            &[Backend::refusing("b1")],
            &[],
        );
        isobar.wait_state("web", "b1", "down");
        let outcome = explained(&isobar, "127.0.0.1")["outcome"].take();
        for (field, value) in expected.as_object().expect("an object") {
            assert_eq!(outcome[field], *value, "{settings}: {outcome}");
        }
    }
}

#[test]
fn a_fallback_is_a_step_of_its_own() {
    let backends = named(2);
    let isobar = Isobar::start(&format!(
        "{}\n[pool.spare]\nbackends = [{}]\nhealth.kind = \"none\"\n",
        web(
            "fallback = \"spare\"",
            &[backends[0].entry_with("max_connections = 1")]
        ),
        backends[1].entry()
    ));
    let first = explained(&isobar, "127.0.0.1");
    assert_eq!(first["if_all_fail"]["result"], "fallback");
    assert_eq!(first["if_all_fail"]["pool"], "spare");
    let (staying, _) = isobar.stay("web");
    let (answer, client) = come(&isobar, "127.0.0.1");
    let pools: Vec<_> = answer["pools"]
        .as_array()
        .expect("pools")
        .iter()
        .map(|pool| text(&pool["pool"]))
        .collect();
    assert_eq!(pools, ["web", "spare"]);
    assert_eq!(answer["outcome"]["pool"], "spare");
    leave(&client);
    assert_eq!(logged(&isobar, &client), foretold(&answer));
    leave(&staying);
}

#[test]
fn a_paused_pool_and_a_queue_are_told() {
    let backends = named(1);
    let isobar = started("", &backends, &["max_connections = 1"]);
    isobar.tell("POST", "/pools/web/pause", "");
    let answer = explained(&isobar, "127.0.0.1");
    assert_eq!(answer["pools"][0]["paused"], true);
    assert_eq!(answer["outcome"]["result"], "held");
    assert_eq!(about(&answer, "b1").0, "not_asked");
    isobar.tell("POST", "/pools/web/resume", "");
    let (staying, _) = isobar.stay("web");
    let held = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    let answer = explained(&isobar, "127.0.0.1");
    assert_eq!(answer["outcome"]["ahead"], 1);
    assert_eq!(answer["pools"][0]["queues"], true);
    leave(&staying);
    held.read_line();
    leave(&held);
}

/// Of two candidates both are always drawn, so the pair of the log is that of the explanation.
#[test]
fn what_is_drawn_follows_from_the_candidates_that_were_explained() {
    for strategy in ["random-two", "least-latency"] {
        let backends = named(2);
        let isobar = started(
            &format!("balance = \"{strategy}\"\nlatency.of = \"connect\""),
            &backends,
            &[],
        );
        let crowd: Vec<_> = (0..60).map(|n| come(&isobar, &source(n))).collect();
        crowd.iter().for_each(|(_, client)| leave(client));
        let mut certain = 0;
        for (answer, client) in &crowd {
            let (backend, pick) = logged(&isobar, client);
            let found = answer["pools"][0]["backends"].as_array().expect("backends");
            let winner = found.iter().find(|found| found["backend"] == *backend);
            let loser = found.iter().find(|found| found["backend"] != *backend);
            let (winner, loser) = (winner.expect("a candidate"), loser.expect("another"));
            let score = |found: &Value| found["score"]["value"].as_f64().expect("a score");
            assert!(
                score(winner) <= score(loser) * (1.0 + 1e-3),
                "{strategy}: {answer:#}"
            );
            assert!(winner["chance"].as_f64() > Some(0.0));
            if strategy == "random-two" {
                let pair = format!("two:{}<{}", winner["active"], loser["active"]);
                assert_eq!(pick, pair);
            }
            if answer["outcome"]["result"] == "backend" {
                certain += 1;
                assert_eq!((backend, pick), foretold(answer));
            }
        }
        assert!(certain > 0, "{strategy}: no two were ever different");
    }
}

#[test]
fn a_key_with_a_port_needs_one() {
    let settings = "balance = \"consistent-hash\"\nhash.key = \"client-ip-port\"";
    let backends = named(3);
    let isobar = started(settings, &backends, &["weight = 2"]);
    let answer = explained(&isobar, "127.0.0.1");
    assert_eq!(answer["outcome"]["result"], "drawn");
    assert_eq!(
        answer["pools"][0]["key"],
        json!({"of": "client-ip-port", "hash": null})
    );
    assert_eq!(answer["pools"][0]["backends"][0]["chance"], 0.5);
    assert!(text_of_note(&answer).contains("any port is assumed"));
    for _ in 0..20 {
        let client = isobar.connect("web");
        let name = client.read_line();
        leave(&client);
        let port = client.local().expect("an address").port();
        let (backend, pick) = foretold(&explained(&isobar, &format!("127.0.0.1&port={port}")));
        assert_eq!((&*backend, &*pick), (&*name, "hash"));
    }
}

/// Who comes now waits in the accept queue; what becomes of it after that is told all the same.
#[test]
fn a_listener_at_its_limit_is_told() {
    let backends = named(1);
    let text = web("", &[backends[0].entry()]);
    let isobar =
        Isobar::start(&text.replace("pool = \"web\"", "pool = \"web\"\nmax_connections = 1"));
    let answer = explained(&isobar, "127.0.0.1");
    assert_eq!(answer["listener"]["accepting"], true);
    assert_eq!(answer["notes"], json!([]));
    let (staying, _) = isobar.stay("web");
    let waiting = isobar.connect("web");
    wait_until("the limit was reached", || {
        isobar.stat("/listeners/web/accepting") == false
    });
    let answer = explained(&isobar, "127.0.0.1");
    assert_eq!(answer["listener"]["accepting"], false);
    assert!(
        text_of_note(&answer).contains("listener web is at a limit"),
        "{answer}"
    );
    assert_eq!(foretold(&answer).0, "b1");
    leave(&staying);
    waiting.read_line();
    leave(&waiting);
}

#[track_caller]
fn text_of_note(answer: &Value) -> String {
    text(&answer["notes"][0])
}

#[test]
fn a_listener_without_a_pool_rejects() {
    let text = "[listener.web]\nbind = \"127.0.0.1:0\"\n[pool.p]\nbackends = [\"127.0.0.1:1\"]\nhealth.kind = \"none\"\n";
    let isobar = Isobar::start(text);
    let answer = explained(&isobar, "127.0.0.1");
    assert_eq!(answer["outcome"]["result"], "rejected");
    assert_eq!(answer["outcome"]["reason"], "no_route");
    assert_eq!(answer["pools"], json!([]));
}

#[test]
fn what_cannot_be_explained_is_refused_with_the_reason() {
    let isobar = started("", &named(1), &[]);
    for (query, status, reason) in [
        ("listener=wbe&client=::1", 404, "no listener wbe"),
        ("client=::1", 400, "listener is missing"),
        ("listener=web", 400, "client is missing"),
        (
            "listener=web&client=example.com",
            400,
            "client: expected an IP address, or unix",
        ),
        (
            "listener=web&client=::1&port=0",
            400,
            "port: expected a number from 1 to 65535",
        ),
    ] {
        let response = isobar.get(&format!("/explain?{query}"));
        assert_eq!(response.status, status, "{query}");
        assert_eq!(response.json(), json!({"error": reason}));
    }
    assert_eq!(
        isobar
            .ask("POST", "/explain?listener=web&client=::1", "")
            .status,
        405
    );
}

/// `isobar explain` with the endpoint of `isobar` and these arguments.
#[track_caller]
fn run(isobar: &Isobar, args: &[&str]) -> Exit {
    let address = isobar.admin().to_string();
    let args = [&["explain"], args, &["--admin", &address]].concat();
    Launch::new("").run_to_exit(&args)
}

#[test]
fn the_command_tells_the_story_and_the_log_word() {
    let backends = named(2);
    let isobar = started("balance = \"least-connections\"", &backends, &[]);
    let (staying, name) = isobar.stay("web");
    assert_eq!(name, "b1");
    let told = run(
        &isobar,
        &[
            "--listener",
            "web",
            "--client",
            "10.0.0.9",
            "--sni",
            "a.example",
        ],
    );
    assert_eq!((told.code, &*told.stderr), (Some(0), ""));
    let address = backends[1].address();
    assert_eq!(
        told.stdout,
        format!(
            "client 10.0.0.9, listener web: no routes, pool web\n\
             \n\
             pool web: least-connections, 2 backends, 2 usable\n\
             \x20 fewest connections for its weight; the tied take turns\n\
             \x20 BACKEND  STATE  COMPARED                 WHY\n\
             \x20 b1       up     1 active / weight 1 = 1  attempt 2, if those before fail\n\
             \x20 b2       up     0 active / weight 1 = 0  chosen: fewest connections for its weight\n\
             \n\
             -> b2 ({address}), logged as pick=least:0<1\n\
             \x20  if every attempt fails: held in pool web, for at most 10s\n\
             \x20  note: the ClientHello of this client is not read: no route that could take it, and no hash key, depends on it"
        )
    );
    let json = run(
        &isobar,
        &["--listener", "web", "--client", "10.0.0.9", "--json"],
    );
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json, explained(&isobar, "10.0.0.9"));
    leave(&staying);
}

#[test]
fn the_exit_code_says_what_was_wrong() {
    let isobar = started("", &named(1), &[]);
    let unknown = run(&isobar, &["--listener", "wbe", "--client", "::1"]);
    assert_eq!(
        (unknown.code, &*unknown.stderr),
        (Some(1), "error: no listener wbe")
    );
    for wrong in [
        &["--client", "::1"][..],
        &["--listener", "web"],
        &["--listener", "web", "--client", "example.com"],
        &["--listener", "web", "--client", "::1", "--port", "0"],
        &["--listener", "web", "--client", "unix", "--port", "1"],
    ] {
        assert_eq!(run(&isobar, wrong).code, Some(2), "{wrong:?}");
    }
    let nobody = [
        "explain",
        "--listener",
        "web",
        "--client",
        "::1",
        "--admin",
        "127.0.0.1:1",
    ];
    assert_eq!(Launch::new("").run_to_exit(&nobody).code, Some(3));
}

use super::*;

const NOW: &str = "2026-01-01T00:02:00Z";

fn told(answer: &str, colours: bool) -> String {
    let answer: Answer = serde_json::from_str(answer).expect("an answer");
    story(&answer, NOW.parse().expect("a time"), colours)
}

const LEAST: &str = r#"{
    "client": {"address": "10.0.0.9", "port": null, "sni": null},
    "listener": {"listener": "web"}, "pool": "web",
    "pools": [{"pool": "web", "balance": "least-connections", "rule": "fewest", "held": 0,
        "backends": [
            {"backend": "b1", "state": "up", "weight": 1, "active": 3, "verdict": "candidate",
             "score": {"value": 3.0}, "chance": 1.0, "attempt": 1, "why": "chosen: fewest"},
            {"backend": "b2", "state": "up", "weight": 2, "active": 7, "verdict": "candidate",
             "score": {"value": 3.5}, "chance": 0.0, "attempt": 2, "why": "attempt 2"},
            {"backend": "b3", "state": "down", "since": "2026-01-01T00:00:00Z", "weight": 1,
             "verdict": "state", "why": "down: connection refused"}]}],
    "outcome": {"result": "backend", "pool": "web", "backend": "b1",
                "address": "127.0.0.1:7001", "pick": "least:3<6"},
    "if_all_fail": {"result": "held", "pool": "web", "ahead": 0, "hold_timeout_seconds": 10.0},
    "notes": ["an SNI has no effect"]}"#;

#[test]
fn a_story_goes_from_the_client_to_the_backend() {
    assert_eq!(
        told(LEAST, false),
        "client 10.0.0.9, listener web: no routes, pool web\n\
         \n\
         pool web: least-connections, 3 backends, 2 usable\n\
         \x20 fewest\n\
         \x20 BACKEND  STATE  COMPARED                   WHY\n\
         \x20 b1       up     3 active / weight 1 = 3    chosen: fewest\n\
         \x20 b2       up     7 active / weight 2 = 3.5  attempt 2\n\
         \x20 b3       down   -                          down: connection refused, for 2m\n\
         \n\
         -> b1 (127.0.0.1:7001), logged as pick=least:3<6\n\
         \x20  if every attempt fails: held in pool web, for at most 10s\n\
         \x20  note: an SNI has no effect\n"
    );
}

#[test]
fn who_is_not_let_in_is_told_by_which_rule() {
    let answer = r#"{
        "client": {"address": "10.0.0.9", "port": 7, "sni": null},
        "listener": {"listener": "web"}, "pool": null, "pools": [],
        "admission": {"admitted": false, "reason": "ip_limit",
            "why": ["allowed by allow 10.0.0.0/8", "10.0.0.9 has 10 of 10 connections"]},
        "outcome": {"result": "rejected", "reason": "ip_limit"}, "if_all_fail": null}"#;
    assert_eq!(
        told(answer, false),
        "client 10.0.0.9 port 7, listener web: not let in\n\
         \x20 allowed by allow 10.0.0.0/8\n\
         \x20 10.0.0.9 has 10 of 10 connections\n\
         \n\
         -> rejected, counted as ip_limit\n"
    );
}

#[test]
fn a_terminal_sees_who_is_chosen_and_who_is_down_in_colours() {
    let text = told(LEAST, true);
    assert!(text.contains("\u{1b}[32mchosen: fewest\u{1b}[0m"), "{text}");
    assert!(text.contains("\u{1b}[31mdown\u{1b}[0m"), "{text}");
}

#[test]
fn every_ending_is_a_sentence() {
    let answer = |ending: &str| {
        format!(
            r#"{{"client": {{"address": "::1", "port": 7}}, "listener": {{"listener": "l"}},
           "pool": null, "outcome": {ending}}}"#
        )
    };
    for (json, text) in [
        (
            r#"{"result": "rejected", "reason": "no_route"}"#,
            "rejected, counted as no_route",
        ),
        (
            r#"{"result": "reset", "pool": "p", "reason": "hold_full"}"#,
            "reset, counted as hold_full",
        ),
        (
            r#"{"result": "held", "pool": "p", "ahead": 2}"#,
            "held in pool p behind 2, as long as it takes",
        ),
        (
            r#"{"result": "fallback", "pool": "p"}"#,
            "pool p takes it, if it can",
        ),
        (r#"{"result": "queued"}"#, "queued"),
    ] {
        let told = told(&answer(json), false);
        let expected =
            format!("client ::1 port 7, listener l: no routes and no pool\n\n-> {text}\n");
        assert_eq!(told, expected);
    }
}

#[test]
fn what_is_compared_can_be_followed() {
    let pool = |balance: &str, backend: &str| {
        let text = format!(r#"{{"pool": "p", "balance": "{balance}", "backends": [{backend}]}}"#);
        let pool: Pool = serde_json::from_str(&text).expect("a pool");
        compared(&pool.backends[0], &pool)
    };
    for (balance, backend, expected) in [
        (
            "round-robin",
            r#"{"weight": 2, "score": {"value": 0.25}}"#,
            "0.25 turns due, weight 2",
        ),
        (
            "least-connections",
            r#"{"weight": 2, "active": 4, "score": {"value": 2.0, "due": 0.5}}"#,
            "4 active / weight 2 = 2, 0.5 turns due",
        ),
        (
            "consistent-hash",
            r#"{"weight": 1, "score": {"value": 12.345678}}"#,
            "score 12.35, weight 1",
        ),
        (
            "least-latency",
            r#"{"weight": 1, "active": 3, "score": {"value": 0.04, "latency_seconds": 0.01, "sampled": true}}"#,
            "10ms x 4 / weight 1 = 40ms",
        ),
        (
            "least-latency",
            r#"{"weight": 1, "score": {"value": 0.01, "latency_seconds": 0.01, "sampled": false}}"#,
            "10ms (median) x 1 / weight 1 = 10ms",
        ),
        (
            "least-latency",
            r#"{"weight": 2, "score": {"value": 0.5, "sampled": false}}"#,
            "no sample x 1 / weight 2 = 0.5",
        ),
        ("first", r#"{"score": {"value": 3.0}}"#, "place 3"),
        ("first", r#"{"score": null}"#, "-"),
    ] {
        assert_eq!(pool(balance, backend), expected);
    }
}

//! What the tests of this command look at.

use jiff::Timestamp;

use super::app::App;
use super::data::Data;
use crate::cli::stats::Stats;

const STATS: &str = r#"{
  "version": "0.1.0", "pid": 4711, "uptime_seconds": 7500.5,
  "config": {"path": "lb.toml", "generation": 3},
  "connections": {"active": 12, "total": 345, "limit": 9000},
  "listeners": {"in": {"addresses": ["127.0.0.1:8080"], "pool": "web", "accepting": true,
     "connections": {"active": 12, "total": 345}, "rejected": {"denied": 3, "rate": 0},
     "bytes_in": 640, "bytes_out": 6400}},
  "pools": {
    "web": {"balance": "round-robin", "held": 2, "paused_until": null, "rebalancing": null,
     "connections": {"active": 12, "total": 340}, "bytes_in": 640, "bytes_out": 6400,
     "backends": {
       "oak": {"address": "127.0.0.1:7001", "state": "up", "weight": 2, "effective_weight": 2.0,
        "connections": {"active": 11, "total": 300, "limit": 50, "failed": 0},
        "bytes_in": 640, "bytes_out": 6400,
        "connect_seconds": {"p50": 0.0001, "p99": 0.0004},
        "health": {"kind": "tcp", "last_at": "2026-01-01T00:00:00Z", "last_ok": true,
          "latency_seconds": 0.0002, "since": "2025-12-31T22:00:00Z"}},
       "elm-2": {"address": "127.0.0.1:7002", "state": "down", "weight": 1, "effective_weight": 1.0,
        "backup": true, "connections": {"active": 1, "total": 45, "limit": 0, "failed": 4},
        "health": {"kind": "tcp", "last_at": "2026-01-01T00:00:00Z", "last_ok": false,
          "last_error": "connect: connection refused", "since": "2025-12-31T23:59:48Z",
          "history": [{"at": "2025-12-31T23:59:48Z", "from": "up", "to": "down",
            "cause": "connect: connection refused", "by": "checks"}]}}}},
    "spare": {"balance": "first", "held": 0, "connections": {"active": 0, "total": 0},
     "backends": {}}}
}"#;

/// Two pools, one with a backend that is up and one that is down.
pub(super) fn stats() -> Stats {
    serde_json::from_str(STATS).expect("statistics")
}

/// When the answers of these tests come.
pub(super) fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

pub(super) fn data() -> Data {
    Data::new("http://127.0.0.1:9900".to_owned(), stats(), now())
}

pub(super) fn app() -> App {
    App::new(data(), now(), false)
}

/// With a pool of many backends: `b000` and so on, every tenth of them down.
pub(super) fn large(n: usize) -> App {
    let backend = |i: usize| {
        let state = if i % 10 == 9 { "down" } else { "up" };
        format!(
            r#""b{i:03}": {{"address": "10.0.0.1:{}", "state": "{state}", "weight": 1,
                "connections": {{"active": {i}}}}}"#,
            i + 1
        )
    };
    let backends: Vec<_> = (0..n).map(backend).collect();
    let old = r#""backends": {}"#;
    let new = format!(r#""backends": {{{}}}"#, backends.join(","));
    let stats = serde_json::from_str(&STATS.replace(old, &new)).expect("statistics");
    App::new(Data::new("here".to_owned(), stats, now()), now(), false)
}

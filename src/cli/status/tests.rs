//! The tables of a fixed `/stats` at a fixed time.

use super::*;

/// The example of the contract, with a second backend that is down.
const STATS: &str = r#"{
  "version": "0.1.0", "pid": 4711, "started_at": "2026-01-01T00:00:00Z", "uptime_seconds": 12.5,
  "config": {"path": "lb.toml", "generation": 1, "loaded_at": "2026-01-01T00:00:00Z",
             "last_reload": {"ok": true, "at": null, "error": null, "pending_restart": []}},
  "connections": {"active": 2, "total": 10, "limit": 9000},
  "listeners": {"web": {"addresses": ["127.0.0.1:8080", "[::1]:8080"], "pool": "web",
     "accepting": true, "connections": {"active": 2, "total": 10}, "ended": {"client_closed": 5}}},
  "pools": {"web": {"balance": "round-robin", "held": 0, "paused_until": null,
     "connections": {"active": 2, "total": 8},
     "backends": {
       "b1": {"address": "127.0.0.1:7001", "state": "up", "weight": 1, "backup": false,
        "connections": {"active": 1, "total": 5, "limit": 0, "failed": 0},
        "bytes_in": 320, "bytes_out": 32000,
        "connect_seconds": {"count": 5, "p50": 0.0001, "p90": 0.0002, "p99": 0.0004, "max": 0.0005},
        "health": {"kind": "tcp", "last_at": "2026-01-01T00:00:11Z", "last_ok": true,
                   "last_error": null, "latency_seconds": 0.0001, "since": "2026-01-01T00:00:02Z"}},
       "b2": {"address": "127.0.0.1:7002", "state": "down", "weight": 2, "backup": true,
        "connections": {"active": 0, "total": 3, "limit": 50, "failed": 4},
        "connect_seconds": {"count": 0, "p50": null, "p90": null, "p99": null, "max": null},
        "health": {"kind": "tcp", "last_at": "2026-01-01T00:00:10Z", "last_ok": false,
                   "last_error": "connect: connection refused", "since": null}}}}}
}"#;

fn stats() -> Stats {
    serde_json::from_str(STATS).expect("statistics")
}

fn view(stats: &Stats, colours: bool) -> View<'_> {
    let now = "2026-01-01T00:00:12Z".parse().expect("a time");
    View {
        stats,
        now,
        colours,
    }
}

#[test]
fn everything_is_a_line_and_three_tables() {
    let expected = "\
isobar 0.1.0, pid 4711, up 12s, 2 of 9000 connections, lb.toml (generation 1)

LISTENER  ADDRESS                     POOL  ACTIVE  TOTAL  ACCEPTING
web       127.0.0.1:8080, [::1]:8080  web        2     10  yes

POOL  BALANCE      HELD  ACTIVE  TOTAL  USABLE
web   round-robin     0       2      8     1/2

BACKEND  ADDRESS         STATE  SINCE      WEIGHT  ACTIVE/LIMIT  TOTAL  FAILED  CONNECT P50/P99  LAST CHECK
web/b1   127.0.0.1:7001  up       10s           1           1/-      5       0      100µs/400µs  passed in 100µs, 1s ago
web/b2   127.0.0.1:7002  down       -  2 (backup)          0/50      3       4                -  connect: connection refused, 2s ago
";
    assert_eq!(view(&stats(), false).everything(), expected);
}

#[test]
fn states_have_colours_on_a_terminal_alone() {
    let stats = stats();
    let coloured = view(&stats, true).everything();
    assert!(coloured.contains("\u{1b}[32mup\u{1b}[0m"));
    assert!(coloured.contains("\u{1b}[31mdown\u{1b}[0m"));
    assert!(!view(&stats, false).everything().contains('\u{1b}'));
}

#[test]
fn a_backend_is_shown_with_its_history() {
    let stats = stats();
    let backend =
        find(&stats.pools, "pool", "web").and_then(|p| find(&p.backends, "backend", "b1"));
    let shown = view(&stats, false).backend("web", "b1", backend.expect("b1"));
    assert!(
        shown.contains("\nbytes out           31.2 KiB\n"),
        "{shown}"
    );
    let history = serde_json::from_str(
        r#"{"history": [{"at": "2026-01-01T00:00:02Z", "from": "starting", "to": "up",
            "cause": "check passed", "check_seconds": 0.001, "by": "checks"}]}"#,
    );
    let shown = view(&stats, false).history(&history.expect("a history"));
    let expected = "
AT                    FROM      TO  BY      CHECK  CAUSE
2026-01-01T00:00:02Z  starting  up  checks    1ms  check passed
";
    assert_eq!(shown, expected);
}

/// Its rows, name and value.
fn rows(stats: &str) -> Vec<(String, String)> {
    let stats: Stats = serde_json::from_str(stats).expect("statistics");
    let backend =
        find(&stats.pools, "pool", "web").and_then(|p| find(&p.backends, "backend", "b1"));
    let shown = view(&stats, false).backend("web", "b1", backend.expect("b1"));
    let split = |line: &str| {
        let (name, value) = line.split_once("  ")?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    shown.lines().filter_map(split).collect()
}

#[test]
fn what_the_kernel_tells_of_a_backend_is_shown() {
    let told = r#""first_byte_seconds": {"count": 2, "p50": 0.002, "p90": 0.003, "p99": 0.003, "max": 0.003},
        "rtt_seconds": {"count": 9, "p50": 0.00008, "p90": 0.0001, "p99": 0.00015, "max": 0.01},
        "delivery_rate": {"count": 1, "p50": 131072.0, "p90": 131072.0, "p99": 131072.0, "max": 131072.0},
        "retransmitted": {"sent_bytes": 3145728, "retransmitted_bytes": 40960, "share": 0.0012},
        "health""#;
    let stats = STATS.replacen(r#""health""#, told, 1);
    let row = |stats: &str, name: &str| {
        let found = rows(stats).into_iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value)
    };
    let is = |name, value: &str| assert_eq!(row(&stats, name).as_deref(), Some(value));
    is("first byte p50/p99", "2ms/3ms");
    is("round trip p50/p99", "80µs/150µs");
    is("delivery rate p50", "128 KiB/s");
    is(
        "retransmitted",
        "0.12% of the last minute, 40 KiB of 3 MiB in all",
    );
    let little = stats.replace("0.0012", "0.00001");
    let little = row(&little, "retransmitted").expect("a row");
    assert!(little.starts_with("<0.01% of"), "{little}");
    let quiet = stats.replace("0.0012", "null");
    let quiet = row(&quiet, "retransmitted");
    assert_eq!(quiet.as_deref(), Some("40 KiB of 3 MiB in all"));
    // A Unix socket, or an older balancer.
    let none = r#""rtt_seconds": null, "delivery_rate": null, "retransmitted": null, "health""#;
    for stats in [STATS, &STATS.replacen(r#""health""#, none, 1)] {
        assert_eq!(row(stats, "round trip p50/p99"), None);
        assert_eq!(row(stats, "retransmitted"), None);
        assert_eq!(row(stats, "first byte p50/p99").as_deref(), Some("-"));
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let stats = stats();
    let failure = find(&stats.pools, "pool", "wbe").expect_err("no such pool");
    assert_eq!(failure.code, 1);
    assert_eq!(failure.message, "error: no pool \"wbe\"; there is web");
}

#[test]
fn a_paused_pool_and_a_removed_backend_are_told() {
    let text = STATS.replace("\"held\": 0", "\"held\": 3, \"paused\": true");
    let text = text.replace("\"state\": \"down\"", "\"state\": \"removed\"");
    let stats: Stats = serde_json::from_str(&text).expect("statistics");
    let shown = view(&stats, false).everything();
    assert!(shown.contains("  3 (paused)  "), "{shown}");
    assert!(shown.contains("  1/1\n"), "{shown}");
}

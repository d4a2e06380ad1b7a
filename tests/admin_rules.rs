//! The rules of the admin endpoint, from outside: who may ask for what, and what becomes of
//! requests that are slow, broken or hostile.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use isobar::net::Address;
use serde_json::Value;
use support::{Isobar, Launch, Response, get, request, scaled, send_raw, web};

const TOKEN: &str = "Authorization: Bearer s3cret\r\n";
const WRONG: &str = "Authorization: Bearer s3cre\r\n";

/// Listener `web` over a backend that nobody needs, and this `[admin]`.
fn with_admin(admin: &str) -> String {
    let backends = ["\"127.0.0.1:1\"".to_owned()];
    format!("{}\n[admin]\n{admin}\n", web("", &backends))
}

fn local() -> Isobar {
    Isobar::start(&web("", &["\"127.0.0.1:1\"".to_owned()]))
}

/// The sentence of a refusal.
#[track_caller]
fn error(response: &Response) -> String {
    assert_eq!(response.header("content-type"), Some("application/json"));
    let body = response.json();
    let fields = body.as_object().expect("an object");
    assert_eq!(fields.len(), 1, "{body}");
    fields["error"].as_str().expect("a sentence").to_owned()
}

fn raw(isobar: &Isobar, bytes: &[u8]) -> Response {
    send_raw(isobar.admin(), bytes).expect("an answer")
}

/// A client of its own patience: the endpoint's time-outs are tested with it.
fn dial(address: &Address) -> TcpStream {
    let stream = TcpStream::connect(address.to_string()).expect("it listens");
    let patience = scaled(Duration::from_secs(30));
    stream.set_read_timeout(Some(patience)).expect("a time-out");
    stream
}

#[test]
fn a_foreign_host_name_is_misdirected_but_for_probes() {
    let isobar = Isobar::start(&with_admin(
        "bind = \"127.0.0.1:0\"\nhosts = [\"LB.example.com\"]",
    ));
    let status = |path: &str, host: &str| isobar.get_with(path, &format!("Host: {host}\r\n"));
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "[::1]:9",
        "lb.EXAMPLE.com:80",
    ] {
        assert_eq!(status("/stats", host).status, 200, "{host}");
    }
    for host in ["evil.com", "localhost.evil.com:9900", "evil.com:80"] {
        let refused = status("/stats", host);
        assert_eq!(refused.status, 421, "{host}");
        error(&refused);
        assert_eq!(status("/", host).status, 421, "{host}");
        for path in ["/metrics", "/healthz", "/readyz"] {
            assert_eq!(status(path, host).status, 200, "{path} for {host}");
        }
    }
    let absolute =
        b"GET http://evil.com/stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(&isobar, absolute).status, 421);
    let none = b"GET /stats HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(&isobar, none).status, 400);
    assert_eq!(raw(&isobar, b"GET /stats HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn a_page_of_another_origin_is_refused() {
    let isobar = local();
    let own = format!("Host: {0}\r\nOrigin: http://{0}\r\n", isobar.admin());
    assert_eq!(isobar.get_with("/stats", &own).status, 200);
    for origin in ["http://evil.com", "null", "http://localhost:1"] {
        let headers = format!("Host: {}\r\nOrigin: {origin}\r\n", isobar.admin());
        let refused = isobar.get_with("/stats", &headers);
        assert_eq!(refused.status, 403, "{origin}");
        error(&refused);
        let change = request(isobar.admin(), "POST", "/reload", &headers, "");
        assert_eq!(change.status, 403, "{origin}");
    }
}

#[test]
fn changes_show_the_token_and_reads_of_this_machine_do_not() {
    let isobar = Isobar::start(&with_admin("bind = \"127.0.0.1:0\"\ntoken = \"s3cret\""));
    assert_eq!(isobar.get("/stats").status, 200);
    for (method, path) in [("POST", "/stats"), ("DELETE", "/nothing"), ("PUT", "/")] {
        for shown in ["", WRONG] {
            let refused = request(isobar.admin(), method, path, shown, "");
            assert_eq!(refused.status, 401, "{method} {path}");
            let scheme = refused.header("www-authenticate").expect("a scheme");
            assert!(scheme.starts_with("Bearer"), "{scheme}");
            assert_eq!(refused.header("allow"), None, "it tells what exists");
            error(&refused);
        }
        let known = request(isobar.admin(), method, path, TOKEN, "");
        assert!([404, 405].contains(&known.status), "{}", known.status);
    }
}

#[test]
fn a_network_address_shows_everybody_only_what_probes_need() {
    let text = with_admin("bind = \"0.0.0.0:0\"\ntoken = \"s3cret\"");
    let isobar = Launch::new(&text).token("s3cret").start();
    for path in ["/metrics", "/healthz", "/readyz", "/"] {
        assert_eq!(get(isobar.admin(), path, "").status, 200, "{path}");
        assert_eq!(
            request(isobar.admin(), "POST", path, "", "").status,
            401,
            "{path}"
        );
    }
    for path in [
        "/stats",
        "/config",
        "/connections",
        "/explain?listener=l&client=::1",
        "/nothing",
    ] {
        assert_eq!(get(isobar.admin(), path, "").status, 401, "{path}");
        assert_eq!(get(isobar.admin(), path, WRONG).status, 401, "{path}");
        let known = get(isobar.admin(), path, TOKEN).status;
        assert!([200, 404].contains(&known), "{path}: {known}");
    }
}

#[test]
fn a_network_address_without_token_refuses_and_says_so_once() {
    let mut isobar = Isobar::start(&with_admin("bind = \"0.0.0.0:0\""));
    let address = isobar.admin().clone();
    for path in ["/metrics", "/healthz", "/readyz", "/"] {
        assert_eq!(get(&address, path, "").status, 200, "{path}");
    }
    for (method, path) in [("GET", "/stats"), ("POST", "/reload"), ("POST", "/metrics")] {
        for shown in ["", TOKEN] {
            let refused = request(&address, method, path, shown, "");
            assert_eq!(refused.status, 403, "{method} {path}");
            error(&refused);
        }
    }
    // Its statistics, and with them the invariants, are not to be had.
    assert_eq!(isobar.stop().code(), Some(0));
    let lines = isobar.log().lines();
    let said = lines.iter().filter(|line| line.message().contains("token"));
    assert_eq!(said.count(), 1);
}

#[test]
fn a_read_only_endpoint_refuses_every_change() {
    let isobar = Isobar::start(&with_admin("bind = \"127.0.0.1:0\"\nread_only = true"));
    assert_eq!(isobar.get("/stats").status, 200);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let refused = request(isobar.admin(), method, "/reload", "", "");
        assert_eq!(refused.status, 403, "{method}");
        assert!(error(&refused).contains("read-only"));
    }
}

/// What only asks what a change would do is no change; who may ask it is the same.
#[test]
fn a_read_only_endpoint_answers_dry_runs() {
    let text = with_admin("bind = \"127.0.0.1:0\"\nread_only = true\ntoken = \"s3cret\"");
    let isobar = Launch::new(&text).token("s3cret").start();
    let kind = "Content-Type: application/json\r\n";
    let ask = |headers: &str, method: &str, path: &str, body: &str| {
        request(
            isobar.admin(),
            method,
            path,
            &format!("{kind}{headers}"),
            body,
        )
        .status
    };
    let dry = [
        ("DELETE", "/connections?pool=web&dry_run=true", "", 200),
        ("DELETE", "/connections/1?dry_run=true", "", 404),
        ("POST", "/pools/web/rebalance", r#"{"dry_run": true}"#, 200),
    ];
    for (method, path, body, status) in dry {
        assert_eq!(ask(TOKEN, method, path, body), status, "{method} {path}");
        assert_eq!(ask("", method, path, body), 401, "{method} {path}");
    }
    let real = [
        ("DELETE", "/connections?pool=web", ""),
        ("DELETE", "/connections?pool=web&dry_run=false", ""),
        (
            "DELETE",
            "/connections?pool=web&dry_run=true&dry_run=false",
            "",
        ),
        ("DELETE", "/connections/1", ""),
        ("DELETE", "/pools/web/backends/b1?dry_run=true", ""),
        ("POST", "/pools/web/rebalance", r#"{"dry_run": false}"#),
        ("POST", "/pools/web/rebalance", ""),
        ("DELETE", "/pools/web/rebalance", ""),
        ("DELETE", "/pools/web/rebalance?dry_run=true", ""),
        ("POST", "/reload?dry_run=true", ""),
    ];
    for (method, path, body) in real {
        assert_eq!(
            ask(TOKEN, method, path, body),
            403,
            "{method} {path} {body}"
        );
    }
}

#[test]
fn a_unix_socket_takes_any_host_and_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let isobar = Isobar::start(&with_admin("bind = \"unix:$DIR/admin.sock\""));
    let mode = std::fs::metadata(isobar.dir().join("admin.sock")).expect("a socket");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    assert_eq!(isobar.get_with("/stats", "Host: evil.com\r\n").status, 200);
    assert_eq!(
        isobar
            .get_with("/stats", "Origin: http://evil.com\r\n")
            .status,
        403
    );
}

#[test]
fn what_is_not_there_and_what_is_not_done_is_told_apart() {
    let isobar = local();
    for path in ["/nothing", "/stats/", "/pools/web", "/%", "/../etc/passwd"] {
        let missing = isobar.get(path);
        assert_eq!(missing.status, 404, "{path}");
        error(&missing);
    }
    for path in ["/stats", "/metrics", "/", "/pools/web/backends/x/history"] {
        for method in ["POST", "DELETE", "OPTIONS", "BREW"] {
            let refused = request(isobar.admin(), method, path, "", "");
            assert_eq!(refused.status, 405, "{method} {path}");
            assert_eq!(refused.header("allow"), Some("GET,HEAD"));
            error(&refused);
        }
    }
    let body = request(
        isobar.admin(),
        "POST",
        "/stats",
        "Content-Type: text/plain\r\n",
        "x",
    );
    assert_eq!(body.status, 415);
    error(&body);
    let huge = b"POST /stats HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n";
    assert_eq!(raw(&isobar, huge).status, 413);
}

#[test]
fn head_answers_like_get_without_a_body() {
    let isobar = local();
    for path in ["/stats", "/metrics", "/healthz", "/config", "/"] {
        let head = request(isobar.admin(), "HEAD", path, "", "");
        assert_eq!(head.status, 200, "{path}");
        assert_eq!(head.body, "", "{path}");
        let get = isobar.get(path);
        assert_eq!(head.header("content-type"), get.header("content-type"));
        assert_eq!(get.header("cache-control"), Some("no-store"));
        assert_eq!(get.header("x-content-type-options"), Some("nosniff"));
    }
    let policy = isobar.get("/");
    let policy = policy.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'"), "{policy}");
}

#[test]
fn broken_requests_get_a_refusal_or_a_close_and_never_a_panic() {
    let isobar = local();
    let long = "a".repeat(1 << 20);
    let many = (0..200).map(|n| format!("X{n}: 1\r\n")).collect::<String>();
    let cases = [
        ("garbage\r\n\r\n".to_owned(), 400),
        ("\u{0}\u{1}\r\n\r\n".to_owned(), 400),
        ("GET /stats\r\n\r\n".to_owned(), 400),
        (format!("GET /stats HTTP/1.1\r\nX: {long}\r\n\r\n"), 431),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), 431),
        (format!("GET /stats HTTP/1.1\r\n{many}\r\n"), 431),
        ("GET /stats HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n".to_owned(), 400),
        ("GET /connections?%ff=%& HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), 400),
        ("GET /pools/%ff/backends/x/history HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), 400),
    ];
    for (bytes, expected) in cases {
        let line = bytes[..bytes.len().min(60)].to_owned();
        assert_eq!(raw(&isobar, bytes.as_bytes()).status, expected, "{line}");
    }
    // HTTP/2 with prior knowledge is not spoken: closed without a word.
    assert!(send_raw(isobar.admin(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").is_err());
    assert_eq!(isobar.metric("isobar_panics_total", &[]), 0.0);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let isobar = local();
    let ask =
        |path: &str, last: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{last}\r\n");
    let paths = ["/healthz", "/nothing", "/healthz", "/connections"];
    let mut all: String = paths.iter().map(|path| ask(path, "")).collect();
    all.push_str(&ask("/readyz", "Connection: close\r\n"));
    let mut stream = dial(isobar.admin());
    stream.write_all(all.as_bytes()).expect("it reads");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("text");
    let statuses: Vec<_> = answers
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &answers[at + 9..at + 12])
        .collect();
    assert_eq!(statuses, ["200", "404", "200", "200", "200"]);
}

/// A body that never comes is not waited for: nobody reads it.
#[test]
fn a_body_that_does_not_come_holds_nothing_up() {
    let isobar = local();
    let mut stream = dial(isobar.admin());
    let half = b"POST /stats HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    stream.write_all(half).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

/// 1. Half requests, more than the endpoint has room for. 2. Others are answered at once.
/// 3. What is left of the half ones ends after ten seconds.
#[test]
fn half_requests_hold_nothing_up_and_end_after_ten_seconds() {
    let isobar = local();
    let started = Instant::now();
    let half = |_| {
        let mut stream = dial(isobar.admin());
        stream
            .write_all(b"GET /stats HTTP/1.1\r\nHost: loc")
            .expect("room in a buffer");
        stream
    };
    let mut streams: Vec<_> = (0..300).map(half).collect();
    for _ in 0..20 {
        assert_eq!(isobar.get("/stats").status, 200);
    }
    let mut last = streams.pop().expect("300 of them");
    let mut answer = Vec::new();
    // Closed, with or without a reset.
    let _ = last.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(8), "{took:?}");
    assert!(took < scaled(Duration::from_secs(25)), "{took:?}");
}

/// A client that asks for much and reads nothing does not keep others waiting.
#[test]
fn a_slow_reader_holds_nothing_up() {
    let backends: Vec<_> = (1..=1000).map(|n| format!("\"127.0.0.1:{n}\"")).collect();
    let isobar = Isobar::start(&web("", &backends));
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = dial(isobar.admin());
            let ask = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(ask).expect("it reads");
            stream
        })
        .collect();
    for _ in 0..5 {
        assert_eq!(isobar.get("/healthz").status, 200);
        let stats: Value = isobar.stats();
        let backends = stats["pools"]["web"]["backends"].as_object();
        assert_eq!(backends.map(serde_json::Map::len), Some(1000));
    }
    drop(slow);
}

/// Steps: ask, and say at once that nothing more will be asked, as `printf … | nc -N` does.
#[test]
fn a_client_that_has_nothing_more_to_ask_gets_its_answer() {
    let unix = Launch::new(&with_admin("bind = \"unix:$DIR/admin.sock\"")).start();
    for isobar in [local(), unix] {
        for path in ["/healthz", "/stats", "/metrics"] {
            let one = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let zero = format!("GET {path} HTTP/1.0\r\n\r\n");
            for (round, request) in [one, zero].iter().cycle().take(100).enumerate() {
                let stream = isobar.connect_to(isobar.admin());
                stream.write_and_fin(request.as_bytes());
                let (answer, _) = stream.read_to_end();
                let answer = String::from_utf8_lossy(&answer);
                assert!(
                    answer.starts_with("HTTP/1.") && answer.contains(" 200 OK\r\n"),
                    "{path}, round {round}: {answer:?}"
                );
            }
        }
    }
}

/// Steps: say nothing, or half of a request, then FIN. There is nothing to wait for.
#[test]
fn a_client_that_stops_before_it_has_asked_is_let_go_at_once() {
    let isobar = local();
    for said in ["", "GET /stats HTTP/1.1\r\nHost: loc"] {
        let begun = Instant::now();
        let stream = isobar.connect_to(isobar.admin());
        stream.write_and_fin(said.as_bytes());
        stream.read_to_end();
        assert!(begun.elapsed() < scaled(Duration::from_secs(5)), "{said:?}");
    }
}

#[test]
fn of_two_tokens_none_counts() {
    let isobar = Isobar::start(&with_admin("bind = \"127.0.0.1:0\"\ntoken = \"s3cret\""));
    for both in [format!("{TOKEN}{WRONG}"), format!("{WRONG}{TOKEN}")] {
        let refused = request(isobar.admin(), "POST", "/stats", &both, "");
        assert_eq!(refused.status, 400);
        error(&refused);
    }
}

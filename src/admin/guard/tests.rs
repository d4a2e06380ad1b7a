use axum::http::Request;

use super::*;

/// A request line with its headers, as the tables below write it.
fn head(line: &str, headers: &[(&str, &str)]) -> Parts {
    let mut words = line.split(' ');
    let (method, target) = (words.next().expect("GET"), words.next().expect("a target"));
    let version = match words.next() {
        Some("HTTP/1.0") => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let request = Request::builder()
        .method(method)
        .uri(target)
        .version(version);
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body(()).expect("a request").into_parts().0
}

fn guard(bind: &str, token: &str) -> Guard {
    let settings = config::Admin {
        bind: None,
        token: token.to_owned(),
        read_only: false,
        hosts: vec!["lb.example.com".to_owned()],
    };
    Guard::new(&settings, &bind.parse().expect("an address"))
}

fn status(guard: &Guard, line: &str, headers: &[(&str, &str)]) -> u16 {
    let checked = guard.check(&head(line, headers));
    checked.map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
}

const LOOPBACK: &str = "127.0.0.1:9900";
const NETWORK: &str = "0.0.0.0:9900";
const UNIX: &str = "unix:/run/admin.sock";

#[test]
fn only_names_that_an_attacker_cannot_own_are_answered() {
    let cases = [
        ("localhost", 200),
        ("LOCALHOST:9900", 200),
        ("localhost.", 200),
        ("localhost.localdomain:1", 200),
        ("app.localhost", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:9900", 200),
        ("192.0.2.7:80", 200),
        ("[::1]", 200),
        ("[::1]:9900", 200),
        ("lb.example.com", 200),
        ("LB.Example.Com:443", 200),
        ("evil.example.com", 421),
        ("localhost.evil.com", 421),
        ("evil.com:9900", 421),
        ("127.0.0.1.evil.com", 421),
        ("user@localhost", 421),
        ("[::1", 421),
        ("[evil.com]", 421),
        ("", 421),
        (":9900", 421),
    ];
    for (host, expected) in cases {
        let seen = status(&guard(LOOPBACK, ""), "GET /stats", &[("host", host)]);
        assert_eq!(seen, expected, "{host}");
        let shell = status(&guard(LOOPBACK, ""), "GET /", &[("host", host)]);
        assert_eq!(shell, expected, "the shell for {host}");
        for path in ["/metrics", "/healthz", "/readyz?pool=web"] {
            let seen = status(
                &guard(LOOPBACK, ""),
                &format!("GET {path}"),
                &[("host", host)],
            );
            assert_eq!(seen, 200, "{path} for {host}");
        }
        let seen = status(&guard(UNIX, ""), "GET /stats", &[("host", host)]);
        assert_eq!(seen, 200, "{host} on a Unix socket");
    }
}

#[test]
fn a_host_is_named_exactly_once() {
    let guard = guard(LOOPBACK, "");
    assert_eq!(status(&guard, "GET /stats", &[]), 400);
    assert_eq!(status(&guard, "GET /healthz", &[]), 400);
    assert_eq!(status(&guard, "GET /stats HTTP/1.0", &[]), 200);
    let twice = [("host", "localhost"), ("host", "localhost")];
    assert_eq!(status(&guard, "GET /stats", &twice), 400);
}

#[test]
fn an_absolute_target_counts_instead_of_the_host_header() {
    let guard = guard(LOOPBACK, "");
    let host = [("host", "localhost")];
    assert_eq!(status(&guard, "GET http://evil.com/stats", &host), 421);
    assert_eq!(status(&guard, "GET http://localhost/stats", &host), 200);
}

#[test]
fn a_page_of_another_origin_gets_nothing() {
    let cases = [
        ("localhost:9900", "http://localhost:9900", 200),
        ("localhost:9900", "HTTP://LOCALHOST:9900", 200),
        ("lb.example.com", "https://lb.example.com", 200),
        ("lb.example.com", "http://lb.example.com:80", 200),
        ("lb.example.com:443", "https://lb.example.com", 200),
        ("localhost:9900", "http://localhost:3000", 403),
        ("localhost:9900", "http://localhost", 403),
        ("localhost:9900", "http://evil.com", 403),
        ("localhost:9900", "null", 403),
        ("localhost:9900", "", 403),
    ];
    for (host, origin, expected) in cases {
        let headers = [("host", host), ("origin", origin)];
        for line in ["GET /stats", "POST /reload", "GET /metrics"] {
            let seen = status(&guard(LOOPBACK, ""), line, &headers);
            assert_eq!(seen, expected, "{line} of {host} for {origin}");
        }
    }
    let headers = [("host", "x"), ("origin", "http://evil.com")];
    assert_eq!(status(&guard(UNIX, ""), "POST /reload", &headers), 403);
}

#[test]
fn tokens_are_asked_for_where_they_must_be() {
    let host = ("host", "localhost");
    let (none, wrong, right) = ("", "Bearer nose", "Bearer s3cret");
    let cases = [
        // bind, token, line, [none shown, wrong, right]
        (LOOPBACK, "", "GET /stats", [200, 200, 200]),
        (LOOPBACK, "", "POST /reload", [200, 200, 200]),
        (LOOPBACK, "s3cret", "GET /stats", [200, 200, 200]),
        (LOOPBACK, "s3cret", "POST /reload", [401, 401, 200]),
        (LOOPBACK, "s3cret", "BREW /stats", [401, 401, 200]),
        (UNIX, "", "DELETE /connections/1", [200, 200, 200]),
        (UNIX, "s3cret", "GET /config", [200, 200, 200]),
        (UNIX, "s3cret", "DELETE /connections/1", [401, 401, 200]),
        (NETWORK, "s3cret", "GET /stats", [401, 401, 200]),
        (NETWORK, "s3cret", "HEAD /nothing", [401, 401, 200]),
        (NETWORK, "s3cret", "OPTIONS /stats", [401, 401, 200]),
        (NETWORK, "s3cret", "POST /reload", [401, 401, 200]),
        (NETWORK, "s3cret", "POST /metrics", [401, 401, 200]),
        (NETWORK, "s3cret", "GET /metrics", [200, 200, 200]),
        (NETWORK, "s3cret", "HEAD /healthz", [200, 200, 200]),
        (NETWORK, "s3cret", "GET /readyz?pool=web", [200, 200, 200]),
        (NETWORK, "s3cret", "GET /", [200, 200, 200]),
        (NETWORK, "s3cret", "POST /", [401, 401, 200]),
        (NETWORK, "", "GET /stats", [403, 403, 403]),
        (NETWORK, "", "POST /reload", [403, 403, 403]),
        (NETWORK, "", "GET /metrics", [200, 200, 200]),
        ("[::]:9900", "s3cret", "GET /stats", [401, 401, 200]),
        ("[::1]:9900", "s3cret", "GET /stats", [200, 200, 200]),
        ("192.0.2.1:9900", "s3cret", "GET /config", [401, 401, 200]),
    ];
    for (bind, token, line, expected) in cases {
        let guard = guard(bind, token);
        for (shown, expected) in [none, wrong, right].into_iter().zip(expected) {
            let headers = match shown {
                "" => vec![host],
                shown => vec![host, ("authorization", shown)],
            };
            let seen = status(&guard, line, &headers);
            assert_eq!(
                seen, expected,
                "{line} on {bind}, token {token:?}, shown {shown:?}"
            );
        }
    }
}

#[test]
fn a_token_is_shown_in_one_form_only() {
    let guard = guard(NETWORK, "s3cret");
    let cases = [
        ("Bearer s3cret", 200),
        ("bearer  s3cret", 200),
        ("Bearer s3cre", 401),
        ("Bearer s3crets", 401),
        ("Bearer S3CRET", 401),
        ("Bearer ", 401),
        ("Bearer", 401),
        ("s3cret", 401),
        ("Basic czNjcmV0", 401),
    ];
    for (shown, expected) in cases {
        let headers = [("host", "localhost"), ("authorization", shown)];
        assert_eq!(status(&guard, "GET /stats", &headers), expected, "{shown}");
    }
}

#[test]
fn a_read_only_endpoint_changes_nothing_and_tells_only_who_is_known() {
    let guard = Guard {
        read_only: true,
        ..guard(LOOPBACK, "s3cret")
    };
    let host = ("host", "localhost");
    let known = [host, ("authorization", "Bearer s3cret")];
    assert_eq!(status(&guard, "GET /stats", &[host]), 200);
    assert_eq!(status(&guard, "POST /reload", &[host]), 401);
    assert_eq!(status(&guard, "POST /reload", &known), 403);
}

#[test]
fn bodies_are_bounded_and_of_two_kinds() {
    const TEXT: &str = "text/plain";
    const TOML: &str = "application/toml";
    let cases = [
        // request line, length, type
        ("POST /plan", "5", TOML, 200),
        ("POST /plan", "5", "Application/JSON; charset=utf-8", 200),
        ("POST /plan", "0", TEXT, 200),
        ("POST /plan", "5", "", 415),
        ("POST /plan", "5", TEXT, 415),
        ("POST /plan", "chunked", "multipart/form-data", 415),
        ("PUT /plan", "5", "application/x-www-form-urlencoded", 415),
        ("POST /plan", "99999999", TOML, 413),
        ("GET /stats", "99999999", TEXT, 413),
        ("GET /stats", "5", TEXT, 200),
    ];
    for (line, length, kind, expected) in cases {
        let length = match length {
            "chunked" => ("transfer-encoding", length),
            length => ("content-length", length),
        };
        let headers = [("host", "localhost"), length, ("content-type", kind)];
        let seen = status(&guard(LOOPBACK, ""), line, &headers);
        assert_eq!(seen, expected, "{line} {headers:?}");
    }
    let bare = [("host", "localhost")];
    assert_eq!(status(&guard(LOOPBACK, ""), "POST /plan", &bare), 200);
}

/// Its name has no mode: whoever is on this machine reaches it.
#[test]
fn a_unix_socket_without_a_file_shows_all_and_changes_nothing_without_a_token() {
    let open = guard("unix:@isobar", "");
    assert_eq!(status(&open, "GET /stats", &[("host", "evil.com")]), 200);
    assert_eq!(
        status(&open, "PUT /pools/a/backends/b", &[("host", "x")]),
        403
    );
    let shut = guard("unix:@isobar", "t");
    let request = "POST /pools/a/pause";
    assert_eq!(status(&shut, request, &[("host", "x")]), 401);
    let shown = [("host", "x"), ("authorization", "Bearer t")];
    assert_eq!(status(&shut, request, &shown), 200);
    assert_eq!(status(&guard(UNIX, ""), request, &[("host", "x")]), 200);
}

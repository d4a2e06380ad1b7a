//! `GET /`: a page for people, of one piece.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

/// Nothing from anywhere, in nobody's frame; the style is part of the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = concat!(
    r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>isobar</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }
h1 small { font-weight: normal; font-size: 1rem }
dt { font-family: ui-monospace, monospace; margin-top: .75rem }
dd { margin: 0 }
</style>
</head>
<body>
<h1>isobar <small>"#,
    env!("CARGO_PKG_VERSION"),
    r#"</small></h1>
<dl>
<dt><a href="stats">/stats</a></dt><dd>listeners, pools and backends: states and counts, as JSON</dd>
<dt><a href="connections">/connections</a></dt><dd>who is connected now, oldest first</dd>
<dt><a href="config">/config</a></dt><dd>the configuration in force, every default written out</dd>
<dt><a href="metrics">/metrics</a></dt><dd>for Prometheus</dd>
<dt><a href="readyz">/readyz</a></dt><dd>whether traffic should come here</dd>
<dt><a href="healthz">/healthz</a></dt><dd>whether the process serves</dd>
</dl>
</body>
</html>
"#
);

/// The page.
pub(super) async fn index() -> Response {
    let policy = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (policy, Html(PAGE)).into_response()
}

//! What an embedded backend answers: HTTP to HTTP clients, a line to everybody else.

use std::convert::Infallible;
use std::io::{self, Cursor};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::backend::Identity;
use super::page;

/// What checks ask for; not counted.
pub(super) const HEALTH_PATH: &str = "/health";

/// Who has not said anything, or no more, for so long is no HTTP client.
const SILENCE: Duration = Duration::from_millis(500);
/// The longest request line that is recognised.
const MAX_LINE: usize = 8 * 1024;
/// For the rest of a request, and for the client to close after the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves one connection.
///
/// # Errors
/// The client is gone.
pub(super) async fn answer(
    stream: &mut TcpStream,
    identity: Identity,
    answered: &AtomicU64,
) -> io::Result<()> {
    let begun = first_line(stream).await?;
    if is_http(&begun) {
        http(stream, begun, identity, answered).await;
    } else {
        answered.fetch_add(1, Ordering::Relaxed);
        let line = format!("{}\n", identity.name);
        stream.write_all(line.as_bytes()).await?;
    }
    stream.shutdown().await?;
    // A socket that is closed with something unread resets, and the answer may be lost.
    let mut unread = tokio::io::sink();
    let unread = tokio::io::copy(stream, &mut unread);
    timeout(PATIENCE, unread).await?.map(drop)
}

/// What the client says up to the end of its first line, its first silence, or its end.
async fn first_line(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while line.len() < MAX_LINE && !line.contains(&b'\n') {
        match timeout(SILENCE, stream.read_buf(&mut line)).await {
            Ok(Ok(0)) | Err(_) => break,
            Ok(read) => read?,
        };
    }
    Ok(line)
}

/// Whether it begins with a request line of RFC 9112, section 3.
fn is_http(begun: &[u8]) -> bool {
    let line = begun.split(|&byte| byte == b'\n').next();
    let line = line.and_then(|line| line.strip_suffix(b"\r").or(Some(line)));
    let mut words = line.unwrap_or_default().split(|&byte| byte == b' ');
    let is_method = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_uppercase);
    words.next().is_some_and(is_method)
        && words.next().is_some_and(|target| !target.is_empty())
        && words.next().is_some_and(|v| v.starts_with(b"HTTP/1."))
}

async fn http(stream: &mut TcpStream, begun: Vec<u8>, identity: Identity, answered: &AtomicU64) {
    let (reader, writer) = stream.split();
    let stream = tokio::io::join(Cursor::new(begun).chain(reader), writer);
    let respond = |request: Request<Incoming>| {
        let response = respond(&request, identity, answered);
        std::future::ready(Ok::<_, Infallible>(response))
    };
    // Every request is a connection, so that each one is balanced. What does not parse after
    // all has its 400 by then.
    let _ = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service_fn(respond))
        .await;
}

fn respond(
    request: &Request<Incoming>,
    identity: Identity,
    answered: &AtomicU64,
) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let text = || format!("{}\n", identity.name);
    let (kind, body) = match request.uri().path() {
        HEALTH_PATH => (TEXT, text()),
        "/favicon.ico" => ("image/svg+xml", page::icon(identity)),
        _ => match (answered.fetch_add(1, Ordering::Relaxed), request) {
            (before, request) if wants_html(request) => {
                ("text/html; charset=utf-8", page::html(identity, before + 1))
            }
            _ => (TEXT, text()),
        },
    };
    let mut response = Response::new(Full::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn wants_html(request: &Request<Incoming>) -> bool {
    let accepted = request.headers().get_all(ACCEPT).into_iter();
    accepted
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("text/html"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_is_told_from_any_other() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.0\n",
            "POST /a HTTP/1.1",
        ] {
            assert!(is_http(line.as_bytes()), "{line}");
        }
        for line in [
            "",
            "hello\n",
            "GET /\n",
            "GET",
            "get / HTTP/1.1\n",
            "\u{16}\u{3}",
        ] {
            assert!(!is_http(line.as_bytes()), "{line}");
        }
    }
}

//! As much of an HTTP client as it takes to talk to the admin endpoint.

use std::io;
use std::sync::Arc;

use isobar::net::Address;
use serde_json::Value;

use super::stream::Stream;
use super::tally::Tally;

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// The header lines, as they came.
    pub head: String,
    pub body: String,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.body))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let response = Self {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        };
        let chunked = response.header("transfer-encoding").is_some();
        Some(if chunked {
            response.joined()?
        } else {
            response
        })
    }

    /// With the chunks of its body put together.
    fn joined(mut self) -> Option<Self> {
        let mut rest = self.body.as_str();
        let mut whole = String::new();
        loop {
            let (size, after) = rest.split_once("\r\n")?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            whole.push_str(after.get(..size)?);
            rest = after.get(size..)?.strip_prefix("\r\n")?;
        }
        self.body = whole;
        Some(self)
    }
}

/// `GET path`.
#[track_caller]
pub fn get(to: &Address, path: &str, headers: &str) -> Response {
    request(to, "GET", path, headers, "")
}

/// One request on a connection of its own. `headers` are whole lines, each with its CRLF; a
/// `Host` among them replaces the usual one.
#[track_caller]
pub fn request(to: &Address, method: &str, path: &str, headers: &str, body: &str) -> Response {
    let host = if headers.to_ascii_lowercase().contains("host:") {
        ""
    } else {
        "Host: localhost\r\n"
    };
    let length = match body.len() {
        0 => String::new(),
        n => format!("Content-Length: {n}\r\n"),
    };
    let text = format!(
        "{method} {path} HTTP/1.1\r\n{host}{headers}{length}Connection: close\r\n\r\n{body}"
    );
    send_raw(to, text.as_bytes()).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// Sends `bytes` and reads one response up to the end of the connection.
pub fn send_raw(to: &Address, bytes: &[u8]) -> io::Result<Response> {
    let stream = Stream::connect(to, &Arc::new(Tally::default()))?;
    // A server may answer and close before it has read everything.
    let _ = stream.try_write(bytes);
    let (answer, _) = stream.read_to_end();
    Response::parse(&answer).ok_or_else(|| {
        let start = answer[..answer.len().min(200)].escape_ascii();
        io::Error::other(format!("not a whole HTTP response: {start}"))
    })
}

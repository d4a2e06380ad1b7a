//! HTTP checks: one GET over HTTP/1.1, of whose answer only the head matters.
//!
//! A backend may answer before it has read the request, and reset the connection right behind
//! its answer; that answer counts. hyper alone would see bytes on an idle connection, or the
//! failed write first: [`Patient`] stands between.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::{ProbeError, SetupError};
use super::tcp::{Farewell, Stream};
use crate::net::Address;

/// Head of an answer in bytes, at most.
const MAX_HEAD: usize = 64 * 1024;

/// What is asked, and which answers pass.
pub(super) struct Question {
    path: Uri,
    host: Option<HeaderValue>,
    expected: Vec<RangeInclusive<u16>>,
}

impl Question {
    pub(super) fn new(
        path: &str,
        host: &str,
        expected: &[RangeInclusive<u16>],
    ) -> Result<Self, SetupError> {
        let target = path.parse::<Uri>().ok().filter(|_| path.starts_with('/'));
        let header = HeaderValue::from_str(host).map_err(|_| SetupError::Host(host.into()))?;
        Ok(Self {
            path: target.ok_or_else(|| SetupError::Path(path.into()))?,
            host: (!host.is_empty()).then_some(header),
            expected: expected.to_vec(),
        })
    }

    /// Asks over `stream`.
    pub(super) async fn ask(
        &self,
        stream: Stream,
        address: &Address,
    ) -> Result<Farewell, ProbeError> {
        let (mut sender, mut connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(Patient::new(stream)))
            .await
            .map_err(fault)?;
        let answer = tokio::select! {
            biased;
            answer = sender.send_request(self.request(address)) => answer.map_err(fault)?,
            never = drive(&mut connection) => match never {},
        };
        self.judge(answer.status())?;
        let stream = connection.into_parts().io.into_inner().stream;
        Ok(Farewell::after_peer(stream))
    }

    fn request(&self, address: &Address) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.path.clone();
        let agent = concat!("isobar/", env!("CARGO_PKG_VERSION"));
        let headers = request.headers_mut();
        headers.insert(HOST, self.host_for(address));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        request
    }

    /// The configured host, else the address; a Unix socket is `localhost`, as for curl.
    fn host_for(&self, address: &Address) -> HeaderValue {
        self.host.clone().unwrap_or_else(|| match address {
            Address::Ip(_) => {
                HeaderValue::try_from(address.to_string()).expect("an address is plain ASCII")
            }
            Address::Unix(_) => HeaderValue::from_static("localhost"),
        })
    }

    fn judge(&self, status: StatusCode) -> Result<(), ProbeError> {
        let got = status.as_u16();
        if self.expected.iter().any(|range| range.contains(&got)) {
            return Ok(());
        }
        let expected = written(&self.expected);
        Err(ProbeError::Status { got, expected })
    }
}

/// The form of the file: `200,204,300-399`.
fn written(ranges: &[RangeInclusive<u16>]) -> String {
    let mut text = String::new();
    for range in ranges {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{}", range.start());
        if range.end() != range.start() {
            let _ = write!(text, "-{}", range.end());
        }
    }
    text
}

type Connection = http1::Connection<TokioIo<Patient>, Empty<Bytes>>;

/// Moves bytes. How the connection ends is told to whoever waits for the answer.
async fn drive(connection: &mut Connection) -> std::convert::Infallible {
    let _ = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    std::future::pending().await
}

fn fault(error: hyper::Error) -> ProbeError {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause {
        // TLS that ends without close_notify.
        Some(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => ProbeError::Closed,
        Some(cause) => ProbeError::Broken(copy_of(cause)),
        None if error.is_incomplete_message() => ProbeError::Closed,
        None if error.is_canceled() || error.is_closed() => ProbeError::Closed,
        None => ProbeError::Http(error),
    }
}

/// I/O errors cannot be cloned; number or text are kept.
fn copy_of(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// A stream for hyper on which an early answer is heard.
///
/// Nothing is read before something is written. What fails in writing is told only when
/// everything is read that the backend sent.
struct Patient {
    stream: Stream,
    spoken: bool,
    listener: Option<Waker>,
    failed: Option<io::Error>,
}

impl Patient {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            spoken: false,
            listener: None,
            failed: None,
        }
    }

    fn spoke(&mut self) {
        self.spoken = true;
        if let Some(listener) = self.listener.take() {
            listener.wake();
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.spoken {
            self.listener = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let at_end = buf.filled().len() == before && buf.remaining() > 0;
        let failed = if at_end { self.failed.take() } else { None };
        Poll::Ready(failed.map_or(Ok(()), Err))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.spoke();
        Poll::Ready(written.or_else(|error| {
            self.failed = Some(error);
            Ok(buf.len())
        }))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Err(error) = ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
            self.failed = Some(error);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_codes_are_written_as_in_the_file() {
        assert_eq!(
            written(&[200..=200, 204..=204, 300..=399]),
            "200,204,300-399"
        );
    }

    #[test]
    fn a_path_or_host_that_http_cannot_carry_is_refused() {
        for path in ["", "health", "/a b", "http://host/"] {
            assert!(Question::new(path, "", &[]).is_err(), "{path:?}");
        }
        assert!(Question::new("/", "a\r\nb: c", &[]).is_err());
        assert!(Question::new("/health?full=1", "app:80", &[]).is_ok());
    }
}

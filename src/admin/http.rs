//! One connection of the endpoint: HTTP/1.1 in, answers out, in bounded time and memory.
//!
//! A head that is not there after [`PATIENCE`] ends the connection, and so does a client that
//! takes no byte of its answer for as long. Bodies are waited for where one is read, for as long:
//! who sends one that nobody reads is answered at once.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming as RequestBody;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep, timeout};

use super::audit::Peer;
use super::endpoint::Activity;
use crate::net::{Incoming, Kind};

/// For a request's head to come, and between bytes of an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 32 << 10;
/// How long, and for how many bytes, a client that is still sending is listened to after its
/// last answer: closing the socket before would reset it, and the answer might be lost.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 4 << 20;

/// The type of an answer that has no end.
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// What answers requests.
pub(super) type Router = TowerToHyperService<axum::Router>;

/// Serves one connection to its end.
pub(super) async fn serve(incoming: Incoming, router: Router, activity: Rc<Activity>) {
    // A socket that the kernel just gave can be registered, or else there is no memory; the
    // connection is closed then.
    let socket = incoming.socket;
    let peer = incoming.peer;
    match incoming.kind {
        Kind::Tcp => {
            let socket = std::net::TcpStream::from(socket);
            // Without it an answer in two parts may wait for an acknowledgement in between.
            let _ = socket.set_nodelay(true);
            if let Ok(stream) = TcpStream::from_std(socket) {
                talk(stream, Peer::Address(peer), router, activity).await;
            }
        }
        Kind::Unix => {
            let socket = std::os::unix::net::UnixStream::from(socket);
            if let Ok(stream) = UnixStream::from_std(socket) {
                let user = stream.peer_cred().ok().map(|user| user.uid());
                talk(stream, Peer::User(user), router, activity).await;
            }
        }
    }
}

async fn talk<S>(stream: S, peer: Peer, router: Router, activity: Rc<Activity>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (stream, seen) = Shared::new(Impatient::new(stream));
    let doing = Rc::clone(&activity);
    let answer = service_fn(move |mut request: Request<RequestBody>| {
        request.extensions_mut().insert(peer.clone());
        activity.set_busy(true);
        let activity = Rc::clone(&activity);
        let answer = router.call(request.map(Body::new));
        Box::pin(async move {
            let mut answer = answer.await;
            activity.set_busy(false);
            if answer.as_ref().is_ok_and(is_endless) {
                activity.set_endless();
            }
            if activity.is_last()
                && let Ok(answer) = &mut answer
            {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            answer
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_HEAD)
        // A client that has nothing more to ask may still listen: `printf … | nc -N`.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), answer);
    // What went wrong the client was told, if it could be.
    let _ = std::future::poll_fn(|cx| match connection.poll_without_shutdown(cx) {
        Poll::Pending if doing.is_endless() => seen.poll_gone(cx).map(Ok),
        ended => ended,
    })
    .await;
    drop(connection);
    if let Some(Impatient { stream, .. }) = seen.into_inner() {
        let _ = timeout(LINGER, linger(stream)).await;
    }
}

/// Whether the answer goes on for as long as there is somebody to listen.
fn is_endless(answer: &Response<Body>) -> bool {
    let kind = answer.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes() == EVENT_STREAM)
}

async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(LINGER_BYTES);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

/// A stream that somebody else can look at while it is served: whether its client is still
/// there is not asked by the server while it answers.
struct Shared<S>(Rc<RefCell<Impatient<S>>>);

impl<S: AsyncRead + Unpin> Shared<S> {
    /// The two ends.
    fn new(stream: Impatient<S>) -> (Self, Self) {
        let stream = Rc::new(RefCell::new(stream));
        (Self(Rc::clone(&stream)), Self(stream))
    }

    /// Completes when the client has sent FIN or is gone. What else it sends is passed over:
    /// nobody will answer it.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut stream = self.0.borrow_mut();
        loop {
            let mut bytes = [0; 256];
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// The stream, once nobody else has it.
    fn into_inner(self) -> Option<Impatient<S>> {
        Rc::into_inner(self.0).map(RefCell::into_inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Shared<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Shared<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}

/// A stream whose writes fail once the other side has taken nothing for [`PATIENCE`].
struct Impatient<S> {
    stream: S,
    blocked: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            blocked: None,
        }
    }

    fn unless_blocked<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let blocked = self
            .blocked
            .get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        ready!(blocked.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_blocked(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.unless_blocked(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up() {
        let (near, _far) = tokio::io::duplex(16);
        let mut stream = Impatient::new(near);
        let started = tokio::time::Instant::now();
        let error = stream.write_all(&[0; 64]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_waited_for() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut stream = Impatient::new(near);
        let reader = async {
            let mut buffer = [0; 8];
            for _ in 0..8 {
                sleep(PATIENCE / 2).await;
                far.read_exact(&mut buffer).await.expect("bytes");
            }
        };
        let (written, ()) = tokio::join!(stream.write_all(&[0; 64]), reader);
        written.expect("every byte was taken in time");
    }
}

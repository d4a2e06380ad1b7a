//! An embedded backend: it can be stopped and started again on the same port.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::answer;

/// While a backend is stopped its port may be somebody's source port for a moment.
const BIND_ATTEMPTS: u32 = 20;
const BIND_PAUSE: Duration = Duration::from_millis(100);

/// By what a backend is told from the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) name: &'static str,
    /// Of its page, dark enough for white text.
    pub(super) colour: &'static str,
}

impl Identity {
    /// The three of the demo.
    pub(super) fn all() -> [Self; 3] {
        let identity = |name, colour| Self { name, colour };
        [
            identity("oak", "#7a4b1a"),
            identity("pine", "#17603a"),
            identity("birch", "#39468f"),
        ]
    }
}

/// A backend, running or not.
#[derive(Debug)]
pub(super) struct Backend {
    identity: Identity,
    address: SocketAddr,
    /// Connections answered, checks not counted.
    answered: Arc<AtomicU64>,
    running: Option<Run>,
}

/// What lives from a start to a stop.
#[derive(Clone, Debug, Default)]
struct Run {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Backend {
    /// Takes a free port.
    pub(super) fn bind(identity: Identity) -> io::Result<(Self, std::net::TcpListener)> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let backend = Self {
            identity,
            address: listener.local_addr()?,
            answered: Arc::default(),
            running: None,
        };
        Ok((backend, listener))
    }

    pub(super) fn name(&self) -> &'static str {
        self.identity.name
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers whoever connects, until [`stop`](Self::stop). Needs a runtime.
    pub(super) fn serve(&mut self, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let run = Run::default();
        let (identity, answered) = (self.identity, Arc::clone(&self.answered));
        run.tasks
            .spawn(accept(listener, identity, answered, run.clone()));
        self.running = Some(run);
        Ok(())
    }

    /// Closes the port and resets every connection; says what came of it.
    pub(super) async fn stop(&mut self) -> String {
        let Some(run) = self.running.take() else {
            return format!("{} is stopped already\n", self.name());
        };
        run.stop.cancel();
        run.tasks.close();
        run.tasks.wait().await;
        format!("{} is stopped: its port is closed\n", self.name())
    }

    /// Binds the same port again; says what came of it.
    ///
    /// # Errors
    /// Somebody else has the port now.
    pub(super) async fn start(&mut self) -> io::Result<String> {
        if self.running.is_some() {
            return Ok(format!("{} is running already\n", self.name()));
        }
        let listener = self.bind_again().await?;
        self.serve(listener)?;
        Ok(format!("{} is back on {}\n", self.name(), self.address))
    }

    async fn bind_again(&self) -> io::Result<std::net::TcpListener> {
        let mut attempt = 1;
        loop {
            match std::net::TcpListener::bind(self.address) {
                Err(_) if attempt < BIND_ATTEMPTS => tokio::time::sleep(BIND_PAUSE).await,
                Err(error) => return Err(error),
                Ok(listener) => {
                    listener.set_nonblocking(true)?;
                    return Ok(listener);
                }
            }
            attempt += 1;
        }
    }
}

/// `oak 12`, `oak 12 (stopped)`.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered = self.answered.load(Ordering::Relaxed);
        let stopped = match self.running {
            Some(_) => "",
            None => " (stopped)",
        };
        write!(f, "{} {answered}{stopped}", self.name())
    }
}

async fn accept(listener: TcpListener, identity: Identity, answered: Arc<AtomicU64>, run: Run) {
    loop {
        let accepted = tokio::select! {
            () = run.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let stop = run.stop.clone();
                let serve = serve(stream, identity, Arc::clone(&answered), stop);
                run.tasks.spawn(serve);
            }
            // Out of descriptors, most likely: others give theirs back soon.
            Err(_) => tokio::time::sleep(BIND_PAUSE).await,
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    identity: Identity,
    answered: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    let stopped = tokio::select! {
        // A client that goes away in the middle is its own affair.
        _ = answer(&mut stream, identity, &answered) => false,
        () = stop.cancelled() => true,
    };
    if stopped {
        // Closed like this it is reset, see SO_LINGER in socket(7).
        let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn started() -> Backend {
        let (mut backend, listener) = Backend::bind(Identity::all()[0]).expect("a port");
        backend.serve(listener).expect("a runtime");
        backend
    }

    async fn ask(backend: &Backend, request: &[u8]) -> io::Result<String> {
        let mut stream = TcpStream::connect(backend.address()).await?;
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_line_and_silence_are_answered_with_the_name() {
        let backend = started().await;
        assert_eq!(ask(&backend, b"hello\n").await.expect("an answer"), "oak\n");
        assert_eq!(ask(&backend, b"").await.expect("an answer"), "oak\n");
        assert_eq!(backend.to_string(), "oak 2");
    }

    #[tokio::test]
    async fn http_is_answered_by_what_the_client_accepts() {
        let backend = started().await;
        let plain = ask(
            &backend,
            b"GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
        )
        .await;
        let plain = plain.expect("an answer");
        assert!(plain.starts_with("HTTP/1.1 200 OK\r\n"), "{plain}");
        assert!(plain.ends_with("\r\n\r\noak\n"), "{plain}");
        let page = ask(
            &backend,
            b"GET /a?b HTTP/1.1\r\nHost: x\r\nAccept: text/html, */*;q=0.8\r\n\r\n",
        )
        .await
        .expect("an answer");
        assert!(page.contains("content-type: text/html; charset=utf-8\r\n"));
        assert!(page.contains("<h1>oak</h1>"), "{page}");
    }

    #[tokio::test]
    async fn checks_and_icons_are_not_counted() {
        let backend = started().await;
        for path in ["/health", "/favicon.ico"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            let answer = ask(&backend, request.as_bytes()).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains("oak"), "{answer}");
        }
        assert_eq!(backend.to_string(), "oak 0");
    }

    #[tokio::test]
    async fn a_stop_resets_connections_and_a_start_takes_the_same_port() {
        let mut backend = started().await;
        let mut open = TcpStream::connect(backend.address()).await.expect("oak");
        // What is answered has been accepted.
        open.write_all(b"GET / HTTP/1.1\r\n").await.expect("open");
        ask(&backend, b"\n").await.expect("an answer");
        assert_eq!(backend.stop().await, "oak is stopped: its port is closed\n");
        let reset = open.read(&mut [0; 1]).await.expect_err("a reset");
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
        let refused = ask(&backend, b"").await.expect_err("a closed port");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        backend.start().await.expect("the same port");
        assert_eq!(ask(&backend, b"\n").await.expect("an answer"), "oak\n");
    }
}

//! Reads the beginning of what a client sends, to learn who it is or where it wants to go.
//!
//! Everything that is read is kept: what was not looked for is the first that the backend gets.
//! One deadline counts for all of it, however many times there is more to read, and no more than
//! 64 KiB are taken. Whoever reads decides what the bytes mean, and when there are enough of
//! them.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Outcome;
use crate::metrics::{Ended, Rejected};
use crate::net::Stream;
use crate::runtime::timers::{Timer, Timers};

/// The most that is read of a client before it has its backend, in bytes.
pub const LIMIT: usize = 64 << 10;
/// Bytes of one read: any PROXY header that is taken, and nearly every ClientHello. It is on the
/// stack, so that a slow client keeps no more than it has sent.
const READ: usize = 4 << 10;

/// What came of a wish for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// There are more bytes than before.
    Bytes,
    /// The client has sent FIN: there will never be more.
    Fin,
}

/// The beginning of what a client sends, as far as it was read.
#[derive(Debug)]
pub struct Preread<'a> {
    client: &'a Stream,
    timer: Timer,
    /// `None`: it may take as long as it likes.
    deadline: Option<Instant>,
    bytes: Vec<u8>,
    /// Bytes that were read and are no part of `bytes` any more.
    taken: usize,
}

impl<'a> Preread<'a> {
    /// Nothing was read yet, and `timeout` begins now; zero: there is none.
    pub fn new(client: &'a Stream, timers: &Rc<Timers>, timeout: Duration) -> Self {
        Self {
            client,
            timer: Timer::new(timers),
            deadline: (!timeout.is_zero()).then(|| Instant::now() + timeout),
            bytes: Vec::new(),
            taken: 0,
        }
    }

    /// What was read, without what was taken.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes away the first `n` bytes, which are not meant for the backend.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn take(&mut self, n: usize) {
        self.bytes.drain(..n);
        self.taken += n;
    }

    /// What was read and not taken: the first that the backend gets.
    pub fn into_early(self) -> Vec<u8> {
        self.bytes
    }

    /// Waits for at least one more byte, and reads what there is.
    ///
    /// # Errors
    /// The outcome of a connection that broke (`client_left`), let the deadline pass
    /// (`preread_timeout`), or has sent as much as may be read (`preread_limit`).
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn more(&mut self) -> Result<More, Outcome> {
        if self.room() == 0 {
            return Err(Outcome::Rejected(Rejected::PrereadLimit));
        }
        poll_fn(|cx| self.poll_more(cx)).await
    }

    fn room(&self) -> usize {
        LIMIT - self.taken - self.bytes.len()
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<More, Outcome>> {
        let mut buffer = [0; READ];
        let most = self.room().min(READ);
        match self.client.poll_recv(cx, &mut buffer[..most]) {
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(More::Fin)),
            Poll::Ready(Ok(n)) => {
                self.bytes.extend_from_slice(&buffer[..n]);
                Poll::Ready(Ok(More::Bytes))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(Outcome::Ended(Ended::ClientLeft))),
            Poll::Pending => self.poll_deadline(cx).map(Err),
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        self.timer
            .poll(cx, deadline, Instant::now())
            .map(|()| Outcome::Rejected(Rejected::PrereadTimeout))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;
    use crate::net::Kind;
    use crate::runtime::Runtime;

    const NEVER: Duration = Duration::ZERO;

    /// Runs `test` with a client and isobar's end of its connection.
    fn with<F: AsyncFn(TcpStream, &Stream, &Rc<Timers>)>(test: F) {
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("its address");
            let client = TcpStream::connect(address).expect("a connection");
            let (accepted, _) = listener.accept().expect("the connection");
            accepted.set_nonblocking(true).expect("non-blocking");
            let stream = Stream::new(accepted.into(), Kind::Tcp).expect("a watch");
            test(client, &stream, &crate::runtime::timers()).await;
        });
    }

    #[test]
    fn bytes_add_up_and_what_is_taken_is_gone() {
        with(async |mut client, stream, timers| {
            let mut preread = Preread::new(stream, timers, NEVER);
            for (sent, read) in [("ab", "ab"), ("cde", "abcde")] {
                client.write_all(sent.as_bytes()).expect("sent");
                assert_eq!(preread.more().await, Ok(More::Bytes));
                assert_eq!(preread.bytes(), read.as_bytes());
            }
            preread.take(3);
            assert_eq!(preread.into_early(), b"de");
        });
    }

    #[test]
    fn a_fin_is_told_behind_all_bytes_and_again() {
        with(async |mut client, stream, timers| {
            client.write_all(b"last").expect("sent");
            client.shutdown(Shutdown::Write).expect("a FIN");
            let mut preread = Preread::new(stream, timers, NEVER);
            assert_eq!(preread.more().await, Ok(More::Bytes));
            assert_eq!(preread.more().await, Ok(More::Fin));
            assert_eq!(preread.more().await, Ok(More::Fin));
            assert_eq!(preread.into_early(), b"last");
        });
    }

    #[test]
    fn a_client_that_resets_has_left() {
        with(async |client, stream, timers| {
            let linger = Some(Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(&client, linger).expect("an option");
            drop(client);
            let mut preread = Preread::new(stream, timers, NEVER);
            let left = Outcome::Ended(Ended::ClientLeft);
            assert_eq!(preread.more().await, Err(left));
        });
    }

    /// A client that sends a byte now and then gains no time by it.
    #[test]
    fn one_deadline_counts_for_all_reads() {
        with(async |mut client, stream, timers| {
            let timeout = Duration::from_millis(200);
            let started = Instant::now();
            let mut preread = Preread::new(stream, timers, timeout);
            let outcome = loop {
                client.write_all(b"x").expect("sent");
                if let Err(outcome) = preread.more().await {
                    break outcome;
                }
                timers.sleep(Duration::from_millis(50)).await;
                if started.elapsed() > timeout {
                    // All that was sent is read first: now nothing is there.
                    break preread.more().await.expect_err("nothing was sent");
                }
            };
            assert_eq!(outcome, Outcome::Rejected(Rejected::PrereadTimeout));
            assert!(started.elapsed() >= timeout);
        });
    }

    #[test]
    fn no_more_than_the_limit_is_read_also_where_some_was_taken() {
        with(async |mut client, stream, timers| {
            let sender = std::thread::spawn(move || {
                client.write_all(&vec![7; LIMIT + 1]).expect("sent");
                client
            });
            let mut preread = Preread::new(stream, timers, NEVER);
            assert_eq!(preread.more().await, Ok(More::Bytes));
            preread.take(1);
            let outcome = loop {
                if let Err(outcome) = preread.more().await {
                    break outcome;
                }
            };
            assert_eq!(outcome, Outcome::Rejected(Rejected::PrereadLimit));
            assert_eq!(preread.bytes().len(), LIMIT - 1);
            let _client = sender.join().expect("the sender");
        });
    }
}

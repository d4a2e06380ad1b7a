//! A connected stream socket, TCP or Unix, on the core that serves it.
//!
//! Two rules of the kernel shape this file. *Edge-triggered readiness*: it may be cleared only
//! on what proves the socket dry: a call that would block or, of TCP, a read that came back short,
//! after which a FIN that the kernel has told of stays visible.
//! *Endings*: closing a socket sends FIN, and what a peer or isobar cuts short must never
//! look complete, so a [`Stream`] that is merely dropped (a time-out, a kill, a panic) resets;
//! only what was said to be [`complete`](Stream::complete) closes.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags, Shutdown, sockopt};
use rustix::pipe::SpliceFlags;

use serde::{Deserialize, Serialize};

use super::listen::bound_address;
use super::{canonical, sys};
use crate::runtime::{Ready, Source};

/// What kind of socket a [`Stream`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// A Unix stream socket, which knows no reset: it is closed instead.
    Unix,
}

/// Keep-alive and user time-out of a TCP connection, see tcp(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Silence before the first probe; every third of it, at least a second, comes another,
    /// three in all. Zero: no probes.
    pub keepalive: Duration,
    /// How long sent data may stay unacknowledged. Zero: the kernel's own patience.
    pub user_timeout: Duration,
}

impl Liveness {
    /// The kernel's defaults: no probes.
    pub const OFF: Self = Self {
        keepalive: Duration::ZERO,
        user_timeout: Duration::ZERO,
    };

    /// Sets the options of a TCP socket; what listens passes them on to what it accepts.
    ///
    /// # Errors
    /// What setsockopt(2) gives.
    pub fn apply(self, socket: impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd();
        self.apply_user_timeout(socket)?;
        self.apply_keepalive(socket)
    }

    /// Sets what differs from `before`, which the socket has. What fails is left as it is: a
    /// connection that is gone tells of that by itself.
    pub fn apply_instead_of(self, before: Self, socket: impl AsFd) {
        let socket = socket.as_fd();
        if self.user_timeout != before.user_timeout {
            let millis = u32::try_from(self.user_timeout.as_millis()).unwrap_or(u32::MAX);
            let _ = sockopt::set_tcp_user_timeout(socket, millis);
        }
        if self.keepalive != before.keepalive {
            let _ = match self.keepalive.is_zero() {
                true => sockopt::set_socket_keepalive(socket, false).map_err(io::Error::from),
                false => self.apply_keepalive(socket),
            };
        }
    }

    /// Sets the user time-out alone.
    pub(super) fn apply_user_timeout(self, socket: impl AsFd) -> io::Result<()> {
        if self.user_timeout.is_zero() {
            return Ok(());
        }
        let millis = u32::try_from(self.user_timeout.as_millis()).unwrap_or(u32::MAX);
        Ok(sockopt::set_tcp_user_timeout(socket, millis)?)
    }

    /// Sets the keep-alive alone: four system calls. The kernel counts the silence from the
    /// last segment, so this may come late, as long as it comes before the first probe.
    ///
    /// # Errors
    /// What setsockopt(2) gives.
    pub fn apply_keepalive(self, socket: impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd();
        if self.keepalive.is_zero() {
            return Ok(());
        }
        let second = Duration::from_secs(1);
        sockopt::set_tcp_keepintvl(socket, (self.keepalive / 3).clamp(second, MAX_KEEPALIVE))?;
        sockopt::set_tcp_keepcnt(socket, 3)?;
        sockopt::set_socket_keepalive(socket, true)?;
        // Last: only with keep-alive on the kernel counts silence from the last segment here, else
        // from when it is switched on.
        let idle = self.keepalive.clamp(second, MAX_KEEPALIVE);
        Ok(sockopt::set_tcp_keepidle(socket, idle)?)
    }
}

/// `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` of Linux.
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// What fits one segment of any connection (RFC 9293, 3.7.1).
const SMALLEST_SEGMENT: usize = 536;

/// A connected, non-blocking socket, watched by this thread's runtime.
#[derive(Debug)]
pub struct Stream {
    source: Source,
    /// `None` only when it has [left](Stream::leave).
    socket: Option<OwnedFd>,
    kind: Kind,
    complete: Cell<bool>,
    delays: Cell<Delays>,
}

/// Whether the kernel may keep small segments back for others to join them (Nagle's algorithm,
/// RFC 896), which a relay must not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delays {
    /// It may not, or knows of no such thing.
    Never,
    /// It might, were anything unacknowledged: nothing was sent yet.
    NotYet,
    /// It will from now on.
    FromNowOn,
}

impl Stream {
    /// Watches a connected (or connecting) non-blocking socket.
    ///
    /// # Errors
    /// What epoll_ctl(2) gives: no memory, or the limit of watches reached.
    ///
    /// # Panics
    /// If this thread runs no [`runtime`](crate::runtime).
    pub fn new(socket: OwnedFd, kind: Kind) -> io::Result<Self> {
        let source = Source::new(&socket).inspect_err(|_| end_by_reset(&socket, kind))?;
        Ok(Self {
            source,
            socket: Some(socket),
            kind,
            complete: Cell::new(false),
            delays: Cell::new(Delays::Never),
        })
    }

    /// The same for a socket that was not told `TCP_NODELAY`: it is told before the second send,
    /// which saves the call where there is but one, as in a request and its answer.
    pub(super) fn new_delaying(socket: OwnedFd, kind: Kind) -> io::Result<Self> {
        let stream = Self::new(socket, kind)?;
        if kind == Kind::Tcp {
            stream.delays.set(Delays::NotYet);
        }
        Ok(stream)
    }

    /// Waits for the end of the connect that is in progress.
    ///
    /// # Errors
    /// What the connect failed with.
    pub(super) async fn connected(&self) -> io::Result<()> {
        let ready = poll_fn(|cx| self.source.poll_ready(cx, Ready::WRITE)).await;
        if !ready.any(Ready::WRITE_CLOSED) {
            // Room to write and nothing broken: no need to ask for an error.
            return Ok(());
        }
        Ok(sockopt::socket_error(self.socket()).and_then(|outcome| outcome)?)
    }

    /// What kind of socket it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The socket itself.
    #[inline]
    pub fn socket(&self) -> &OwnedFd {
        self.socket.as_ref().expect("whoever leaves takes itself")
    }

    /// The socket without its watch, as it is: neither closed nor reset. What has come by now,
    /// a FIN or an error included, is still there for whoever watches it next.
    ///
    /// # Errors
    /// What epoll_ctl(2) gives; the connection is reset then.
    pub fn leave(mut self) -> io::Result<OwnedFd> {
        self.source.leave(self.socket())?;
        if self.delays.get() != Delays::Never {
            // Whoever has it next need not know that this was put off. It fails for a
            // connection that is gone, of which the next send tells.
            let _ = sockopt::set_tcp_nodelay(self.socket(), true);
        }
        Ok(self.socket.take().expect("whoever leaves takes itself"))
    }

    /// From now on dropping it ends it in order: what was sent is delivered, then comes FIN, if
    /// none was sent yet.
    pub fn complete(&self) {
        self.complete.set(true);
    }

    /// Reads what is there, without looking at readiness first.
    ///
    /// # Errors
    /// `WouldBlock` where nothing is there; what recv(2) gives.
    #[inline]
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self.socket(), buffer, RecvFlags::empty())?.1)
    }

    /// Reads some bytes; 0 is the peer's FIN.
    ///
    /// # Errors
    /// What recv(2) gives.
    #[inline]
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let ready = ready!(self.source.poll_ready(cx, Ready::READ));
            match self.try_recv(buffer) {
                Ok(n) => {
                    if n > 0 && n < buffer.len() && self.reads_all(ready) {
                        self.source.drained();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) if would_block(&error) => self.source.dry(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Whether a read stops only where there is nothing more. Of TCP it also stops at the mark
    /// of urgent data, see tcp(7), of a Unix socket where descriptors were passed, see unix(7).
    fn reads_all(&self, ready: Ready) -> bool {
        self.kind == Kind::Tcp && !ready.any(Ready::URGENT)
    }

    /// Sends some of `bytes`, without waiting for room.
    ///
    /// # Errors
    /// `WouldBlock` where there is none; what send(2) gives, never SIGPIPE.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.delays.get() != Delays::Never {
            self.forbid_delays(bytes.len());
        }
        Ok(rustix::net::send(
            self.socket(),
            bytes,
            SendFlags::NOSIGNAL,
        )?)
    }

    /// Its own address, where the peer connected to or was connected from; `None`: it is a Unix
    /// socket. IPv4-mapped addresses are given as IPv4.
    pub fn local(&self) -> Option<SocketAddr> {
        bound_address(self.socket()).ok().map(canonical)
    }

    /// Sends some of `bytes`; asks for readiness only when the socket is full.
    ///
    /// # Errors
    /// What send(2) gives; never SIGPIPE.
    #[inline]
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_output(cx, bytes.len(), |socket| {
            Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
        })
    }

    /// Completes when there may be something to read.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.source.poll_ready(cx, Ready::READ).map(drop)
    }

    /// Moves up to `most` bytes from the socket into the pipe; 0: it moved nothing.
    ///
    /// That says little: splice(2) gives EAGAIN for a dry socket and for a full pipe (which
    /// fills by slots, not bytes), and both EAGAIN and 0, as for a FIN, where it stops at TCP's
    /// urgent mark with bytes still behind it. Whoever gets 0 must ask
    /// [`poll_recv`](Self::poll_recv), which knows.
    ///
    /// # Errors
    /// What splice(2) gives.
    pub fn try_splice_in(&self, pipe: &OwnedFd, most: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match rustix::pipe::splice(self.socket(), None, pipe, None, most, flags) {
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            moved => Ok(moved?),
        }
    }

    /// Moves up to `most` bytes, which must all be in the pipe, to the socket: asking for more
    /// would make the kernel wait for them before it sends the tail.
    ///
    /// # Errors
    /// What splice(2) gives.
    pub fn poll_splice_out(
        &self,
        cx: &mut Context<'_>,
        pipe: &OwnedFd,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        self.poll_output(cx, usize::MAX, |socket| {
            Ok(rustix::pipe::splice(pipe, None, socket, None, most, flags)?)
        })
    }

    #[inline]
    fn poll_output(
        &self,
        cx: &mut Context<'_>,
        most: usize,
        send: impl Fn(&OwnedFd) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.delays.get() != Delays::Never {
            self.forbid_delays(most);
        }
        loop {
            match send(self.socket()) {
                Err(error) if would_block(&error) => {
                    self.source.full();
                    ready!(self.source.poll_ready(cx, Ready::WRITE));
                }
                done => return Poll::Ready(done),
            }
        }
    }

    /// Before each send of at most so many bytes, until it has had its effect. What may take
    /// more than one segment may have a small one in its midst.
    fn forbid_delays(&self, most: usize) {
        self.delays.set(match self.delays.get() {
            Delays::NotYet if most <= SMALLEST_SEGMENT => Delays::FromNowOn,
            _ => {
                // It fails for a connection that is gone, of which the send tells.
                let _ = sockopt::set_tcp_nodelay(self.socket(), true);
                Delays::Never
            }
        });
    }

    /// Completes when the connection broke (a reset, a time-out of the kernel) while nobody
    /// reads it, because the other side is full or this one has sent FIN.
    ///
    /// The error itself stays with the socket. Spurious wake-ups are cheap; what is queued to
    /// be read is not touched.
    pub fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Whatever breaks a connection closes its sending side: no need to ask the kernel about
        // a socket that merely has room.
        loop {
            ready!(self.source.poll_ready(cx, Ready::WRITE_CLOSED));
            if self.is_broken() {
                return Poll::Ready(());
            }
            // Shut down both ways in order. It may break still, as long as what was sent is not
            // acknowledged.
            self.source.clear(Ready::WRITE_CLOSED);
        }
    }

    /// Whether the kernel has an error for this socket, by poll(2), which leaves it in place.
    pub fn is_broken(&self) -> bool {
        let mut fds = [PollFd::new(self.socket(), PollFlags::empty())];
        let polled = rustix::event::poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        );
        polled.is_ok() && fds[0].revents().contains(PollFlags::ERR)
    }

    /// The error that broke the connection, taken from the socket.
    pub fn take_error(&self) -> io::Error {
        match sockopt::socket_error(self.socket()) {
            Ok(Err(error)) | Err(error) => error.into(),
            Ok(Ok(())) => rustix::io::Errno::CONNRESET.into(),
        }
    }

    /// Completes when the peer is seen to have left before it sent anything: a FIN with no
    /// byte before it, or a reset. A FIN behind bytes is not leaving.
    pub fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        while self.poll_readable(cx).is_ready() {
            let mut byte = [0_u8; 1];
            match rustix::net::recv(self.socket(), &mut byte, RecvFlags::PEEK) {
                Ok((_, 0)) => return Poll::Ready(()),
                Ok(_) => break,
                Err(rustix::io::Errno::AGAIN) => self.source.dry(),
                Err(_) => return Poll::Ready(()),
            }
        }
        self.poll_broken(cx)
    }

    /// Whether the kernel has something that was not read yet: bytes, a FIN or an error.
    pub fn has_unread(&self) -> bool {
        !matches!(self.peek(), Err(rustix::io::Errno::AGAIN))
    }

    /// Whether the kernel has bytes that were not read yet.
    pub fn has_bytes(&self) -> bool {
        matches!(self.peek(), Ok(1..))
    }

    /// Whether the peer has left, of which nobody has read yet: by a FIN with no byte before it,
    /// or by what broke the connection, which stays with the socket.
    pub fn has_left(&self) -> bool {
        self.is_broken() || matches!(self.peek(), Ok(0))
    }

    /// 1 if there are bytes, 0 at a FIN. An error is taken from the socket.
    fn peek(&self) -> rustix::io::Result<usize> {
        let mut byte = [0_u8; 1];
        Ok(rustix::net::recv(self.socket(), &mut byte, RecvFlags::PEEK)?.1)
    }

    /// Passes a FIN on: nothing more will be sent.
    pub fn shutdown(&self) {
        // ENOTCONN means that the connection is gone already, which is no news.
        let _ = rustix::net::shutdown(self.socket(), Shutdown::Write);
    }

    /// Bytes sent that the peer's kernel has not acknowledged; 0 where that cannot be known.
    /// A Unix socket keeps what was sent for its peer whatever happens here: always 0.
    pub fn unacknowledged(&self) -> usize {
        match self.kind {
            Kind::Tcp => sys::unacknowledged(self.socket()).unwrap_or(0),
            Kind::Unix => 0,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.as_ref().filter(|_| !self.complete.get()) {
            end_by_reset(socket, self.kind);
        }
    }
}

/// Has close(2) send RST and forget what was not sent yet, by an SO_LINGER of 0 s.
fn end_by_reset(socket: &OwnedFd, kind: Kind) {
    if kind == Kind::Tcp {
        let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// When the kernel's timer of this socket is due, by proc_net_tcp(5).
    fn timer(stream: &TcpStream) -> Duration {
        let port = stream.local_addr().expect("an address").port();
        let local = format!("0100007F:{port:04X}");
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("the table");
        let mut rows = table.lines().map(|line| line.split_whitespace());
        let mut row = rows
            .find(|row| row.clone().nth(1) == Some(&*local))
            .expect("its row");
        let (kind, hundredths) = row
            .nth(5)
            .expect("a timer")
            .split_once(':')
            .expect("two parts");
        assert_eq!(kind, "02", "the timer of keep-alive");
        Duration::from_millis(10 * u64::from_str_radix(hundredths, 16).expect("a number"))
    }

    #[test]
    fn keepalive_that_comes_late_counts_silence_from_the_last_segment() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        let stream = TcpStream::connect(address).expect("a connection");
        // It is silence that is measured.
        std::thread::sleep(Duration::from_millis(1_100));
        let liveness = Liveness {
            user_timeout: Duration::ZERO,
            keepalive: Duration::from_secs(10),
        };
        liveness.apply_keepalive(&stream).expect("keep-alive");
        let due = timer(&stream);
        assert!(due <= Duration::from_secs(9), "{due:?}");
    }
}

//! The connection of a check: how it is opened, and how it is left.
//!
//! A check is a guest. It must not fill the backend's log with errors, and it must not leave
//! sockets behind on this machine: at one check in 250 ms a plain close(2) would keep 240
//! sockets of each backend in TIME-WAIT. So a connection is left in two steps: FIN first, then
//! RST right behind it. Linux, on the backend's side, reports the end of the stream (read(2)
//! gives 0) even if the reset has arrived by then, because the FIN came first; and a socket
//! that is reset knows no TIME-WAIT, here or there. Backends such as PostgreSQL and Redis take
//! a connection that ends without a byte in silence, while they would log a bare reset.
//!
//! Whoever has more to say than can be read at once (HTTP, TLS) is given a moment to close by
//! itself, see [`Farewell`]. A check that failed is simply reset.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;

use crate::net::{Address, Sources, bind_to, is_of_source};

/// How long and how far an answer is read that does not matter any more. Long enough for a
/// backend that closes after its answer, short enough to delay no check.
const GRACE: Duration = Duration::from_millis(100);
const GRACE_BYTES: u64 = 64 * 1024;

/// A connection, plain or within TLS.
pub(super) trait Channel: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Channel for T {}

pub(super) type Stream = Box<dyn Channel>;

/// Connects, from one of `sources` where there are any of the family. Whatever becomes of the stream, dropping it leaves nothing behind.
pub(super) async fn open(address: &Address, sources: Sources<'_>) -> io::Result<Stream> {
    match address {
        Address::Ip(address) => open_tcp(*address, sources).await,
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(kernel_path(path)).await?)),
    }
}

async fn open_tcp(address: SocketAddr, sources: Sources<'_>) -> io::Result<Stream> {
    let stream = connect(address, sources).await?;
    // A dead port of this very machine, within the range of outgoing ports, can become the
    // source port of the check itself: TCP then connects it to itself (RFC 9293, 3.5).
    let local = stream.local_addr()?;
    if (local.ip(), local.port()) == (address.ip(), address.port()) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    stream.set_zero_linger()?;
    Ok(Box::new(stream))
}

/// As connections are, see [`dial`](crate::net::dial).
async fn connect(address: SocketAddr, sources: Sources<'_>) -> io::Result<TcpStream> {
    let mut failed = None;
    for source in sources.towards(address.ip()) {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        let connected = match bind_to(&socket, source) {
            Ok(()) => socket.connect(address).await,
            Err(error) => Err(error),
        };
        match connected {
            Err(error) if is_of_source(&error) => failed = Some(error),
            connected => return connected,
        }
    }
    match failed {
        // Whichever it was, it says nothing about the backend.
        Some(_) => Err(Errno::ADDRNOTAVAIL.into()),
        None => TcpStream::connect(address).await,
    }
}

/// `@name` with the NUL byte that stands for it in `sun_path`, see unix(7).
fn kernel_path(path: &Path) -> PathBuf {
    match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => OsString::from_vec([b"\0", name].concat()).into(),
        None => path.into(),
    }
}

/// A connection whose verdict is known, to be left in good manners.
pub(super) struct Farewell {
    stream: Stream,
    after_peer: bool,
}

impl Farewell {
    /// Leaves at once: the backend has nothing more to say.
    pub(super) fn now(stream: Stream) -> Self {
        Self {
            stream,
            after_peer: false,
        }
    }

    /// Lets the backend finish and close first, within 100 ms and 64 KiB.
    pub(super) fn after_peer(stream: Stream) -> Self {
        Self {
            stream,
            after_peer: true,
        }
    }

    /// Leaves. No outcome matters.
    pub(super) async fn say(mut self) {
        if self.after_peer {
            let mut rest = (&mut self.stream).take(GRACE_BYTES);
            let mut nowhere = tokio::io::sink();
            let _ = timeout(GRACE, tokio::io::copy(&mut rest, &mut nowhere)).await;
        }
        let _ = timeout(GRACE, self.stream.shutdown()).await;
    }
}

//! Connecting to a backend.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::listen::bound_address;
use super::source::{Sources, bind_to, is_of_source};
use super::stream::{Kind, Liveness, Stream};
use super::{Address, unix_address};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing answered in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The backend, or the network on the way to it, said no.
    #[error("{0}")]
    Refused(#[source] io::Error),
    /// A fault of this machine, which says nothing about the backend.
    #[error("{0}")]
    Local(#[source] io::Error),
}

impl DialError {
    /// The closed set of words that metrics use for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Local(_) => "local",
            Self::Refused(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => "refused",
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset",
                io::ErrorKind::TimedOut => "timeout",
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
                _ => "other",
            },
        }
    }

    /// Whether it says nothing about the backend.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        let local = error
            .raw_os_error()
            .is_some_and(|code| LOCAL_FAULTS.contains(&Errno::from_raw_os_error(code)));
        if local {
            Self::Local(error)
        } else {
            Self::Refused(error)
        }
    }
}

/// What socket(2), bind(2), connect(2) and epoll_ctl(2) give when this machine is at its
/// limits or set up wrongly. EAGAIN of a Unix connect is a full backlog of the backend and not
/// among them.
const LOCAL_FAULTS: &[Errno] = &[
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOBUFS,
    Errno::NOMEM,
    Errno::NOSPC,
    Errno::ADDRNOTAVAIL,
    Errno::AFNOSUPPORT,
    Errno::ACCESS,
    Errno::PERM,
];

/// Connects to `address`, for as long as the kernel tries, from the first of `sources` that has a
/// port left; a Unix socket from none of them.
///
/// # Errors
/// [`DialError`], never [`DialError::Timeout`], which is for whoever gives up sooner.
///
/// # Cancel safety
/// Dropping the future closes the socket; no attempt lingers.
pub async fn dial(
    address: &Address,
    liveness: Liveness,
    sources: Sources<'_>,
) -> Result<Stream, DialError> {
    match address {
        Address::Ip(ip) => {
            let Begun {
                socket,
                started,
                bound,
            } = begin(*ip, liveness, sources)?;
            let stream = established(socket, Kind::Tcp, started).await?;
            refuse_itself(&stream, *ip, bound)?;
            Ok(stream)
        }
        Address::Unix(path) => {
            let socket = open(AddressFamily::UNIX)?;
            let address: SocketAddrUnix = unix_address(path)?;
            let started = connect(&socket, &address);
            established(socket, Kind::Unix, started).await
        }
    }
}

/// A connect that was started.
struct Begun {
    socket: OwnedFd,
    started: rustix::io::Result<()>,
    /// It comes from an address of the operator's choice.
    bound: bool,
}

/// Starts to connect from the first source address that can be used; where there is none of the
/// family from the one that the kernel chooses. An address whose ports are all in use towards
/// this destination gives way to the next, and so does one that this machine does not have.
fn begin(ip: SocketAddr, liveness: Liveness, sources: Sources<'_>) -> Result<Begun, DialError> {
    let mut failed = None;
    for source in sources.towards(ip.ip()) {
        let socket = open_tcp(ip, liveness)?;
        let started = match bind_to(&socket, source) {
            Ok(()) => connect(&socket, &ip),
            Err(error) => {
                failed = Some((source, error));
                continue;
            }
        };
        match started.map_err(io::Error::from) {
            Err(error) if is_of_source(&error) => failed = Some((source, error)),
            _ => {
                let bound = true;
                return Ok(Begun {
                    socket,
                    started,
                    bound,
                });
            }
        }
    }
    if let Some((source, error)) = failed {
        let error = io::Error::new(error.kind(), format!("from {source}: {error}"));
        return Err(DialError::Local(error));
    }
    let socket = open_tcp(ip, liveness)?;
    let started = connect(&socket, &ip);
    Ok(Begun {
        socket,
        started,
        bound: false,
    })
}

fn open_tcp(ip: SocketAddr, liveness: Liveness) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = open(family)?;
    // Keep-alive is for whoever keeps the connection for long enough to need it.
    liveness.apply_user_timeout(&socket)?;
    Ok(socket)
}

/// Refuses a connection of a socket to itself.
///
/// Where nobody listens on a loopback port, the kernel may choose just that port as the source
/// of a connect to it, which TCP takes for a simultaneous open (RFC 9293, 3.5): the socket
/// would echo to its client, and keep the port from the backend that wants it back.
fn refuse_itself(stream: &Stream, address: SocketAddr, bound: bool) -> io::Result<()> {
    let is_near = bound || address.ip().is_loopback();
    let possible = is_near && address.port() >= first_ephemeral_port();
    if possible && bound_address(stream.socket())? == address {
        return Err(Errno::CONNREFUSED.into());
    }
    Ok(())
}

/// The lowest port that the kernel chooses by itself, see ip(7).
fn first_ephemeral_port() -> u16 {
    const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    static FIRST: OnceLock<u16> = OnceLock::new();
    *FIRST.get_or_init(|| {
        let range = std::fs::read_to_string(RANGE).unwrap_or_default();
        let first = range.split_whitespace().next();
        first.and_then(|port| port.parse().ok()).unwrap_or(1024)
    })
}

fn open(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

/// Waits for the connect that was `started` on `socket`.
async fn established(
    socket: OwnedFd,
    kind: Kind,
    started: rustix::io::Result<()>,
) -> Result<Stream, DialError> {
    match started {
        // A Unix socket connects at once, or not at all.
        Ok(()) => Ok(Stream::new_delaying(socket, kind)?),
        Err(Errno::INPROGRESS) => {
            // A stream from here on: given up, it is reset, however far the kernel has come.
            let pending = Stream::new_delaying(socket, kind)?;
            pending.connected().await?;
            Ok(pending)
        }
        Err(error) => Err(io::Error::from(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody listens on the port, and the socket is bound to it, as the kernel would choose
    /// now and then: the connect succeeds, to itself.
    #[test]
    fn a_socket_that_met_itself_is_refused() {
        let runtime = crate::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(meet_oneself());
    }

    async fn meet_oneself() {
        let socket = open(AddressFamily::INET).expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        rustix::net::bind(&socket, &any).expect("a port");
        let own = bound_address(&socket).expect("its address");
        let started = connect(&socket, &own);
        let stream = established(socket, Kind::Tcp, started)
            .await
            .expect("it met itself");
        let refused = refuse_itself(&stream, own, false).expect_err("that is no backend");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}

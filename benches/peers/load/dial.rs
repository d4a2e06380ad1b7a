//! Connections from many client addresses, so that ephemeral ports are not what is measured.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use tokio::net::{TcpSocket, TcpStream};

/// Clients are 127.0.1.1 to 127.0.1.64.
const SOURCES: usize = 64;

/// Dials its targets in turn, from each source in turn.
#[derive(Debug)]
pub(crate) struct Dialer {
    targets: Vec<SocketAddr>,
    dialed: AtomicUsize,
}

impl Dialer {
    /// A dialer for at least one target.
    pub(crate) fn new(targets: Vec<SocketAddr>) -> Self {
        Self {
            targets,
            dialed: AtomicUsize::new(0),
        }
    }

    /// One connection, without Nagle's delay.
    pub(crate) async fn dial(&self) -> io::Result<TcpStream> {
        let turn = self.dialed.fetch_add(1, Relaxed);
        let socket = TcpSocket::new_v4()?;
        // The port is chosen at connect, where one in TIME_WAIT can be taken again.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(source(turn))?;
        socket.set_nodelay(true)?;
        socket
            .connect(self.targets[turn % self.targets.len()])
            .await
    }

    /// `count` connections, one after the other.
    pub(crate) async fn dial_many(&self, count: usize) -> io::Result<Vec<Arc<TcpStream>>> {
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            streams.push(Arc::new(self.dial().await?));
        }
        Ok(streams)
    }
}

fn source(turn: usize) -> SocketAddr {
    let host = u8::try_from(turn % SOURCES + 1).expect("there are 64 sources");
    SocketAddr::from((Ipv4Addr::new(127, 0, 1, host), 0))
}

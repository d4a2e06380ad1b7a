//! What is known of a client when a backend is looked for: who it is, and what it has sent.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::config::SendProxy;
use crate::hello::Hello;
use crate::net::{Address, Stream};
use crate::pool::Pool;
use crate::proxy::{self, Endpoints};

/// A client on the way from its accept to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// Whom limits, hash, log and statistics know.
    pub client: Address,
    /// Where it connected to, as a PROXY header says or else its socket; `None`: nobody has asked
    /// the latter, see [`Stream::local`], or it is a Unix socket.
    pub destination: Option<SocketAddr>,
    /// What it says of where it wants to go; `None`: nobody has looked, or it says nothing.
    pub hello: Option<Box<Hello>>,
    /// What was read of it to learn where it wants to go: the first that its backend gets.
    pub early: Vec<u8>,
}

impl Visitor {
    /// A client of whom only the address is known.
    pub fn at(client: Address) -> Self {
        Self {
            client,
            destination: None,
            hello: None,
            early: Vec::new(),
        }
    }

    /// Asks where it connected to, where that is hashed and not known yet.
    pub fn locate(&mut self, socket: &Stream, pool: &Pool) {
        if self.destination.is_none() && pool.hashes().destination {
            self.destination = socket.local();
        }
    }

    /// Its IP address; `None`: it came by a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        self.client.ip()
    }

    /// The name that it asks for, in lower case and without a final dot.
    pub fn sni(&self) -> Option<&str> {
        self.hello.as_ref()?.sni.as_deref()
    }

    /// The protocols that it offers.
    pub fn alpn(&self) -> &[Box<[u8]>] {
        self.hello.as_ref().map_or(&[], |hello| &hello.alpn)
    }

    /// Sends a backend that was just connected the PROXY header of this client: once, whole and
    /// before anything else. The backend's socket is empty, so that a header always fits.
    ///
    /// # Errors
    /// What send(2) gives; the connection is of no use then.
    pub(super) fn announce(
        &mut self,
        client: &Stream,
        backend: &Stream,
        version: SendProxy,
    ) -> io::Result<()> {
        let header = proxy::encode(version, self.endpoints(client));
        match backend.try_send(&header)? {
            n if n == header.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Between which addresses the connection was made; `None`: not all of them are of IP.
    fn endpoints(&mut self, client: &Stream) -> Option<Endpoints> {
        let Address::Ip(source) = self.client else {
            return None;
        };
        if self.destination.is_none() {
            self.destination = client.local();
        }
        Some(Endpoints::new(source, self.destination?))
    }

    /// Whether the client's address is all that is known of it.
    pub(super) fn is_plain(&self) -> bool {
        let Self {
            client: _,
            destination,
            hello,
            early,
        } = self;
        destination.is_none() && hello.is_none() && early.is_empty()
    }
}

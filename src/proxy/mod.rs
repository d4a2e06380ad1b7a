//! The PROXY protocol: a header in front of a connection's first byte that says between which
//! two addresses the connection was made that is being passed on.
//!
//! By HAProxy's `doc/proxy-protocol.txt`, versions 1 (a line of text) and 2 (binary). Bytes in,
//! addresses out, and back: nothing here reads a socket. Whether a header is to be looked for is
//! configured and never guessed, see [`Expectation`]: whoever may send one may claim any address.
//!
//! Where the specification leaves a choice:
//!
//! - A header of version 2 is refused that is longer than [`MAX_HEADER`] bytes with all its TLVs,
//!   has TLVs that do not fill it to its last byte, or a checksum that is wrong.
//! - The block of a LOCAL header, and of one for anything but TCP over IPv4 or IPv6, is skipped,
//!   as in HAProxy and nginx, and the addresses of the socket hold; only a checksum that is found
//!   in it must be right.
//! - An IPv4-mapped IPv6 address is the IPv4 address that it stands for, both ways.

mod encode;
mod expectation;
mod holds;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use encode::{encode, for_checks};
pub use expectation::Expectation;
pub use holds::holds;

use crate::net::canonical;

/// The longest header that is taken, in bytes.
pub const MAX_HEADER: usize = 4096;

/// The two ends of a connection, as whoever accepted it knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

impl Endpoints {
    /// With IPv4-mapped addresses as IPv4.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source: canonical(source),
            destination: canonical(destination),
        }
    }
}

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `None`: the addresses of the socket hold.
    pub endpoints: Option<Endpoints>,
    /// Its bytes; what follows them is the client's.
    pub length: usize,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The first bytes are those of neither version.
    #[error("no PROXY header")]
    NoHeader,
    /// Version 1: no end of line within 107 bytes.
    #[error("version 1: the line is longer than 107 bytes")]
    LongLine,
    /// Version 1: not what the line must look like.
    #[error("version 1: the line is not `PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT`")]
    Line,
    /// Version 2: another version, or a command that is neither LOCAL nor PROXY.
    #[error("version 2: unknown version or command")]
    Command,
    /// Version 2: longer than [`MAX_HEADER`].
    #[error("version 2: longer than {MAX_HEADER} bytes")]
    LongHeader,
    /// Version 2: no room for the addresses.
    #[error("version 2: too short for its addresses")]
    Addresses,
    /// Version 2: TLVs that do not fill the header to its end.
    #[error("version 2: malformed TLVs")]
    Tlv,
    /// Version 2: the CRC32C is wrong.
    #[error("version 2: wrong checksum")]
    Checksum,
}

/// The header at the beginning of `bytes`; `None`: it is not all there yet.
///
/// However the bytes come in parts, the answer is the same: once there is one, more bytes do not
/// change it.
///
/// # Errors
/// [`Invalid`], as soon as no byte to come could mend it.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Invalid> {
    if v1::may_be(bytes) {
        v1::parse(bytes)
    } else if v2::may_be(bytes) {
        v2::parse(bytes)
    } else {
        Err(Invalid::NoHeader)
    }
}

/// Whether as much as there is of `bytes` begins like `start`.
fn begins_like(bytes: &[u8], start: &[u8]) -> bool {
    let n = bytes.len().min(start.len());
    bytes[..n] == start[..n]
}

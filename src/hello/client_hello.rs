//! The body of a ClientHello.

use std::sync::Arc;

use super::name::host_name;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const EARLY_DATA: u16 = 42;
/// Name type `host_name`.
const HOST_NAME: u8 = 0;
/// Version and random, which say nothing of where a client wants to go.
const VERSION_AND_RANDOM: usize = 2 + 32;
/// The longest session id.
const MAX_SESSION_ID: usize = 32;

/// What a client says of where it wants to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The host that it asks for, in lower case and without a final dot; `None`: none, or an IP
    /// address, which is none.
    pub sni: Option<Arc<str>>,
    /// The protocols that it offers, in its order.
    pub alpn: Vec<Box<[u8]>>,
    /// It sends data behind this message before it hears anything.
    pub early_data: bool,
}

/// Why something is no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A record that is empty or too long, or one of another kind in between.
    #[error("a record that cannot be")]
    Record,
    /// The first message is another one.
    #[error("another message than a ClientHello")]
    Message,
    /// A length that does not fit what is there.
    #[error("a length that does not fit")]
    Length,
    /// An extension that comes twice.
    #[error("an extension that comes twice")]
    Twice,
    /// A `server_name` that is not one host name.
    #[error("a server_name that is no host name")]
    ServerName,
    /// An ALPN list without a protocol, or with an empty one.
    #[error("an ALPN list without a protocol")]
    Alpn,
}

impl Hello {
    /// Reads the body of the message.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let mut body = Bytes(body);
        body.take(VERSION_AND_RANDOM)?;
        let session = body.vector8()?;
        let suites = body.vector16()?;
        let compression = body.vector8()?;
        if session.0.len() > MAX_SESSION_ID
            || suites.0.is_empty()
            || suites.0.len() % 2 == 1
            || compression.0.is_empty()
        {
            return Err(Fault::Length);
        }
        let mut hello = Self::default();
        // Before TLS 1.3 it may end here.
        if !body.0.is_empty() {
            let extensions = body.vector16()?;
            body.end()?;
            hello.extensions(extensions)?;
        }
        Ok(hello)
    }

    fn extensions(&mut self, mut all: Bytes<'_>) -> Result<(), Fault> {
        let mut kinds = Vec::with_capacity(32);
        while !all.0.is_empty() {
            let kind = all.u16()?;
            let data = all.vector16()?;
            kinds.push(kind);
            match kind {
                SERVER_NAME => self.sni = server_name(data)?,
                ALPN => self.alpn = protocols(data)?,
                EARLY_DATA => self.early_data = true,
                _ => {}
            }
        }
        kinds.sort_unstable();
        match kinds.windows(2).any(|pair| pair[0] == pair[1]) {
            true => Err(Fault::Twice),
            false => Ok(()),
        }
    }
}

/// The one name. RFC 6066 has a list of names of several types, of which only one was ever
/// defined, and of which there may be one; what else stands there nobody could read alike.
fn server_name(mut data: Bytes<'_>) -> Result<Option<Arc<str>>, Fault> {
    let mut list = data.vector16()?;
    data.end()?;
    let kind = list.u8()?;
    let name = list.vector16()?;
    list.end()?;
    if kind != HOST_NAME {
        return Err(Fault::ServerName);
    }
    let name = host_name(name.0).map_err(|_| Fault::ServerName)?;
    Ok(name.map(Arc::from))
}

fn protocols(mut data: Bytes<'_>) -> Result<Vec<Box<[u8]>>, Fault> {
    let mut list = data.vector16()?;
    data.end()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let protocol = list.vector8()?.0;
        if protocol.is_empty() {
            return Err(Fault::Alpn);
        }
        protocols.push(protocol.into());
    }
    match protocols.is_empty() {
        true => Err(Fault::Alpn),
        false => Ok(protocols),
    }
}

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Fault::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What stands behind a length of one byte.
    fn vector8(&mut self) -> Result<Bytes<'a>, Fault> {
        let len = self.u8()?;
        self.take(len.into()).map(Bytes)
    }

    /// What stands behind a length of two bytes.
    fn vector16(&mut self) -> Result<Bytes<'a>, Fault> {
        let len = self.u16()?;
        self.take(len.into()).map(Bytes)
    }

    /// Nothing may be left.
    fn end(&self) -> Result<(), Fault> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(Fault::Length),
        }
    }
}

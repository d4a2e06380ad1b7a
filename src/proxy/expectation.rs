//! Whether a client must begin with a header, or may not connect at all.

use crate::config::{Listener, ProxyProtocol};
use crate::net::Address;

/// What a listener expects of a client, by where its socket comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// No header: its bytes are its own, whatever they look like.
    Nothing,
    /// A header, whole and valid.
    Header,
    /// That it does not come: only trusted proxies may.
    Untrusted,
}

impl Expectation {
    /// Of a client whose socket is at `peer`. A Unix client is trusted where headers are on at
    /// all: who may reach its socket is for the mode of the file to say.
    pub fn of(listener: &Listener, peer: &Address) -> Self {
        let is_trusted = || {
            let mut trusted = listener.trusted_proxies.iter();
            matches!(peer, Address::Unix(_)) || trusted.any(|source| source.holds(peer))
        };
        match listener.proxy_protocol {
            ProxyProtocol::Off => Self::Nothing,
            ProxyProtocol::Required | ProxyProtocol::Optional if is_trusted() => Self::Header,
            ProxyProtocol::Required => Self::Untrusted,
            ProxyProtocol::Optional => Self::Nothing,
        }
    }
}

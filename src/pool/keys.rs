//! Whom a connection is for, and what of it pools may hash.

use std::net::SocketAddr;

use crate::balance::consistent_hash;
use crate::config::HashKey;
use crate::conn::visitor::Visitor;
use crate::net::Address;

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Its address and port.
    Ip(SocketAddr),
    /// A Unix client has nothing to hash: a number drawn for it, so that such clients spread.
    Unix(u64),
}

impl Client {
    /// The client at this address.
    pub fn at(address: &Address) -> Self {
        match address {
            Address::Ip(ip) => Self::Ip(*ip),
            Address::Unix(_) => Self::Unix(rand::random()),
        }
    }

    fn ip_hash(self) -> u64 {
        match self {
            Self::Ip(client) => consistent_hash::key_client_ip(client.ip()),
            Self::Unix(drawn) => drawn,
        }
    }
}

/// What pools may hash of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Where the client is.
    pub client: Client,
    /// The hash of the name that it asks for, if it is known to.
    pub sni: Option<u64>,
    /// Where it connected to, if that is known.
    pub destination: Option<SocketAddr>,
}

impl Keys {
    /// Those of a client that has come.
    pub fn of(visitor: &Visitor) -> Self {
        Self {
            client: Client::at(&visitor.client),
            sni: visitor.sni().map(consistent_hash::key_sni),
            destination: visitor.destination,
        }
    }

    /// The hash of what `key` names; of the client's address where there is no such thing.
    pub(super) fn hash(self, key: HashKey) -> u64 {
        let of_address = || self.client.ip_hash();
        match (key, self.client) {
            (HashKey::ClientIp, _) => of_address(),
            (HashKey::ClientIpPort, Client::Ip(client)) => {
                consistent_hash::key_client_ip_port(client)
            }
            (HashKey::ClientIpPort, Client::Unix(_)) => of_address(),
            (HashKey::Sni, _) => self.sni.unwrap_or_else(of_address),
            (HashKey::DestinationIpPort, _) => self
                .destination
                .map_or_else(of_address, consistent_hash::key_destination_ip_port),
        }
    }
}

impl From<Client> for Keys {
    fn from(client: Client) -> Self {
        Self {
            client,
            sni: None,
            destination: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_without_the_key_has_its_address() {
        let client = Client::Ip("10.0.0.9:4711".parse().expect("an address"));
        let bare = Keys::from(client);
        let by_ip = bare.hash(HashKey::ClientIp);
        assert_eq!(bare.hash(HashKey::Sni), by_ip);
        assert_eq!(bare.hash(HashKey::DestinationIpPort), by_ip);
        assert_ne!(bare.hash(HashKey::ClientIpPort), by_ip);
        let destination = "[::ffff:192.0.2.1]:443".parse().expect("an address");
        let keys = Keys {
            sni: Some(consistent_hash::key_sni("db.example.com")),
            destination: Some(destination),
            ..bare
        };
        assert_eq!(keys.hash(HashKey::ClientIp), by_ip);
        assert_eq!(
            keys.hash(HashKey::Sni),
            consistent_hash::key_sni("db.example.com")
        );
        let plain = "192.0.2.1:443".parse().expect("an address");
        let expected = consistent_hash::key_destination_ip_port(plain);
        assert_eq!(keys.hash(HashKey::DestinationIpPort), expected);
        let unix = Keys::from(Client::Unix(7));
        for key in [
            HashKey::ClientIp,
            HashKey::ClientIpPort,
            HashKey::Sni,
            HashKey::DestinationIpPort,
        ] {
            assert_eq!(unix.hash(key), 7);
        }
    }
}

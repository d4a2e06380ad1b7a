//! Where something listens or is dialled: an IP address with a port, or a Unix socket.
//!
//! The written form is one everywhere (files, logs, statistics): `IP:PORT`, `[IP6]:PORT`
//! or `unix:PATH`; `unix:@NAME` is the abstract namespace of Linux, see unix(7).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The address of a listener or a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IPv4 or IPv6 address and a port.
    Ip(SocketAddr),
    /// A Unix stream socket: a path, or `@name` for the abstract namespace.
    Unix(PathBuf),
}

/// A text that is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// `unix:` with nothing behind it, or longer than a socket path may be.
    #[error("a Unix socket path has 1 to 107 bytes and no NUL byte")]
    UnixPath,
    /// Neither `IP:PORT` nor `[IP6]:PORT` nor `unix:PATH`.
    #[error("expected IP:PORT, [IP6]:PORT or unix:PATH")]
    Form,
}

/// `sun_path` has 108 bytes with its closing NUL, see unix(7).
const MAX_UNIX_PATH: usize = 107;

impl Address {
    /// The IP address, if it has one; IPv4-mapped IPv6 is given as IPv4.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip().to_canonical()),
            Self::Unix(_) => None,
        }
    }

    /// Whether it is a Unix socket without a file, which every user of the machine can reach.
    pub fn is_abstract(&self) -> bool {
        match self {
            Self::Ip(_) => false,
            Self::Unix(path) => path.as_os_str().as_encoded_bytes().starts_with(b"@"),
        }
    }

    /// The port, if it has one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }
}

/// An IPv4-mapped IPv6 address as the IPv4 address it stands for; others unchanged.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => canonical(*address).fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = !path.is_empty() && path.len() <= MAX_UNIX_PATH && !path.contains('\0');
            return if fits {
                Ok(Self::Unix(path.into()))
            } else {
                Err(AddressError::UnixPath)
            };
        }
        text.parse().map(Self::Ip).map_err(|_| AddressError::Form)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_written_form_reads_back_as_itself() {
        for text in [
            "127.0.0.1:80",
            "[::1]:443",
            "unix:/run/a.sock",
            "unix:@abstract",
        ] {
            let address: Address = text.parse().expect("a valid address");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn a_mapped_address_is_written_as_ipv4() {
        let address: Address = "[::ffff:10.0.0.1]:80".parse().expect("a valid address");
        assert_eq!(address.to_string(), "10.0.0.1:80");
        assert_eq!(address.ip(), Some("10.0.0.1".parse().expect("an address")));
    }

    #[test]
    fn a_name_or_a_bare_address_is_refused() {
        for text in [
            "",
            "localhost",
            "localhost:80",
            "10.0.0.1",
            "::1:80",
            "unix:",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(MAX_UNIX_PATH));
        assert_eq!(long.parse::<Address>(), Err(AddressError::UnixPath));
    }
}

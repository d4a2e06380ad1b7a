//! Where the admin endpoint of a balancer is, as it is written and as it is dialled.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::Admin;
use crate::net::Address;

/// Where the admin endpoint of a balancer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `HOST:PORT`.
    Tcp(String),
    Unix(PathBuf),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("unix:") {
            return match text.parse() {
                Ok(Address::Unix(path)) => Ok(Self::Unix(path)),
                Ok(Address::Ip(_)) => Err("expected unix:PATH".to_owned()),
                Err(error) => Err(error.to_string()),
            };
        }
        if text.starts_with("https:") {
            return Err("the admin endpoint speaks plain HTTP: http://HOST:PORT".to_owned());
        }
        let authority = text.strip_prefix("http://").unwrap_or(text);
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        match authority.parse::<hyper::http::uri::Authority>() {
            Ok(parsed) if parsed.port().is_some() && !authority.contains('@') => {
                Ok(Self::Tcp(authority.to_owned()))
            }
            _ => Err("expected http://HOST:PORT, HOST:PORT or unix:PATH".to_owned()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Endpoint {
    /// Where the balancer of this configuration is reached from this machine.
    pub(super) fn of(admin: &Admin) -> Result<Self, &'static str> {
        match &admin.bind {
            None => Err("the admin endpoint is off there"),
            Some(Address::Unix(path)) => Ok(Self::Unix(path.clone())),
            Some(Address::Ip(address)) if address.port() == 0 => {
                Err("[admin] bind has port 0 there; the log of the balancer says which it got")
            }
            Some(Address::Ip(address)) => Ok(Self::Tcp(dialled(*address).to_string())),
        }
    }
}

/// A wildcard is bound, but cannot be dialled.
fn dialled(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_an_address_or_a_socket() {
        let tcp = |text: &str| Ok(Endpoint::Tcp(text.to_owned()));
        assert_eq!("http://lb:9900/".parse(), tcp("lb:9900"));
        assert_eq!("127.0.0.1:9900".parse(), tcp("127.0.0.1:9900"));
        assert_eq!("http://[::1]:9900".parse(), tcp("[::1]:9900"));
        assert_eq!(
            "unix:/run/a.sock".parse(),
            Ok(Endpoint::Unix("/run/a.sock".into()))
        );
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            "lb",
            "http://lb",
            "https://lb:9900",
            "http://lb:9900/stats",
            "http://user@lb:9900",
            "unix:",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_wildcard_is_reached_by_loopback() {
        for (bound, reached) in [
            ("0.0.0.0:9900", "127.0.0.1:9900"),
            ("[::]:9900", "[::1]:9900"),
            ("10.0.0.1:9900", "10.0.0.1:9900"),
        ] {
            let bound = bound.parse().expect("an address");
            assert_eq!(dialled(bound).to_string(), reached);
        }
    }
}

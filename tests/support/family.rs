//! The address families that every relay case runs on.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::Path;

use isobar::net::Address;

/// IPv4, IPv6 or a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Ipv4,
    Ipv6,
    Unix,
}

impl Family {
    /// Those that this machine has: a container may lack IPv6.
    pub fn all() -> Vec<Self> {
        let ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        let mut all = vec![Self::Ipv4, Self::Unix];
        if ipv6 {
            all.insert(1, Self::Ipv6);
        }
        all
    }

    /// A loopback address whose port the kernel chooses, or a socket `name` in `dir`.
    pub fn any(self, dir: &Path, name: &str) -> Address {
        match self {
            Self::Ipv4 => Address::Ip((Ipv4Addr::LOCALHOST, 0).into()),
            Self::Ipv6 => Address::Ip((Ipv6Addr::LOCALHOST, 0).into()),
            Self::Unix => Address::Unix(dir.join(format!("{name}.sock"))),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Unix => "unix",
        })
    }
}

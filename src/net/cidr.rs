//! Blocks of addresses, such as `10.0.0.0/8`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::Address;

/// The addresses that begin with the same bits. IPv4-mapped IPv6 addresses are IPv4 addresses
/// here as everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The first address of the block.
    network: IpAddr,
    /// At most 32 or 128, as the family has it.
    prefix: u32,
}

/// A text that is not a [`Cidr`], or not a [`Source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address or a CIDR such as 10.0.0.0/8 or fd00::/8")]
pub struct CidrError;

impl Cidr {
    /// The block that `text` names, and whether it has bits behind its prefix, which do not
    /// count. An address without a prefix stands for itself alone.
    ///
    /// # Errors
    /// [`CidrError`]: it is neither.
    pub fn parse(text: &str) -> Result<(Self, bool), CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(read_prefix(prefix)?)),
            None => (text, None),
        };
        let mut ip: IpAddr = address.parse().map_err(|_| CidrError)?;
        let mut prefix = prefix.unwrap_or(width(ip));
        if prefix > width(ip) {
            return Err(CidrError);
        }
        // A mapped block is one of IPv4 as far as its prefix lies behind the mapping.
        if ip.to_canonical() != ip && prefix >= MAPPED {
            (ip, prefix) = (ip.to_canonical(), prefix - MAPPED);
        }
        let network = first(ip, prefix);
        Ok((Self { network, prefix }, network != ip))
    }

    /// Whether `ip` is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.network.is_ipv4() && first(ip, self.prefix) == self.network
    }

    /// The first address of the block.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// How many bits are the same, at most 32 or 128.
    pub fn prefix(&self) -> u32 {
        self.prefix
    }
}

/// The prefix of `::ffff:0:0/96`.
const MAPPED: u32 = 96;

fn width(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// Digits alone: neither a sign nor heading zeroes.
fn read_prefix(text: &str) -> Result<u32, CidrError> {
    let prefix: u32 = text.parse().map_err(|_| CidrError)?;
    match prefix.to_string() == text {
        true => Ok(prefix),
        false => Err(CidrError),
    }
}

/// The address with zeroes behind its first `prefix` bits.
fn first(ip: IpAddr, prefix: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Where clients come from: a block of addresses, or Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Unix sockets.
    Unix,
    /// These addresses.
    Block(Cidr),
}

impl Source {
    /// As [`Cidr::parse`], or `unix`.
    ///
    /// # Errors
    /// [`CidrError`].
    pub fn parse(text: &str) -> Result<(Self, bool), CidrError> {
        if text == "unix" {
            return Ok((Self::Unix, false));
        }
        let (block, extra) = Cidr::parse(text)?;
        Ok((Self::Block(block), extra))
    }

    /// Whether `client` comes from there.
    pub fn holds(&self, client: &Address) -> bool {
        match (self, client.ip()) {
            (Self::Unix, ip) => ip.is_none(),
            (Self::Block(block), Some(ip)) => block.contains(ip),
            (Self::Block(_), None) => false,
        }
    }
}

impl FromStr for Source {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        Self::parse(text).map(|(source, _)| source)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => f.write_str("unix"),
            Self::Block(block) => block.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(String, bool)> {
        let (source, extra) = Source::parse(text).ok()?;
        Some((source.to_string(), extra))
    }

    #[test]
    fn a_block_is_written_by_its_first_address() {
        for (text, written, extra) in [
            ("10.0.0.0/8", "10.0.0.0/8", false),
            ("10.1.2.3/8", "10.0.0.0/8", true),
            ("10.1.2.3", "10.1.2.3/32", false),
            ("0.0.0.0/0", "0.0.0.0/0", false),
            ("fd00::1/8", "fd00::/8", true),
            ("::1", "::1/128", false),
            ("::/0", "::/0", false),
            ("::ffff:10.1.2.3", "10.1.2.3/32", false),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8", false),
            ("::ffff:10.1.2.3/96", "0.0.0.0/0", true),
            ("::ffff:10.0.0.0/32", "::/32", true),
            ("unix", "unix", false),
        ] {
            assert_eq!(read(text), Some((written.to_owned(), extra)), "{text}");
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in [
            "",
            "/8",
            "10/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "host",
            "10.0.0.0:80",
            "Unix",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_block_has_its_own_addresses_and_no_others() {
        for (block, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("10.0.0.1/32", "10.0.0.1", "10.0.0.2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "ffff::1", "1.2.3.4"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::1/128", "::1", "::2"),
        ] {
            let (block, _) = Cidr::parse(block).expect("a block");
            let has = |ip: &str| block.contains(ip.parse().expect("an address"));
            assert!(has(inside), "{block} {inside}");
            assert!(!has(outside), "{block} {outside}");
        }
    }

    #[test]
    fn a_unix_client_is_in_no_block() {
        let client: Address = "unix:/run/a.sock".parse().expect("an address");
        let holds = |text: &str| text.parse::<Source>().expect("a source").holds(&client);
        assert!(holds("unix"));
        assert!(!holds("0.0.0.0/0") && !holds("::/0"));
        let client: Address = "10.0.0.1:80".parse().expect("an address");
        assert!(!"unix".parse::<Source>().expect("a source").holds(&client));
    }
}

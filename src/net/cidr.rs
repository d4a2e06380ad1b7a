//! Blocks of addresses: `10.0.0.0/8`, `fd00::/8`, or one address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// All addresses that begin with the same bits, of one family.
///
/// IPv4-mapped IPv6 addresses are the IPv4 addresses they stand for, as everywhere: a block of
/// them is one of IPv4, and `::/0` holds none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// The lowest address: no bit behind the prefix is set.
    first: IpAddr,
    /// Bits that all have in common: 0 to 32, or to 128.
    prefix: u8,
}

/// A text that is no [`Cidr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Neither an address nor `ADDRESS/BITS`.
    #[error("expected a CIDR such as 10.0.0.0/8 or fd00::/8, or an address")]
    Form,
    /// More bits than an address of the family has.
    #[error("a prefix of {} has at most {} bits", family(*.0), .0)]
    Prefix(u8),
}

/// `::ffff:0:0/96`, see RFC 4291, section 2.5.5.2.
const MAPPED: u8 = 96;

impl Cidr {
    /// The block of `address` whose members share its first `prefix` bits; those behind are
    /// ignored. `None`: so many bits it has not.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let first = address.to_canonical();
        let mapped = address.is_ipv6() && first.is_ipv4();
        let prefix = match mapped {
            true if prefix < MAPPED => return Self::cut(address, prefix),
            true => prefix - MAPPED,
            false => prefix,
        };
        Self::cut(first, prefix)
    }

    /// The block that an address is in by itself.
    pub fn of(address: IpAddr) -> Self {
        let first = address.to_canonical();
        Self {
            first,
            prefix: width(first),
        }
    }

    fn cut(address: IpAddr, prefix: u8) -> Option<Self> {
        let rest = width(address).checked_sub(prefix)?;
        let cut = |bits: u128| {
            bits.checked_shr(rest.into())
                .map_or(0, |bits| bits << u32::from(rest))
        };
        let first = match address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(cut(bits(address)) as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(cut(bits(address))).into(),
        };
        Some(Self { first, prefix })
    }

    /// The lowest address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// How many bits all have in common.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The lowest and the highest address as numbers.
    pub fn range(self) -> (u128, u128) {
        let first = bits(self.first);
        let rest = u32::from(width(self.first) - self.prefix);
        let others = u128::MAX.checked_shr(u128::BITS - rest);
        (first, first | others.unwrap_or(0))
    }

    /// Whether an address is in it.
    pub fn contains(self, address: IpAddr) -> bool {
        self.covers(Self::of(address))
    }

    /// Whether all of another block is in it.
    pub fn covers(self, other: Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4()
            && self.prefix <= other.prefix
            && Self::cut(other.first, self.prefix) == Some(self)
    }

    /// The block of fewer bits around it; none around a whole family.
    pub fn wider(self) -> Option<Self> {
        Self::cut(self.first, self.prefix.checked_sub(1)?)
    }
}

/// The bits of an address, an IPv4 address as a number of 32 bits.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn family(width: u8) -> &'static str {
    if width == 32 { "IPv4" } else { "IPv6" }
}

/// An address without `/BITS` is a block by itself. Bits behind the prefix are ignored.
impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Form)?;
        let Some(prefix) = prefix else {
            return Ok(Self::of(address));
        };
        // No sign, no zero in front: what reads otherwise elsewhere is no number here.
        let plain = prefix == "0" || !prefix.starts_with(['0', '+']);
        let prefix: u8 = match prefix.parse::<u32>() {
            Ok(prefix) if plain => prefix.try_into().unwrap_or(u8::MAX),
            _ => return Err(CidrError::Form),
        };
        Self::new(address, prefix).ok_or(CidrError::Prefix(width(address)))
    }
}

/// One address is shown without its prefix.
impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix == width(self.first) {
            true => self.first.fmt(f),
            false => write!(f, "{}/{}", self.first, self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_block_is_written_without_what_does_not_count() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("255.255.255.255/0", "0.0.0.0/0"),
            ("2001:DB8::5/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("::1/128", "::1"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
        ] {
            assert_eq!(cidr(text).to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_block_says_why() {
        for text in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "[::1]",
            "::1%1",
            "host",
            "10.0.0.0/255.0.0.0",
            " 10.0.0.0/8",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Form), "{text}");
        }
        for (text, message) in [
            ("10.0.0.0/33", "a prefix of IPv4 has at most 32 bits"),
            (
                "10.0.0.0/4294967295",
                "a prefix of IPv4 has at most 32 bits",
            ),
            ("::/129", "a prefix of IPv6 has at most 128 bits"),
            (
                "::ffff:10.0.0.0/129",
                "a prefix of IPv6 has at most 128 bits",
            ),
        ] {
            let error = text.parse::<Cidr>().expect_err(text);
            assert_eq!(error.to_string(), message, "{text}");
        }
    }

    #[test]
    fn the_whole_of_a_family_holds_nobody_of_the_other() {
        let ip = |text: &str| -> IpAddr { text.parse().expect(text) };
        assert!(cidr("::/0").contains(ip("::1")) && !cidr("::/0").contains(ip("10.0.0.1")));
        assert!(!cidr("::/0").contains(ip("::ffff:10.0.0.1")));
        assert!(cidr("10.0.0.0/8").contains(ip("::ffff:10.0.0.1")));
        assert!(!cidr("0.0.0.0/0").contains(ip("::1")));
    }

    proptest! {
        #[test]
        fn a_block_holds_exactly_its_range(a: u32, near in 0u32..300, prefix in 0u8..=32) {
            let block = Cidr::new(Ipv4Addr::from_bits(a).into(), prefix).expect("a block");
            let (first, last) = block.range();
            prop_assert_eq!(last - first + 1, 1u128 << (32 - prefix));
            for number in [a, a.wrapping_add(near), a.wrapping_sub(near), !a] {
                let inside = (first..=last).contains(&u128::from(number));
                prop_assert_eq!(block.contains(Ipv4Addr::from_bits(number).into()), inside);
            }
        }

        #[test]
        fn a_block_reads_back_as_itself(a: u128, prefix in 0u8..=128) {
            let block = Cidr::new(Ipv6Addr::from_bits(a).into(), prefix).expect("a block");
            prop_assert_eq!(cidr(&block.to_string()), block);
            let around = std::iter::successors(Some(block), |block| block.wider());
            prop_assert!(around.clone().all(|wider| wider.covers(block)));
            prop_assert_eq!(around.last().map(Cidr::prefix), Some(0));
        }
    }
}

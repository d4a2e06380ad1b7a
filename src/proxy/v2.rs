//! Version 2: binary.
//!
//! ```text
//! 0   signature      \r\n\r\n\0\r\nQUIT\n
//! 12  2, command     LOCAL 0, PROXY 1
//! 13  family, protocol
//! 14  length         of what follows, 16 bits
//! 16  addresses      IPv4: 12 bytes, IPv6: 36, Unix: 216
//!     TLVs           type, length (16 bits), value
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Endpoints, Header, Invalid, MAX_HEADER, begins_like};

pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Up to the addresses.
const FIXED: usize = 16;

/// Version and command.
pub(super) const LOCAL: u8 = 0x20;
pub(super) const PROXY: u8 = 0x21;

/// Family and protocol.
pub(super) const UNSPEC: u8 = 0x00;
pub(super) const TCP4: u8 = 0x11;
pub(super) const TCP6: u8 = 0x21;

const CRC32C: u8 = 0x03;
/// As RFC 4960, appendix B, has it: the one of iSCSI, in network order.
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

pub(super) fn may_be(bytes: &[u8]) -> bool {
    begins_like(bytes, SIGNATURE)
}

pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, Invalid> {
    if bytes.len() > 12 && !matches!(bytes[12], LOCAL | PROXY) {
        return Err(Invalid::Command);
    }
    let Some(fixed) = bytes.get(..FIXED) else {
        return Ok(None);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > MAX_HEADER {
        return Err(Invalid::LongHeader);
    }
    let is_carried = fixed[12] == PROXY && matches!(fixed[13], TCP4 | TCP6);
    let tlvs = FIXED + address_length(fixed[13]);
    if is_carried && length < tlvs {
        return Err(Invalid::Addresses);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    match checksum(header, tlvs) {
        Ok(None) => {}
        Ok(Some(at)) => verify(header, at)?,
        // What is skipped may hold anything.
        Err(invalid) if is_carried => return Err(invalid),
        Err(_) => {}
    }
    Ok(Some(Header {
        endpoints: is_carried.then(|| endpoints(fixed[13], &header[FIXED..])),
        length,
    }))
}

/// Bytes of the two addresses with their ports, by the family. Those of a family that nobody
/// knows cannot be told from its TLVs: it is all address.
fn address_length(family: u8) -> usize {
    match family >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => MAX_HEADER,
    }
}

fn endpoints(family: u8, block: &[u8]) -> Endpoints {
    let ip = |bytes: &[u8]| match <[u8; 16]>::try_from(bytes) {
        Ok(six) => Ipv6Addr::from(six).into(),
        Err(_) => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).expect("4 bytes or 16")).into(),
    };
    let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    let n = if family == TCP4 { 4 } else { 16 };
    Endpoints::new(
        SocketAddr::new(ip(&block[..n]), port(&block[2 * n..])),
        SocketAddr::new(ip(&block[n..2 * n]), port(&block[2 * n + 2..])),
    )
}

/// Where the checksum stands in a header whose TLVs begin at `tlvs`; `None`: it has none.
fn checksum(header: &[u8], tlvs: usize) -> Result<Option<usize>, Invalid> {
    let mut found = None;
    let mut at = tlvs;
    while at < header.len() {
        let [kind, high, low] = *header.get(at..at + 3).ok_or(Invalid::Tlv)? else {
            unreachable!("three bytes were asked for");
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = at + 3;
        at = value + length;
        if at > header.len() {
            return Err(Invalid::Tlv);
        }
        if kind == CRC32C && (length != 4 || found.replace(value).is_some()) {
            return Err(Invalid::Tlv);
        }
    }
    Ok(found)
}

/// Whether the checksum that stands at `at` is that of the header with zeroes in its place.
fn verify(header: &[u8], at: usize) -> Result<(), Invalid> {
    let mut digest = CRC.digest();
    digest.update(&header[..at]);
    digest.update(&[0; 4]);
    digest.update(&header[at + 4..]);
    match digest.finalize().to_be_bytes() == header[at..at + 4] {
        true => Ok(()),
        false => Err(Invalid::Checksum),
    }
}

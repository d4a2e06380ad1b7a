//! Version 1: one line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Endpoints, Header, Invalid, begins_like};

/// The longest line with its end, that of UNKNOWN with two IPv6 addresses.
const MAX_LINE: usize = 107;
const START: &[u8] = b"PROXY ";

pub(super) fn may_be(bytes: &[u8]) -> bool {
    begins_like(bytes, START)
}

/// The line, once its end is there. A CR or LF that is not part of the end is a fault, also
/// where the line says UNKNOWN: whoever ends lines otherwise would never come to an end.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, Invalid> {
    let seen = &bytes[..bytes.len().min(MAX_LINE)];
    let end = seen.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    match end.map(|end| (end, &seen[end..])) {
        None | Some((_, b"\r")) if seen.len() < MAX_LINE => Ok(None),
        None | Some((_, b"\r")) => Err(Invalid::LongLine),
        Some((end, [b'\r', b'\n', ..])) => Ok(Some(Header {
            endpoints: endpoints(&seen[START.len()..end]).ok_or(Invalid::Line)?,
            length: end + 2,
        })),
        Some(_) => Err(Invalid::Line),
    }
}

/// What the line says behind its start. The outer `None`: nothing that it may say.
fn endpoints(line: &[u8]) -> Option<Option<Endpoints>> {
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Some(None);
    }
    let line = std::str::from_utf8(line).ok()?;
    let (family, rest) = line.split_once(' ')?;
    let read = match family {
        "TCP4" => addresses::<Ipv4Addr>(rest),
        "TCP6" => addresses::<Ipv6Addr>(rest),
        _ => None,
    };
    read.map(Some)
}

fn addresses<T: FromStr + Into<IpAddr>>(text: &str) -> Option<Endpoints> {
    let mut fields = text.split(' ');
    let mut field = || fields.next();
    let (source, destination) = (address::<T>(field()?)?, address::<T>(field()?)?);
    let (source_port, destination_port) = (port(field()?)?, port(field()?)?);
    field().is_none().then(|| {
        Endpoints::new(
            SocketAddr::new(source, source_port),
            SocketAddr::new(destination, destination_port),
        )
    })
}

/// (The standard library refuses heading zeroes in an IPv4 address, as the specification does.)
fn address<T: FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<T>().ok().map(Into::into)
}

fn port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    // No sign and no heading zeroes.
    (port.to_string() == text).then_some(port)
}

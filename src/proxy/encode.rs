//! Writing headers.

use std::net::{IpAddr, Ipv6Addr};

use super::Endpoints;
use super::v2::{LOCAL, PROXY, SIGNATURE, TCP4, TCP6, UNSPEC};
use crate::config::SendProxy;

/// The header of a connection between `endpoints`; `None`: between no IP addresses, which
/// version 1 calls UNKNOWN and version 2, as HAProxy does, LOCAL: every receiver must take that.
/// Empty where none is sent; at most 107 bytes.
pub fn encode(version: SendProxy, endpoints: Option<Endpoints>) -> Vec<u8> {
    match version {
        SendProxy::Off => Vec::new(),
        SendProxy::V1 => line(endpoints).into_bytes(),
        SendProxy::V2 => binary(endpoints),
    }
}

/// The header of a connection that isobar makes for itself, such as a check.
pub fn for_checks(version: SendProxy) -> Vec<u8> {
    encode(version, None)
}

/// The family of both addresses: IPv6 where one of them is, and then of both.
enum Pair {
    Four([u8; 4], [u8; 4]),
    Six(Ipv6Addr, Ipv6Addr),
}

impl Pair {
    fn of(endpoints: &Endpoints) -> Self {
        match (endpoints.source.ip(), endpoints.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Self::Four(source.octets(), destination.octets())
            }
            (source, destination) => Self::Six(six(source), six(destination)),
        }
    }
}

fn six(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn line(endpoints: Option<Endpoints>) -> String {
    let Some(endpoints) = endpoints else {
        return "PROXY UNKNOWN\r\n".to_owned();
    };
    let (source, destination) = (endpoints.source.port(), endpoints.destination.port());
    match Pair::of(&endpoints) {
        Pair::Four(..) => {
            let (from, to) = (endpoints.source.ip(), endpoints.destination.ip());
            format!("PROXY TCP4 {from} {to} {source} {destination}\r\n")
        }
        Pair::Six(from, to) => {
            format!("PROXY TCP6 {from} {to} {source} {destination}\r\n")
        }
    }
}

fn binary(endpoints: Option<Endpoints>) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let Some(endpoints) = endpoints else {
        header.extend([LOCAL, UNSPEC, 0, 0]);
        return header;
    };
    let mut begin = |family, addresses: [&[u8]; 2]| {
        let length = addresses[0].len() + addresses[1].len() + 4;
        header.extend([PROXY, family, 0, u8::try_from(length).expect("12 or 36")]);
        header.extend(addresses.concat());
    };
    match Pair::of(&endpoints) {
        Pair::Four(source, destination) => begin(TCP4, [&source, &destination]),
        Pair::Six(source, destination) => begin(TCP6, [&source.octets(), &destination.octets()]),
    }
    header.extend(endpoints.source.port().to_be_bytes());
    header.extend(endpoints.destination.port().to_be_bytes());
    header
}

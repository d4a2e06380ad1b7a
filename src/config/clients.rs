//! Who comes: entries of `allow`, `deny` and `trusted_proxies`, and what to write instead of what
//! is none.

use std::net::{IpAddr, Ipv4Addr};

use super::value::Value;
use crate::net::{Cidr, CidrError, Source};

const UNIX: &str = Source::UNIX;

/// Reads a block of addresses.
pub(super) fn cidr(text: &str) -> Result<Value, String> {
    match text.parse::<Cidr>() {
        Ok(block) => Ok(Value::Cidr(block, has_host_bits(text, block))),
        Err(error) => Err(match guess(text, error) {
            Some(meant) => format!("{error}, did you mean \"{meant}\"?"),
            None => error.to_string(),
        }),
    }
}

/// The same, or Unix clients.
pub(super) fn allowed(text: &str) -> Result<Value, String> {
    match text {
        UNIX => Ok(Value::Unix),
        _ if text.eq_ignore_ascii_case(UNIX) || text.starts_with("unix:") => Err(format!(
            "all Unix clients are one, did you mean \"{UNIX}\"?"
        )),
        _ => cidr(text),
    }
}

/// The same, which Unix clients are no part of.
pub(super) fn denied(text: &str) -> Result<Value, String> {
    match text.get(..UNIX.len()) {
        Some(head) if head.eq_ignore_ascii_case(UNIX) => Err(
            "Unix clients match no entry of `deny`: an `allow` without \"unix\" keeps them out"
                .to_owned(),
        ),
        _ => cidr(text),
    }
}

/// Whether bits behind the prefix are set, which do not count.
fn has_host_bits(text: &str, block: Cidr) -> bool {
    let address = text.split('/').next().unwrap_or(text);
    let written = address.parse::<IpAddr>();
    written.is_ok_and(|written| written.to_canonical() != block.first())
}

/// The block that was probably meant.
fn guess(text: &str, error: CidrError) -> Option<Cidr> {
    let (address, rest) = text.split_once('/').unwrap_or((text, ""));
    if let CidrError::Prefix(_) = error {
        return None;
    }
    let trimmed = address.trim().trim_matches(['[', ']']);
    let (ip, own) = match trimmed.parse::<IpAddr>() {
        Ok(ip) => (ip, None),
        Err(_) => match address.trim().parse::<std::net::SocketAddr>() {
            Ok(with_port) => (with_port.ip(), None),
            Err(_) => first_bytes(trimmed)?,
        },
    };
    let prefix = match rest.trim() {
        "" => own.or(Some(Cidr::of(ip).prefix())),
        rest => rest.parse().ok().or_else(|| netmask(rest)),
    };
    Cidr::new(ip, prefix?)
}

/// `10`, `10.`, `10.1`, `10.1.*`: the bytes that an IPv4 address begins with.
fn first_bytes(text: &str) -> Option<(IpAddr, Option<u8>)> {
    let parts: Vec<_> = text
        .split('.')
        .filter(|part| !matches!(*part, "" | "*"))
        .collect();
    let dotted = text.contains('.') && (1..=3).contains(&parts.len());
    let mut bytes = [0; 4];
    for (byte, part) in bytes.iter_mut().zip(&parts) {
        *byte = part.parse().ok()?;
    }
    let prefix = u8::try_from(parts.len() * 8).ok();
    dotted.then_some((Ipv4Addr::from(bytes).into(), prefix))
}

/// `255.255.0.0` as a number of bits.
fn netmask(text: &str) -> Option<u8> {
    let mask = text.parse::<Ipv4Addr>().ok()?.to_bits();
    let whole = mask.leading_ones() + mask.trailing_zeros() == u32::BITS || mask == u32::MAX;
    u8::try_from(mask.leading_ones()).ok().filter(|_| whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(reading: Result<Value, String>) -> String {
        reading.expect_err("a refusal")
    }

    #[test]
    fn an_entry_that_is_nearly_one_says_what_was_meant() {
        for (text, instead) in [
            ("10.0.0.0/255.255.255.0", "10.0.0.0/24"),
            ("10.0.0.9/255.255.255.255", "10.0.0.9"),
            ("10.0/16", "10.0.0.0/16"),
            ("10.", "10.0.0.0/8"),
            ("192.168.*", "192.168.0.0/16"),
            ("192.168.1.*", "192.168.1.0/24"),
            ("10.0.0.9:80", "10.0.0.9"),
            ("[fd00::1]", "fd00::1"),
            ("[fd00::]/8", "fd00::/8"),
            ("[::1]:80", "::1"),
            (" 10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/ 8", "10.0.0.0/8"),
        ] {
            let message = refusal(allowed(text));
            let expected = format!("did you mean \"{instead}\"?");
            assert!(message.ends_with(&expected), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_far_from_one_says_what_is_expected() {
        for text in [
            "",
            "all",
            "any",
            "example.com",
            "10.0.0.0/255.0.255.0",
            "1.2.3.4.5",
            "10",
        ] {
            let message = refusal(denied(text));
            assert!(message.ends_with("or an address"), "{text}: {message}");
        }
        let message = refusal(denied("10.0.0.0/33"));
        assert_eq!(message, "a prefix of IPv4 has at most 32 bits");
    }

    #[test]
    fn unix_clients_are_allowed_as_one_and_never_denied() {
        assert!(matches!(allowed("unix"), Ok(Value::Unix)));
        for text in ["Unix", "unix:/run/a.sock"] {
            assert!(
                refusal(allowed(text)).ends_with("did you mean \"unix\"?"),
                "{text}"
            );
            assert!(
                refusal(denied(text)).contains("an `allow` without"),
                "{text}"
            );
        }
    }

    #[test]
    fn host_bits_are_noticed_whatever_the_family() {
        for (text, has) in [
            ("10.0.0.0/8", false),
            ("10.0.0.1/8", true),
            ("10.0.0.1", false),
            ("10.0.0.1/32", false),
            ("::ffff:10.0.0.0/104", false),
            ("::ffff:10.0.0.1/104", true),
            ("fd00::1/8", true),
            ("0::0/0", false),
        ] {
            let read = cidr(text);
            assert!(
                matches!(read, Ok(Value::Cidr(_, bits)) if bits == has),
                "{text}"
            );
        }
    }
}

//! Host names, as a ClientHello carries them and as the file lists them.

use std::net::IpAddr;

/// The longest name, as text without a final dot: RFC 1035, 2.3.4, has 255 bytes with a length
/// before each label and an empty one at the end.
const MAX_NAME: usize = 253;
/// The longest label.
const MAX_LABEL: usize = 63;

/// Bytes that are no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a host name has labels of 1 to 63 letters, digits, `-` and `_`, and at most 253 characters"
)]
pub struct NotAName;

/// The name in lower case and without a final dot; `None`: an IP address, which RFC 6066 does not
/// let a client ask for, so that it asks for nothing.
///
/// Underscores are allowed, as they are in use; letters beyond ASCII are not, as RFC 6066 wants
/// them encoded (RFC 5890).
///
/// # Errors
/// [`NotAName`].
pub fn host_name(bytes: &[u8]) -> Result<Option<String>, NotAName> {
    let text = std::str::from_utf8(bytes).map_err(|_| NotAName)?;
    if is_address(text) {
        return Ok(None);
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    match name.len() <= MAX_NAME && name.split('.').all(is_label) {
        true => Ok(Some(name.to_ascii_lowercase())),
        false => Err(NotAName),
    }
}

fn is_address(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    inner.unwrap_or(text).parse::<IpAddr>().is_ok()
}

fn is_label(label: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_by_its_letters_whatever_their_case_and_a_final_dot() {
        for written in ["DB.Example.COM", "db.example.com", "db.example.com."] {
            let name = host_name(written.as_bytes());
            assert_eq!(name, Ok(Some("db.example.com".to_owned())), "{written}");
        }
        let longest = format!("{}.{}", vec!["x".repeat(63); 3].join("."), "y".repeat(61));
        assert_eq!(longest.len(), 253);
        for name in ["a", "_sip._tcp.a-b", "xn--nxasmq6b", "1.2.3", &longest] {
            assert_eq!(host_name(name.as_bytes()), Ok(Some(name.to_owned())));
        }
    }

    #[test]
    fn an_address_is_no_name() {
        for address in ["10.0.0.1", "::1", "[::1]", "2001:db8::1"] {
            assert_eq!(host_name(address.as_bytes()), Ok(None), "{address}");
        }
    }

    #[test]
    fn what_no_name_can_be_is_refused() {
        let long = vec!["x".repeat(63); 4].join(".");
        let label = "x".repeat(64);
        for text in [
            "", ".", "a..b", "a..", ".a", "a b", "a\0b", "*.a", "a:1", "é", &long, &label,
        ] {
            assert_eq!(host_name(text.as_bytes()), Err(NotAName), "{text:?}");
        }
        assert_eq!(host_name(b"a\xff"), Err(NotAName));
    }
}

//! Where a backend is: an address, or a name that stands for addresses.
//!
//! `HOST:PORT` is a host name, whose addresses all have that port; `srv:NAME` is a service of
//! RFC 2782, whose records bring ports, weights and priorities. Which addresses a name stands
//! for is asked elsewhere: here is only how names are written.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Address;

/// An address, or a name for some.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Location {
    /// This one.
    Address(Address),
    /// Every address of a host, with this port.
    Host(HostName, u16),
    /// Every address of a service.
    Service(HostName),
}

/// The name of a host or a service as DNS has it, in lower case. A final dot says that no search
/// list applies to it, see resolv.conf(5).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Arc<str>);

/// A text that is not a [`Location`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Nothing that is written in one of the ways there are.
    #[error("expected IP:PORT, [IP6]:PORT, NAME:PORT, srv:NAME or unix:PATH")]
    Form,
    /// No port, or 0.
    #[error("a backend needs a port, from 1 to 65535")]
    Port,
    /// A service with a port of its own.
    #[error("a service has no port here: its SRV records give one")]
    ServicePort,
    /// A label that is empty or too long, or a name that is.
    #[error("a name has at most 253 characters, in labels of 1 to 63 between dots")]
    Length,
    /// A character that no host name has.
    #[error(
        "a host name has letters, digits and hyphens, and no label begins or ends with a hyphen"
    )]
    Characters,
    /// The last label is a number: more like an address than a name, see RFC 1123, section 2.1.
    #[error("the last label of a host name is no number")]
    Number,
}

/// Longest name, without a final dot: RFC 1035, section 2.3.4, in its written form.
const MAX_NAME: usize = 253;
/// Longest label.
const MAX_LABEL: usize = 63;

impl Location {
    /// The address, where it is one.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Address(address) => Some(address),
            Self::Host(..) | Self::Service(_) => None,
        }
    }

    /// Whether it is a name, whose addresses have to be asked for.
    pub fn is_name(&self) -> bool {
        self.address().is_none()
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Address(Address::Unix(_)))
    }
}

impl HostName {
    /// The name of a host: RFC 952 as RFC 1123 has it.
    ///
    /// # Errors
    /// [`LocationError`].
    pub fn of_host(name: &str) -> Result<Self, LocationError> {
        let name = Self::read(name, |byte| byte.is_ascii_alphanumeric() || byte == b'-')?;
        let last = name.plain().rsplit('.').next().unwrap_or_default();
        match last.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Err(LocationError::Number),
            false => Ok(name),
        }
    }

    /// The name of a service, which has underscores: RFC 2782.
    ///
    /// # Errors
    /// [`LocationError`].
    pub fn of_service(name: &str) -> Result<Self, LocationError> {
        Self::read(name, |byte| {
            byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
        })
    }

    fn read(name: &str, allowed: impl Fn(u8) -> bool) -> Result<Self, LocationError> {
        let plain = name.strip_suffix('.').unwrap_or(name);
        if plain.len() > MAX_NAME {
            return Err(LocationError::Length);
        }
        for label in plain.split('.') {
            if label.is_empty() || label.len() > MAX_LABEL {
                return Err(LocationError::Length);
            }
            if !label.bytes().all(&allowed) || label.starts_with('-') || label.ends_with('-') {
                return Err(LocationError::Characters);
            }
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the final dot.
    pub fn plain(&self) -> &str {
        self.0.strip_suffix('.').unwrap_or(&self.0)
    }

    /// Whether it ends in a dot.
    pub fn is_absolute(&self) -> bool {
        self.0.ends_with('.')
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Service(name) => write!(f, "srv:{name}"),
        }
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Some(name) = text.strip_prefix("srv:") {
            return match name.contains(':') {
                true => Err(LocationError::ServicePort),
                false => HostName::of_service(name).map(Self::Service),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(LocationError::Form)?;
        if host.contains([':', '/', '[', ']']) {
            return Err(LocationError::Form);
        }
        let host = HostName::of_host(host)?;
        match port.parse() {
            Ok(0) | Err(_) => Err(LocationError::Port),
            Ok(port) => Ok(Self::Host(host, port)),
        }
    }
}

impl From<Address> for Location {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}

impl serde::Serialize for Location {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Location {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for HostName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for HostName {
    /// What this process would write: a service may have all that a host has.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::of_service(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Location, LocationError> {
        text.parse()
    }

    #[test]
    fn every_written_form_reads_back_as_itself() {
        for text in [
            "10.0.0.1:80",
            "[fd00::1]:80",
            "unix:/run/a.sock",
            "app.internal:80",
            "app.internal.:80",
            "localhost:65535",
            "3com.example:1",
            "srv:_pg._tcp.example.com",
            "srv:web.service.consul",
        ] {
            let location = read(text).expect(text);
            assert_eq!(location.to_string(), text);
            let json = serde_json::to_string(&location).expect("a string");
            assert_eq!(serde_json::from_str::<Location>(&json).ok(), Some(location));
        }
    }

    #[test]
    fn the_case_of_a_name_does_not_matter() {
        assert_eq!(read("App.Internal:80"), read("app.internal:80"));
        assert_eq!(read("srv:_PG._TCP.x"), read("srv:_pg._tcp.x"));
    }

    #[test]
    fn what_is_no_name_says_what_is_wrong() {
        use LocationError::{Characters, Form, Length, Number, Port, ServicePort};
        let label = "a".repeat(MAX_LABEL + 1);
        let name = vec!["abcdefg"; 32].join(".");
        for (text, error) in [
            ("app.internal", Form),
            ("http://app.internal:80", Form),
            ("app.internal:", Port),
            ("app.internal:0", Port),
            ("app.internal:65536", Port),
            ("app.internal:http", Port),
            ("app_1.internal:80", Characters),
            ("-app.internal:80", Characters),
            ("app-.internal:80", Characters),
            ("b\u{fc}ro.internal:80", Characters),
            ("app..internal:80", Length),
            (":80", Length),
            (&format!("{label}.internal:80"), Length),
            (&format!("{name}:80"), Length),
            ("10.0.0.256:80", Number),
            ("10.0.1:80", Number),
            ("srv:_pg._tcp.example.com:5432", ServicePort),
            ("srv:", Length),
        ] {
            assert_eq!(read(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_final_dot_is_kept_and_known() {
        let name = HostName::of_host("app.internal.").expect("a name");
        assert!(name.is_absolute());
        assert_eq!(name.plain(), "app.internal");
    }
}

//! Strings of the file that are more than text: each is read into what it stands for, or
//! refused with a sentence that says what to write instead.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::AccessSink;
use super::units;
use super::value::Value;
use crate::hello::NamePattern;
use crate::net::{Address, AddressError, HostName, Location, LocationError, canonical};

type Reading = Result<Value, String>;

/// The longest name of a listener, a pool or a backend.
const MAX_NAME: usize = 64;

/// `[A-Za-z0-9_.-]`, 1 to 64 of them.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

/// What a name must be, to be read behind the name.
pub(super) const NAME_RULE: &str =
    "a name has 1 to 64 characters out of A-Z, a-z, 0-9, `_`, `.` and `-`";

/// Whether a pool of that name exists is for [`super::build`] to say.
pub(super) fn pool_name(text: &str) -> Reading {
    Ok(Value::Text(text.to_owned()))
}

pub(super) fn backend_name(text: &str) -> Reading {
    if is_name(text) || text.is_empty() {
        return Ok(Value::Text(text.to_owned()));
    }
    Err(NAME_RULE.to_owned())
}

pub(super) fn user(text: &str) -> Reading {
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == ':') {
        return Err("a user name has no spaces and no colon".to_owned());
    }
    Ok(Value::Text(text.to_owned()))
}

/// A token travels in a header field: RFC 6750, section 2.1, leaves no room for spaces.
pub(super) fn token(text: &str) -> Reading {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "a token has printable ASCII characters only, no space, no line end".to_owned(),
        );
    }
    Ok(Value::Text(text.to_owned()))
}

/// A name as it stands in a `Host` header, in lower case.
pub(super) fn host_name(text: &str) -> Reading {
    let (name, port) = text.split_once(':').unwrap_or((text, ""));
    if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("the port is ignored, did you mean \"{name}\"?"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.is_empty() || !text.chars().all(allowed) {
        return Err("expected a host name such as \"lb.example.com\"".to_owned());
    }
    Ok(Value::Text(text.to_ascii_lowercase()))
}

/// A name that can be sent as SNI (RFC 6066, section 3: no address), or `""`.
pub(super) fn server_name(text: &str) -> Reading {
    use rustls::pki_types::DnsName;
    if text.is_empty() || DnsName::try_from(text).is_ok() && text.parse::<IpAddr>().is_err() {
        return Ok(Value::Text(text.to_owned()));
    }
    Err("expected a host name such as \"db.example.com\"".to_owned())
}

/// A name, or a pattern of names, that clients ask for.
pub(super) fn sni(text: &str) -> Reading {
    let pattern = NamePattern::parse(text).map_err(|error| error.to_string())?;
    Ok(Value::Name(pattern))
}

/// A protocol's name: RFC 7301, section 3.1, has 1 to 255 bytes.
pub(super) fn alpn(text: &str) -> Reading {
    match (1..=255).contains(&text.len()) {
        true => Ok(Value::Text(text.to_owned())),
        false => Err("a protocol's name has 1 to 255 bytes".to_owned()),
    }
}

pub(super) fn path(text: &str) -> Reading {
    if text.contains('\0') {
        return Err("a path has no NUL character".to_owned());
    }
    Ok(Value::Text(text.to_owned()))
}

/// The target of a request (RFC 9112, section 3.2.1); what else a line could smuggle in, such
/// as a second header, is refused.
pub(super) fn request_target(text: &str) -> Reading {
    if !text.starts_with('/') {
        return Err(format!("a path begins with `/`, did you mean \"/{text}\"?"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "other characters than printable ASCII are written %XX, a space %20".to_owned(),
        );
    }
    Ok(Value::Text(text.to_owned()))
}

pub(super) fn host_header(text: &str) -> Reading {
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'/')
    {
        return Err("expected a host name, with or without a port".to_owned());
    }
    Ok(Value::Text(text.to_owned()))
}

pub(super) fn statuses(text: &str) -> Reading {
    units::statuses(text).map(Value::Statuses)
}

pub(super) fn rate(text: &str) -> Reading {
    let rate = text.parse().map(Value::Rate);
    rate.map_err(str::to_owned)
}

/// A rate, or `""`.
pub(super) fn rate_or_none(text: &str) -> Reading {
    match text {
        "" => Ok(Value::Off),
        text => rate(text),
    }
}

pub(super) fn percent(text: &str) -> Reading {
    units::percent(text).map(Value::Share)
}

pub(super) fn mode(text: &str) -> Reading {
    units::mode(text).map(Value::Mode)
}

pub(super) fn bytes(text: &str) -> Reading {
    units::bytes(text).map(Value::Bytes)
}

pub(super) fn access_file(text: &str) -> Reading {
    path(text)?;
    Ok(Value::Sink(if text.is_empty() {
        AccessSink::Stderr
    } else if text.starts_with("unix:") {
        match text.parse().map_err(|error| format!("{error}"))? {
            Address::Unix(path) => AccessSink::Datagram(path),
            Address::Ip(_) => unreachable!("`unix:` begins a socket path"),
        }
    } else {
        AccessSink::File(text.into())
    }))
}

pub(super) fn admin_address(text: &str) -> Reading {
    if text.is_empty() {
        return Ok(Value::Off);
    }
    bind_address(text)
}

/// An address to listen on.
pub(super) fn bind_address(text: &str) -> Reading {
    match address(text) {
        Ok(address) => Ok(Value::Address(address, text.to_owned())),
        Err(Refused::HostName) => Err(meant(
            "an address to listen on is written in numbers",
            text.strip_prefix("localhost:")
                .map(|port| format!("127.0.0.1:{port}")),
        )),
        Err(Refused::Form) => Err(AddressError::Form.to_string()),
        Err(Refused::Said(message)) => Err(message),
    }
}

/// An address of this machine to come from.
pub(super) fn source_address(text: &str) -> Reading {
    const EXPECTED: &str = "expected an IP address of this machine such as \"10.0.0.5\"";
    let ip = match text.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical(),
        Err(_) => {
            let address = text.parse::<SocketAddr>().ok();
            let ip = address.map(|address| address.ip().to_string());
            let ip = ip.or_else(|| Some(text.strip_prefix('[')?.strip_suffix(']')?.to_owned()));
            return Err(meant(
                EXPECTED,
                ip.filter(|ip| ip.parse::<IpAddr>().is_ok()),
            ));
        }
    };
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(format!("nothing comes from that: {EXPECTED}"));
    }
    if matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
        return Err(
            "a link-local address is none to come from: it is one of each interface".to_owned(),
        );
    }
    Ok(Value::Ip(ip))
}

/// An address to dial, or a name that stands for some.
pub(super) fn backend_address(text: &str) -> Reading {
    let location = if text.starts_with("srv:") {
        text.parse().map_err(|error| service_fault(text, error))?
    } else {
        match address(text) {
            Ok(address) if address.port() == Some(0) => {
                return Err(LocationError::Port.to_string());
            }
            Ok(address) => Location::Address(address),
            Err(Refused::HostName | Refused::Form) => {
                text.parse().map_err(|error| host_fault(text, error))?
            }
            Err(Refused::Said(message)) => return Err(message),
        }
    };
    Ok(Value::Location(location, text.to_owned()))
}

fn service_fault(text: &str, error: LocationError) -> String {
    let instead = match (error, text.rsplit_once(':')) {
        (LocationError::ServicePort, Some((service, _))) => Some(service.to_owned()),
        _ => None,
    };
    meant(&error.to_string(), instead)
}

fn host_fault(text: &str, error: LocationError) -> String {
    // A name alone lacks its port; labels with underscores are those of a service.
    let bare = HostName::of_host(text).is_ok();
    match (error, text.rsplit_once(':')) {
        (LocationError::Form, _) if bare => {
            meant("a backend needs a port", Some(format!("{text}:80")))
        }
        (LocationError::Characters, Some((host, _))) if HostName::of_service(host).is_ok() => {
            let instead = host.starts_with('_').then(|| format!("srv:{host}"));
            meant("a host name has no underscore", instead)
        }
        // An address with a slip in it.
        (LocationError::Number, _) => LocationError::Form.to_string(),
        _ => error.to_string(),
    }
}

enum Refused {
    /// `NAME:PORT`, which only backends may be.
    HostName,
    /// Nothing that is written in one of the ways there are.
    Form,
    Said(String),
}

fn address(text: &str) -> Result<Address, Refused> {
    match text.parse::<Address>() {
        // One address has one written form: a mapped one is the IPv4 address it stands for.
        Ok(Address::Ip(ip)) if ip.ip() != ip.ip().to_canonical() => Ok(Address::Ip(canonical(ip))),
        Ok(Address::Ip(SocketAddr::V6(ip))) if lacks_scope(&ip) => Err(Refused::Said(
            "a link-local address needs the number of its interface, as in \"[fe80::1%2]:80\"; \
             `ip link` shows the numbers"
                .to_owned(),
        )),
        Ok(address) => Ok(address),
        Err(_) if text.starts_with("udp:") => Err(Refused::Said(
            "UDP is out of scope: isobar balances TCP".to_owned(),
        )),
        Err(error) => match guess(text) {
            Some(meant_address) => Err(Refused::Said(meant(
                &error.to_string(),
                Some(meant_address),
            ))),
            None if is_host_and_port(text) => Err(Refused::HostName),
            None if error == AddressError::Form => Err(Refused::Form),
            None => Err(Refused::Said(error.to_string())),
        },
    }
}

/// Whether the kernel could not tell by which interface it is reached, see ipv6(7).
fn lacks_scope(address: &SocketAddrV6) -> bool {
    address.ip().is_unicast_link_local() && address.scope_id() == 0
}

/// The address that was probably meant.
fn guess(text: &str) -> Option<String> {
    let valid = |text: String| text.parse::<Address>().is_ok().then_some(text);
    let port = text.strip_prefix("*:").or_else(|| text.strip_prefix(':'));
    if port.unwrap_or(text).parse::<u16>().is_ok() {
        return valid(format!("0.0.0.0:{}", port.unwrap_or(text)));
    }
    let schemes = ["tcp://", "tcp:", "http://", "https://"];
    if let Some(rest) = schemes.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        return valid(rest.trim_end_matches('/').to_owned());
    }
    if text.starts_with('/') {
        return valid(format!("unix:{text}"));
    }
    // `::1:80` is an address by itself, but hardly what was meant.
    if let Some((ip, port)) = text.rsplit_once(':')
        && ip.parse::<Ipv6Addr>().is_ok()
        && port.parse::<u16>().is_ok()
    {
        return valid(format!("[{ip}]:{port}"));
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(format!("{}", SocketAddr::new(ip, 80)));
    }
    None
}

/// Labels and a port: `db.example.com:5432`.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let dotted_number = host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let host = !host.is_empty() && host.bytes().all(allowed) && !dotted_number;
    host && port.parse::<u16>().is_ok()
}

fn meant(message: &str, instead: Option<String>) -> String {
    match instead {
        Some(instead) => format!("{message}, did you mean \"{instead}\"?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(reading: Reading) -> String {
        reading.expect_err("a refusal")
    }

    #[test]
    fn an_address_that_is_nearly_one_says_what_was_meant() {
        for (text, instead) in [
            ("8080", "0.0.0.0:8080"),
            (":8080", "0.0.0.0:8080"),
            ("*:8080", "0.0.0.0:8080"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("tcp://10.0.0.1:80", "10.0.0.1:80"),
            ("/run/a.sock", "unix:/run/a.sock"),
            ("10.0.0.1", "10.0.0.1:80"),
            ("::1", "[::1]:80"),
            ("::1:8080", "[::1]:8080"),
            ("http://10.0.0.1:80/", "10.0.0.1:80"),
            ("https://[::1]:443", "[::1]:443"),
            ("1:2:3:4:5:6:7:8:443", "[1:2:3:4:5:6:7:8]:443"),
        ] {
            let message = refusal(bind_address(text));
            let expected = format!("did you mean \"{instead}\"?");
            assert!(message.ends_with(&expected), "{text}: {message}");
        }
    }

    #[test]
    fn a_backend_may_be_a_name_but_only_a_proper_one() {
        for text in [
            "app.internal:80",
            "localhost:80",
            "srv:_pg._tcp.example.com",
        ] {
            assert!(backend_address(text).is_ok(), "{text}");
            assert!(bind_address(text).is_err(), "{text}");
        }
        for (text, expected) in [
            ("udp://10.0.0.1:53", "out of scope"),
            ("10.0.0.1:0", "a backend needs a port"),
            ("app.internal:0", "a backend needs a port"),
            ("app.internal", "did you mean \"app.internal:80\"?"),
            ("_pg._tcp.x:80", "did you mean \"srv:_pg._tcp.x\"?"),
            ("app_1.internal:80", "a host name has no underscore"),
            ("srv:_pg._tcp.x:80", "did you mean \"srv:_pg._tcp.x\"?"),
            ("srv:a b", "letters, digits and hyphens"),
            ("a b:80", "letters, digits and hyphens"),
            ("10.0.0.256:80", "expected IP:PORT"),
            ("10.0.0.1:65536", "expected IP:PORT"),
            ("", "expected IP:PORT"),
        ] {
            let message = refusal(backend_address(text));
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn a_source_is_an_address_alone() {
        for (text, expected) in [
            ("10.0.0.5", "10.0.0.5"),
            ("::ffff:10.0.0.5", "10.0.0.5"),
            ("fd00::5", "fd00::5"),
        ] {
            let expected: IpAddr = expected.parse().expect("an address");
            assert!(
                matches!(source_address(text), Ok(Value::Ip(ip)) if ip == expected),
                "{text}"
            );
        }
        for (text, said) in [
            ("10.0.0.5:80", "did you mean \"10.0.0.5\"?"),
            ("[fd00::5]:80", "did you mean \"fd00::5\"?"),
            ("[fd00::5]", "did you mean \"fd00::5\"?"),
            ("eth0", "such as \"10.0.0.5\""),
            ("", "such as \"10.0.0.5\""),
            ("0.0.0.0", "nothing comes from that"),
            ("::", "nothing comes from that"),
            ("224.0.0.1", "nothing comes from that"),
            ("fe80::1", "link-local"),
        ] {
            let message = refusal(source_address(text));
            assert!(message.contains(said), "{text}: {message}");
        }
    }

    #[test]
    fn a_link_local_address_says_which_interface() {
        assert!(refusal(backend_address("[fe80::1]:80")).contains("interface"));
        assert!(backend_address("[fe80::1%2]:80").is_ok());
    }

    #[test]
    fn a_mapped_address_is_read_as_ipv4() {
        let Ok(Value::Address(address, _)) = bind_address("[::ffff:10.0.0.1]:80") else {
            panic!("an address");
        };
        assert_eq!(address, "10.0.0.1:80".parse().expect("an address"));
    }

    #[test]
    fn nothing_that_travels_in_a_header_can_end_it() {
        assert!(token("a b").is_err() && token("a\n").is_err() && token("é").is_err());
        assert!(request_target("/a b").is_err() && request_target("/\r\nX: y").is_err());
        assert!(request_target("health").is_err() && request_target("/ok?x=1").is_ok());
        assert!(host_header("a\r\nX: y").is_err() && host_header("a:80").is_ok());
    }

    #[test]
    fn names_are_short_and_plain() {
        for name in ["a", "A-z_0.9", &"x".repeat(64)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn hosts_are_names_without_port_in_lower_case() {
        assert!(
            matches!(host_name("LB.example.com"), Ok(Value::Text(name)) if name == "lb.example.com")
        );
        assert!(refusal(host_name("lb:9900")).contains("did you mean \"lb\"?"));
        assert!(host_name("").is_err() && host_name("http://a").is_err());
    }

    #[test]
    fn a_server_name_is_a_name_and_no_address() {
        assert!(server_name("db.example.com").is_ok() && server_name("").is_ok());
        assert!(server_name("10.0.0.1").is_err() && server_name("a b").is_err());
    }
}

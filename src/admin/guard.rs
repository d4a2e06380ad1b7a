//! Who may ask for what: addresses, tokens, host names, origins.
//!
//! Pure: a request's head goes in, a refusal or nothing comes out. In this order:
//!
//! 1. *Host* (400, 421). A page that a browser loaded from somewhere else can make its name
//!    resolve to this address; the browser then sends that name, so only names that an
//!    attacker cannot own are taken. Not asked of what probes use, nor on a Unix socket.
//! 2. *Origin* (403). A browser says which site made it ask; only this one may.
//! 3. *Authorization* (401, 403). Reads are open to this machine, everything else shows the
//!    token, where one is set. A Unix socket without a file has no mode that would keep other
//!    users of the machine out: there nothing is changed without a token. Authentication comes before anything that tells what exists.
//! 4. *What it brings* (403 where nothing may be changed, 413, 415).

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};

use super::error::Refusal;
use crate::config;
use crate::net::Address;

/// Largest body of a request: a configuration to plan with, several times over.
pub(super) const MAX_BODY: usize = 4 << 20;

/// Probes and monitoring may read these without a token and under any name.
const OPEN: [&str; 3] = ["/metrics", "/healthz", "/readyz"];

/// It is asked with a body, and changes nothing.
const PLAN: &str = "/plan";

/// What a rule that forbids changes says.
pub(super) const READ_ONLY: &str = "the admin endpoint is read-only";

/// The page itself says nothing; what it shows it asks for.
const SHELL: &str = "/";

/// The rules of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    reach: Reach,
    /// Empty: none.
    token: String,
    read_only: bool,
    hosts: Vec<String>,
}

/// From where the endpoint can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// By whoever may open the socket's file.
    Unix,
    /// By every user of this machine, whoever that is.
    Abstract,
    /// From this machine.
    Loopback,
    /// From anywhere.
    Network,
}

impl Guard {
    /// The rules of `settings` for an endpoint that is bound to `address`.
    pub(super) fn new(settings: &config::Admin, address: &Address) -> Self {
        let reach = match address.ip() {
            None if address.is_abstract() => Reach::Abstract,
            None => Reach::Unix,
            Some(ip) if ip.is_loopback() => Reach::Loopback,
            Some(_) => Reach::Network,
        };
        Self {
            reach,
            token: settings.token.clone(),
            read_only: settings.read_only,
            hosts: settings.hosts.clone(),
        }
    }

    /// Lets a request through, or says why not.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub(super) fn check(&self, request: &Parts) -> Result<(), Refusal> {
        let host = self.host(request)?;
        is_own_origin(&request.headers, host.as_deref())?;
        self.authorize(request)?;
        if self.read_only && is_change(&request.method) && !may_only_look(request) {
            return Err(forbidden(READ_ONLY));
        }
        takes_body(request)
    }

    /// The host that was asked for, if that is one of ours.
    fn host(&self, request: &Parts) -> Result<Option<String>, Refusal> {
        let host = requested_host(request)?;
        let unix = matches!(self.reach, Reach::Unix | Reach::Abstract);
        let any = unix || OPEN.contains(&request.uri.path());
        match &host {
            Some(host) if !any && !self.answers_to(name(host)) => Err(Refusal::new(
                StatusCode::MISDIRECTED_REQUEST,
                "this host name is not listed in admin.hosts",
            )),
            _ => Ok(host),
        }
    }

    fn answers_to(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        is_ip_literal(&name) || is_loopback_name(&name) || self.hosts.contains(&name)
    }

    fn authorize(&self, request: &Parts) -> Result<(), Refusal> {
        let path = request.uri.path();
        let change = is_change(&request.method);
        let open = !change && (OPEN.contains(&path) || path == SHELL);
        let trusted = match self.reach {
            Reach::Network => false,
            Reach::Abstract => !change,
            Reach::Unix | Reach::Loopback => !change || self.token.is_empty(),
        };
        if open || trusted {
            return Ok(());
        }
        if self.token.is_empty() {
            return Err(forbidden(match self.reach {
                Reach::Abstract => {
                    "refused on a socket that every user of this machine reaches while admin.token is empty"
                }
                _ => {
                    "refused on an address that is not of this machine alone while admin.token is empty"
                }
            }));
        }
        if request
            .headers
            .get_all(header::AUTHORIZATION)
            .iter()
            .count()
            > 1
        {
            return Err(Refusal::bad_request("more than one Authorization header"));
        }
        match bearer(&request.headers) {
            None => Err(unauthorized("a bearer token is required")),
            Some(shown) if same(shown, self.token.as_bytes()) => Ok(()),
            Some(_) => Err(unauthorized("the bearer token is wrong")),
        }
    }
}

/// Whether a request changes nothing though its method would let it. Whether a rebalance is a
/// dry run is said in its body: who reads that refuses those that are not.
fn may_only_look(request: &Parts) -> bool {
    let path = request.uri.path();
    let rebalances = || path.starts_with("/pools/") && path.ends_with("/rebalance");
    match request.method {
        Method::POST => path == PLAN || rebalances(),
        Method::DELETE => {
            let query = request.uri.query().unwrap_or_default().split('&');
            let mut flags = query.filter(|pair| pair.split('=').next() == Some("dry_run"));
            let connections = path == "/connections" || path.starts_with("/connections/");
            connections && flags.next() == Some("dry_run=true") && flags.next().is_none()
        }
        _ => false,
    }
}

pub(super) fn forbidden(reason: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, reason)
}

fn unauthorized(reason: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, reason)
}

/// Everything that is not known to change nothing, RFC 9110 section 9.2.1.
pub(super) fn is_change(method: &Method) -> bool {
    !method.is_safe()
}

/// `Host`, or what an absolute target names instead of it, RFC 9112 section 3.2.
fn requested_host(request: &Parts) -> Result<Option<String>, Refusal> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::bad_request("more than one Host header"));
    }
    if header.is_none() && request.version >= Version::HTTP_11 {
        return Err(Refusal::bad_request("no Host header"));
    }
    if let Some(authority) = request.uri.authority() {
        return Ok(Some(Authority::as_str(authority).to_owned()));
    }
    let text = |host: &[u8]| String::from_utf8_lossy(host).into_owned();
    Ok(header.map(|host| text(host.as_bytes())))
}

/// A host without its port; brackets stay.
fn name(host: &str) -> &str {
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']').map(|end| end + 2),
        None => host.find(':'),
    };
    &host[..end.unwrap_or(host.len())]
}

fn is_ip_literal(name: &str) -> bool {
    let inner = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Names that no DNS of an attacker answers for: RFC 6761 section 6.3, and what Linux
/// distributions write into /etc/hosts.
fn is_loopback_name(name: &str) -> bool {
    let usual = [
        "localhost",
        "localhost.localdomain",
        "localhost4",
        "localhost6",
        "localhost6.localdomain6",
        "ip6-localhost",
        "ip6-loopback",
    ];
    usual.contains(&name) || name.ends_with(".localhost")
}

/// A browser that names an origin must have come from this endpoint, port included.
fn is_own_origin(headers: &HeaderMap, host: Option<&str>) -> Result<(), Refusal> {
    let own = |origin: &[u8]| {
        let origin = String::from_utf8_lossy(origin).to_ascii_lowercase();
        let host = host.unwrap_or_default().to_ascii_lowercase();
        let same = |scheme, port| {
            let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_owned();
            let origin = origin.strip_prefix(scheme);
            origin.is_some_and(|origin| !host.is_empty() && bare(origin) == bare(&host))
        };
        same("http://", ":80") || same("https://", ":443")
    };
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match origins.all(|origin| own(origin.as_bytes())) {
        true => Ok(()),
        false => Err(forbidden("asked for by a page of another origin")),
    }
}

/// The token that a request shows.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let shown = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = shown.split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

/// Compares in a time that tells nothing of where the first difference is.
fn same(shown: &[u8], token: &[u8]) -> bool {
    let differing = shown.iter().zip(token).fold(0, |differing, (a, b)| {
        std::hint::black_box(differing | (a ^ b))
    });
    shown.len() == token.len() && differing == 0
}

/// Bodies are bounded, and of a kind that no form of a browser sends.
fn takes_body(request: &Parts) -> Result<(), Refusal> {
    let header = |name: HeaderName| {
        let value = request.headers.get(name)?;
        value.to_str().ok()
    };
    let length = header(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(Refusal::too_large());
    }
    let empty =
        length.unwrap_or(0) == 0 && !request.headers.contains_key(header::TRANSFER_ENCODING);
    if empty || !is_change(&request.method) {
        return Ok(());
    }
    let kind = header(header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let known = ["application/json", "application/toml"];
    match known.iter().any(|known| kind.eq_ignore_ascii_case(known)) {
        true => Ok(()),
        false => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a body is application/json or application/toml",
        )),
    }
}

#[cfg(test)]
mod tests;

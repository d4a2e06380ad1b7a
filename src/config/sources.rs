//! `pool.NAME.source_address`: what of it has no effect.

use std::net::IpAddr;

use super::Resolve;
use super::build::{self, Named};
use super::faults::Sink;
use super::value::At;
use crate::net::{Address, Location};

/// The key.
pub(super) const KEY: &str = "source_address";

/// Throws the warnings at the sink. What `[defaults.pool]` has may be for several pools, and is
/// looked at for what a pool lacks alone.
pub(super) fn check(pool: &Named<'_>, sink: &mut Sink<'_>) {
    let all: Vec<At<IpAddr>> = pool.scope.given(KEY).unwrap_or_default();
    let resolve = pool.scope.choice("resolve");
    let backends: Vec<_> = build::backends(&pool.scope)
        .filter_map(|(scope, _)| Some((Kin::of(&scope.given("address")?, resolve), scope)))
        .collect();
    let Some(first) = all.first().filter(|_| !backends.is_empty()) else {
        return;
    };
    let own = pool.scope.own(KEY);
    let place = own.map_or(&pool.place, |at| &at.span).clone();
    if backends.iter().all(|(kin, _)| *kin == Kin::Unix) {
        if own.is_some() {
            let message =
                format!("`{KEY}` has no effect: all backends of this pool are Unix sockets");
            sink.warn(first.span.clone(), message);
        }
        return;
    }
    for family in [Family::V4, Family::V6] {
        let has_source = all.iter().any(|ip| family.has(ip.value));
        let mut of_it = backends.iter().filter(|(kin, _)| *kin == Kin::Of(family));
        if let (false, Some((_, scope))) = (has_source, of_it.next()) {
            let name = build::backend_name(scope).unwrap_or_default();
            let name = build::shown_name(scope, &name);
            let message = format!(
                "`{KEY}` has no {} address: connections to backend `{name}` are not bound",
                family.as_str()
            );
            sink.warn(place.clone(), message);
        }
    }
    if own.is_some() {
        without_use(&all, &backends, sink);
    }
}

/// Addresses that no connection can come from, or that stand there again.
fn without_use<T>(all: &[At<IpAddr>], backends: &[(Kin, T)], sink: &mut Sink<'_>) {
    for (index, ip) in all.iter().enumerate() {
        let family = Family::of(ip.value);
        let message = if !backends.iter().any(|(kin, _)| kin.may_be(family)) {
            let family = family.as_str();
            format!("this has no effect: no backend of this pool has an {family} address")
        } else if all[..index].iter().any(|other| other.value == ip.value) {
            "this has no effect: it stands there already".to_owned()
        } else {
            continue;
        };
        sink.warn(ip.span.clone(), message);
    }
}

/// What a backend's address is, as far as the file tells.
#[derive(Clone, Copy, PartialEq)]
enum Kin {
    Unix,
    Of(Family),
    /// Of a name, as DNS will have it.
    Either,
}

impl Kin {
    fn of(location: &Location, resolve: Resolve) -> Self {
        match (location, resolve) {
            (Location::Address(Address::Unix(_)), _) => Self::Unix,
            (Location::Address(Address::Ip(address)), _) => Self::Of(Family::of(address.ip())),
            (_, Resolve::Ipv4) => Self::Of(Family::V4),
            (_, Resolve::Ipv6) => Self::Of(Family::V6),
            (_, Resolve::Any) => Self::Either,
        }
    }

    fn may_be(self, family: Family) -> bool {
        self == Self::Either || self == Self::Of(family)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == matches!(self, Self::V4)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

//! `pool.NAME.source_address`: what of it has no effect.

use std::net::IpAddr;

use super::build::{self, Named};
use super::faults::Sink;
use super::value::At;
use crate::net::Address;

/// The key.
pub(super) const KEY: &str = "source_address";

/// Throws the warnings at the sink. What `[defaults.pool]` has may be for several pools, and is
/// looked at for what a pool lacks alone.
pub(super) fn check(pool: &Named<'_>, sink: &mut Sink<'_>) {
    let all: Vec<At<IpAddr>> = pool.scope.given(KEY).unwrap_or_default();
    let backends: Vec<_> = build::backends(&pool.scope)
        .filter_map(|(scope, _)| Some((scope.given::<Address>("address")?, scope)))
        .collect();
    let Some(first) = all.first().filter(|_| !backends.is_empty()) else {
        return;
    };
    let own = pool.scope.own(KEY);
    let place = own.map_or(&pool.place, |at| &at.span).clone();
    let is_unix = |(address, _): &(Address, _)| address.ip().is_none();
    if backends.iter().all(is_unix) {
        if own.is_some() {
            let message =
                format!("`{KEY}` has no effect: all backends of this pool are Unix sockets");
            sink.warn(first.span.clone(), message);
        }
        return;
    }
    for family in [Family::V4, Family::V6] {
        let has_source = all.iter().any(|ip| family.has(ip.value));
        let mut of_it = backends
            .iter()
            .filter(|(address, _)| address.ip().is_some_and(|ip| family.has(ip)));
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
fn without_use<T>(all: &[At<IpAddr>], backends: &[(Address, T)], sink: &mut Sink<'_>) {
    for (index, ip) in all.iter().enumerate() {
        let family = Family::of(ip.value);
        let mut addresses = backends.iter().filter_map(|(address, _)| address.ip());
        let message = if !addresses.any(|ip| family.has(ip)) {
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

#[derive(Clone, Copy)]
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

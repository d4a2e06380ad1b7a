//! Warnings about who may come in, and whose headers count: entries that do not say what they
//! seem to, and limits that never hold anybody back.

use std::collections::HashSet;

use super::ProxyProtocol;
use super::build::{self, Named};
use super::faults::Sink;
use super::value::{At, Scope, Value};
use crate::net::{Address, Cidr, Source};

/// Throws every such warning at the sink.
pub(super) fn check(listener: &Named<'_>, sink: &mut Sink<'_>) {
    let scope = &listener.scope;
    for key in ["allow", "deny", "trusted_proxies"] {
        host_bits(scope, key, sink);
    }
    denied_all_the_same(scope, sink);
    never_reached(scope, sink);
    if let Some(sockets) = Sockets::of(scope) {
        sockets.check(scope, sink);
    }
}

/// Bits behind the prefix of a block, which do not count.
pub(super) fn host_bits(scope: &Scope<'_>, key: &str, sink: &mut Sink<'_>) {
    for item in items(scope, key) {
        if let Value::Cidr(block, true) = item.value {
            let message = format!("bits behind the prefix are ignored: this is {block}");
            // What came from the environment is not shown.
            let message = match item.is_replaced() {
                true => "bits behind the prefix are ignored".to_owned(),
                false => message,
            };
            sink.warn(item.span.clone(), message);
        }
    }
}

/// Entries of `allow` that lie within one of `deny`.
fn denied_all_the_same(scope: &Scope<'_>, sink: &mut Sink<'_>) {
    let deny: Vec<At<Cidr>> = scope.get("deny");
    let denied: HashSet<Cidr> = deny.iter().map(|at| at.value).collect();
    let hidden: HashSet<Cidr> = deny
        .iter()
        .filter(|at| at.is_replaced())
        .map(|at| at.value)
        .collect();
    let allow: Vec<At<Source>> = scope.get("allow");
    for at in allow {
        let Source::Block(block) = at.value else {
            continue;
        };
        let mut around = std::iter::successors(Some(block), |block| block.wider());
        if let Some(wins) = around.find(|block| denied.contains(block)) {
            let which = match hidden.contains(&wins) {
                true => "an entry of `deny`".to_owned(),
                false => format!("{wins} in `deny`"),
            };
            let message = format!("this has no effect: {which} wins over it");
            sink.warn(at.span, message);
        }
    }
}

/// A limit for one address that the limit for all never lets anybody reach.
fn never_reached(scope: &Scope<'_>, sink: &mut Sink<'_>) {
    let key = "max_connections_per_ip";
    let (each, all): (u32, usize) = (scope.get(key), scope.get("max_connections"));
    if let (1.., Some(at)) = (all, scope.own(key))
        && each as usize >= all
    {
        let message = format!("`{key}` has no effect: max_connections = {all} is not above it");
        sink.warn(at.span.clone(), message);
    }
}

/// By what clients come in.
#[derive(PartialEq)]
enum Sockets {
    /// Unix sockets alone, which tell no address.
    Unix,
    /// IP alone.
    Ip,
}

impl Sockets {
    /// `None`: by both, or it cannot be told.
    fn of(scope: &Scope<'_>) -> Option<Self> {
        let Value::List(written) = &scope.own("bind")?.value else {
            return None;
        };
        let binds = build::binds(scope);
        let unix = |bind: &At<Address>| matches!(bind.value, Address::Unix(_));
        let unix = binds.iter().filter(|bind| unix(bind)).count();
        if binds.len() < written.len() {
            return None;
        }
        match unix {
            0 => Some(Self::Ip),
            _ if unix == binds.len() && !may_carry(scope) => Some(Self::Unix),
            _ => None,
        }
    }

    fn check(self, scope: &Scope<'_>, sink: &mut Sink<'_>) {
        let no_address = "its listener has Unix sockets only, whose clients have no address";
        match self {
            Self::Unix => {
                for key in ["max_connections_per_ip", "rate_per_ip"] {
                    if let Some(at) = scope.own(key).filter(|at| !is_faulty(at)) {
                        let message = format!("`{key}` has no effect: {no_address}");
                        sink.warn(at.span.clone(), message);
                    }
                }
                let lets_them_in =
                    items(scope, "allow").any(|item| matches!(item.value, Value::Unix));
                for (key, closed) in [("allow", !lets_them_in), ("deny", false)] {
                    let blocks = items(scope, key);
                    for item in blocks.filter(|item| matches!(item.value, Value::Cidr(..))) {
                        let message = match closed {
                            true => format!("this lets nobody in: {no_address}; \"unix\" would"),
                            false => format!("this has no effect: {no_address}"),
                        };
                        sink.warn(item.span.clone(), message);
                    }
                }
            }
            Self::Ip => {
                let unix = |item: &&At<Value>| matches!(item.value, Value::Unix);
                for item in items(scope, "allow").filter(unix) {
                    let message = "this has no effect without a `bind` to a Unix socket";
                    sink.warn(item.span.clone(), message);
                }
            }
        }
    }
}

/// Whether a client may have another address than its socket, by a PROXY header.
pub(super) fn may_carry(listener: &Scope<'_>) -> bool {
    let key = "proxy_protocol";
    listener.own(key).is_some_and(is_faulty)
        || listener.choice::<ProxyProtocol>(key) != ProxyProtocol::Off
}

fn items<'a>(scope: &Scope<'a>, key: &str) -> impl Iterator<Item = &'a At<Value>> + use<'a> {
    let list = match scope.own(key).map(|at| &at.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    list.iter()
}

fn is_faulty(at: &At<Value>) -> bool {
    matches!(at.value, Value::Faulty)
}

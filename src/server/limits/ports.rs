//! Ephemeral ports: a connection to one backend address needs one of its own.
//!
//! A connection is known by its two addresses and two ports, see tcp(7). Of those to one
//! backend address only the port on this side differs, so there are as many at once as there
//! are ports in the range; to another backend address the same ports serve again, and so they do
//! from another source address. Unix sockets have none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::shortages::Shortage;
use super::wanted::Wanted;
use crate::config::{Backend, Config, KeyPath, Pool};
use crate::net::Address;

/// All that the range can be: below are the ports that need a privilege to bind.
const WIDEST: u64 = 64_512;

/// Backends, else pools, that cannot have the connections they may have.
pub(super) fn shortages(config: &Config, ports: u64) -> Vec<Shortage<'_>> {
    let most = Wanted::of_process(config).map_or(u64::MAX, |wanted| wanted.connections as u64);
    let of_backends: Vec<_> = limited(config)
        .into_values()
        .filter_map(|at| of_backend(at, ports, most))
        .collect();
    match of_backends.is_empty() {
        true => of_pools(config, ports).into_iter().collect(),
        false => of_backends,
    }
}

/// The limits of all backends of one address.
struct Limited<'c> {
    connections: u64,
    backends: usize,
    /// Where its connections come from; `None`: from where the kernel chooses.
    sources: BTreeSet<Option<IpAddr>>,
    /// Of the last one.
    key: KeyPath<'c>,
}

/// Backends with a limit of their own, by the address that they share.
fn limited(config: &Config) -> BTreeMap<&Address, Limited<'_>> {
    let mut limited: BTreeMap<&Address, Limited<'_>> = BTreeMap::new();
    for pool in &config.pools {
        for (index, backend) in pool.backends.iter().enumerate() {
            let Some(address @ Address::Ip(_)) = backend.address.address() else {
                continue;
            };
            if backend.max_connections == 0 {
                continue;
            }
            let key = KeyPath::BackendMaxConnections(&pool.name, index);
            let at = limited.entry(address).or_insert(Limited {
                connections: 0,
                backends: 0,
                sources: BTreeSet::new(),
                key,
            });
            at.sources.extend(sources(pool, address));
            at.connections += u64::from(backend.max_connections);
            at.backends += 1;
            at.key = key;
        }
    }
    limited
}

fn of_backend(at: Limited<'_>, ports: u64, most: u64) -> Option<Shortage<'_>> {
    let wanted = at.connections.min(most);
    let sources = at.sources.len() as u64;
    if wanted <= ports.saturating_mul(sources) {
        return None;
    }
    let who = match at.backends {
        1 => "this backend".to_owned(),
        backends => format!("the {backends} backends of this address together"),
    };
    let message = format!(
        "{who} cannot have {wanted} connections: {}; {}",
        limit(ports, sources),
        remedy(ports, wanted <= WIDEST.saturating_mul(sources))
    );
    Some((at.key, message))
}

/// One sentence for all pools, as the limit is one.
fn of_pools(config: &Config, ports: u64) -> Option<Shortage<'_>> {
    let mut short = config
        .pools
        .iter()
        .filter_map(|pool| of_pool(config, pool, ports));
    let first = short.next()?;
    let others = match short.count() {
        0 => String::new(),
        1 => " (nor can another pool)".to_owned(),
        others => format!(" (nor can {others} other pools)"),
    };
    let message = format!(
        "{} is more than pool `{}` can have, {}{others}: {}; {}",
        first.wanted.subject,
        first.pool,
        first.reachable,
        limit(ports, first.capacity.most_sources()),
        remedy(ports, first.is_enough_with(WIDEST))
    );
    Some((first.wanted.key, message))
}

/// A pool that cannot have the connections that it may have.
struct Short<'c> {
    pool: &'c str,
    wanted: Wanted<'c>,
    needed: u64,
    reachable: u64,
    capacity: Capacity<'c>,
}

impl Short<'_> {
    fn is_enough_with(&self, ports: u64) -> bool {
        self.capacity.with(ports) >= self.needed
    }
}

fn of_pool<'c>(config: &'c Config, pool: &'c Pool, ports: u64) -> Option<Short<'c>> {
    let wanted = Wanted::of_pool(config, &pool.name)?;
    let capacity = Capacity::of(pool);
    // What its own backends do not allow is no shortage of ports.
    let needed = capacity.with(u64::MAX).min(wanted.connections as u64);
    let reachable = capacity.with(ports);
    (reachable < needed).then_some(Short {
        pool: &pool.name,
        wanted,
        needed,
        reachable,
        capacity,
    })
}

/// What the backends of a pool may have by their own limits.
#[derive(Default)]
struct Capacity<'c> {
    /// Unix sockets, all together.
    sockets: u64,
    addresses: BTreeMap<&'c Address, OfAddress>,
}

/// What is possible to one address.
#[derive(Default)]
struct OfAddress {
    own: u64,
    sources: u64,
}

impl<'c> Capacity<'c> {
    fn of(pool: &'c Pool) -> Self {
        let mut capacity = Self::default();
        for backend in in_use(pool) {
            let own = match backend.max_connections {
                0 => u64::MAX,
                most => u64::from(most),
            };
            let (sum, own) = match backend.address.address() {
                Some(Address::Unix(_)) => (&mut capacity.sockets, own),
                Some(address @ Address::Ip(_)) => {
                    let of = capacity.addresses.entry(address).or_default();
                    of.sources = sources(pool, address).count() as u64;
                    (&mut of.own, own)
                }
                // A name may stand for any number of addresses.
                None => (&mut capacity.sockets, u64::MAX),
            };
            *sum = sum.saturating_add(own);
        }
        capacity
    }

    /// Source addresses of the backend that has most.
    fn most_sources(&self) -> u64 {
        let sources = self.addresses.values().map(|of| of.sources);
        sources.max().unwrap_or(0)
    }

    /// The same where each address has so many ports.
    fn with(&self, ports: u64) -> u64 {
        let most = |of: &OfAddress| of.own.min(ports.saturating_mul(of.sources));
        let addresses = self.addresses.values().map(most);
        addresses.fold(self.sockets, u64::saturating_add)
    }
}

/// Where connections of a pool to that address come from.
fn sources(pool: &Pool, address: &Address) -> impl Iterator<Item = Option<IpAddr>> {
    let destination = address.ip();
    let family = destination.map(|ip| ip.is_ipv4());
    let all = pool.source_addresses.iter();
    let mine: Vec<_> = all
        .filter(|ip| Some(ip.is_ipv4()) == family)
        .map(|ip| Some(*ip))
        .collect();
    let unbound = mine.is_empty().then_some(None);
    mine.into_iter().chain(unbound)
}

/// The backends that take connections while all is well: a backup does not step in for a port.
fn in_use(pool: &Pool) -> impl Iterator<Item = &Backend> {
    let takes = |backend: &&Backend| backend.weight > 0;
    let has_first = pool.backends.iter().filter(takes).any(|b| !b.backup);
    pool.backends
        .iter()
        .filter(takes)
        .filter(move |backend| !has_first || !backend.backup)
}

fn limit(ports: u64, sources: u64) -> String {
    let each = match sources {
        0 | 1 => String::new(),
        sources => format!(" for each of {sources} source addresses"),
    };
    format!(
        "each to one address needs a port of its own, and net.ipv4.ip_local_port_range has \
         {ports}{each}"
    )
}

/// What to do about it, where the widest range is enough and where it is not.
fn remedy(ports: u64, widest_is_enough: bool) -> String {
    let widen = "widen it with `sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"`";
    match (ports >= WIDEST, widest_is_enough) {
        (true, _) => "it takes more addresses of backends, or in `source_address`".to_owned(),
        (false, true) => format!("{widen}, or add addresses of backends, or to `source_address`"),
        (false, false) => format!("{widen}, and add addresses of backends, or to `source_address`"),
    }
}

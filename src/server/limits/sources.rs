//! Source addresses that this machine does not have: a connection that is to come from one ends
//! as `local_error`, unless another of the list takes it.

use std::net::IpAddr;

use super::shortages::Shortage;
use crate::config::{Config, KeyPath};

/// One sentence for each address, where it stands first.
pub(super) fn shortages(config: &Config, is_here: fn(IpAddr) -> bool) -> Vec<Shortage<'_>> {
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for pool in &config.pools {
        for ip in &pool.source_addresses {
            if seen.contains(ip) {
                continue;
            }
            seen.push(*ip);
            if !is_here(*ip) {
                found.push((KeyPath::SourceAddress(&pool.name), message(*ip)));
            }
        }
    }
    found
}

fn message(ip: IpAddr) -> String {
    let prefix = if ip.is_ipv4() { 32 } else { 128 };
    format!(
        "{ip} is not an address of this machine: no connection can come from it; add it with \
         `ip address add {ip}/{prefix} dev INTERFACE`"
    )
}

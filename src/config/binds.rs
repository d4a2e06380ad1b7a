//! Which addresses cannot be bound side by side.
//!
//! The kernel would let some of them be bound all the same (sockets may share an address),
//! but then a client's connection could end up at either.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::net::Address;

/// The addresses taken so far, each with who has it.
#[derive(Default)]
pub(super) struct Binds<T> {
    exact: HashMap<Address, (Address, T)>,
    ports: HashMap<u16, Port<T>>,
}

/// Who has a wildcard address of a port, and who any address.
struct Port<T> {
    any_v4: Option<(Address, T)>,
    any_v6: Option<(Address, T)>,
    /// `0.0.0.0`, or `[::]` that takes IPv4 too.
    all_v4: Option<(Address, T)>,
    all_v6: Option<(Address, T)>,
}

impl<T> Default for Port<T> {
    fn default() -> Self {
        Self {
            any_v4: None,
            any_v6: None,
            all_v4: None,
            all_v6: None,
        }
    }
}

impl<T: Clone> Binds<T> {
    /// Takes `address` for `owner`, or says which address stands in its way and whose it is.
    /// Port 0 is never in the way: the kernel chooses a free one.
    ///
    /// # Errors
    ///
    /// The first address that conflicts, and its owner.
    pub(super) fn take(
        &mut self,
        address: &Address,
        ipv6_only: bool,
        owner: T,
    ) -> Result<(), (Address, T)> {
        if address.port() == Some(0) {
            return Ok(());
        }
        if let Some(taken) = self.exact.get(address) {
            return Err(taken.clone());
        }
        let entry = (address.clone(), owner);
        if let Address::Ip(ip) = address {
            let port = self.ports.entry(ip.port()).or_default();
            port.take(ip, ipv6_only, &entry)?;
        }
        self.exact.insert(address.clone(), entry);
        Ok(())
    }
}

impl<T: Clone> Port<T> {
    fn take(
        &mut self,
        address: &SocketAddr,
        ipv6_only: bool,
        entry: &(Address, T),
    ) -> Result<(), (Address, T)> {
        let wildcard = address.ip().is_unspecified();
        let dual = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !ipv6_only;
        let (v4, v6) = (address.is_ipv4(), address.is_ipv6());
        let in_the_way = [
            (v4, &self.all_v4),
            (v6, &self.all_v6),
            ((v4 && wildcard) || dual, &self.any_v4),
            (v6 && wildcard, &self.any_v6),
            (dual, &self.all_v4),
        ];
        for (counts, taken) in in_the_way {
            if let (true, Some(taken)) = (counts, taken) {
                return Err(taken.clone());
            }
        }
        let fill = |slot: &mut Option<_>, when: bool| {
            if when && slot.is_none() {
                *slot = Some(entry.clone());
            }
        };
        fill(&mut self.any_v4, v4);
        fill(&mut self.any_v6, v6);
        fill(&mut self.all_v4, (v4 && wildcard) || dual);
        fill(&mut self.all_v6, v6 && wildcard);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether two addresses conflict, in either order.
    fn conflict(first: (&str, bool), second: (&str, bool)) -> bool {
        let both = |a: (&str, bool), b: (&str, bool)| {
            let mut binds = Binds::default();
            let address = |text: &str| text.parse::<Address>().expect("an address");
            binds
                .take(&address(a.0), a.1, ())
                .expect("the first is free");
            binds.take(&address(b.0), b.1, ()).is_err()
        };
        let (there, back) = (both(first, second), both(second, first));
        assert_eq!(there, back, "{first:?} {second:?}");
        there
    }

    #[test]
    fn a_wildcard_is_in_the_way_of_every_address_that_it_covers() {
        for (first, second, expected) in [
            (("1.0.0.1:80", false), ("1.0.0.1:80", false), true),
            (("1.0.0.1:80", false), ("1.0.0.1:81", false), false),
            (("1.0.0.1:80", false), ("1.0.0.2:80", false), false),
            (("0.0.0.0:80", false), ("1.0.0.1:80", false), true),
            (("0.0.0.0:80", false), ("[::1]:80", false), false),
            (("[::]:80", false), ("0.0.0.0:80", false), true),
            (("[::]:80", true), ("0.0.0.0:80", false), false),
            (("[::]:80", false), ("1.0.0.1:80", false), true),
            (("[::]:80", true), ("1.0.0.1:80", false), false),
            (("[::]:80", true), ("[::1]:80", false), true),
            (("[::]:80", true), ("[::]:80", false), true),
            (("[::1]:80", false), ("[::2]:80", false), false),
            (("[::1]:80", false), ("1.0.0.1:80", false), false),
            (("0.0.0.0:0", false), ("0.0.0.0:0", false), false),
            (("unix:/a", false), ("unix:/a", false), true),
            (("unix:/a", false), ("unix:/b", false), false),
        ] {
            assert_eq!(conflict(first, second), expected, "{first:?} {second:?}");
        }
    }
}

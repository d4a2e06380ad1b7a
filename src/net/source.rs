//! Which address of this machine an outgoing connection comes from.
//!
//! A socket that is bound before it is connected would keep a port of its source address from
//! every other one, whatever it is connected to: that address then had one range of ports in all,
//! not one for each destination. With `IP_BIND_ADDRESS_NO_PORT`, see ip(7), bind(2) takes the
//! address alone and connect(2) chooses the port, when the destination is known. The option is
//! of level `IPPROTO_IP` for IPv6 sockets too.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Whose turn it is among source addresses, for each family by itself.
#[derive(Debug, Default)]
pub struct Turns {
    v4: AtomicUsize,
    v6: AtomicUsize,
}

/// Addresses of this machine that outgoing connections are bound to, in turn.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    all: &'a [IpAddr],
    turns: &'a Turns,
}

impl<'a> Sources<'a> {
    /// These, whose turns are counted there; with none the kernel chooses.
    pub fn new(all: &'a [IpAddr], turns: &'a Turns) -> Self {
        Self { all, turns }
    }

    /// Those of the family of `destination`, beginning with the one whose turn it is.
    pub fn towards(self, destination: IpAddr) -> impl Iterator<Item = IpAddr> + 'a {
        let is_v4 = destination.is_ipv4();
        let mine = move || self.all.iter().filter(move |ip| ip.is_ipv4() == is_v4);
        let first = match mine().count() {
            // Nothing that all cores share is touched for the sake of one.
            0 | 1 => 0,
            count => self.turn(is_v4) % count,
        };
        let count = mine().count();
        mine().cycle().skip(first).take(count).copied()
    }

    fn turn(self, is_v4: bool) -> usize {
        let turns = if is_v4 {
            &self.turns.v4
        } else {
            &self.turns.v6
        };
        turns.fetch_add(1, Ordering::Relaxed)
    }
}

/// Binds to the address, and leaves the port to connect(2).
///
/// # Errors
/// What bind(2) gives: `EADDRNOTAVAIL` for an address that is not of this machine.
pub fn bind_to(socket: impl AsFd, source: IpAddr) -> io::Result<()> {
    let socket = socket.as_fd();
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    Ok(rustix::net::bind(socket, &SocketAddr::new(source, 0))?)
}

/// Whether a bound socket cannot be connected because of its address: all its ports are in use
/// towards that destination (`EADDRNOTAVAIL`), or nothing is sent there from it (`EINVAL`, as
/// from loopback to another machine).
pub fn is_of_source(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::ADDRNOTAVAIL | Errno::INVAL))
}

/// Whether it is an address of this machine, as far as bind(2) can tell.
pub fn is_here(ip: IpAddr) -> bool {
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    let bound = socket_with(family, SocketType::STREAM, flags, None)
        .map_err(io::Error::from)
        .and_then(|socket| bind_to(&socket, ip));
    let code = bound.err().and_then(|error| error.raw_os_error());
    // Any other fault says nothing about the address.
    !matches!(
        code.map(Errno::from_raw_os_error),
        Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips<const N: usize>(all: [&str; N]) -> [IpAddr; N] {
        all.map(|ip| ip.parse().expect("an address"))
    }

    #[test]
    fn each_family_has_its_turns_and_nobody_is_left_out() {
        let all = ips(["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2", "fd00::3"]);
        let [a, x, b, y, z] = all;
        let turns = Turns::default();
        let sources = Sources::new(&all, &turns);
        let [v4, v6] = ips(["192.0.2.1", "2001:db8::1"]);
        let towards = |to| sources.towards(to).collect::<Vec<_>>();
        assert_eq!(towards(v4), [a, b]);
        assert_eq!(towards(v6), [x, y, z]);
        assert_eq!(towards(v4), [b, a]);
        assert_eq!(towards(v6), [y, z, x]);
        assert_eq!(towards(v6), [z, x, y]);
        assert_eq!(towards(v4), [a, b]);
    }

    #[test]
    fn without_one_of_the_family_the_kernel_chooses() {
        let turns = Turns::default();
        let [v4, v6] = ips(["192.0.2.1", "2001:db8::1"]);
        assert_eq!(Sources::new(&[], &turns).towards(v4).count(), 0);
        let only = [v4];
        assert_eq!(Sources::new(&only, &turns).towards(v6).count(), 0);
        assert_eq!(Sources::new(&only, &turns).towards(v4).count(), 1);
        assert_eq!(turns.v4.load(Ordering::Relaxed), 0);
    }

    /// 192.0.2.0/24 is for documentation (RFC 5737), and of no machine.
    #[test]
    fn what_is_here_is_told_from_what_is_not() {
        let [here, too, gone] = ips(["127.0.0.1", "127.9.8.7", "192.0.2.1"]);
        assert!(is_here(here) && is_here(too) && !is_here(gone));
    }

    #[test]
    fn the_port_is_chosen_by_connect() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
        let socket = socket.expect("a socket");
        let [source] = ips(["127.0.0.9"]);
        bind_to(&socket, source).expect("loopback");
        let own = || {
            let own = rustix::net::getsockname(&socket).expect("an address");
            SocketAddr::try_from(own).expect("IPv4")
        };
        assert_eq!(own(), SocketAddr::new(source, 0));
        rustix::net::connect(&socket, &address).expect("it listens");
        let (_stream, peer) = listener.accept().expect("a connection");
        assert_eq!(own(), peer);
        assert_eq!(peer.ip(), source);
    }
}

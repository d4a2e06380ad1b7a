//! Listening sockets that this process did not bind itself: a service manager did (socket
//! activation, see sd_listen_fds(3)), or the process that this one takes the place of.
//!
//! A socket belongs to the listener with its address, as getsockname(2) tells it: names and the
//! order of descriptors mean nothing. None is trusted: what is no listening stream socket is
//! refused, and everything that a listener sets on a socket of its own is set again.
//!
//! The protocol of the service manager is a handful of variables. The crates for it would not
//! spare the `unsafe` of taking over a number as a descriptor (`sd-notify`), or take the
//! variables out of the environment of a process that may have threads (`listenfd`).

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketType, getsockname, ipproto, sockopt,
};

use super::{Address, canonical, sys};

/// Who made a socket, and so who removes the file of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// This process, or an isobar before it: the file goes with the last of them.
    Isobar,
    /// A service manager: it goes on listening after this process, with the file's mode and
    /// owner as it wants them.
    ServiceManager,
}

/// A listening socket that was handed to this process.
#[derive(Debug)]
pub struct Handed {
    /// Checked: a listening stream socket, close-on-exec.
    pub socket: OwnedFd,
    /// Who made it.
    pub keeper: Keeper,
}

/// Sockets that wait for the listener with their address.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Entry>,
    /// What was handed over and is of no use, a sentence each.
    refused: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    address: Address,
    handed: Handed,
    /// Of the service manager: its unit's name unless `FileDescriptorName=` says otherwise.
    name: Option<String>,
}

/// Why a descriptor is no listener's.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// A file, a datagram socket, a protocol other than TCP.
    #[error("it is no stream socket of TCP or Unix")]
    Kind,
    /// A connection, as of a socket unit with `Accept=yes`, or a socket not bound.
    #[error("it does not listen (a socket unit must have Accept=no)")]
    NotListening,
    /// A Unix socket without a name, or a family that isobar does not know.
    #[error("it has no address that a listener could have")]
    NoAddress,
    /// The address that it was said to have is not the one it has.
    #[error("it listens on {0}")]
    OtherAddress(Address),
    /// What the kernel says of it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Inherited {
    /// Nothing was handed over.
    pub fn none() -> Self {
        Self::default()
    }

    /// What a service manager hands to this process by `LISTEN_FDS`, `LISTEN_PID` and
    /// `LISTEN_FDNAMES`; nothing where these are for another process, or at a second call.
    ///
    /// To be called before this process opens anything that it keeps: where the variables lie
    /// the numbers could be those of other files.
    pub fn from_activation() -> Self {
        let mut inherited = Self::none();
        let variable = |name: &str| std::env::var(name).ok();
        match Activation::read(&variable, std::process::id()) {
            Ok(None) => {}
            Ok(Some(activation)) => inherited.take_over(&activation),
            Err(value) => inherited.refused.push(format!(
                "LISTEN_FDS={value} is no number of sockets, so none is taken"
            )),
        }
        inherited
    }

    /// A socket of the process that this one takes the place of. `address` is that of its
    /// listener there.
    ///
    /// # Errors
    /// [`InheritError`]; the socket is closed then.
    pub fn add(
        &mut self,
        address: &Address,
        socket: OwnedFd,
        keeper: Keeper,
    ) -> Result<(), InheritError> {
        let found = address_of(&socket)?;
        if found != normal(address) {
            return Err(InheritError::OtherAddress(found));
        }
        self.sockets.push(Entry {
            address: found,
            handed: Handed { socket, keeper },
            name: None,
        });
        Ok(())
    }

    /// The socket that listens on exactly this address, if there is one; IPv4-mapped IPv6 is the
    /// IPv4 address that it stands for. Port 0 is nobody's.
    pub fn take(&mut self, address: &Address) -> Option<Handed> {
        let address = normal(address);
        let found = self.sockets.iter().position(|e| e.address == address)?;
        Some(self.sockets.remove(found).handed)
    }

    /// What was handed over and not taken, a sentence each.
    pub fn left(&self) -> Vec<String> {
        let untaken = self.sockets.iter().map(Entry::untaken);
        self.refused.iter().cloned().chain(untaken).collect()
    }

    fn take_over(&mut self, activation: &Activation) {
        for (index, passed) in sys::passed(activation.count).into_iter().enumerate() {
            let name = activation.names.get(index).cloned();
            let checked = passed
                .map_err(InheritError::Io)
                .and_then(|socket| Ok((address_of(&socket)?, socket)));
            match checked {
                Ok((address, socket)) => self.sockets.push(Entry {
                    address,
                    handed: Handed {
                        socket,
                        keeper: Keeper::ServiceManager,
                    },
                    name,
                }),
                Err(error) => self.refused.push(format!(
                    "descriptor {}{} of LISTEN_FDS cannot be listened on: {error}",
                    sys::FIRST_PASSED + index as i32,
                    in_brackets(name.as_deref()),
                )),
            }
        }
    }
}

impl Entry {
    fn untaken(&self) -> String {
        format!(
            "the socket {}{} was handed over, but no listener has this address: nobody answers there",
            self.address,
            in_brackets(self.name.as_deref())
        )
    }
}

fn in_brackets(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!(" ({name})"))
}

/// The one form in which addresses are compared.
fn normal(address: &Address) -> Address {
    match address {
        Address::Ip(address) => Address::Ip(canonical(*address)),
        Address::Unix(_) => address.clone(),
    }
}

/// Where a socket listens, after every check, with close-on-exec and `O_NONBLOCK` set.
fn address_of(socket: &OwnedFd) -> Result<Address, InheritError> {
    let kind = sockopt::socket_type(socket).map_err(|_| InheritError::Kind)?;
    if kind != SocketType::STREAM {
        return Err(InheritError::Kind);
    }
    let protocol = sockopt::socket_protocol(socket).map_err(io::Error::from)?;
    match sockopt::socket_domain(socket).map_err(io::Error::from)? {
        AddressFamily::UNIX => {}
        AddressFamily::INET | AddressFamily::INET6 if protocol == Some(ipproto::TCP) => {}
        _ => return Err(InheritError::Kind),
    }
    if !sockopt::socket_acceptconn(socket).map_err(io::Error::from)? {
        return Err(InheritError::NotListening);
    }
    rustix::io::fcntl_setfd(socket, FdFlags::CLOEXEC).map_err(io::Error::from)?;
    // Of the open file description, so the service manager's too: it never accepts itself.
    rustix::io::ioctl_fionbio(socket, true).map_err(io::Error::from)?;
    let name = getsockname(socket).map_err(io::Error::from)?;
    readable(name).ok_or(InheritError::NoAddress)
}

fn readable(name: SocketAddrAny) -> Option<Address> {
    if let Ok(ip) = SocketAddr::try_from(name.clone()) {
        return Some(Address::Ip(canonical(ip)));
    }
    let unix = SocketAddrUnix::try_from(name).ok()?;
    let path = match (unix.path_bytes(), unix.abstract_name()) {
        (Some(path), _) => path.to_vec(),
        (None, Some(name)) => [b"@", name].concat(),
        (None, None) => return None,
    };
    // Some give the closing NUL as a part of the path, see unix(7).
    let path = path.strip_suffix(b"\0").unwrap_or(&path);
    Some(Address::Unix(PathBuf::from(OsStr::from_bytes(path))))
}

/// What the variables of sd_listen_fds(3) say.
#[derive(Debug, PartialEq, Eq)]
struct Activation {
    count: u32,
    names: Vec<String>,
}

impl Activation {
    /// `None`: no socket is passed to the process `pid`. The error is a count that is none.
    fn read(variable: &dyn Fn(&str) -> Option<String>, pid: u32) -> Result<Option<Self>, String> {
        // A child inherits the variables, but not the descriptors: they are closed on exec.
        let for_us = variable("LISTEN_PID").is_some_and(|value| value.parse() == Ok(pid));
        let Some(count) = variable("LISTEN_FDS").filter(|_| for_us) else {
            return Ok(None);
        };
        let count = count.parse().map_err(|_| count)?;
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').filter(|name| !name.is_empty());
        Ok(Some(Self {
            count,
            names: names.map(ToOwned::to_owned).collect(),
        }))
    }
}

#[cfg(test)]
#[path = "inherit_tests.rs"]
mod tests;

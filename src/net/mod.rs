//! Sockets and addresses: what the kernel is asked for, and how.

mod addr;
mod adopt;
mod cidr;
mod dial;
mod inherit;
mod listen;
mod location;
mod source;
mod stream;
mod sys;
mod tcp_info;

use std::io;
use std::path::Path;

use rustix::net::SocketAddrUnix;

pub use addr::{Address, AddressError, canonical};
pub use cidr::{Cidr, CidrError, Source};
pub use dial::{DialError, dial};
pub use inherit::{Handed, InheritError, Inherited, Keeper};
pub use listen::{Acceptor, Incoming, ListenError, ListenOptions, Socket, TokioAcceptor};
pub use location::{HostName, Location, LocationError};
pub use source::{Sources, Turns, bind_to, is_here, is_of_source};
pub use stream::{Kind, Liveness, Stream};
pub use tcp_info::{TcpInfo, Told};

/// The kernel's form of a Unix socket path; `@name` is the abstract namespace.
fn unix_address(path: &Path) -> io::Result<SocketAddrUnix> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name),
        None => SocketAddrUnix::new(path),
    };
    Ok(address?)
}

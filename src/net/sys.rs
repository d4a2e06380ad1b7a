//! The one file where `unsafe` may appear: system calls that rustix has no safe function for.
#![allow(
    unsafe_code,
    reason = "this is the one file that may, see the module doc"
)]

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io;
use rustix::ioctl::{Getter, Opcode, ioctl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::listen::Socket;

/// Registers a listening socket with this thread's tokio runtime, for reading.
///
/// # Errors
/// What epoll_ctl(2) gives.
pub(super) fn register_shared(socket: Arc<Socket>) -> std::io::Result<AsyncFd<Arc<Socket>>> {
    // SAFETY: a Socket owns its descriptor, never replaces it and gives its number; the
    // AsyncFd holds a share of the Socket, so that it stays open.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// `TIOCOUTQ` alias `SIOCOUTQ`, see tcp(7); the same number on every architecture that
/// rustix and isobar both run on (x86-64, aarch64, riscv64).
const SIOCOUTQ: Opcode = 0x5411;

/// Bytes that were sent on this socket and that the peer's kernel has not acknowledged yet;
/// on a Unix socket: that the peer has not read yet. See `SIOCOUTQ` in tcp(7) and unix(7).
///
/// # Errors
/// What ioctl(2) gives.
pub(super) fn unacknowledged<Fd: AsFd>(socket: Fd) -> io::Result<usize> {
    // SAFETY: SIOCOUTQ writes one `int` through its argument and does nothing else; the
    // descriptor is borrowed for the length of the call, so it is open.
    let bytes = unsafe { ioctl(socket, Getter::<SIOCOUTQ, i32>::new()) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

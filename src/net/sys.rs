//! The one file where `unsafe` may appear: system calls that rustix has no safe function for.
#![allow(
    unsafe_code,
    reason = "this is the one file that may, see the module doc"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
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

/// Reads `TCP_INFO`, see tcp(7), into `buffer`: as many bytes of it as the kernel has, which
/// becomes more from version to version, and as there is room for. How many that were.
///
/// # Errors
/// What getsockopt(2) gives.
pub(super) fn tcp_info<Fd: AsFd>(socket: Fd, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = libc::socklen_t::try_from(buffer.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the kernel writes at most `length` bytes to the buffer, which has as many, and the
    // number of those that it wrote to `length`; any bytes are a valid `[u8]`. The descriptor is
    // borrowed for the length of the call, so it is open.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(usize::try_from(length).unwrap_or(0).min(buffer.len()))
}

/// The first descriptor that a service manager passes, `SD_LISTEN_FDS_START` of
/// sd_listen_fds(3).
pub(super) const FIRST_PASSED: RawFd = 3;

/// Takes over the `count` descriptors that a service manager passed to this process, up to the
/// first that is not open. Only the first call gets any.
///
/// To be called before this process opens anything else that it keeps.
pub(super) fn passed(count: u32) -> Vec<std::io::Result<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut passed = Vec::new();
    if TAKEN.swap(true, Ordering::Relaxed) {
        return passed;
    }
    let end = FIRST_PASSED.saturating_add_unsigned(count);
    for number in FIRST_PASSED..end {
        // SAFETY: the number is not -1, and the borrow ends with the call, which does nothing
        // but tell whether there is such a descriptor.
        let is_open = io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) });
        if let Err(error) = is_open {
            passed.push(Err(error.into()));
            break;
        }
        // SAFETY: it is open, and by the protocol it was opened for this process to own. This
        // function makes an owner of each number only once, and it is called before anything
        // of this process could have got one of them.
        passed.push(Ok(unsafe { OwnedFd::from_raw_fd(number) }));
    }
    passed
}

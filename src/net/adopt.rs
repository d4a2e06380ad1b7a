//! Listening on a socket that listens already: what is set on it again, and what is left alone.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwapOption;
use rustix::fs::Mode;
use rustix::net::{listen, sockopt};

use super::inherit::{Handed, Inherited, Keeper};
use super::listen::{SocketFile, backlog, bound_address, is_abstract, pass_on};
use super::{Address, ListenError, ListenOptions, Socket};

impl Socket {
    /// The socket of that address that was handed to this process, else a new one.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn open(
        address: &Address,
        options: ListenOptions,
        inherited: &mut Inherited,
    ) -> Result<Self, ListenError> {
        match inherited.take(address) {
            Some(handed) => Self::adopt(handed, address, options),
            None => Self::bind(address, options),
        }
    }

    /// Goes on with a socket that listens on `address` already; clients in its queue stay.
    ///
    /// All options are set again, but for what cannot be changed any more (`ipv6_only`) and
    /// what is a service manager's to say (the mode of its file): a difference is logged.
    ///
    /// # Errors
    /// [`ListenError`]: the kernel refuses an option.
    pub fn adopt(
        handed: Handed,
        address: &Address,
        options: ListenOptions,
    ) -> Result<Self, ListenError> {
        let result = match address {
            Address::Ip(_) => adopt_ip(handed, options),
            Address::Unix(path) => adopt_unix(handed, path, options),
        };
        result.map_err(|source| ListenError {
            address: address.clone(),
            source,
        })
    }
}

fn adopt_ip(handed: Handed, options: ListenOptions) -> io::Result<Socket> {
    let Handed { socket, keeper } = handed;
    let bound = bound_address(&socket)?;
    // Of a bound socket it cannot be changed, see ipv6(7).
    if bound.is_ipv6() && bound.ip().is_unspecified() {
        let is_only = sockopt::ipv6_v6only(&socket)?;
        if is_only != options.ipv6_only {
            tracing::warn!(
                address = %bound,
                "the socket that was handed over has ipv6_only = {is_only}, and keeps it \
                 (BindIPv6Only= of a socket unit sets it)"
            );
        }
    }
    pass_on(&socket, options)?;
    let early = (keeper == Keeper::ServiceManager).then(|| Arc::new(options));
    // Once more, for the length of the queue; who is in it stays.
    listen(&socket, backlog(options))?;
    Ok(Socket {
        socket,
        address: Address::Ip(bound),
        file: None,
        keeper,
        early: ArcSwapOption::from(early),
    })
}

fn adopt_unix(handed: Handed, path: &Path, options: ListenOptions) -> io::Result<Socket> {
    let Handed { socket, keeper } = handed;
    let file = match keeper {
        _ if is_abstract(path) => None,
        Keeper::Isobar => {
            // Somebody may have removed it: the socket is of no less use than before.
            let file = SocketFile::of(path).ok();
            if let Some(file) = &file {
                // The process before this one removes it, as long as this one does not serve.
                file.given_away.store(true, Ordering::Relaxed);
                rustix::fs::chmod(path, Mode::from_raw_mode(options.unix_mode))?;
            }
            file
        }
        Keeper::ServiceManager => {
            warn_of_open_file(path, options.unix_mode);
            None
        }
    };
    listen(&socket, backlog(options))?;
    Ok(Socket {
        file,
        socket,
        address: Address::Unix(path.into()),
        keeper,
        early: ArcSwapOption::empty(),
    })
}

/// The admin endpoint takes everybody who may connect for somebody who may change things.
fn warn_of_open_file(path: &Path, wanted: u32) {
    // It may be out of sight of this process, as with PrivateTmp=.
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return;
    };
    let mode = metadata.mode() & 0o777;
    if mode & !wanted != 0 {
        tracing::warn!(
            path = %path.display(),
            "the socket file that was handed over has mode {mode:04o}, more than {wanted:04o}: \
             set SocketMode= of its socket unit"
        );
    }
}

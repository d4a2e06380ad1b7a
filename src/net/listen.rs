//! Listening sockets: bound once, shared by all cores.
//!
//! There is one socket for each address, watched by every core. `SO_REUSEPORT`
//! is not used: it would let a second process bind the same address unnoticed, spread by hash
//! instead of load, and lose what is queued when one of its sockets closes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use arc_swap::ArcSwapOption;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketFlags, SocketType, acceptfrom_with, bind, getsockname,
    listen, socket_with, sockopt,
};

use tokio::io::unix::AsyncFd;

use super::inherit::Keeper;
use super::stream::{Kind, Liveness};
use super::{Address, canonical, sys, unix_address};
use crate::runtime::{Ready, Source};

/// How a listening socket is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Length of the accept queue; the kernel lowers it to `net.core.somaxconn`.
    pub backlog: u32,
    /// An IPv6 wildcard does not take IPv4 clients.
    pub ipv6_only: bool,
    /// Mode of a Unix socket's file.
    pub unix_mode: u32,
    /// Passed on by the kernel to every socket accepted.
    pub liveness: Liveness,
}

/// A bound, listening socket. Dropping it closes it and removes a Unix socket's file, unless
/// that is for somebody else to do.
#[derive(Debug)]
pub struct Socket {
    /// Removed first: once the socket is closed, a file would be a stale one.
    pub(super) file: Option<SocketFile>,
    pub(super) socket: OwnedFd,
    pub(super) address: Address,
    pub(super) keeper: Keeper,
    /// Who was in the queue before the options were set has none of them: they are set on each
    /// accepted socket again.
    pub(super) early: ArcSwapOption<ListenOptions>,
}

/// What accept(2) gave.
#[derive(Debug)]
pub struct Incoming {
    /// The connected socket, non-blocking and close-on-exec.
    pub socket: OwnedFd,
    /// What kind of socket it is.
    pub kind: Kind,
    /// The other end; of an unnamed Unix client: the listener's own path.
    pub peer: Address,
}

/// A listening socket as a data core sees it.
#[derive(Debug)]
pub struct Acceptor {
    socket: Arc<Socket>,
    /// `None` while nobody is to be told of clients.
    source: RefCell<Option<Source>>,
}

impl Acceptor {
    /// Watches the socket, by this thread's runtime.
    ///
    /// # Errors
    /// What epoll_ctl(2) gives.
    pub fn new(socket: Arc<Socket>) -> io::Result<Self> {
        let source = Source::listening(&socket.socket)?;
        Ok(Self {
            socket,
            source: RefCell::new(Some(source)),
        })
    }

    /// Waits until somebody may be in the accept queue; watches it again after a
    /// [`pause`](Self::pause).
    ///
    /// # Errors
    /// What epoll_ctl(2) gives.
    pub async fn ready(&self) -> io::Result<()> {
        if self.source.borrow().is_none() {
            let source = Source::listening(&self.socket.socket)?;
            self.source.replace(Some(source));
        }
        poll_fn(|cx| match &*self.source.borrow() {
            Some(source) => source.poll_ready(cx, Ready::READABLE).map(drop),
            None => Poll::Ready(()),
        })
        .await;
        Ok(())
    }

    /// Takes one connection out of the accept queue; `None`: it is empty. Whether there is
    /// another the kernel says without being asked.
    ///
    /// # Errors
    /// What accept(2) gives; the queue may hold more all the same.
    pub fn accept(&self) -> io::Result<Option<Incoming>> {
        if let Some(source) = &*self.source.borrow() {
            source.dry();
        }
        self.socket.accept()
    }

    /// Leaves clients in the queue, for other cores or for later: the kernel would say again and
    /// again that they are there.
    pub fn pause(&self) {
        if let Some(source) = self.source.take() {
            // It fails for what is not watched, and this is.
            let _ = source.leave(&self.socket.socket);
        }
    }
}

impl Drop for Acceptor {
    /// The socket stays open where others have it too, and must not be watched in vain.
    fn drop(&mut self) {
        self.pause();
    }
}

/// A listening socket as tokio's runtime sees it.
#[derive(Debug)]
pub struct TokioAcceptor {
    io: AsyncFd<Arc<Socket>>,
}

impl TokioAcceptor {
    /// Registers the socket with this thread's tokio runtime.
    ///
    /// # Errors
    /// What epoll_ctl(2) gives.
    pub fn new(socket: Arc<Socket>) -> io::Result<Self> {
        Ok(Self {
            io: sys::register_shared(socket)?,
        })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// What accept(2) gives; the queue may hold more all the same.
    pub async fn accept(&self) -> io::Result<Incoming> {
        loop {
            let mut ready = self.io.readable().await?;
            match self.io.get_ref().accept()? {
                Some(incoming) => return Ok(incoming),
                None => ready.clear_ready(),
            }
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", self.text())]
pub struct ListenError {
    pub(super) address: Address,
    pub(super) source: io::Error,
}

impl ListenError {
    fn text(&self) -> String {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                let options = match self.address {
                    Address::Ip(_) => "-lntp",
                    Address::Unix(_) => "-lxp",
                };
                format!("the address is in use; `ss {options}` shows by which process")
            }
            io::ErrorKind::PermissionDenied => format!(
                "{} (ports below 1024 need CAP_NET_BIND_SERVICE, a socket file a writable directory)",
                self.source
            ),
            io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
            _ => self.source.to_string(),
        }
    }
}

impl Socket {
    /// Binds and listens.
    ///
    /// # Errors
    /// [`ListenError`], also where any process listens on that address already.
    pub fn bind(address: &Address, options: ListenOptions) -> Result<Self, ListenError> {
        let result = match address {
            Address::Ip(ip) => bind_ip(*ip, options),
            Address::Unix(path) => bind_unix(path, options),
        };
        result.map_err(|source| ListenError {
            address: address.clone(),
            source,
        })
    }

    /// Whether `address` could be bound now, as far as that shows without listening there:
    /// nobody can connect meanwhile, and no file is made.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn probe(address: &Address, options: ListenOptions) -> Result<(), ListenError> {
        let result = match address {
            Address::Ip(ip) => open_ip(*ip, options).map(drop),
            Address::Unix(path) if is_abstract(path) => open(AddressFamily::UNIX)
                .and_then(|socket| Ok(bind(&socket, &unix_address(path)?)?)),
            Address::Unix(path) => probe_file(path),
        };
        result.map_err(|source| ListenError {
            address: address.clone(),
            source,
        })
    }

    /// Takes new options while it listens, all but `ipv6_only`: whoever is in the accept queue
    /// stays there.
    ///
    /// # Errors
    /// What the kernel says of the first that it refuses.
    pub fn retune(&self, options: ListenOptions) -> io::Result<()> {
        listen(&self.socket, backlog(options))?;
        if self.early.load().is_some() {
            self.early.store(Some(Arc::new(options)));
        }
        if let Some(file) = self.file.as_ref().filter(|file| file.is_ours()) {
            rustix::fs::chmod(&file.path, Mode::from_raw_mode(options.unix_mode))?;
        }
        match self.address {
            Address::Ip(_) => options.liveness.apply(&self.socket),
            Address::Unix(_) => Ok(()),
        }
    }

    /// Who made it.
    pub fn keeper(&self) -> Keeper {
        self.keeper
    }

    /// The file of a Unix socket that came from another process is this one's from here on.
    pub fn own_file(&self) {
        if let Some(file) = &self.file {
            file.given_away.store(false, Ordering::Relaxed);
        }
    }

    /// Leaves the file of a Unix socket to the process that this one hands the socket to.
    pub fn give_away_file(&self) {
        if let Some(file) = &self.file {
            file.given_away.store(true, Ordering::Relaxed);
        }
    }

    /// Where it really listens: the port chosen where 0 was asked for.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The socket itself.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Takes one connection out of the accept queue; `None`: it is empty.
    ///
    /// # Errors
    /// What accept(2) gives; the queue may hold more all the same.
    pub fn accept(&self) -> io::Result<Option<Incoming>> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match acceptfrom_with(&self.socket, flags) {
            Ok((socket, peer)) => Ok(Some(self.incoming(socket, peer))),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn incoming(&self, socket: OwnedFd, peer: Option<SocketAddrAny>) -> Incoming {
        match peer.and_then(|peer| SocketAddr::try_from(peer).ok()) {
            Some(ip) => {
                if let Some(options) = &*self.early.load() {
                    // It fails for a peer that is gone, which is noticed soon enough.
                    let _ = pass_on(&socket, **options);
                }
                Incoming {
                    socket,
                    kind: Kind::Tcp,
                    peer: Address::Ip(canonical(ip)),
                }
            }
            None => Incoming {
                socket,
                kind: Kind::Unix,
                peer: self.address.clone(),
            },
        }
    }
}

impl std::os::fd::AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

fn open(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

fn bind_ip(ip: SocketAddr, options: ListenOptions) -> io::Result<Socket> {
    let socket = open_ip(ip, options)?;
    pass_on(&socket, options)?;
    listen(&socket, backlog(options))?;
    let bound = bound_address(&socket)?;
    Ok(Socket {
        socket,
        address: Address::Ip(bound),
        file: None,
        keeper: Keeper::Isobar,
        early: ArcSwapOption::empty(),
    })
}

/// A socket that is bound and does not listen yet.
fn open_ip(ip: SocketAddr, options: ListenOptions) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = open(family)?;
    // Without it an address whose last connections are in TIME-WAIT cannot be bound; it does
    // not let two processes listen, see socket(7).
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, options.ipv6_only)?;
    }
    bind(&socket, &ip)?;
    Ok(socket)
}

/// Accepted sockets inherit these, which saves their system calls.
pub(super) fn pass_on(socket: &OwnedFd, options: ListenOptions) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    options.liveness.apply(socket)
}

pub(super) fn bound_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let name: SocketAddrAny = getsockname(socket)?;
    SocketAddr::try_from(name).map_err(|_| io::Error::from(Errno::AFNOSUPPORT))
}

pub(super) fn backlog(options: ListenOptions) -> i32 {
    i32::try_from(options.backlog).unwrap_or(i32::MAX)
}

fn bind_unix(path: &Path, options: ListenOptions) -> io::Result<Socket> {
    let socket = open(AddressFamily::UNIX)?;
    let address = unix_address(path)?;
    let in_file_system = !is_abstract(path);
    if in_file_system {
        remove_if_stale(path)?;
    }
    bind(&socket, &address)?;
    let file = if in_file_system {
        // Nobody can connect before listen(2), so nobody sees the file with another mode.
        let file = SocketFile::of(path)?;
        rustix::fs::chmod(path, Mode::from_raw_mode(options.unix_mode))?;
        Some(file)
    } else {
        None
    };
    listen(&socket, backlog(options))?;
    Ok(Socket {
        file,
        socket,
        address: Address::Unix(path.into()),
        keeper: Keeper::Isobar,
        early: ArcSwapOption::empty(),
    })
}

pub(super) fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().first() == Some(&b'@')
}

/// Removes a socket file that nobody listens on, left behind by a process that was killed.
fn remove_if_stale(path: &Path) -> io::Result<()> {
    match is_stale(path)? {
        true => std::fs::remove_file(path),
        false => Ok(()),
    }
}

/// Whether there is a socket file that nobody listens on; an error if something else is there.
fn is_stale(path: &Path) -> io::Result<bool> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(false);
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket is in the way",
        ));
    }
    let probe = open(AddressFamily::UNIX)?;
    match rustix::net::connect(&probe, &unix_address(path)?) {
        Err(Errno::CONNREFUSED) => Ok(true),
        // It answers, or its backlog is full: somebody listens.
        Ok(()) | Err(Errno::AGAIN) => Err(Errno::ADDRINUSE.into()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a socket file could be made there.
fn probe_file(path: &Path) -> io::Result<()> {
    is_stale(path)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    let rights = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    Ok(rustix::fs::access(directory, rights)?)
}

/// The file of a Unix socket, removed with the socket unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Another process has the socket, and removes the file.
    pub(super) given_away: AtomicBool,
}

impl SocketFile {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.into(),
            device: metadata.dev(),
            inode: metadata.ino(),
            given_away: AtomicBool::new(false),
        })
    }

    fn is_ours(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|now| now.dev() == self.device && now.ino() == self.inode)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.given_away.load(Ordering::Relaxed) && self.is_ours() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

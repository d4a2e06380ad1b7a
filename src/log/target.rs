//! What a sink writes to, none of it ever waited for.
//!
//! Setting `O_NONBLOCK` on standard error would set it for every process that shares the open
//! file description (the shell, a supervisor). So pipes and terminals are opened once more by
//! `/proc/self/fd`, which gives a description of our own; where that is refused (sockets, a
//! pipe of another user) poll(2) is asked before each write. A pipe that poll(2) calls
//! writable has room for `PIPE_BUF` bytes, see pipe(7), so no write is larger than that; and
//! whole lines of that size never mix with those of another process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};

/// `PIPE_BUF` of Linux.
const ATOMIC: usize = 4096;

/// One of the things that lines are written to.
pub(super) enum Target {
    /// Bytes in a row: a pipe, a terminal, a file, a stream socket.
    Stream(Stream),
    /// A datagram for each line.
    Datagram(Datagram),
}

impl Target {
    /// An open descriptor.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub(super) fn stream(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self::Stream(Stream::new(private(fd)?, None)?))
    }

    /// A file, made with mode 0640 where there is none, written at its end.
    ///
    /// # Errors
    /// Those of open(2).
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::Stream(Stream::new(append(path)?, Some(path.into()))?))
    }

    /// A Unix datagram socket at a path, or `@name` in the abstract namespace. Nobody has to
    /// listen there yet.
    pub(super) fn datagram(path: &Path) -> Self {
        Self::Datagram(Datagram {
            path: path.into(),
            socket: None,
        })
    }

    /// Writes some of the lines, at least one byte; the count includes every newline passed.
    ///
    /// # Errors
    /// `WouldBlock`: later. `Interrupted`: again. Any other is a fault of the target.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.write(lines),
            Self::Datagram(datagram) => datagram.write(lines),
        }
    }

    /// What to poll for room; `None`: there is nothing open.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Stream(stream) => Some(stream.fd.as_fd()),
            Self::Datagram(datagram) => datagram.socket.as_ref().map(AsFd::as_fd),
        }
    }

    /// The path that was given for it.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Stream(stream) => stream.path.as_deref(),
            Self::Datagram(datagram) => Some(&datagram.path),
        }
    }

    /// Opens what has a path anew.
    ///
    /// # Errors
    /// Those of open(2); the target is as before.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.reopen(),
            Self::Datagram(datagram) => {
                datagram.socket = None;
                Ok(())
            }
        }
    }
}

/// See [`Target::Stream`].
pub(super) struct Stream {
    fd: OwnedFd,
    /// Most bytes in one write.
    chunk: usize,
    path: Option<PathBuf>,
}

impl Stream {
    fn new(fd: OwnedFd, path: Option<PathBuf>) -> io::Result<Self> {
        // A regular file is always writable, and writes to it are whole.
        let chunk = match file_type(&fd)? {
            FileType::RegularFile => usize::MAX,
            _ => ATOMIC,
        };
        Ok(Self { fd, chunk, path })
    }

    fn write(&self, lines: &[u8]) -> io::Result<usize> {
        if !is_writable(&self.fd)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match rustix::io::write(&self.fd, whole_lines(lines, self.chunk))? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            taken => Ok(taken),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = self.path.take() {
            let opened = append(&path).and_then(|fd| Self::new(fd, None));
            self.path = Some(path);
            let opened = opened?;
            (self.fd, self.chunk) = (opened.fd, opened.chunk);
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<OwnedFd> {
    // O_NONBLOCK: the path may be a named pipe.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?)
}

/// The same pipe or terminal with a description of our own, where the kernel gives one.
fn private(fd: OwnedFd) -> io::Result<OwnedFd> {
    let shared = file_type(&fd)?;
    if !matches!(shared, FileType::Fifo | FileType::CharacterDevice) {
        return Ok(fd);
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty()).unwrap_or(fd))
}

fn file_type(fd: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// Whether a write would not block; also true where it would fail.
fn is_writable(fd: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(rustix::event::poll(&mut fds, Some(&now))? > 0)
}

/// As many whole lines as `most` bytes hold, or that many bytes of a longer line.
fn whole_lines(lines: &[u8], most: usize) -> &[u8] {
    if lines.len() <= most {
        return lines;
    }
    let end = lines[..most].iter().rposition(|&byte| byte == b'\n');
    &lines[..end.map_or(most, |last| last + 1)]
}

/// See [`Target::Datagram`].
pub(super) struct Datagram {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Datagram {
    /// Sends one line without its newline: the datagram is the frame.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let end = lines.iter().position(|&byte| byte == b'\n');
        let line = &lines[..end.unwrap_or(lines.len())];
        if !line.is_empty() {
            self.send(line)?;
        }
        Ok(line.len() + usize::from(end.is_some()))
    }

    /// A receiver that was replaced by another one at the same path costs no line.
    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let fresh = self.socket.is_none();
        match self.connected()?.send(line) {
            Err(fault) if is_transient(&fault) => Err(fault),
            Err(fault) => {
                self.socket = None;
                if fresh { Err(fault) } else { self.send(line) }
            }
            Ok(_) => Ok(()),
        }
    }

    fn connected(&mut self) -> io::Result<&UnixDatagram> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path)?,
        };
        Ok(self.socket.insert(socket))
    }
}

fn is_transient(fault: &io::Error) -> bool {
    matches!(
        fault.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_ends_with_a_line_where_one_fits() {
        for (lines, most, chunk) in [
            ("ab\ncd\n", 6, "ab\ncd\n"),
            ("ab\ncd\n", 5, "ab\n"),
            ("ab\ncd\n", 3, "ab\n"),
            ("abcdef\n", 4, "abcd"),
        ] {
            assert_eq!(whole_lines(lines.as_bytes(), most), chunk.as_bytes());
        }
    }

    #[test]
    fn a_pipe_gets_a_description_of_its_own() {
        let (_reader, writer) = io::pipe().expect("a pipe");
        let shared = writer.try_clone().expect("a duplicate");
        let own = private(writer.into()).expect("a descriptor");
        let is_nonblocking = |fd: BorrowedFd<'_>| {
            rustix::fs::fcntl_getfl(fd)
                .expect("flags")
                .contains(OFlags::NONBLOCK)
        };
        assert!(is_nonblocking(own.as_fd()));
        assert!(!is_nonblocking(shared.as_fd()));
    }

    #[test]
    fn a_blocking_descriptor_is_asked_before_each_write() {
        let (_reader, writer) = io::pipe().expect("a pipe");
        let stream = Stream::new(writer.into(), None).expect("a stream");
        let line = [b'x'; ATOMIC];
        let full = (0..1000).find_map(|_| stream.write(&line).err());
        let full = full.expect("a pipe of less than 4 MiB");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}

//! The socket between the two processes of an upgrade: frames with descriptors.
//!
//! A frame is a head of [`HEAD`] bytes, a message in JSON, then bytes as they are. Descriptors
//! travel with the head by `SCM_RIGHTS`, see unix(7). The socket is one of a pair that the
//! child inherits: it has no name, so nobody else can ever connect to it.
//!
//! Nothing that comes in is trusted, though only a process of the same user can be at the other
//! end: lengths and counts have hard bounds that are checked before anything is allocated;
//! descriptors that were not announced, or announced and not sent, are a fault; a frame of
//! another version is told apart from one that is broken.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

use super::message::Message;

/// What changes when an older program could not understand a newer one. Fields that are new and
/// may be missing change nothing.
pub const VERSION: u32 = 1;

/// Every frame begins so, in every version.
const MAGIC: [u8; 8] = *b"isobarUP";
/// Magic, version, descriptors, length of the message, length of the bytes.
const HEAD: usize = 24;
/// Descriptors in one frame: `SCM_MAX_FD` of the kernel is 253.
pub const MOST_FDS: usize = 248;
/// Longest message, in bytes: what is more is sent in parts.
pub const MOST_MESSAGE: usize = 4 << 20;
/// Most bytes behind a message: of a connection there are 128 KiB at most, 64 each way.
pub const MOST_BYTES: usize = 4 << 20;

/// What came.
#[derive(Debug)]
pub struct Frame {
    /// The message.
    pub message: Message,
    /// The bytes behind it.
    pub bytes: Vec<u8>,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Why nothing can be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other process is gone, or has closed the socket.
    #[error("the other process is gone")]
    Gone,
    /// Nothing came, or nothing was taken, for too long.
    #[error("the other process did not answer in time")]
    Late,
    /// The other process speaks another version.
    #[error("the other process speaks version {0} of the handover, this one {VERSION}")]
    Version(u32),
    /// What came is no frame, or breaks a bound.
    #[error("what the other process sent is no message: {0}")]
    Broken(String),
    /// What the kernel says.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Late,
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::UnexpectedEof => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

impl From<rustix::io::Errno> for WireError {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

/// One end of the socket.
#[derive(Debug)]
pub struct Wire {
    socket: UnixStream,
}

impl Wire {
    /// Two ends.
    ///
    /// # Errors
    /// What socketpair(2) gives.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok((Self::new(ours), theirs))
    }

    /// The end that `socket` is; it blocks.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Sends a message with what belongs to it, within `patience` of each step forward.
    ///
    /// # Errors
    /// [`WireError`]; also where it breaks a bound, and then nothing was sent.
    pub fn send(
        &mut self,
        message: &Message,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<(), WireError> {
        let frame = encode(message, bytes, fds.len())?;
        self.socket.set_write_timeout(Some(at_least(patience)))?;
        let mut sent = self.send_head(&frame, fds)?;
        while sent < frame.len() {
            match self.socket.write(&frame[sent..])? {
                0 => return Err(WireError::Gone),
                n => sent += n,
            }
        }
        Ok(())
    }

    /// Sends the beginning of a frame, and the descriptors with its first byte.
    fn send_head(&self, frame: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, WireError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(WireError::Broken("too many descriptors".to_owned()));
        }
        let parts = [IoSlice::new(frame)];
        let flags = SendFlags::NOSIGNAL;
        Ok(sendmsg(self.socket.as_fd(), &parts, &mut ancillary, flags)?)
    }

    /// The next message, until `deadline`.
    ///
    /// # Errors
    /// [`WireError`]; after any of them the socket is of no use.
    pub fn receive(&mut self, deadline: Instant) -> Result<Frame, WireError> {
        let mut head = [0; HEAD];
        let mut fds = Vec::new();
        let mut have = 0;
        while have < HEAD {
            self.wait_until(deadline)?;
            have += self.receive_head(&mut head[have..], &mut fds)?;
        }
        let head = Head::decode(&head)?;
        if head.fds != fds.len() {
            return Err(WireError::Broken(format!(
                "{} descriptors were announced, {} came",
                head.fds,
                fds.len()
            )));
        }
        let message = self.receive_exactly(head.message, deadline)?;
        let bytes = self.receive_exactly(head.bytes, deadline)?;
        let message = serde_json::from_slice(&message)
            .map_err(|error| WireError::Broken(error.to_string()))?;
        Ok(Frame {
            message,
            bytes,
            fds,
        })
    }

    /// Waits until a message begins to come, or the other end is closed; whether it does so in
    /// `time`.
    ///
    /// # Errors
    /// What poll(2) gives.
    pub fn wait(&self, time: Duration) -> Result<bool, WireError> {
        // Twice the same is once.
        self.wait_beside(self.socket.as_fd(), time)
    }

    /// The same, but not for longer than until `bell` can be read.
    ///
    /// # Errors
    /// What poll(2) gives.
    pub fn wait_beside(&self, bell: BorrowedFd<'_>, time: Duration) -> Result<bool, WireError> {
        let mut fds = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::from_borrowed_fd(bell, PollFlags::IN),
        ];
        let time = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut fds, Some(&time)) {
            Ok(_) => Ok(!fds[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn receive_head(&self, head: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, WireError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(head)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(self.socket.as_fd(), &mut parts, &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                fds.extend(passed);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(WireError::Broken("more descriptors than may come".into()));
        }
        match received.bytes {
            0 => Err(WireError::Gone),
            n => Ok(n),
        }
    }

    fn receive_exactly(&mut self, length: usize, deadline: Instant) -> Result<Vec<u8>, WireError> {
        let mut bytes = vec![0; length];
        let mut have = 0;
        while have < length {
            self.wait_until(deadline)?;
            match self.socket.read(&mut bytes[have..])? {
                0 => return Err(WireError::Gone),
                n => have += n,
            }
        }
        Ok(bytes)
    }

    fn wait_until(&self, deadline: Instant) -> Result<(), WireError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(WireError::Late);
        }
        Ok(self.socket.set_read_timeout(Some(at_least(left)))?)
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A time-out of zero would mean: none.
fn at_least(time: Duration) -> Duration {
    time.max(Duration::from_millis(1))
}

/// The head of a frame, within bounds.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    fds: usize,
    message: usize,
    bytes: usize,
}

impl Head {
    fn decode(head: &[u8; HEAD]) -> Result<Self, WireError> {
        let broken = |why: &str| WireError::Broken(why.to_owned());
        let number = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            u32::from_le_bytes(bytes)
        };
        if head[..8] != MAGIC {
            return Err(broken("it does not begin as one"));
        }
        match number(8) {
            VERSION => {}
            other => return Err(WireError::Version(other)),
        }
        let within = |at: usize, most: usize, why: &str| {
            let number = usize::try_from(number(at)).unwrap_or(usize::MAX);
            (number <= most).then_some(number).ok_or(broken(why))
        };
        Ok(Self {
            fds: within(12, MOST_FDS, "too many descriptors")?,
            message: within(16, MOST_MESSAGE, "too long a message")?,
            bytes: within(20, MOST_BYTES, "too many bytes")?,
        })
    }
}

fn encode(message: &Message, bytes: &[u8], fds: usize) -> Result<Vec<u8>, WireError> {
    let message = serde_json::to_vec(message).map_err(|e| WireError::Broken(e.to_string()))?;
    let bounds = [
        (fds, MOST_FDS),
        (message.len(), MOST_MESSAGE),
        (bytes.len(), MOST_BYTES),
    ];
    if let Some((size, most)) = bounds.iter().find(|(size, most)| size > most) {
        return Err(WireError::Broken(format!("{size} where {most} may be")));
    }
    let mut frame = Vec::with_capacity(HEAD + message.len() + bytes.len());
    frame.extend(MAGIC);
    frame.extend(VERSION.to_le_bytes());
    for (size, _) in bounds {
        let size = u32::try_from(size).expect("it is within its bound");
        frame.extend(size.to_le_bytes());
    }
    frame.extend(message);
    frame.extend(bytes);
    Ok(frame)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;

//! Connections as frames: what a connection holds, packed and unpacked.
//!
//! Whatever a frame says is checked against what came with it: the number of descriptors, that
//! they are connected stream sockets of the kind that they were said to be and ends of pipes,
//! the number of bytes in hand.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::message::{ConnectionRecord, HandRecord};
use super::wire::{Frame, MOST_BYTES, MOST_FDS};
use crate::conn::moving::{Parcel, Passport};
use crate::conn::relay::{InHand, Still};
use crate::net::Kind;

/// Most bytes that one direction may have in hand, in memory or in a pipe.
const MOST_IN_HAND: usize = 2 << 20;

/// Connections that fit into one frame, by what it is told of them in turn.
#[derive(Debug, Default)]
pub struct Batch {
    fds: usize,
    bytes: usize,
}

impl Batch {
    /// Whether one more connection fits; if so it is in.
    pub fn takes(&mut self, still: &Still) -> bool {
        let hands = [&still.up, &still.down];
        let fds = self.fds + 2 + hands.iter().map(|hand| fds_of(hand).len()).sum::<usize>();
        let bytes = self.bytes + hands.iter().map(|hand| bytes_of(hand).len()).sum::<usize>();
        let fits = fds <= MOST_FDS && bytes <= MOST_BYTES;
        if fits {
            (self.fds, self.bytes) = (fds, bytes);
        }
        fits
    }
}

/// What is sent of a connection.
pub fn record(parcel: &Parcel) -> ConnectionRecord {
    let still = &parcel.still;
    ConnectionRecord {
        passport: parcel.passport.clone(),
        pose: still.pose.clone(),
        up: hand_record(&still.up),
        down: hand_record(&still.down),
    }
}

/// The bytes and descriptors of connections, in their order.
pub fn contents(parcels: &[Parcel]) -> (Vec<u8>, Vec<BorrowedFd<'_>>) {
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    for still in parcels.iter().map(|parcel| &parcel.still) {
        fds.extend([still.client.as_fd(), still.backend.as_fd()]);
        for hand in [&still.up, &still.down] {
            bytes.extend_from_slice(bytes_of(hand));
            fds.extend(fds_of(hand));
        }
    }
    (bytes, fds)
}

fn hand_record(hand: &InHand) -> HandRecord {
    match hand {
        InHand::Nothing => HandRecord::Nothing,
        InHand::Bytes(bytes) => HandRecord::Bytes(bytes.len()),
        InHand::Pipe { held, .. } => HandRecord::Pipe(*held),
    }
}

fn bytes_of(hand: &InHand) -> &[u8] {
    match hand {
        InHand::Bytes(bytes) => bytes,
        InHand::Nothing | InHand::Pipe { .. } => &[],
    }
}

fn fds_of(hand: &InHand) -> Vec<BorrowedFd<'_>> {
    match hand {
        InHand::Pipe { read, write, .. } => vec![read.as_fd(), write.as_fd()],
        InHand::Nothing | InHand::Bytes(_) => Vec::new(),
    }
}

/// Why a frame of connections is refused as a whole.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The counts do not add up.
    #[error("{0}")]
    Counts(&'static str),
    /// A descriptor is not what it was said to be.
    #[error("a descriptor is not what it was said to be: {0}")]
    Descriptor(&'static str),
    /// What the kernel says of a descriptor.
    #[error("a descriptor cannot be looked at: {0}")]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for UnpackError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// The connections of a frame.
///
/// # Errors
/// [`UnpackError`]; every descriptor of the frame is closed then, which ends no connection, as
/// the sender has them all still.
pub fn unpack(
    records: Vec<ConnectionRecord>,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
) -> Result<Vec<(Passport, Still)>, UnpackError> {
    if records.iter().map(ConnectionRecord::fds).sum::<usize>() != fds.len() {
        return Err(UnpackError::Counts("descriptors are missing or left over"));
    }
    let in_hand = records.iter().flat_map(|r| [r.up.bytes(), r.down.bytes()]);
    let announced = in_hand.fold(0_usize, usize::saturating_add);
    if announced != bytes.len() {
        return Err(UnpackError::Counts("bytes are missing or left over"));
    }
    let mut rest = Rest {
        fds: fds.into_iter(),
        bytes: &bytes,
    };
    records
        .into_iter()
        .map(|record| rest.connection(record))
        .collect()
}

/// The same of a whole frame, for those who have one.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_frame(
    records: Vec<ConnectionRecord>,
    frame: Frame,
) -> Result<Vec<(Passport, Still)>, UnpackError> {
    unpack(records, frame.bytes, frame.fds)
}

/// What is not unpacked yet; the counts were checked.
struct Rest<'a> {
    fds: std::vec::IntoIter<OwnedFd>,
    bytes: &'a [u8],
}

impl Rest<'_> {
    fn connection(&mut self, record: ConnectionRecord) -> Result<(Passport, Still), UnpackError> {
        let pose = record.pose;
        if !pose.is_possible() {
            return Err(UnpackError::Counts("a FIN was passed on that nobody sent"));
        }
        let still = Still {
            client: self.socket(pose.client)?,
            backend: self.socket(pose.backend)?,
            up: self.hand(record.up)?,
            down: self.hand(record.down)?,
            pose,
        };
        Ok((record.passport, still))
    }

    fn fd(&mut self) -> Result<OwnedFd, UnpackError> {
        let missing = UnpackError::Counts("descriptors are missing");
        self.fds.next().ok_or(missing)
    }

    fn socket(&mut self, kind: Kind) -> Result<OwnedFd, UnpackError> {
        let socket = self.fd()?;
        let wrong = |why| Err(UnpackError::Descriptor(why));
        if FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode) != FileType::Socket {
            return wrong("no socket");
        }
        let found = match sockopt::socket_domain(&socket)? {
            AddressFamily::INET | AddressFamily::INET6 => Kind::Tcp,
            AddressFamily::UNIX => Kind::Unix,
            _ => return wrong("neither TCP nor Unix"),
        };
        if found != kind || sockopt::socket_type(&socket)? != SocketType::STREAM {
            return wrong("another kind of socket");
        }
        if sockopt::socket_acceptconn(&socket)? {
            return wrong("a listening socket");
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(socket)
    }

    fn hand(&mut self, record: HandRecord) -> Result<InHand, UnpackError> {
        match record {
            HandRecord::Nothing => Ok(InHand::Nothing),
            HandRecord::Bytes(n) => {
                let missing = UnpackError::Counts("bytes are missing");
                let (own, rest) = self.bytes.split_at_checked(n).ok_or(missing)?;
                self.bytes = rest;
                Ok(InHand::Bytes(own.into()))
            }
            HandRecord::Pipe(held) => {
                let (read, write) = (self.pipe_end()?, self.pipe_end()?);
                let there = rustix::io::ioctl_fionread(&read)?;
                if held == 0 || held > MOST_IN_HAND || there != held as u64 {
                    return Err(UnpackError::Counts("a pipe holds something else"));
                }
                Ok(InHand::Pipe { read, write, held })
            }
        }
    }

    fn pipe_end(&mut self) -> Result<OwnedFd, UnpackError> {
        let end = self.fd()?;
        if FileType::from_raw_mode(rustix::fs::fstat(&end)?.st_mode) != FileType::Fifo {
            return Err(UnpackError::Descriptor("no pipe"));
        }
        rustix::io::ioctl_fionbio(&end, true)?;
        Ok(end)
    }
}

#[cfg(test)]
#[path = "luggage_tests.rs"]
mod tests;

//! What clients and backends say to each other: the first byte of a connection tells the
//! backend what to do with the rest.

use std::io::{self, ErrorKind};

use tokio::io::Interest;
use tokio::net::TcpStream;

use rustix::net::{RecvFlags, recv};

/// Every byte is sent back.
pub(crate) const ECHO: u8 = b'E';
/// Bytes are thrown away; at the client's FIN the backend answers how many came (8 bytes,
/// little-endian, this first byte included) and closes.
pub(crate) const SINK: u8 = b'U';
/// The backend sends until the client's FIN, then closes.
pub(crate) const SOURCE: u8 = b'D';

/// Bytes of one bulk write, and the most that one [`discard`] takes: large enough that the
/// system calls of the ends are few beside the proxy's.
pub(crate) const CHUNK: usize = 256 * 1024;

/// Sends all of `bytes`.
pub(crate) async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `buffer`.
///
/// # Errors
/// `UnexpectedEof` when the other side closes before.
pub(crate) async fn receive(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.try_read(&mut buffer[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.readable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes what has arrived, up to `scratch.len()`, and returns how much; 0 is the end.
///
/// With `MSG_TRUNC` the kernel drops the bytes of a TCP socket without copying them (tcp(7)),
/// so that the receiving end costs next to nothing; `scratch` is never written.
pub(crate) async fn discard(stream: &TcpStream, scratch: &mut [u8]) -> io::Result<usize> {
    loop {
        let taken = stream.try_io(Interest::READABLE, || {
            Ok(recv(stream, &mut *scratch, RecvFlags::TRUNC)?.1)
        });
        match taken {
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.readable().await?,
            taken => return taken,
        }
    }
}

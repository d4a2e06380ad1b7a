//! The handshake message at the beginning of a TLS connection, out of its records.

use super::client_hello::{Fault, Hello};

/// The longest message that is read, in bytes, its header included. TLS allows 16 MiB; real ones
/// have some hundred bytes, with a post-quantum key share some two thousand.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Content type `handshake`.
const HANDSHAKE: u8 = 22;
/// The major version of every record since SSL 3.0.
const MAJOR: u8 = 3;
/// Handshake type `client_hello`.
const CLIENT_HELLO: u8 = 1;
/// The longest fragment of a record that is not encrypted.
const MAX_FRAGMENT: usize = 1 << 14;
/// Type, version and length of a record.
const RECORD_HEADER: u8 = 5;
/// Type and length of a handshake message.
const MESSAGE_HEADER: usize = 4;

/// What the bytes so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet: more of them are needed.
    More,
    /// A whole ClientHello.
    Hello(Box<Hello>),
    /// No TLS client begins like this.
    NotTls,
    /// It begins like TLS, and is not what the standards allow.
    Malformed(Fault),
    /// The message says that it is longer than [`MAX_MESSAGE`].
    TooLong,
}

/// Reads a ClientHello out of the bytes of a connection, which come in any pieces.
///
/// It is not asked again once it has answered anything but [`Answer::More`].
#[derive(Debug, Default)]
pub struct Reader {
    /// Bytes of the record's header that are known.
    header: u8,
    /// The high byte of the record's length, while the low one is missing.
    high: u8,
    /// Bytes of the record's fragment that are still to come.
    left: usize,
    /// What has come of the handshake message, and what stands behind it in its last record.
    message: Vec<u8>,
}

impl Reader {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes that have come since the last call.
    pub fn feed(&mut self, bytes: &[u8]) -> Answer {
        match self.take(bytes) {
            Ok(()) => Answer::More,
            Err(answer) => answer,
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Answer> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left == 0 {
                self.header_byte(*first)?;
                bytes = rest;
                continue;
            }
            let (fragment, behind) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= fragment.len();
            bytes = behind;
            self.fragment(fragment)?;
        }
        Ok(())
    }

    /// One byte of a record's header.
    fn header_byte(&mut self, byte: u8) -> Result<(), Answer> {
        self.header = self.header % RECORD_HEADER + 1;
        // Later records belong to what has begun as TLS.
        let other = match self.message.is_empty() {
            true => Answer::NotTls,
            false => Answer::Malformed(Fault::Record),
        };
        match self.header {
            1 if byte != HANDSHAKE => return Err(other),
            2 if byte != MAJOR => return Err(other),
            // At this byte already: nobody waits for what a forged length promises.
            4 if usize::from(byte) << 8 > MAX_FRAGMENT => {
                return Err(Answer::Malformed(Fault::Record));
            }
            4 => self.high = byte,
            RECORD_HEADER => self.left = usize::from(u16::from_be_bytes([self.high, byte])),
            _ => {}
        }
        match self.header == RECORD_HEADER && !(1..=MAX_FRAGMENT).contains(&self.left) {
            true => Err(Answer::Malformed(Fault::Record)),
            false => Ok(()),
        }
    }

    /// Some bytes of the message.
    fn fragment(&mut self, bytes: &[u8]) -> Result<(), Answer> {
        self.message.extend_from_slice(bytes);
        match *self.message {
            [kind, ..] if kind != CLIENT_HELLO => Err(Answer::Malformed(Fault::Message)),
            [_, high, middle, low, ..] => {
                let body = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.body(MESSAGE_HEADER + body)
            }
            _ => Ok(()),
        }
    }

    /// The length of the message is known.
    fn body(&mut self, len: usize) -> Result<(), Answer> {
        if len > MAX_MESSAGE {
            return Err(Answer::TooLong);
        }
        let Some(message) = self.message.get(..len) else {
            return Ok(());
        };
        Err(match Hello::parse(&message[MESSAGE_HEADER..]) {
            Ok(hello) => Answer::Hello(Box::new(hello)),
            Err(fault) => Answer::Malformed(fault),
        })
    }
}

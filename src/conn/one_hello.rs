//! Whether what a client has sent is one TLS ClientHello without early data, or the beginning of
//! one, told as the bytes come.
//!
//! Such bytes may be sent to a second server: until it has seen the first one's ServerHello a
//! client has no key by which anything it sent could do anything (RFC 8446, 2 and E.1.2). Early
//! data is the exception (RFC 8446, 2.3: it may be replayed); its record follows a ClientHello
//! that announces it by the extension `early_data` (4.2.10). So anything behind the ClientHello
//! rules it out, and so does that extension, before the first byte of early data is there.
//!
//! What is checked is the record layer (5.1, the ClientHello may be spread over records) and the
//! frame of the ClientHello (4.1.2; those of older versions may lack extensions): whatever has
//! another form is for nobody to repeat.

/// `handshake` among the content types.
const HANDSHAKE: u8 = 22;
/// Most bytes of one record's fragment.
const FRAGMENT: usize = 1 << 14;
/// `client_hello` among the handshake types.
const CLIENT_HELLO: usize = 1;
/// `early_data` among the extension types.
const EARLY_DATA: usize = 42;
/// Bytes of `legacy_version` and `random`.
const START: usize = 2 + 32;
/// Most bytes of a ClientHello: far above those with post-quantum keys.
const MOST: usize = 64 << 10;

/// The reader of one client's bytes.
#[derive(Debug)]
pub(super) struct OneHello {
    /// Bytes of a record's header that are known.
    header: u8,
    /// Bytes of the present record's fragment that are still to come.
    fragment: usize,
    hello: Hello,
}

impl OneHello {
    /// Of a client that has sent nothing.
    pub(super) fn new() -> Self {
        Self {
            header: 0,
            fragment: 0,
            hello: Hello::new(),
        }
    }

    /// The client has sent these as well. False: it is something else, for good.
    pub(super) fn takes(&mut self, mut bytes: &[u8]) -> bool {
        while let Some(first) = bytes.first() {
            let in_header = self.header < 5;
            let n = match in_header {
                true => 1,
                false => bytes.len().min(self.fragment),
            };
            let fits = match in_header {
                true => self.takes_header(*first),
                false => self.takes_fragment(&bytes[..n]),
            };
            if !fits {
                return false;
            }
            bytes = &bytes[n..];
        }
        true
    }

    /// Type, version (of which the second byte means nothing), length.
    fn takes_header(&mut self, byte: u8) -> bool {
        let fits = match self.header {
            0 => byte == HANDSHAKE && !self.hello.is_whole(),
            1 => byte == 3,
            2 => true,
            3 => {
                self.fragment = usize::from(byte) << 8;
                true
            }
            _ => {
                self.fragment |= usize::from(byte);
                (1..=FRAGMENT).contains(&self.fragment)
            }
        };
        self.header += 1;
        fits
    }

    fn takes_fragment(&mut self, bytes: &[u8]) -> bool {
        self.fragment -= bytes.len();
        if self.fragment == 0 {
            self.header = 0;
        }
        self.hello.takes(bytes)
    }
}

/// The handshake message, as a row of numbers and of what is passed over.
#[derive(Debug)]
struct Hello {
    field: Field,
    /// Bytes of the field that are still to come.
    missing: usize,
    /// What is known of a number.
    value: usize,
    /// Bytes of the message that are still to come, as far as its length is known.
    left: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Type,
    Length,
    Start,
    SessionLength,
    Session,
    CiphersLength,
    Ciphers,
    CompressionsLength,
    Compressions,
    ExtensionsLength,
    ExtensionType,
    ExtensionLength,
    Extension,
    End,
}

impl Hello {
    fn new() -> Self {
        Self {
            field: Field::Type,
            missing: 1,
            value: 0,
            left: 4,
        }
    }

    fn is_whole(&self) -> bool {
        self.field == Field::End
    }

    fn takes(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.is_whole() {
                return false;
            }
            let n = bytes.len().min(self.missing);
            if self.field.is_number() {
                let more = bytes[..n].iter().map(|byte| usize::from(*byte));
                self.value = more.fold(self.value, |value, byte| (value << 8) | byte);
            }
            self.missing -= n;
            self.left -= n;
            bytes = &bytes[n..];
            // What has no length is over as soon as it begins.
            while self.missing == 0 && !self.is_whole() {
                if !self.next() {
                    return false;
                }
            }
        }
        true
    }

    /// Begins the field behind one that is known. False: there can be none such.
    fn next(&mut self) -> bool {
        let value = std::mem::take(&mut self.value);
        let fits = match self.field {
            Field::Type => value == CLIENT_HELLO,
            Field::Length => {
                self.left = value;
                value <= MOST
            }
            Field::ExtensionsLength => value == self.left,
            Field::ExtensionType => value != EARLY_DATA,
            _ => true,
        };
        (self.field, self.missing) = match self.field {
            Field::Type => (Field::Length, 3),
            Field::Length => (Field::Start, START),
            Field::Start => (Field::SessionLength, 1),
            Field::SessionLength => (Field::Session, value),
            Field::Session => (Field::CiphersLength, 2),
            Field::CiphersLength => (Field::Ciphers, value),
            Field::Ciphers => (Field::CompressionsLength, 1),
            Field::CompressionsLength => (Field::Compressions, value),
            Field::Compressions if self.left > 0 => (Field::ExtensionsLength, 2),
            Field::ExtensionsLength | Field::Extension if self.left > 0 => {
                (Field::ExtensionType, 2)
            }
            Field::ExtensionType => (Field::ExtensionLength, 2),
            Field::ExtensionLength => (Field::Extension, value),
            Field::Compressions | Field::ExtensionsLength | Field::Extension | Field::End => {
                (Field::End, 0)
            }
        };
        fits && self.missing <= self.left
    }
}

impl Field {
    fn is_number(self) -> bool {
        !matches!(
            self,
            Self::Start | Self::Session | Self::Ciphers | Self::Compressions | Self::Extension
        )
    }
}

#[cfg(test)]
mod tests;

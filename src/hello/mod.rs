//! What the first bytes of a TLS client say about where it wants to go. Pure: bytes in, an
//! answer out; nothing is decrypted, nothing is verified, no socket is touched.
//!
//! ```text
//! records    16 03 xx length  fragment      RFC 8446, 5.1     records.rs
//! handshake  01 length        ClientHello   RFC 8446, 4       records.rs
//! hello      … extensions                   RFC 8446, 4.1.2   client_hello.rs
//!            server_name                    RFC 6066, 3       client_hello.rs, name.rs
//!            ALPN                           RFC 7301, 3.1     client_hello.rs
//! ```
//!
//! The bytes may come in any pieces: a [`Reader`] keeps what it has of the handshake message,
//! each byte once, and is given what is new. A message may be spread over records in any way,
//! also in the middle of its header. What is not TLS is told at the first byte that rules it
//! out; a record or a message whose length cannot be, at that length; everything else that is
//! wrong, once the message is whole.
//!
//! What is *lenient*: the version in a record, of which RFC 8446 says that it must be ignored,
//! but for the 3 it begins with; versions, random, cipher suites, which are for the backend to
//! judge; unknown extensions, so that GREASE (RFC 8701), keys of any size and an encrypted inner
//! hello pass. With ECH the name is the outer one, which is all that can be read.
//! What is *strict*: every length must fit exactly, no extension may come twice, and a name must
//! be one. Where isobar and the backend could read two different names out of the same bytes,
//! there is no name.

mod client_hello;
mod name;
mod pattern;
mod records;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;

pub use client_hello::{Fault, Hello};
pub use name::{NotAName, host_name};
pub use pattern::{NamePattern, PatternError};
pub use records::{Answer, MAX_MESSAGE, Reader};

/// Feeds `bytes` in pieces whose lengths come from their front, and checks what must be true of
/// any bytes: the answer does not depend on the pieces, and nothing panics. The body of the fuzz
/// target; its corpus is replayed by the tests.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let (cuts, bytes) = bytes.split_at(bytes.len().min(8));
    let whole = first_answer(std::iter::once(bytes));
    let single = first_answer(bytes.chunks(1));
    assert_eq!(whole, single, "whole, and byte by byte");
    let mut rest = bytes;
    let mut cuts = cuts.iter().cycle();
    let pieces = std::iter::from_fn(|| {
        let cut = usize::from(*cuts.next()?) + 1;
        let (piece, behind) = rest.split_at(cut.min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(whole, first_answer(pieces), "whole, and in pieces");
    if let Answer::Hello(hello) = whole {
        let again = |name: &str| host_name(name.as_bytes()) == Ok(Some(name.to_owned()));
        assert!(hello.sni.as_deref().is_none_or(again));
        assert!(hello.alpn.iter().all(|protocol| !protocol.is_empty()));
    }
}

/// What a reader says to these pieces, and no more of them than it asks for.
fn first_answer<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Answer {
    let mut reader = Reader::new();
    for piece in pieces {
        match reader.feed(piece) {
            Answer::More => {}
            answer => return answer,
        }
    }
    Answer::More
}

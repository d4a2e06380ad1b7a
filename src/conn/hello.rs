//! The stage before the route: reads the ClientHello of a client, where somebody wants to know.
//!
//! Whatever is read stays what the backend gets first. What is no TLS, is malformed, or ends
//! before it is whole goes on at once, as a client that has told nothing. Only who says nothing,
//! or too much, ends here.

use super::Outcome;
use super::preread::{More, Preread};
use crate::hello::{Answer, Hello, Reader};
use crate::metrics::Rejected;

/// What the client says of where it wants to go, out of what was read and what comes.
///
/// # Errors
/// The outcome of a connection that ends: it broke, was silent for too long, or its hello is too
/// long.
pub(super) async fn hello(preread: &mut Preread<'_>) -> Result<Option<Box<Hello>>, Outcome> {
    let mut reader = Reader::new();
    let mut seen = 0;
    loop {
        let answer = reader.feed(&preread.bytes()[seen..]);
        seen = preread.bytes().len();
        match answer {
            Answer::Hello(hello) => return Ok(Some(hello)),
            Answer::NotTls | Answer::Malformed(_) => return Ok(None),
            Answer::TooLong => return Err(Outcome::Rejected(Rejected::PrereadLimit)),
            Answer::More => {}
        }
        if preread.more().await? == More::Fin {
            return Ok(None);
        }
    }
}

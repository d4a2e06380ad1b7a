//! What is known of a client when a backend is looked for: who it is, and what it has sent.

use crate::net::Address;

/// A client on the way from its accept to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// Whom limits, hash, log and statistics know.
    pub client: Address,
    /// What was read of it to learn where it wants to go: the first that its backend gets.
    pub early: Vec<u8>,
}

impl Visitor {
    /// A client of whom only the address is known.
    pub fn at(client: Address) -> Self {
        Self {
            client,
            early: Vec::new(),
        }
    }

    /// Whether the client's address is all that is known of it.
    pub(super) fn is_plain(&self) -> bool {
        let Self { client: _, early } = self;
        early.is_empty()
    }
}

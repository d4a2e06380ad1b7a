//! Who changes what: one line for each change, and one for those that are refused, at most one
//! a second.
//!
//! The lines have a target of their own, `isobar::audit`, and are written at every
//! `log.level`; `RUST_LOG` alone can leave them out.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::http::{Method, Uri};

use super::error::Refusal;
use crate::log::SharedThrottle;
use crate::net::Address;
use crate::pool::overrides::Stamp;
use crate::pool::{BackendView, Leaving};

/// Much more than a path of ours needs; what a client sends has no end.
const MOST_OF_A_PATH: usize = 200;

/// The other end of a connection to the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Over TCP.
    Address(Address),
    /// Over a Unix socket: a user, as the kernel names it; `None`: it does not.
    User(Option<u32>),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::User(Some(uid)) => write!(f, "uid {uid}"),
            Self::User(None) => f.write_str("an unknown user"),
        }
    }
}

impl Peer {
    /// For a change that it makes now.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            since: SystemTime::now(),
            by: Arc::from(self.to_string()),
        }
    }
}

/// One change.
pub(super) struct Change<'a> {
    /// Who made it.
    pub(super) by: &'a str,
    /// What was done, in a word.
    pub(super) what: &'a str,
    pub(super) pool: Option<&'a str>,
    pub(super) backend: Option<&'a str>,
    /// How it was.
    pub(super) before: String,
    /// How it is.
    pub(super) after: String,
}

impl Change<'_> {
    /// Writes the line.
    pub(super) fn log(&self) {
        let Self {
            by,
            what,
            pool,
            backend,
            before,
            after,
        } = self;
        tracing::info!(
            target: "isobar::audit",
            by, what, pool, backend, before = &**before, after = &**after, "change"
        );
    }
}

/// A backend as these lines show it.
pub(super) fn told(view: &BackendView) -> String {
    let until = view.leaving.and_then(|leaving: Leaving| leaving.until);
    let until = until.and_then(|until| jiff::Timestamp::try_from(until).ok());
    let until = until.map_or(String::new(), |until| format!(" until={until:.0}"));
    format!(
        "state={} weight={}{until}",
        view.admin.as_str(),
        view.settings.weight
    )
}

/// The lines about changes that are refused.
#[derive(Debug)]
pub(super) struct Refusals(SharedThrottle);

impl Refusals {
    pub(super) fn new() -> Self {
        Self(SharedThrottle::new(Instant::now()))
    }

    /// Writes the line, if it is time for one.
    pub(super) fn log(&self, peer: &Peer, method: &Method, uri: &Uri, refusal: &Refusal) {
        let Some(suppressed) = self.0.check(Instant::now()) else {
            return;
        };
        let path: String = uri.path().chars().take(MOST_OF_A_PATH).collect();
        tracing::warn!(
            target: "isobar::audit",
            by = %peer,
            method = method.as_str(),
            path = &*path,
            status = refusal.status.as_u16(),
            reason = &*refusal.reason,
            suppressed,
            "change refused"
        );
    }
}

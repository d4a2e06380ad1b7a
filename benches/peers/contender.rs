//! Who is measured.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A kind of program; each that is measured is a column of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contender {
    /// Clients dial the backends: the floor.
    Direct,
    /// The balancer of this repository.
    Isobar,
    /// HAProxy in TCP mode.
    Haproxy,
    /// NGINX with the stream module.
    Nginx,
}

impl Contender {
    /// The name on the command line, in tables and in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Isobar => "isobar",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// As it writes itself.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Isobar => "isobar",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "NGINX",
        }
    }

    /// Whether isobar is compared with it.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Haproxy | Self::Nginx)
    }
}

//! The words for what a backend is: what an operator wants of it, and what it is all in all.

use serde::{Deserialize, Serialize, Serializer};

/// What an operator wants of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// To serve.
    Ready,
    /// To take no new connection; checks go on.
    Drain,
    /// To be left alone; checks stop.
    Maintenance,
}

/// What a backend is, all in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not in the pool any more, with connections left.
    Removed,
    /// In maintenance.
    Maintenance,
    /// Takes no new connection.
    Draining,
    /// Down by checks.
    Down,
    /// Put out for a while by what its connections showed.
    Ejected,
    /// Not checked yet.
    Starting,
    /// Serves.
    Up,
}

impl AdminState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Drain, Self::Maintenance];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

impl State {
    /// All of them, in order of precedence.
    pub const ALL: [Self; 7] = [
        Self::Removed,
        Self::Maintenance,
        Self::Draining,
        Self::Down,
        Self::Ejected,
        Self::Starting,
        Self::Up,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Maintenance => "maintenance",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Starting => "starting",
            Self::Up => "up",
        }
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

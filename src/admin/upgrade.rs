//! `POST /upgrade`: the program now on disk takes the place of this one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::Running;
use super::error::Refusal;
use super::words::Seconds;

/// Where somebody waits for what comes of an upgrade.
pub type UpgradeRequest = oneshot::Sender<Result<Upgraded, NotUpgraded>>;

/// What came of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// The process that serves now.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Connections that moved to it.
    pub moved: u64,
    /// Connections that finish in the old process.
    pub remaining: u64,
    /// From the order to the last move.
    pub took: std::time::Duration,
}

/// Why there was no upgrade: this process goes on as if nobody had asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUpgraded {
    /// Not of this process, or not now.
    #[error("{0}")]
    Impossible(String),
    /// The process is about to end: another one in its place would go on.
    #[error("isobar is stopping")]
    Stopping,
    /// The new process does not accept the configuration.
    #[error("the new process refuses the configuration: {0}")]
    Invalid(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// Where upgrades are asked for, and what is known of them.
#[derive(Debug)]
pub struct Upgrading {
    requests: mpsc::UnboundedSender<UpgradeRequest>,
    /// One is in progress: whatever is changed now might be lost.
    in_progress: AtomicBool,
    elder: Mutex<Option<Elder>>,
}

/// A process of which this one has taken the place, and which has connections left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elder {
    /// Its number.
    pub pid: u32,
    /// Since when it runs.
    pub since: SystemTime,
    /// Connections that it has.
    pub active: u64,
}

impl Upgrading {
    /// Nothing is known yet; and where requests arrive.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<UpgradeRequest>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let upgrading = Self {
            requests,
            in_progress: AtomicBool::new(false),
            elder: Mutex::default(),
        };
        (upgrading, receiver)
    }

    /// Asks for an upgrade, and waits for what comes of it.
    ///
    /// # Errors
    /// [`NotUpgraded`].
    pub async fn ask(&self) -> Result<Upgraded, NotUpgraded> {
        let (answer, outcome) = oneshot::channel();
        let sent = self.requests.send(answer);
        sent.map_err(|_| NotUpgraded::Stopping)?;
        outcome.await.unwrap_or(Err(NotUpgraded::Stopping))
    }

    /// Says whether an upgrade is in progress.
    pub fn set_in_progress(&self, in_progress: bool) {
        self.in_progress.store(in_progress, Ordering::Relaxed);
    }

    /// Whether an upgrade is in progress.
    pub fn is_in_progress(&self) -> bool {
        self.in_progress.load(Ordering::Relaxed)
    }

    /// The process of which this one has taken the place, as long as it has connections.
    pub fn elder(&self) -> Option<Elder> {
        *self.elder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is known of that process.
    pub fn set_elder(&self, elder: Option<Elder>) {
        *self.elder.lock().unwrap_or_else(PoisonError::into_inner) = elder;
    }
}

impl NotUpgraded {
    fn status(&self) -> StatusCode {
        match self {
            Self::Impossible(_) => StatusCode::CONFLICT,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// The answer.
#[derive(Serialize)]
pub(super) struct Answer {
    pid: u32,
    version: String,
    moved: u64,
    remaining: u64,
    seconds: Seconds,
}

/// Upgrades, and answers when all that can move has moved.
pub(super) async fn upgrade(State(running): State<Arc<Running>>) -> Result<Json<Answer>, Refusal> {
    match running.upgrading.ask().await {
        Ok(upgraded) => Ok(Json(Answer {
            pid: upgraded.pid,
            version: upgraded.version,
            moved: upgraded.moved,
            remaining: upgraded.remaining,
            seconds: Seconds(upgraded.took),
        })),
        Err(why) => Err(Refusal::new(why.status(), why.to_string())),
    }
}

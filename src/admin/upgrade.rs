//! `POST /upgrade`: the program now on disk takes the place of this one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use tokio::sync::oneshot;

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
    /// The new process does not accept the configuration.
    #[error("the new process refuses the configuration: {0}")]
    Invalid(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

impl NotUpgraded {
    fn status(&self) -> StatusCode {
        match self {
            Self::Impossible(_) => StatusCode::CONFLICT,
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
    match running.upgrade().await {
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

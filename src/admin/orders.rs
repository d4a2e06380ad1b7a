//! What the endpoint, signals and the watch ask of whoever reloads: one order at a time, each
//! with its answer.

use tokio::sync::{mpsc, oneshot};

use crate::config::Faults;
use crate::plan::{Limits, Plan};

/// Where orders are given.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::UnboundedSender<Order>);

/// An order and where its answer goes.
#[derive(Debug)]
pub struct Order {
    /// What is to be done.
    pub wanted: Wanted,
    /// Who may have gone away before it is.
    pub reply: oneshot::Sender<Result<Done, Refused>>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// To tell what a reload would change, and to change nothing.
    Plan {
        /// The file's text; `None`: that of the file itself.
        text: Option<String>,
    },
    /// To reload the file.
    Reload {
        /// How much may change.
        limits: Limits,
        /// Who wants it.
        by: String,
    },
    /// The same, because the file has changed.
    Follow {
        /// The file as it was found to be; another one is not taken.
        found: Version,
    },
}

/// A version of a file, as far as the file system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Of the file that the path leads to.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// In bytes.
    pub size: u64,
    /// Last change of its content: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Last change of anything about it.
    pub changed: (i64, i64),
}

/// What was done.
#[derive(Debug)]
pub struct Done {
    /// What changed, or would.
    pub plan: Plan,
    /// The number of the configuration that is in force now.
    pub generation: u64,
    /// Whether it is another than before.
    pub applied: bool,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The file, or what it needs of this machine, is wrong.
    #[error("the configuration is invalid: {}", .0.summary())]
    Invalid(Faults),
    /// Impossible now: an address is in use, a limit is passed.
    #[error("{0}")]
    Impossible(String),
    /// The process is about to end.
    #[error("isobar is stopping")]
    Stopping,
    /// Another process is taking the place of this one, or has taken it.
    #[error("an upgrade is in progress; ask again when it is over")]
    Upgrading,
    /// The file has changed again since.
    #[error("the file changes while it is read")]
    Changing,
}

impl Orders {
    /// A place for orders, and where they arrive.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Order>) {
        let (orders, receiver) = mpsc::unbounded_channel();
        (Self(orders), receiver)
    }

    /// Gives an order and waits for the answer.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn give(&self, wanted: Wanted) -> Result<Done, Refused> {
        let (reply, answer) = oneshot::channel();
        // Whoever takes orders is gone only when the process is about to be.
        let _ = self.0.send(Order { wanted, reply });
        answer.await.unwrap_or(Err(Refused::Stopping))
    }
}

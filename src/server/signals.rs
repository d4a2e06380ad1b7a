//! The signals that isobar obeys, see signal(7).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What an operator, or the system, wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    ReopenLogs,
    /// SIGUSR2.
    Upgrade,
}

/// The signals as a source of orders.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Takes the signals over from their defaults. SIGPIPE is ignored by every Rust program.
    ///
    /// # Errors
    /// What sigaction(2) gives.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next order.
    ///
    /// # Cancel safety
    /// No signal is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::Stop,
            _ = self.interrupt.recv() => Order::Stop,
            _ = self.hangup.recv() => Order::Reload,
            _ = self.user1.recv() => Order::ReopenLogs,
            _ = self.user2.recv() => Order::Upgrade,
        }
    }
}

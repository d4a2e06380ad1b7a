//! From the order to stop to the end of the process.
//!
//! 1. `/readyz` turns 503, so that whoever sends traffic sends it elsewhere; for `stop_delay`
//!    nothing else changes.
//! 2. Every accept queue is emptied, then closed. Checks stop as soon as nobody is held, as
//!    those who are may be waiting for just that.
//! 3. Connections go on, held ones too, until one deadline, `drain_timeout` from step 2.
//! 4. What is left then is reset.
//!
//! A second order resets everything at once. The admin endpoint answers to the end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::notify::Notifier;
use super::signals::{Order, Signals};
use super::supervised;
use crate::admin::Running;
use crate::conn::Command;
use crate::metrics::Ended;

/// How long connections that were told to end may take for it.
const LAST_WORDS: Duration = Duration::from_millis(150);

/// How often a stop looks whether somebody is still held.
const HELD_LOOK: Duration = Duration::from_millis(50);

/// What a stop has to do with.
pub(super) struct Stopping {
    pub(super) running: Arc<Running>,
    /// Ends the checks.
    pub(super) halt: CancellationToken,
    /// Is told of SIGHUP.
    pub(super) hangup: Rc<Notify>,
    pub(super) notifier: Arc<Notifier>,
}

impl Stopping {
    /// Serves until told to stop, then stops.
    pub(super) async fn until_stopped(&self, mut signals: Signals, stop: CancellationToken) {
        self.next_stop(&mut signals, &stop).await;
        let delay = self.running.configured().file.config.runtime.stop_delay;
        let active = self.active();
        tracing::info!(active, "stopping");
        self.running.begin_stop();
        self.notifier.stopping();
        supervised::tell(&self.running, &self.notifier);
        let gently = async {
            tokio::time::sleep(delay).await;
            self.close_listeners().await;
            tokio::join!(self.halt_checks(), self.drain());
        };
        // The token stays cancelled: only a second signal counts here.
        let never = CancellationToken::new();
        tokio::select! {
            () = gently => {}
            () = supervised::ask_for_time(&self.running, &self.notifier) => {}
            () = self.next_stop(&mut signals, &never) => {
                tracing::warn!(active = self.active(), "told to stop again, resetting what is left");
                // Whoever is still in an accept queue comes out of it first, or they would be
                // left over, and the end of the process would close them as if all were well.
                self.close_listeners().await;
                self.end_all(Ended::Killed).await;
            }
        }
        tracing::info!("stopped");
    }

    /// Obeys all other orders until one to stop comes.
    async fn next_stop(&self, signals: &mut Signals, stop: &CancellationToken) {
        loop {
            let order = tokio::select! {
                () = stop.cancelled() => Order::Stop,
                order = signals.next() => order,
            };
            match order {
                Order::Stop => return,
                Order::ReopenLogs => self.running.log.reopen(),
                Order::Reload => {
                    self.running.log.reopen();
                    // Several that come while one is obeyed are one.
                    self.hangup.notify_one();
                }
                Order::Upgrade => {
                    tracing::warn!("upgrade is not available in this version of isobar yet");
                }
            }
        }
    }

    fn active(&self) -> u64 {
        self.running.configured().active()
    }

    /// Empties and closes every accept queue. No reload opens another one: it is refused since
    /// the stop has begun.
    async fn close_listeners(&self) {
        let configured = self.running.configured();
        let doors = || configured.listeners.iter().flat_map(|l| &l.doors);
        doors().for_each(|door| door.close());
        for door in doors() {
            door.closed().await;
        }
    }

    async fn halt_checks(&self) {
        while self.is_anybody_held() {
            tokio::time::sleep(HELD_LOOK).await;
        }
        self.halt.cancel();
    }

    fn is_anybody_held(&self) -> bool {
        let configured = self.running.configured();
        configured.every_pool().any(|pool| pool.held() > 0)
    }

    async fn drain(&self) {
        let deadline = self.running.configured().file.config.runtime.drain_timeout;
        let process = &self.running.process;
        if deadline.is_zero() {
            return process.empty().await;
        }
        if tokio::time::timeout(deadline, process.empty())
            .await
            .is_err()
        {
            let active = self.active();
            tracing::warn!(active, "drain_timeout is over, resetting what is left");
            self.end_all(Ended::DrainTimeout).await;
        }
    }

    async fn end_all(&self, ended: Ended) {
        for core in &self.running.cores {
            core.tell(Command::EndAll(ended));
        }
        let _ = tokio::time::timeout(LAST_WORDS, self.running.process.empty()).await;
    }
}

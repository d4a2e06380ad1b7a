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

use super::core::Opener;
use super::notify::Notifier;
use super::signals::{Order, Signals};
use super::supervised;
use super::upgrade::{Next, Upgrades};
use crate::admin::{Endpoint, Running};
use crate::conn::Command;
use crate::metrics::Ended;

/// How long connections that were told to end may take for it.
const LAST_WORDS: Duration = Duration::from_millis(150);

/// How long the last answers of the admin endpoint may take when another process has taken over.
const LAST_ANSWER: Duration = Duration::from_millis(500);

/// How often a stop looks whether somebody is still held.
const HELD_LOOK: Duration = Duration::from_millis(50);

/// Who may tell a balancer to end.
pub(super) struct Sources {
    pub(super) signals: Signals,
    pub(super) upgrades: Upgrades,
    /// Of whoever runs the balancer in its own process.
    pub(super) stop: CancellationToken,
}

/// Why a balancer ends.
enum Why {
    /// It was told to stop.
    Stop,
    /// Another process has taken its place, and nothing is left here.
    Replaced,
}

/// What the end of a balancer, and another process in its place, have to do with.
pub(super) struct Ending {
    pub(super) running: Arc<Running>,
    pub(super) opener: Opener,
    pub(super) admin: Rc<Endpoint>,
    /// Ends the checks.
    pub(super) halt: CancellationToken,
    /// Is told of SIGHUP.
    pub(super) hangup: Rc<Notify>,
    pub(super) notifier: Arc<Notifier>,
}

impl Ending {
    /// Serves until told to stop, then stops; or until another process has taken everything
    /// over.
    pub(super) async fn until_ended(&self, mut sources: Sources) {
        if let Why::Replaced = self.next_end(&mut sources).await {
            return self.say_farewell().await;
        }
        self.end_upgrade(&mut sources.upgrades).await;
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
        sources.stop = CancellationToken::new();
        tokio::select! {
            () = gently => {}
            () = supervised::ask_for_time(&self.running, &self.notifier) => {}
            why = self.next_end(&mut sources) => if let Why::Stop = why {
                tracing::warn!(active = self.active(), "told to stop again, resetting what is left");
                // Whoever is still in an accept queue comes out of it first, or they would be
                // left over, and the end of the process would close them as if all were well.
                self.close_listeners().await;
                self.end_all(Ended::Killed).await;
            }
        }
        tracing::info!("stopped");
    }

    /// Obeys all other orders until one to stop comes, or nothing is left to be done.
    async fn next_end(&self, sources: &mut Sources) -> Why {
        loop {
            let order = tokio::select! {
                () = sources.stop.cancelled() => Order::Stop,
                order = sources.signals.next() => order,
                next = sources.upgrades.next() => {
                    if self.upgrade(&mut sources.upgrades, next).await {
                        return Why::Replaced;
                    }
                    continue;
                }
            };
            match order {
                Order::Stop => return Why::Stop,
                Order::ReopenLogs => self.running.log.reopen(),
                Order::Reload => {
                    self.running.log.reopen();
                    // Several that come while one is obeyed are one.
                    self.hangup.notify_one();
                }
                Order::Upgrade => {
                    self.upgrade(&mut sources.upgrades, Next::Begin(None)).await;
                }
            }
        }
    }

    /// An upgrade that has not come far fails, which takes a moment; one that has goes on.
    async fn end_upgrade(&self, upgrades: &mut Upgrades) {
        upgrades.give_up();
        while upgrades.is_open() {
            let next = upgrades.next().await;
            self.upgrade(upgrades, next).await;
        }
    }

    /// Whoever asked for the upgrade is answered before the process ends.
    async fn say_farewell(&self) {
        let _ = tokio::time::timeout(LAST_ANSWER, self.admin.empty()).await;
        tracing::info!("replaced, nothing is left");
    }

    fn active(&self) -> u64 {
        self.running.configured().active()
    }

    /// Empties and closes every accept queue. No reload opens another one: it is refused since
    /// the stop has begun.
    async fn close_listeners(&self) {
        let doors = self.running.configured().doors();
        doors.iter().for_each(|door| door.close());
        for door in &doors {
            door.closed().await;
        }
    }

    async fn halt_checks(&self) {
        until_nobody_is_held(&self.running).await;
        self.halt.cancel();
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

/// Those who are held may be waiting for just a check.
pub(super) async fn until_nobody_is_held(running: &Running) {
    let is_held = || {
        running
            .configured()
            .every_pool()
            .any(|pool| pool.held() > 0)
    };
    while is_held() {
        tokio::time::sleep(HELD_LOOK).await;
    }
}

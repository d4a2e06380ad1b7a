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
//!
//! While two processes have connections, in an upgrade and after it, they stop as one: the new one
//! tells the old one and waits for it, the old one passes on the orders that it gets.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::core::Opener;
use super::notify::Notifier;
use super::signals::{Order, Signals};
use super::supervised;
use super::upgrade::{Next, Upgrades};
use crate::admin::{Endpoint, Phase, Running};
use crate::conn::Command;
use crate::metrics::Ended;
use crate::upgrade::stops::{Before, Passed};

/// How long connections that were told to end may take for it.
const LAST_WORDS: Duration = Duration::from_millis(150);

/// How long the last answers of the admin endpoint may take when another process has taken over.
const LAST_ANSWER: Duration = Duration::from_millis(500);

/// How long a signal that came before the end of the process may take to be seen.
const LAST_LOOK: Duration = Duration::from_millis(1);

/// How long connections may take to end where the process before this one has some: it hears of
/// it a moment later.
const ELDER_WORDS: Duration = Duration::from_secs(1);

/// An order that comes to both processes, as from a terminal or a service manager that tells every
/// process of a service, comes to both within this.
const SAME: Duration = Duration::from_secs(1);

/// How often a stop looks whether somebody is still held.
const HELD_LOOK: Duration = Duration::from_millis(50);

/// Who may tell a balancer to end.
pub(super) struct Sources {
    pub(super) signals: Signals,
    pub(super) upgrades: Upgrades,
    /// Orders to stop that the process before this one was given.
    pub(super) passed: Passed,
    /// Of whoever runs the balancer in its own process.
    pub(super) stop: CancellationToken,
}

/// Why a balancer ends.
pub(super) enum Why {
    /// It was told to stop.
    Stop {
        /// By another process, not by a signal.
        passed: bool,
    },
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
    /// The process of which this one has taken the place.
    pub(super) before: Option<Before>,
}

impl Ending {
    /// Serves until told to stop, then stops; or until another process has taken everything
    /// over.
    pub(super) async fn until_ended(&self, mut sources: Sources) {
        let passed = match self.first_end(&mut sources).await {
            Why::Replaced => return self.say_farewell(&mut sources).await,
            Why::Stop { passed } => passed,
        };
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
            why = self.told_again(&mut sources, passed) => if let Why::Stop { .. } = why {
                tracing::warn!(active = self.active(), "told to stop again, resetting what is left");
                // Whoever is still in an accept queue comes out of it first, or they would be
                // left over, and the end of the process would close them as if all were well.
                self.close_listeners().await;
                self.end_all(Ended::Killed).await;
            }
        }
        if let Some(before) = &self.before {
            // A service manager may kill what is left of the service when this process ends.
            let _ = tokio::time::timeout(LAST_WORDS, before.has_ended()).await;
        }
        tracing::info!("stopped");
    }

    /// Obeys orders until there is one to stop for this process itself: where another one has
    /// taken its place, that one is told.
    async fn first_end(&self, sources: &mut Sources) -> Why {
        loop {
            let why = self.next_end(sources).await;
            if let Why::Replaced = why {
                return why;
            }
            self.end_upgrade(&mut sources.upgrades).await;
            if !sources.upgrades.pass_on_stop() {
                return why;
            }
            tracing::info!("told to stop, and the process that serves now is");
            sources.stop = CancellationToken::new();
        }
    }

    /// The next end after the first order to stop, which may have come to both processes: then
    /// what `passed` here comes by itself, too, and is one order all the same.
    async fn told_again(&self, sources: &mut Sources, passed: bool) -> Why {
        let first = Instant::now();
        let mut same = passed;
        loop {
            match self.next_end(sources).await {
                Why::Stop { passed: false } if same && first.elapsed() < SAME => same = false,
                why => return why,
            }
        }
    }

    /// Obeys all other orders until one to stop comes, or nothing is left to be done.
    async fn next_end(&self, sources: &mut Sources) -> Why {
        loop {
            let order = tokio::select! {
                () = sources.stop.cancelled() => Order::Stop,
                Some(again) = sources.passed.recv() => {
                    // The first one says what is known here once a stop has begun.
                    if again || self.running.phase() != Phase::Stopping {
                        return Why::Stop { passed: true };
                    }
                    continue;
                }
                order = sources.signals.next() => order,
                next = sources.upgrades.next() => {
                    match self.upgrade(&mut sources.upgrades, next).await {
                        Some(why) => return why,
                        None => continue,
                    }
                }
            };
            match order {
                Order::Stop => return Why::Stop { passed: false },
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

    /// Whoever asked for the upgrade is answered before the process ends, and an order to stop
    /// that comes meanwhile is not lost.
    async fn say_farewell(&self, sources: &mut Sources) {
        let answered = tokio::time::timeout(LAST_ANSWER, self.admin.empty());
        let mut answered = std::pin::pin!(answered);
        loop {
            tokio::select! {
                _ = &mut answered => break,
                why = self.next_end(sources) => self.pass_on(why, sources),
            }
        }
        tracing::info!("replaced, nothing is left");
        while let Ok(why) = tokio::time::timeout(LAST_LOOK, self.next_end(sources)).await {
            self.pass_on(why, sources);
        }
        let passed = async {
            while sources.upgrades.is_passing_on() {
                let next = sources.upgrades.next().await;
                self.upgrade(&mut sources.upgrades, next).await;
            }
        };
        let _ = tokio::time::timeout(LAST_ANSWER, passed).await;
    }

    fn pass_on(&self, why: Why, sources: &mut Sources) {
        if let Why::Stop { .. } = why {
            sources.upgrades.pass_on_stop();
            sources.stop = CancellationToken::new();
        }
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
        let most = (!deadline.is_zero()).then_some(deadline);
        if let Some(before) = &self.before {
            before.stop(most);
        }
        let Some(most) = most else {
            return self.nothing_left().await;
        };
        if tokio::time::timeout(most, self.nothing_left())
            .await
            .is_err()
        {
            let active = self.active();
            tracing::warn!(active, "drain_timeout is over, resetting what is left");
            self.end_all(Ended::DrainTimeout).await;
        }
    }

    /// Completes when neither this process has a connection nor the one before it.
    async fn nothing_left(&self) {
        if let Some(before) = &self.before {
            // First that one: what moves from there is counted here when it has.
            before.has_nothing().await;
        }
        self.running.process.empty().await;
    }

    async fn end_all(&self, ended: Ended) {
        let mut patience = LAST_WORDS;
        match (&self.before, ended) {
            (None, _) => {}
            (Some(before), Ended::Killed) => before.reset(),
            (Some(before), _) => {
                before.stop(Some(Duration::ZERO));
                patience = ELDER_WORDS;
            }
        }
        for core in &self.running.cores {
            core.tell(Command::EndAll(ended));
        }
        let _ = tokio::time::timeout(patience, self.nothing_left()).await;
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

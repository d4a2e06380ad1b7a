//! The control plane's part of an upgrade: whether there may be one, and what it does for the
//! thread that [hands over](crate::upgrade::leaving).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::stop::Ending;
use crate::admin::{NotUpgraded, Phase, UpgradeRequest, Upgraded};
use crate::net::Address;
use crate::upgrade::leaving::{Steps, hand_over, sockets};
use crate::upgrade::program::Program;

/// Upgrades that are asked for, and the one in progress.
#[derive(Debug)]
pub(super) struct Upgrades {
    program: Option<Program>,
    requests: UnboundedReceiver<UpgradeRequest>,
    tell: UnboundedSender<Event>,
    events: UnboundedReceiver<Event>,
    current: Option<Current>,
}

/// An upgrade in progress, or one that has succeeded while connections are left here.
#[derive(Debug)]
struct Current {
    asked: Option<UpgradeRequest>,
    given_up: Arc<AtomicBool>,
    /// All that can move has moved.
    moved: bool,
}

/// What the control plane is to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// To start an upgrade, and to tell this one, if anybody asked.
    Begin(Option<UpgradeRequest>),
    /// To go on with the one in progress.
    Go(Event),
}

/// What the thread that hands over wants, or tells.
#[derive(Debug)]
pub(super) enum Event {
    StopAccepting(Vec<Address>, mpsc::Sender<()>),
    AcceptAgain(mpsc::Sender<()>),
    Succeeded(u32),
    Moved(Result<Upgraded, NotUpgraded>),
    NothingLeft,
}

impl Upgrades {
    /// Of `program`; `None`: of none, so that upgrades are refused.
    pub(super) fn new(
        program: Option<Program>,
        requests: UnboundedReceiver<UpgradeRequest>,
    ) -> Self {
        let (tell, events) = unbounded_channel();
        Self {
            program,
            requests,
            tell,
            events,
            current: None,
        }
    }

    /// What is to be done next.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Next {
        tokio::select! {
            Some(event) = self.events.recv() => Next::Go(event),
            Some(asked) = self.requests.recv() => Next::Begin(Some(asked)),
            else => std::future::pending().await,
        }
    }

    /// A stop has begun: an upgrade of which the new process does not serve by now fails.
    pub(super) fn give_up(&self) {
        if let Some(current) = &self.current {
            current.given_up.store(true, Ordering::Relaxed);
        }
    }

    /// Whether an upgrade has neither failed nor succeeded yet.
    pub(super) fn is_open(&self) -> bool {
        self.current.as_ref().is_some_and(|current| !current.moved)
    }

    /// Answers whoever waits for the upgrade.
    fn answer(&mut self, outcome: Result<Upgraded, NotUpgraded>) {
        let asked = self.current.as_mut().and_then(|c| c.asked.take());
        answer(asked, outcome);
    }
}

fn answer(asked: Option<UpgradeRequest>, outcome: Result<Upgraded, NotUpgraded>) {
    match &outcome {
        Ok(upgraded) => tracing::info!(
            pid = upgraded.pid,
            version = upgraded.version,
            moved = upgraded.moved,
            remaining = upgraded.remaining,
            ms = upgraded.took.as_millis(),
            "upgraded: another process serves now"
        ),
        Err(why) => tracing::error!("not upgraded, nothing has changed: {why}"),
    }
    if let Some(asked) = asked {
        // Who asked may have gone away meanwhile.
        let _ = asked.send(outcome);
    }
}

impl Ending {
    /// Does what an upgrade needs next. Whether it was the last: nothing is left here.
    pub(super) async fn upgrade(&self, upgrades: &mut Upgrades, next: Next) -> bool {
        match next {
            Next::Begin(asked) => self.begin_upgrade(upgrades, asked),
            Next::Go(Event::StopAccepting(taken, done)) => {
                self.stop_accepting(&taken).await;
                let _ = done.send(());
            }
            Next::Go(Event::AcceptAgain(done)) => {
                self.accept_again().await;
                let _ = done.send(());
            }
            Next::Go(Event::Succeeded(pid)) => {
                tracing::info!(pid, "the new process accepts, connections move to it");
            }
            Next::Go(Event::Moved(outcome)) => {
                let failed = outcome.is_err();
                if let Ok(upgraded) = &outcome {
                    self.notifier.mainpid(upgraded.pid);
                    self.running.leave();
                }
                // Not before it is known that this process is replaced: no reload comes between.
                self.running.upgrading.set_in_progress(false);
                upgrades.answer(outcome);
                match &mut upgrades.current {
                    Some(current) if !failed => {
                        current.moved = true;
                        self.leave();
                    }
                    current => *current = None,
                }
            }
            Next::Go(Event::NothingLeft) => return true,
        }
        false
    }

    fn begin_upgrade(&self, upgrades: &mut Upgrades, asked: Option<UpgradeRequest>) {
        let program = match self.may_upgrade(upgrades) {
            Ok(program) => program,
            Err(why) => return answer(asked, Err(why)),
        };
        tracing::info!(program = %program.path().display(), "upgrading");
        let given_up = Arc::new(AtomicBool::new(false));
        upgrades.current = Some(Current {
            asked,
            given_up: Arc::clone(&given_up),
            moved: false,
        });
        self.running.upgrading.set_in_progress(true);
        let running = Arc::clone(&self.running);
        let sockets = sockets(&running.configured(), self.admin.socket());
        let tell = upgrades.tell.clone();
        let thread = std::thread::Builder::new().name("upgrade".to_owned());
        let started = thread.spawn(move || {
            let steps = Told(tell.clone());
            let moved = hand_over(&running, &program, &sockets, steps, given_up);
            // The old process must not keep what listens.
            drop(sockets);
            match moved {
                Err(why) => {
                    let _ = tell.send(Event::Moved(Err(why)));
                }
                Ok((upgraded, leaving)) => {
                    let _ = tell.send(Event::Moved(Ok(upgraded)));
                    let most = running.configured().file.config.runtime.upgrade_timeout;
                    leaving.until_nothing_is_left(most);
                    let _ = tell.send(Event::NothingLeft);
                }
            }
        });
        if let Err(error) = started {
            self.running.upgrading.set_in_progress(false);
            upgrades.answer(Err(NotUpgraded::Failed(error.to_string())));
            upgrades.current = None;
        }
    }

    /// The program that takes the place of this one, or why none may now.
    fn may_upgrade(&self, upgrades: &Upgrades) -> Result<Program, NotUpgraded> {
        let impossible = |why: &str| NotUpgraded::Impossible(why.to_owned());
        if self.running.phase() == Phase::Stopping {
            return Err(NotUpgraded::Stopping);
        }
        if upgrades.current.is_some() {
            return Err(impossible("an upgrade is in progress"));
        }
        if std::process::id() == 1 {
            return Err(impossible(
                "isobar is process 1, whose end is the end of its container: a new process \
                 cannot take its place; replace the container, or have an init process start \
                 isobar",
            ));
        }
        let none = "only a balancer that was started by `isobar run` can be upgraded";
        upgrades.program.clone().ok_or_else(|| impossible(none))
    }

    /// Shuts every door, leaving the queues of sockets that another process has to it, and the
    /// admin endpoint but for who is being answered.
    async fn stop_accepting(&self, taken: &[Address]) {
        let doors = self.running.configured().doors();
        doors
            .iter()
            .for_each(|door| door.shut(taken.contains(door.address())));
        for door in &doors {
            door.closed().await;
        }
        self.admin.close();
        if let Some(admin) = self.admin.socket() {
            admin.give_away_file();
        }
    }

    async fn accept_again(&self) {
        let doors = self.running.configured().doors();
        doors.iter().for_each(|door| door.reopen());
        if let Err(error) = self.opener.open(&doors).await {
            tracing::error!(%error, "cannot accept again after a failed upgrade");
        }
        if let Some(admin) = self.admin.socket() {
            admin.own_file();
        }
        self.admin.open(&self.running);
    }

    /// Another process serves: this one has nothing that listens, and checks nobody but for
    /// those who are held.
    fn leave(&self) {
        for door in self.running.configured().doors() {
            if let Some(socket) = door.socket().filter(|_| door.is_left()) {
                socket.give_away_file();
            }
            door.close();
        }
        self.admin.move_to(None, &self.running);
        let (running, halt) = (Arc::clone(&self.running), self.halt.clone());
        tokio::task::spawn_local(async move {
            super::stop::until_nobody_is_held(&running).await;
            halt.cancel();
        });
    }
}

/// The control plane, as the thread that hands over has it.
struct Told(UnboundedSender<Event>);

impl Told {
    /// Whether the control plane has done it.
    fn ask(&self, event: impl FnOnce(mpsc::Sender<()>) -> Event) -> bool {
        let (done, wait) = mpsc::channel();
        self.0.send(event(done)).is_ok() && wait.recv().is_ok()
    }
}

impl Steps for Told {
    fn stop_accepting(&self, taken: &[Address]) -> Result<(), NotUpgraded> {
        let taken = taken.to_vec();
        match self.ask(|done| Event::StopAccepting(taken, done)) {
            true => Ok(()),
            false => Err(NotUpgraded::Stopping),
        }
    }

    fn accept_again(&self) {
        self.ask(Event::AcceptAgain);
    }

    fn succeeded(&self, pid: u32) {
        let _ = self.0.send(Event::Succeeded(pid));
    }
}

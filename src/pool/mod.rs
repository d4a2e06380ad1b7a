//! Pools: which backends there are, which of them may be used, and who gets the next slot.
//!
//! The data plane reads an immutable [`Snapshot`] and takes a [`Lease`]; it asks the control
//! plane nothing and waits for no lock that one holds. The control plane (`control`) keeps
//! what checks and operators (`runtime`) say, and publishes the next snapshot. Connections that
//! nobody can take wait in [`hold`].

mod backend;
mod conduct;
mod control;
pub mod explain;
mod fallen;
pub mod handover;
pub mod history;
mod keys;
mod lease;
pub mod names;
mod outlier;
pub mod overrides;
mod passive;
pub mod pause;
pub mod quality;
pub mod rebalance;
mod reload;
mod runtime;
mod slow_start;
mod snapshot;
mod stage;
mod state;
mod sync;
mod taking;
mod tracked;

pub mod health;
pub mod hold;
#[cfg(test)]
mod hold_tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

pub use backend::{Backend, BackendCounters, Obstacle};
pub use control::{Bytes, Due, Overview};
pub use fallen::Fallen;
pub use hold::Ticket;
pub use keys::{Client, Keys};
pub use lease::Lease;
pub use names::{Names, Question, Resolved};
pub use rebalance::Rebalance;
pub use reload::{Reload, Wiring};
pub use runtime::{Changed, Refused, Wanted};
pub use snapshot::Snapshot;
pub use stage::{Clock, Stage};
pub use state::{AdminState, State};
pub use taking::Taking;
pub use tracked::{BackendView, CheckResult, Leaving};

use crate::config::{self, Balance, HashKey};
use crate::log::SharedThrottle;
use crate::metrics::ledger::{Named, by_word};
use crate::metrics::{Counter, Ended, Histogram, PerCore, Replayed};
use crate::net::Turns;
use backend::Asker;
use control::Control;
use passive::Docket;
use pause::Pause;

/// First pause before the head of the hold queue tries a backend again that refused the last
/// connect; it doubles up to [`LAST_TICK`].
const FIRST_TICK: Duration = Duration::from_millis(100);
/// Longest such pause.
const LAST_TICK: Duration = Duration::from_secs(1);
/// After so long without a tick nobody is trying any more whom the last one let try.
const SETTLED: Duration = Duration::from_secs(15);

/// What one core counts for one pool.
#[derive(Debug, Default)]
pub struct PoolCounters {
    /// Connections that were sent here.
    pub total: Counter,
    /// Of those, how many its fallback took over.
    pub moved: Counter,
    /// Connections that were held, each counted once.
    pub held: Counter,
    /// Ejections of its backends, repeated ones included.
    pub ejections: Counter,
    /// How its connections ended, by [`Ended`].
    pub ended: [Counter; Ended::COUNT],
    /// Connections that a backend of it ended before its first byte, by [`Replayed`].
    pub replays: [Counter; Replayed::COUNT],
}

impl Named for PoolCounters {
    fn each<'a>(&'a self, tell: &mut dyn FnMut(&str, &'a Counter)) {
        tell("total", &self.total);
        tell("moved", &self.moved);
        tell("held", &self.held);
        tell("ejections", &self.ejections);
        by_word("ended", Ended::WORDS, &self.ended, tell);
        by_word("replays", Replayed::WORDS, &self.replays, tell);
    }
}

/// A pool of the running balancer.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// What is counted for it.
    pub counters: PerCore<PoolCounters>,
    /// From the pick to the first byte of a backend.
    pub first_byte_seconds: Histogram,
    /// From accept to end.
    pub duration_seconds: Histogram,
    /// The sum of the time that a connection was held, of those that were.
    pub hold_seconds: Histogram,
    /// For the lines about failed connects.
    pub connect_failures: SharedThrottle,
    /// For the lines about connects that failed by a fault of this machine.
    pub local_faults: SharedThrottle,
    /// Whose turn it is among `source_address`.
    pub source_turns: Turns,
    /// For the lines about backends that fail and are not ejected.
    spared: SharedThrottle,
    docket: Docket,
    current: ArcSwap<Snapshot>,
    control: Mutex<Control>,
    /// There where the pool is simulated.
    stage: Option<Stage>,
    hold: Arc<hold::Queue<Attempt, Lease>>,
    /// How many another process of this balancer holds.
    held_elsewhere: AtomicUsize,
    /// Somebody is held.
    holding: Notify,
    /// Moves on with every published change.
    revision: watch::Sender<()>,
    /// The rebalance that goes on, or the last one.
    rebalance: Mutex<Option<Arc<Rebalance>>>,
}

/// Whom a connection is for, and what it has tried so far.
#[derive(Clone, Debug)]
pub struct Attempt {
    keys: Keys,
    tried: Vec<Arc<Backend>>,
    made: u32,
    first: bool,
    elsewhere: bool,
}

impl Attempt {
    /// Of a connection that has tried nothing.
    pub fn new(whom: impl Into<Keys>) -> Self {
        Self {
            keys: whom.into(),
            tried: Vec::new(),
            made: 0,
            first: true,
            elsewhere: false,
        }
    }

    /// The same for none but backends that it has not tried, whoever else is left.
    pub fn elsewhere(self) -> Self {
        Self {
            elsewhere: true,
            ..self
        }
    }

    /// Whether it has tried nothing yet.
    pub fn is_new(&self) -> bool {
        self.made == 0 && self.first
    }

    /// One more backend was tried, in vain.
    pub fn failed_at(&mut self, backend: Arc<Backend>) {
        self.tried.push(backend);
        self.made += 1;
        self.first = false;
    }

    /// Attempts made since the start or the last release from hold.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// The same connection with all its attempts before it.
    pub fn renewed(&self) -> Self {
        Self {
            tried: Vec::new(),
            made: 0,
            ..*self
        }
    }

    fn is_first(&self) -> bool {
        self.first
    }

    fn number(&self) -> u32 {
        self.made + 1
    }
}

/// What is hashed of a connection, beside where its client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// The name that it asks for.
    pub sni: bool,
    /// Where it connected to.
    pub destination: bool,
}

impl Hashes {
    fn or(self, other: Self) -> Self {
        Self {
            sni: self.sni || other.sni,
            destination: self.destination || other.destination,
        }
    }
}

/// Why a connection is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// `hold.max = 0`.
    Off,
    /// As many wait as may.
    Full,
}

/// A connection's place in the hold queue: a future of its [`Lease`].
pub type Held = hold::Place<Attempt, Lease>;

impl Pool {
    /// A pool as the file has it, for `cores` data cores; nothing is checked yet.
    pub fn new(settings: Arc<config::Pool>, cores: usize) -> Arc<Self> {
        Self::on(None, settings, cores)
    }

    /// The same in virtual time.
    pub fn staged(settings: Arc<config::Pool>, stage: Stage) -> Arc<Self> {
        Self::on(Some(stage), settings, 0)
    }

    fn on(stage: Option<Stage>, settings: Arc<config::Pool>, cores: usize) -> Arc<Self> {
        let now = stage.as_ref().map_or_else(Instant::now, Stage::now);
        let control = Control::new(Arc::clone(&settings), cores, now);
        Arc::new(Self {
            name: Arc::clone(&settings.name),
            counters: PerCore::new(cores),
            first_byte_seconds: Histogram::new(cores),
            duration_seconds: Histogram::new(cores),
            hold_seconds: Histogram::new(cores),
            connect_failures: SharedThrottle::new(Instant::now()),
            local_faults: SharedThrottle::new(Instant::now()),
            source_turns: Turns::default(),
            spared: SharedThrottle::new(Instant::now()),
            docket: Docket::default(),
            current: ArcSwap::from_pointee(control.snapshot(None)),
            control: Mutex::new(control),
            stage,
            hold: Arc::default(),
            held_elsewhere: AtomicUsize::new(0),
            holding: Notify::new(),
            revision: watch::Sender::new(()),
            rebalance: Mutex::default(),
        })
    }

    /// What a pick sees now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// `[pool.NAME]` as it is in force.
    pub fn settings(&self) -> Arc<config::Pool> {
        Arc::clone(&self.current.load().settings)
    }

    /// The pool that takes what this one cannot take now; none while it is paused, as its
    /// clients are to wait.
    pub fn fallback(&self) -> Option<Arc<Pool>> {
        let snapshot = self.current.load();
        let fallback = snapshot.fallback.as_ref()?;
        (!snapshot.pause.is_on()).then(|| fallback.upgrade())?
    }

    /// What it hashes of its connections, and what those pools hash that it falls back to.
    pub fn hashes(&self) -> Hashes {
        let snapshot = self.current.load();
        let settings = &snapshot.settings;
        let key = (settings.balance == Balance::ConsistentHash).then_some(settings.hash.key);
        let own = Hashes {
            sni: key == Some(HashKey::Sni),
            destination: key == Some(HashKey::DestinationIpPort),
        };
        match snapshot.fallback.as_ref().and_then(Weak::upgrade) {
            None => own,
            Some(fallback) => own.or(fallback.hashes()),
        }
    }

    /// Whether the file has it no more: nobody will ever take its connections.
    pub fn is_retired(&self) -> bool {
        self.current.load().retired
    }

    /// The pool that takes what this one cannot take before anybody is held: none while others
    /// are held here. Whoever arrives then queues behind them, as they are let into the fallback
    /// first.
    pub fn overflow(&self) -> Option<Arc<Pool>> {
        (self.held() == 0).then(|| self.fallback())?
    }

    /// Whether it is paused, or when it was.
    pub fn pause_state(&self) -> Pause {
        self.current.load().pause
    }

    /// How many are held now, in this process: they queue before whoever comes.
    pub fn held(&self) -> usize {
        self.hold.len()
    }

    /// The same with those who are held in the process of which this one has taken the place.
    pub fn held_in_all(&self) -> usize {
        let elsewhere = self.held_elsewhere.load(Ordering::Relaxed);
        self.held().saturating_add(elsewhere)
    }

    /// A slot of some backend, now; `None`: nobody can take it, or others wait already.
    pub fn acquire(self: &Arc<Self>, attempt: &Attempt) -> Option<Lease> {
        if self.queues(attempt) {
            return None;
        }
        self.take(attempt, Asker::Arriving)
    }

    /// Who has begun to try goes on; who arrives queues behind those that are held.
    fn queues(&self, attempt: &Attempt) -> bool {
        attempt.made == 0 && !self.hold.is_empty()
    }

    /// Waits for a slot, at the place of `ticket` or at the end.
    ///
    /// # Errors
    /// [`NotHeld`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue and loses nothing.
    pub fn hold(
        self: &Arc<Self>,
        attempt: &Attempt,
        ticket: Option<Ticket>,
    ) -> Result<Held, NotHeld> {
        let max = self.hold_max()?;
        let held = self
            .hold
            .join(attempt.renewed(), ticket, max)
            .map_err(|hold::Full| NotHeld::Full)?;
        if ticket.is_none() {
            self.counters.here().held.add(1);
        }
        self.holding.notify_one();
        self.serve(Asker::Held);
        Ok(held)
    }

    /// Most that may be held at once.
    fn hold_max(&self) -> Result<usize, NotHeld> {
        match self.current.load().settings.hold.max {
            0 => Err(NotHeld::Off),
            max => Ok(max),
        }
    }

    /// Something was given back, or a backend became usable: those who are held here are
    /// served, then those who are held in pools that fall back to this one.
    fn given_back(self: &Arc<Self>) {
        if !self.hold.is_empty() {
            self.serve(Asker::Held);
        }
        for dependent in &self.current.load().dependents {
            if let Some(dependent) = dependent.upgrade() {
                dependent.given_back();
            }
        }
    }

    fn serve(self: &Arc<Self>, asker: Asker) {
        self.hold
            .serve(|attempt| self.take_anywhere(attempt, asker));
        if self.hold.is_empty() {
            self.settle();
        }
    }

    /// Nobody is held: the next who are start with a small window again.
    fn settle(&self) {
        for backend in &self.current.load().backends {
            backend.reset_window();
        }
    }

    /// A slot for one who is held: here, or in the fallback where nobody is held before it.
    /// Fallbacks form no circle, see [`config`].
    fn take_anywhere(self: &Arc<Self>, attempt: &Attempt, asker: Asker) -> Option<Lease> {
        self.take(attempt, asker).or_else(|| {
            let fallback = self.fallback().filter(|pool| pool.hold.is_empty())?;
            fallback.take_anywhere(attempt, asker)
        })
    }

    /// Whether a backend that those who are held may come to refused the last connect.
    fn is_resting(&self) -> bool {
        let own = self.current.load().backends.iter().any(|b| b.is_resting());
        own || self.fallback().is_some_and(|pool| pool.is_resting())
    }

    fn take(self: &Arc<Self>, attempt: &Attempt, asker: Asker) -> Option<Lease> {
        let snapshot = self.current.load();
        let taken = match &self.stage {
            None => snapshot.take(attempt, asker, Instant::now(), &mut rand::rng()),
            Some(stage) => {
                let now = stage.now();
                stage.draw(|draws| snapshot.take(attempt, asker, now, draws))
            }
        };
        taken.map(|taken| Lease::new(Arc::clone(self), taken))
    }

    /// Keeps those moving who are held, for as long as the pool lives: asks for checks soon,
    /// and lets the head try again where an up backend refused the last connect.
    pub async fn tend(self: Arc<Self>) {
        let mut pause = FIRST_TICK;
        let mut last = Instant::now();
        loop {
            self.holding.notified().await;
            // Who was let try alone has left the queue, and is back if that failed: the pauses
            // grow on.
            if !self.is_resting() || last.elapsed() > SETTLED {
                pause = FIRST_TICK;
            }
            while !self.hold.is_empty() {
                self.hasten_checks();
                tokio::time::sleep(pause).await;
                last = Instant::now();
                let resting = self.is_resting();
                self.hold
                    .serve_head(|attempt| self.take_anywhere(attempt, Asker::Tick));
                pause = match resting {
                    true => (pause * 2).min(LAST_TICK),
                    false => FIRST_TICK,
                };
            }
        }
    }

    /// Moves the percentile windows of all its histograms on.
    pub fn step_histograms(&self, now: Instant) {
        let own = [
            &self.first_byte_seconds,
            &self.duration_seconds,
            &self.hold_seconds,
        ];
        own.into_iter().for_each(|histogram| histogram.step(now));
        for backend in self.every_backend() {
            backend.step(now);
        }
    }
}

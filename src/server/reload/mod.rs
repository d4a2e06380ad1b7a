//! Reloads: from an order to a configuration in force, in full or not at all.
//!
//! ```text
//! read      file -> Loaded, checks          what is wrong with the file, or on this machine
//! draft     -> what differs, the plan       nothing
//! limits                                    more would change than may
//! prepare   addresses bound, files opened   what this machine does not give
//! publish   -> another Configured           nothing any more
//! ```
//!
//! Whatever fails leaves everything as it was; what was bound or opened for it is closed again.
//! From the merge with the runtime changes to the last snapshot nothing is waited for, so a
//! change by an operator comes before it or after it.
//!
//! One task does all of it, one order after the other. None begins while another process takes
//! the place of this one, nor after that.

mod draft;
mod prepare;
mod publish;

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::care::Care;
use super::core::Opener;
use super::faults::{self, Made};
use super::notify::Notifier;
use super::watch;
use crate::admin::orders::{Done, Order, Refused, Version, Wanted};
use crate::admin::{Endpoint, Phase, Running, audit_reload};
use crate::aside::aside;
use crate::config::{self, Faults, Loaded, Problem};
use crate::plan::Limits;
use crate::pool::overrides::Stamp;
use crate::resolve::{Resolver, System};
use draft::Draft;

/// For the file, and those that its checks name, to be read: later orders wait for that.
const PATIENCE: Duration = Duration::from_secs(8);

/// How often is looked whether what left the file has connections still.
const SWEEP: Duration = Duration::from_secs(1);

/// Reloads.
pub(super) struct Reloader {
    pub(super) running: Arc<Running>,
    pub(super) cares: Vec<Care>,
    pub(super) opener: Opener,
    /// Ends the checks.
    pub(super) halt: CancellationToken,
    /// Asks DNS.
    pub(super) resolver: Rc<Resolver<System>>,
    pub(super) admin: Rc<Endpoint>,
    pub(super) notifier: Arc<Notifier>,
}

/// A file that was read, with what this machine says of it.
struct Read {
    loaded: Loaded,
    checks: Made,
    faults: Vec<Problem>,
}

impl Reloader {
    /// Obeys orders, and SIGHUP, for as long as the process lives.
    pub(super) async fn run(mut self, mut orders: UnboundedReceiver<Order>, hangup: Rc<Notify>) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let leaving = !self.running.configured().leaving.is_empty();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                () = hangup.notified() => self.hang_up().await,
                _ = sweep.tick(), if leaving => self.sweep(),
            }
        }
    }

    /// SIGHUP.
    async fn hang_up(&mut self) {
        let (before, by) = (self.running.configured().generation, "SIGHUP");
        let done = self.reload(Limits::default(), by).await;
        audit(by, before, &done);
    }

    async fn obey(&mut self, Order { wanted, reply }: Order) {
        let done = match wanted {
            Wanted::Plan { text } => self.plan(text).await,
            Wanted::Reload { limits, by } => self.reload(limits, &by).await,
            Wanted::Follow { found } => self.follow(found).await,
        };
        // Whoever asked may have gone away meanwhile.
        let _ = reply.send(done);
    }

    /// What a reload would change.
    async fn plan(&self, text: Option<String>) -> Result<Done, Refused> {
        let read = self.read(text).await?;
        let configured = self.running.configured();
        let mut draft = Draft::new(&configured, read);
        draft.plan.faults.append(&mut draft.faults);
        draft.probe();
        Ok(Done {
            generation: configured.generation,
            applied: false,
            plan: draft.plan,
        })
    }

    async fn reload(&mut self, limits: Limits, by: &str) -> Result<Done, Refused> {
        // `systemctl reload` waits until it hears that the reload has ended. Whoever has begun to
        // stop is not ready again.
        let told = self.running.phase() == Phase::Serving;
        if told {
            self.notifier.reloading();
        }
        let done = self.try_reload(limits, by).await;
        self.note(&done, by);
        if told && self.running.phase() == Phase::Serving {
            self.notifier.ready();
        }
        done
    }

    /// The same for a file that the watch found to have changed.
    async fn follow(&mut self, found: Version) -> Result<Done, Refused> {
        // The new process reads the file; where there is none in the end, it is looked at again.
        self.refuse_when_upgrading()?;
        let (before, by) = (self.running.configured().generation, "watch");
        let most = self
            .running
            .configured()
            .file
            .config
            .runtime
            .watch_max_removed;
        let read = self.read(None).await;
        // Half of a file may well be a whole configuration.
        if watch::version(&self.running.path).await != Some(found) {
            return Err(Refused::Changing);
        }
        let done = match read {
            Ok(read) => self.take(read, Limits::of_watch(most), by).await,
            Err(refused) => Err(refused),
        };
        if let Err(Refused::Upgrading) = done {
            return done;
        }
        self.note(&done, by);
        audit(by, before, &done);
        done
    }

    async fn try_reload(&mut self, limits: Limits, by: &str) -> Result<Done, Refused> {
        // At once, so that the service manager hears of the end before another process is the
        // service.
        self.refuse_when_upgrading()?;
        let read = self.read(None).await?;
        self.take(read, limits, by).await
    }

    /// Puts a file into force.
    async fn take(&mut self, read: Read, limits: Limits, by: &str) -> Result<Done, Refused> {
        self.refuse_when_ending()?;
        let configured = self.running.configured();
        let mut draft = Draft::new(&configured, read);
        if !draft.faults.is_empty() {
            let warnings = std::mem::take(&mut draft.plan.warnings);
            let problems = draft.faults;
            return Err(Refused::Invalid(Faults { problems, warnings }));
        }
        let impossible = |why: &dyn std::fmt::Display| Refused::Impossible(why.to_string());
        limits.check(&draft.plan).map_err(|why| impossible(&why))?;
        if !draft.applies {
            return Ok(Done {
                plan: draft.plan,
                generation: configured.generation,
                applied: false,
            });
        }
        let prepared = self.prepare(&mut draft).await?;
        if let Err(ending) = self.refuse_when_ending() {
            prepared.abandon();
            return Err(ending);
        }
        let stamp = Stamp {
            since: std::time::SystemTime::now(),
            by: format!("reload by {by}").into(),
        };
        Ok(self.publish(draft, prepared, stamp).await)
    }

    /// Nothing is waited for between the last such look and the new configuration, nor while an
    /// upgrade begins: so one of them comes first.
    fn refuse_when_ending(&self) -> Result<(), Refused> {
        match self.running.phase() {
            Phase::Stopping => Err(Refused::Stopping),
            Phase::Serving | Phase::Replaced => self.refuse_when_upgrading(),
        }
    }

    fn refuse_when_upgrading(&self) -> Result<(), Refused> {
        let replaced = self.running.phase() == Phase::Replaced;
        match replaced || self.running.upgrading.is_in_progress() {
            true => Err(Refused::Upgrading),
            false => Ok(()),
        }
    }

    /// Reads the file, or `text` in its place, on a thread of its own: the file may be on a disk
    /// that does not answer.
    async fn read(&self, text: Option<String>) -> Result<Read, Refused> {
        let path = self.running.path.clone();
        let read = aside(move || read(&path, text));
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(read)) => read.map_err(Refused::Invalid),
            Ok(Err(error)) => Err(Refused::Impossible(format!(
                "cannot read the file: {error}"
            ))),
            Err(_) => {
                let why = format!("the file cannot be read within {PATIENCE:?}");
                Err(Refused::Impossible(why))
            }
        }
    }

    /// Says what came of a reload.
    fn note(&self, done: &Result<Done, Refused>, by: &str) {
        match done {
            Ok(done) => {
                let plan = &done.plan;
                let pending = plan.pending_restart.join(", ");
                let generation = done.generation;
                match (done.applied, pending.is_empty()) {
                    (true, true) => tracing::info!(by, generation, "reloaded"),
                    (true, false) => {
                        tracing::warn!(by, generation, pending_restart = pending, "reloaded")
                    }
                    (false, true) => tracing::info!(by, generation, "reload: nothing to change"),
                    (false, false) => tracing::warn!(
                        by,
                        generation,
                        pending_restart = pending,
                        "reload: nothing to change before the next start"
                    ),
                }
                self.running.note_reload(Ok(plan.pending_restart.clone()));
            }
            Err(refused) => {
                let error = refused.to_string();
                if let Refused::Invalid(faults) = refused {
                    for fault in &faults.problems {
                        tracing::error!(by, place = fault.whereabouts(), "{}", fault.message);
                    }
                    tracing::error!(by, faults = faults.problems.len(), "reload refused");
                } else {
                    tracing::error!(by, error, "reload refused");
                }
                self.running.note_reload(Err(error));
            }
        }
    }
}

/// Nobody asked the endpoint, which would have written the line about the change.
fn audit(by: &str, before: u64, done: &Result<Done, Refused>) {
    if done.as_ref().is_ok_and(|done| done.applied) {
        audit_reload(by, before, done);
    }
}

fn read(path: &Path, text: Option<String>) -> Result<Read, Faults> {
    let loaded = match text {
        None => config::load(path)?,
        Some(text) => config::parse(&text, "request", &|name| std::env::var(name).ok())?,
    };
    let (checks, faults) = faults::look(&loaded);
    Ok(Read {
        loaded,
        checks,
        faults,
    })
}

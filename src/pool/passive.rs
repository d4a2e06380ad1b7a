//! Passive health: what connections show of a backend, and what follows.
//!
//! A backend must be out of the picks with the very failure that is one too many, or whole
//! crowds would follow before the control plane hears of it. So the core on which it failed
//! convicts it: it looks at the share of ejected and closes the gate, under the lock of the
//! [`Docket`], which is held for no longer than that takes and by nobody who waits for
//! anything. What became of it is filed there; the control plane *heeds* it as soon as it comes
//! to it: it keeps the history, the length of ejections and the log, and opens gates.
//!
//! Each connection shows one thing at most, the first of these: the backend's first byte, or a
//! second of relaying (a success); a connect that failed, or an end by the backend before its
//! first byte while the client had sent nothing (a failure). One that a backend closes
//! later than that, because the client never said a word, has been well for a second before.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::conduct::Gate;
use super::control::Control;
use super::outlier::{Seat, Spared, may_eject};
use super::tracked::Tracked;
use super::{Backend, Pool, State};

/// By whom ejections and returns are, in the history.
pub(super) const TRAFFIC: &str = "traffic";

/// What cores have found, for the control plane to heed. Its lock is the order in which backends
/// are convicted.
#[derive(Debug, Default)]
pub(super) struct Docket(Mutex<Vec<Finding>>);

impl Docket {
    fn lock(&self) -> MutexGuard<'_, Vec<Finding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a core has found.
#[derive(Debug)]
pub(super) struct Finding {
    backend: Arc<Backend>,
    what: What,
    at: Instant,
}

#[derive(Debug)]
enum What {
    /// It failed too often, and its gate is closed.
    Convicted(String),
    /// Its trial has come to this end.
    Tried(Result<(), String>),
}

/// What became of a finding.
#[derive(Debug)]
pub(super) struct Verdict {
    backend: Arc<Backend>,
    from: State,
    to: State,
    cause: String,
    /// How long it is out; `None`: it is back.
    ejected_for: Option<Duration>,
    /// Lines about this backend that were not written; `None`: this one is not to be.
    suppressed: Option<u64>,
}

impl Pool {
    /// A connection of `backend` failed, the trial of it, or another.
    pub(super) fn went_wrong(
        &self,
        backend: &Arc<Backend>,
        trial: bool,
        what: &dyn fmt::Display,
        now: Instant,
    ) {
        let streak = backend.conduct.fail(now);
        if trial {
            let tried = What::Tried(Err(format!("its trial failed: {what}")));
            return self.file(&mut self.docket.lock(), backend, tried, now);
        }
        let most = self.current.load().settings.outlier.consecutive_failures;
        if most > 0 && streak >= most && backend.conduct.gate() == Gate::Open {
            self.convict(backend, streak, what, now);
        }
    }

    /// The trial of `backend` succeeded.
    pub(super) fn trial_passed(&self, backend: &Arc<Backend>, now: Instant) {
        self.file(&mut self.docket.lock(), backend, What::Tried(Ok(())), now);
    }

    fn convict(&self, backend: &Arc<Backend>, streak: u32, what: &dyn fmt::Display, now: Instant) {
        let mut docket = self.docket.lock();
        if backend.conduct.gate() != Gate::Open {
            return;
        }
        let snapshot = self.current.load();
        let settings = snapshot.settings.outlier;
        let mut all = snapshot.backends.iter();
        // One that was removed is nobody's concern.
        let Some(index) = all.position(|other| Arc::ptr_eq(other, backend)) else {
            return;
        };
        let failures = match streak {
            1 => "1 failure".to_owned(),
            n => format!("{n} failures in a row"),
        };
        let cause = format!("{failures}, the last: {what}");
        match may_eject(&snapshot.seats(), index, settings.max_ejected_percent) {
            Ok(()) => {
                backend.conduct.set_gate(Gate::Ejected);
                self.file(&mut docket, backend, What::Convicted(cause), now);
            }
            Err(spared) if streak == settings.consecutive_failures => {
                drop(docket);
                self.announce_spared(backend, spared, &cause, now);
            }
            Err(_) => {}
        }
    }

    fn file(&self, docket: &mut Vec<Finding>, backend: &Arc<Backend>, what: What, at: Instant) {
        let backend = Arc::clone(backend);
        docket.push(Finding { backend, what, at });
        self.revision.send_replace(());
    }

    /// Does what follows from what cores have found by now.
    pub(super) fn heed(self: &Arc<Self>) {
        let findings = std::mem::take(&mut *self.docket.lock());
        if findings.is_empty() {
            return;
        }
        let at = SystemTime::now();
        let verdicts: Result<Vec<_>, Infallible> = self.publish(|control| {
            let all = findings.into_iter();
            Ok(all
                .filter_map(|finding| control.heed(finding, at))
                .collect())
        });
        let Ok(verdicts) = verdicts;
        for verdict in verdicts {
            if verdict.ejected_for.is_some() {
                self.counters.here().ejections.add(1);
            }
            self.announce_verdict(&verdict);
        }
    }

    fn announce_spared(&self, backend: &Backend, why: Spared, cause: &str, now: Instant) {
        if why == Spared::Idle {
            return;
        }
        let Some(suppressed) = self.spared.check(now) else {
            return;
        };
        let (pool, backend, why) = (&*self.name, &*backend.name, why.as_str());
        tracing::warn!(
            pool,
            backend,
            cause,
            why,
            suppressed,
            "backend fails and is not ejected"
        );
    }

    fn announce_verdict(&self, verdict: &Verdict) {
        let Some(suppressed) = verdict.suppressed else {
            return;
        };
        let (pool, backend) = (&*self.name, &*verdict.backend.name);
        let (cause, usable) = (&*verdict.cause, self.current.load().usable());
        let (from, state) = (verdict.from.as_str(), verdict.to.as_str());
        match verdict.ejected_for {
            Some(time) => {
                let ejected_for = crate::config::format_duration(time);
                tracing::warn!(
                    pool,
                    backend,
                    from,
                    state,
                    cause,
                    ejected_for,
                    usable,
                    suppressed,
                    "backend"
                );
            }
            None => {
                tracing::info!(
                    pool, backend, from, state, cause, usable, suppressed, "backend"
                );
            }
        }
    }
}

impl Control {
    fn heed(&mut self, finding: Finding, at: SystemTime) -> Option<Verdict> {
        let Finding {
            backend,
            what,
            at: now,
        } = finding;
        let seats = self.seats();
        let settings = self.settings.outlier;
        let mut all = self.tracked.iter();
        let mine = |t: &Tracked| Arc::ptr_eq(&t.backend, &backend) && !t.is_removed();
        let index = all.position(mine)?;
        let tracked = &mut self.tracked[index];
        match what {
            // Switched off in this moment.
            What::Convicted(_) if settings.consecutive_failures == 0 => {
                backend.conduct.set_gate(Gate::Open);
                None
            }
            What::Convicted(cause) => Some(tracked.eject(settings.eject_for, cause, now, at)),
            What::Tried(_) if tracked.outlier.ejection().is_none() => None,
            What::Tried(Ok(())) => {
                let cause = "its trial succeeded".to_owned();
                tracked.readmit(cause, now)
            }
            What::Tried(Err(cause)) => {
                match may_eject(&seats, index, settings.max_ejected_percent) {
                    Ok(()) | Err(Spared::Idle) => {
                        Some(tracked.eject(settings.eject_for, cause, now, at))
                    }
                    Err(spared) => {
                        let cause = format!("{cause}, but {}", spared.as_str());
                        tracked.readmit(cause, now)
                    }
                }
            }
        }
    }

    /// What each backend is for the ejection of another; removed ones come last, and are none.
    pub(super) fn seats(&self) -> Vec<Seat> {
        let present = self.tracked.iter().filter(|t| !t.is_removed());
        present.map(Tracked::seat).collect()
    }
}

impl Tracked {
    /// What it is for the ejection of another.
    pub(super) fn seat(&self) -> Seat {
        Seat {
            backup: self.settings.backup,
            serves: self.serves(),
            ejected: self.outlier.ejection().is_some(),
        }
    }

    /// Puts it out for a while, again where it is on trial.
    fn eject(
        &mut self,
        eject_for: Duration,
        cause: String,
        now: Instant,
        at: SystemTime,
    ) -> Verdict {
        let before = self.state();
        let conduct = &self.backend.conduct;
        let forgiven = self.outlier.ejection().is_none() && conduct.is_forgiven();
        let length = self.outlier.eject(eject_for, forgiven, now, at);
        self.backend.conduct.set_gate(Gate::Ejected);
        self.moved(before, cause.clone(), None, TRAFFIC, now);
        Verdict {
            backend: Arc::clone(&self.backend),
            from: before,
            to: self.state(),
            cause,
            ejected_for: Some(length),
            suppressed: self.ejections_told.check(now),
        }
    }

    /// Ends its ejection.
    fn readmit(&mut self, cause: String, now: Instant) -> Option<Verdict> {
        let before = self.state();
        self.release(now)?;
        self.moved(before, cause.clone(), None, TRAFFIC, now);
        Some(Verdict {
            backend: Arc::clone(&self.backend),
            from: before,
            to: self.state(),
            cause,
            ejected_for: None,
            suppressed: self.returns_told.check(now),
        })
    }

    /// Lets everybody in, if it was ejected.
    pub(super) fn release(&mut self, now: Instant) -> Option<()> {
        let length = self.outlier.release()?;
        self.backend.conduct.return_after(length, now);
        self.backend.conduct.set_gate(Gate::Open);
        Some(())
    }

    /// Lets one connection in as a trial, if the time of its ejection is over.
    pub(super) fn fall_due(&mut self, now: Instant) -> bool {
        let waiting = self.backend.conduct.gate() == Gate::Ejected;
        let over = self.outlier.ejection().is_some_and(|e| e.until <= now);
        if !(waiting && over) {
            return false;
        }
        self.backend.conduct.set_gate(Gate::Due);
        self.backend.wake();
        true
    }

    /// When the next connection is a trial, if that is to come.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let waiting = self.backend.conduct.gate() == Gate::Ejected;
        let ejection = self.outlier.ejection().filter(|_| waiting);
        ejection.map(|ejection| ejection.until)
    }
}

#[cfg(test)]
#[path = "passive_tests.rs"]
mod tests;

//! What is known of one backend, and what it is by all of that.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::handover::{BackendState, LeavingState};
use super::health::{self, Health};
use super::history::{Entry, History};
use super::names::{Origin, Row};
use super::overrides::Stamp;
use super::snapshot::Member;
use super::{AdminState, Backend, State};
use crate::config::{self, HealthKind};

/// A first check that ends by its time-out ends as late as the wait for its result: its verdict
/// is waited for, or a backend that never answers would be up for a moment.
const LATE_RESULT: Duration = Duration::from_millis(100);

/// What a check of a backend found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// When it began.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What failed; `None`: it passed.
    pub error: Option<String>,
}

impl CheckResult {
    /// Whether it passed.
    pub fn passed(&self) -> bool {
        self.error.is_none()
    }

    pub(super) fn cause(&self) -> &str {
        self.error.as_deref().unwrap_or("check passed")
    }
}

/// A backend as the admin endpoint shows it.
#[derive(Clone, Debug)]
pub struct BackendView {
    /// Its counts and limits.
    pub backend: Arc<Backend>,
    /// As the file has it, or whoever added it, with the weight that holds.
    pub settings: config::Backend,
    /// The name that it comes from, where it does.
    pub origin: Option<Origin>,
    /// What it is, all in all.
    pub state: State,
    /// What an operator wants of it.
    pub admin: AdminState,
    /// What checks say.
    pub checks: health::State,
    /// Since when `state` holds.
    pub since: SystemTime,
    /// How often `state` has changed.
    pub transitions: u64,
    /// Checks it must pass before it is up; 0 while it is.
    pub passes_needed: u32,
    /// Since it takes no new connections because somebody wants it so.
    pub leaving: Option<Leaving>,
    /// The last check.
    pub last_check: Option<CheckResult>,
    /// The last changes of its state, oldest first.
    pub history: Vec<Entry<State>>,
}

/// The time that is left to the connections of a backend which is drained, in maintenance or
/// removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Since when it takes no new ones.
    pub since: SystemTime,
    /// When those that are left are reset; `None`: they may go on.
    pub until: Option<SystemTime>,
    /// How many were.
    pub reset: u64,
    deadline: Option<Instant>,
}

impl Leaving {
    fn begin(time: Duration, at: SystemTime, now: Instant) -> Self {
        let time = Some(time).filter(|time| !time.is_zero());
        Self {
            since: at,
            until: time.and_then(|time| at.checked_add(time)),
            reset: 0,
            deadline: time.and_then(|time| now.checked_add(time)),
        }
    }
}

/// What is known of one backend.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) backend: Arc<Backend>,
    pub(super) settings: config::Backend,
    pub(super) health: Health,
    pub(super) last_check: Option<CheckResult>,
    /// The name that it comes from, where it does.
    pub(super) origin: Option<Origin>,
    /// Of the configuration that the process was started with.
    pub(super) original: bool,
    admin: AdminState,
    removed: bool,
    leaving: Option<Leaving>,
    /// `health.kind` is not `none`.
    checkable: bool,
    since: SystemTime,
    history: History<State>,
}

/// A change of a backend's state.
#[derive(Clone, Debug)]
pub(super) struct Moved {
    pub(super) backend: Arc<Backend>,
    pub(super) from: State,
    pub(super) to: State,
    pub(super) cause: String,
}

impl Tracked {
    pub(super) fn new(
        settings: &config::Backend,
        pool: &config::Pool,
        cores: usize,
        now: Instant,
    ) -> Self {
        let thresholds = (&pool.health).into();
        let checkable = pool.health.kind != HealthKind::None;
        let health = match checkable {
            false => Health::unchecked(thresholds, now),
            true => Health::new(thresholds, now),
        };
        let mut history = History::default();
        if settings.address.is_name() {
            history.push(not_resolved());
        }
        Self {
            backend: Arc::new(Backend::new(settings, pool, cores)),
            settings: settings.clone(),
            health,
            last_check: None,
            origin: None,
            original: false,
            admin: AdminState::Ready,
            removed: false,
            leaving: None,
            checkable,
            since: SystemTime::now(),
            history,
        }
    }

    /// Whether it is the backend that `settings` are about, and in the pool.
    pub(super) fn is(&self, settings: &config::Backend) -> bool {
        self.is_named(&settings.name) && self.settings.address == settings.address
    }

    /// Whether it is in the pool by this name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        !self.removed && *self.backend.name == *name
    }

    /// Whether it is a name of which no address is known: nobody can connect to it.
    pub(super) fn is_unresolved(&self) -> bool {
        self.settings.address.is_name()
    }

    /// Whether it is the name that `row` is an address of, and had none until now.
    pub(super) fn gave_way_to(&self, row: &Row) -> bool {
        let origin = row.origin.as_ref();
        self.is_unresolved() && origin.is_some_and(|origin| self.is_named(&origin.name))
    }

    /// The same of a backend that is there.
    pub(super) fn stood_for(&self, other: &Self) -> bool {
        let origin = other.origin.as_ref();
        self.is_unresolved() && origin.is_some_and(|origin| self.is_named(&origin.name))
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed
    }

    /// Whether it is an address of this name.
    pub(super) fn comes_from(&self, name: &str) -> bool {
        let origin = self.origin.as_ref();
        origin.is_some_and(|origin| *origin.name == *name)
    }

    pub(super) fn admin(&self) -> AdminState {
        self.admin
    }

    /// Whether checks are to run.
    pub(super) fn wants_checks(&self) -> bool {
        self.checkable
            && !self.removed
            && !self.is_unresolved()
            && self.admin != AdminState::Maintenance
    }

    pub(super) fn state(&self) -> State {
        match (self.removed, self.admin, self.health.state()) {
            (true, _, _) => State::Removed,
            (_, AdminState::Maintenance, _) => State::Maintenance,
            (_, AdminState::Drain, _) => State::Draining,
            (_, AdminState::Ready, _) if self.is_unresolved() => State::Down,
            (_, AdminState::Ready, health::State::Down) => State::Down,
            (_, AdminState::Ready, health::State::Starting) => State::Starting,
            (_, AdminState::Ready, health::State::Up) => State::Up,
        }
    }

    /// Whether new connections may go there while it is `state`.
    pub(super) fn takes(&self, state: State) -> bool {
        self.state() == state && self.settings.weight > 0 && !self.is_unresolved()
    }

    /// Takes new settings of the same backend. What checks have found stays, until they are
    /// switched off: without checks it is up.
    pub(super) fn retune(
        &mut self,
        settings: &config::Backend,
        pool: &config::Pool,
        stamp: &Stamp,
        now: Instant,
    ) -> Option<Moved> {
        let before = self.state();
        self.settings = settings.clone();
        self.backend.retune(settings, pool);
        let thresholds = (&pool.health).into();
        self.health.retune(thresholds);
        let checkable = pool.health.kind != HealthKind::None;
        if self.checkable && !checkable {
            self.health = Health::unchecked(thresholds, now);
            self.last_check = None;
        }
        self.checkable = checkable;
        let cause = "checks are switched off".to_owned();
        self.moved(before, cause, None, &stamp.by)
    }

    /// Obeys an operator. `time` is what its connections have left, zero: all they need.
    ///
    /// A backend that takes no new connections already keeps the time it was given, unless
    /// that is asked for. Back from maintenance nothing is known of it but how it flapped.
    pub(super) fn set_admin(
        &mut self,
        to: AdminState,
        time: (Option<Duration>, Duration),
        stamp: &Stamp,
        now: Instant,
    ) -> Option<Moved> {
        let before = self.state();
        let from = std::mem::replace(&mut self.admin, to);
        if from == AdminState::Maintenance && to != from && self.checkable {
            self.health.restart(now);
        }
        match (to, time) {
            (AdminState::Ready, _) => self.leaving = None,
            (_, (Some(asked), _)) => self.leave(asked, stamp, now),
            (_, (None, of_pool)) if self.leaving.is_none() => self.leave(of_pool, stamp, now),
            _ => {}
        }
        let cause = format!("set to {}", to.as_str());
        self.moved(before, cause, None, &stamp.by)
    }

    /// It is not in the pool any more.
    pub(super) fn remove(&mut self, time: Duration, stamp: &Stamp, now: Instant) -> Option<Moved> {
        let before = self.state();
        self.removed = true;
        if self
            .leaving
            .is_none_or(|leaving| leaving.deadline.is_none())
        {
            self.leave(time, stamp, now);
        }
        self.moved(before, "removed".to_owned(), None, &stamp.by)
    }

    fn leave(&mut self, time: Duration, stamp: &Stamp, now: Instant) {
        self.leaving = Some(Leaving::begin(time, stamp.since, now));
    }

    /// Until when its connections may go on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.leaving.and_then(|leaving| leaving.deadline)
    }

    /// So many of its connections were reset at the deadline.
    pub(super) fn count_reset(&mut self, n: u64) {
        if let Some(leaving) = &mut self.leaving {
            leaving.reset += n;
        }
    }

    /// When it counts as up without a check result; `None`: never.
    pub(super) fn assumed_up_at(&self) -> Option<Instant> {
        let at = self.health.assumed_up_at().filter(|_| self.wants_checks());
        at.map(|at| at + LATE_RESULT)
    }

    /// Counts it as up if it has waited for a check result for long enough.
    pub(super) fn assume_up(&mut self, now: Instant) -> Option<Moved> {
        let before = self.state();
        self.assumed_up_at().filter(|at| *at <= now)?;
        self.health.assume_up(now)?;
        let cause = "no check result in time".to_owned();
        self.moved(before, cause, None, "checks")
    }

    /// Notes that the state is not `before` any more, if so.
    pub(super) fn moved(
        &mut self,
        before: State,
        cause: String,
        check: Option<Duration>,
        by: &str,
    ) -> Option<Moved> {
        let after = self.state();
        if before == after {
            return None;
        }
        self.since = SystemTime::now();
        self.history.push(Entry {
            at: self.since,
            from: before,
            to: after,
            cause: cause.clone(),
            check,
            by: by.to_owned().into(),
        });
        Some(Moved {
            backend: Arc::clone(&self.backend),
            from: before,
            to: after,
            cause,
        })
    }

    /// What another process is to know of it.
    pub(super) fn memory(&self, now: Instant) -> BackendState {
        BackendState {
            name: Arc::clone(&self.backend.name),
            address: self.backend.location.clone(),
            health: self.checkable.then(|| self.health.memory(now)),
            latency: self.backend.latency(now),
            since: self.since,
            leaving: self.leaving.map(|leaving| LeavingState {
                since: leaving.since,
                left: leaving.deadline.map(|at| at.saturating_duration_since(now)),
                reset: leaving.reset,
            }),
            last_check: self.last_check.clone(),
            history: self.history.clone(),
        }
    }

    /// Goes on from what another process knew of it. Runtime changes are in force already.
    pub(super) fn remember(&mut self, memory: &BackendState, now: Instant) {
        if let Some(health) = memory.health.filter(|_| self.checkable) {
            self.health.remember(&health, now);
        }
        if let Some(latency) = memory
            .latency
            .and_then(|s| Duration::try_from_secs_f64(s).ok())
        {
            self.backend.observe_latency(latency, now);
        }
        if let Some(leaving) = memory.leaving.filter(|_| self.leaving.is_some()) {
            self.leaving = Some(Leaving {
                reset: leaving.reset,
                ..Leaving::begin(leaving.left.unwrap_or_default(), leaving.since, now)
            });
        }
        self.since = memory.since;
        self.last_check.clone_from(&memory.last_check);
        self.history.clone_from(&memory.history);
    }

    pub(super) fn member(&self) -> Member {
        Member {
            backend: Arc::clone(&self.backend),
            weight: self.settings.weight,
        }
    }

    pub(super) fn view(&self, now: Instant) -> BackendView {
        BackendView {
            backend: Arc::clone(&self.backend),
            settings: self.settings.clone(),
            origin: self.origin.clone(),
            state: self.state(),
            admin: self.admin,
            checks: match self.is_unresolved() {
                true => health::State::Down,
                false => self.health.state(),
            },
            since: self.since,
            transitions: self.history.total(),
            passes_needed: self.health.passes_needed(now),
            leaving: self.leaving,
            last_check: self.last_check.clone(),
            history: self.history.entries().cloned().collect(),
        }
    }
}

/// What the history of a name begins with.
fn not_resolved() -> Entry<State> {
    Entry {
        at: SystemTime::now(),
        from: State::Starting,
        to: State::Down,
        cause: "not resolved".to_owned(),
        check: None,
        by: "dns".into(),
    }
}

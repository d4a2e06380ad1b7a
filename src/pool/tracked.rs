//! What is known of one backend, and what it is by all of that.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::conduct::Gate;
use super::handover::{BackendState, ConductState, LeavingState};
use super::health::{self, Health};
use super::history::{Entry, History};
use super::names::{Origin, Row};
use super::outlier::{Ejection, Outlier};
use super::overrides::Stamp;
use super::slow_start::{self, Ramp};
use super::snapshot::Member;
use super::{AdminState, Backend, State};
use crate::config::{self, HealthKind};
use crate::log::Throttle;

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
    /// When its ejection expires, or did: then the next connection is a trial, or one is.
    pub ejected_until: Option<SystemTime>,
    /// Its weight, less what a slow start takes away.
    pub effective_weight: f64,
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
    /// Whether that time was asked for; else it is the pool's `drain_timeout` of when it began.
    pub asked: bool,
    deadline: Option<Instant>,
}

impl Leaving {
    /// It begins; zero: they may go on.
    fn begin((time, asked): (Duration, bool), at: SystemTime, now: Instant) -> Self {
        let time = Some(time).filter(|time| !time.is_zero());
        Self {
            since: at,
            until: time.and_then(|time| at.checked_add(time)),
            reset: 0,
            asked,
            deadline: time.and_then(|time| now.checked_add(time)),
        }
    }

    /// It goes on from another process, where so much was left; nothing left is not without end.
    fn go_on(memory: LeavingState, now: Instant) -> Self {
        Self {
            since: memory.since,
            until: memory
                .left
                .and_then(|left| SystemTime::now().checked_add(left)),
            reset: memory.reset,
            asked: memory.asked,
            deadline: memory.left.and_then(|left| now.checked_add(left)),
        }
    }

    fn memory(self, now: Instant) -> LeavingState {
        LeavingState {
            since: self.since,
            left: self.deadline.map(|at| at.saturating_duration_since(now)),
            reset: self.reset,
            asked: self.asked,
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
    /// Since when checks say that it is down; `None`: they do not, or there are none.
    pub(super) fallen_at: Option<Instant>,
    pub(super) outlier: Outlier,
    pub(super) ejections_told: Throttle,
    pub(super) returns_told: Throttle,
    /// Over how long its weight grows, where it does.
    slow_start: Duration,
    ramp: Option<Ramp>,
    /// When it is up next its weight grows.
    newcomer: bool,
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
            backend: Arc::new(Backend::new(settings, pool, cores, now)),
            settings: settings.clone(),
            health,
            last_check: None,
            origin: None,
            original: false,
            fallen_at: None,
            outlier: Outlier::default(),
            ejections_told: Throttle::default(),
            returns_told: Throttle::default(),
            slow_start: slow_start_of(pool),
            ramp: None,
            newcomer: true,
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
            (_, AdminState::Ready, _) if self.outlier.ejection().is_some() => State::Ejected,
            (_, AdminState::Ready, health::State::Starting) => State::Starting,
            (_, AdminState::Ready, health::State::Up) => State::Up,
        }
    }

    /// Whether new connections may go there while it is `state`.
    pub(super) fn takes(&self, state: State) -> bool {
        self.state() == state && self.settings.weight > 0 && !self.is_unresolved()
    }

    /// Whether it is in the place of one that is up, but for an ejection.
    pub(super) fn serves(&self) -> bool {
        let up = self.health.state() == health::State::Up;
        let ready = !self.removed && self.admin == AdminState::Ready;
        ready && up && !self.is_unresolved() && self.settings.weight > 0
    }

    /// Whether a pick may have it: it serves, and if it was ejected that is for a trial.
    pub(super) fn is_pickable(&self) -> bool {
        self.serves() && self.is_let_in()
    }

    /// Whether it is not ejected, or is tried.
    pub(super) fn is_let_in(&self) -> bool {
        self.outlier.ejection().is_none() || self.backend.conduct.gate() != Gate::Ejected
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
        self.slow_start = slow_start_of(pool);
        self.advance(now);
        let thresholds = (&pool.health).into();
        self.health.retune(thresholds);
        let checkable = pool.health.kind != HealthKind::None;
        if self.checkable && !checkable {
            self.health = Health::unchecked(thresholds, now);
            self.last_check = None;
        }
        self.checkable = checkable;
        self.note_fall(now);
        let off = pool.outlier.consecutive_failures == 0;
        let cause = match off && self.release(now).is_some() {
            true => "outlier detection is switched off",
            false => "checks are switched off",
        };
        self.moved(before, cause.to_owned(), None, &stamp.by, now)
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
        if from == AdminState::Maintenance && to != from {
            self.release(now);
            if self.checkable {
                self.health.restart(now);
            }
        }
        self.note_fall(now);
        match (to, time) {
            (AdminState::Ready, _) => self.leaving = None,
            (_, (Some(asked), _)) => self.leave((asked, true), stamp, now),
            (_, (None, of_pool)) if self.leaving.is_none() => {
                self.leave((of_pool, false), stamp, now);
            }
            _ => {}
        }
        let cause = format!("set to {}", to.as_str());
        self.moved(before, cause, None, &stamp.by, now)
    }

    /// It is not in the pool any more. The time that was asked for when it was drained stands, and
    /// so does one that runs.
    pub(super) fn remove(&mut self, time: Duration, stamp: &Stamp, now: Instant) -> Option<Moved> {
        let before = self.state();
        self.removed = true;
        self.note_fall(now);
        if self
            .leaving
            .is_none_or(|leaving| leaving.deadline.is_none() && !leaving.asked)
        {
            self.leave((time, false), stamp, now);
        }
        self.moved(before, "removed".to_owned(), None, &stamp.by, now)
    }

    fn leave(&mut self, time: (Duration, bool), stamp: &Stamp, now: Instant) {
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
        self.moved(before, cause, None, "checks", now)
    }

    /// Notes that the state is not `before` any more, if so.
    pub(super) fn moved(
        &mut self,
        before: State,
        cause: String,
        check: Option<Duration>,
        by: &str,
        now: Instant,
    ) -> Option<Moved> {
        let after = self.state();
        self.see_to_ramp(after, now);
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

    /// One that was away, or is new, has its weight grow from when it is up on.
    fn see_to_ramp(&mut self, state: State, now: Instant) {
        let down = self.health.state() == health::State::Down;
        let away = self.admin == AdminState::Maintenance || self.outlier.ejection().is_some();
        if down {
            // What connections showed before belongs to before.
            self.backend.conduct.succeed();
        }
        self.newcomer |= down || away;
        if state == State::Up && std::mem::take(&mut self.newcomer) {
            self.ramp = Ramp::begin(self.slow_start, now);
        }
    }

    /// It is of the configuration that the process was started with, or came later.
    pub(super) fn set_original(&mut self, original: bool, now: Instant) {
        self.original = original;
        self.newcomer = !original;
        self.ramp = None;
        self.see_to_ramp(self.state(), now);
    }

    /// It came after the start, though it is of the configuration of the start.
    pub(super) fn come_later(&mut self, now: Instant) {
        self.newcomer = true;
        self.see_to_ramp(self.state(), now);
    }

    /// Takes the step of its slow start that is due, if one is.
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        let Some(ramp) = &mut self.ramp else {
            return false;
        };
        let advanced = ramp.advance(self.slow_start, now);
        if ramp.level() == slow_start::FULL {
            self.ramp = None;
        }
        advanced
    }

    /// When the next step is.
    pub(super) fn advances_at(&self) -> Option<Instant> {
        self.ramp.map(|ramp| ramp.next(self.slow_start))
    }

    fn level(&self) -> u32 {
        self.ramp.map_or(slow_start::FULL, |ramp| ramp.level())
    }

    /// What another process is to know of it.
    pub(super) fn memory(&self, now: Instant) -> BackendState {
        BackendState {
            name: Arc::clone(&self.backend.name),
            address: self.backend.location.clone(),
            health: self.checkable.then(|| self.health.memory(now)),
            latency: self.backend.latency(now),
            since: self.since,
            leaving: self.leaving.map(|leaving| leaving.memory(now)),
            down_for: self.fallen_at.map(|at| now.saturating_duration_since(at)),
            last_check: self.last_check.clone(),
            history: self.history.clone(),
            conduct: Some(self.conduct(now)),
            ramping: self
                .ramp
                .map(|ramp| now.saturating_duration_since(ramp.since())),
            newcomer: self.newcomer,
        }
    }

    fn conduct(&self, now: Instant) -> ConductState {
        let (streak, quiet, forgive_after) = self.backend.conduct.memory(now);
        let ejection = self.outlier.ejection();
        ConductState {
            streak,
            quiet,
            forgive_after,
            times: self.outlier.times(),
            left: ejection.map(|_| {
                let until = self.due_at().unwrap_or(now);
                until.saturating_duration_since(now)
            }),
            until: ejection.map(|ejection| ejection.until_at),
            length: ejection.map(|ejection| ejection.length),
        }
    }

    fn remember_conduct(&mut self, of: &ConductState, off: bool, now: Instant) {
        let parts = (of.streak, of.quiet, of.forgive_after);
        self.backend.conduct.remember(parts, now);
        let ejection = match (of.left, of.until, of.length) {
            (Some(left), Some(until_at), Some(length)) if !off => Some(Ejection {
                until: now.checked_add(left).unwrap_or(now),
                until_at,
                length,
            }),
            _ => None,
        };
        self.outlier = Outlier::new(of.times, ejection);
        if ejection.is_some() {
            self.backend.conduct.set_gate(Gate::Ejected);
            // One that was on trial is to have another: what comes of that one is told to the
            // other process.
            self.fall_due(now);
        }
    }

    /// Goes on from what another process knew of it. Runtime changes are in force already.
    pub(super) fn remember(&mut self, memory: &BackendState, pool: &config::Pool, now: Instant) {
        if let Some(health) = memory.health.filter(|_| self.checkable) {
            self.health.remember(&health, now);
            let fallen_at = memory.down_for.and_then(|time| now.checked_sub(time));
            self.fallen_at = fallen_at;
            self.note_fall(now);
        }
        if let Some(latency) = memory
            .latency
            .and_then(|s| Duration::try_from_secs_f64(s).ok())
        {
            self.backend.observe_latency(latency, now);
        }
        if let Some(leaving) = memory.leaving.filter(|_| self.leaving.is_some()) {
            self.leaving = Some(Leaving::go_on(leaving, now));
        }
        if let Some(conduct) = &memory.conduct {
            let off = pool.outlier.consecutive_failures == 0;
            self.remember_conduct(conduct, off, now);
        }
        self.newcomer = memory.newcomer;
        self.ramp = memory
            .ramping
            .and_then(|ago| Ramp::resume(ago, self.slow_start, now));
        self.see_to_ramp(self.state(), now);
        self.since = memory.since;
        self.last_check.clone_from(&memory.last_check);
        self.history.clone_from(&memory.history);
    }

    pub(super) fn member(&self) -> Member {
        Member::new(
            Arc::clone(&self.backend),
            self.settings.weight,
            self.level(),
        )
    }

    /// `alone`: no other backend of the pool is usable.
    pub(super) fn view(&self, alone: bool, now: Instant) -> BackendView {
        let share = f64::from(self.level()) / f64::from(slow_start::FULL);
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
            passes_needed: match self.health.passes_needed(now) {
                needed if alone => needed.min(1),
                needed => needed,
            },
            ejected_until: self.outlier.ejection().map(|ejection| ejection.until_at),
            effective_weight: f64::from(self.settings.weight) * share,
            leaving: self.leaving,
            last_check: self.last_check.clone(),
            history: self.history.entries().cloned().collect(),
        }
    }
}

/// Over how long weights grow in this pool; zero: at once.
fn slow_start_of(pool: &config::Pool) -> Duration {
    match pool.balance.can_ramp() {
        true => pool.slow_start,
        false => Duration::ZERO,
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

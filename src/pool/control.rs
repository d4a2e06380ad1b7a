//! What the control plane knows of a pool's backends, and how the data plane learns of it.
//!
//! Checks and operators change a [`Control`] under its lock, which no connection ever takes;
//! each change publishes a new [`Snapshot`] and, since a backend may have become usable, serves
//! those that are held.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};

use super::health::{self, Health, Thresholds};
use super::history::{Entry, History};
use super::snapshot::{BACKUP, LAST_RESORT, Member, PRIMARY, Tier};
use super::{Backend, Pool, Snapshot};
use crate::config::{self, HealthKind, WhenAllDown};

/// What an operator wants of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// To serve.
    Ready,
    /// To take no new connection; checks go on.
    Drain,
    /// To be left alone; checks stop.
    Maintenance,
}

/// What a backend is, all in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not in the pool any more, with connections left.
    Removed,
    /// In maintenance.
    Maintenance,
    /// Takes no new connection.
    Draining,
    /// Down by checks.
    Down,
    /// Put out for a while by what its connections showed.
    Ejected,
    /// Not checked yet.
    Starting,
    /// Serves.
    Up,
}

impl AdminState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

impl State {
    /// All of them, in order of precedence.
    pub const ALL: [Self; 7] = [
        Self::Removed,
        Self::Maintenance,
        Self::Draining,
        Self::Down,
        Self::Ejected,
        Self::Starting,
        Self::Up,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Maintenance => "maintenance",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Starting => "starting",
            Self::Up => "up",
        }
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What a check of a backend found.
#[derive(Clone, Debug)]
pub struct CheckResult {
    /// When it began.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What failed; `None`: it passed.
    pub error: Option<String>,
}

/// A backend as the admin endpoint shows it.
#[derive(Clone, Debug)]
pub struct BackendView {
    /// Its counts and limits.
    pub backend: Arc<Backend>,
    /// As the file has it.
    pub settings: config::Backend,
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
    /// The last check.
    pub last_check: Option<CheckResult>,
    /// The last changes of its state, oldest first.
    pub history: Vec<Entry<State>>,
}

impl CheckResult {
    /// Whether it passed.
    pub fn passed(&self) -> bool {
        self.error.is_none()
    }

    fn cause(&self) -> &str {
        self.error.as_deref().unwrap_or("check passed")
    }
}

#[derive(Debug)]
pub(super) struct Control {
    settings: Arc<config::Pool>,
    fallback: Option<Weak<Pool>>,
    dependents: Vec<Weak<Pool>>,
    tracked: Vec<Tracked>,
}

/// What is known of one backend.
#[derive(Debug)]
struct Tracked {
    backend: Arc<Backend>,
    settings: config::Backend,
    admin: AdminState,
    health: Health,
    since: SystemTime,
    history: History<State>,
    last_check: Option<CheckResult>,
}

impl Tracked {
    fn new(settings: &config::Backend, pool: &config::Pool, cores: usize) -> Self {
        let thresholds = Thresholds {
            rise: pool.health.rise,
            fall: pool.health.fall,
            patience: pool.health.timeout,
        };
        let now = Instant::now();
        let health = match pool.health.kind {
            HealthKind::None => Health::unchecked(thresholds, now),
            _ => Health::new(thresholds, now),
        };
        Self {
            backend: Arc::new(Backend::new(settings, pool, cores)),
            settings: settings.clone(),
            admin: AdminState::Ready,
            health,
            since: SystemTime::now(),
            history: History::default(),
            last_check: None,
        }
    }

    fn state(&self) -> State {
        match (self.admin, self.health.state()) {
            (AdminState::Maintenance, _) => State::Maintenance,
            (AdminState::Drain, _) => State::Draining,
            (AdminState::Ready, health::State::Down) => State::Down,
            (AdminState::Ready, health::State::Starting) => State::Starting,
            (AdminState::Ready, health::State::Up) => State::Up,
        }
    }

    /// Whether new connections may go there while it is `state`.
    fn takes(&self, state: State) -> bool {
        self.state() == state && self.settings.weight > 0
    }

    fn member(&self) -> Member {
        Member {
            backend: Arc::clone(&self.backend),
            weight: self.settings.weight,
        }
    }

    fn view(&self, now: Instant) -> BackendView {
        BackendView {
            backend: Arc::clone(&self.backend),
            settings: self.settings.clone(),
            state: self.state(),
            admin: self.admin,
            checks: self.health.state(),
            since: self.since,
            transitions: self.history.total(),
            passes_needed: self.health.passes_needed(now),
            last_check: self.last_check.clone(),
            history: self.history.entries().cloned().collect(),
        }
    }
}

impl Control {
    pub(super) fn new(settings: Arc<config::Pool>, cores: usize) -> Self {
        let tracked = settings
            .backends
            .iter()
            .map(|backend| Tracked::new(backend, &settings, cores))
            .collect();
        Self {
            settings,
            fallback: None,
            dependents: Vec::new(),
            tracked,
        }
    }

    pub(super) fn set_fallback(&mut self, fallback: Weak<Pool>) {
        self.fallback = Some(fallback);
    }

    /// This pool falls back to the one under control.
    pub(super) fn add_dependent(&mut self, pool: Weak<Pool>) {
        self.dependents.push(pool);
    }

    /// What the data plane is to see; keeps of `old` what did not change.
    pub(super) fn snapshot(&self, old: Option<&Snapshot>) -> Snapshot {
        let rank = |rank: usize, members: Vec<Member>| {
            Tier::new(members, &self.settings, old.map(|old| &old.tiers[rank]))
        };
        Snapshot {
            settings: Arc::clone(&self.settings),
            fallback: self.fallback.clone(),
            dependents: self.dependents.clone(),
            backends: self
                .tracked
                .iter()
                .map(|t| Arc::clone(&t.backend))
                .collect(),
            tiers: [
                rank(PRIMARY, self.members(State::Up, |t| !t.settings.backup)),
                rank(BACKUP, self.members(State::Up, |t| t.settings.backup)),
                rank(LAST_RESORT, self.last_resort()),
            ],
        }
    }

    fn members(&self, state: State, which: impl Fn(&Tracked) -> bool) -> Vec<Member> {
        let eligible = self.tracked.iter().filter(|t| t.takes(state) && which(t));
        eligible.map(Tracked::member).collect()
    }

    fn last_resort(&self) -> Vec<Member> {
        let wanted = self.settings.when_all_down == WhenAllDown::Try;
        if !wanted || self.tracked.iter().any(|t| t.takes(State::Up)) {
            return Vec::new();
        }
        self.members(State::Down, |_| true)
    }

    fn of(&mut self, backend: &Arc<Backend>) -> Option<&mut Tracked> {
        let mut all = self.tracked.iter_mut();
        all.find(|tracked| Arc::ptr_eq(&tracked.backend, backend))
    }

    /// Whether no backend but this one may be used.
    fn is_alone(&self, backend: &Arc<Backend>) -> bool {
        let mut all = self.tracked.iter();
        !all.any(|t| t.takes(State::Up) && !Arc::ptr_eq(&t.backend, backend))
    }

    /// What a check says; the change of state it makes, if any.
    fn checked(&mut self, backend: &Arc<Backend>, check: CheckResult) -> Option<(State, State)> {
        let alone = self.is_alone(backend);
        let tracked = self.of(backend)?;
        let before = tracked.state();
        let (cause, took) = (check.cause().to_owned(), check.took);
        let passed = check.passed();
        tracked.last_check = Some(check);
        tracked.health.record(passed, alone, Instant::now())?;
        tracked.moved(before, cause, Some(took))
    }

    fn assume_up(&mut self, now: Instant) -> Vec<(Arc<Backend>, State, State)> {
        let mut moved = Vec::new();
        for tracked in &mut self.tracked {
            let before = tracked.state();
            if tracked.health.assume_up(now).is_none() {
                continue;
            }
            let cause = "no check result in time".to_owned();
            if let Some((from, to)) = tracked.moved(before, cause, None) {
                moved.push((Arc::clone(&tracked.backend), from, to));
            }
        }
        moved
    }
}

impl Tracked {
    /// Notes that the state is not `before` any more, if so.
    fn moved(
        &mut self,
        before: State,
        cause: String,
        check: Option<Duration>,
    ) -> Option<(State, State)> {
        let after = self.state();
        if before == after {
            return None;
        }
        self.since = SystemTime::now();
        self.history.push(Entry {
            at: self.since,
            from: before,
            to: after,
            cause,
            check,
            by: "checks".into(),
        });
        Some((before, after))
    }
}

impl Pool {
    /// Changes what is known, and lets the data plane know.
    pub(super) fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Control) -> T) -> T {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut control);
        let snapshot = control.snapshot(Some(&self.current.load()));
        self.current.store(Arc::new(snapshot));
        drop(control);
        self.given_back();
        changed
    }

    fn look<T>(&self, look: impl FnOnce(&mut Control) -> T) -> T {
        look(&mut self.control.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every backend as the admin endpoint shows it, in file order.
    pub fn view(&self) -> Vec<BackendView> {
        let now = Instant::now();
        self.look(|control| control.tracked.iter().map(|t| t.view(now)).collect())
    }

    /// Backends that have no check result yet.
    pub fn unchecked(&self) -> Vec<Arc<str>> {
        self.look(|control| {
            let waiting = control.tracked.iter().filter(|t| !t.health.decided());
            waiting.map(|t| Arc::clone(&t.backend.name)).collect()
        })
    }

    /// Backends that have waited for their first check result for `health.timeout` count as
    /// up from now on.
    pub fn assume_up(self: &Arc<Self>) {
        let moved = self.change(|control| control.assume_up(Instant::now()));
        for (backend, from, to) in moved {
            self.announce(&backend, from, to, "no check result in time");
        }
    }

    /// Takes in what a check of `backend` found.
    pub fn checked(self: &Arc<Self>, backend: &Arc<Backend>, check: CheckResult) {
        let counters = backend.counters.here();
        if check.passed() {
            counters.checks_passed.add(1);
            backend.wake();
        } else {
            counters.checks_failed.add(1);
        }
        let cause = check.cause().to_owned();
        let moved = self.look(|control| control.checked(backend, check));
        let Some((from, to)) = moved else {
            return self.given_back();
        };
        if to == State::Up {
            backend.reset_window();
        }
        self.change(|_| ());
        self.announce(backend, from, to, &cause);
    }

    /// Whether the next check of `backend` should come soon: its state is in doubt, or it is
    /// down while clients are held.
    pub fn is_unsettled(&self, backend: &Arc<Backend>) -> bool {
        let held = self.held() > 0;
        self.look(|control| {
            let Some(tracked) = control.of(backend) else {
                return false;
            };
            if backend.take_suspicion() {
                tracked.health.suspect();
            }
            !tracked.health.settled() || (held && tracked.health.state() == health::State::Down)
        })
    }

    fn announce(&self, backend: &Backend, from: State, to: State, cause: &str) {
        let (pool, name) = (&*self.name, &*backend.name);
        let (from, state) = (from.as_str(), to.as_str());
        let usable = self.current.load().usable();
        if to == State::Up {
            tracing::info!(pool, backend = name, from, state, cause, usable, "backend");
        } else {
            tracing::warn!(pool, backend = name, from, state, cause, usable, "backend");
        }
    }

    /// Asks for checks soon of every backend that is down, because clients are held.
    pub(super) fn hasten_checks(&self) {
        self.look(|control| {
            let all = control.tracked.iter();
            let down = all.filter(|t| t.health.state() == health::State::Down);
            down.for_each(|t| t.backend.nudge());
        });
    }
}

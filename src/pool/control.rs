//! What the control plane knows of a pool's backends, and how the data plane learns of it.
//!
//! Checks and operators change a [`Control`] under its lock, which no connection ever takes;
//! each change publishes a new [`Snapshot`] and, since a backend may have become usable, serves
//! those that are held.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::health;
use super::names::Names;
use super::overrides::{Overrides, Stamp};
use super::pause::Pause;
use super::slow_start;
use super::snapshot::{BACKUP, LAST_RESORT, Member, PRIMARY, Tier};
use super::tracked::{BackendView, CheckResult, Moved, Tracked};
use super::{Backend, Pool, Snapshot, State};
use crate::balance::Balancer;
use crate::config::{self, WhenAllDown};

/// How soon after their time is over the connections of a backend are looked for again: one
/// that was connecting then may have come through.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often removed backends are forgotten that nobody has any more.
const SWEEP: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Control {
    /// `[pool.NAME]` as the file has it.
    pub(super) file: Arc<config::Pool>,
    /// The same with the runtime changes.
    pub(super) settings: Arc<config::Pool>,
    pub(super) overrides: Overrides,
    /// What DNS has answered.
    pub(super) names: Names,
    pub(super) pause: Pause,
    /// The file has it no more.
    pub(super) retired: bool,
    /// Removed ones come last, those removed last first among them.
    pub(super) tracked: Vec<Tracked>,
    pub(super) fallback: Option<Weak<Pool>>,
    pub(super) dependents: Vec<Weak<Pool>>,
    /// Of the removed backends that are forgotten.
    departed: Bytes,
    cores: usize,
}

/// Payload that was moved, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// From clients to backends.
    pub into: u64,
    /// From backends to clients.
    pub out: u64,
}

impl Bytes {
    fn of(backend: &Backend) -> Self {
        Self {
            into: backend.counters.sum(|cell| cell.bytes_in.value()),
            out: backend.counters.sum(|cell| cell.bytes_out.value()),
        }
    }

    fn add(&mut self, other: Self) {
        self.into += other.into;
        self.out += other.out;
    }
}

/// A pool's backends as the admin endpoint shows them.
#[derive(Clone, Debug)]
pub struct Overview {
    /// In file order, then those that were added, then those that were removed and have
    /// connections left. Names are unique: of several removed ones of a name, and beside one
    /// that has the name now, the older ones are left out.
    pub backends: Vec<BackendView>,
    /// What all others moved since the start.
    pub others: Bytes,
    /// Connections of all backends, those left out included.
    pub active: u64,
}

/// What is due, see [`Pool::due`].
#[derive(Debug, Default)]
pub struct Due {
    /// Backends whose connections have had their time.
    pub overstayed: Vec<Arc<Backend>>,
    /// When to ask again, if nothing changes before.
    pub next: Option<Instant>,
}

/// What a moment brought.
#[derive(Debug, Default)]
pub(super) struct Tick {
    pub(super) moved: Vec<Moved>,
    pub(super) resumed: bool,
    /// The trial of a backend is due, or a slow start has come a step further.
    pub(super) stepped: bool,
    pub(super) due: Due,
}

impl Control {
    pub(super) fn new(file: Arc<config::Pool>, cores: usize, now: Instant) -> Self {
        let mut control = Self {
            settings: Arc::clone(&file),
            file,
            overrides: Overrides::default(),
            names: Names::default(),
            pause: Pause::Never,
            retired: false,
            tracked: Vec::new(),
            fallback: None,
            dependents: Vec::new(),
            departed: Bytes::default(),
            cores,
        };
        control.reconcile(&Stamp::of_file(), now);
        let all = control.tracked.iter_mut();
        all.for_each(|tracked| tracked.set_original(true, now));
        control
    }

    /// Brings the backends in line with the file, the runtime changes and what names stand for:
    /// those of the same name and address stay what they are, others are removed or begin.
    pub(super) fn reconcile(&mut self, stamp: &Stamp, now: Instant) -> Vec<Moved> {
        let mut moved = Vec::new();
        let pool = self.overrides.effective(&self.file);
        self.keep_names(&pool);
        let mut old = std::mem::take(&mut self.tracked);
        for row in self.names.rows(&pool, &self.overrides) {
            let settings = &row.settings;
            let mut tracked = match old.iter().position(|tracked| tracked.is(settings)) {
                Some(index) => old.remove(index),
                None => {
                    let mut new = Tracked::new(settings, &pool, self.cores, now);
                    if old.iter().any(|old| old.original && old.gave_way_to(&row)) {
                        new.set_original(true, now);
                    }
                    new
                }
            };
            moved.extend(tracked.retune(settings, &pool, stamp, now));
            let admin = self.overrides.state_of(&pool.name, &row);
            tracked.origin = row.origin;
            if tracked.admin() != admin {
                moved.extend(tracked.set_admin(admin, (None, pool.drain_timeout), stamp, now));
            }
            self.tracked.push(tracked);
        }
        for mut gone in old {
            if self.tracked.iter().any(|t| gone.stood_for(t)) {
                // It was there for its addresses, which are there now.
                continue;
            }
            if !gone.is_removed() {
                moved.extend(gone.remove(pool.drain_timeout, stamp, now));
            }
            self.tracked.push(gone);
        }
        self.settings = pool;
        moved
    }

    /// Forgets removed backends that nobody has any more, no connection and no snapshot that
    /// is still being looked at: nobody can count for them, or pick them, after that.
    pub(super) fn sweep(&mut self) {
        let departed = &mut self.departed;
        self.tracked.retain_mut(|tracked| {
            let gone = tracked.is_removed() && Arc::get_mut(&mut tracked.backend).is_some();
            if gone {
                departed.add(Bytes::of(&tracked.backend));
            }
            !gone
        });
    }

    /// Payload of removed backends that are forgotten, to them and from them.
    pub(super) fn departed(&self) -> (u64, u64) {
        (self.departed.into, self.departed.out)
    }

    /// The same of another process.
    pub(super) fn add_departed(&mut self, (into, out): (u64, u64)) {
        self.departed.add(Bytes { into, out });
    }

    /// What the data plane is to see; keeps of `old` what did not change.
    pub(super) fn snapshot(&self, old: Option<&Snapshot>) -> Snapshot {
        // Another strategy begins afresh.
        let old = old.filter(|old| Balancer::is_same(&old.settings, &self.settings));
        let rank = |rank: usize, members: Vec<Member>| {
            Tier::new(members, &self.settings, old.map(|old| &old.tiers[rank]))
        };
        let present = self.tracked.iter().filter(|t| !t.is_removed());
        Snapshot {
            settings: Arc::clone(&self.settings),
            pause: self.pause,
            retired: self.retired,
            fallback: self.fallback.clone(),
            dependents: self.dependents.clone(),
            backends: present.map(|t| Arc::clone(&t.backend)).collect(),
            seats: self.seats(),
            tiers: [
                rank(PRIMARY, self.members(|t| !t.settings.backup)),
                rank(BACKUP, self.members(|t| t.settings.backup)),
                rank(LAST_RESORT, self.last_resort()),
            ],
        }
    }

    fn members(&self, which: impl Fn(&Tracked) -> bool) -> Vec<Member> {
        let eligible = self.tracked.iter().filter(|t| t.is_pickable() && which(t));
        eligible.map(Tracked::member).collect()
    }

    fn last_resort(&self) -> Vec<Member> {
        let wanted = self.settings.when_all_down == WhenAllDown::Try;
        if !wanted || self.tracked.iter().any(|t| t.takes(State::Up)) {
            return Vec::new();
        }
        let eligible = self.tracked.iter();
        let eligible = eligible.filter(|t| t.takes(State::Down) && t.is_let_in());
        let backend = |t: &Tracked| Arc::clone(&t.backend);
        eligible
            .map(|t| Member::new(backend(t), t.settings.weight, slow_start::FULL))
            .collect()
    }

    /// A backend as the admin endpoint shows it.
    pub(super) fn view(&self, index: usize, now: Instant) -> BackendView {
        let tracked = &self.tracked[index];
        tracked.view(self.is_alone(&tracked.backend), now)
    }

    pub(super) fn of(&mut self, backend: &Arc<Backend>) -> Option<&mut Tracked> {
        let mut all = self.tracked.iter_mut();
        all.find(|tracked| Arc::ptr_eq(&tracked.backend, backend))
    }

    /// How many may be used.
    fn usable(&self) -> usize {
        self.tracked.iter().filter(|t| t.takes(State::Up)).count()
    }

    /// Whether no backend but this one may be used.
    fn is_alone(&self, backend: &Arc<Backend>) -> bool {
        let mut all = self.tracked.iter();
        !all.any(|t| t.takes(State::Up) && !Arc::ptr_eq(&t.backend, backend))
    }

    /// What a check says; the change of state it makes, if any, and whether checks say otherwise
    /// than before. A result that comes after its backend was removed or put into maintenance is
    /// none any more.
    pub(super) fn checked(
        &mut self,
        backend: &Arc<Backend>,
        check: CheckResult,
        now: Instant,
    ) -> (Option<Moved>, bool) {
        let alone = self.is_alone(backend);
        let Some(tracked) = self.of(backend).filter(|tracked| tracked.wants_checks()) else {
            return (None, false);
        };
        let before = tracked.state();
        let (cause, took) = (check.cause().to_owned(), check.took);
        let passed = check.passed();
        tracked.last_check = Some(check);
        if tracked.health.record(passed, alone, now).is_none() {
            return (None, false);
        }
        tracked.note_fall(now);
        (
            tracked.moved(before, cause, Some(took), "checks", now),
            true,
        )
    }

    /// Does what has become due.
    pub(super) fn tick(&mut self, now: Instant) -> Tick {
        self.sweep();
        let mut tick = Tick {
            moved: self.assume_up(now),
            resumed: self.pause.until().is_some_and(|until| until <= now),
            stepped: false,
            due: Due::default(),
        };
        if tick.resumed {
            self.resume(now);
        }
        let mut next: Vec<Instant> = Vec::new();
        next.extend(self.pause.until());
        for tracked in &mut self.tracked {
            tick.stepped |= tracked.fall_due(now);
            tick.stepped |= tracked.advance(now);
            next.extend(tracked.due_at());
            next.extend(tracked.advances_at());
            next.extend(tracked.assumed_up_at());
            match tracked.deadline() {
                Some(deadline) if deadline > now => next.push(deadline),
                Some(_) if tracked.backend.active() > 0 => {
                    tick.due.overstayed.push(Arc::clone(&tracked.backend));
                    next.push(now + LOOK_AGAIN);
                }
                _ if tracked.is_removed() => next.push(now + SWEEP),
                _ => {}
            }
        }
        tick.due.next = next.into_iter().min();
        tick
    }

    fn assume_up(&mut self, now: Instant) -> Vec<Moved> {
        let all = self.tracked.iter_mut();
        all.filter_map(|tracked| tracked.assume_up(now)).collect()
    }

    /// Ends a pause, and lets those in who are held at the pace of a backend that is just back.
    pub(super) fn resume(&mut self, now: Instant) {
        self.overrides.resume(&self.file.name);
        self.pause = Pause::Ended { at: now };
        self.tracked.iter().for_each(|t| t.backend.reset_window());
    }

    fn overview(&mut self, now: Instant) -> Overview {
        self.sweep();
        let mut others = self.departed;
        let mut names = HashSet::new();
        let mut backends = Vec::new();
        let usable = self.usable();
        let (removed, present): (Vec<_>, Vec<_>) =
            self.tracked.iter().partition(|t| t.is_removed());
        for tracked in present.into_iter().chain(removed) {
            let shown = !tracked.is_removed() || tracked.backend.active() > 0;
            if shown && names.insert(Arc::clone(&tracked.backend.name)) {
                let alone = usable == usize::from(tracked.takes(State::Up));
                backends.push(tracked.view(alone, now));
            } else {
                others.add(Bytes::of(&tracked.backend));
            }
        }
        let active = self.tracked.iter().map(|t| u64::from(t.backend.active()));
        Overview {
            backends,
            others,
            active: active.sum(),
        }
    }
}

impl Stamp {
    /// Of what nobody changed at run time.
    pub(super) fn of_file() -> Self {
        Self {
            since: SystemTime::now(),
            by: "file".into(),
        }
    }
}

impl Pool {
    /// Changes what is known, and lets the data plane know.
    pub(super) fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Control) -> T) -> T {
        let changed: Result<T, std::convert::Infallible> =
            self.try_change(|control| Ok(change(control)));
        let Ok(changed) = changed;
        changed
    }

    /// The same, unless `change` finds a reason to change nothing.
    pub(super) fn try_change<T, E>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Control) -> Result<T, E>,
    ) -> Result<T, E> {
        self.heed();
        self.publish(change)
    }

    /// The same, whatever cores have found meanwhile.
    pub(super) fn publish<T, E>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Control) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut control)?;
        let snapshot = control.snapshot(Some(&self.current.load()));
        self.current.store(Arc::new(snapshot));
        drop(control);
        self.revision.send_replace(());
        self.given_back();
        Ok(changed)
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&mut Control) -> T) -> T {
        look(&mut self.control.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sees every change of what is known.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.revision.subscribe()
    }

    /// Every backend as the admin endpoint shows it.
    pub fn overview(self: &Arc<Self>) -> Overview {
        self.heed();
        self.look(|control| control.overview(Instant::now()))
    }

    /// The runtime changes of this pool, oldest first.
    pub fn overrides(&self) -> Overrides {
        self.look(|control| control.overrides.clone())
    }

    /// Every backend, removed ones included.
    pub(super) fn every_backend(&self) -> Vec<Arc<Backend>> {
        self.look(|control| {
            let all = control.tracked.iter();
            all.map(|tracked| Arc::clone(&tracked.backend)).collect()
        })
    }

    /// Backends whose checks are to run.
    pub fn checked_backends(&self) -> Vec<Arc<Backend>> {
        self.look(|control| {
            let wanted = control.tracked.iter().filter(|t| t.wants_checks());
            wanted.map(|t| Arc::clone(&t.backend)).collect()
        })
    }

    /// Backends of the start that have no check result yet, and will have one, and names of the
    /// start that were not asked for yet. The addresses that a name of the start is found to have
    /// at first are backends of the start.
    pub fn unchecked(&self) -> Vec<Arc<str>> {
        self.look(|control| {
            let all = control.tracked.iter();
            let waits = |t: &&Tracked| match t.is_unresolved() {
                true => !control.is_answered(&t.settings),
                false => t.wants_checks() && !t.health.decided(),
            };
            let waiting = all.filter(|t| t.original).filter(waits);
            waiting.map(|t| Arc::clone(&t.backend.name)).collect()
        })
    }

    /// Checks begin `now`, and with them the wait for first results, however long the start took
    /// up to here.
    pub fn begin(self: &Arc<Self>, now: Instant) {
        self.change(|control| {
            let all = control.tracked.iter_mut();
            let waiting = all.filter(|t| t.wants_checks() && !t.health.decided());
            for tracked in waiting {
                // Nothing that shows changes: they are starting already.
                let _ = tracked.health.restart(now);
            }
        });
    }

    /// Does what has become due by `now`: backends that have waited for their first check
    /// result for `health.timeout` count as up, a pause ends, ejections expire, slow starts come
    /// further. What is due and not for the pool to do is told.
    pub fn due(self: &Arc<Self>, now: Instant) -> Due {
        self.heed();
        let tick = self.look(|control| control.tick(now));
        if tick.resumed || tick.stepped || !tick.moved.is_empty() {
            self.change(|_| ());
        }
        if tick.resumed {
            tracing::info!(pool = &*self.name, "the pause is over");
        }
        tick.moved.iter().for_each(|moved| self.announce(moved));
        tick.due
    }

    /// So many connections of `backend` were reset because their time was over.
    pub fn count_reset(&self, backend: &Arc<Backend>, n: u64) {
        self.look(|control| {
            if let Some(tracked) = control.of(backend) {
                tracked.count_reset(n);
            }
        });
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
        self.heed();
        let now = Instant::now();
        let (moved, turned) = self.look(|control| control.checked(backend, check, now));
        let Some(moved) = moved else {
            if turned {
                // It is drained, which shows more than what checks say; some want to know.
                self.revision.send_replace(());
            }
            return self.given_back();
        };
        if moved.to == State::Up {
            backend.reset_window();
        }
        self.change(|_| ());
        self.announce(&moved);
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

    pub(super) fn announce(&self, moved: &Moved) {
        let (pool, name) = (&*self.name, &*moved.backend.name);
        let (from, state) = (moved.from.as_str(), moved.to.as_str());
        let (cause, usable) = (&*moved.cause, self.current.load().usable());
        match moved.to {
            State::Down | State::Ejected => {
                tracing::warn!(pool, backend = name, from, state, cause, usable, "backend");
            }
            _ => tracing::info!(pool, backend = name, from, state, cause, usable, "backend"),
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

//! What a pool is, as another process can have it: the process that takes the place of this one
//! goes on with it.
//!
//! Runtime changes are merged with the file of the new process as with a new file at a reload;
//! what checks know of a backend, its latency and its history go on where the name and the
//! address are the same.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::health::Memory;
use super::history::History;
use super::names::NameState;
use super::overrides::{Change, Ended, Override, Overrides, Stamp};
use super::pause::Pause;
use super::{AdminState, Backend, CheckResult, Pool, State};
use crate::config::{self, Config};
use crate::net::Location;

/// What a pool is, beside its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolState {
    /// Its name.
    pub name: Arc<str>,
    /// Its runtime changes, oldest first.
    pub overrides: Vec<OverrideRecord>,
    /// Its backends, removed ones left out.
    pub backends: Vec<BackendState>,
    /// Payload of backends that are forgotten, in bytes, to them and from them.
    #[serde(default)]
    pub departed: (u64, u64),
    /// What DNS has answered.
    #[serde(default)]
    pub names: Vec<NameState>,
}

/// What is known of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendState {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is.
    pub address: Location,
    /// What checks know; `None`: there are none.
    pub health: Option<Memory>,
    /// Moving average of its latency, in seconds.
    pub latency: Option<f64>,
    /// Since when its state holds.
    pub since: SystemTime,
    /// It takes no new connections because somebody wants it so.
    pub leaving: Option<LeavingState>,
    /// How long its checks have said that it is down; `None`: they do not.
    #[serde(default)]
    pub down_for: Option<Duration>,
    /// The last check.
    pub last_check: Option<CheckResult>,
    /// Its last changes of state.
    pub history: History<State>,
    /// What its connections have shown; `None`: that was not known yet.
    #[serde(default)]
    pub conduct: Option<ConductState>,
    /// How long ago its slow start began, if it is in one.
    #[serde(default)]
    pub ramping: Option<Duration>,
    /// Its weight grows when it is up next.
    #[serde(default)]
    pub newcomer: bool,
}

/// What connections have shown of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConductState {
    /// Failures in a row.
    pub streak: u32,
    /// How long ago it last failed, or returned.
    pub quiet: Duration,
    /// So long without a failure, and its ejections are forgiven; zero: they are.
    pub forgive_after: Duration,
    /// How often in a row it has been ejected.
    pub times: u32,
    /// How long it is ejected still, zero where a trial is due or goes on; `None`: it is not.
    pub left: Option<Duration>,
    /// When that is over.
    pub until: Option<SystemTime>,
    /// How long it is in all.
    pub length: Option<Duration>,
}

/// The time that is left to the connections of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingState {
    /// Since when it takes no new ones.
    pub since: SystemTime,
    /// How long those that are left may go on; `None`: as long as they need.
    pub left: Option<Duration>,
    /// How many were reset.
    pub reset: u64,
    /// Whether that time was asked for.
    #[serde(default)]
    pub asked: bool,
}

/// A runtime change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverrideRecord {
    pool: Arc<str>,
    backend: Option<Arc<str>>,
    change: ChangeRecord,
    since: SystemTime,
    by: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeRecord {
    State(AdminState),
    Weight {
        file: u32,
        runtime: u32,
    },
    Added {
        in_file: bool,
        runtime: BackendRecord,
    },
    Removed,
    Paused {
        until: Option<SystemTime>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct BackendRecord {
    name: Arc<str>,
    address: Location,
    weight: u32,
    max_connections: u32,
    backup: bool,
}

impl From<&Override> for OverrideRecord {
    fn from(item: &Override) -> Self {
        let change = match &item.change {
            Change::State { runtime } => ChangeRecord::State(*runtime),
            Change::Weight { file, runtime } => ChangeRecord::Weight {
                file: *file,
                runtime: *runtime,
            },
            Change::Added { in_file, runtime } => ChangeRecord::Added {
                in_file: *in_file,
                runtime: BackendRecord {
                    name: Arc::clone(&runtime.name),
                    address: runtime.address.clone(),
                    weight: runtime.weight,
                    max_connections: runtime.max_connections,
                    backup: runtime.backup,
                },
            },
            Change::Removed => ChangeRecord::Removed,
            Change::Paused { until } => ChangeRecord::Paused { until: *until },
        };
        Self {
            pool: Arc::clone(&item.pool),
            backend: item.backend.clone(),
            change,
            since: item.stamp.since,
            by: Arc::clone(&item.stamp.by),
        }
    }
}

impl From<OverrideRecord> for Override {
    fn from(record: OverrideRecord) -> Self {
        let change = match record.change {
            ChangeRecord::State(runtime) => Change::State { runtime },
            ChangeRecord::Weight { file, runtime } => Change::Weight { file, runtime },
            ChangeRecord::Added { in_file, runtime } => Change::Added {
                in_file,
                runtime: config::Backend {
                    name: runtime.name,
                    address: runtime.address,
                    weight: runtime.weight,
                    max_connections: runtime.max_connections,
                    backup: runtime.backup,
                },
            },
            ChangeRecord::Removed => Change::Removed,
            ChangeRecord::Paused { until } => Change::Paused { until },
        };
        Self {
            pool: record.pool,
            backend: record.backend,
            change,
            stamp: Stamp {
                since: record.since,
                by: record.by,
            },
        }
    }
}

/// Runtime changes as records.
pub fn records(overrides: &Overrides) -> Vec<OverrideRecord> {
    overrides.iter().map(OverrideRecord::from).collect()
}

impl Pool {
    /// What the process that takes the place of this one is to know.
    pub fn memory(self: &Arc<Self>) -> PoolState {
        self.heed();
        let now = Instant::now();
        self.look(|control| PoolState {
            name: Arc::clone(&control.file.name),
            overrides: records(&control.overrides),
            backends: control
                .tracked
                .iter()
                .filter(|tracked| !tracked.is_removed())
                .map(|tracked| tracked.memory(now))
                .collect(),
            departed: control.departed(),
            names: control.name_states(),
        })
    }

    /// Goes on with the runtime changes and what was known in the process whose place this one
    /// takes, as far as `file`, the configuration of this one, leaves them; those that it ends
    /// are given back.
    pub fn remember(self: &Arc<Self>, memory: PoolState, file: &Config) -> Vec<(Override, Ended)> {
        let overrides = memory.overrides.into_iter().map(Override::from);
        let merge = Overrides::of_all(overrides).merge(file);
        let now = Instant::now();
        self.change(|control| {
            control.remember_names(memory.names);
            control.obey(merge.kept, now);
            control.add_departed(memory.departed);
            for backend in &memory.backends {
                let mut all = control.tracked.iter_mut();
                let same = |tracked: &&mut super::tracked::Tracked| {
                    tracked.is_named(&backend.name) && tracked.backend.location == backend.address
                };
                if let Some(tracked) = all.find(same) {
                    tracked.remember(backend, &control.settings, now);
                }
            }
            let known = |tracked: &super::tracked::Tracked| {
                let mut all = memory.backends.iter();
                all.any(|b| tracked.is_named(&b.name) && tracked.backend.location == b.address)
            };
            // The file of this process has those, and that of the other one had not.
            let new = control.tracked.iter_mut().filter(|t| !known(t));
            new.for_each(|tracked| tracked.come_later(now));
        });
        merge.ended
    }

    /// Payload that another process moved for backends that this one does not have, in bytes.
    pub fn add_departed(&self, into: u64, out: u64) {
        self.look(|control| control.add_departed((into, out)));
    }

    /// Another process of this balancer has `n` connections to `backend`, which count here too.
    pub fn set_elsewhere(self: &Arc<Self>, backend: &Backend, n: u32) {
        if backend.set_elsewhere(n) > n {
            self.given_back();
        }
    }

    /// The backend that has this name now.
    pub fn backend(&self, name: &str) -> Option<Arc<Backend>> {
        let snapshot = self.snapshot();
        let mut all = snapshot.backends.iter();
        all.find(|backend| *backend.name == *name).cloned()
    }

    /// Clients who have no backend yet and may get one of this pool: those who are held, and
    /// those of whom a connect is in progress, here and in pools that fall back to this one.
    pub fn unsettled(&self) -> u32 {
        let snapshot = self.snapshot();
        let connecting = self
            .every_backend()
            .iter()
            .map(|b| b.connecting())
            .sum::<u32>();
        let held = u32::try_from(self.held()).unwrap_or(u32::MAX);
        let dependents = snapshot.dependents.iter().filter_map(|pool| pool.upgrade());
        dependents.fold(held.saturating_add(connecting), |sum, pool| {
            sum.saturating_add(pool.unsettled())
        })
    }

    /// Those who are held may find a slot now.
    pub fn serve_held(self: &Arc<Self>) {
        self.given_back();
    }

    /// Every backend, removed ones included.
    pub fn all_backends(&self) -> Vec<Arc<Backend>> {
        self.every_backend()
    }

    /// Obeys the runtime changes of the process that has taken the place of this one, for the
    /// sake of those who are still held here.
    pub fn follow(self: &Arc<Self>, all: &[OverrideRecord]) {
        let mine = all.iter().filter(|record| record.pool == self.name);
        let mine = Overrides::of_all(mine.cloned().map(Override::from));
        if mine != self.overrides() {
            self.change(|control| control.obey(mine, Instant::now()));
        }
    }
}

impl super::control::Control {
    /// Has exactly these runtime changes.
    fn obey(&mut self, overrides: Overrides, now: Instant) {
        let paused = overrides.paused(&self.file.name);
        self.overrides = overrides;
        self.reconcile(&Stamp::of_file(), now);
        match paused {
            Some(until) => {
                let left = until.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
                self.pause = Pause::lasting(left, now);
            }
            None if self.pause.is_on() => self.resume(now),
            None => {}
        }
    }
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;

//! Runtime changes: what an operator changed in the running pools, beside what the file says.
//!
//! Each one remembers what the file said when it was made. That is all a three-way merge
//! needs: [`Overrides::merge`] compares it with what a new file says, and a change of the
//! same thing there ends it; every other one goes on. What the pools are then is
//! [`Overrides::effective`].
//!
//! | field | ends when the new file |
//! | --- | --- |
//! | `state` | has the backend no more |
//! | `weight` | gives another weight, even the one of the runtime change; has the backend no more |
//! | `added` | has the backend, or where the file had it at the time, has it no more |
//! | `removed` | has the backend no more |
//! | `paused` | - |
//!
//! A name of the file that stands for several addresses is one backend here. What is changed
//! about it holds for all its addresses, also for those that it gets later; what is changed about
//! one address (`NAME/ADDRESS`: its state or its weight) comes before that, and ends with the name.
//!
//! All of them end with their pool. This is data: who asks for a change, and what it does to
//! connections, is somebody else's matter.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::AdminState;
use super::names::{Origin, entry_of};
use crate::config::{self, Config};

/// One runtime change, as `/stats` and `isobar plan` list it.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The backend's name; `None`: it is about the pool.
    pub backend: Option<Arc<str>>,
    /// What was changed.
    pub change: Change,
    /// When, and by whom.
    pub stamp: Stamp,
}

/// What was changed: the value of the file at that time, and the one that holds instead.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The admin state; the file has none, which is `ready`.
    State {
        /// What holds.
        runtime: AdminState,
    },
    /// The weight of a backend of the file.
    Weight {
        /// What the file says.
        file: u32,
        /// What holds.
        runtime: u32,
    },
    /// A backend that the file has not, or has otherwise.
    Added {
        /// Whether the file has one of that name, which was removed before.
        in_file: bool,
        /// The backend.
        runtime: config::Backend,
    },
    /// A backend of the file that is not used.
    Removed,
    /// New connections of the pool are held.
    Paused {
        /// When that ends by itself; `None`: it does not.
        until: Option<SystemTime>,
    },
}

/// When something was changed, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When.
    pub since: SystemTime,
    /// The peer's address, or `uid N` on a Unix socket.
    pub by: Arc<str>,
}

impl Change {
    /// The word for the thing that was changed.
    pub fn field(&self) -> &'static str {
        match self {
            Self::State { .. } => "state",
            Self::Weight { .. } => "weight",
            Self::Added { .. } => "added",
            Self::Removed => "removed",
            Self::Paused { .. } => "paused",
        }
    }

    /// What the file says: a state, a weight, or whether the backend is there or the pool
    /// is paused.
    pub fn file(&self) -> Value {
        match self {
            Self::State { .. } => json!(AdminState::Ready.as_str()),
            Self::Weight { file, .. } => json!(file),
            Self::Added { in_file, .. } => json!(in_file),
            Self::Removed => json!(true),
            Self::Paused { .. } => json!(false),
        }
    }

    /// What holds: the same, or in place of `true` what more is known: the backend as a
    /// table of the file, the time when the pause ends.
    pub fn runtime(&self) -> Value {
        match self {
            Self::State { runtime } => json!(runtime.as_str()),
            Self::Weight { runtime, .. } => json!(runtime),
            Self::Added { runtime, .. } => json!({
                "address": runtime.address,
                "weight": runtime.weight,
                "max_connections": runtime.max_connections,
                "backup": runtime.backup,
            }),
            Self::Removed => json!(false),
            Self::Paused { until } => until.map_or(json!(true), |until| json!(rfc3339(until))),
        }
    }
}

impl Serialize for Override {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Override", 7)?;
        out.serialize_field("pool", &self.pool)?;
        out.serialize_field("backend", &self.backend)?;
        out.serialize_field("field", self.change.field())?;
        out.serialize_field("file", &self.change.file())?;
        out.serialize_field("runtime", &self.change.runtime())?;
        out.serialize_field("since", &rfc3339(self.stamp.since))?;
        out.serialize_field("by", &self.stamp.by)?;
        out.end()
    }
}

/// A moment as RFC 3339 in UTC with microseconds, as everywhere in `/stats`.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap_or_default();
    format!("{at:.6}")
}

/// The runtime changes of all pools, oldest first; at most one for each thing that can be
/// changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides(Vec<Override>);

/// What becomes of runtime changes with a new file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merge {
    /// Those that go on.
    pub kept: Overrides,
    /// Those that end, each with the reason.
    pub ended: Vec<(Override, Ended)>,
}

/// Why a new file ends a runtime change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It gives that field another value than before.
    FileChanges,
    /// It has the backend now.
    FileAdds,
    /// It has the backend no more.
    FileRemoves,
    /// It has the pool no more.
    PoolRemoved,
}

impl Ended {
    /// Why, to be read behind "it ends:".
    pub fn reason(self) -> &'static str {
        match self {
            Self::FileChanges => "the file changes it",
            Self::FileAdds => "the file has this backend now",
            Self::FileRemoves => "the file has this backend no more",
            Self::PoolRemoved => "the file has this pool no more",
        }
    }
}

impl Overrides {
    /// These, oldest first.
    pub fn of_all(all: impl IntoIterator<Item = Override>) -> Self {
        Self(all.into_iter().collect())
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Override> {
        self.0.iter()
    }

    /// The runtime changes of several pools as one list, oldest first.
    pub fn joined(all: impl IntoIterator<Item = Self>) -> Self {
        let mut joined: Vec<_> = all.into_iter().flat_map(|one| one.0).collect();
        joined.sort_by_key(|change| change.stamp.since);
        Self(joined)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The admin state of an entry of `backends`.
    pub fn state(&self, pool: &str, backend: &str) -> AdminState {
        self.own_state(pool, backend).unwrap_or(AdminState::Ready)
    }

    /// The admin state that was set for just that backend.
    pub(super) fn own_state(&self, pool: &str, backend: &str) -> Option<AdminState> {
        self.of(pool, Some(backend))
            .find_map(|change| match change {
                Change::State { runtime } => Some(*runtime),
                _ => None,
            })
    }

    /// The weight that was set for just that backend of the file, or that address of a name.
    pub fn weight_of(&self, pool: &str, backend: &str) -> Option<u32> {
        self.of(pool, Some(backend))
            .find_map(|change| match change {
                Change::Weight { runtime, .. } => Some(*runtime),
                _ => None,
            })
    }

    /// Whether a pool is paused: `Some(None)` is without end.
    pub fn paused(&self, pool: &str) -> Option<Option<SystemTime>> {
        self.of(pool, None).find_map(|change| match change {
            Change::Paused { until } => Some(*until),
            _ => None,
        })
    }

    /// Whether a backend of the file is not in the pool, or another of its name is instead.
    pub fn replaces(&self, pool: &str, backend: &str) -> bool {
        self.of(pool, Some(backend))
            .any(|change| matches!(change, Change::Removed | Change::Added { .. }))
    }

    /// Sets the admin state of an entry of `backends`, with all its addresses where it is a name;
    /// `ready` undoes the change.
    pub fn set_state(&mut self, pool: &Arc<str>, backend: &Arc<str>, to: AdminState, stamp: Stamp) {
        let is_state = |change: &Change| matches!(change, Change::State { .. });
        self.forget_addresses(pool, backend, is_state);
        self.set_own_state(pool, backend, to, AdminState::Ready, stamp);
    }

    /// Sets the admin state of one address of a name; that of the name undoes the change.
    pub(super) fn set_state_of_address(
        &mut self,
        pool: &Arc<str>,
        backend: &Arc<str>,
        origin: &Origin,
        to: AdminState,
        stamp: Stamp,
    ) {
        let inherited = self.state(pool, &origin.name);
        self.set_own_state(pool, backend, to, inherited, stamp);
    }

    fn set_own_state(
        &mut self,
        pool: &Arc<str>,
        backend: &Arc<str>,
        to: AdminState,
        otherwise: AdminState,
        stamp: Stamp,
    ) {
        self.forget(pool, Some(backend), |change| {
            matches!(change, Change::State { .. })
        });
        if to != otherwise {
            self.push(pool, Some(backend), Change::State { runtime: to }, stamp);
        }
    }

    /// Sets the weight of one address of a name; that which it has by the name undoes the change.
    pub(super) fn set_weight_of_address(
        &mut self,
        file: &config::Pool,
        backend: &Arc<str>,
        origin: &Origin,
        to: u32,
        stamp: Stamp,
    ) {
        self.forget(&file.name, Some(backend), |change| {
            matches!(change, Change::Weight { .. })
        });
        if to != origin.weight {
            let of_file = in_file(file, &origin.name);
            let change = Change::Weight {
                file: of_file.map_or(origin.weight, |entry| entry.weight),
                runtime: to,
            };
            self.push(&file.name, Some(backend), change, stamp);
        }
    }

    /// Sets the weight of a backend of `file` or of one that was added; the weight of the file
    /// undoes the change.
    pub fn set_weight(&mut self, file: &config::Pool, backend: &Arc<str>, to: u32, stamp: Stamp) {
        let is_weight = |change: &Change| matches!(change, Change::Weight { .. });
        self.forget_addresses(&file.name, backend, is_weight);
        let added = self.of_mut(&file.name, backend);
        let mut added = added.filter_map(|change| match change {
            Change::Added { runtime, .. } => Some(runtime),
            _ => None,
        });
        if let Some(added) = added.next() {
            added.weight = to;
            return;
        }
        drop(added);
        self.forget(&file.name, Some(backend), |change| {
            matches!(change, Change::Weight { .. })
        });
        if let Some(in_file) = in_file(file, backend).filter(|b| b.weight != to) {
            let (file_weight, runtime) = (in_file.weight, to);
            let change = Change::Weight {
                file: file_weight,
                runtime,
            };
            self.push(&file.name, Some(backend), change, stamp);
        }
    }

    /// Adds a backend, which is in the pool by no other name; one that stands in `file` just so
    /// and was removed is back.
    pub fn add(&mut self, file: &config::Pool, backend: config::Backend, stamp: Stamp) {
        let name = Arc::clone(&backend.name);
        let of_file = in_file(file, &name);
        if of_file == Some(&backend) {
            self.forget(&file.name, Some(&name), |_| true);
            return;
        }
        let change = Change::Added {
            in_file: of_file.is_some(),
            runtime: backend,
        };
        self.push(&file.name, Some(&name), change, stamp);
    }

    /// Removes a backend, and with it everything else that was changed about it.
    pub fn remove(&mut self, file: &config::Pool, backend: &Arc<str>, stamp: Stamp) {
        self.forget(&file.name, Some(backend), |_| true);
        self.forget_addresses(&file.name, backend, |_| true);
        if in_file(file, backend).is_some() {
            self.push(&file.name, Some(backend), Change::Removed, stamp);
        }
    }

    /// Pauses a pool, or changes when the pause ends.
    pub fn pause(&mut self, pool: &Arc<str>, until: Option<SystemTime>, stamp: Stamp) {
        self.resume(pool);
        self.push(pool, None, Change::Paused { until }, stamp);
    }

    /// Ends the pause of a pool.
    pub fn resume(&mut self, pool: &str) {
        self.forget(pool, None, |change| matches!(change, Change::Paused { .. }));
    }

    /// What becomes of them with a new file.
    pub fn merge(&self, file: &Config) -> Merge {
        let mut merge = Merge::default();
        for item in &self.0 {
            match self.end(item, file) {
                None => merge.kept.0.push(item.clone()),
                Some(ended) => merge.ended.push((item.clone(), ended)),
            }
        }
        merge
    }

    /// Why a new file ends a change; `None`: it goes on.
    fn end(&self, item: &Override, file: &Config) -> Option<Ended> {
        let Some(pool) = file.pool(&item.pool) else {
            return Some(Ended::PoolRemoved);
        };
        let backend = item.backend.as_deref()?;
        // What is changed about an address of a name stands and falls with the name.
        let of_name = entry_of(backend).filter(|_| in_file(pool, backend).is_none());
        let entry = of_name.unwrap_or(backend);
        let in_file = in_file(pool, entry);
        match item.change {
            Change::State { .. } => {
                let stays = in_file.is_some() || self.added_beside(pool, entry);
                (!stays).then_some(Ended::FileRemoves)
            }
            Change::Weight { file: before, .. } => match in_file {
                None if self.added_beside(pool, entry) => None,
                None => Some(Ended::FileRemoves),
                Some(now) => (now.weight != before).then_some(Ended::FileChanges),
            },
            Change::Added { in_file: false, .. } => in_file.map(|_| Ended::FileAdds),
            Change::Added { in_file: true, .. } | Change::Removed => match in_file {
                None => Some(Ended::FileRemoves),
                Some(_) => None,
            },
            Change::Paused { .. } => None,
        }
    }

    /// Whether a backend was added that the file did not have, and so stays without it.
    fn added_beside(&self, pool: &config::Pool, backend: &str) -> bool {
        self.of(&pool.name, Some(backend))
            .any(|change| matches!(change, Change::Added { in_file: false, .. }))
    }

    /// The pool as it is with these changes: without what was removed, with the weights that
    /// hold, and behind the backends of the file those that were added.
    pub fn effective(&self, file: &Arc<config::Pool>) -> Arc<config::Pool> {
        let mine = self.0.iter().filter(|item| item.pool == file.name);
        if mine.clone().all(|item| item.backend.is_none()) {
            return Arc::clone(file);
        }
        let removed: HashSet<&str> = mine
            .clone()
            .filter(|item| matches!(item.change, Change::Removed))
            .filter_map(|item| item.backend.as_deref())
            .collect();
        let mut pool = config::Pool::clone(file);
        pool.backends.retain(|b| !removed.contains(&*b.name));
        for backend in &mut pool.backends {
            backend.weight = self.weight(&file.name, backend);
        }
        pool.backends.extend(mine.filter_map(|i| i.change.added()));
        Arc::new(pool)
    }

    fn weight(&self, pool: &str, backend: &config::Backend) -> u32 {
        let changed = self.weight_of(pool, &backend.name);
        changed.unwrap_or(backend.weight)
    }

    fn of<'a>(
        &'a self,
        pool: &'a str,
        backend: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Change> {
        let is_it = move |o: &&Override| *o.pool == *pool && o.backend.as_deref() == backend;
        self.0.iter().filter(is_it).map(|item| &item.change)
    }

    fn of_mut<'a>(
        &'a mut self,
        pool: &'a str,
        backend: &'a str,
    ) -> impl Iterator<Item = &'a mut Change> {
        let is_it =
            move |o: &&mut Override| *o.pool == *pool && o.backend.as_deref() == Some(backend);
        self.0.iter_mut().filter(is_it).map(|item| &mut item.change)
    }

    fn forget(&mut self, pool: &str, backend: Option<&str>, which: impl Fn(&Change) -> bool) {
        self.0.retain(|item| {
            let is_it = *item.pool == *pool && item.backend.as_deref() == backend;
            !(is_it && which(&item.change))
        });
    }

    /// The same of all addresses of a name.
    fn forget_addresses(&mut self, pool: &str, name: &str, which: impl Fn(&Change) -> bool) {
        self.0.retain(|item| {
            let entry = item.backend.as_deref().and_then(entry_of);
            let is_it = *item.pool == *pool && entry == Some(name);
            !(is_it && which(&item.change))
        });
    }

    fn push(&mut self, pool: &Arc<str>, backend: Option<&Arc<str>>, change: Change, stamp: Stamp) {
        self.0.push(Override {
            pool: Arc::clone(pool),
            backend: backend.cloned(),
            change,
            stamp,
        });
    }
}

impl Change {
    fn added(&self) -> Option<config::Backend> {
        match self {
            Self::Added { runtime, .. } => Some(runtime.clone()),
            _ => None,
        }
    }
}

fn in_file<'a>(pool: &'a config::Pool, backend: &str) -> Option<&'a config::Backend> {
    pool.backends.iter().find(|b| *b.name == *backend)
}

#[cfg(test)]
mod tests;

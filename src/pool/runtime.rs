//! What operators change in a running pool: states, weights, backends, pauses.
//!
//! Each change is noted among the [`overrides`](super::overrides), which say what the pool is
//! then; live connections are never touched by it. Asking for what is so already is no fault,
//! and changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::Control;
use super::overrides::Stamp;
use super::pause::Pause;
use super::tracked::Moved;
use super::{AdminState, BackendView, Pool};
use crate::config;

/// Why a pool does not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has no backend of that name.
    #[error("no backend {name} in pool {pool}")]
    NoBackend {
        /// The pool.
        pool: Arc<str>,
        /// The name that was asked for.
        name: String,
    },
    /// It has a backend of that name already.
    #[error("pool {pool} has a backend {name} already")]
    Duplicate {
        /// The pool.
        pool: Arc<str>,
        /// The name.
        name: Arc<str>,
    },
    /// It is there because DNS says so, and would be back with the next answer.
    #[error(
        "backend {name} of pool {pool} is an address of {entry}: put it into maintenance, or \
         remove {entry}"
    )]
    OfName {
        /// The pool.
        pool: Arc<str>,
        /// The backend.
        name: Arc<str>,
        /// The name that it comes from.
        entry: Arc<str>,
    },
    /// To pause it would be to refuse its clients.
    #[error("pool {0} holds nothing (hold.max = 0), so its clients would be refused")]
    HoldsNothing(Arc<str>),
}

/// What a backend is to be; what is not given stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its admin state.
    pub state: Option<AdminState>,
    /// Its weight, 0 to 1000; 0: no new connections.
    pub weight: Option<u32>,
    /// What its live connections have left where `state` takes new ones away from it; zero: all
    /// they need. Not given: the pool's `drain_timeout`.
    pub timeout: Option<Duration>,
}

/// A backend before and after a change.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Before.
    pub before: BackendView,
    /// After.
    pub after: BackendView,
}

impl Control {
    fn present(&self, name: &str) -> Result<usize, Refused> {
        let mut all = self.tracked.iter();
        let found = all.position(|tracked| tracked.is_named(name));
        let found = found.or_else(|| self.addresses(name).next());
        found.ok_or_else(|| Refused::NoBackend {
            pool: Arc::clone(&self.file.name),
            name: name.to_owned(),
        })
    }

    /// The backends that are addresses of a name of the pool.
    fn addresses(&self, name: &str) -> impl Iterator<Item = usize> {
        let all = self.tracked.iter().enumerate();
        all.filter(move |(_, t)| !t.is_removed() && t.comes_from(name))
            .map(|(index, _)| index)
    }

    /// A name is told of by its first address.
    fn set(
        &mut self,
        name: &str,
        wanted: Wanted,
        stamp: &Stamp,
        now: Instant,
    ) -> Result<(Changed, Vec<Moved>), Refused> {
        let index = self.present(name)?;
        let before = self.view(index, now);
        let whole = self.tracked[index].comes_from(name);
        let target = match &before.origin {
            Some(origin) if whole => Arc::clone(&origin.name),
            _ => Arc::clone(&before.backend.name),
        };
        let origin = before.origin.clone().filter(|_| !whole);
        if let Some(weight) = wanted.weight
            && (whole || weight != before.settings.weight)
        {
            let (file, stamp) = (Arc::clone(&self.file), stamp.clone());
            match &origin {
                None => self.overrides.set_weight(&file, &target, weight, stamp),
                Some(origin) => self
                    .overrides
                    .set_weight_of_address(&file, &target, origin, weight, stamp),
            }
        }
        if let Some(state) = wanted.state
            && (whole || state != before.admin)
        {
            let (pool, stamp) = (Arc::clone(&self.file.name), stamp.clone());
            match &origin {
                None => self.overrides.set_state(&pool, &target, state, stamp),
                Some(origin) => self
                    .overrides
                    .set_state_of_address(&pool, &target, origin, state, stamp),
            }
        }
        let mut moved = Vec::new();
        if let Some(state) = wanted.state {
            let time = (wanted.timeout, self.settings.drain_timeout);
            let them: Vec<_> = match whole {
                true => self.addresses(name).collect(),
                false => vec![index],
            };
            for index in them {
                moved.extend(self.tracked[index].set_admin(state, time, stamp, now));
            }
        }
        if wanted.weight.is_some() {
            moved.extend(self.reconcile(stamp, now));
        }
        let index = self.present(name)?;
        let after = self.view(index, now);
        Ok((Changed { before, after }, moved))
    }

    fn add(
        &mut self,
        backend: config::Backend,
        stamp: &Stamp,
        now: Instant,
    ) -> Result<BackendView, Refused> {
        let name = Arc::clone(&backend.name);
        if self.present(&name).is_ok() {
            let pool = Arc::clone(&self.file.name);
            return Err(Refused::Duplicate { pool, name });
        }
        self.overrides.add(&self.file, backend, stamp.clone());
        self.reconcile(stamp, now);
        let index = self.present(&name)?;
        Ok(self.view(index, now))
    }

    fn remove(
        &mut self,
        name: &str,
        stamp: &Stamp,
        now: Instant,
    ) -> Result<(Changed, Vec<Moved>), Refused> {
        let index = self.present(name)?;
        let before = self.view(index, now);
        let backend = Arc::clone(&before.backend);
        let entry = match &before.origin {
            None => Arc::clone(&backend.name),
            Some(origin) if *origin.name == *name => Arc::clone(&origin.name),
            Some(origin) => {
                return Err(Refused::OfName {
                    pool: Arc::clone(&self.file.name),
                    name: Arc::clone(&backend.name),
                    entry: Arc::clone(&origin.name),
                });
            }
        };
        self.overrides.remove(&self.file, &entry, stamp.clone());
        let moved = self.reconcile(stamp, now);
        let mut all = self.tracked.iter();
        let after = match all.position(|t| Arc::ptr_eq(&t.backend, &backend)) {
            Some(index) => self.view(index, now),
            None => before.clone(),
        };
        Ok((Changed { before, after }, moved))
    }

    fn pause(
        &mut self,
        length: Option<Duration>,
        stamp: Stamp,
        now: Instant,
    ) -> Result<(), Refused> {
        let pool = Arc::clone(&self.file.name);
        if self.settings.hold.max == 0 {
            return Err(Refused::HoldsNothing(pool));
        }
        let until = length.and_then(|length| stamp.since.checked_add(length));
        self.overrides.pause(&pool, until, stamp);
        self.pause = Pause::lasting(length, now);
        Ok(())
    }
}

impl Pool {
    /// Changes state or weight of a backend.
    ///
    /// # Errors
    /// [`Refused::NoBackend`]; one that was removed is none.
    pub fn set(
        self: &Arc<Self>,
        name: &str,
        wanted: Wanted,
        stamp: &Stamp,
    ) -> Result<Changed, Refused> {
        let now = Instant::now();
        let (changed, moved) = self.try_change(|control| control.set(name, wanted, stamp, now))?;
        moved.iter().for_each(|moved| self.announce(moved));
        Ok(changed)
    }

    /// Adds a backend, which begins as those of the file do: with checks, if there are any.
    ///
    /// # Errors
    /// [`Refused::Duplicate`].
    pub fn add(
        self: &Arc<Self>,
        backend: config::Backend,
        stamp: &Stamp,
    ) -> Result<BackendView, Refused> {
        let now = Instant::now();
        self.try_change(|control| control.add(backend, stamp, now))
    }

    /// Removes a backend. Its live connections go on, for the pool's `drain_timeout`.
    ///
    /// # Errors
    /// [`Refused::NoBackend`].
    pub fn remove(self: &Arc<Self>, name: &str, stamp: &Stamp) -> Result<Changed, Refused> {
        let now = Instant::now();
        let (changed, moved) = self.try_change(|control| control.remove(name, stamp, now))?;
        moved.iter().for_each(|moved| self.announce(moved));
        Ok(changed)
    }

    /// Holds every new connection, for `length` or until [`resume`](Self::resume). A pool that
    /// is paused already gets the new end.
    ///
    /// # Errors
    /// [`Refused::HoldsNothing`].
    pub fn pause(self: &Arc<Self>, length: Option<Duration>, stamp: &Stamp) -> Result<(), Refused> {
        self.try_change(|control| control.pause(length, stamp.clone(), Instant::now()))
    }

    /// Lets connections in again, those who are held first.
    pub fn resume(self: &Arc<Self>) {
        self.change(|control| {
            if control.pause.is_on() {
                control.resume(Instant::now());
            }
        });
    }
}

#[cfg(test)]
mod tests;

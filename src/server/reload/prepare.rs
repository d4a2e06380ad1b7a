//! What may fail of a reload: addresses that are bound, files that are opened. Nothing that runs
//! is touched.

use std::sync::Arc;

use super::Reloader;
use super::draft::{Draft, Place, Seat};
use crate::admin::orders::Refused;
use crate::admin::{self, Configured};
use crate::config::Faults;
use crate::listener::{Door, Listener, options};
use crate::log;
use crate::net::{Inherited, ListenError};
use crate::pool::Pool;

/// A reload that cannot fail any more.
pub(super) struct Prepared {
    /// In file order: new ones, and those that run, or did until lately.
    pub(super) pools: Vec<Arc<Pool>>,
    /// The doors of each listener of the file, and the listener where it is new.
    pub(super) listeners: Vec<Furnished>,
    /// Doors that were not there before.
    pub(super) opened: Vec<Arc<Door>>,
    pub(super) log: Option<log::Prepared>,
    /// `Some(None)`: it goes.
    pub(super) admin: Option<Option<admin::Bound>>,
}

/// A listener with its doors.
pub(super) struct Furnished {
    /// `None`: one that runs is renewed.
    pub(super) new: Option<Arc<Listener>>,
    pub(super) doors: Vec<Arc<Door>>,
}

impl Prepared {
    /// Closes what was opened for it.
    pub(super) fn abandon(self) {
        self.opened.iter().for_each(|door| door.close());
    }
}

impl Reloader {
    pub(super) async fn prepare(&self, draft: &mut Draft) -> Result<Prepared, Refused> {
        let configured = self.running.configured();
        let before = &configured.file.config;
        let log = match before.log == draft.file.config.log {
            true => None,
            false => {
                let prepared = self
                    .running
                    .log
                    .prepare(&before.log, &draft.file.config.log);
                Some(prepared.map_err(|error| {
                    Refused::Invalid(Faults {
                        problems: vec![draft.access_file(&error)],
                        warnings: Vec::new(),
                    })
                })?)
            }
        };
        let pools = self.pools(&configured, draft);
        let mut prepared = Prepared {
            listeners: Vec::new(),
            opened: Vec::new(),
            pools,
            log,
            admin: None,
        };
        let bound = self.bind(draft, &mut prepared);
        bound.map_err(|error| Refused::Impossible(error.to_string()))?;
        if let Err(error) = self.opener.open(&prepared.opened).await {
            prepared.abandon();
            let why = format!("the new addresses cannot be watched: {error}");
            return Err(Refused::Impossible(why));
        }
        Ok(prepared)
    }

    fn pools(&self, configured: &Configured, draft: &Draft) -> Vec<Arc<Pool>> {
        let cores = self.running.process.cores();
        let settings = draft.file.config.pools.iter();
        settings
            .map(|settings| {
                let mut known = configured.every_pool();
                let known = known.find(|pool| pool.name == settings.name);
                known.map_or_else(|| Pool::later(Arc::clone(settings), cores), Arc::clone)
            })
            .collect()
    }

    fn bind(&self, draft: &Draft, prepared: &mut Prepared) -> Result<(), ListenError> {
        for seat in &draft.listeners {
            let furnished = self.furnish(draft, seat, prepared)?;
            prepared.listeners.push(furnished);
        }
        if draft.admin_moves_to().is_some() {
            prepared.admin = Some(admin::bind(
                &draft.file.config.admin,
                &mut Inherited::none(),
            )?);
        }
        Ok(())
    }

    fn furnish(
        &self,
        draft: &Draft,
        seat: &Seat,
        prepared: &mut Prepared,
    ) -> Result<Furnished, ListenError> {
        let cores = self.running.process.cores();
        let new = match &seat.old {
            Some(_) => None,
            None => Some(Arc::new(Listener::new(
                Arc::clone(&seat.settings),
                &prepared.pools,
                cores,
            ))),
        };
        let options = options(&seat.settings, draft.pool_of(seat));
        let mut doors = Vec::new();
        for place in &seat.places {
            doors.push(match (place, new.as_ref().or(seat.old.as_ref())) {
                (Place::New(address), Some(listener)) => {
                    let door = Door::open(
                        address,
                        options,
                        Arc::clone(listener),
                        &mut Inherited::none(),
                    )?;
                    prepared.opened.push(Arc::clone(&door));
                    door
                }
                (Place::Open(door), _) => Arc::clone(door),
                (Place::New(_), None) => unreachable!("a listener runs, or is new"),
            });
        }
        Ok(Furnished { new, doors })
    }
}

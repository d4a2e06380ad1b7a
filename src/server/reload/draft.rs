//! What a file would make of the running balancer: which socket goes to which listener, which
//! addresses are new, and the plan.

use std::collections::HashMap;
use std::sync::Arc;

use super::Read;
use crate::admin::Configured;
use crate::config::diff::same_listeners;
use crate::config::{self, AccessSink, Config, KeyPath, Loaded, Problem};
use crate::listener::{Door, Listener, options};
use crate::net::{Address, Socket};
use crate::plan::{Input, Plan};
use crate::server::faults::Made;
use crate::server::live;

/// What a file would make of the running balancer.
pub(super) struct Draft {
    /// The file as it would be in force.
    pub(super) file: Loaded,
    pub(super) checks: Made,
    /// What is wrong with it on this machine.
    pub(super) faults: Vec<Problem>,
    pub(super) plan: Plan,
    /// Whether anything changes before the next start.
    pub(super) applies: bool,
    /// In the order of the file.
    pub(super) listeners: Vec<Seat>,
    /// Sockets that nobody needs any more.
    pub(super) closed: Vec<Arc<Door>>,
    /// Listeners that the file has no more.
    pub(super) gone: Vec<Arc<Listener>>,
    pub(super) admin: Option<Address>,
    admin_moves: bool,
}

/// A listener of the file.
pub(super) struct Seat {
    pub(super) settings: Arc<config::Listener>,
    /// As it runs, under whatever name.
    pub(super) old: Option<Arc<Listener>>,
    pub(super) places: Vec<Place>,
}

/// Where one of its addresses comes from.
pub(super) enum Place {
    /// It is open.
    Open(Arc<Door>),
    /// It is to be bound.
    New(Address),
}

impl Draft {
    pub(super) fn new(running: &Configured, read: Read) -> Self {
        let live = live::view(running, &read.loaded.config);
        let plan = Plan::new(Input {
            running: &running.file,
            overrides: &running.overrides(),
            file: &read.loaded,
            live: &live,
        });
        let before = &running.file.config;
        let file = read.loaded.in_force(before);
        let differs = file.config != *before || !plan.runtime_changes.ended.is_empty();
        let (listeners, closed, gone) = seats(running, &file.config);
        let admin = file.config.admin.bind.clone();
        Self {
            applies: plan.changes && differs,
            admin_moves: admin != before.admin.bind,
            admin,
            checks: read.checks,
            faults: read.faults,
            plan,
            listeners,
            closed,
            gone,
            file,
        }
    }

    /// The address at which the admin endpoint is to be instead of where it is, if it moves.
    pub(super) fn admin_moves_to(&self) -> Option<Option<&Address>> {
        self.admin_moves.then_some(self.admin.as_ref())
    }

    /// Adds to the faults of the plan what this machine would refuse, without binding or making
    /// anything.
    pub(super) fn probe(&mut self) {
        for seat in &self.listeners {
            let options = options(&seat.settings, self.pool_of(seat));
            for place in &seat.places {
                if let Place::New(address) = place
                    && let Err(error) = Socket::probe(address, options)
                {
                    let key = KeyPath::Bind(&seat.settings.name);
                    self.plan
                        .faults
                        .push(self.file.fault(key, error.to_string()));
                }
            }
        }
        if let Some(Some(address)) = self.admin_moves_to()
            && let Err(error) = crate::admin::probe(address)
        {
            let fault = self.file.fault(KeyPath::AdminBind, error.to_string());
            self.plan.faults.push(fault);
        }
        self.plan.faults.sort_by_key(Problem::place);
    }

    pub(super) fn pool_of(&self, seat: &Seat) -> Option<&config::Pool> {
        let name = seat.settings.pool.as_deref()?;
        self.file.config.pool(name).map(|pool| &**pool)
    }

    /// The fault of an access file that cannot be opened.
    pub(super) fn access_file(&self, error: &dyn std::fmt::Display) -> Problem {
        let mut message = error.to_string();
        if let AccessSink::File(path) = &self.file.config.log.access_sink {
            let path = path.to_string_lossy();
            let shown = self.file.shown(KeyPath::AccessFile, &path);
            message = format!("the access file {shown} cannot be opened for writing");
        }
        self.file.fault(KeyPath::AccessFile, message)
    }
}

/// The open sockets by the listeners that will have them, those that nobody will have, and the
/// listeners that are no more.
fn seats(running: &Configured, file: &Config) -> (Vec<Seat>, Vec<Arc<Door>>, Vec<Arc<Listener>>) {
    let by_name: HashMap<_, _> = running
        .listeners
        .iter()
        .map(|listening| (&listening.listener.settings.name, &listening.listener))
        .collect();
    let mut doors: Vec<_> = running
        .listeners
        .iter()
        .flat_map(|listening| {
            let owner = &listening.listener.settings.name;
            listening
                .doors
                .iter()
                .map(move |door| (owner, Arc::clone(door)))
        })
        .collect();
    let (mut seats, mut gone) = (Vec::new(), Vec::new());
    for (old, new) in same_listeners(&running.file.config, file) {
        let old = old.and_then(|old| by_name.get(&old.name)).copied();
        let Some(settings) = new else {
            gone.extend(old.cloned());
            continue;
        };
        let own = old.map(|old| &old.settings.name);
        let mut find = |address: &Address| {
            let any_port = address.port() == Some(0);
            let found = doors.iter().position(|(owner, door)| {
                door.configured() == address && (!any_port || Some(*owner) == own)
            });
            match found {
                Some(index) => Place::Open(doors.remove(index).1),
                None => Place::New(address.clone()),
            }
        };
        seats.push(Seat {
            places: settings.bind.iter().map(&mut find).collect(),
            settings: Arc::clone(settings),
            old: old.or_else(|| leaving(running, &settings.name)).cloned(),
        });
    }
    let closed = doors.into_iter().map(|(_, door)| door).collect();
    (seats, closed, gone)
}

/// A listener of that name which was removed and has connections left: it is back.
fn leaving<'a>(running: &'a Configured, name: &str) -> Option<&'a Arc<Listener>> {
    let mut leaving = running.leaving.listeners.iter();
    leaving.find(|listener| *listener.origin.name == *name)
}

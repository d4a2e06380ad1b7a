//! A prepared reload comes into force. Nothing here can fail, and nothing is waited for until
//! everything is.
//!
//! The order: pools first, so that whoever is sent to one finds it; then listeners; then what
//! the admin endpoint shows. What is not needed any more goes afterwards: accept queues are
//! emptied before their sockets are closed, and pools go when nobody can be on the way to them.

use std::sync::Arc;
use std::time::SystemTime;

use super::Reloader;
use super::draft::{Draft, Seat};
use super::prepare::{Furnished, Prepared};
use crate::admin::orders::Done;
use crate::admin::{self, Configured, Leaving};
use crate::admit::Admit;
use crate::check::Checks;
use crate::config::{self, Problem};
use crate::conn::way::Way;
use crate::listener::{Door, Listener, Listening, options};
use crate::pool::overrides::{Ended, Override, Stamp};
use crate::pool::{Pool, Reload, Wiring};
use crate::server::care::Care;
use crate::server::limits::{self, Limits, Machine};

impl Reloader {
    pub(super) async fn publish(
        &mut self,
        mut draft: Draft,
        mut prepared: Prepared,
        stamp: Stamp,
    ) -> Done {
        let before = self.running.configured();
        self.reload_pools(&before, &draft, &prepared, &stamp);
        let listeners = self.listeners(&draft, &mut prepared);
        let machine = Machine::read();
        let limits = Limits::new(&draft.file.config, &machine);
        self.running.admission.gate.set_limit(limits.connections);
        if let Some(log) = prepared.log.take() {
            self.running.log.reconfigure(log);
        }
        let admin_address = match &prepared.admin {
            None => before.admin_address.clone(),
            Some(bound) => bound.as_ref().map(|bound| bound.address().clone()),
        };
        draft.file.warnings.iter().for_each(Problem::log);
        let warnings = limits::warnings_on(&machine, &draft.file);
        warnings.iter().for_each(Problem::log);
        let generation = before.generation + 1;
        let leaving = leaving(&before, &prepared.pools, &listeners, &draft.gone);
        let gone: Vec<_> = leaving.pools.clone();
        self.running.configure(Configured {
            file: Arc::new(draft.file.clone()),
            generation,
            loaded_at: SystemTime::now(),
            listeners,
            pools: prepared.pools.clone(),
            leaving,
            admin_address,
        });
        self.care_for(&before, &mut draft, &prepared.pools);
        if let Some(bound) = prepared.admin.take() {
            self.move_admin(bound);
        }
        say_opened(&prepared.opened);
        close(&draft.closed).await;
        self.opener.pass().await;
        for pool in gone.iter().filter(|pool| !pool.is_retired()) {
            pool.stop_rebalance();
            let wiring = Wiring::default();
            reload_pool(pool, &draft.file.config, None, wiring, &stamp);
        }
        Done {
            plan: draft.plan,
            generation,
            applied: true,
        }
    }

    fn reload_pools(&self, before: &Configured, draft: &Draft, prepared: &Prepared, stamp: &Stamp) {
        let settings = &draft.file.config.pools;
        let wiring = |index| Wiring::of(&prepared.pools, settings, index);
        for pool in before.every_pool() {
            let index = prepared.pools.iter().position(|p| Arc::ptr_eq(p, pool));
            pool.unwire(&index.map(wiring).unwrap_or_default());
        }
        for (index, (pool, file)) in prepared.pools.iter().zip(settings).enumerate() {
            let config = &draft.file.config;
            reload_pool(pool, config, Some(file), wiring(index), stamp);
        }
    }

    /// The listeners of the file, with their doors, which are theirs from now on.
    fn listeners(&self, draft: &Draft, prepared: &mut Prepared) -> Vec<Listening> {
        let furnished = std::mem::take(&mut prepared.listeners);
        let seats = draft.listeners.iter().zip(furnished);
        seats
            .map(|(seat, Furnished { new, doors })| {
                let old = seat.old.as_ref();
                let before = old.and_then(|old| old.origin.way.load().admit.clone());
                let listener = listener(seat, new, &prepared.pools);
                if let Some(old) = old {
                    self.count_who_is_there(old, before.as_deref(), &listener);
                }
                let options = options(&seat.settings, draft.pool_of(seat));
                for door in &doors {
                    if let Err(error) = door.hand_over(Arc::clone(&listener), options) {
                        let (name, address) = (&*listener.settings.name, door.address());
                        tracing::warn!(listener = name, %address, %error, "its socket keeps some of its old settings");
                    }
                }
                Listening { listener, doors }
            })
            .collect()
    }

    /// A limit for each address that is new counts those who are there already.
    fn count_who_is_there(&self, old: &Listener, before: Option<&Admit>, new: &Listener) {
        let way = new.origin.way.load();
        let admit = way.admit.as_ref();
        let Some(admit) = admit.filter(|admit| admit.begins_to_count(before)) else {
            return;
        };
        for core in &self.running.cores {
            let (admit, name) = (Arc::clone(admit), Arc::clone(&old.origin.name));
            core.run(move |core| core.count_in(&admit, &name));
        }
    }

    /// Begins what is done for new pools, and the checks of those that are checked otherwise.
    fn care_for(&mut self, before: &Configured, draft: &mut Draft, pools: &[Arc<Pool>]) {
        for (pool, settings) in pools.iter().zip(&draft.file.config.pools) {
            let made = draft.checks.remove(&pool.name).flatten();
            let checks = Checks::made(Arc::clone(pool), made);
            let care = self.cares.iter_mut();
            match care.into_iter().find(|care| Arc::ptr_eq(&care.pool, pool)) {
                None => {
                    let care = Care::begin(checks, &self.running.cores, &self.halt, &self.resolver);
                    self.cares.push(care);
                }
                Some(care) => {
                    let old = before.file.config.pool(&pool.name);
                    let same = |old: &config::Pool| {
                        old.health == settings.health
                            && old.source_addresses == settings.source_addresses
                            && old.send_proxy == settings.send_proxy
                    };
                    if !old.is_some_and(|old| same(old)) {
                        care.check_anew(checks, &self.halt);
                    }
                }
            }
        }
    }

    /// Opens the admin endpoint where it is to be, and closes the door behind it: who is in
    /// goes on.
    fn move_admin(&self, bound: Option<admin::Bound>) {
        if let Some(bound) = &bound {
            tracing::info!(address = %bound.address(), "admin");
        }
        self.admin.move_to(bound, &self.running);
    }

    /// Forgets what left the file once it has no connection.
    pub(super) fn sweep(&mut self) {
        let before = self.running.configured();
        let stays = |listener: &&Arc<Listener>| listener.origin.counters.active() > 0;
        let listeners = before.leaving.listeners.iter().filter(stays);
        let stays = |pool: &&Arc<Pool>| pool.active() > 0 || pool.overview().active > 0;
        let pools = before.leaving.pools.iter().filter(stays);
        let leaving = Leaving {
            listeners: listeners.cloned().collect(),
            pools: pools.cloned().collect(),
        };
        let is_of = |care: &Care, pools: &[Arc<Pool>]| {
            let mut pools = pools.iter();
            pools.any(|pool| Arc::ptr_eq(pool, &care.pool))
        };
        self.cares
            .retain(|care| is_of(care, &before.pools) || is_of(care, &leaving.pools));
        self.running.configure(Configured {
            leaving,
            ..Configured::clone(&before)
        });
    }
}

fn reload_pool(
    pool: &Arc<Pool>,
    config: &config::Config,
    file: Option<&Arc<config::Pool>>,
    wiring: Wiring,
    stamp: &Stamp,
) {
    let stamp = stamp.clone();
    let ended = pool.reload(Reload {
        config,
        file,
        wiring,
        stamp,
    });
    for (change, ended) in ended {
        say_ended(&change, ended);
    }
}

fn say_ended(change: &Override, ended: Ended) {
    tracing::info!(
        pool = &*change.pool,
        backend = change.backend.as_deref(),
        field = change.change.field(),
        by = &*change.stamp.by,
        reason = ended.reason(),
        "runtime change ended"
    );
}

/// The same one where nothing about it changes.
fn listener(seat: &Seat, new: Option<Arc<Listener>>, pools: &[Arc<Pool>]) -> Arc<Listener> {
    match (new, &seat.old) {
        (Some(new), _) => new,
        (None, Some(old)) => {
            let way = Way::new(Arc::clone(&seat.settings), pools);
            match old.origin.way.load().is_same(&way) {
                true => Arc::clone(old),
                false => Arc::new(old.renewed(way)),
            }
        }
        (None, None) => unreachable!("a listener runs, or is new"),
    }
}

/// What goes on without a place in the file. Namesakes of what is in the file are not shown.
fn leaving(
    before: &Configured,
    pools: &[Arc<Pool>],
    listeners: &[Listening],
    gone: &[Arc<Listener>],
) -> Leaving {
    let is_shown = |name: &str| {
        let mut names = listeners.iter().map(|l| &l.listener.settings.name);
        names.any(|shown| **shown == *name)
    };
    let still = before.leaving.listeners.iter().chain(gone);
    let stays = |pool: &&Arc<Pool>| !pools.iter().any(|other| other.name == pool.name);
    Leaving {
        listeners: still
            .filter(|listener| !is_shown(&listener.origin.name))
            .cloned()
            .collect(),
        pools: before.every_pool().filter(stays).cloned().collect(),
    }
}

/// Empties the accept queues of sockets that nobody needs any more, and closes them.
async fn close(doors: &[Arc<Door>]) {
    for door in doors {
        door.close();
    }
    for door in doors {
        door.closed().await;
        let (listener, address) = (door.listener(), door.address());
        tracing::info!(listener = &*listener.settings.name, %address, "closed");
    }
}

fn say_opened(doors: &[Arc<Door>]) {
    for door in doors {
        let (listener, address) = (door.listener(), door.address());
        tracing::info!(listener = &*listener.settings.name, %address, "listening");
    }
}

//! Which listener of the new configuration is which of the old one.
//!
//! Two that share an address are one, whatever they are called: the socket stays open, and
//! nobody is refused. Where several share one, the one of the same name is it. A listener that
//! shares none is known by its name. Port 0 is an address that is shared only under one name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Both, Change, ListenerDiff, edit};
use crate::config::fields::{self, Effect};
use crate::config::{Config, Listener, Loaded};
use crate::net::Address;

impl Both<'_> {
    pub(super) fn listeners(&self) -> Vec<ListenerDiff> {
        let (old, new) = (&self.old.file.config, &self.new.file.config);
        let owners = (owners(old), owners(new));
        let pairs = pairs(&old.listeners, &new.listeners, &owners.0);
        let differ = pairs.into_iter().filter_map(|(old, new)| {
            let diff = self.listener(old, new, &owners)?;
            let renamed = old.map(|l| &l.name) != new.map(|l| &l.name);
            let same = !renamed && diff.fields.is_empty();
            (!same).then_some(diff)
        });
        differ.collect()
    }

    fn listener(
        &self,
        old: Option<&Arc<Listener>>,
        new: Option<&Arc<Listener>>,
        (before, after): &(Owners<'_>, Owners<'_>),
    ) -> Option<ListenerDiff> {
        let path = |listener: &Arc<Listener>| format!("listener/{}", listener.name);
        let mut fields = self.fields(
            old.map(|listener| fields::listener(listener)),
            new.map(|listener| fields::listener(listener)),
            || fields::listener(&fields::plain_listener()),
            (old.map(path).as_deref(), new.map(path).as_deref()),
        );
        fields.extend(self.routes(old.map(|l| &**l), new.map(|l| &**l)));
        let (opened, taken) = new_addresses(old, new, before);
        let (closed, _) = new_addresses(new, old, after);
        if !keeps_a_socket(old, new) {
            // No socket is there yet that could not be told.
            for field in &mut fields {
                field.effect = at_once(field);
            }
        }
        Some(ListenerDiff {
            edit: edit(old.cloned(), new.cloned())?,
            fields,
            opened,
            closed,
            taken,
        })
    }
}

impl Loaded {
    /// This file as it takes effect beside `running`: keys that take effect with the next start
    /// alone keep what they have there, so that they differ again the next time.
    #[must_use]
    pub fn in_force(mut self, running: &Config) -> Self {
        self.config.runtime.threads = running.runtime.threads;
        self.config.runtime.user.clone_from(&running.runtime.user);
        let pairs = same_listeners(running, &self.config);
        let new = pairs.into_iter().filter_map(|(old, new)| {
            let new = new?;
            let kept = old.filter(|_| keeps_a_socket(old, Some(new)));
            Some(match kept.filter(|old| old.ipv6_only != new.ipv6_only) {
                None => Arc::clone(new),
                Some(old) => Arc::new(Listener {
                    ipv6_only: old.ipv6_only,
                    ..Listener::clone(new)
                }),
            })
        });
        self.config.listeners = new.collect();
        self
    }
}

/// Which listener of `new` is which of `old`: in the order of the new ones, then those that are
/// gone.
pub fn same_listeners<'a>(old: &'a Config, new: &'a Config) -> Vec<Pair<'a>> {
    pairs(&old.listeners, &new.listeners, &owners(old))
}

fn at_once(field: &Change) -> Effect {
    match field.effect {
        Effect::Restart => Effect::AtOnce,
        other => other,
    }
}

fn keeps_a_socket(old: Option<&Arc<Listener>>, new: Option<&Arc<Listener>>) -> bool {
    let binds = |of: Option<&Arc<Listener>>| of.map(|l| l.bind.clone()).unwrap_or_default();
    let before = binds(old);
    binds(new).iter().any(|address| before.contains(address))
}

/// Which listener has which address, those of port 0 left out.
type Owners<'a> = HashMap<&'a Address, &'a Arc<str>>;

fn owners(config: &Config) -> Owners<'_> {
    let all = config.listeners.iter();
    let binds = all.flat_map(|l| l.bind.iter().map(move |address| (address, &l.name)));
    binds.filter(|(address, _)| is_fixed(address)).collect()
}

fn is_fixed(address: &Address) -> bool {
    address.port() != Some(0)
}

/// Addresses of `new` that it does not have as `old`: those that nobody had, and those that
/// another listener had.
fn new_addresses(
    old: Option<&Arc<Listener>>,
    new: Option<&Arc<Listener>>,
    owners: &Owners<'_>,
) -> (Vec<Address>, Vec<(Address, Arc<str>)>) {
    let mut had = old.map(|l| l.bind.clone()).unwrap_or_default();
    let (mut opened, mut taken) = (Vec::new(), Vec::new());
    for address in new.map_or(&[][..], |l| &l.bind) {
        if let Some(index) = had.iter().position(|a| a == address) {
            had.swap_remove(index);
        } else if let Some(owner) = owners.get(address) {
            taken.push((address.clone(), Arc::clone(owner)));
        } else {
            opened.push(address.clone());
        }
    }
    (opened, taken)
}

/// A listener before and after.
pub type Pair<'a> = (Option<&'a Arc<Listener>>, Option<&'a Arc<Listener>>);

/// Old and new listeners that are one, in the order of the new ones; then those that are gone.
fn pairs<'a>(
    old: &'a [Arc<Listener>],
    new: &'a [Arc<Listener>],
    owners: &Owners<'a>,
) -> Vec<Pair<'a>> {
    let by_name: HashMap<_, _> = old.iter().map(|l| (&l.name, l)).collect();
    let mut free: HashSet<&Arc<str>> = by_name.keys().copied().collect();
    let mut found: Vec<Option<&Arc<Listener>>> = vec![None; new.len()];
    let rules: [&dyn Fn(&'a Arc<Listener>) -> Vec<&'a Arc<str>>; 3] = [
        // The same name, and an address shared.
        &|l| {
            sharing(l, owners)
                .into_iter()
                .filter(|n| **n == l.name)
                .collect()
        },
        &|l| sharing(l, owners),
        &|l| vec![&l.name],
    ];
    for rule in rules {
        for (place, listener) in found.iter_mut().zip(new) {
            if place.is_none() {
                let mut names = rule(listener).into_iter();
                let name = names.find(|name| free.remove(*name));
                *place = name.and_then(|name| by_name.get(name).copied());
            }
        }
    }
    let there = found
        .into_iter()
        .zip(new)
        .map(|(old, new)| (old, Some(new)));
    let gone = old.iter().filter(|l| free.contains(&l.name));
    there.chain(gone.map(|old| (Some(old), None))).collect()
}

/// The names of the old listeners that have an address of this one.
fn sharing<'a>(listener: &Listener, owners: &Owners<'a>) -> Vec<&'a Arc<str>> {
    let owners = listener.bind.iter().filter_map(|a| owners.get(a).copied());
    owners.collect()
}

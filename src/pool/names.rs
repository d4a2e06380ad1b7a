//! Backends by name: which addresses a pool knows for its names, and the backends that these
//! are.
//!
//! An entry of `backends` that is a name stands for one backend for each of its addresses, named
//! `NAME/ADDRESS`; as long as none is known it is one backend itself, which is down. The settings
//! of the entry are those of every one of them, but for what the records of a service say:
//!
//! - weight: that of the record, where 0 counts as 1; if one is above 1000 all are scaled to
//!   1 to 1000. A 0 in the entry holds for all. Each address of a host gets the whole weight.
//! - priority: addresses of the lowest are primaries, all others are backups.
//!
//! The order of an answer and what it has twice make no difference.
//!
//! What is known outlives reloads, with another port or another choice of families too, as long
//! as the pool has the name. This module asks nobody: answers come in by [`Pool::resolve`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::control::Control;
use super::overrides::{Overrides, Stamp};
use super::{AdminState, Pool};
use crate::config::{self, Resolve};
use crate::net::{Address, HostName, Location};

/// Largest weight of a backend.
const MOST_WEIGHT: u32 = 1000;

/// What DNS is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Question {
    /// For which name.
    pub name: HostName,
    /// It is that of a service, not of a host.
    pub service: bool,
    /// For which addresses.
    pub family: Resolve,
}

/// One address that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resolved {
    /// What the record of a service says of it; a host has none.
    pub record: Option<Record>,
    /// The address, never an IPv4-mapped one.
    pub ip: IpAddr,
    /// Whose address it is: the name itself, or a host that the service names.
    pub host: HostName,
}

/// A record of a service: RFC 2782.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Record {
    /// The lowest comes first.
    pub priority: u16,
    /// Its share among those of the same priority.
    pub weight: u16,
    /// Where the service listens.
    pub port: u16,
}

/// What is known of names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names(BTreeMap<Question, Vec<Resolved>>);

/// What another process is to know of a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NameState {
    question: Question,
    addresses: Vec<Resolved>,
}

/// The entry of `backends` that a backend comes from, where that is a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The entry's name.
    pub name: Arc<str>,
    /// The backend's weight if nobody changes just that.
    pub weight: u32,
}

/// A backend that a pool is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// As an entry of `backends` would have it.
    pub settings: config::Backend,
    /// Where it comes from.
    pub origin: Option<Origin>,
}

impl Question {
    /// What an entry of `backends` asks; `None`: it is an address.
    pub fn of(location: &Location, family: Resolve) -> Option<Self> {
        let (name, service) = match location {
            Location::Address(_) => return None,
            Location::Host(host, _) => (host, false),
            Location::Service(name) => (name, true),
        };
        Some(Self {
            name: name.clone(),
            service,
            family,
        })
    }
}

impl std::fmt::Display for Question {
    /// The name as the file has it, without a port.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.service { "srv:" } else { "" };
        write!(f, "{kind}{}", self.name)
    }
}

impl Names {
    /// What is known for a question: what was answered, or what another family's answer has of
    /// this one. `None`: nothing was answered yet, not even that there is nothing.
    pub fn known(&self, question: &Question) -> Option<Vec<Resolved>> {
        if let Some(known) = self.0.get(question) {
            return Some(known.clone());
        }
        let alike =
            |other: &&Question| (&other.name, other.service) == (&question.name, question.service);
        let other = self.0.keys().find(alike)?;
        let mut known = self.0[other].clone();
        known.retain(|resolved| question.family.takes(resolved.ip));
        (!known.is_empty()).then_some(known)
    }

    /// Takes in an answer; whether anything is different by it.
    fn take(&mut self, question: &Question, mut addresses: Vec<Resolved>) -> bool {
        addresses.sort();
        addresses.dedup();
        let old = self.0.insert(question.clone(), addresses);
        old.as_ref() != self.0.get(question)
    }

    /// Forgets names that `pool` has not, and what stands in for an answer that has come.
    fn keep(&mut self, pool: &config::Pool) {
        let wanted = questions(pool);
        let stands_in = |one: &Question, known: &BTreeMap<Question, Vec<Resolved>>| {
            wanted.iter().any(|question| {
                (&one.name, one.service) == (&question.name, question.service)
                    && !known.contains_key(question)
            })
        };
        let known = self.0.clone();
        self.0
            .retain(|one, _| wanted.contains(one) || stands_in(one, &known));
    }

    /// The backends of `pool`, whose entries are as [`Overrides::effective`] has them.
    pub fn rows(&self, pool: &config::Pool, overrides: &Overrides) -> Vec<Row> {
        let rows = |entry| self.rows_of(entry, pool, overrides);
        pool.backends.iter().flat_map(rows).collect()
    }

    fn rows_of(
        &self,
        entry: &config::Backend,
        pool: &config::Pool,
        overrides: &Overrides,
    ) -> Vec<Row> {
        let asked = Question::of(&entry.address, pool.resolve);
        let known = asked.and_then(|question| self.known(&question));
        let known = known.unwrap_or_default();
        let shares = Shares::of(&known);
        let changed = overrides.weight_of(&pool.name, &entry.name);
        let mut there = HashSet::new();
        let mut rows = Vec::new();
        for resolved in &known {
            let address = resolved.address(&entry.address);
            // Sorted as they are, the one of the lowest priority comes first.
            if !there.insert(address) {
                continue;
            }
            let name: Arc<str> = name_of(&entry.name, address).into();
            let weight = match (&resolved.record, changed, entry.weight) {
                (_, Some(weight), _) | (_, None, weight @ 0) | (None, None, weight) => weight,
                (Some(record), None, _) => shares.weight(record),
            };
            let own = overrides.weight_of(&pool.name, &name);
            rows.push(Row {
                settings: config::Backend {
                    name,
                    address: Address::Ip(address).into(),
                    weight: own.unwrap_or(weight),
                    backup: entry.backup || shares.is_backup(resolved),
                    ..entry.clone()
                },
                origin: Some(Origin {
                    name: Arc::clone(&entry.name),
                    weight,
                }),
            });
        }
        if rows.is_empty() {
            rows.push(Row {
                settings: entry.clone(),
                origin: None,
            });
        }
        rows
    }
}

impl Resolved {
    fn address(&self, of: &Location) -> SocketAddr {
        let port = match (&self.record, of) {
            (Some(record), _) => record.port,
            (None, Location::Host(_, port)) => *port,
            (None, Location::Service(_) | Location::Address(_)) => 0,
        };
        SocketAddr::new(self.ip, port)
    }
}

/// What the records of one answer have in common.
struct Shares {
    lowest: u16,
    heaviest: u16,
}

impl Shares {
    fn of(answer: &[Resolved]) -> Self {
        let records = || answer.iter().filter_map(|resolved| resolved.record);
        Self {
            lowest: records().map(|record| record.priority).min().unwrap_or(0),
            heaviest: records().map(|record| record.weight).max().unwrap_or(0),
        }
    }

    fn weight(&self, record: &Record) -> u32 {
        let (weight, heaviest) = (u32::from(record.weight), u32::from(self.heaviest));
        let scaled = match heaviest > MOST_WEIGHT {
            true => (weight * MOST_WEIGHT + heaviest / 2) / heaviest,
            false => weight,
        };
        scaled.max(1)
    }

    fn is_backup(&self, resolved: &Resolved) -> bool {
        let record = resolved.record;
        record.is_some_and(|record| record.priority > self.lowest)
    }
}

fn name_of(entry: &str, address: SocketAddr) -> String {
    format!("{entry}/{address}")
}

/// The entry that a backend of this name would come from, if it comes from one.
pub fn entry_of(backend: &str) -> Option<&str> {
    let (entry, address) = backend.rsplit_once('/')?;
    address.parse::<SocketAddr>().ok().map(|_| entry)
}

/// What `pool` has to ask.
fn questions(pool: &config::Pool) -> BTreeSet<Question> {
    let entries = pool.backends.iter();
    entries
        .filter_map(|entry| Question::of(&entry.address, pool.resolve))
        .collect()
}

impl Overrides {
    /// The admin state of a backend: its own, else that of the name it comes from.
    pub(super) fn state_of(&self, pool: &str, row: &Row) -> AdminState {
        let inherited = match &row.origin {
            Some(origin) => self.state(pool, &origin.name),
            None => AdminState::Ready,
        };
        let own = self.own_state(pool, &row.settings.name);
        own.unwrap_or(inherited)
    }
}

impl Stamp {
    /// Of what DNS says.
    fn of_dns() -> Self {
        Self {
            since: SystemTime::now(),
            by: "dns".into(),
        }
    }
}

impl Control {
    /// Forgets what is known of names that the pool has no more.
    pub(super) fn keep_names(&mut self, pool: &config::Pool) {
        self.names.keep(pool);
    }

    /// Whether the entry was asked for, whatever came of it.
    pub(super) fn is_answered(&self, entry: &config::Backend) -> bool {
        let question = Question::of(&entry.address, self.settings.resolve);
        question.is_none_or(|question| self.names.0.contains_key(&question))
    }

    /// What another process is to know.
    pub(super) fn name_states(&self) -> Vec<NameState> {
        let all = self.names.0.iter();
        all.map(|(question, addresses)| NameState {
            question: question.clone(),
            addresses: addresses.clone(),
        })
        .collect()
    }

    /// What another process knew. The backends are to be brought in line with it.
    pub(super) fn remember_names(&mut self, states: Vec<NameState>) {
        for state in states {
            self.names.take(&state.question, state.addresses);
        }
    }
}

impl Pool {
    /// What it has to ask DNS.
    pub fn questions(&self) -> BTreeSet<Question> {
        self.look(|control| questions(&control.settings))
    }

    /// What is known for a question.
    pub fn known(&self, question: &Question) -> Option<Vec<Resolved>> {
        self.look(|control| control.names.known(question))
    }

    /// What is known of all its names.
    pub fn names(&self) -> Names {
        self.look(|control| control.names.clone())
    }

    /// The addresses that answer a question from now on; none: there is none. Backends begin and
    /// are removed by it as by a reload; nothing at all happens where the answer is the same.
    pub fn resolve(self: &Arc<Self>, question: &Question, addresses: Vec<Resolved>) {
        let news = self.look(|control| {
            let wanted = questions(&control.settings).contains(question);
            wanted && control.names.take(question, addresses)
        });
        if !news {
            return;
        }
        let moved = self.change(|control| control.reconcile(&Stamp::of_dns(), Instant::now()));
        moved.iter().for_each(|moved| self.announce(moved));
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;

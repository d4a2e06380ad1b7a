//! What differs between two configurations, by what a thing *is*, not by where it stands.
//!
//! Listeners are the same by their addresses, pools by their names, backends by pool and name.
//! Values are compared as they take effect: comments, the order of keys, the spelling of a
//! duration and a default that is written out are no change. The order of backends is one
//! where `balance = "first"`, which goes by it.
//!
//! What is never shown (the token, what a check sends, what came from `${NAME}`) is compared
//! like everything else, and told as changed with `"…"` for both values.

mod listeners;
mod routes;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use toml::Value;

pub use listeners::{Pair, same_listeners};

use super::fields::{self, Effect, Field};
use super::hidden::BLANK;
use super::{Backend, Balance, Listener, Loaded, Pool, env};
use crate::net::{Address, Location};

/// One of two configurations: a file, with its pools as they are in force.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The file.
    pub file: &'a Loaded,
    /// Its pools with the runtime changes, in file order.
    pub pools: &'a [Arc<Pool>],
}

impl<'a> Side<'a> {
    /// A file as it stands.
    pub fn of(file: &'a Loaded) -> Self {
        Self {
            file,
            pools: &file.config.pools,
        }
    }
}

/// Everything that differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// Keys of `[runtime]`, `[admin]` and `[log]`, each with its table: `runtime.threads`.
    pub settings: Vec<Change>,
    /// Listeners that differ: those of the new file in its order, then those that are gone.
    pub listeners: Vec<ListenerDiff>,
    /// Pools that differ, likewise.
    pub pools: Vec<PoolDiff>,
}

/// A listener that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerDiff {
    /// What became of it.
    pub edit: Edit<Arc<Listener>>,
    /// Its keys that differ.
    pub fields: Vec<Change>,
    /// Addresses that nobody listens at yet.
    pub opened: Vec<Address>,
    /// Addresses that nobody listens at any more.
    pub closed: Vec<Address>,
    /// Addresses that another listener had, by name; their sockets stay open.
    pub taken: Vec<(Address, Arc<str>)>,
}

/// A pool that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolDiff {
    /// What became of it; `Changed` also where only its backends did.
    pub edit: Edit<Arc<Pool>>,
    /// Its keys that differ.
    pub fields: Vec<Change>,
    /// Its backends that differ: those of the new pool in its order, then those that are gone.
    pub backends: Vec<BackendDiff>,
}

/// A backend that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendDiff {
    /// What became of it.
    pub edit: Edit<Backend>,
    /// Its keys that differ.
    pub fields: Vec<Change>,
}

/// What became of something.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit<T> {
    /// It is new.
    Added(T),
    /// It is gone.
    Removed(T),
    /// It is there before and after.
    Changed {
        /// As it was.
        old: T,
        /// As it is to be.
        new: T,
    },
}

impl<T> Edit<T> {
    /// As it was, if it was there.
    pub fn before(&self) -> Option<&T> {
        match self {
            Self::Added(_) => None,
            Self::Removed(old) | Self::Changed { old, .. } => Some(old),
        }
    }

    /// As it is to be, if it is to be there.
    pub fn after(&self) -> Option<&T> {
        match self {
            Self::Removed(_) => None,
            Self::Added(new) | Self::Changed { new, .. } => Some(new),
        }
    }
}

impl BackendDiff {
    /// Whether it is dialled elsewhere: its health starts anew.
    pub fn moves(&self) -> bool {
        match (self.edit.before(), self.edit.after()) {
            (Some(old), Some(new)) => !same_address(&old.address, &new.address),
            _ => false,
        }
    }
}

/// Addresses are one where they are written alike: a mapped one is IPv4.
fn same_address(one: &Location, other: &Location) -> bool {
    one == other || one.to_string() == other.to_string()
}

/// A key whose value differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// As a path below its table, such as `health.interval`.
    pub key: String,
    /// What it was; `None`: its owner is new.
    pub old: Option<Value>,
    /// What it is to be.
    pub new: Option<Value>,
    /// Neither value is shown: both are `"…"`, or `""` where there is none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// When that takes effect.
    pub effect: Effect,
}

impl Change {
    /// A value as the file would have it: TOML.
    pub fn written(value: &Value) -> String {
        match value {
            Value::String(text) => Value::String(env::escape(text)).to_string(),
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(Self::written).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Table(table) => {
                let pair = |(key, value)| format!("{key} = {}", Self::written(value));
                let pairs: Vec<_> = table.iter().map(pair).collect();
                format!("{{ {} }}", pairs.join(", "))
            }
            other => other.to_string(),
        }
    }
}

impl Diff {
    /// What has to change for `old` to become `new`.
    pub fn new(old: Side<'_>, new: Side<'_>) -> Self {
        let by_name = |pools: &[Arc<Pool>]| -> HashMap<_, _> {
            let entry = |pool: &Arc<Pool>| (Arc::clone(&pool.name), Arc::clone(pool));
            pools.iter().map(entry).collect()
        };
        let (before, after) = (by_name(old.pools), by_name(new.pools));
        let both = Both { old, new };
        let there = new.pools.iter().map(|pool| match before.get(&pool.name) {
            Some(old) => (Some(old), Some(pool)),
            None => (None, Some(pool)),
        });
        let gone = old.pools.iter().filter(|p| !after.contains_key(&p.name));
        let pairs = there.chain(gone.map(|pool| (Some(pool), None)));
        Self {
            settings: both.settings(),
            listeners: both.listeners(),
            pools: pairs.filter_map(|(o, n)| both.pool(o, n)).collect(),
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.listeners.is_empty() && self.pools.is_empty()
    }

    /// The keys that take effect with the next start alone, as paths of the file.
    pub fn pending_restart(&self) -> Vec<String> {
        let settings = self.settings.iter().map(|change| (String::new(), change));
        let listeners = self.listeners.iter().flat_map(|listener| {
            let name = listener.edit.after().map_or("", |new| &*new.name);
            let path = format!("listener.{name}.");
            listener.fields.iter().map(move |c| (path.clone(), c))
        });
        let restart = settings
            .chain(listeners)
            .filter(|(_, change)| change.effect == Effect::Restart);
        restart
            .map(|(path, c)| format!("{path}{}", c.key))
            .collect()
    }
}

/// The two sides, for comparing their tables.
#[derive(Clone, Copy)]
struct Both<'a> {
    old: Side<'a>,
    new: Side<'a>,
}

impl Both<'_> {
    fn settings(&self) -> Vec<Change> {
        let (old, new) = (&self.old.file.config, &self.new.file.config);
        let tables = [
            (
                "runtime",
                fields::runtime(&old.runtime),
                fields::runtime(&new.runtime),
            ),
            (
                "admin",
                fields::admin(&old.admin),
                fields::admin(&new.admin),
            ),
            ("log", fields::log(&old.log), fields::log(&new.log)),
        ];
        let tables = tables.into_iter().flat_map(|(table, old, new)| {
            let mut changes = self.changes(old, new, Some(table), Some(table));
            for change in &mut changes {
                change.key = format!("{table}.{}", change.key);
            }
            changes
        });
        tables.collect()
    }

    fn pool(&self, old: Option<&Arc<Pool>>, new: Option<&Arc<Pool>>) -> Option<PoolDiff> {
        if let (Some(old), Some(new)) = (old, new)
            && Arc::ptr_eq(old, new)
        {
            return None;
        }
        let path = |pool: &Arc<Pool>| format!("pool/{}", pool.name);
        let (before, after) = (old.map(path), new.map(path));
        let mut fields = self.fields(
            old.map(|pool| fields::pool(pool)),
            new.map(|pool| fields::pool(pool)),
            || fields::pool(&fields::plain_pool()),
            (before.as_deref(), after.as_deref()),
        );
        let backends = self.backends(old, new);
        if let (Some(old), Some(new)) = (old, new) {
            fields.extend(order(old, new));
        }
        let edit = edit(old.cloned(), new.cloned())?;
        let same = matches!(edit, Edit::Changed { .. }) && fields.is_empty() && backends.is_empty();
        (!same).then_some(PoolDiff {
            edit,
            fields,
            backends,
        })
    }

    fn backends(&self, old: Option<&Arc<Pool>>, new: Option<&Arc<Pool>>) -> Vec<BackendDiff> {
        let (before, after) = (backends_by_name(old), backends_by_name(new));
        let of = |pool: Option<&Arc<Pool>>| pool.map(|p| p.backends.clone()).unwrap_or_default();
        let there = of(new).into_iter();
        let there = there.map(|b| (before.get(&b.name).map(|old| (*old).clone()), Some(b)));
        let gone = of(old).into_iter().filter(|b| !after.contains_key(&b.name));
        let pairs = there.chain(gone.map(|backend| (Some(backend), None)));
        let names = (old.map(|p| &*p.name), new.map(|p| &*p.name));
        pairs
            .filter_map(|(old, new)| self.backend(old, new, names))
            .collect()
    }

    fn backend(
        &self,
        old: Option<Backend>,
        new: Option<Backend>,
        pools: (Option<&str>, Option<&str>),
    ) -> Option<BackendDiff> {
        if old == new {
            return None;
        }
        let place = |side: Side<'_>, pool: Option<&str>, backend: Option<&Backend>| {
            place_of_backend(side.file, pool?, &backend?.name)
        };
        let before = place(self.old, pools.0, old.as_ref());
        let after = place(self.new, pools.1, new.as_ref());
        let fields = self.fields(
            old.as_ref().map(fields::backend),
            new.as_ref().map(fields::backend),
            || fields::backend(&fields::plain_backend()),
            (before.as_deref(), after.as_deref()),
        );
        let edit = edit(old, new)?;
        let same = matches!(edit, Edit::Changed { .. }) && fields.is_empty();
        (!same).then_some(BackendDiff { edit, fields })
    }

    /// The keys that differ; of what is new, those that have not their defaults; of what is
    /// gone, none.
    fn fields(
        &self,
        old: Option<Vec<Field>>,
        new: Option<Vec<Field>>,
        plain: impl FnOnce() -> Vec<Field>,
        (before, after): (Option<&str>, Option<&str>),
    ) -> Vec<Change> {
        match (old, new) {
            (Some(old), Some(new)) => self.changes(old, new, before, after),
            (None, Some(new)) => {
                let mut changes = self.changes(plain(), new, None, after);
                changes.iter_mut().for_each(|change| change.old = None);
                changes
            }
            (_, None) => Vec::new(),
        }
    }

    /// `before` and `after` are the paths of the tables, as [`super::hidden`] has them.
    fn changes(
        &self,
        old: Vec<Field>,
        new: Vec<Field>,
        before: Option<&str>,
        after: Option<&str>,
    ) -> Vec<Change> {
        let pairs = old.into_iter().zip(new);
        let changed = pairs.filter_map(|(old, new)| {
            // A value that nobody looks at any more is gone with the key that says so.
            let to = new.value?;
            let from = old.value.or_else(|| fields::default_of(new.key))?;
            if same(&from, &to) {
                return None;
            }
            let hides = |side: Side<'_>, table: Option<&str>| {
                table.is_some_and(|table| side.file.hides(table, new.key))
            };
            let hidden = new.secret || hides(self.old, before) || hides(self.new, after);
            let shown = |value| if hidden { blanked(value) } else { value };
            Some(Change {
                key: new.key.to_owned(),
                old: Some(shown(from)),
                new: Some(shown(to)),
                hidden,
                effect: new.effect,
            })
        });
        changed.collect()
    }
}

fn edit<T>(old: Option<T>, new: Option<T>) -> Option<Edit<T>> {
    match (old, new) {
        (Some(old), Some(new)) => Some(Edit::Changed { old, new }),
        (Some(old), None) => Some(Edit::Removed(old)),
        (None, Some(new)) => Some(Edit::Added(new)),
        (None, None) => None,
    }
}

/// Whether two values of a key mean the same: the order of a list does not matter.
fn same(one: &Value, other: &Value) -> bool {
    let sorted = |value: &Value| {
        let mut items: Vec<_> = value.as_array()?.iter().map(Value::to_string).collect();
        items.sort();
        Some(items)
    };
    one == other || sorted(one).is_some_and(|items| sorted(other) == Some(items))
}

/// What stands for a value that is not shown; that there is none is no secret.
fn blanked(value: Value) -> Value {
    match value.as_str() {
        Some("") => value,
        _ => Value::String(BLANK.to_owned()),
    }
}

/// The change of the order of backends that are there before and after, where it matters.
fn order(old: &Pool, new: &Pool) -> Option<Change> {
    if old.balance != Balance::First || new.balance != Balance::First {
        return None;
    }
    let names = |of: &Pool, among: &Pool| -> Vec<Value> {
        let among: HashSet<_> = among.backends.iter().map(|b| &b.name).collect();
        let common = of.backends.iter().filter(|b| among.contains(&b.name));
        common.map(|b| Value::String(b.name.to_string())).collect()
    };
    let (before, after) = (names(old, new), names(new, old));
    (before != after).then(|| Change {
        key: "backends".to_owned(),
        old: Some(Value::Array(before)),
        new: Some(Value::Array(after)),
        hidden: false,
        effect: Effect::NewConnections,
    })
}

fn backends_by_name(pool: Option<&Arc<Pool>>) -> HashMap<&Arc<str>, &Backend> {
    let backends = pool.map_or(&[][..], |pool| &pool.backends);
    backends.iter().map(|b| (&b.name, b)).collect()
}

/// Where a backend stands in the file; `None`: it was added to the running pool.
fn place_of_backend(file: &Loaded, pool: &str, backend: &str) -> Option<String> {
    let backends = &file.config.pool(pool)?.backends;
    let index = backends.iter().position(|b| *b.name == *backend)?;
    Some(format!("pool/{pool}/backends/{index}"))
}

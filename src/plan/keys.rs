//! Who takes connections of a pool before and after, and so which hash keys move.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::LivePool;
use super::moves::{self, Moves, Racer};
use crate::config::{Backend, Balance, Pool};
use crate::pool::State;

/// Which keys of a `consistent-hash` pool get another backend: from the backends that take
/// keys now to those that will once new and moved ones are up, if all others stay as they are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HashKeys {
    /// Other bytes are hashed than before: every key is dealt anew.
    pub rehashed: bool,
    /// What moves.
    #[serde(flatten)]
    pub moves: Moves,
}

impl HashKeys {
    /// `None`: the pool does not hash before and after, or nobody takes keys before or after.
    pub(super) fn of(old: &Pool, new: &Pool, live: &LivePool) -> Option<Self> {
        if old.balance != Balance::ConsistentHash || new.balance != Balance::ConsistentHash {
            return None;
        }
        let racers = racers(&before(old, live), &after(Some(old), new, live));
        let rehashed = old.hash.key != new.hash.key;
        let moves = match rehashed {
            true => moves::rehashed(&racers),
            false => moves::reweighted(&racers),
        };
        moves.map(|moves| Self { rehashed, moves })
    }
}

/// How many backends may be picked before and after.
pub(super) fn usable(old: Option<&Pool>, new: Option<&Pool>, live: &LivePool) -> (usize, usize) {
    let after = new.map_or(0, |new| after(old, new, live).len());
    (old.map_or(0, |old| before(old, live).len()), after)
}

/// Backends that are up and take connections, backups too.
fn before(pool: &Pool, live: &LivePool) -> Vec<Backend> {
    let up = |b: &Backend| b.weight > 0 && live.backend(&b.name).state == State::Up;
    live.rows(pool).into_iter().filter(up).collect()
}

/// The same after the change: what is new or dialled elsewhere is taken to be up, unless an
/// operator wants it otherwise.
fn after(old: Option<&Pool>, new: &Pool, live: &LivePool) -> Vec<Backend> {
    let old = old.map(|old| live.rows(old)).unwrap_or_default();
    let known: HashMap<_, _> = old.iter().map(|b| (&b.name, &b.address)).collect();
    let up = |b: &Backend| {
        let state = live.backend(&b.name).state;
        b.weight > 0
            && match known.get(&b.name) {
                None => true,
                Some(address) if **address == b.address => state == State::Up,
                Some(_) => !matches!(state, State::Draining | State::Maintenance),
            }
    };
    live.rows(new).into_iter().filter(up).collect()
}

fn racers(before: &[Backend], after: &[Backend]) -> Vec<Racer> {
    let mut racers: Vec<Racer> = Vec::new();
    let mut index: HashMap<Arc<str>, usize> = HashMap::new();
    for backend in in_use(before) {
        index.insert(Arc::clone(&backend.name), racers.len());
        racers.push(Racer {
            name: Arc::clone(&backend.name),
            before: backend.weight,
            after: 0,
        });
    }
    for backend in in_use(after) {
        match index.get(&backend.name) {
            Some(known) => racers[*known].after = backend.weight,
            None => racers.push(Racer {
                name: Arc::clone(&backend.name),
                before: 0,
                after: backend.weight,
            }),
        }
    }
    racers
}

/// Backups are used only where there is nobody else.
fn in_use(up: &[Backend]) -> Vec<&Backend> {
    let primaries: Vec<_> = up.iter().filter(|b| !b.backup).collect();
    match primaries.is_empty() {
        true => up.iter().collect(),
        false => primaries,
    }
}

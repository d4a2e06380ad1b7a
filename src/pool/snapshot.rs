//! What a pick sees: the backends that may be picked now, and the strategies built from them,
//! replaced as one value.
//!
//! Backends stand in tiers: those that are up, then the backups that are up, then, where
//! `when_all_down = "try"` and none is up, those that are down. A later tier is asked only
//! when no backend of the earlier ones can take the connection.

use std::cell::Cell;
use std::sync::{Arc, Weak};
use std::time::Instant;

use rand::Rng;

use super::backend::{Asker, Backend, Obstacle};
use super::conduct::{Admission, Gate};
use super::outlier::Seat;
use super::pause::Pause;
use super::slow_start;
use super::{Attempt, Pool};
use crate::balance::{Balancer, Choice, Members, Request};
use crate::config::{self, Balance};
use crate::log::Pick;

/// An immutable view of a pool.
#[derive(Debug)]
pub struct Snapshot {
    /// `[pool.NAME]`.
    pub settings: Arc<config::Pool>,
    /// While it is on nobody gets a backend.
    pub(super) pause: Pause,
    /// The file has the pool no more.
    pub(super) retired: bool,
    /// The pool of `fallback`.
    pub(super) fallback: Option<Weak<Pool>>,
    /// Pools that fall back to this one.
    pub(super) dependents: Vec<Weak<Pool>>,
    /// Every backend that was not removed, in file order, whatever its state.
    pub backends: Vec<Arc<Backend>>,
    /// What each of them is for the ejection of another, ejections left out.
    pub(super) seats: Vec<Seat>,
    pub(super) tiers: [Tier; 3],
}

/// Index of the tier of backends that are up and no backups.
pub(super) const PRIMARY: usize = 0;
/// Index of the tier of backups that are up.
pub(super) const BACKUP: usize = 1;
/// Index of the tier of backends that are down by checks and used all the same.
pub(super) const LAST_RESORT: usize = 2;

/// Backends of equal rank and the strategy that chooses among them.
#[derive(Clone, Debug)]
pub(super) struct Tier {
    pub(super) members: Arc<[Member]>,
    pub(super) balancer: Arc<Balancer>,
    /// So many parts of a weight are one: more than 1 while a member ramps.
    pub(super) parts: u32,
}

/// A backend and its share.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) backend: Arc<Backend>,
    /// As configured, at least 1.
    pub(super) weight: u32,
    /// As it counts now: in parts, less what a slow start takes away. At least 1.
    pub(super) share: u32,
}

impl Member {
    /// One whose weight counts so many twentieths.
    pub(super) fn new(backend: Arc<Backend>, weight: u32, level: u32) -> Self {
        Self {
            backend,
            weight,
            share: weight * level,
        }
    }

    fn ramps(&self) -> bool {
        self.share != self.weight * slow_start::FULL
    }
}

impl Tier {
    /// A tier of `members`; keeps `old`, and with it the strategy's sequence, if nothing
    /// changed. A step of a slow start goes on with the sequence: it begins anew with the
    /// ramp, and when that is over.
    pub(super) fn new(
        mut members: Vec<Member>,
        settings: &config::Pool,
        old: Option<&Self>,
    ) -> Self {
        let ramps = members.iter().any(Member::ramps);
        if !ramps {
            members.iter_mut().for_each(|m| m.share = m.weight);
        }
        let parts = if ramps { slow_start::FULL } else { 1 };
        let old = old.filter(|old| same(&old.members, &members));
        if let Some(old) = old {
            let pairs = old.members.iter().zip(&members);
            if pairs.into_iter().all(|(old, new)| old.share == new.share) {
                return old.clone();
            }
        }
        let goes_on = old.filter(|old| ramps && old.parts > 1);
        Self {
            members: members.into(),
            balancer: match goes_on {
                Some(old) => Arc::clone(&old.balancer),
                None => Arc::new(Balancer::of(settings)),
            },
            parts,
        }
    }
}

/// Whether these are the same backends with the same weights, slow starts left out.
pub(super) fn same(old: &[Member], new: &[Member]) -> bool {
    let pairs = old.iter().zip(new);
    old.len() == new.len()
        && pairs
            .into_iter()
            .all(|(old, new)| Arc::ptr_eq(&old.backend, &new.backend) && old.weight == new.weight)
}

/// A slot taken: the backend, and why this one.
pub(super) struct Taken {
    pub(super) backend: Arc<Backend>,
    pub(super) pick: Pick,
    /// It is a trial.
    pub(super) trial: bool,
}

impl Snapshot {
    /// How many backends may be picked now.
    pub fn usable(&self) -> usize {
        let members = self.tiers.iter().flat_map(|tier| tier.members.iter());
        members
            .filter(|member| member.backend.conduct.obstacle().is_none())
            .count()
    }

    /// What each backend is for the ejection of another, as of now.
    pub(super) fn seats(&self) -> Vec<Seat> {
        let pairs = self.seats.iter().zip(&self.backends);
        let seat = |(seat, backend): (&Seat, &Arc<Backend>)| Seat {
            ejected: backend.conduct.gate() != Gate::Open,
            ..*seat
        };
        pairs.map(seat).collect()
    }

    /// Chooses a backend for `attempt` and takes a slot of it.
    ///
    /// Backends that the connection has tried are left out, unless nothing else is left and it
    /// need not go elsewhere.
    pub(super) fn take(
        &self,
        attempt: &Attempt,
        asker: Asker,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<Taken> {
        self.take_by(attempt, asker, now, &mut |rank, open, request| {
            self.tiers[rank].balancer.pick(open, request, rng)
        })
    }

    /// The same, with `choose` among the members of a tier in the place of its strategy. A tier
    /// without members is not asked.
    pub(super) fn take_by(
        &self,
        attempt: &Attempt,
        asker: Asker,
        now: Instant,
        choose: &mut impl FnMut(usize, &Open<'_>, Request) -> Option<Choice>,
    ) -> Option<Taken> {
        if self.pause.is_on() {
            return None;
        }
        self.take_from(attempt, (asker, now), &attempt.tried, choose)
            .or_else(|| match attempt.tried.is_empty() || attempt.elsewhere {
                true => None,
                false => self.take_from(attempt, (asker, now), &[], choose),
            })
    }

    /// The hash that consistent-hash wants; other strategies do not look at it.
    pub(super) fn key(&self, attempt: &Attempt) -> u64 {
        match self.settings.balance {
            Balance::ConsistentHash => attempt.keys.hash(self.settings.hash.key),
            _ => 0,
        }
    }

    fn take_from(
        &self,
        attempt: &Attempt,
        (asker, now): (Asker, Instant),
        without: &[Arc<Backend>],
        choose: &mut impl FnMut(usize, &Open<'_>, Request) -> Option<Choice>,
    ) -> Option<Taken> {
        let request = Request {
            key: self.key(attempt),
            first: attempt.is_first(),
        };
        self.tiers.iter().enumerate().find_map(|(rank, tier)| {
            if tier.members.is_empty() {
                return None;
            }
            let open = Open {
                members: &tier.members,
                without,
                asker,
                now,
                trial: Cell::new(false),
            };
            let choice = choose(rank, &open, request)?;
            let trial = open.trial.get();
            let pick = match (asker, attempt.number(), rank) {
                _ if trial => Pick::Trial,
                (_, _, LAST_RESORT) => Pick::Try,
                (Asker::Held | Asker::Tick, _, _) => Pick::Held,
                (_, number, _) if number > 1 => Pick::Retry(number),
                (_, _, BACKUP) => Pick::Backup,
                _ => choice.why.into(),
            };
            let backend = Arc::clone(&tier.members[choice.index].backend);
            Some(Taken {
                backend,
                pick,
                trial,
            })
        })
    }
}

/// The members of a tier as one connection may have them.
pub(super) struct Open<'a> {
    members: &'a [Member],
    without: &'a [Arc<Backend>],
    asker: Asker,
    now: Instant,
    /// The slot that was reserved is that of a trial.
    trial: Cell<bool>,
}

impl Open<'_> {
    /// To have member `i` would be to try it.
    pub(super) fn foresee(&self, i: usize) {
        self.trial.set(self.members[i].backend.conduct.is_due());
    }

    /// Why member `i` cannot be chosen.
    #[inline]
    pub(super) fn obstacle(&self, i: usize) -> Option<Obstacle> {
        let backend = &self.members[i].backend;
        let tried = || self.without.iter().any(|tried| Arc::ptr_eq(tried, backend));
        backend
            .obstacle(self.asker)
            .or_else(|| tried().then_some(Obstacle::Tried))
    }
}

impl Members for Open<'_> {
    fn len(&self) -> usize {
        self.members.len()
    }

    fn weight(&self, i: usize) -> u32 {
        self.members[i].share
    }

    fn active(&self, i: usize) -> u32 {
        self.members[i].backend.active()
    }

    fn open(&self, i: usize) -> bool {
        self.obstacle(i).is_none()
    }

    fn identity(&self, i: usize) -> u64 {
        self.members[i].backend.identity()
    }

    fn latency(&self, i: usize) -> Option<f64> {
        self.members[i].backend.latency(self.now)
    }

    fn reserve(&self, i: usize) -> bool {
        let admission = self.members[i].backend.reserve(self.asker);
        self.trial.set(admission == Some(Admission::Trial));
        admission.is_some()
    }
}

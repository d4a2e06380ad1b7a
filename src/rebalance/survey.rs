//! How a pool stands, what would even it, and which connections come first.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::balance::evening::{Evening, Share, home};
use crate::conn::listing::Filter;
use crate::conn::{ConnectionView, CoreHandle, Phase};
use crate::net::Address;
use crate::pool::{Pool, Taking};

/// A connection that may be closed.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The core that serves it.
    pub(super) core: usize,
    /// Unique in the process.
    pub id: u64,
    /// Its client.
    pub client: Address,
    /// Its backend, by the very pointer of its name.
    pub backend: Arc<str>,
    /// When it was accepted.
    pub accepted: Instant,
    /// When the last byte moved.
    pub moved_at: Instant,
    /// From when on it is quiet, if nothing moves before; `None`: somebody waits for an answer.
    pub quiet_at: Option<Instant>,
    pub(super) key: u64,
    from: usize,
    onto: Option<usize>,
}

/// What would even a pool.
#[derive(Debug)]
pub struct Proposal {
    /// Of which moment.
    pub at: Instant,
    /// The backends that take part.
    pub taking: Taking,
    /// As they stand.
    pub shares: Vec<Share>,
    /// What would even them.
    pub evening: Evening,
    candidates: Vec<Candidate>,
}

impl Proposal {
    /// Of this moment. `pending` are the keys of redials that are under way.
    pub async fn make(pool: &Pool, cores: &[CoreHandle], pending: Vec<u64>, target: f64) -> Self {
        let at = Instant::now();
        let taking = pool.taking();
        let candidates = list(pool, &taking, cores, at).await;
        let plan = move || Self::plan(at, taking, candidates, &pending, target);
        // Ten thousand connections take some milliseconds, in which the control plane has other
        // things to do.
        tokio::task::spawn_blocking(plan)
            .await
            .expect("a plan comes to its end, and nobody stops it")
    }

    fn plan(
        at: Instant,
        taking: Taking,
        mut candidates: Vec<Candidate>,
        pending: &[u64],
        target: f64,
    ) -> Self {
        let mut closable = vec![0; taking.backends().count()];
        candidates.iter().for_each(|c| closable[c.from] += 1);
        let shares = taking.shares(&closable, at);
        let keyed = |c: &Candidate| (c.from, c.key);
        let keys: Vec<_> = candidates.iter().map(keyed).collect();
        let evening = taking.plan(&shares, &keys, pending, target);
        if evening
            .closings
            .iter()
            .any(|closing| closing.onto.is_some())
        {
            candidates
                .iter_mut()
                .for_each(|c| c.onto = home(&shares, c.key));
        }
        Self {
            at,
            taking,
            shares,
            evening,
            candidates,
        }
    }

    /// How many connections are to be closed.
    pub fn total(&self) -> u32 {
        self.evening.total()
    }

    /// How many of the backend at this place are to be closed.
    pub fn closing(&self, backend: usize) -> u32 {
        let closings = self.evening.closings.iter();
        closings
            .filter(|closing| closing.from == backend)
            .map(|closing| closing.count)
            .sum()
    }

    /// Which connections that are, as far as there are any that can become quiet, in the order
    /// in which they are to be asked.
    pub fn chosen(&self, order: &Order) -> Vec<&Candidate> {
        let closings = self.evening.closings.iter();
        let mut left: HashMap<_, _> = closings
            .map(|closing| ((closing.from, closing.onto), closing.count))
            .collect();
        let able = self.candidates.iter().filter(|c| order.admits(c));
        let mut able: Vec<_> = able.collect();
        able.sort_by_cached_key(|candidate| order.rank(candidate, self.at));
        able.retain(|candidate| {
            let left = left.get_mut(&(candidate.from, candidate.onto));
            let wanted = left.filter(|left| **left > 0);
            wanted.map(|left| *left -= 1).is_some()
        });
        able
    }
}

/// Who is to be asked first.
///
/// Those that are quiet now: the oldest, or those that have been silent for longest. Then those
/// that will be quiet soonest; last of all, whoever did not go though it looked quiet.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Not the oldest first, but those on which nothing has moved for longest.
    pub idle_first: bool,
    /// Only those that may be quiet by then.
    pub(super) quiet_by: Option<Instant>,
    in_vain: HashSet<(u64, Instant)>,
}

impl Order {
    /// The order of all that can become quiet.
    pub fn new(idle_first: bool) -> Self {
        Self {
            idle_first,
            ..Self::default()
        }
    }

    /// This one did not go: what was sent to its client, say, is not acknowledged.
    pub(super) fn note_in_vain(&mut self, id: u64, moved_at: Instant) {
        self.in_vain.insert((id, moved_at));
    }

    /// Forgets of those that did not go whoever has ended or moved since.
    pub(super) fn forget(&mut self, proposal: &Proposal) {
        let all = std::mem::take(&mut self.in_vain);
        let candidates = proposal.candidates.iter().map(|c| (c.id, c.moved_at));
        self.in_vain = candidates.filter(|one| all.contains(one)).collect();
    }

    fn admits(&self, candidate: &Candidate) -> bool {
        match (candidate.quiet_at, self.quiet_by) {
            (None, _) => false,
            (Some(at), by) => by.is_none_or(|by| at <= by),
        }
    }

    fn rank(&self, candidate: &Candidate, now: Instant) -> impl Ord + use<> {
        let in_vain = self.in_vain.contains(&(candidate.id, candidate.moved_at));
        let since = match self.idle_first {
            true => candidate.moved_at,
            false => candidate.accepted,
        };
        let quiet_at = candidate.quiet_at.filter(|at| *at > now);
        (in_vain, quiet_at, since, candidate.id)
    }
}

/// The connections of `pool` that bytes may flow on, with backends that take part.
async fn list(pool: &Pool, taking: &Taking, cores: &[CoreHandle], now: Instant) -> Vec<Candidate> {
    let filter = Arc::new(Filter {
        pool: Some(pool.name.to_string()),
        state: Some(Phase::Relaying),
        ..Filter::default()
    });
    let mut all = Vec::new();
    for (core, handle) in cores.iter().enumerate() {
        let found = handle.connections(&filter, usize::MAX, now).await;
        let candidates = found.views.into_iter();
        all.extend(candidates.filter_map(|view| candidate(view, core, taking)));
    }
    all
}

fn candidate(view: ConnectionView, core: usize, taking: &Taking) -> Option<Candidate> {
    let backend = view.backend?;
    let from = taking.position(&backend)?;
    let key = taking.key(&view.client)?;
    let quiet = taking.settings().quiet;
    Some(Candidate {
        core,
        id: view.id,
        client: view.client,
        backend,
        accepted: view.accepted,
        moved_at: view.moved_at,
        quiet_at: view.answered.then(|| view.moved_at + quiet),
        key,
        from,
        onto: None,
    })
}

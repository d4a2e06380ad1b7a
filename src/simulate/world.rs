//! The pools of a file in virtual time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::Spot;
use crate::balance::consistent_hash;
use crate::config::{self, Config, HealthKind};
use crate::pool::overrides::Stamp;
use crate::pool::{AdminState, Backend, Clock, Pool, Stage, Wanted, Wiring};

/// Some pools of a file, which fall back to none but each other.
pub(super) struct World {
    pub(super) clock: Arc<Clock>,
    pools: Vec<Arc<Pool>>,
    /// By the place in the file.
    members: HashMap<usize, usize>,
    spots: HashMap<*const Backend, Spot>,
}

impl World {
    /// The pools of these places, all up but the backends that are `lost`. Every pool draws what
    /// the seed and its name make of it.
    pub(super) fn new(config: &Config, places: &[usize], lost: &[Spot], seed: u64) -> Self {
        let clock = Clock::new();
        let settings = places.iter().map(|place| unchecked(&config.pools[*place]));
        let settings: Vec<_> = settings.collect();
        let pool = |settings: &Arc<config::Pool>| {
            let own = seed ^ consistent_hash::identity(&settings.name);
            Pool::staged(Arc::clone(settings), Stage::new(Arc::clone(&clock), own))
        };
        let pools: Vec<_> = settings.iter().map(pool).collect();
        for (index, pool) in pools.iter().enumerate() {
            pool.wire(Wiring::of(&pools, &settings, index));
        }
        let world = Self {
            spots: spots(places, &pools),
            members: places.iter().copied().zip(0..).collect(),
            clock,
            pools,
        };
        lost.iter().for_each(|spot| world.lose(*spot));
        world
    }

    /// Nobody new comes to that backend any more. It is not down by checks: those that are may
    /// be tried all the same, where `when_all_down` says so, and in vain.
    fn lose(&self, spot: Spot) {
        let Some(pool) = self.member(spot.pool) else {
            return;
        };
        let name = Arc::clone(&pool.settings().backends[spot.backend].name);
        let wanted = Wanted {
            state: Some(AdminState::Maintenance),
            ..Wanted::default()
        };
        let stamp = Stamp {
            since: SystemTime::UNIX_EPOCH,
            by: "simulate".into(),
        };
        pool.set(&name, wanted, &stamp)
            .expect("the file has the backend");
    }

    fn member(&self, place: usize) -> Option<&Arc<Pool>> {
        self.members.get(&place).map(|member| &self.pools[*member])
    }

    /// The pool of that place.
    ///
    /// # Panics
    /// If it is none of this world.
    pub(super) fn pool(&self, place: usize) -> &Arc<Pool> {
        self.member(place).expect("a pool of this world")
    }

    /// Where a backend stands.
    pub(super) fn spot(&self, backend: &Arc<Backend>) -> Spot {
        self.spots[&Arc::as_ptr(backend)]
    }

    /// The pools, in the order of the places.
    pub(super) fn into_pools(self) -> Vec<Arc<Pool>> {
        self.pools
    }
}

/// Where every backend is: nothing is dialled, and nobody asks where to.
const ANYWHERE: &str = "192.0.2.1:1";

/// The same pool where every backend is up at once, whatever its address.
fn unchecked(pool: &Arc<config::Pool>) -> Arc<config::Pool> {
    let mut pool = config::Pool::clone(pool);
    pool.health.kind = HealthKind::None;
    for backend in &mut pool.backends {
        backend.address = ANYWHERE.parse().expect("an address");
    }
    Arc::new(pool)
}

fn spots(places: &[usize], pools: &[Arc<Pool>]) -> HashMap<*const Backend, Spot> {
    let mut spots = HashMap::new();
    for (place, pool) in places.iter().zip(pools) {
        for (index, backend) in pool.snapshot().backends.iter().enumerate() {
            let spot = Spot {
                pool: *place,
                backend: index,
            };
            spots.insert(Arc::as_ptr(backend), spot);
        }
    }
    spots
}

/// The pools of a file, those together that fall back to each other.
pub(super) fn groups(config: &Config) -> Vec<Vec<usize>> {
    let place = |name: &str| config.pools.iter().position(|pool| *pool.name == *name);
    let next = |of: &usize| config.pools[*of].fallback.as_deref().and_then(place);
    let last = |of: usize| std::iter::successors(Some(of), next).last().unwrap_or(of);
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for pool in 0..config.pools.len() {
        let last = last(pool);
        match groups.iter_mut().find(|(of, _)| *of == last) {
            Some((_, group)) => group.push(pool),
            None => groups.push((last, vec![pool])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::tests::config;

    #[test]
    fn pools_that_end_up_in_the_same_one_are_together() {
        let config = config(
            "[pool.a]\nfallback = \"c\"\n[pool.b]\n[pool.c]\nfallback = \"e\"\n[pool.d]\n\
             fallback = \"e\"\n[pool.e]\n",
        );
        assert_eq!(groups(&config), [vec![0, 2, 3, 4], vec![1]]);
    }
}

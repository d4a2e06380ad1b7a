//! What the loss of a backend would do.

use super::Spot;
use super::recording::{Group, Recording};
use super::replay::Replay;
use super::tally::Tally;
use super::world::World;
use crate::config::Config;

/// How many connections are replayed for this, all losses together: a log of a million takes no
/// longer than six plain replays of it.
const BUDGET: u64 = 5_000_000;

/// A pick among so many backends costs as much as all the rest of a connection.
const FEW: u64 = 32;

/// What came of the loss of one backend.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    pub(super) lost: Spot,
    pub(super) tally: Tally,
}

/// A name under which the file has no backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no backend {0} in the file")]
pub struct NoSuchBackend(pub String);

/// The backends that are meant by `POOL/BACKEND`, or by `BACKEND` alone: of every pool that has
/// one of that name, as when the machine behind it is lost.
///
/// # Errors
/// There is none.
pub fn named(config: &Config, name: &str) -> Result<Vec<Spot>, NoSuchBackend> {
    let mut found = Vec::new();
    for (pool, settings) in config.pools.iter().enumerate() {
        for (backend, of) in settings.backends.iter().enumerate() {
            let whole = || name.split_once('/');
            let by_both = || whole() == Some((&*settings.name, &*of.name));
            if *of.name == *name || by_both() {
                found.push(Spot { pool, backend });
            }
        }
    }
    match found.is_empty() {
        true => Err(NoSuchBackend(name.to_owned())),
        false => Ok(found),
    }
}

/// The loss of each backend in turn, as far as the budget goes and of each group at least one:
/// those first that had the most connections at once.
pub(super) fn all(
    config: &Config,
    recording: &Recording,
    before: &Tally,
    seed: u64,
) -> Vec<Outage> {
    let groups = recording.groups.iter();
    let mut groups: Vec<_> = groups.filter(|group| !group.arrivals.is_empty()).collect();
    // The cheap ones first, so that what they leave is for the others.
    groups.sort_by_key(|group| cost(config, group));
    let (mut left, mut outages) = (BUDGET, Vec::new());
    for (index, group) in groups.iter().enumerate() {
        let cost = cost(config, group).max(1);
        let fair = left / (groups.len() - index) as u64;
        let most = usize::try_from(fair / cost).unwrap_or(usize::MAX).max(1);
        let spots = by_load(config, group, before);
        let spots = &spots[..spots.len().min(most)];
        left = left.saturating_sub(cost * spots.len() as u64);
        let outage = |lost: &Spot| Outage {
            lost: *lost,
            tally: of_one(config, recording, group, *lost, seed),
        };
        outages.extend(spots.iter().map(outage));
    }
    outages.sort_by_key(|outage| outage.lost);
    outages
}

/// In connections of small pools.
fn cost(config: &Config, group: &Group) -> u64 {
    let backends = group
        .pools
        .iter()
        .map(|pool| config.pools[*pool].backends.len());
    let backends = backends.max().unwrap_or(0) as u64;
    group.arrivals.len() as u64 * backends.max(FEW) / FEW
}

/// The backends that had connections, those with the highest peaks first.
fn by_load(config: &Config, group: &Group, before: &Tally) -> Vec<Spot> {
    let of_pool = |&pool: &usize| {
        let backends = 0..config.pools[pool].backends.len();
        backends.map(move |backend| Spot { pool, backend })
    };
    let load = |spot: &Spot| before.pools[spot.pool].backends[spot.backend];
    let spots = group.pools.iter().flat_map(of_pool);
    let mut spots: Vec<_> = spots.filter(|spot| load(spot).connections > 0).collect();
    spots.sort_by_key(|spot| (std::cmp::Reverse(load(spot).peak), *spot));
    spots
}

fn of_one(config: &Config, recording: &Recording, group: &Group, lost: Spot, seed: u64) -> Tally {
    let mut tally = Tally::new(config);
    let world = World::new(config, &group.pools, &[lost], seed);
    let replay = Replay::new(
        config,
        &world,
        &group.arrivals,
        recording.names(),
        &mut tally,
    );
    replay.run(&mut |_, _| ());
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::tests::config;

    #[test]
    fn a_backend_is_named_alone_or_with_its_pool() {
        let config = config(
            "[pool.a]\nbackends = [\"10.0.0.1:80\", \"unix:/run/b\"]\n\
             [pool.b]\nbackends = [\"10.0.0.2:80\", \"10.0.0.1:80\"]\n",
        );
        let spots = |name: &str| named(&config, name);
        let spot = |pool, backend| Spot { pool, backend };
        assert_eq!(spots("10.0.0.1:80"), Ok(vec![spot(0, 0), spot(1, 1)]));
        assert_eq!(spots("b/10.0.0.1:80"), Ok(vec![spot(1, 1)]));
        assert_eq!(spots("a/unix:/run/b"), Ok(vec![spot(0, 1)]));
        assert_eq!(spots("unix:/run/b"), Ok(vec![spot(0, 1)]));
        let error = spots("c/10.0.0.1:80").expect_err("no such pool");
        assert_eq!(error.to_string(), "no backend c/10.0.0.1:80 in the file");
    }
}

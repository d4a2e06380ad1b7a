//! What would become of a connection now, step by step, without making it.
//!
//! The steps are those of [`Pool::acquire`], [`Pool::overflow`] and [`Pool::hold`], by the
//! functions that these use: the order of the tiers and the word for the pick are those of
//! [`Snapshot::take_by`], the choice is that of a fork of the strategy. Nothing is reserved,
//! counted or moved on. What it tells is of the moment at which it looked: with other traffic
//! the next connection may find something else.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::backend::{Asker, Obstacle};
use super::pause::Pause;
use super::snapshot::{Open, Snapshot};
use super::{Attempt, Backend, BackendView, Client, Keys, NotHeld, Pool, State};
use crate::balance::{Balancer, Choice, Members, Request, Score, Standing, Still};
use crate::config::{self, Balance, HashKey};
use crate::log::Pick;

/// Attempts beyond this many are not told: a person has long stopped reading.
const MOST_TOLD: u32 = 16;

/// Who is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// A client at this address; `None`: any port.
    Ip(IpAddr, Option<u16>),
    /// A client of a Unix socket.
    Unix,
}

/// What is told of a connection that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who it is from.
    pub whom: Whom,
    /// The hash of the name that it asks for; `None`: it asks for none.
    pub sni: Option<u64>,
    /// Where it connects to; `None`: not known.
    pub destination: Option<SocketAddr>,
}

impl From<Whom> for Asked {
    fn from(whom: Whom) -> Self {
        Self {
            whom,
            sni: None,
            destination: None,
        }
    }
}

/// What would become of the connection.
#[derive(Debug)]
pub struct Explanation {
    /// The pools that would be asked, in order; at least the one it was routed to.
    pub pools: Vec<PoolStep>,
    /// What comes of it.
    pub outcome: Outcome,
    /// Where it goes if every attempt fails.
    pub if_all_fail: Rest,
}

/// What comes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The last pool's first attempt.
    Backend,
    /// One of those of the last pool that have a chance.
    Drawn,
    /// No backend yet.
    Rest(Rest),
}

/// Where a connection goes that gets no backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// To this pool first.
    Fallback(Arc<str>),
    /// It waits, behind as many others.
    Held {
        /// Those before it.
        ahead: usize,
    },
    /// It ends.
    Ends(NotHeld),
}

/// One pool that is asked.
#[derive(Debug)]
pub struct PoolStep {
    /// The pool.
    pub pool: Arc<Pool>,
    /// Its settings then.
    pub settings: Arc<config::Pool>,
    /// Whether it is paused: then no backend is asked.
    pub pause: Pause,
    /// How many are held there.
    pub held: usize,
    /// It queues behind them: no backend is asked.
    pub queues: bool,
    /// What `consistent-hash` hashes.
    pub key: Option<Key>,
    /// Every backend, in file order.
    pub backends: Vec<BackendStep>,
    /// Which backends would be tried, one after the other, should each attempt fail; none: no
    /// backend can take it. Where it is drawn which the first one is, the others are not told.
    pub attempts: Vec<Planned>,
    /// Whether the first attempt is that one for certain.
    pub certain: bool,
}

/// The key of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// What it is made of.
    pub of: HashKey,
    /// Its hash; `None`: the client has not been told of closely enough.
    pub hash: Option<u64>,
}

/// One backend as the pick finds it.
#[derive(Debug)]
pub struct BackendStep {
    /// What it is.
    pub view: BackendView,
    /// Whether it can be had.
    pub verdict: Verdict,
    /// What the strategy compares.
    pub score: Option<Score>,
    /// How likely it gets the connection at the first attempt; `None`: not worked out.
    pub chance: Option<f64>,
}

/// Whether a backend can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The strategy chooses among these.
    Candidate,
    /// Not now.
    Obstacle(Obstacle),
    /// It could, but is kept for when no other can.
    Spare,
    /// Nobody is, as the pool is paused.
    NotAsked,
    /// New connections do not go there: its state, or a weight of 0.
    Out,
}

/// An attempt that would be made.
#[derive(Clone, Debug)]
pub struct Planned {
    /// At this backend.
    pub backend: Arc<Backend>,
    /// What the log would say.
    pub pick: Pick,
}

impl Asked {
    /// What a pick would hash.
    fn keys(self) -> Keys {
        Keys {
            client: match self.whom {
                Whom::Ip(ip, port) => Client::Ip(SocketAddr::new(ip, port.unwrap_or(0))),
                Whom::Unix => Client::Unix(0),
            },
            sni: self.sni,
            destination: self.destination,
        }
    }

    /// Whether that is the key of this very client.
    fn has(self, key: HashKey) -> bool {
        match (key, self.whom) {
            (HashKey::Sni, _) if self.sni.is_some() => true,
            (HashKey::DestinationIpPort, _) => self.destination.is_some(),
            (_, Whom::Unix) | (HashKey::ClientIpPort, Whom::Ip(_, None)) => false,
            (HashKey::ClientIp | HashKey::ClientIpPort | HashKey::Sni, Whom::Ip(..)) => true,
        }
    }
}

impl Pool {
    /// What would become of a connection that is routed here.
    pub fn explain(self: &Arc<Self>, asked: impl Into<Asked>) -> Explanation {
        let asked = asked.into();
        let mut pools = vec![self.step(asked)];
        let mut next = self.overflow();
        while let Some(pool) = next.filter(|_| pools.iter().all(PoolStep::is_in_vain)) {
            pools.push(pool.step(asked));
            next = pool.fallback();
        }
        let taking = pools.iter().find(|step| !step.is_in_vain());
        let outcome = match taking {
            Some(step) if step.certain => Outcome::Backend,
            Some(_) => Outcome::Drawn,
            None => Outcome::Rest(self.at_the_end()),
        };
        let if_all_fail = match self.overflow().filter(|_| pools.len() == 1) {
            Some(fallback) => Rest::Fallback(Arc::clone(&fallback.name)),
            None => self.at_the_end(),
        };
        Explanation {
            pools,
            outcome,
            if_all_fail,
        }
    }

    fn at_the_end(&self) -> Rest {
        match self.hold_max() {
            Err(not_held) => Rest::Ends(not_held),
            Ok(max) if self.held() >= max => Rest::Ends(NotHeld::Full),
            Ok(_) => Rest::Held { ahead: self.held() },
        }
    }

    fn step(self: &Arc<Self>, asked: Asked) -> PoolStep {
        let snapshot = self.snapshot();
        let mut attempt = Attempt::new(asked.keys());
        let queues = self.queues(&attempt);
        let settings = Arc::clone(&snapshot.settings);
        let key = (settings.balance == Balance::ConsistentHash).then(|| {
            let of = settings.hash.key;
            let hash = asked.has(of).then(|| snapshot.key(&attempt));
            Key { of, hash }
        });
        // Whoever queues is let in as those before it are.
        let asker = if queues { Asker::Held } else { Asker::Arriving };
        let mut trial = Trial::new(&snapshot, key);
        let (mut attempts, now) = (Vec::new(), Instant::now());
        while attempt.made() < settings.connect_attempts.min(MOST_TOLD) {
            let choose = &mut |rank, open: &Open<'_>, request| trial.choose(rank, open, request);
            let Some(taken) = snapshot.take_by(&attempt, asker, now, choose) else {
                break;
            };
            attempt.failed_at(Arc::clone(&taken.backend));
            attempts.push(Planned {
                backend: taken.backend,
                pick: taken.pick,
            });
            if queues || !trial.is_certain() {
                break;
            }
        }
        let mut backends = trial.backends(self.overview().backends);
        if queues {
            // The slot would be for the first who is held.
            attempts.clear();
            backends.iter_mut().for_each(|step| step.chance = None);
        }
        PoolStep {
            pool: Arc::clone(self),
            held: self.held(),
            pause: snapshot.pause,
            backends,
            certain: trial.is_certain() && !attempts.is_empty(),
            queues,
            key,
            attempts,
            settings,
        }
    }
}

impl PoolStep {
    /// No backend of this pool can take it now.
    fn is_in_vain(&self) -> bool {
        self.attempts.is_empty()
    }
}

/// Picks that are made on forks of the strategies.
struct Trial<'a> {
    snapshot: &'a Snapshot,
    forks: Vec<Balancer>,
    key: Option<Key>,
    /// What the first pick found, by tier; a tier that it did not come to has none.
    found: [Option<Vec<Found>>; 3],
    first: bool,
}

/// A member of a tier.
#[derive(Clone, Copy)]
struct Found {
    obstacle: Option<Obstacle>,
    standing: Standing,
}

impl<'a> Trial<'a> {
    fn new(snapshot: &'a Snapshot, key: Option<Key>) -> Self {
        let tiers = snapshot.tiers.iter();
        Self {
            snapshot,
            forks: tiers.map(|tier| tier.balancer.fork()).collect(),
            key,
            found: [const { None }; 3],
            first: true,
        }
    }

    fn choose(&mut self, rank: usize, open: &Open<'_>, request: Request) -> Option<Choice> {
        let (still, fork) = (Still::of(open), &self.forks[rank]);
        if self.first {
            let standings = match self.key {
                Some(Key { hash: None, .. }) => of_any_key(fork.standings(&still, request), &still),
                _ => fork.standings(&still, request),
            };
            let parts = self.snapshot.tiers[rank].parts;
            let found = |(i, standing): (usize, Standing)| Found {
                // As the pick sees it, also where it changed in between.
                obstacle: open
                    .obstacle(i)
                    .filter(|_| !still.open(i))
                    .or_else(|| is_overloaded(&standing).then_some(Obstacle::Load)),
                standing: Standing {
                    score: standing.score.map(|score| score.of_parts(parts)),
                    ..standing
                },
            };
            let standings = standings.into_iter().enumerate();
            self.found[rank] = Some(standings.map(found).collect());
        }
        let choice = fork.pick(&still, request, &mut rand::rng());
        choice.iter().for_each(|choice| open.foresee(choice.index));
        self.first &= choice.is_none();
        choice
    }

    /// Whether the first pick could have come out in one way alone.
    fn is_certain(&self) -> bool {
        let all = self.found.iter().flatten().flatten();
        let mut likely = all.filter(|found| found.standing.chance != Some(0.0));
        likely
            .next()
            .is_some_and(|found| found.standing.chance.is_some())
            && likely.next().is_none()
    }

    fn backends(&self, views: Vec<BackendView>) -> Vec<BackendStep> {
        let present = views
            .into_iter()
            .filter(|view| view.state != State::Removed);
        let places = self.places();
        let place = |view: &BackendView| places.get(&Arc::as_ptr(&view.backend)).copied();
        present
            .map(|view| self.backend(place(&view), view))
            .collect()
    }

    fn backend(&self, place: Option<(usize, usize)>, view: BackendView) -> BackendStep {
        let out = Standing {
            score: self.score_of_one_out(&view),
            chance: Some(0.0),
        };
        let (verdict, Standing { score, chance }) = match place {
            None => (Verdict::Out, out),
            Some((rank, i)) => match &self.found[rank] {
                None if self.snapshot.pause.is_on() => (Verdict::NotAsked, out),
                None => (Verdict::Spare, out),
                Some(found) => (
                    found[i]
                        .obstacle
                        .map_or(Verdict::Candidate, Verdict::Obstacle),
                    found[i].standing,
                ),
            },
        };
        BackendStep {
            view,
            verdict,
            score,
            chance,
        }
    }

    /// Every member by its backend: the tier that it is in, and which of its members it is.
    fn places(&self) -> HashMap<*const Backend, (usize, usize)> {
        let tiers = self.snapshot.tiers.iter().enumerate();
        let members = tiers.flat_map(|(rank, tier)| {
            let members = tier.members.iter().enumerate();
            members.map(move |(i, member)| (Arc::as_ptr(&member.backend), (rank, i)))
        });
        members.collect()
    }

    /// With `consistent-hash` one that is out may be the client's own, which it comes back to.
    fn score_of_one_out(&self, view: &BackendView) -> Option<Score> {
        let key = self.key?.hash?;
        let (identity, weight) = (view.backend.identity(), view.settings.weight);
        let score = crate::balance::consistent_hash::score(identity, weight, key);
        Some(Score::Hash {
            score,
            most: None,
            over: false,
        })
    }
}

/// Whether `max_load` keeps it from being chosen.
fn is_overloaded(standing: &Standing) -> bool {
    matches!(standing.score, Some(Score::Hash { over: true, .. }))
}

/// Of a key that may be any the chance of each is its share of the weights, see
/// [`consistent_hash`](crate::balance::consistent_hash).
///
/// Of `standings`, which are those of one key, only the bounds hold for any.
fn of_any_key(standings: Vec<Standing>, still: &Still) -> Vec<Standing> {
    let candidate = |i: usize| still.open(i) && !is_overloaded(&standings[i]);
    let shares: Vec<_> = (0..still.len())
        .map(|i| match candidate(i) {
            true => f64::from(still.weight(i)),
            false => 0.0,
        })
        .collect();
    let total: f64 = shares.iter().sum::<f64>().max(1.0);
    let standing = |(share, of_one): (f64, Standing)| Standing {
        score: of_one.score.filter(|_| is_overloaded(&of_one)),
        chance: Some(share / total),
    };
    shares.into_iter().zip(standings).map(standing).collect()
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;

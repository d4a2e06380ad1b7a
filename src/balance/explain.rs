//! What a pick would choose now, and what it compares, without picking.
//!
//! Nothing is chosen twice over: a [fork](Balancer::fork) picks among [`Still`] members, whose
//! counts stand still and whose slots nobody takes, by the code that picks; and what is told
//! of each member is what that code compares.

use super::load::Load;
use super::{
    Balancer, Choice, Members, Request, consistent_hash, draw, least_latency, random_two, share,
};

/// More open members than this have more pairs than are worth looking at: their chances are
/// not worked out.
const MOST_DRAWN: usize = 200;

/// Members as they were at one moment. A slot that is reserved is still there.
#[derive(Clone, Debug)]
pub struct Still(Vec<Member>);

#[derive(Clone, Copy, Debug)]
struct Member {
    weight: u32,
    active: u32,
    open: bool,
    identity: u64,
    latency: Option<f64>,
}

impl Still {
    /// As `members` are now.
    pub fn of(members: &impl Members) -> Self {
        let member = |i| Member {
            weight: members.weight(i),
            active: members.active(i),
            open: members.open(i),
            identity: members.identity(i),
            latency: members.latency(i),
        };
        Self((0..members.len()).map(member).collect())
    }
}

impl Members for Still {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn weight(&self, i: usize) -> u32 {
        self.0[i].weight
    }

    fn active(&self, i: usize) -> u32 {
        self.0[i].active
    }

    fn open(&self, i: usize) -> bool {
        self.0[i].open
    }

    fn identity(&self, i: usize) -> u64 {
        self.0[i].identity
    }

    fn latency(&self, i: usize) -> Option<f64> {
        self.0[i].latency
    }

    fn reserve(&self, i: usize) -> bool {
        self.open(i)
    }
}

/// What a strategy knows of a member, and compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Score {
    /// `round-robin`: the highest has the turn.
    Turn {
        /// Turns that are due to it, its share of this one included.
        due: f64,
    },
    /// `least-connections`, `random-two`: the lowest active/weight.
    Load {
        /// Connections that it has.
        active: u32,
        /// Its weight.
        weight: f64,
        /// Of those that `least-connections` finds tied for the lowest: turns that are due to
        /// it. The highest of them has the turn.
        due: Option<f64>,
    },
    /// `consistent-hash`: the highest.
    Hash {
        /// weight / −log2(u).
        score: f64,
        /// Most connections that `max_load` lets it have, this one included; `None`: unbounded.
        most: Option<u32>,
        /// It would have more, and another takes the connection.
        over: bool,
    },
    /// `least-latency`: the lower of two.
    Latency {
        /// Moving average in seconds, or the median of the others; `None`: nobody has a sample.
        seconds: Option<f64>,
        /// Whether it is its own.
        sampled: bool,
        /// Connections that it has.
        active: u32,
        /// Its weight.
        weight: f64,
        /// seconds × (active + 1) / weight; where nobody has a sample, with 1 for the seconds.
        cost: f64,
    },
    /// `first`: the lowest.
    Place {
        /// In the order of the file, from 1.
        place: usize,
    },
}

impl Score {
    /// The same where the strategy counts weights in parts: `parts` of them are one.
    #[must_use]
    pub fn of_parts(self, parts: u32) -> Self {
        let parts = f64::from(parts.max(1));
        match self {
            Self::Load {
                active,
                weight,
                due,
            } => Self::Load {
                active,
                weight: weight / parts,
                due,
            },
            Self::Latency {
                seconds,
                sampled,
                active,
                weight,
                cost,
            } => Self::Latency {
                seconds,
                sampled,
                active,
                weight: weight / parts,
                cost: cost * parts,
            },
            Self::Hash { score, most, over } => Self::Hash {
                score: score / parts,
                most,
                over,
            },
            Self::Turn { .. } | Self::Place { .. } => self,
        }
    }
}

/// How a member stands in a pick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// What is compared; `None`: it does not take part.
    pub score: Option<Score>,
    /// How likely it is chosen: 0 or 1 where nothing is drawn. `None`: not worked out, as there
    /// are too many to draw from.
    pub chance: Option<f64>,
}

impl Balancer {
    /// How each member stands in the pick that would come next.
    ///
    /// No sequence is moved on.
    pub fn standings(&self, members: &Still, request: Request) -> Vec<Standing> {
        let scores = self.scores(members, request);
        let chances = self.chances(members, request);
        let pairs = scores.into_iter().zip(chances);
        pairs
            .map(|(score, chance)| Standing { score, chance })
            .collect()
    }

    /// Whether a pick draws, so that the same request may be answered in several ways.
    pub fn draws(&self) -> bool {
        matches!(self, Self::RandomTwo | Self::LeastLatency)
    }

    fn scores(&self, members: &Still, request: Request) -> Vec<Option<Score>> {
        let all = 0..members.len();
        match self {
            Self::RoundRobin(strategy) => strategy.scores(members, request),
            Self::LeastConnections(strategy) => strategy.scores(members, request),
            Self::RandomTwo => Load::scores(members),
            Self::LeastLatency => least_latency::scores(members),
            Self::ConsistentHash(strategy) => {
                let loads = strategy.loads(members);
                let load = |i: usize| loads.as_ref().map(|loads| loads[i]);
                let score = |i| Score::Hash {
                    score: consistent_hash::score(
                        members.identity(i),
                        members.weight(i),
                        request.key,
                    ),
                    most: load(i).map(|load| load.most),
                    over: load(i).is_some_and(|load| load.over),
                };
                all.map(|i| Some(score(i))).collect()
            }
            Self::First => all
                .map(|i| (share(members, i) > 0).then_some(Score::Place { place: i + 1 }))
                .collect(),
        }
    }

    fn chances(&self, members: &Still, request: Request) -> Vec<Option<f64>> {
        match self {
            Self::RandomTwo => drawn(members, random_two::choose),
            Self::LeastLatency => drawn(members, least_latency::choose),
            _ => {
                // Nothing is drawn: any generator will do.
                let chosen = self.fork().pick(members, request, &mut rand::rng());
                let chosen = chosen.map(|choice| choice.index);
                (0..members.len())
                    .map(|i| Some(f64::from(u8::from(chosen == Some(i)))))
                    .collect()
            }
        }
    }
}

/// How likely each is chosen of two that are drawn, by what `choose` makes of every such two.
fn drawn(
    members: &Still,
    choose: impl Fn(&Still, usize, Option<usize>) -> Choice,
) -> Vec<Option<f64>> {
    let open = (0..members.len()).filter(|&i| share(members, i) > 0);
    if open.count() > MOST_DRAWN {
        return vec![None; members.len()];
    }
    let mut chances = vec![Some(0.0); members.len()];
    for (first, second, chance) in draw::every_two(members) {
        let winner = choose(members, first, second).index;
        chances[winner] = chances[winner].map(|sum| sum + chance);
    }
    chances
}

//! Sentences of an explanation.

use super::obstacle;
use crate::admin::words::At;
use crate::balance::Score;
use crate::config::{Balance, HashKey};
use crate::pool::explain::{BackendStep, Explanation, Key, PoolStep, Verdict};
use crate::pool::{BackendView, Obstacle, State};

/// By what a strategy chooses.
pub(super) fn rule(balance: Balance) -> &'static str {
    match balance {
        Balance::RoundRobin => "each in turn, by weight",
        Balance::LeastConnections => "fewest connections for its weight; the tied take turns",
        Balance::ConsistentHash => "the highest score of its name and the client's key",
        Balance::RandomTwo => {
            "of two drawn by weight the one with fewer connections for its weight"
        }
        Balance::LeastLatency => {
            "of two drawn by weight the one with the lower latency x (active + 1) / weight"
        }
        Balance::First => "the first in the file with room",
    }
}

/// The word for a verdict.
pub(super) fn verdict(found: &BackendStep) -> &'static str {
    match found.verdict {
        Verdict::Candidate => "candidate",
        Verdict::Spare => "spare",
        Verdict::NotAsked => "not_asked",
        Verdict::Obstacle(Obstacle::Limit) => "limit",
        Verdict::Obstacle(Obstacle::Connecting) => "connecting",
        Verdict::Obstacle(Obstacle::Resting) => "resting",
        Verdict::Obstacle(Obstacle::Tried) => "tried",
        Verdict::Obstacle(Obstacle::Load) => "overloaded",
        Verdict::Obstacle(Obstacle::Ejected) => "state",
        Verdict::Obstacle(Obstacle::Trying) => "trying",
        Verdict::Out if found.view.state != State::Up => "state",
        Verdict::Out if found.view.settings.weight == 0 => "weight",
        Verdict::Out => "not_asked",
    }
}

/// Why a backend gets the connection, or does not. `attempt`: the one that would be made there,
/// from 0.
pub(super) fn why(found: &BackendStep, step: &PoolStep, attempt: Option<usize>) -> String {
    match found.verdict {
        Verdict::Candidate => candidate(found, step, attempt),
        Verdict::Spare => "kept for when no other can take it".to_owned(),
        Verdict::NotAsked => "not asked: the pool is paused".to_owned(),
        Verdict::Obstacle(_) => kept(found, step),
        Verdict::Out => out(&found.view),
    }
}

fn candidate(found: &BackendStep, step: &PoolStep, attempt: Option<usize>) -> String {
    match attempt {
        None if step.queues => "not asked: others are held before it".to_owned(),
        None if step.certain => "could take it".to_owned(),
        None => match found.chance {
            Some(chance) => format!("drawn with a chance of {:.1}%", chance * 100.0),
            None => "may be drawn".to_owned(),
        },
        Some(0) if found.view.state == State::Down => {
            format!(
                "used all the same (when_all_down = \"try\"): {}",
                out(&found.view)
            )
        }
        Some(0) if found.view.state == State::Ejected => format!(
            "chosen, as the trial after its ejection: {}",
            winner(found, step)
        ),
        Some(0) => format!("chosen: {}", winner(found, step)),
        Some(n) => format!("attempt {}, if those before fail", n + 1),
    }
}

/// What makes it the first.
fn winner(found: &BackendStep, step: &PoolStep) -> &'static str {
    let candidates = step.backends.iter();
    let alone = candidates
        .filter(|step| step.verdict == Verdict::Candidate)
        .count()
        == 1;
    match found.score {
        _ if alone => "no other can take it",
        Some(Score::Turn { .. }) => "it is its turn",
        Some(Score::Load { due: Some(_), .. }) => "tied for fewest, and it is its turn",
        Some(Score::Load { .. }) => "fewest connections for its weight",
        Some(Score::Hash { .. }) => "the highest score",
        Some(Score::Latency { .. }) => "the lower of the two",
        Some(Score::Place { .. }) => "the first with room",
        None => "no other can be drawn",
    }
}

fn kept(found: &BackendStep, step: &PoolStep) -> String {
    let backend = &found.view.backend;
    match obstacle(found) {
        Some(Obstacle::Limit) => format!("at its limit of {} connections", backend.limit()),
        Some(Obstacle::Connecting) if step.queues => format!(
            "{} connects in progress, as many as those who are held may have",
            backend.connecting()
        ),
        Some(Obstacle::Connecting) => format!(
            "{} connects in progress, as many as max_connecting allows",
            backend.connecting()
        ),
        Some(Obstacle::Resting) => {
            "failed the last connect: those who are held try it again at the next tick".to_owned()
        }
        Some(Obstacle::Tried) => "tried already".to_owned(),
        Some(Obstacle::Load) => overloaded(found.score),
        Some(Obstacle::Ejected) => "ejected in this moment".to_owned(),
        Some(Obstacle::Trying) => {
            "ejected: its trial is under way, and has shown nothing yet".to_owned()
        }
        None => String::new(),
    }
}

fn overloaded(score: Option<Score>) -> String {
    match score {
        Some(Score::Hash {
            most: Some(most), ..
        }) => format!("overloaded: max_load lets it have {most} connections now"),
        _ => "overloaded: as many connections as max_load lets it have now".to_owned(),
    }
}

/// Why it gets no new connections.
fn out(view: &BackendView) -> String {
    let cause = view.history.last().map_or("", |entry| &entry.cause);
    match (view.state, cause) {
        (State::Up, _) if view.settings.weight == 0 => {
            "weight 0: takes no new connections".to_owned()
        }
        (State::Up, _) => "came up in this moment".to_owned(),
        (State::Starting, _) => "no check result yet".to_owned(),
        (State::Ejected, cause) => match view.ejected_until {
            Some(until) => format!("ejected until {:.0}: {cause}", At(until)),
            None => format!("ejected: {cause}"),
        },
        (state, "") => state.as_str().to_owned(),
        (state, cause) => format!("{}: {cause}", state.as_str()),
    }
}

/// What had to be assumed of the client.
pub(super) fn assumed(explanation: &Explanation) -> Option<String> {
    let mut keys = explanation.pools.iter().filter_map(|step| step.key);
    let Key { of, .. } = keys.find(|key| key.hash.is_none())?;
    let why = match of {
        HashKey::ClientIp => "a Unix client has no address to hash and is given a key by chance",
        HashKey::ClientIpPort => {
            "the hash key is client-ip-port, and each port has another: any port is assumed, \
             give one to be told its backend"
        }
        HashKey::Sni => {
            "the hash key is sni: a Unix client that sends none has no address to hash either and \
             is given a key by chance"
        }
        HashKey::DestinationIpPort => {
            "the hash key is destination-ip-port, and there is not just one address to connect \
             to, or a PROXY header says which it was: any is assumed"
        }
    };
    Some(why.to_owned())
}

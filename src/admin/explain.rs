//! `GET /explain?listener&client&port&sni&alpn`: which route, pool and backend a client would get
//! now, step by step.
//!
//! The structures are the format: fields may be added, none is renamed. `why`, `rule` and
//! `notes` are sentences for people, everything else is for programs too.

mod admission;
mod query;
mod routes;
mod words;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::Refusal;
use super::words::{At, Seconds};
use super::{Phase, Running};
use crate::balance::Score;
use crate::conn::way::Routed;
use crate::listener::Listening;
use crate::metrics::Rejected;
use crate::net::{Address, Location};
use crate::pool::explain::{
    BackendStep, Explanation, Key, Outcome, Planned, PoolStep, Rest, Verdict, Whom,
};
use crate::pool::{NotHeld, Obstacle, Pool, State};
use crate::proxy::Expectation;

use admission::AdmissionStep;
pub(super) use query::Query;
use routes::RouteStep;

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    client: Client,
    listener: ListenerStep,
    /// Whether it would be let in.
    admission: AdmissionStep,
    /// Tried in this order; the first match wins.
    routes: Vec<RouteStep>,
    /// The number of the one that takes it; null: it is not let in, or none does.
    route: Option<Arc<str>>,
    /// Where it is routed; null: it is not let in, or no route takes it.
    pool: Option<Arc<str>>,
    /// The pools that are asked, in this order: that one, then fallbacks.
    pools: Vec<PoolAnswer>,
    outcome: Ending,
    /// Where it goes if every attempt fails; null: no attempt would be made.
    if_all_fail: Option<Ending>,
    notes: Vec<String>,
}

/// Who is asked about.
#[derive(Debug, Serialize)]
struct Client {
    address: String,
    port: Option<u16>,
    sni: Option<String>,
    alpn: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ListenerStep {
    listener: Arc<str>,
    addresses: Vec<Address>,
    accepting: bool,
}

#[derive(Debug, Serialize)]
struct PoolAnswer {
    pool: Arc<str>,
    balance: &'static str,
    rule: &'static str,
    paused: bool,
    held: usize,
    /// It queues behind those: no backend is asked.
    queues: bool,
    key: Option<KeyAnswer>,
    backends: Vec<BackendAnswer>,
    attempts: Vec<Attempt>,
    /// Whether the first attempt is certain, and not one of several that may be drawn.
    certain: bool,
}

/// What `consistent-hash` hashes.
#[derive(Debug, Serialize)]
struct KeyAnswer {
    of: &'static str,
    /// 16 hexadecimal digits; null: not known.
    hash: Option<String>,
}

#[derive(Debug, Serialize)]
struct BackendAnswer {
    backend: Arc<str>,
    address: Location,
    state: State,
    /// Since when it is in that state.
    since: At,
    weight: u32,
    /// The same, less what a slow start takes away.
    effective_weight: f64,
    /// When its ejection expires, or did: then one connection tries it.
    ejected_until: Option<At>,
    backup: bool,
    active: u32,
    /// Most connections; 0: no limit.
    limit: u32,
    connecting: u32,
    verdict: &'static str,
    score: Option<ScoreAnswer>,
    /// Of the first attempt; null: not worked out.
    chance: Option<f64>,
    /// The first attempt that would be at this backend, from 1.
    attempt: Option<usize>,
    why: String,
}

/// What the strategy compares.
#[derive(Debug, Serialize)]
struct ScoreAnswer {
    value: f64,
    /// Which value wins: highest, lowest.
    best: &'static str,
    /// Turns due to those that are tied for the lowest; the highest wins.
    due: Option<f64>,
    /// What `least-latency` takes for its latency; null: nobody has a sample.
    latency_seconds: Option<f64>,
    /// Whether that is its own.
    sampled: Option<bool>,
    /// Most connections that `max_load` lets it have, this one included.
    most: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Attempt {
    attempt: usize,
    backend: Arc<str>,
    address: Location,
    /// What the access log would say.
    pick: String,
}

/// What comes of the connection.
#[derive(Debug, Default, Serialize)]
struct Ending {
    /// backend, drawn, fallback, held, reset, rejected.
    result: &'static str,
    pool: Option<Arc<str>>,
    backend: Option<Arc<str>>,
    address: Option<Location>,
    pick: Option<String>,
    /// How many are held before it.
    ahead: Option<usize>,
    /// How long it may be held; null: as long as it takes.
    hold_timeout_seconds: Option<Seconds>,
    /// Under which word it would be counted.
    reason: Option<&'static str>,
}

impl Answer {
    /// What would become of the connection now.
    ///
    /// # Errors
    /// 404: there is no such listener.
    pub(super) fn of(running: &Running, query: Query) -> Result<Self, Refusal> {
        let listening = running.listener(&query.listener).ok_or_else(|| {
            let name = &query.listener;
            Refusal::not_found(format!("no listener {name}"))
        })?;
        let listener = &listening.listener;
        let mut notes = accepting(running, &listening);
        notes.extend(proxied(&listening, &query));
        let visitor = query.visitor();
        let way = listener.origin.way.load_full();
        let admit = way.admit.as_ref();
        let judged = admit.map(|admit| admit.explain(&visitor.client, Instant::now()));
        let refused = judged.and_then(|judged| judged.refused);
        let routed = way.route(&visitor).filter(|_| refused.is_none());
        let (route, home) = match routed {
            Some(Routed { route, pool }) => (route, Some(pool)),
            None => (None, None),
        };
        let asked = query.asked(routes::destination(&listening, &way));
        let explanation = home.as_ref().map(|home| home.explain(asked));
        notes.extend(routes::notes(&way, &visitor, &query));
        notes.extend(explanation.iter().flat_map(words::assumed));
        let rejected = Ending {
            result: "rejected",
            reason: Some(refused.unwrap_or(Rejected::NoRoute).as_str()),
            ..Ending::default()
        };
        Ok(Self {
            client: Client::of(&query),
            listener: ListenerStep {
                listener: Arc::clone(&listener.settings.name),
                addresses: listening.addresses().cloned().collect(),
                accepting: listening.is_accepting() && !running.admission.gate.is_paused(),
            },
            admission: AdmissionStep::of(judged.as_ref(), &way.settings),
            routes: routes::steps(&way, &visitor),
            route,
            pool: home.as_ref().map(|home| Arc::clone(&home.name)),
            outcome: match (&explanation, &home) {
                (Some(explanation), Some(home)) => Ending::of(explanation, home),
                _ => rejected,
            },
            if_all_fail: explanation.as_ref().and_then(|explanation| {
                let tried = explanation
                    .pools
                    .iter()
                    .any(|step| !step.attempts.is_empty());
                let rest = Ending::rest(&explanation.if_all_fail, home.as_ref()?, true);
                tried.then_some(rest)
            }),
            pools: explanation
                .iter()
                .flat_map(|explanation| explanation.pools.iter().map(PoolAnswer::of))
                .collect(),
            notes,
        })
    }
}

/// What keeps the listener from accepting: until then nothing of the rest happens.
fn accepting(running: &Running, listening: &Listening) -> Vec<String> {
    let listener = &listening.listener;
    let name = &listener.settings.name;
    if running.phase() == Phase::Stopping {
        return vec![format!(
            "isobar is stopping: once listener {name} is closed new clients are refused"
        )];
    }
    let wait = "clients wait in its accept queue; this is what becomes of them after that";
    let limited = running.admission.gate.is_paused() || listener.gate.is_paused();
    match (limited, listening.is_accepting()) {
        (true, _) => vec![format!(
            "listener {name} is at a limit on connections: {wait}"
        )],
        (false, false) => vec![format!("listener {name} is not accepting: {wait}")],
        (false, true) => Vec::new(),
    }
}

/// Whether a connection from there must begin with a PROXY header.
fn proxied(listening: &Listening, query: &Query) -> Option<String> {
    let way = listening.listener.origin.way.load();
    let listener = &way.settings;
    let name = &listener.name;
    let who = match query.whom {
        Whom::Ip(ip, _) => ip.to_string(),
        Whom::Unix => "a Unix client".to_owned(),
    };
    match Expectation::of(listener, &query.visitor().client) {
        Expectation::Nothing => None,
        Expectation::Untrusted => Some(format!(
            "listener {name} takes connections of its trusted_proxies alone, each with a PROXY \
             header: this is what becomes of a client that such a header names; a connection \
             that {who} makes itself is reset (untrusted)"
        )),
        Expectation::Header => Some(format!(
            "a connection that {who} makes itself to listener {name} must begin with a PROXY \
             header, as from one of its trusted_proxies, or it is reset (proxy_header): this is \
             what becomes of it where the header names that client, or nobody"
        )),
    }
}

impl Client {
    fn of(query: &Query) -> Self {
        let (address, port) = match query.whom {
            Whom::Ip(ip, port) => (ip.to_string(), port),
            Whom::Unix => ("unix".to_owned(), None),
        };
        Self {
            address,
            port,
            sni: query.sni.clone(),
            alpn: query.alpn.clone(),
        }
    }
}

impl PoolAnswer {
    fn of(step: &PoolStep) -> Self {
        let balance = step.settings.balance;
        let attempts = step.attempts.iter().enumerate();
        // Which of them is drawn nobody knows.
        let known = attempts.filter(|_| step.certain);
        Self {
            pool: Arc::clone(&step.pool.name),
            balance: balance.as_str(),
            rule: words::rule(balance),
            paused: step.pause.is_on(),
            held: step.held,
            queues: step.queues,
            key: step.key.map(KeyAnswer::of),
            backends: step
                .backends
                .iter()
                .map(|backend| BackendAnswer::of(backend, step))
                .collect(),
            attempts: known.map(Attempt::of).collect(),
            certain: step.certain,
        }
    }
}

impl KeyAnswer {
    fn of(key: Key) -> Self {
        Self {
            of: key.of.as_str(),
            hash: key.hash.map(|hash| format!("{hash:016x}")),
        }
    }
}

impl BackendAnswer {
    fn of(found: &BackendStep, step: &PoolStep) -> Self {
        let BackendStep { view, .. } = found;
        let mut attempts = step.attempts.iter();
        let attempt = attempts.position(|planned| Arc::ptr_eq(&planned.backend, &view.backend));
        let attempt = attempt.filter(|_| step.certain);
        Self {
            backend: Arc::clone(&view.backend.name),
            address: view.backend.location.clone(),
            state: view.state,
            since: At(view.since),
            weight: view.settings.weight,
            effective_weight: view.effective_weight,
            ejected_until: view.ejected_until.map(At),
            backup: view.settings.backup,
            active: view.backend.active(),
            limit: view.backend.limit(),
            connecting: view.backend.connecting(),
            verdict: words::verdict(found),
            score: found.score.map(ScoreAnswer::of),
            chance: found.chance,
            attempt: attempt.map(|index| index + 1),
            why: words::why(found, step, attempt),
        }
    }
}

impl ScoreAnswer {
    fn of(score: Score) -> Self {
        let of = |value, best| Self {
            value,
            best,
            due: None,
            latency_seconds: None,
            sampled: None,
            most: None,
        };
        match score {
            Score::Turn { due } => of(due, "highest"),
            Score::Load {
                active,
                weight,
                due,
            } => Self {
                due,
                ..of(f64::from(active) / weight, "lowest")
            },
            Score::Hash { score, most, .. } => Self {
                most,
                ..of(score, "highest")
            },
            Score::Latency {
                seconds,
                sampled,
                cost,
                ..
            } => Self {
                latency_seconds: seconds,
                sampled: Some(sampled),
                ..of(cost, "lowest")
            },
            Score::Place { place } => of(place as f64, "lowest"),
        }
    }
}

impl Attempt {
    fn of((index, planned): (usize, &Planned)) -> Self {
        Self {
            attempt: index + 1,
            backend: Arc::clone(&planned.backend.name),
            address: planned.backend.location.clone(),
            pick: planned.pick.to_string(),
        }
    }
}

impl Ending {
    fn of(explanation: &Explanation, home: &Pool) -> Self {
        let last = explanation.pools.last();
        let first = last.and_then(|step| Some((step, step.attempts.first()?)));
        match (&explanation.outcome, first) {
            (Outcome::Backend, Some((step, first))) => Self {
                result: "backend",
                pool: Some(Arc::clone(&step.pool.name)),
                backend: Some(Arc::clone(&first.backend.name)),
                address: Some(first.backend.location.clone()),
                pick: Some(first.pick.to_string()),
                ..Self::default()
            },
            (Outcome::Rest(rest), _) => Self::rest(rest, home, false),
            (Outcome::Backend | Outcome::Drawn, _) => Self {
                result: "drawn",
                pool: last.map(|step| Arc::clone(&step.pool.name)),
                ..Self::default()
            },
        }
    }

    /// `tried`: after attempts that failed.
    fn rest(rest: &Rest, home: &Pool, tried: bool) -> Self {
        let pool = Some(Arc::clone(&home.name));
        match rest {
            Rest::Fallback(name) => Self {
                result: "fallback",
                pool: Some(Arc::clone(name)),
                ..Self::default()
            },
            Rest::Held { ahead } => Self {
                result: "held",
                pool,
                pick: Some("held".to_owned()),
                ahead: Some(*ahead),
                hold_timeout_seconds: limit(home.settings().hold.timeout),
                ..Self::default()
            },
            Rest::Ends(not_held) => Self {
                result: "reset",
                pool,
                reason: match not_held {
                    NotHeld::Full => Some("hold_full"),
                    NotHeld::Off if tried => Some("connect_failed"),
                    NotHeld::Off => Some("no_backend"),
                },
                ..Self::default()
            },
        }
    }
}

/// Zero: none.
fn limit(time: Duration) -> Option<Seconds> {
    (!time.is_zero()).then_some(Seconds(time))
}

/// What keeps a backend from being had.
fn obstacle(found: &BackendStep) -> Option<Obstacle> {
    match found.verdict {
        Verdict::Obstacle(obstacle) => Some(obstacle),
        _ => None,
    }
}

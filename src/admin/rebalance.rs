//! `/pools/P/rebalance`: evens a pool at quiet moments, or says what that would take.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};

use super::actions::{App, By, Name, find, one};
use super::audit::Change;
use super::body;
use super::error::Refusal;
use super::guard;
use super::running::Phase;
use super::words::{At, Seconds, Table};
use crate::config::{self, Rate};
use crate::net::Address;
use crate::pool::rebalance::Wish;
use crate::pool::{Pool, Rebalance};
use crate::rebalance::{self, Candidate, Order, Proposal};

/// Connections that an answer names at most.
const NAMED: usize = 1000;

/// The body of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    target: Option<Target>,
    #[serde(default)]
    rate: Option<Pace>,
    #[serde(default)]
    idle_first: bool,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug)]
struct Target(f64);

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let target = config::percentage(&text).map(Self);
        target.map_err(|why| serde::de::Error::custom(format_args!("target {text:?}: {why}")))
    }
}

#[derive(Debug)]
struct Pace(Rate);

impl<'de> Deserialize<'de> for Pace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let rate = text.parse().map(Self);
        rate.map_err(|why| serde::de::Error::custom(format_args!("rate {text:?}: {why}")))
    }
}

impl Asked {
    fn wish(&self) -> Wish {
        let usual = Wish::default();
        Wish {
            target: self.target.as_ref().map_or(usual.target, |target| target.0),
            rate: self.rate.as_ref().map_or(usual.rate, |rate| rate.0),
            idle_first: self.idle_first,
        }
    }
}

/// What evens a pool.
#[derive(Debug, Serialize)]
pub(super) struct Proposed {
    pool: Arc<str>,
    /// Nothing is closed by this.
    dry_run: bool,
    target: f64,
    rate: String,
    idle_first: bool,
    /// Connections of the backends that take part.
    active: u64,
    /// Of those, how many are to be closed.
    closing: u32,
    imbalance: Imbalance,
    backends: Table<Arc<str>, Part>,
    /// Those that would be first, as things stand.
    connections: Vec<First>,
}

/// The largest deviation of connections per weight from the mean, as a share of it.
#[derive(Debug, Serialize)]
struct Imbalance {
    before: f64,
    /// When all that are closed have redialled.
    after: f64,
}

/// A backend that takes part.
#[derive(Debug, Serialize)]
struct Part {
    weight: u32,
    active: u32,
    closing: u32,
    /// Connections that it has when all that are closed have redialled.
    after: u32,
}

#[derive(Debug, Serialize)]
struct First {
    id: String,
    client: Address,
    backend: Arc<str>,
    age_seconds: Seconds,
    idle_seconds: Seconds,
    /// It could be closed in this moment.
    quiet: bool,
}

impl Proposed {
    fn of(pool: &Pool, wish: Wish, dry_run: bool, proposal: &Proposal) -> Self {
        let active = proposal.shares.iter().map(|share| share.active);
        let weights = proposal.taking.weights().zip(active);
        let backends = proposal.taking.backends().zip(weights).enumerate();
        let part = |(i, (backend, (weight, active)))| {
            let backend: &Arc<crate::pool::Backend> = backend;
            let part = Part {
                weight,
                active,
                closing: proposal.closing(i),
                after: proposal.evening.then[i],
            };
            (Arc::clone(&backend.name), part)
        };
        let chosen = proposal.chosen(&Order::new(wish.idle_first));
        let chosen = chosen.into_iter().take(NAMED);
        Self {
            pool: Arc::clone(&pool.name),
            dry_run,
            target: wish.target,
            rate: wish.rate.to_string(),
            idle_first: wish.idle_first,
            active: proposal.shares.iter().map(|s| u64::from(s.active)).sum(),
            closing: proposal.total(),
            imbalance: Imbalance {
                before: proposal.evening.before,
                after: proposal.evening.after,
            },
            backends: backends.map(part).collect(),
            connections: chosen.map(|c| First::of(c, proposal.at)).collect(),
        }
    }
}

impl First {
    fn of(candidate: &Candidate, now: Instant) -> Self {
        let since = |at: Instant| Seconds(now.saturating_duration_since(at));
        Self {
            id: candidate.id.to_string(),
            client: candidate.client.clone(),
            backend: Arc::clone(&candidate.backend),
            age_seconds: since(candidate.accepted),
            idle_seconds: since(candidate.moved_at),
            quiet: candidate.quiet_at.is_some_and(|at| at <= now),
        }
    }
}

/// A rebalance that goes on, or the last one.
#[derive(Debug, Serialize)]
pub(super) struct Progress {
    since: At,
    by: Arc<str>,
    target: f64,
    rate: String,
    idle_first: bool,
    planned: u32,
    closed: u32,
    imbalance: f64,
    outcome: Option<&'static str>,
    ended_at: Option<At>,
}

impl Progress {
    /// Of the one that goes on.
    pub(super) fn going_on(pool: &Pool) -> Option<Self> {
        let rebalance = pool.rebalance();
        rebalance
            .map(|one| Self::of(&one))
            .filter(|one| one.outcome.is_none())
    }

    fn of(rebalance: &Rebalance) -> Self {
        let (wish, stamp) = (rebalance.wish, &rebalance.stamp);
        let progress = rebalance.progress();
        Self {
            since: At(stamp.since),
            by: Arc::clone(&stamp.by),
            target: wish.target,
            rate: wish.rate.to_string(),
            idle_first: wish.idle_first,
            planned: progress.planned,
            closed: progress.closed,
            imbalance: progress.imbalance,
            outcome: progress.ended.map(|(outcome, _)| outcome.as_str()),
            ended_at: progress.ended.map(|(_, at)| At(at)),
        }
    }

    fn told(this: Option<&Self>) -> String {
        let Some(this) = this else {
            return "none".to_owned();
        };
        let (planned, closed) = (this.planned, this.closed);
        let outcome = this.outcome.unwrap_or("running");
        format!("{outcome} planned={planned} closed={closed}")
    }
}

/// How far a pool's rebalance has come.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pool: Arc<str>,
    /// The one that goes on.
    rebalancing: Option<Progress>,
    /// The one that went on last, if none does now.
    last: Option<Progress>,
}

impl Shown {
    fn of(pool: &Pool) -> Self {
        let all = pool.rebalance().map(|one| Progress::of(&one));
        let (rebalancing, last) = match all {
            Some(one) if one.outcome.is_none() => (Some(one), None),
            one => (None, one),
        };
        Self {
            pool: Arc::clone(&pool.name),
            rebalancing,
            last,
        }
    }
}

/// How far it has come.
pub(super) async fn show(State(running): App, name: Name) -> Result<Json<Shown>, Refusal> {
    let pool = find(&running, &one(name)?)?;
    Ok(Json(Shown::of(&pool)))
}

/// Begins one, or says what it would do.
pub(super) async fn begin(
    State(running): App,
    Extension(peer): By,
    name: Name,
    request: Request,
) -> Result<Json<Proposed>, Refusal> {
    let pool = find(&running, &one(name)?)?;
    let (head, body) = request.into_parts();
    let asked: Asked = body::json(&head, body).await?;
    if !asked.dry_run && running.configured().file.config.admin.read_only {
        return Err(guard::forbidden(guard::READ_ONLY));
    }
    let wish = asked.wish();
    let proposal = Proposal::make(&pool, &running.cores, Vec::new(), wish.target).await;
    let proposed = Proposed::of(&pool, wish, asked.dry_run, &proposal);
    if asked.dry_run {
        return Ok(Json(proposed));
    }
    if let Some(why) = impossible(running.phase(), &proposal) {
        return Err(Refusal::new(StatusCode::CONFLICT, why));
    }
    let before = Progress::told(Progress::going_on(&pool).as_ref());
    let Imbalance { before: now, after } = proposed.imbalance;
    Change {
        by: &peer.to_string(),
        what: "rebalance",
        pool: Some(&pool.name),
        backend: None,
        before: format!("{before} imbalance={now:.3}"),
        after: format!(
            "closing={} imbalance={after:.3} target={} rate={} idle_first={}",
            proposed.closing, wish.target, wish.rate, wish.idle_first
        ),
    }
    .log();
    rebalance::begin(&pool, &running.cores, wish, peer.stamp(), proposal);
    Ok(Json(proposed))
}

/// Why nothing can be closed now.
fn impossible(phase: Phase, proposal: &Proposal) -> Option<&'static str> {
    if phase == Phase::Stopping {
        return Some("isobar is stopping");
    }
    let paused = proposal.taking.is_paused();
    paused.then_some("the pool is paused, so whoever is closed could not come back")
}

/// Stops it. That none goes on is no fault.
pub(super) async fn stop(
    State(running): App,
    Extension(peer): By,
    name: Name,
    request: Request,
) -> Result<Json<Shown>, Refusal> {
    let pool = find(&running, &one(name)?)?;
    let (head, body) = request.into_parts();
    let super::actions::Nothing {} = body::json(&head, body).await?;
    let before = Progress::told(Progress::going_on(&pool).as_ref());
    pool.stop_rebalance();
    let shown = Shown::of(&pool);
    Change {
        by: &peer.to_string(),
        what: "stop rebalance",
        pool: Some(&pool.name),
        backend: None,
        before,
        after: Progress::told(shown.last.as_ref()),
    }
    .log();
    Ok(Json(shown))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_not_given_is_usual() {
        let asked: Asked = serde_json::from_str("{}").expect("nothing is needed");
        assert_eq!(asked.wish(), Wish::default());
        assert!(!asked.dry_run);
        let text = r#"{"target": "5%", "rate": "30/m", "idle_first": true, "dry_run": true}"#;
        let asked: Asked = serde_json::from_str(text).expect("an order");
        let wish = asked.wish();
        assert!(asked.dry_run && wish.idle_first);
        assert_eq!((wish.target, &*wish.rate.to_string()), (0.05, "30/m"));
        assert_eq!(wish.rate.interval(), Duration::from_secs(2));
        for text in [
            r#"{"target": 5}"#,
            r#"{"target": "5"}"#,
            r#"{"rate": 5}"#,
            r#"{"rate": "0/s"}"#,
            r#"{"idle_first": "yes"}"#,
            r#"{"idle-first": true}"#,
        ] {
            serde_json::from_str::<Asked>(text).expect_err(text);
        }
    }
}

//! Changes of a pool: states and weights of backends, backends that come and go, pauses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};

use super::audit::{Change, Peer, told};
use super::body;
use super::error::{Place, Refusal};
use super::history::no_pool;
use super::running::Running;
use super::stats::{BackendStats, of_backend};
use super::words::At;
use crate::config;
use crate::pool::{AdminState, BackendView, Pool, Refused, Wanted};

pub(super) type App = State<Arc<Running>>;
pub(super) type By = Extension<Peer>;
/// Of the pool in the path.
pub(super) type Name = Names<String>;
/// Of the names in the path.
type Names<T> = Result<Path<T>, PathRejection>;

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::NoBackend { .. } => StatusCode::NOT_FOUND,
            Refused::Duplicate { .. } | Refused::OfName { .. } | Refused::HoldsNothing(_) => {
                StatusCode::CONFLICT
            }
        };
        Self::new(status, refused.to_string())
    }
}

/// `PUT /pools/P/backends/B`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    #[serde(default)]
    state: Option<Word>,
    #[serde(default)]
    weight: Option<Weight>,
    #[serde(default)]
    timeout: Option<Length>,
}

/// `POST /pools/P/pause`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pausing {
    #[serde(default, rename = "for")]
    length: Option<Lasting>,
}

/// What is not to be configured.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Debug)]
struct Word(AdminState);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let mut all = AdminState::ALL.into_iter();
        let found = all.find(|state| state.as_str() == word);
        found.map(Self).ok_or_else(|| {
            let expected = "a state is ready, drain or maintenance";
            serde::de::Error::custom(format_args!("{expected}, not {word:?}"))
        })
    }
}

#[derive(Debug)]
struct Weight(u32);

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let weight = number.as_u64().and_then(|n| u32::try_from(n).ok());
        weight.filter(|n| *n <= 1000).map(Self).ok_or_else(|| {
            let expected = "a weight is a whole number from 0 to 1000";
            serde::de::Error::custom(format_args!("{expected}, not {number}"))
        })
    }
}

#[derive(Debug)]
struct Length(Duration);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let length = config::duration(&text);
        length.map(Self).map_err(|why| {
            serde::de::Error::custom(format_args!("{text:?} is no such time: {why}"))
        })
    }
}

/// Longer than no time.
#[derive(Debug)]
struct Lasting(Duration);

impl<'de> Deserialize<'de> for Lasting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Length::deserialize(deserializer)? {
            Length(Duration::ZERO) => Err(serde::de::Error::custom(
                "a pause lasts longer than 0s; without `for` it lasts until it is resumed",
            )),
            Length(length) => Ok(Self(length)),
        }
    }
}

/// A backend as it is.
pub(super) async fn show(
    State(running): App,
    names: Names<(String, String)>,
) -> Result<Json<BackendStats>, Refusal> {
    let (pool, name) = two(names)?;
    let pool = find(&running, &pool)?;
    let mut all = pool.overview().backends.into_iter();
    let view = all.find(|view| *view.backend.name == *name);
    let missing = || Refusal::not_found(format!("no backend {name} in pool {}", pool.name));
    Ok(shown(view.ok_or_else(missing)?, &pool))
}

/// Changes state and weight of a backend.
pub(super) async fn set(
    State(running): App,
    Extension(peer): By,
    names: Names<(String, String)>,
    request: Request,
) -> Result<Json<BackendStats>, Refusal> {
    let (pool, name) = two(names)?;
    let pool = find(&running, &pool)?;
    let (head, body) = request.into_parts();
    let asked: Setting = body::json(&head, body).await?;
    if asked.state.is_none() && asked.weight.is_none() {
        return Err(Refusal::bad_request(
            "nothing to change: give a state, a weight, or both",
        ));
    }
    let state = asked.state.map(|word| word.0);
    if asked.timeout.is_some() && matches!(state, None | Some(AdminState::Ready)) {
        return Err(Refusal::bad_request(
            "a timeout goes with the state drain or maintenance",
        ));
    }
    let wanted = Wanted {
        state,
        weight: asked.weight.map(|weight| weight.0),
        timeout: asked.timeout.map(|time| time.0),
    };
    let changed = pool.set(&name, wanted, &peer.stamp())?;
    Change {
        by: &peer.to_string(),
        what: "set",
        pool: Some(&pool.name),
        backend: Some(&name),
        before: told(&changed.before),
        after: told(&changed.after),
    }
    .log();
    Ok(shown(changed.after, &pool))
}

/// Adds a backend.
pub(super) async fn add(
    State(running): App,
    Extension(peer): By,
    name: Name,
    request: Request,
) -> Result<(StatusCode, Json<BackendStats>), Refusal> {
    let pool = find(&running, &one(name)?)?;
    let (head, body) = request.into_parts();
    let (fields, text) = body::object(&head, body).await?;
    let backend = config::backend(&fields).map_err(|faults| {
        let place = |fault: config::FieldFault| {
            let (line, column) = body::place_of(fault.field.as_deref(), &text);
            Place {
                file: "request".to_owned(),
                line,
                column,
                message: fault.message,
            }
        };
        Refusal::unusable(faults.into_iter().map(place).collect())
    })?;
    let added = pool.add(backend, &peer.stamp())?;
    let settings = &added.settings;
    let after = format!(
        "address={} weight={} max_connections={} backup={}",
        settings.address, settings.weight, settings.max_connections, settings.backup
    );
    Change {
        by: &peer.to_string(),
        what: "add",
        pool: Some(&pool.name),
        backend: Some(&settings.name),
        before: "absent".to_owned(),
        after,
    }
    .log();
    Ok((StatusCode::CREATED, shown(added, &pool)))
}

/// Removes a backend.
pub(super) async fn remove(
    State(running): App,
    Extension(peer): By,
    names: Names<(String, String)>,
) -> Result<Json<BackendStats>, Refusal> {
    let (pool, name) = two(names)?;
    let pool = find(&running, &pool)?;
    let changed = pool.remove(&name, &peer.stamp())?;
    let active = changed.after.backend.active();
    Change {
        by: &peer.to_string(),
        what: "remove",
        pool: Some(&pool.name),
        backend: Some(&name),
        before: told(&changed.before),
        after: format!("removed active={active}"),
    }
    .log();
    Ok(shown(changed.after, &pool))
}

/// A pool after it was paused or resumed.
#[derive(Debug, Serialize)]
pub(super) struct Paused {
    pool: Arc<str>,
    paused: bool,
    paused_until: Option<At>,
    held: usize,
    /// Connections that backends have, removed ones included.
    active: u64,
}

impl Paused {
    fn of(pool: &Arc<Pool>) -> Self {
        let paused = pool.overrides().paused(&pool.name);
        Self {
            pool: Arc::clone(&pool.name),
            paused: paused.is_some(),
            paused_until: paused.flatten().map(At),
            held: pool.held_in_all(),
            active: pool.overview().active,
        }
    }

    fn told(&self) -> String {
        match (self.paused, &self.paused_until) {
            (false, _) => "running".to_owned(),
            (true, None) => "paused".to_owned(),
            (true, Some(until)) => format!("paused until={until}"),
        }
    }
}

/// Whether a pool is paused.
pub(super) async fn paused(State(running): App, name: Name) -> Result<Json<Paused>, Refusal> {
    let pool = find(&running, &one(name)?)?;
    Ok(Json(Paused::of(&pool)))
}

/// Holds new connections of a pool.
pub(super) async fn pause(
    State(running): App,
    Extension(peer): By,
    name: Name,
    request: Request,
) -> Result<Json<Paused>, Refusal> {
    let pool = find(&running, &one(name)?)?;
    let (head, body) = request.into_parts();
    let asked: Pausing = body::json(&head, body).await?;
    let length = asked.length.map(|length| length.0);
    let before = Paused::of(&pool).told();
    pool.pause(length, &peer.stamp())?;
    Ok(audited(&peer, "pause", before, &pool))
}

/// Lets them in again.
pub(super) async fn resume(
    State(running): App,
    Extension(peer): By,
    name: Name,
    request: Request,
) -> Result<Json<Paused>, Refusal> {
    let pool = find(&running, &one(name)?)?;
    let (head, body) = request.into_parts();
    let Nothing {} = body::json(&head, body).await?;
    let before = Paused::of(&pool).told();
    pool.resume();
    Ok(audited(&peer, "resume", before, &pool))
}

fn audited(peer: &Peer, what: &str, before: String, pool: &Arc<Pool>) -> Json<Paused> {
    let paused = Paused::of(pool);
    Change {
        by: &peer.to_string(),
        what,
        pool: Some(&pool.name),
        backend: None,
        before,
        after: paused.told(),
    }
    .log();
    Json(paused)
}

pub(super) fn find(running: &Running, name: &str) -> Result<Arc<Pool>, Refusal> {
    running.pool(name).ok_or_else(|| no_pool(running, name))
}

pub(super) fn one(name: Name) -> Result<String, Refusal> {
    let Path(name) = name.map_err(|error| Refusal::bad_request(error.body_text()))?;
    Ok(name)
}

fn two(names: Names<(String, String)>) -> Result<(String, String), Refusal> {
    let Path(names) = names.map_err(|error| Refusal::bad_request(error.body_text()))?;
    Ok(names)
}

fn shown(view: BackendView, pool: &Pool) -> Json<BackendStats> {
    Json(of_backend(view, &pool.settings(), Instant::now()))
}

//! The admin endpoint: what a running balancer tells, over HTTP.
//!
//! | file | |
//! | --- | --- |
//! | `endpoint`, `http` | binding, who gets in, one connection |
//! | `guard`, `error` | who may ask for what, and how a refusal looks |
//! | `running` | the parts of the balancer that there is to tell of |
//! | `actions`, `kill`, `rebalance`, `body`, `audit` | changes: what they do, what they bring, who made them |
//! | `reload`, `orders` | another file, what it would change and what it did |
//! | `stats`, `prometheus`, `connections`, `history`, `page` | the answers |
//! | `events`, `series` | what happened lately, and how it went |
//! | `explain` | where a client would go, and why |
//! | `process`, `words` | what the kernel says; how values are written |
//!
//! Every answer but `events` is built as one value before its first byte is sent: no lock is held, and no
//! other request waits, while a client reads slowly.

mod actions;
mod audit;
mod body;
mod connections;
mod endpoint;
mod error;
mod events;
mod explain;
mod guard;
mod history;
mod http;
mod kill;
pub mod orders;
mod page;
mod process;
mod prometheus;
mod rebalance;
mod reload;
mod running;
mod series;
mod stats;
mod upgrade;
mod words;

pub use connections::check_filter;
pub use endpoint::{Bound, Endpoint, bind, most_connections, probe};
pub use reload::audit as audit_reload;
pub use running::{Configured, Current, LastReload, Leaving, Phase, Running};
pub use series::{Recorder, sample};
pub use upgrade::{Elder, NotUpgraded, UpgradeRequest, Upgraded, Upgrading};

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Serialize;

use audit::{Peer, Refusals};
use connections::Connections;
use error::Refusal;
use guard::{Guard, is_change};
use history::{History, no_pool};
use prometheus::Format;
use stats::Stats;

use crate::net::Address;

/// The pairs of a query string; a name may come several times.
type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Everything that the endpoint answers.
/// `address` is where it is reached.
fn router(running: Arc<Running>, address: Address) -> Router {
    let answers = Router::new()
        .route("/", get(page::index))
        .route("/stats", get(stats))
        .route("/events", get(events::events))
        .route("/series", get(series::answer))
        .route("/metrics", get(metrics))
        .route("/connections", get(connections).delete(kill::many))
        .route("/connections/{id}", delete(kill::one))
        .route("/explain", get(explain))
        .route("/config", get(config))
        .route("/plan", post(reload::plan))
        .route("/reload", post(reload::reload))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/pools/{pool}/backends", post(actions::add))
        .route(
            "/pools/{pool}/backends/{backend}",
            get(actions::show).put(actions::set).delete(actions::remove),
        )
        .route("/pools/{pool}/backends/{backend}/history", get(history))
        .route(
            "/pools/{pool}/pause",
            get(actions::paused).post(actions::pause),
        )
        .route("/pools/{pool}/resume", post(actions::resume))
        .route(
            "/pools/{pool}/rebalance",
            get(rebalance::show)
                .post(rebalance::begin)
                .delete(rebalance::stop),
        )
        .route("/upgrade", post(upgrade::upgrade))
        .fallback(nothing_there)
        .method_not_allowed_fallback(other_method)
        .with_state(Arc::clone(&running));
    let gate = Arc::new(Gate {
        running,
        address,
        refusals: Refusals::new(),
    });
    // Around all of it, so that a refusal does not even tell which methods a path takes.
    Router::new()
        .fallback_service(answers)
        .layer(middleware::from_fn_with_state(gate, guarded))
}

/// What every request has to pass.
struct Gate {
    /// Whose settings may change.
    running: Arc<Running>,
    address: Address,
    refusals: Refusals,
}

impl Gate {
    /// A change that is made while an upgrade is in progress might be lost.
    fn keeps(&self, head: &axum::http::request::Parts) -> Result<(), Refusal> {
        let path = head.uri.path();
        let change = is_change(&head.method) && !["/plan", "/upgrade"].contains(&path);
        match change && self.running.upgrading.is_in_progress() {
            true => Err(Refusal::new(
                StatusCode::CONFLICT,
                "an upgrade is in progress; ask again when it is over",
            )),
            false => Ok(()),
        }
    }
}

/// Lets a request through to what answers it, or refuses it.
async fn guarded(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let settings = gate.running.configured();
    let guard = Guard::new(&settings.file.config.admin, &gate.address);
    let checked = guard.check(&head);
    let mut response = match checked.and_then(|()| gate.keeps(&head)) {
        Ok(()) => next.run(Request::from_parts(head, body)).await,
        Err(refusal) => {
            let peer = head.extensions.get::<Peer>();
            if let Some(peer) = peer.filter(|_| is_change(&head.method)) {
                let refusals = &gate.refusals;
                refusals.log(peer, &head.method, &head.uri, &refusal);
            }
            refusal.into_response()
        }
    };
    let headers = response.headers_mut();
    let set = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in set {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn nothing_there() -> Refusal {
    Refusal::not_found("there is nothing at this path")
}

async fn other_method() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take this method, see Allow",
    )
}

async fn stats(State(running): State<Arc<Running>>) -> Json<Stats> {
    Json(Stats::of(&running))
}

async fn metrics(State(running): State<Arc<Running>>, headers: HeaderMap) -> Response {
    let accept: Vec<_> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let format = Format::asked_for(&accept.join(","));
    match prometheus::expose(&running, format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

async fn connections(
    State(running): State<Arc<Running>>,
    pairs: Pairs,
) -> Result<Json<Connections>, Refusal> {
    let query = connections::Query::parse(read(pairs)?)?;
    query.filter.known_in(&running)?;
    Ok(Json(Connections::of(&running, &query).await))
}

async fn explain(
    State(running): State<Arc<Running>>,
    pairs: Pairs,
) -> Result<Json<explain::Answer>, Refusal> {
    let query = explain::Query::parse(read(pairs)?)?;
    explain::Answer::of(&running, query).map(Json)
}

async fn config(State(running): State<Arc<Running>>) -> Response {
    let toml = [(header::CONTENT_TYPE, "application/toml; charset=utf-8")];
    (toml, running.configured().file.render()).into_response()
}

async fn healthz() -> Json<Healthy> {
    Json(Healthy { ok: true })
}

/// The process serves.
#[derive(Serialize)]
struct Healthy {
    ok: bool,
}

/// Whether traffic should be sent here.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

async fn readyz(
    State(running): State<Arc<Running>>,
    pairs: Pairs,
) -> Result<(StatusCode, Json<Readiness>), Refusal> {
    let mut reasons = running.unready();
    for (name, value) in read(pairs)? {
        if name != "pool" {
            return Err(Refusal::bad_request(format!(
                "unknown parameter {name:?}; there is pool"
            )));
        }
        let pool = running
            .pool(&value)
            .ok_or_else(|| no_pool(&running, &value))?;
        if pool.snapshot().usable() == 0 {
            reasons.push(format!("pool {value}: no usable backend"));
        }
    }
    let (status, ready) = match reasons.is_empty() {
        true => (StatusCode::OK, true),
        false => (StatusCode::SERVICE_UNAVAILABLE, false),
    };
    Ok((status, Json(Readiness { ready, reasons })))
}

async fn history(
    State(running): State<Arc<Running>>,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<History>, Refusal> {
    let Path((pool, backend)) = names.map_err(|error| Refusal::bad_request(error.body_text()))?;
    History::of(&running, &pool, &backend).map(Json)
}

fn read(pairs: Pairs) -> Result<Vec<(String, String)>, Refusal> {
    let Query(pairs) = pairs.map_err(|error| Refusal::bad_request(error.body_text()))?;
    Ok(pairs)
}

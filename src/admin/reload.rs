//! `POST /plan` and `POST /reload`: what another file would change, and the change itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::audit::{Change, Peer};
use super::body;
use super::error::Refusal;
use super::orders::{Done, Refused, Wanted};
use super::running::Running;
use super::{Pairs, read};
use crate::config;
use crate::plan::{Limits, Plan};

/// A plan, and perhaps the same for people.
#[derive(Debug, Serialize)]
pub(super) struct Planned {
    #[serde(flatten)]
    plan: Plan,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// What a reload did.
#[derive(Debug, Serialize)]
pub(super) struct Reloaded {
    /// Whether anything changed before the next start.
    applied: bool,
    /// The number of the configuration that is in force now.
    generation: u64,
    /// Keys whose values take effect with the next start alone.
    pending_restart: Vec<String>,
    /// What changed.
    plan: Planned,
}

/// How much a reload may change.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    /// Share of the backends of each pool, such as `"30%"`.
    max_removed: Option<String>,
    /// Connections that may be reset.
    max_dropped: Option<u64>,
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let status = match &refused {
            Refused::Invalid(faults) => return Self::invalid(faults),
            Refused::Impossible(_) | Refused::Upgrading | Refused::Changing => StatusCode::CONFLICT,
            Refused::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refused.to_string())
    }
}

/// What a reload would change, with the file of the body, or the file itself.
pub(super) async fn plan(
    State(running): State<Arc<Running>>,
    pairs: Pairs,
    request: Request,
) -> Result<Json<Planned>, Refusal> {
    let (rest, style) = Style::taken(read(pairs)?)?;
    if let Some((name, _)) = rest.first() {
        return Err(unknown(name, "text"));
    }
    let (head, body) = request.into_parts();
    let text = body::toml(&head, body).await?;
    let done = running.orders.give(Wanted::Plan { text }).await?;
    Ok(Json(style.planned(done.plan)))
}

/// Reloads the file.
pub(super) async fn reload(
    State(running): State<Arc<Running>>,
    Extension(peer): Extension<Peer>,
    pairs: Pairs,
    request: Request,
) -> Result<Json<Reloaded>, Refusal> {
    let (rest, style) = Style::taken(read(pairs)?)?;
    let (head, body) = request.into_parts();
    let mut bounds: Bounds = body::json(&head, body).await?;
    for (name, value) in rest {
        bounds.set(&name, value)?;
    }
    let (limits, by) = (bounds.limits()?, peer.to_string());
    let before = running.configured().generation;
    let wanted = Wanted::Reload {
        limits,
        by: by.clone(),
    };
    let done = running.orders.give(wanted).await;
    audit(&by, before, &done);
    let done = done?;
    Ok(Json(Reloaded {
        applied: done.applied,
        generation: done.generation,
        pending_restart: done.plan.pending_restart.clone(),
        plan: style.planned(done.plan),
    }))
}

/// The line about a reload by somebody, or something: what came of generation `before`.
pub fn audit(by: &str, before: u64, done: &Result<Done, Refused>) {
    let after = match done {
        Ok(done) => format!("generation={}", done.generation),
        Err(_) => format!("refused generation={before}"),
    };
    Change {
        by,
        what: "reload",
        pool: None,
        backend: None,
        before: format!("generation={before}"),
        after,
    }
    .log();
}

impl Bounds {
    fn set(&mut self, name: &str, value: String) -> Result<(), Refusal> {
        match name {
            "max_removed" => self.max_removed = Some(value),
            "max_dropped" => {
                let count = value.parse().map_err(|_| {
                    Refusal::bad_request(format!("max_dropped is a count, not {value:?}"))
                });
                self.max_dropped = Some(count?);
            }
            name => return Err(unknown(name, "max_removed, max_dropped, text")),
        }
        Ok(())
    }

    fn limits(&self) -> Result<Limits, Refusal> {
        let share = self.max_removed.as_deref().map(config::percent);
        Ok(Limits {
            max_removed: share
                .transpose()
                .map_err(|why| Refusal::bad_request(format!("max_removed: {why}")))?,
            max_dropped: self.max_dropped,
            keep_all: false,
        })
    }
}

fn unknown(name: &str, known: &str) -> Refusal {
    Refusal::bad_request(format!("unknown parameter {name:?}; there is {known}"))
}

/// Whether a plan is wanted as text, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Json,
    Plain,
    Colour,
}

impl Style {
    /// Takes `text=plain` or `text=colour` out of the pairs.
    fn taken(pairs: Vec<(String, String)>) -> Result<(Vec<(String, String)>, Self), Refusal> {
        let (own, rest): (Vec<_>, _) = pairs.into_iter().partition(|(name, _)| name == "text");
        let words: Vec<_> = own.iter().map(|(_, word)| &**word).collect();
        let style = match words[..] {
            [] => Self::Json,
            ["plain"] => Self::Plain,
            ["colour"] => Self::Colour,
            _ => return Err(Refusal::bad_request("text is plain or colour, given once")),
        };
        Ok((rest, style))
    }

    fn planned(self, plan: Plan) -> Planned {
        let text = match self {
            Self::Json => None,
            Self::Plain => Some(plan.render(false)),
            Self::Colour => Some(plan.render(true)),
        };
        Planned { plan, text }
    }
}

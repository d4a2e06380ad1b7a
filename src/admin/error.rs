//! What the endpoint answers when it does not answer: `{"error": "…"}` under the right status.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::guard::MAX_BODY;
use crate::config::{Faults, Problem};

/// A request that is not served, and why, for whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) reason: String,
    /// Where in what was sent.
    pub(super) problems: Vec<Place>,
}

/// What is wrong with what was sent, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Place {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "<[Place]>::is_empty")]
    problems: &'a [Place],
}

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            problems: Vec::new(),
        }
    }

    /// What was sent can be read, and cannot be.
    pub(super) fn unusable(problems: Vec<Place>) -> Self {
        let all = problems.iter().map(|problem| &*problem.message);
        let reason = all.collect::<Vec<_>>().join("; ");
        Self {
            problems,
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason)
        }
    }

    /// The same for problems of a file.
    pub(super) fn invalid(faults: &Faults) -> Self {
        let place = |problem: &Problem| Place {
            file: problem.file.clone(),
            line: problem.line,
            column: problem.column,
            message: problem.message.clone(),
        };
        let problems: Vec<_> = faults.problems.iter().map(place).collect();
        let reason = match &problems[..] {
            [one] => format!("the configuration is invalid: {}", one.message),
            all => format!("the configuration is invalid: {} faults", all.len()),
        };
        Self {
            problems,
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason)
        }
    }

    /// More was sent than anything needs.
    pub(super) fn too_large() -> Self {
        let reason = format!("a body has at most {MAX_BODY} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
    }

    /// Something in the request's target or headers cannot be right.
    pub(super) fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    /// There is no such thing.
    pub(super) fn not_found(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, reason)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Body {
            error: &self.reason,
            problems: &self.problems,
        };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"isobar\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

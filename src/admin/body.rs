//! What a request brings: JSON, in bounded time and memory, and what is wrong with it.

use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;

use super::error::{Place, Refusal};
use super::guard::MAX_BODY;

/// For the whole body to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the body as JSON; no body is as good as an empty object.
///
/// # Errors
/// 400 for what is no JSON, 408, 413, 415 for TOML, 422 for JSON that says what cannot be.
pub(super) async fn json<T: DeserializeOwned>(head: &Parts, body: Body) -> Result<T, Refusal> {
    let text = text(head, body).await?;
    let text = if text.trim().is_empty() { "{}" } else { &text };
    from_object(text)
}

/// Reads the body as a JSON object, with its text.
///
/// # Errors
/// As [`json`].
pub(super) async fn object(
    head: &Parts,
    body: Body,
) -> Result<(serde_json::Map<String, serde_json::Value>, String), Refusal> {
    let text = text(head, body).await?;
    let object = from_object(&text)?;
    Ok((object, text))
}

/// Lists would do for structures too, in an order that nobody has promised.
fn from_object<T: DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    if !text.trim_start().starts_with('{') {
        return Err(Refusal::bad_request("the body is to be a JSON object"));
    }
    serde_json::from_str(text).map_err(|error| wrong(&error))
}

/// Reads the body as the text of a file; `None`: there is none.
///
/// # Errors
/// 400 for what is no UTF-8, 408, 413, 415 for JSON.
pub(super) async fn toml(head: &Parts, body: Body) -> Result<Option<String>, Refusal> {
    let text = read(head, body, "application/toml").await?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

async fn text(head: &Parts, body: Body) -> Result<String, Refusal> {
    read(head, body, "application/json").await
}

async fn read(head: &Parts, body: Body, wanted: &str) -> Result<String, Refusal> {
    let body = Limited::new(body, MAX_BODY);
    let read = tokio::time::timeout(PATIENCE, body.collect());
    let bytes = match read.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(Refusal::too_large());
        }
        Ok(Err(_)) => return Err(Refusal::bad_request("the body ends before its end")),
        Err(_) => {
            let reason = "the body did not come in time";
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, reason));
        }
    };
    let kind = head.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !bytes.is_empty() && !kind.to_ascii_lowercase().starts_with(wanted) {
        let reason = format!("the body of this request is {wanted}");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    String::from_utf8(bytes.into()).map_err(|_| Refusal::bad_request("the body is not UTF-8"))
}

fn wrong(error: &serde_json::Error) -> Refusal {
    let (line, column) = (error.line(), error.column());
    let whole = error.to_string();
    let message = whole
        .strip_suffix(&format!(" at line {line} column {column}"))
        .unwrap_or(&whole)
        .to_owned();
    match error.classify() {
        serde_json::error::Category::Data => Refusal::unusable(vec![Place {
            file: "request".to_owned(),
            line,
            column,
            message,
        }]),
        _ => Refusal::bad_request(format!("the body is not JSON: {whole}")),
    }
}

/// Where `field` stands in the text of an object, from 1; where the object begins if that cannot
/// be told.
pub(super) fn place_of(field: Option<&str>, text: &str) -> (usize, usize) {
    let quoted = field.map(|field| serde_json::Value::from(field).to_string());
    let found = quoted.and_then(|quoted| text.find(&quoted));
    let before = &text[..found.or_else(|| text.find('{')).unwrap_or(0)];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_where_it_stands() {
        let text = "{\n \"öl\": 1, \"weight\": 2}";
        assert_eq!(place_of(Some("öl"), text), (2, 2));
        assert_eq!(place_of(Some("weight"), text), (2, 11));
        assert_eq!(place_of(None, text), (1, 1));
        assert_eq!(place_of(Some("other"), " {}"), (1, 2));
    }

    #[test]
    fn what_is_no_json_is_told_from_what_cannot_be() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Asked {
            #[allow(dead_code, reason = "it is only read")]
            n: u8,
        }
        let refused = |text: &str| {
            let error = serde_json::from_str::<Asked>(text).expect_err("wrong");
            wrong(&error)
        };
        assert_eq!(refused("{").status, StatusCode::BAD_REQUEST);
        assert_eq!(refused("nonsense").status, StatusCode::BAD_REQUEST);
        let unknown = refused("{\n\"m\": 1}");
        assert_eq!(unknown.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(unknown.problems[0].line, 2);
        assert!(!unknown.problems[0].message.contains("at line"));
        assert_eq!(refused("{\"n\": 300}").status.as_u16(), 422);
    }
}

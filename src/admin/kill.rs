//! `DELETE /connections`: resets live connections, one by its id or all that a filter takes.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use serde::Serialize;

use super::audit::{Change, Peer};
use super::connections::Query;
use super::error::Refusal;
use super::running::Running;
use super::{Pairs, read};
use crate::conn::ending::{Toll, Which};
use crate::conn::listing::Filter;
use crate::metrics::Ended;

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Killed {
    /// Connections that were meant.
    matched: usize,
    /// Of those, how many were reset.
    closed: usize,
}

/// Resets the connection of that id, or says whether there is one.
pub(super) async fn one(
    State(running): State<Arc<Running>>,
    Extension(peer): Extension<Peer>,
    id: Result<Path<String>, PathRejection>,
    pairs: Pairs,
) -> Result<Json<Killed>, Refusal> {
    let Path(id) = id.map_err(|error| Refusal::bad_request(error.body_text()))?;
    let (dry_run, rest) = dry_run(read(pairs)?)?;
    if let Some((name, _)) = rest.first() {
        return Err(Refusal::bad_request(format!(
            "unknown parameter {name:?}; there is dry_run"
        )));
    }
    let missing = || Refusal::not_found(format!("no connection {id}"));
    let number: u64 = id.parse().map_err(|_| missing())?;
    let ended = (!dry_run).then_some(Ended::Killed);
    let toll = end(&running, &Which::Id(number), ended).await;
    if toll.matched == 0 {
        return Err(missing());
    }
    if dry_run {
        return Ok(answer(toll));
    }
    Ok(told(&peer, &format!("id={number}"), toll))
}

/// Resets the connections that the filters take, or says how many those would be.
pub(super) async fn many(
    State(running): State<Arc<Running>>,
    Extension(peer): Extension<Peer>,
    pairs: Pairs,
) -> Result<Json<Killed>, Refusal> {
    let order = Order::parse(read(pairs)?)?;
    order.filter.known_in(&running)?;
    let which = Which::Matching(Arc::new(order.filter), Instant::now());
    let ended = (!order.dry_run).then_some(Ended::Killed);
    let toll = end(&running, &which, ended).await;
    if order.dry_run {
        return Ok(answer(toll));
    }
    Ok(told(&peer, &order.written, toll))
}

async fn end(running: &Running, which: &Which, ended: Option<Ended>) -> Toll {
    let mut all = Toll::default();
    for core in &running.cores {
        let toll = core.end(which, ended).await;
        all.matched += toll.matched;
        all.closed += toll.closed;
    }
    all
}

fn told(peer: &Peer, which: &str, toll: Toll) -> Json<Killed> {
    Change {
        by: &peer.to_string(),
        what: "kill",
        pool: None,
        backend: None,
        before: format!("{which} matched={}", toll.matched),
        after: format!("closed={}", toll.closed),
    }
    .log();
    answer(toll)
}

fn answer(toll: Toll) -> Json<Killed> {
    let Toll { matched, closed } = toll;
    Json(Killed { matched, closed })
}

/// Whether the request only asks, and the pairs of its query that say something else.
fn dry_run(pairs: Vec<(String, String)>) -> Result<(bool, Vec<(String, String)>), Refusal> {
    let (flags, rest): (Vec<_>, Vec<_>) =
        pairs.into_iter().partition(|(name, _)| name == "dry_run");
    match &flags.iter().map(|(_, value)| &**value).collect::<Vec<_>>()[..] {
        [] | ["false"] => Ok((false, rest)),
        ["true"] => Ok((true, rest)),
        _ => Err(Refusal::bad_request("dry_run is true or false, given once")),
    }
}

/// What is to be reset.
#[derive(Debug)]
struct Order {
    filter: Filter,
    dry_run: bool,
    /// The filters as they were given.
    written: String,
}

impl Order {
    /// Reads the pairs of a query string. A filter without a value is refused, not passed over:
    /// it is more likely a variable of a script that is not set than a wish to reset all.
    fn parse(pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let (dry_run, filters) = dry_run(pairs)?;
        if filters.is_empty() {
            return Err(Refusal::bad_request(
                "no filter: name the connections that are to be reset",
            ));
        }
        for (name, value) in &filters {
            if name == "limit" {
                return Err(Refusal::bad_request(
                    "limit is no filter: all that match are reset",
                ));
            }
            if value.is_empty() {
                return Err(Refusal::bad_request(format!("{name} has no value")));
            }
        }
        let written = filters
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let written = written.collect::<Vec<_>>().join(" ");
        Ok(Self {
            filter: Query::parse(filters)?.filter,
            dry_run,
            written,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Order, String> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Order::parse(pairs.iter().map(own).collect()).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn nothing_is_reset_without_a_filter_that_says_something() {
        for pairs in [
            &[][..],
            &[("dry_run", "true")],
            &[("backend", "")],
            &[("pool", "web"), ("backend", "")],
            &[("limit", "5")],
            &[("pool", "web"), ("limit", "5")],
            &[("pool", "web"), ("dry_run", "yes")],
            &[("pool", "web"), ("dry_run", "true"), ("dry_run", "false")],
            &[("ppol", "web")],
        ] {
            parse(pairs).expect_err("refused");
        }
    }

    #[test]
    fn filters_are_those_of_the_list() {
        let order = parse(&[("pool", "web"), ("idle", "1m"), ("dry_run", "true")]);
        let order = order.expect("an order");
        assert!(order.dry_run);
        assert_eq!(order.written, "pool=web idle=1m");
        assert_ne!(order.filter, Filter::default());
        assert!(!parse(&[("state", "held")]).expect("an order").dry_run);
    }
}

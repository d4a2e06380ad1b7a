//! `isobar rebalance`: evens a pool after a backend was added.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::client::{AdminArgs, Client};
use super::names::pool_path;
use super::output::{has_colours, print};
use super::table::{Column, Table};
use super::words::span;
use super::{Failure, Outcome};
use crate::config::{Rate, percentage};
use crate::plan::percent;
use crate::terminal::replaced;

/// How often is looked whether it is over.
const LOOK: Duration = Duration::from_millis(200);

/// Which pool, how even, how fast.
#[derive(Debug, Args)]
pub(super) struct RebalanceArgs {
    /// The pool
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pool: String,
    /// How far connections per weight may be from the mean [default: 10%]
    #[arg(long, value_name = "PERCENT", value_parser = target)]
    target: Option<String>,
    /// Most connections that are closed in a second, a minute or an hour [default: 5/s]
    #[arg(long, value_name = "N/s")]
    rate: Option<Rate>,
    /// Close those first on which nothing has moved for longest, instead of the oldest
    #[arg(long)]
    idle_first: bool,
    /// Only say which and how many connections would be closed
    #[arg(long)]
    dry_run: bool,
    /// Return once it is over: 0 if all were closed, 1 if it was stopped or some were never quiet
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Stop the one that goes on
    #[arg(
        long,
        conflicts_with_all = ["target", "rate", "idle_first", "dry_run", "wait"]
    )]
    stop: bool,
    /// Print JSON, as POST /pools/POOL/rebalance answers
    #[arg(long, conflicts_with_all = ["wait", "stop"])]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Checked here, sent as it was written.
fn target(text: &str) -> Result<String, &'static str> {
    percentage(text).map(|_| text.to_owned())
}

/// What the balancer is about to do.
#[derive(Debug, Deserialize)]
struct Proposed {
    pool: String,
    rate: String,
    active: u64,
    closing: u64,
    imbalance: Imbalance,
    backends: BTreeMap<String, Part>,
    connections: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
struct Imbalance {
    before: f64,
    after: f64,
}

#[derive(Debug, Deserialize)]
struct Part {
    weight: u32,
    active: u64,
    closing: u64,
    after: u64,
}

#[derive(Debug, Deserialize)]
struct Connection {
    id: String,
    client: String,
    backend: String,
    age_seconds: f64,
    idle_seconds: f64,
    quiet: bool,
}

/// How far it has come.
#[derive(Debug, Deserialize)]
struct Shown {
    pool: String,
    rebalancing: Option<Progress>,
    last: Option<Progress>,
}

#[derive(Debug, Deserialize)]
struct Progress {
    since: String,
    planned: u64,
    closed: u64,
    imbalance: f64,
    outcome: Option<String>,
}

/// Begins it, stops it, or says what it would do.
pub(super) fn rebalance(args: &RebalanceArgs) -> Outcome {
    let client = Client::new(&args.admin)?;
    let path = pool_path(&args.pool) + "/rebalance";
    if args.stop {
        let shown: Shown = client.change(Method::DELETE, &path, None)?;
        return print(shown.line());
    }
    let mut body = json!({"idle_first": args.idle_first, "dry_run": args.dry_run});
    if let Some(target) = &args.target {
        body["target"] = json!(target);
    }
    if let Some(rate) = args.rate {
        body["rate"] = json!(rate.to_string());
    }
    let answer: serde_json::Value = client.change(Method::POST, &path, Some(&body))?;
    if args.json {
        return print(format!("{answer:#}\n"));
    }
    let proposed: Proposed = serde_json::from_value(answer).map_err(Failure::failed)?;
    print(proposed.text(args.dry_run))?;
    match args.wait {
        true => wait(&client, &path),
        false => Ok(()),
    }
}

impl Proposed {
    fn text(&self, dry_run: bool) -> String {
        let Imbalance { before, after } = self.imbalance;
        let Self {
            pool,
            rate,
            active,
            closing,
            ..
        } = self;
        let (before, after) = (percent(before), percent(after));
        let line = match (closing, dry_run) {
            (0, _) => format!("{pool}: nothing to close, imbalance {before}"),
            (_, true) => format!(
                "{pool}: {closing} of {active} connections would be closed, imbalance {before} now, \
                 {after} once they have redialled"
            ),
            (_, false) => format!(
                "{pool}: {closing} of {active} connections are closed when they are quiet, at most \
                 {rate}, imbalance {before} now, {after} once they have redialled"
            ),
        };
        let mut text = replaced(&line) + "\n";
        if *closing > 0 {
            text += &self.parts();
        }
        if dry_run && !self.connections.is_empty() {
            text = text + "\n" + &self.first();
        }
        text
    }

    fn parts(&self) -> String {
        let mut table = Table::new([
            Column::Left("BACKEND"),
            Column::Right("WEIGHT"),
            Column::Right("ACTIVE"),
            Column::Right("CLOSING"),
            Column::Right("AFTER"),
        ]);
        for (name, part) in &self.backends {
            table.row([
                name.into(),
                part.weight.into(),
                part.active.into(),
                part.closing.into(),
                part.after.into(),
            ]);
        }
        table.render(has_colours())
    }

    /// The connections that would be closed first.
    fn first(&self) -> String {
        let mut table = Table::new([
            Column::Right("ID"),
            Column::Left("CLIENT"),
            Column::Left("BACKEND"),
            Column::Right("AGE"),
            Column::Right("IDLE"),
            Column::Left("QUIET"),
        ]);
        for connection in &self.connections {
            table.row([
                (&connection.id).into(),
                (&connection.client).into(),
                (&connection.backend).into(),
                span(connection.age_seconds).into(),
                span(connection.idle_seconds).into(),
                if connection.quiet { "yes" } else { "not yet" }.into(),
            ]);
        }
        table.render(has_colours())
    }
}

impl Shown {
    fn line(&self) -> String {
        let pool = &self.pool;
        let line = match self.rebalancing.as_ref().or(self.last.as_ref()) {
            None => format!("{pool}: no rebalance goes on"),
            Some(progress) => format!("{pool}: {}", progress.told()),
        };
        replaced(&line) + "\n"
    }
}

impl Progress {
    fn told(&self) -> String {
        let Self {
            planned, closed, ..
        } = self;
        let how = match self.outcome.as_deref() {
            None => "rebalancing",
            Some("done") => "rebalanced",
            Some("nothing_quiet") => "the rest was not quiet",
            Some("stopped") => "rebalance stopped",
            Some(_) => "another rebalance took its place",
        };
        let imbalance = percent(self.imbalance);
        // Redials under way are counted where they will be.
        format!(
            "{how}, {closed} of {planned} closed, imbalance {imbalance} once they have redialled"
        )
    }
}

fn wait(client: &Client, path: &str) -> Outcome {
    let mut begun: Option<String> = None;
    loop {
        let shown: Shown = client.get_json(path)?;
        let own = |progress: &Progress| begun.as_ref().is_none_or(|at| *at == progress.since);
        if let Some(last) = shown.last.as_ref().filter(|last| own(last)) {
            return match last.outcome.as_deref() {
                Some("done") => print(shown.line()),
                _ => Err(Failure::failed(format_args!(
                    "{}: {}",
                    shown.pool,
                    last.told()
                ))),
            };
        }
        match shown.rebalancing {
            Some(progress) if own(&progress) => begun = Some(progress.since),
            _ => {
                let pool = shown.pool;
                return Err(Failure::failed(format_args!(
                    "{pool}: another rebalance took its place"
                )));
            }
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposed(closing: u64) -> Proposed {
        let part = |active, closing, after| Part {
            weight: 1,
            active,
            closing,
            after,
        };
        Proposed {
            pool: "web".to_owned(),
            rate: "5/s".to_owned(),
            active: 4,
            closing,
            imbalance: Imbalance {
                before: 1.0,
                after: 0.0,
            },
            backends: [
                ("b1".to_owned(), part(4, closing, 2)),
                ("b2".to_owned(), part(0, 0, 2)),
            ]
            .into(),
            connections: vec![Connection {
                id: "17".to_owned(),
                client: "10.0.0.9:4000".to_owned(),
                backend: "b1".to_owned(),
                age_seconds: 90.0,
                idle_seconds: 5.0,
                quiet: true,
            }],
        }
    }

    #[test]
    fn a_dry_run_says_which_and_how_many() {
        let text = proposed(2).text(true);
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "web: 2 of 4 connections would be closed, imbalance 100% now, 0% once they have redialled",
                "BACKEND  WEIGHT  ACTIVE  CLOSING  AFTER",
                "b1            1       4        2      2",
                "b2            1       0        0      2",
                "",
                "ID  CLIENT         BACKEND  AGE  IDLE  QUIET",
                "17  10.0.0.9:4000  b1        1m    5s  yes",
            ]
        );
        assert!(!proposed(2).text(false).contains("10.0.0.9"));
    }

    #[test]
    fn where_nothing_is_to_be_done_that_is_said() {
        let mut even = proposed(0);
        even.connections.clear();
        assert_eq!(even.text(true), "web: nothing to close, imbalance 100%\n");
    }
}

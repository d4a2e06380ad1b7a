//! `isobar upgrade`: the program now on disk takes the place of the running balancer.

use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::Outcome;
use super::client::{AdminArgs, Client};
use super::output::print;
use crate::terminal::replaced;

/// The new process has 30 s to start, and connections take a moment to move.
const PATIENCE: Duration = Duration::from_secs(90);

/// Which balancer.
#[derive(Debug, Args)]
pub(super) struct UpgradeArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// What came of it, as the balancer answers.
#[derive(Debug, Deserialize)]
struct Upgraded {
    pid: u32,
    version: String,
    moved: u64,
    remaining: u64,
    seconds: f64,
}

impl Upgraded {
    fn line(&self) -> String {
        let Self {
            pid,
            version,
            moved,
            remaining,
            seconds,
        } = self;
        let rest = match remaining {
            0 => String::new(),
            n => format!(", {n} finish in the old process"),
        };
        let line = format!(
            "isobar {version} serves as process {pid} after {seconds:.1} s: {moved} connections moved{rest}"
        );
        replaced(&line) + "\n"
    }
}

/// Upgrades, and waits until every connection that can has moved.
pub(super) fn upgrade(args: &UpgradeArgs) -> Outcome {
    let client = Client::new(&args.admin)?;
    let upgraded: Upgraded = client.order("/upgrade", PATIENCE)?;
    print(upgraded.line())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_behind_is_told_only_if_there_is_something() {
        let mut upgraded = Upgraded {
            pid: 7,
            version: "0.2.0".to_owned(),
            moved: 12,
            remaining: 0,
            seconds: 0.31,
        };
        let moved = "isobar 0.2.0 serves as process 7 after 0.3 s: 12 connections moved";
        assert_eq!(upgraded.line(), format!("{moved}\n"));
        upgraded.remaining = 3;
        let rest = "3 finish in the old process";
        assert_eq!(upgraded.line(), format!("{moved}, {rest}\n"));
    }
}

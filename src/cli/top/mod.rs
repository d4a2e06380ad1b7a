//! `isobar top`: the running balancer, live, full screen.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `data.rs`, `answers.rs`, `rates.rs` | what is known: the last answers, and what follows from them |
//! | `app.rs` | where somebody is, what is selected and typed |
//! | `listing/` | what is listed there, filtered and sorted |
//! | `keys.rs` | what a key does |
//! | `draw/` | all of this as cells of a terminal |
//! | `schedule.rs` | what is asked, and when |
//! | `run.rs`, `screen.rs` | the only ones that own a terminal, a connection and a clock |

mod answers;
mod app;
mod data;
mod draw;
mod keys;
mod listing;
mod query;
mod rates;
mod run;
mod schedule;
mod screen;
#[cfg(test)]
mod testing;

use std::io::IsTerminal;

use clap::Args;
use jiff::Timestamp;

use super::client::{AdminArgs, Client};
use super::output::has_colours;
use super::stats::Stats;
use super::{Failure, Outcome};
use app::App;
use data::Data;

/// Of which balancer.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// Shows it until somebody leaves.
///
/// The first answer is waited for before the screen is taken: a balancer that is not there, or
/// does not know the token, is said as by every other command.
pub(super) fn top(args: &TopArgs) -> Outcome {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::invalid(
            "standard output is no terminal, which `isobar top` fills; `isobar status` prints \
             the same once, `isobar status --json` for programs",
        ));
    }
    if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return Err(Failure::invalid(
            "this terminal (TERM=dumb) has no full screen; `isobar status` prints the same once",
        ));
    }
    let client = Client::new(&args.admin)?;
    let stats: Stats = client.get_json("/stats")?;
    let now = Timestamp::now();
    let data = Data::new(client.endpoint(), stats, now);
    run::run(client, App::new(data, now, has_colours()))
}

/// A time as short as it can be: of another day with its date. RFC 3339 in, both in UTC.
fn moment(at: &str, now: Timestamp) -> String {
    let today = now.to_string();
    match (at.get(..10), at.get(5..10), at.get(11..19)) {
        (Some(day), _, Some(time)) if today.starts_with(day) => time.to_owned(),
        (_, Some(day), Some(time)) => format!("{day} {time}"),
        _ => at.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let now = testing::now();
        assert_eq!(moment("2026-01-01T03:12:45.123456Z", now), "03:12:45");
        assert_eq!(moment("2025-12-31T03:12:45Z", now), "12-31 03:12:45");
        assert_eq!(moment("yesterday", now), "yesterday");
        assert_eq!(moment("é", now), "é");
    }
}

//! `isobar pause` and `isobar resume`: new connections of a pool wait, and are let in again.

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::client::{AdminArgs, Client};
use super::names::pool_path;
use super::output::print;
use super::{Failure, Outcome};
use crate::config::{duration, format_duration};
use crate::terminal::replaced;

/// How often is looked whether backends still have connections.
const LOOK: Duration = Duration::from_millis(200);

/// A pool, and for how long.
#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    /// The pool
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pool: String,
    /// Resume by itself after this long [default: until `isobar resume`]
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    length: Option<Duration>,
    /// Return once its backends have no connection: 0, or 1 if the pause ends before
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A time in which something can wait.
fn lasting(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a pause lasts longer than 0s".to_owned()),
        length => Ok(length),
    }
}

/// A pool.
#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The pool
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pool: String,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A pool as the balancer answers.
#[derive(Debug, Deserialize)]
struct Paused {
    pool: String,
    paused: bool,
    paused_until: Option<String>,
    held: u64,
    active: u64,
}

impl Paused {
    fn line(&self) -> String {
        let state = match (self.paused, &self.paused_until) {
            (false, _) => "running".to_owned(),
            (true, None) => "paused".to_owned(),
            (true, Some(until)) => format!("paused until {until}"),
        };
        let Self {
            pool, held, active, ..
        } = self;
        replaced(&format!("{pool}: {state}, {held} held, {active} active")) + "\n"
    }
}

/// Holds new connections.
pub(super) fn pause(args: &PauseArgs) -> Outcome {
    let client = Client::new(&args.admin)?;
    let body = match args.length {
        Some(length) => json!({"for": format_duration(length)}),
        None => json!({}),
    };
    let path = pool_path(&args.pool) + "/pause";
    let paused: Paused = client.change(Method::POST, &path, Some(&body))?;
    print(paused.line())?;
    match args.wait && paused.active > 0 {
        true => wait(&client, &path),
        false => Ok(()),
    }
}

/// Lets them in again.
pub(super) fn resume(args: &ResumeArgs) -> Outcome {
    let client = Client::new(&args.admin)?;
    let path = pool_path(&args.pool) + "/resume";
    let resumed: Paused = client.change(Method::POST, &path, None)?;
    print(resumed.line())
}

fn wait(client: &Client, path: &str) -> Outcome {
    loop {
        std::thread::sleep(LOOK);
        let pool: Paused = client.get_json(path)?;
        if !pool.paused {
            let name = &pool.pool;
            return Err(Failure::failed(format_args!("the pause of {name} is over")));
        }
        if pool.active == 0 {
            return print(pool.line());
        }
    }
}

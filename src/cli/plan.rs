//! `isobar plan`: what a reload would change in the running balancer.

use clap::Args;
use hyper::Method;
use serde::Deserialize;

use super::client::{AdminArgs, Client};
use super::output::{has_colours, print};
use super::{Failure, Outcome};
use crate::config;

/// A file, and how it is shown.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// As much of a plan as is needed here.
#[derive(Debug, Deserialize)]
struct Planned {
    changes: bool,
    text: Option<String>,
}

/// With `-c FILE` the plan is for that file as it is here, else for the one that the balancer
/// would read.
pub(super) fn plan(args: &PlanArgs) -> Outcome {
    let file = args.admin.file();
    let text = file.map(config::load_text).transpose();
    let text = text.map_err(Failure::problems)?;
    let client = Client::knowing(&args.admin, text.as_deref())?;
    let path = match (args.json, has_colours()) {
        (true, _) => "/plan",
        (false, true) => "/plan?text=colour",
        (false, false) => "/plan?text=plain",
    };
    let answer = client.configure(Method::POST, path, text, file)?;
    let planned: Planned = client.read(path, &answer)?;
    match planned.text.filter(|_| !args.json) {
        Some(text) => print(text)?,
        None => print([&answer[..], b"\n"].concat())?,
    }
    match planned.changes {
        true => Err(Failure::changes()),
        false => Ok(()),
    }
}

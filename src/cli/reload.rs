//! `isobar reload`: the running balancer reads its file again.

use clap::Args;
use hyper::Method;
use serde::Deserialize;

use super::Outcome;
use super::client::{AdminArgs, Client};
use super::output::{has_colours, print};
use crate::config;

/// How much may change.
#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    /// Refuse to remove more than this share of a pool's backends, such as 30%, or a pool or listener
    #[arg(long, value_name = "SHARE", value_parser = share)]
    max_removed: Option<String>,
    /// Refuse a reload that may reset more live connections
    #[arg(long, value_name = "N")]
    max_dropped: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

fn share(text: &str) -> Result<String, String> {
    config::percent(text).map(|_| text.to_owned())
}

/// As much of the answer as is needed here.
#[derive(Debug, Deserialize)]
struct Reloaded {
    applied: bool,
    generation: u64,
    plan: Planned,
}

#[derive(Debug, Deserialize)]
struct Planned {
    text: Option<String>,
}

/// Prints what changed.
pub(super) fn reload(args: &ReloadArgs) -> Outcome {
    let client = Client::new(&args.admin)?;
    let mut path = "/reload?text=".to_owned();
    path += if has_colours() { "colour" } else { "plain" };
    if let Some(share) = &args.max_removed {
        path += &format!("&max_removed={}", share.replace('%', "%25"));
    }
    if let Some(count) = args.max_dropped {
        path += &format!("&max_dropped={count}");
    }
    let answer = client.configure(Method::POST, &path, None, None)?;
    if args.json {
        return print([&answer[..], b"\n"].concat());
    }
    let reloaded: Reloaded = client.read(&path, &answer)?;
    let text = reloaded.plan.text.unwrap_or_default();
    let generation = reloaded.generation;
    print(match reloaded.applied {
        true => format!("{text}reloaded, this is generation {generation}\n"),
        false => format!("{text}generation {generation} goes on\n"),
    })
}

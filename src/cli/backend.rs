//! `isobar ready`, `drain`, `maintenance`, `weight`, `add` and `remove`: one backend of the
//! running balancer.

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::client::{AdminArgs, Client};
use super::names::{BackendName, pool_path};
use super::output::print;
use super::{Failure, Outcome};
use crate::config::{self, duration, format_duration};
use crate::terminal::replaced;

/// How often is looked whether a backend still has connections.
const LOOK: Duration = Duration::from_millis(200);

/// A backend of the running balancer.
#[derive(Debug, Args)]
pub(super) struct ReadyArgs {
    /// The backend, as `isobar status` shows it
    #[arg(value_name = "POOL/BACKEND")]
    backend: BackendName,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A backend that is to take no new connections.
#[derive(Debug, Args)]
pub(super) struct LeaveArgs {
    /// The backend, as `isobar status` shows it
    #[arg(value_name = "POOL/BACKEND")]
    backend: BackendName,
    /// Reset the connections that are left after this long; 0s: they may go on [default:
    /// drain_timeout of the pool]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Return once no connection is left: 0, or 1 if some were reset at the time-out
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A share of the connections.
#[derive(Debug, Args)]
pub(super) struct WeightArgs {
    /// The backend, as `isobar status` shows it
    #[arg(value_name = "POOL/BACKEND")]
    backend: BackendName,
    /// Its share against the other weights, 0 to 1000; 0: no new connections
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    weight: u32,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A backend that the pool does not have.
#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The pool
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pool: String,
    /// Where it is dialled, as in the file
    address: String,
    /// Its name [default: the address]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// Its share against the other weights, 0 to 1000; 0: no new connections [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    weight: Option<u32>,
    /// Connections at once; 0: no limit [default: 0]
    #[arg(long, value_name = "N")]
    max_connections: Option<u32>,
    /// Use it only while no other backend can take a connection
    #[arg(long)]
    backup: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A backend as the balancer answers.
#[derive(Debug, Deserialize)]
struct Shown {
    address: String,
    state: String,
    admin: String,
    weight: u32,
    connections: Connections,
    #[serde(default)]
    leaving: Option<Leaving>,
}

#[derive(Debug, Deserialize)]
struct Connections {
    active: u64,
}

#[derive(Debug, Deserialize)]
struct Leaving {
    #[serde(default)]
    until: Option<String>,
    #[serde(default)]
    reset: u64,
}

impl Shown {
    fn line(&self, name: &BackendName) -> String {
        let Self {
            state,
            weight,
            connections: Connections { active },
            ..
        } = self;
        let until = self.leaving.as_ref().and_then(|l| l.until.as_deref());
        let until = match until.filter(|_| *active > 0) {
            Some(until) => format!(", what is left is reset at {until}"),
            None => String::new(),
        };
        let line = format!("{name}: {state}, weight {weight}, {active} active{until}");
        replaced(&line) + "\n"
    }

    fn reset(&self) -> u64 {
        self.leaving.as_ref().map_or(0, |leaving| leaving.reset)
    }
}

/// Has it take connections again.
pub(super) fn ready(args: &ReadyArgs) -> Outcome {
    let shown = set(&args.admin, &args.backend, &json!({"state": "ready"}))?.1;
    print(shown.line(&args.backend))
}

/// Has it take no new connections; checks go on.
pub(super) fn drain(args: &LeaveArgs) -> Outcome {
    leave(args, "drain")
}

/// The same, and checks stop.
pub(super) fn maintenance(args: &LeaveArgs) -> Outcome {
    leave(args, "maintenance")
}

/// Changes its share.
pub(super) fn weight(args: &WeightArgs) -> Outcome {
    let shown = set(&args.admin, &args.backend, &json!({"weight": args.weight}))?.1;
    print(shown.line(&args.backend))
}

/// Adds one.
pub(super) fn add(args: &AddArgs) -> Outcome {
    let mut table = Map::new();
    let mut give = |field: &str, value: Value| table.insert(field.to_owned(), value);
    give("address", json!(args.address));
    give("name", json!(args.name));
    give("weight", json!(args.weight));
    give("max_connections", json!(args.max_connections));
    give("backup", json!(args.backup));
    config::backend(&table).map_err(|faults| {
        let all: Vec<_> = faults.into_iter().map(|fault| fault.message).collect();
        Failure::invalid(all.join("; "))
    })?;
    let client = Client::new(&args.admin)?;
    let path = pool_path(&args.pool) + "/backends";
    let added: Shown = client.change(Method::POST, &path, Some(&table.into()))?;
    let backend = args.name.clone().unwrap_or_else(|| args.address.clone());
    let name = BackendName {
        pool: args.pool.clone(),
        backend,
    };
    let line = format!("{name}: added, {}, {}", added.address, added.state);
    print(replaced(&line) + "\n")
}

/// Removes one.
pub(super) fn remove(args: &ReadyArgs) -> Outcome {
    let client = Client::new(&args.admin)?;
    let removed: Shown = client.change(Method::DELETE, &args.backend.path(), None)?;
    print(removed.line(&args.backend))
}

fn leave(args: &LeaveArgs, state: &str) -> Outcome {
    let mut body = json!({"state": state});
    if let Some(timeout) = args.timeout {
        body["timeout"] = json!(format_duration(timeout));
    }
    let (client, shown) = set(&args.admin, &args.backend, &body)?;
    print(shown.line(&args.backend))?;
    match args.wait {
        true => wait(&client, &args.backend, shown),
        false => Ok(()),
    }
}

fn set(admin: &AdminArgs, name: &BackendName, body: &Value) -> Result<(Client, Shown), Failure> {
    let client = Client::new(admin)?;
    let shown = client.change(Method::PUT, &name.path(), Some(body))?;
    Ok((client, shown))
}

/// Waits until the backend has no connection.
fn wait(client: &Client, name: &BackendName, mut shown: Shown) -> Outcome {
    let (wanted, before) = (shown.admin.clone(), shown.reset());
    while shown.connections.active > 0 {
        std::thread::sleep(LOOK);
        shown = client.get_json(&name.path())?;
        if shown.admin != wanted {
            let now = &shown.admin;
            return Err(Failure::failed(format_args!(
                "{name} was set to {now} meanwhile"
            )));
        }
    }
    match shown.reset().saturating_sub(before) {
        0 => print(shown.line(name)),
        reset => Err(Failure::failed(format_args!(
            "{name}: reset at the time-out, as they were left: {reset}"
        ))),
    }
}

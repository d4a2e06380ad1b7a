//! `isobar connections` and `isobar kill`: who is connected now, and who is not to be.

use clap::Args;
use hyper::Method;
use serde::Deserialize;

use super::client::{AdminArgs, Client};
use super::names::segment;
use super::output::{has_colours, print, say};
use super::table::{Column, Table};
use super::words::{bytes, span};
use super::{Failure, Outcome};
use crate::admin::check_filter;
use crate::terminal::replaced;

/// Which connections; all that are given must hold.
#[derive(Debug, Args)]
struct Filters {
    /// Those of a pool
    #[arg(long, value_parser = filter("pool"))]
    pool: Option<String>,
    /// Those of a backend
    #[arg(long, value_parser = filter("backend"))]
    backend: Option<String>,
    /// Those of a listener
    #[arg(long, value_parser = filter("listener"))]
    listener: Option<String>,
    /// Those from an address or a block of them, such as 10.0.0.0/8, or `unix`
    #[arg(long, value_name = "CIDR", value_parser = filter("client"))]
    client: Option<String>,
    /// Those in a state: preread, held, connecting, relaying, half_closed, closing
    #[arg(long, value_parser = filter("state"))]
    state: Option<String>,
    /// Those accepted longer ago than this
    #[arg(long, value_name = "DURATION", value_parser = filter("older"))]
    older: Option<String>,
    /// Those on which no byte has moved for longer than this
    #[arg(long, value_name = "DURATION", value_parser = filter("idle"))]
    idle: Option<String>,
}

/// Checks a filter as the balancer would.
fn filter(name: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |text| check_filter(name, text).map(|()| text.to_owned())
}

impl Filters {
    /// As a query string has them.
    fn query(&self) -> Vec<String> {
        let all = [
            ("pool", &self.pool),
            ("backend", &self.backend),
            ("listener", &self.listener),
            ("client", &self.client),
            ("state", &self.state),
            ("older", &self.older),
            ("idle", &self.idle),
        ];
        let given = all.into_iter();
        given
            .filter_map(|(name, value)| Some(format!("{name}={}", segment(value.as_ref()?))))
            .collect()
    }
}

/// What to list.
#[derive(Debug, Args)]
pub(super) struct ConnectionsArgs {
    #[command(flatten)]
    filters: Filters,
    /// Most lines, oldest connections first
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print JSON, as GET /connections answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// What to reset.
#[derive(Debug, Args)]
pub(super) struct KillArgs {
    /// Connections by their id, as `isobar connections` shows it
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filters: Filters,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// `GET /connections`.
#[derive(Debug, Deserialize)]
pub(super) struct Connections {
    pub(super) total: usize,
    pub(super) connections: Vec<Connection>,
}

/// One of them.
#[derive(Debug, Deserialize)]
pub(super) struct Connection {
    pub(super) id: String,
    pub(super) listener: String,
    pub(super) client: String,
    pub(super) pool: Option<String>,
    pub(super) backend: Option<String>,
    pub(super) age_seconds: f64,
    pub(super) idle_seconds: f64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) state: String,
}

#[derive(Debug, Deserialize)]
struct Killed {
    matched: usize,
    closed: usize,
}

/// Lists them.
pub(super) fn connections(args: &ConnectionsArgs) -> Outcome {
    let client = Client::new(&args.admin)?;
    let mut query = args.filters.query();
    query.push(format!("limit={}", args.limit));
    let path = format!("/connections?{}", query.join("&"));
    if args.json {
        let mut json = client.get(&path)?.to_vec();
        json.push(b'\n');
        return print(json);
    }
    let found: Connections = client.get_json(&path)?;
    print(table(&found.connections))?;
    let shown = found.connections.len();
    if shown < found.total {
        say(format_args!(
            "the oldest {shown} of {}; --limit shows more",
            found.total
        ));
    }
    Ok(())
}

fn table(connections: &[Connection]) -> String {
    let mut table = Table::new([
        Column::Right("ID"),
        Column::Left("LISTENER"),
        Column::Left("CLIENT"),
        Column::Left("POOL"),
        Column::Left("BACKEND"),
        Column::Left("STATE"),
        Column::Right("AGE"),
        Column::Right("IDLE"),
        Column::Right("IN"),
        Column::Right("OUT"),
    ]);
    let or_none = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    for connection in connections {
        table.row([
            (&connection.id).into(),
            (&connection.listener).into(),
            (&connection.client).into(),
            or_none(&connection.pool).into(),
            or_none(&connection.backend).into(),
            (&connection.state).into(),
            span(connection.age_seconds).into(),
            span(connection.idle_seconds).into(),
            bytes(connection.bytes_in).into(),
            bytes(connection.bytes_out).into(),
        ]);
    }
    table.render(has_colours())
}

/// Resets them.
pub(super) fn kill(args: &KillArgs) -> Outcome {
    let query = args.filters.query();
    match (args.ids.is_empty(), query.is_empty()) {
        (true, true) => Err(Failure::invalid(
            "which connections? Give their ids, or filters such as --pool NAME",
        )),
        (false, false) => Err(Failure::invalid("give either ids or filters")),
        (false, true) if args.dry_run => Err(Failure::invalid(
            "--dry-run goes with filters: an id is one connection",
        )),
        (false, true) => by_id(&Client::new(&args.admin)?, &args.ids),
        (true, false) => by_filter(&Client::new(&args.admin)?, query, args.dry_run),
    }
}

fn by_id(client: &Client, ids: &[String]) -> Outcome {
    let mut missing = Vec::new();
    let mut closed = 0;
    for id in ids {
        let path = format!("/connections/{}", segment(id));
        match client.delete::<Killed>(&path)? {
            Some(killed) => closed += killed.closed,
            None => missing.push(replaced(id)),
        }
    }
    print(format!("{closed} closed\n"))?;
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(format_args!(
            "no connection {}",
            missing.join(", ")
        ))),
    }
}

fn by_filter(client: &Client, mut query: Vec<String>, dry_run: bool) -> Outcome {
    query.push(format!("dry_run={dry_run}"));
    let path = format!("/connections?{}", query.join("&"));
    let Killed { matched, closed } = client.change(Method::DELETE, &path, None)?;
    print(match dry_run {
        true => format!("{matched} match, none closed: this was a dry run\n"),
        false => format!("{matched} matched, {closed} closed\n"),
    })
}

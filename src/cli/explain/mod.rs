//! `isobar explain`: which backend a client would get now, and why, as a story that fits a
//! screen.

mod answer;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::str::FromStr;

use clap::Args;
use jiff::Timestamp;

use super::client::{AdminArgs, Client};
use super::names::segment;
use super::output::{has_colours, print};
use super::table::{Cell, Column, Table, Tone};
use super::words::{latency, number, since, span};
use super::{Failure, Outcome};
use crate::terminal::replaced;
use answer::{Answer, Backend, Ending, Pool, Route};

/// Who comes through which listener, and which balancer is asked.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The listener that the client connects to
    #[arg(long, value_name = "LISTENER")]
    listener: String,
    /// The client's IP address, or `unix` for one of a Unix socket
    #[arg(long, value_name = "IP")]
    client: Source,
    /// The client's port [default: any]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The name that the client asks for in its ClientHello
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// A protocol that the client offers in its ClientHello; several with commas between
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    alpn: Vec<String>,
    /// Print JSON, as GET /explain answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Whom a connection is from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Ip(IpAddr),
    Unix,
}

impl FromStr for Source {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("unix", _) => Ok(Self::Unix),
            (_, Ok(ip)) => Ok(Self::Ip(ip)),
            (_, Err(_)) => Err("expected an IP address, or unix"),
        }
    }
}

impl ExplainArgs {
    fn path(&self) -> String {
        let listener = segment(&self.listener);
        let client = match self.client {
            Source::Ip(ip) => segment(&ip.to_string()),
            Source::Unix => "unix".to_owned(),
        };
        let mut path = format!("/explain?listener={listener}&client={client}");
        if let Some(port) = self.port {
            path += &format!("&port={port}");
        }
        if let Some(sni) = &self.sni {
            path += &format!("&sni={}", segment(sni));
        }
        if !self.alpn.is_empty() {
            path += &format!("&alpn={}", segment(&self.alpn.join(",")));
        }
        path
    }
}

/// Asks once and prints.
pub(super) fn explain(args: &ExplainArgs) -> Outcome {
    if matches!(args.client, Source::Unix) && args.port.is_some() {
        return Err(Failure::invalid("--port: a Unix client has none"));
    }
    let client = Client::new(&args.admin)?;
    let path = args.path();
    if args.json {
        let mut json = client.get(&path)?.to_vec();
        json.push(b'\n');
        return print(json);
    }
    let answer: Answer = client.get_json(&path)?;
    print(story(&answer, Timestamp::now(), has_colours()))
}

/// The answer for people.
fn story(answer: &Answer, now: Timestamp, colours: bool) -> String {
    let mut text = format!("{}\n", who(answer));
    for rule in &answer.admission.why {
        text += &format!("  {}\n", replaced(rule));
    }
    if !answer.routes.is_empty() {
        text += "\n";
        text += &routes(answer).render(colours);
    }
    for pool in &answer.pools {
        text += &format!("\n{}\n  {}\n", head(pool), replaced(&pool.rule));
        text += &backends(pool, now).render(colours);
    }
    text += &format!("\n-> {}\n", ending(&answer.outcome, answer.pools.last()));
    if let Some(rest) = &answer.if_all_fail {
        text += &format!("   if every attempt fails: {}\n", ending(rest, None));
    }
    for note in &answer.notes {
        text += &format!("   note: {}\n", replaced(note));
    }
    text
}

fn who(answer: &Answer) -> String {
    let client = &answer.client;
    let port = client
        .port
        .map_or(String::new(), |port| format!(" port {port}"));
    let to = match (&answer.route, &answer.pool, answer.routes.len()) {
        _ if answer.admission.reason.is_some() => "not let in".to_owned(),
        (Some(route), Some(pool), _) => format!("route {route}, pool {pool}"),
        (_, Some(pool), 0) => format!("no routes, pool {pool}"),
        (_, None, 0) => "no routes and no pool".to_owned(),
        (_, Some(pool), _) => format!("no route takes it, pool {pool}"),
        (_, None, _) => "no route takes it, and there is no pool".to_owned(),
    };
    let (address, listener) = (&client.address, &answer.listener.listener);
    replaced(&format!(
        "client {address}{port}, listener {listener}: {to}"
    ))
}

/// Each route with its conditions, and the first of them that does not hold.
fn routes(answer: &Answer) -> Table<4> {
    let mut table = Table::new([
        Column::Left("  ROUTE"),
        Column::Left("POOL"),
        Column::Left("CONDITIONS"),
        Column::Left("WHY"),
    ]);
    for route in &answer.routes {
        table.row([
            format!("  {}", route.route).into(),
            route.pool.clone().into(),
            conditions(route).into(),
            why_route(route),
        ]);
    }
    table
}

fn conditions(route: &Route) -> String {
    let conditions = route.conditions.iter();
    let all: Vec<_> = conditions
        .map(|c| format!("{} {}", c.condition, c.wanted.join("|")))
        .collect();
    match all.is_empty() {
        true => "none".to_owned(),
        false => all.join(", "),
    }
}

fn why_route(route: &Route) -> Cell {
    let failed = route.conditions.iter().find(|condition| !condition.holds);
    match (&*route.verdict, failed) {
        ("chosen", _) => Cell::new("chosen: the first that matches", Tone::Good),
        ("not_reached", _) => Cell::new("not reached", Tone::Plain),
        (_, Some(condition)) => {
            let has = match condition.has.is_empty() {
                true => "none".to_owned(),
                false => condition.has.join(", "),
            };
            let why = format!("no match: {} is {has}", condition.condition);
            Cell::new(why, Tone::Plain)
        }
        (verdict, None) => Cell::new(verdict, Tone::Plain),
    }
}

fn head(pool: &Pool) -> String {
    let usable = pool.backends.iter().filter(|b| b.is_usable()).count();
    let mut head = format!(
        "pool {}: {}, {}, {usable} usable",
        pool.pool,
        pool.balance,
        match pool.backends.len() {
            1 => "1 backend".to_owned(),
            n => format!("{n} backends"),
        }
    );
    if let Some(key) = &pool.key {
        head += &format!(", by {}", key.of);
    }
    if pool.held > 0 {
        head += &format!(", {} held", pool.held);
    }
    if pool.paused {
        head += ", paused";
    }
    replaced(&head)
}

fn backends(pool: &Pool, now: Timestamp) -> Table<4> {
    let mut table = Table::new([
        Column::Left("  BACKEND"),
        Column::Left("STATE"),
        Column::Left("COMPARED"),
        Column::Left("WHY"),
    ]);
    for backend in &pool.backends {
        table.row([
            format!("  {}", backend.backend).into(),
            state(backend),
            compared(backend, pool).into(),
            why(backend, now),
        ]);
    }
    table
}

fn state(backend: &Backend) -> Cell {
    let tone = Tone::of_state(&backend.state);
    match backend.backup {
        true => Cell::new(format!("{}, backup", backend.state), tone),
        false => Cell::new(&backend.state, tone),
    }
}

fn why(backend: &Backend, now: Timestamp) -> Cell {
    let tone = match (&*backend.verdict, backend.attempt) {
        ("candidate", Some(1)) => Tone::Good,
        ("candidate" | "spare" | "not_asked", _) => Tone::Plain,
        ("state", _) => Tone::Bad,
        _ => Tone::Odd,
    };
    match &*backend.verdict {
        "state" => {
            let ago = since(backend.since.as_deref(), now);
            Cell::new(format!("{}, for {ago}", backend.why), tone)
        }
        _ => Cell::new(&backend.why, tone),
    }
}

/// What the strategy compares, as a sum that can be followed.
fn compared(backend: &Backend, pool: &Pool) -> String {
    let Some(score) = &backend.score else {
        return "-".to_owned();
    };
    let active = backend.active;
    let weight = match backend.effective_weight {
        Some(weight) => number(weight),
        None => backend.weight.to_string(),
    };
    let value = number(score.value);
    match &*pool.balance {
        "round-robin" => format!("{value} turns due, weight {weight}"),
        "least-connections" | "random-two" => {
            let due = score.due.map(|due| format!(", {} turns due", number(due)));
            let due = due.unwrap_or_default();
            format!("{active} active / weight {weight} = {value}{due}")
        }
        "consistent-hash" => match score.most {
            Some(most) => format!("score {value}, weight {weight}, {active} active of {most}"),
            None => format!("score {value}, weight {weight}"),
        },
        "least-latency" => {
            let own = match (score.latency_seconds, score.sampled) {
                (None, _) => "no sample".to_owned(),
                (seconds, Some(false)) => format!("{} (median)", latency(seconds)),
                (seconds, _) => latency(seconds),
            };
            let cost = match score.latency_seconds {
                Some(_) => latency(Some(score.value)),
                None => value,
            };
            format!("{own} x {} / weight {weight} = {cost}", active + 1)
        }
        "first" => format!("place {value}"),
        _ => value,
    }
}

fn ending(ending: &Ending, pool: Option<&Pool>) -> String {
    let name = ending.pool.as_deref().unwrap_or("-");
    let reason = ending.reason.as_deref().unwrap_or("-");
    let text = match &*ending.result {
        "backend" => format!(
            "{} ({}), logged as pick={}",
            ending.backend.as_deref().unwrap_or("-"),
            ending.address.as_deref().unwrap_or("-"),
            ending.pick.as_deref().unwrap_or("-")
        ),
        "drawn" => format!("one of {}, by chance", pool.map_or(String::new(), drawn)),
        "fallback" => format!("pool {name} takes it, if it can"),
        "held" => {
            let most = match ending.hold_timeout_seconds {
                Some(seconds) => format!("for at most {}", span(seconds)),
                None => "as long as it takes".to_owned(),
            };
            match ending.ahead {
                Some(ahead @ 1..) => format!("held in pool {name} behind {ahead}, {most}"),
                _ => format!("held in pool {name}, {most}"),
            }
        }
        "reset" => format!("reset, counted as {reason}"),
        "rejected" => format!("rejected, counted as {reason}"),
        other => other.to_owned(),
    };
    replaced(&text)
}

/// Those that may be drawn.
fn drawn(pool: &Pool) -> String {
    let likely = pool
        .backends
        .iter()
        .filter(|b| b.verdict == "candidate" && b.chance != Some(0.0));
    let names: Vec<_> = likely.map(|b| &*b.backend).collect();
    names.join(", ")
}

//! `isobar status`: what the running balancer is doing, as tables.

use clap::Args;
use jiff::Timestamp;

use super::client::{AdminArgs, Client};
use super::names::backend_path;
use super::output::{has_colours, print};
use super::stats::{
    self, Backend, Health, History, Named, Percentiles, Pool, Retransmitted, Stats,
};
use super::table::{Cell, Column, Table, Tone};
use super::words::{bytes, latency, number, since, span};
use super::{Failure, Outcome};
use crate::terminal::replaced;

/// What to show, and of which balancer.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// One pool, or one backend with its history
    #[arg(value_name = "POOL[/BACKEND]", conflicts_with = "json")]
    what: Option<String>,
    /// Print everything as JSON, as GET /stats answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Asks once and prints.
pub(super) fn status(args: &StatusArgs) -> Outcome {
    let client = Client::new(&args.admin)?;
    if args.json {
        return print(with_newline(&client.get("/stats")?));
    }
    let stats: Stats = client.get_json("/stats")?;
    let view = View {
        stats: &stats,
        now: Timestamp::now(),
        colours: has_colours(),
    };
    match args
        .what
        .as_deref()
        .map(|what| what.split_once('/').ok_or(what))
    {
        None => print(view.everything()),
        Some(Err(pool)) => print(view.pool(pool, find(&stats.pools, "pool", pool)?)),
        Some(Ok((pool, name))) => {
            let pools = &find(&stats.pools, "pool", pool)?.backends;
            let backend = find(pools, "backend", name)?;
            let history: History = client.get_json(&(backend_path(pool, name) + "/history"))?;
            print(view.backend(pool, name, backend) + &view.history(&history))
        }
    }
}

fn with_newline(json: &[u8]) -> Vec<u8> {
    let mut json = json.to_vec();
    if json.last() != Some(&b'\n') {
        json.push(b'\n');
    }
    json
}

fn find<'s, T>(among: &'s Named<T>, kind: &str, name: &str) -> Result<&'s T, Failure> {
    among.find(name).ok_or_else(|| {
        let names: Vec<_> = among.iter().map(|(name, _)| replaced(name)).collect();
        let names = match names.len() {
            0 => "there is none".to_owned(),
            _ => format!("there is {}", names.join(", ")),
        };
        Failure::failed(format_args!("no {kind} {name:?}; {names}"))
    })
}

/// The statistics of one moment, ready to be written.
struct View<'s> {
    stats: &'s Stats,
    now: Timestamp,
    colours: bool,
}

impl View<'_> {
    fn everything(&self) -> String {
        let pools = || self.stats.pools.iter();
        format!(
            "{}\n{}\n{}\n{}",
            self.head(),
            self.listeners(),
            self.pools(pools()),
            self.backends(pools())
        )
    }

    fn pool(&self, name: &str, pool: &Pool) -> String {
        let only = || std::iter::once((name, pool));
        format!("{}\n{}", self.pools(only()), self.backends(only()))
    }

    fn head(&self) -> String {
        let Stats {
            version,
            pid,
            connections,
            config,
            ..
        } = self.stats;
        format!(
            "isobar {}, pid {pid}, up {}, {} of {} connections, {} (generation {})\n",
            replaced(version),
            span(self.stats.uptime_seconds),
            connections.active,
            connections.limit,
            replaced(&config.path),
            config.generation,
        )
    }

    fn listeners(&self) -> String {
        let mut table = Table::new([
            Column::Left("LISTENER"),
            Column::Left("ADDRESS"),
            Column::Left("POOL"),
            Column::Right("ACTIVE"),
            Column::Right("TOTAL"),
            Column::Left("ACCEPTING"),
        ]);
        for (name, listener) in self.stats.listeners.iter() {
            table.row([
                name.into(),
                listener.addresses.join(", ").into(),
                listener.pool.as_deref().unwrap_or("-").into(),
                listener.connections.active.into(),
                listener.connections.total.into(),
                match listener.accepting {
                    true => Cell::new("yes", Tone::Good),
                    false => Cell::new("no", Tone::Odd),
                },
            ]);
        }
        table.render(self.colours)
    }

    fn pools<'p>(&self, pools: impl Iterator<Item = (&'p str, &'p Pool)>) -> String {
        let mut table = Table::new([
            Column::Left("POOL"),
            Column::Left("BALANCE"),
            Column::Right("HELD"),
            Column::Right("ACTIVE"),
            Column::Right("TOTAL"),
            Column::Right("USABLE"),
        ]);
        for (name, pool) in pools {
            table.row([
                name.into(),
                (&pool.balance).into(),
                match (pool.held, pool.paused) {
                    (0, false) => 0.into(),
                    (held, false) => Cell::new(held, Tone::Odd),
                    (held, true) => Cell::new(format!("{held} (paused)"), Tone::Odd),
                },
                pool.connections.active.into(),
                pool.connections.total.into(),
                usable(pool),
            ]);
        }
        table.render(self.colours)
    }

    fn backends<'p>(&self, pools: impl Iterator<Item = (&'p str, &'p Pool)>) -> String {
        let mut table = Table::new([
            Column::Left("BACKEND"),
            Column::Left("ADDRESS"),
            Column::Left("STATE"),
            Column::Right("SINCE"),
            Column::Right("WEIGHT"),
            Column::Right("ACTIVE/LIMIT"),
            Column::Right("TOTAL"),
            Column::Right("FAILED"),
            Column::Right("CONNECT P50/P99"),
            Column::Left("LAST CHECK"),
        ]);
        for (pool, backends) in pools.map(|(name, pool)| (name, &pool.backends)) {
            for (name, backend) in backends.iter() {
                table.row(self.backend_row(pool, name, backend));
            }
        }
        table.render(self.colours)
    }

    fn backend_row(&self, pool: &str, name: &str, backend: &Backend) -> [Cell; 10] {
        let connections = &backend.connections;
        [
            format!("{pool}/{name}").into(),
            (&backend.address).into(),
            state(&backend.state),
            since(backend.health.since.as_deref(), self.now).into(),
            weight(backend),
            of_limit(connections).into(),
            connections.total.into(),
            match connections.failed {
                0 => 0.into(),
                failed => Cell::new(failed, Tone::Odd),
            },
            times(&backend.connect_seconds).into(),
            self.last_check(&backend.health),
        ]
    }

    fn last_check(&self, health: &Health) -> Cell {
        if health.kind == "none" {
            return "none".into();
        }
        let took = latency(health.latency_seconds);
        let ago = since(health.last_at.as_deref(), self.now);
        match (health.last_ok, &health.last_error) {
            (None, _) => "-".into(),
            (Some(true), _) => Cell::new(format!("passed in {took}, {ago} ago"), Tone::Plain),
            (Some(false), error) => {
                let error = error.as_deref().unwrap_or("no reason given");
                Cell::new(format!("{error}, {ago} ago"), Tone::Bad)
            }
        }
    }

    fn backend(&self, pool: &str, name: &str, backend: &Backend) -> String {
        let mut table = Table::new([Column::Left("BACKEND"), Column::Left("")]);
        let columns = self.backend_row(pool, name, backend);
        let [
            full_name,
            address,
            state,
            since,
            weight,
            active,
            total,
            failed,
            connect,
            check,
        ] = columns;
        table.row(["name".into(), full_name]);
        table.row(["address".into(), address]);
        table.row(["state".into(), state]);
        if let Some(until) = &backend.ejected_until {
            table.row(["ejected until".into(), until.into()]);
        }
        table.row(["since".into(), since]);
        table.row(["weight".into(), weight]);
        table.row(["active/limit".into(), active]);
        table.row(["total".into(), total]);
        table.row(["failed".into(), failed]);
        table.row(["bytes in".into(), bytes(backend.bytes_in).into()]);
        table.row(["bytes out".into(), bytes(backend.bytes_out).into()]);
        table.row(["connect p50/p99".into(), connect]);
        let answers = times(&backend.first_byte_seconds);
        table.row(["first byte p50/p99".into(), answers.into()]);
        if let Some(rtt) = &backend.rtt_seconds {
            table.row(["round trip p50/p99".into(), times(rtt).into()]);
        }
        if let Some(rate) = &backend.delivery_rate {
            table.row(["delivery rate p50".into(), delivery(rate).into()]);
        }
        if let Some(retransmitted) = &backend.retransmitted {
            let again = sent_again(retransmitted);
            table.row(["retransmitted".into(), again.into()]);
        }
        table.row(["check".into(), (&backend.health.kind).into()]);
        table.row(["last check".into(), check]);
        table.render(self.colours)
    }

    fn history(&self, history: &History) -> String {
        let mut table = Table::new([
            Column::Left("AT"),
            Column::Left("FROM"),
            Column::Left("TO"),
            Column::Left("BY"),
            Column::Right("CHECK"),
            Column::Left("CAUSE"),
        ]);
        for entry in &history.history {
            table.row([
                (&entry.at).into(),
                state(&entry.from),
                state(&entry.to),
                (&entry.by).into(),
                latency(entry.check_seconds).into(),
                (&entry.cause).into(),
            ]);
        }
        match history.history.is_empty() {
            true => "\nno change of state so far\n".to_owned(),
            false => format!("\n{}", table.render(self.colours)),
        }
    }
}

/// Those that take new connections now, of all.
fn usable(pool: &Pool) -> Cell {
    let (usable, all) = pool.usable();
    let tone = match usable {
        0 => Tone::Bad,
        _ if usable < all => Tone::Odd,
        _ => Tone::Good,
    };
    Cell::new(format!("{usable}/{all}"), tone)
}

fn state(state: &str) -> Cell {
    Cell::new(state, Tone::of_state(state))
}

fn of_limit(connections: &stats::Connections) -> String {
    match connections.limit {
        0 => format!("{}/-", connections.active),
        limit => format!("{}/{limit}", connections.active),
    }
}

/// As configured, after what it is while a slow start takes something away.
fn weight(backend: &Backend) -> Cell {
    let whole = backend.weight;
    let ramps = |weight: &f64| (weight - whole as f64).abs() > 1e-9;
    let weight = match backend.effective_weight.filter(ramps) {
        Some(weight) => format!("{weight:.2} of {whole}"),
        None => whole.to_string(),
    };
    match backend.backup {
        true => format!("{weight} (backup)").into(),
        false => weight.into(),
    }
}

fn times(of: &Percentiles) -> String {
    match latency(of.p50) {
        none if none == "-" => none,
        p50 => format!("{p50}/{}", latency(of.p99)),
    }
}

fn delivery(rate: &Percentiles) -> String {
    match rate.p50 {
        Some(rate) if rate > 0.0 => format!("{}/s", bytes(rate as u64)),
        _ => "-".to_owned(),
    }
}

/// `0.12% of the last minute, 40 KiB of 3 MiB in all`.
fn sent_again(of: &Retransmitted) -> String {
    if of.sent_bytes == 0 {
        return "-".to_owned();
    }
    let (again, all) = (bytes(of.retransmitted_bytes), bytes(of.sent_bytes));
    let percent = match of.share {
        None => return format!("{again} of {all} in all"),
        // So little would be rounded to nothing, which it is not.
        Some(share) if share > 0.0 && share < 0.000_1 => "<0.01".to_owned(),
        Some(share) => number(share * 100.0),
    };
    format!("{percent}% of the last minute, {again} of {all} in all")
}

#[cfg(test)]
mod tests;

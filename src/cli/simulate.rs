//! `isobar simulate`: what a file would have made of the connections of an access log.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, stdin};

use clap::Args;

use super::output::{has_colours, print};
use super::table::{Cell, Column, Table, Tone};
use super::words::{latency, number, span};
use super::{ConfigArgs, Failure, Outcome};
use crate::config::Config;
use crate::simulate::{
    self, BackendReport, HeldReport, LogError, OutageReport, PoolReport, Recording, RefusedReport,
    Report,
};
use crate::terminal::{escaped, replaced};

/// More losses than this are told by the worst of them.
const MOST_LOSSES: usize = 10;

/// A file, a log, and how it is replayed.
#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Access log in JSON, as `log.format = "json"` writes it; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    log: String,
    /// What is drawn: the same seed, file and log tell the same
    #[arg(long, value_name = "N", default_value_t = simulate::SEED)]
    seed: u64,
    /// A backend that is down from the start, in one pool or in every pool that has it; may be
    /// given more than once
    #[arg(long, value_name = "[POOL/]BACKEND")]
    without: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn simulate(args: &SimulateArgs) -> Outcome {
    let (_, loaded) = args.config.load()?;
    let config = &loaded.config;
    let mut lost = Vec::new();
    for name in &args.without {
        lost.extend(simulate::named(config, name).map_err(Failure::failed)?);
    }
    lost.sort_unstable();
    lost.dedup();
    let recording = read(args, config)?;
    let report = simulate::simulate(config, &recording, &lost, args.seed);
    match args.json {
        true => print(json(&report)?),
        false => print(text(&report, has_colours())),
    }
}

fn read(args: &SimulateArgs, config: &Config) -> Result<Recording, Failure> {
    let read = match &*args.log {
        "-" => Recording::read(config, "standard input", stdin().lock(), args.seed),
        path => {
            let file = File::open(path)
                .map_err(|error| Failure::invalid(format_args!("{path}: {error}")))?;
            Recording::read(config, path, BufReader::new(file), args.seed)
        }
    };
    read.map_err(|error| match &error {
        // It begins with its place, as what is wrong with a configuration does.
        LogError::Line { .. } => Failure::problems(escaped(&error.to_string())),
        LogError::Read { source, .. } => Failure::invalid(format_args!("{error}: {source}")),
        _ => Failure::invalid(error),
    })
}

fn json(report: &Report) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(report).map_err(|error| Failure::error(&error))?;
    Ok(text + "\n")
}

/// The report for people. Writing to a string cannot fail.
fn text(report: &Report, colours: bool) -> String {
    let mut text = head(report);
    for pool in &report.pools {
        text.push('\n');
        text.push_str(&of_pool(pool, colours));
    }
    text
}

fn head(report: &Report) -> String {
    let log = &report.log;
    let without = match report.without.is_empty() {
        true => String::new(),
        false => format!(", without {}", replaced(&report.without.join(", "))),
    };
    let mut text = format!(
        "{}, accepted from {} to {}, seed {}{without}\n",
        counted(log.connections, "connection"),
        log.from,
        log.to,
        report.seed
    );
    for skipped in &log.not_replayed {
        let why = replaced(&skipped.why);
        let _ = writeln!(text, "not replayed: {} {why}", skipped.connections);
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {}", replaced(note));
    }
    text
}

fn of_pool(pool: &PoolReport, colours: bool) -> String {
    let mut text = format!(
        "pool {}: {}, {}\n",
        pool.pool,
        pool.balance,
        counted(pool.connections, "connection")
    );
    let compared = pool.backends.iter().any(|of| of.with_all.is_some());
    if !pool.backends.is_empty() {
        let table = match compared {
            true => without(&pool.backends).render(colours),
            false => backends(&pool.backends).render(colours),
        };
        indent(&mut text, &table);
    }
    let lines = [
        (pool.connections > 0).then(|| held(&pool.held)),
        reset(&pool.refused),
        moved(pool.to_fallback),
    ];
    for line in lines.into_iter().flatten() {
        let _ = writeln!(text, "  {line}");
    }
    if !pool.if_lost.is_empty() {
        text.push_str(&losses(&pool.if_lost, colours));
    }
    text
}

fn backends(all: &[BackendReport]) -> Table<7> {
    let mut table = Table::new([
        Column::Left("BACKEND"),
        Column::Right("WEIGHT"),
        Column::Right("CONNECTIONS"),
        Column::Right("SHARE"),
        Column::Right("EXPECTED"),
        Column::Right("PEAK"),
        Column::Right("LIMIT"),
    ]);
    for of in all {
        table.row([
            name(of),
            of.weight.into(),
            of.connections.into(),
            percent(of.share),
            percent(of.expected_share),
            peak(of.peak, of.limit),
            limit(of.limit),
        ]);
    }
    table
}

/// The same beside what was while all were up.
fn without(all: &[BackendReport]) -> Table<9> {
    let mut table = Table::new([
        Column::Left("BACKEND"),
        Column::Right("WEIGHT"),
        Column::Right("CONNECTIONS"),
        Column::Right("WITH ALL UP"),
        Column::Right("SHARE"),
        Column::Right("EXPECTED"),
        Column::Right("PEAK"),
        Column::Right("WITH ALL UP"),
        Column::Right("LIMIT"),
    ]);
    for of in all {
        let with_all = of.with_all;
        let of_all = |count: Option<u64>| Cell::from(count.unwrap_or_default());
        table.row([
            name(of),
            of.weight.into(),
            of.connections.into(),
            of_all(with_all.map(|with| with.connections)),
            percent(of.share),
            percent(of.expected_share),
            peak(of.peak, of.limit),
            of_all(with_all.map(|with| with.peak.into())),
            limit(of.limit),
        ]);
    }
    table
}

fn name(of: &BackendReport) -> Cell {
    match (of.lost, of.backup) {
        (true, _) => Cell::new(format!("{} (lost)", of.backend), Tone::Bad),
        (_, true) => format!("{} (backup)", of.backend).into(),
        _ => (&*of.backend).into(),
    }
}

/// At its limit it is worth a look.
fn peak(peak: u32, limit: u32) -> Cell {
    let full = limit > 0 && peak >= limit;
    Cell::new(peak, if full { Tone::Odd } else { Tone::Plain })
}

fn limit(limit: u32) -> Cell {
    match limit {
        0 => "-".into(),
        limit => limit.into(),
    }
}

fn percent(share: Option<f64>) -> Cell {
    match share {
        Some(share) => format!("{}%", number(share * 100.0)).into(),
        None => "-".into(),
    }
}

fn held(held: &HeldReport) -> String {
    if held.connections == 0 {
        return "held: nobody".to_owned();
    }
    let for_ever = match held.for_ever {
        0 => String::new(),
        n => format!(", {n} to the end"),
    };
    format!(
        "held: {}, at most {} at once, {} on average, {} at the longest{for_ever}",
        held.connections,
        held.peak,
        time(held.mean_seconds),
        time(held.longest_seconds)
    )
}

fn reset(refused: &RefusedReport) -> Option<String> {
    let words = [
        ("no_backend", refused.no_backend),
        ("hold_full", refused.hold_full),
        ("hold_timeout", refused.hold_timeout),
    ];
    let words = words.iter().filter(|(_, n)| *n > 0);
    let words: Vec<_> = words.map(|(word, n)| format!("{word} {n}")).collect();
    let total = refused.total();
    (total > 0).then(|| format!("reset: {total} ({})", words.join(", ")))
}

fn moved(to_fallback: u64) -> Option<String> {
    (to_fallback > 0).then(|| format!("to its fallback: {to_fallback}"))
}

/// What the loss of each backend would do; of many the worst.
fn losses(all: &[OutageReport], colours: bool) -> String {
    let mut told: Vec<_> = all.iter().collect();
    if told.len() > MOST_LOSSES {
        told.sort_by(|a, b| badness(b).total_cmp(&badness(a)));
        told.truncate(MOST_LOSSES);
    }
    let mut table = Table::new([
        Column::Left("IF LOST"),
        Column::Left("MOST LOADED"),
        Column::Right("PEAK"),
        Column::Right("HELD"),
        Column::Right("AT ONCE"),
        Column::Right("LONGEST"),
        Column::Right("RESET"),
        Column::Right("TO FALLBACK"),
    ]);
    for of in &told {
        let reset = of.refused.total();
        table.row([
            (&*of.backend).into(),
            of.most_loaded.as_deref().unwrap_or("-").into(),
            of.peak.into(),
            of.held.connections.into(),
            of.held.peak.into(),
            time(of.held.longest_seconds).into(),
            Cell::new(reset, if reset > 0 { Tone::Bad } else { Tone::Plain }),
            of.to_fallback.into(),
        ]);
    }
    let mut text = String::from("\n");
    indent(&mut text, &table.render(colours));
    if all.len() > told.len() {
        let more = all.len() - told.len();
        let _ = writeln!(
            text,
            "  and {more} more that do less; --json has all of them"
        );
    }
    text
}

/// Resets before waits before load.
fn badness(of: &OutageReport) -> f64 {
    let lost = of.refused.total() + of.held.for_ever;
    lost as f64 * 1e12 + of.held.longest_seconds.unwrap_or(0.0) * 1e6 + f64::from(of.peak)
}

/// How long, in three digits or two units.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        Some(seconds) if seconds >= 60.0 => span(seconds),
        seconds => latency(seconds),
    }
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn indent(text: &mut String, lines: &str) {
    for line in lines.lines() {
        let _ = writeln!(text, "  {line}");
    }
}

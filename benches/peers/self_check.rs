//! What `cargo test` runs of the benchmark: everything once, briefly, without peers.

use std::io;

use crate::args::Args;
use crate::contender::Contender;
use crate::report::Report;
use crate::run::Plan;
use crate::workload::Workload;
use crate::{discover, overview};

/// Kinds of traffic and of cells, one of each.
const WORKLOADS: [Workload; 6] = [
    Workload::Conn,
    Workload::Pp1,
    Workload::Up1,
    Workload::Idle,
    Workload::Even,
    Workload::Scale,
];

/// One round of direct traffic and of isobar: clients and backends work, every cell has the
/// figures that its workload is about, and a saved result says what the run said.
pub(crate) fn run(args: &Args) -> io::Result<()> {
    let contenders = [Contender::Direct, Contender::Isobar];
    let (programs, skipped) = discover::programs(&contenders, args.given());
    let plan = Plan {
        programs,
        workloads: WORKLOADS.to_vec(),
        rounds: 1,
        warm_ms: 10,
        measure_ms: 50,
        idle: 32,
        threads: 2,
        max_connections: 256,
    };
    let report = crate::report(args, plan, skipped)?;
    complain(report.failures().first())?;
    complain(report.skipped.first())?;
    complain(missing(&report).first())?;
    survives_saving(&report)
}

/// What the cells of isobar should show and do not.
fn missing(report: &Report) -> Vec<String> {
    let shown = overview::overview(report);
    let rows = WORKLOADS.iter().filter(|workload| {
        let mut cells = report.cells.iter();
        let isobar = |cell: &&crate::cell::Cell| {
            cell.workload == **workload && cell.column == Contender::Isobar.name()
        };
        let figures = cells.find(isobar).and_then(|cell| cell.figures.as_ref());
        !figures.is_some_and(|figures| match workload {
            Workload::Idle => figures.memory.is_some_and(|memory| memory.before > 0),
            Workload::Even => figures.shares.as_ref().is_some_and(|shares| {
                shares.connections.iter().sum::<u64>() == 100 && shares.cpu_ns.len() == 2
            }),
            Workload::Scale => figures.one_worker.is_some_and(|one| one.cost.cpu_ns > 0),
            _ => figures.cost.is_some_and(|cost| cost.cpu_ns > 0),
        })
    });
    let rows = rows.map(|workload| format!("{} lacks its figures", workload.name()));
    let words = ["ping-pong, 100 connections", "isobar"];
    let words = words.into_iter().filter(|word| !shown.contains(word));
    rows.chain(words.map(|word| format!("the overview lacks {word:?}")))
        .collect()
}

fn survives_saving(report: &Report) -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let loaded = Report::load(&report.save(dir.path())?)?;
    let same = overview::overview(&loaded) == overview::overview(report);
    complain((!same).then_some("a saved result says something else"))
}

fn complain(fault: Option<impl ToString>) -> io::Result<()> {
    fault.map_or(Ok(()), |fault| Err(io::Error::other(fault.to_string())))
}

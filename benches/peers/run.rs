//! The measurement: rounds of workloads, each workload through every contender in turn.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bench::Bench;
use crate::cell::Cell;
use crate::program::Program;
use crate::stats::rotated;
use crate::workload::Workload;

/// What is to be measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Columns.
    pub programs: Vec<Program>,
    /// Rows.
    pub workloads: Vec<Workload>,
    /// How often each cell is measured.
    pub rounds: usize,
    /// Milliseconds of each warm-up.
    pub warm_ms: u64,
    /// Milliseconds of each measurement.
    pub measure_ms: u64,
    /// Connections of the idle workload.
    pub idle: usize,
    /// Workers of each proxy.
    pub threads: usize,
    /// Connections that each proxy must be able to hold.
    pub max_connections: u64,
}

/// What a run yields.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Every cell of the plan, in the order of measurement.
    pub cells: Vec<Cell>,
    /// The configuration of each column, and of each that ran with another number of workers.
    pub configurations: BTreeMap<String, String>,
}

/// Measures every cell of the plan. A cell that fails says so and does not stop the others.
///
/// `scratch` is a directory for configurations and logs.
///
/// # Errors
/// The backends cannot be started, or a proxy cannot.
pub(crate) fn run(plan: &Plan, scratch: &Path) -> io::Result<Outcome> {
    let mut bench = Bench::start(plan, scratch)?;
    let mut cells = Vec::new();
    for round in 0..plan.rounds {
        for (row, &workload) in plan.workloads.iter().enumerate() {
            let columns: Vec<usize> = (0..plan.programs.len()).collect();
            for column in rotated(&columns, round + row) {
                let cell = bench.cell(&plan.programs[column], workload, round);
                cell.iter().for_each(progress);
                cells.extend(cell);
            }
        }
    }
    Ok(Outcome {
        cells,
        configurations: bench.into_configurations(),
    })
}

fn progress(cell: &Cell) {
    let head = format!(
        "round {} {:<6} {:<8}",
        cell.round + 1,
        cell.workload.name(),
        cell.column
    );
    match (&cell.figures, &cell.error) {
        (Some(figures), _) => {
            let rate = figures.sample.units / figures.sample.seconds;
            eprintln!("{head} {rate:>10.0} {}/s", cell.workload.unit());
        }
        (None, error) => eprintln!("{head} failed: {}", error.as_deref().unwrap_or("?")),
    }
}

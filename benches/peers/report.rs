//! From cells to figures, and to files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::contender::Contender;
use crate::machine::Machine;
use crate::metric::{ALL, Better, Metric};
use crate::page;
use crate::program::Program;
use crate::run::Plan;
use crate::stats::{median, paired_ratio};
use crate::table::{Table, figure};
use crate::workload::Workload;

/// Everything about one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// When it began, RFC 3339.
    pub started_at: String,
    /// What was typed, without the directories of files.
    pub command: String,
    /// The commit of the isobar that was measured, where it was built from this repository.
    pub revision: Option<String>,
    /// Where it ran.
    pub machine: Machine,
    /// Why there are no instructions, if there are none.
    pub counters_unavailable: Option<String>,
    /// Contenders that were left out, and why.
    pub skipped: Vec<String>,
    /// What was measured, with versions.
    pub plan: Plan,
    /// The configurations as used, by column.
    pub configurations: BTreeMap<String, String>,
    /// The raw figures of every round.
    pub cells: Vec<Cell>,
}

impl Report {
    /// The tables, for people.
    pub(crate) fn text(&self) -> String {
        let tables = self.tables().map(|table| format!("{table}\n"));
        let mut text: String = tables.collect();
        let failures = self.failures();
        if !failures.is_empty() {
            let (failed, all) = (failures.len(), self.cells.len());
            text += &format!("{failed} of {all} cells failed\n");
        }
        text
    }

    /// Writes the report into `dir` under its date, as JSON and, beside it, as a page to read;
    /// returns the path of the JSON.
    pub(crate) fn save(&self, dir: &Path) -> io::Result<PathBuf> {
        std::fs::create_dir_all(dir)?;
        let file = dir.join(format!("peers-{}.json", self.started_at.replace(':', "-")));
        std::fs::write(&file, serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::write(file.with_extension("md"), page::page(self))?;
        Ok(file)
    }

    /// Reads what [`save`](Self::save) has written.
    pub(crate) fn load(file: &Path) -> io::Result<Self> {
        let in_file = |error: &dyn std::error::Error| {
            io::Error::other(format!("{}: {error}", file.display()))
        };
        let text = std::fs::read_to_string(file).map_err(|error| in_file(&error))?;
        serde_json::from_str(&text).map_err(|error| in_file(&error))
    }

    /// One for each metric that any cell has.
    pub(crate) fn tables(&self) -> impl Iterator<Item = Table> {
        let tables = ALL.iter().map(|metric| self.table(metric));
        tables.filter(|table| !table.is_empty())
    }

    /// What failed, and why, a line each.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = |cell: &Cell| {
            let error = cell.error.as_ref()?;
            let (row, round) = (cell.workload.name(), cell.round + 1);
            Some(format!("round {round}, {row}, {}: {error}", cell.column))
        };
        self.cells.iter().filter_map(failed).collect()
    }

    /// The median over the rounds.
    pub(crate) fn median(
        &self,
        metric: &Metric,
        workload: Workload,
        program: &Program,
    ) -> Option<f64> {
        let rounds = self.rounds(metric, workload, &program.column);
        median(rounds.into_iter().flatten())
    }

    /// isobar against the peer with the best median.
    pub(crate) fn ratio(&self, metric: &Metric, workload: Workload) -> Option<f64> {
        let programs = self.plan.programs.iter();
        let isobar = (programs.clone()).find(|program| program.contender == Contender::Isobar)?;
        let peers = programs.filter(|program| program.contender.is_peer());
        let peers = peers.filter_map(|peer| Some((peer, self.median(metric, workload, peer)?)));
        let by_median = |a: &(&Program, f64), b: &(&Program, f64)| a.1.total_cmp(&b.1);
        let (best, _) = match metric.better {
            Better::Lower => peers.min_by(by_median),
            Better::Higher => peers.max_by(by_median),
        }?;
        paired_ratio(
            &self.rounds(metric, workload, &isobar.column),
            &self.rounds(metric, workload, &best.column),
        )
    }

    /// One row for each workload that has the figure, one column for each program.
    fn table(&self, metric: &Metric) -> Table {
        let programs = &self.plan.programs;
        let mut head = vec![String::new(), "unit".into()];
        head.extend(programs.iter().map(|program| program.column.clone()));
        head.push("isobar/best".into());
        let mut table = Table::new(metric.title, head);
        for &workload in &self.plan.workloads {
            let values = programs
                .iter()
                .map(|program| self.median(metric, workload, program));
            let values: Vec<Option<f64>> = values.collect();
            if values.iter().any(Option::is_some) {
                let unit = metric.unit.unwrap_or(workload.unit());
                let mut row = vec![workload.name().to_owned(), unit.to_owned()];
                row.extend(values.into_iter().map(figure));
                row.push(figure(self.ratio(metric, workload)));
                table.push(row);
            }
        }
        table
    }

    /// The figure of each round.
    fn rounds(&self, metric: &Metric, workload: Workload, column: &str) -> Vec<Option<f64>> {
        let of_round = |round| {
            let mut cells = self.cells.iter();
            let cell = cells.find(|cell| {
                cell.workload == workload && cell.column == column && cell.round == round
            })?;
            (metric.of)(cell.figures.as_ref()?)
        };
        (0..self.plan.rounds).map(of_round).collect()
    }
}

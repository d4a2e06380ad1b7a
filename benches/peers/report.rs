//! From cells to tables and to a file.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::contender::Contender;
use crate::load::Latency;
use crate::machine::Machine;
use crate::run::{Cell, Figures, Plan};
use crate::stats::{median, paired_ratio};
use crate::table::{Table, figure};
use crate::workload::Workload;

/// Everything about one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// When it began, RFC 3339.
    pub started_at: String,
    /// Where it ran.
    pub machine: Machine,
    /// Why there are no instructions, if there are none.
    pub counters_unavailable: Option<String>,
    /// Contenders that were left out, and why.
    pub skipped: Vec<String>,
    /// What was measured, with versions and configurations.
    pub plan: Plan,
    /// The raw figures of every round.
    pub cells: Vec<Cell>,
}

/// Which of two values is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
}

/// One figure, taken from every cell.
struct Metric {
    title: String,
    better: Better,
    of: fn(&Figures) -> Option<f64>,
}

impl Report {
    /// The tables, for people. The unit of account comes first.
    pub(crate) fn text(&self) -> String {
        let tables = self.metrics().into_iter().map(|metric| self.table(&metric));
        let tables = tables.filter(|table| !table.is_empty());
        let failed = self
            .cells
            .iter()
            .filter(|cell| cell.error.is_some())
            .count();
        let mut text: String = tables.map(|table| format!("{table}\n")).collect();
        if failed > 0 {
            text += &format!("{failed} of {} cells failed\n", self.cells.len());
        }
        text
    }

    /// Writes the report as JSON into `dir`, under its date, and returns the path.
    pub(crate) fn save(&self, dir: &Path) -> io::Result<PathBuf> {
        std::fs::create_dir_all(dir)?;
        let file = dir.join(format!("peers-{}.json", self.started_at.replace(':', "-")));
        std::fs::write(&file, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(file)
    }

    fn metrics(&self) -> Vec<Metric> {
        let lower = |title: &str, of| Metric {
            title: title.into(),
            better: Better::Lower,
            of,
        };
        vec![
            lower(
                "instructions of the proxy, thousands per unit",
                kilo_instructions,
            ),
            lower("of these in user space", user_kilo_instructions),
            lower("CPU time of the proxy, microseconds per unit", cpu_micros),
            Metric {
                title: "rate, units per second".into(),
                better: Better::Higher,
                of: rate,
            },
            lower("latency p50, microseconds", |figures| {
                latency(figures, |l| l.p50_us)
            }),
            lower("latency p99, microseconds", |figures| {
                latency(figures, |l| l.p99_us)
            }),
            lower("latency p99.9, microseconds", |figures| {
                latency(figures, |l| l.p999_us)
            }),
            lower("idle memory, bytes per connection", idle_bytes),
        ]
    }

    /// One row for each workload that has the figure, one column for each contender.
    fn table(&self, metric: &Metric) -> Table {
        let contenders = self.contenders();
        let mut head = vec!["".to_owned(), "unit".to_owned()];
        head.extend(
            contenders
                .iter()
                .map(|contender| contender.name().to_owned()),
        );
        head.push("isobar/best".into());
        let mut table = Table::new(metric.title.as_str(), head);
        for &workload in &self.plan.workloads {
            let values = contenders
                .iter()
                .map(|&contender| self.median(metric, workload, contender));
            let values: Vec<Option<f64>> = values.collect();
            if values.iter().any(Option::is_some) {
                let mut row = vec![workload.name().to_owned(), workload.unit().to_owned()];
                row.extend(values.into_iter().map(figure));
                row.push(figure(self.ratio(metric, workload)));
                table.push(row);
            }
        }
        table
    }

    fn contenders(&self) -> Vec<Contender> {
        let programs = self.plan.programs.iter();
        programs.map(|program| program.contender).collect()
    }

    fn median(&self, metric: &Metric, workload: Workload, contender: Contender) -> Option<f64> {
        median(
            self.rounds(metric, workload, contender)
                .into_iter()
                .flatten(),
        )
    }

    /// isobar against the peer with the best median.
    fn ratio(&self, metric: &Metric, workload: Workload) -> Option<f64> {
        let median = |peer: &Contender| self.median(metric, workload, *peer);
        let peers = self.contenders().into_iter().filter(|peer| peer.is_peer());
        let peers = peers.filter(|peer| median(peer).is_some());
        let by_median = |a: &Contender, b: &Contender| {
            median(a).partial_cmp(&median(b)).expect("no figure is NaN")
        };
        let best = match metric.better {
            Better::Lower => peers.min_by(by_median),
            Better::Higher => peers.max_by(by_median),
        }?;
        paired_ratio(
            &self.rounds(metric, workload, Contender::Isobar),
            &self.rounds(metric, workload, best),
        )
    }

    /// The figure of each round.
    fn rounds(
        &self,
        metric: &Metric,
        workload: Workload,
        contender: Contender,
    ) -> Vec<Option<f64>> {
        let of_round = |round| {
            let mut cells = self.cells.iter();
            let cell = cells.find(|cell| {
                cell.workload == workload && cell.contender == contender && cell.round == round
            })?;
            (metric.of)(cell.figures.as_ref()?)
        };
        (0..self.plan.rounds).map(of_round).collect()
    }
}

fn kilo_instructions(figures: &Figures) -> Option<f64> {
    let instructions = figures.cost?.instructions?;
    Some(instructions.total() as f64 / 1e3 / figures.sample.units)
}

fn user_kilo_instructions(figures: &Figures) -> Option<f64> {
    let instructions = figures.cost?.instructions?;
    Some(instructions.user as f64 / 1e3 / figures.sample.units)
}

fn cpu_micros(figures: &Figures) -> Option<f64> {
    Some(figures.cost?.cpu_ns as f64 / 1e3 / figures.sample.units)
}

/// The rate of opening idle connections one by one is not a figure of interest.
fn rate(figures: &Figures) -> Option<f64> {
    let traffic = figures.memory_bytes.is_none();
    traffic.then_some(figures.sample.units / figures.sample.seconds)
}

fn latency(figures: &Figures, of: fn(Latency) -> f64) -> Option<f64> {
    let traffic = figures.memory_bytes.is_none();
    figures.sample.latency.filter(|_| traffic).map(of)
}

fn idle_bytes(figures: &Figures) -> Option<f64> {
    Some(figures.memory_bytes? as f64 / figures.sample.units)
}

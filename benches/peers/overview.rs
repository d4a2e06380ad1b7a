//! What the README shows of a result, so that nobody types it.

use crate::contender::Contender;
use crate::discover::number;
use crate::metric::{
    Better, CPU_TIME, IDLE_MEMORY, INSTRUCTIONS, LARGEST_CONNECTIONS, LARGEST_CPU_TIME, Metric,
    P99, RATE, SCALED_CPU_TIME, SCALED_RATE,
};
use crate::program::Program;
use crate::report::Report;
use crate::table::{Table, figure};
use crate::workload::Workload;

/// Columns of text that a paragraph has in the README.
const WIDTH: usize = 100;

/// A paragraph on how it was measured, and one table.
pub(crate) fn overview(report: &Report) -> String {
    let table = Overview::of(report).table();
    format!("{}\n{}", wrapped(&paragraph(report)), table.markdown())
}

struct Overview<'a> {
    report: &'a Report,
    /// The unit of account.
    cost: Metric,
    /// isobar first, then its peers.
    programs: Vec<&'a Program>,
}

impl<'a> Overview<'a> {
    fn of(report: &'a Report) -> Self {
        let programs = report.plan.programs.iter();
        let proxies = programs.filter(|program| program.contender != Contender::Direct);
        let mut programs: Vec<&Program> = proxies.collect();
        programs.sort_by_key(|program| program.contender.is_peer());
        Self {
            report,
            cost: unit_of_account(report),
            programs,
        }
    }

    fn table(&self) -> Table {
        let mut head = vec![String::new(), "unit".into()];
        head.extend(self.programs.iter().map(|program| titled(program)));
        head.extend(["isobar/best", "rate", "p99"].map(String::from));
        let mut table = Table::new("", head);
        for &workload in &self.report.plan.workloads {
            for metric in self.metrics(workload) {
                if let Some(row) = self.row(&metric, workload) {
                    table.push(row);
                }
            }
        }
        table
    }

    /// What is shown of a workload.
    fn metrics(&self, workload: Workload) -> Vec<Metric> {
        match workload {
            Workload::Idle => vec![IDLE_MEMORY],
            Workload::Even => vec![LARGEST_CONNECTIONS, LARGEST_CPU_TIME],
            Workload::Scale => vec![SCALED_RATE, SCALED_CPU_TIME],
            _ => vec![self.cost],
        }
    }

    fn row(&self, metric: &Metric, workload: Workload) -> Option<Vec<String>> {
        let median = |program: &&Program| self.report.median(metric, workload, program);
        let medians: Vec<Option<f64>> = self.programs.iter().map(median).collect();
        medians.iter().flatten().next()?;
        // A cost is what the whole row is about; other figures say themselves what they are.
        let (what, unit) = match metric.unit {
            None => (workload.description().to_owned(), workload.unit()),
            Some(unit) => (titled_row(metric, workload), unit),
        };
        let mut row = vec![what, unit.to_owned()];
        row.extend(medians.into_iter().map(figure));
        row.push(self.ratio(metric, workload));
        let beside = [RATE, P99].map(|beside| match metric.unit {
            None => self.ratio(&beside, workload),
            Some(_) => String::new(),
        });
        row.extend(beside);
        Some(row)
    }

    /// In bold where isobar loses.
    fn ratio(&self, metric: &Metric, workload: Workload) -> String {
        let ratio = self.report.ratio(metric, workload);
        match ratio {
            Some(lost) if metric.better.is_lost_with(lost) => format!("**{}**", figure(ratio)),
            _ => figure(ratio),
        }
    }
}

fn titled_row(metric: &Metric, workload: Workload) -> String {
    let what = metric.title.split(", ").next().unwrap_or(metric.title);
    match (workload, metric.better) {
        (Workload::Even, _) => format!("{}: {what}", workload.description()),
        (Workload::Scale, Better::Higher) => format!("{what}, all workers to one (more is better)"),
        (Workload::Scale, Better::Lower) => format!("{what}, all workers to one"),
        _ => what.to_owned(),
    }
}

/// Instructions if any were counted, else CPU time.
fn unit_of_account(report: &Report) -> Metric {
    let figures = report.cells.iter().filter_map(|cell| cell.figures.as_ref());
    let mut counted = figures.filter_map(INSTRUCTIONS.of);
    match counted.next() {
        Some(_) => INSTRUCTIONS,
        None => CPU_TIME,
    }
}

/// A program with the number of its version.
fn titled(program: &Program) -> String {
    let title = program.contender.title();
    match number(&program.version) {
        "" => title.into(),
        number => format!("{title} {number}"),
    }
}

fn paragraph(report: &Report) -> String {
    let (machine, plan) = (&report.machine, &report.plan);
    let day = report.started_at.get(..10).unwrap_or_default();
    let gib = (machine.memory_mib as f64 / 1024.0).round();
    let cost = unit_of_account(report).title;
    format!(
        "`{}` on {day}: {}, {} cores, {gib} GiB, Linux {}, clients and backends on the same \
         machine over loopback, {} workers each, access log to a file in all, medians of {} \
         rounds in rotating order. Costs are {cost}, user and kernel. The last three columns are \
         the medians of the ratios within each round, of this figure, of the rate and of the \
         99th percentile of the latency, each to the peer that is best in it: bold where isobar \
         loses.",
        report.command, machine.cpu, machine.cores, machine.kernel, plan.threads, plan.rounds,
    )
}

/// Lines of at most [`WIDTH`] characters, where words allow it.
pub(crate) fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        let width = line.chars().count() + 1 + word.chars().count();
        if line.is_empty() {
            line.push_str(word);
        } else if width <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n") + "\n"
}

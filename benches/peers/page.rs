//! A saved result as a page of Markdown, written beside the raw figures.

use crate::overview::overview;
use crate::report::Report;

/// The overview, every table, and under which conditions it all came about.
pub(crate) fn page(report: &Report) -> String {
    let parts = [
        format!("# isobar beside its peers, {}\n", report.started_at),
        overview(report),
        conditions(report),
        figures(report),
        failures(report),
        configurations(report),
    ];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("\n")
}

fn conditions(report: &Report) -> String {
    let (machine, plan) = (&report.machine, &report.plan);
    let mut lines = vec![
        format!("command: `{}`", report.command),
        format!(
            "machine: {}, {} cores, {} MiB of memory",
            machine.cpu, machine.cores, machine.memory_mib
        ),
        format!(
            "kernel: Linux {}, clock source {}",
            machine.kernel, machine.clocksource
        ),
    ];
    let programs = plan.programs.iter();
    let proxies = programs.filter(|program| !program.version.is_empty());
    lines.extend(proxies.map(|program| format!("{}: {}", program.column, program.version)));
    lines.extend(
        report
            .revision
            .iter()
            .map(|at| format!("isobar built from {at}")),
    );
    lines.push(format!(
        "{} rounds, {} ms each after {} ms of warm-up; {} workers; {} idle connections",
        plan.rounds, plan.measure_ms, plan.warm_ms, plan.threads, plan.idle
    ));
    let why = report.counters_unavailable.iter();
    lines.extend(why.map(|why| format!("instructions and cycles are not counted: {why}")));
    lines.extend(
        report
            .skipped
            .iter()
            .map(|what| format!("left out: {what}")),
    );
    section("Conditions", &list(&lines))
}

fn figures(report: &Report) -> String {
    let tables = report
        .tables()
        .map(|table| format!("### {}\n\n{}", table.title(), table.markdown()));
    section("Figures", &tables.collect::<Vec<_>>().join("\n"))
}

fn failures(report: &Report) -> String {
    section("Failures", &list(&report.failures()))
}

fn configurations(report: &Report) -> String {
    let files = report
        .configurations
        .iter()
        .map(|(column, text)| format!("### {column}\n\n```\n{}\n```\n", text.trim_end()));
    section(
        "Configurations as used",
        &files.collect::<Vec<_>>().join("\n"),
    )
}

/// Nothing where there is nothing to say.
fn section(title: &str, text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!("## {title}\n\n{text}"),
    }
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("- {line}\n")).collect()
}

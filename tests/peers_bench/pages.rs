//! Tables and saved results.

use std::collections::BTreeMap;

use crate::cell::{Cell, Figures, Memory, OneWorker};
use crate::contender::Contender;
use crate::cost::{Cost, Split};
use crate::discover::name_columns;
use crate::load::{Latency, Sample};
use crate::machine::Machine;
use crate::program::Program;
use crate::report::Report;
use crate::run::Plan;
use crate::shares::Shares;
use crate::table::{Table, figure};
use crate::workload::Workload;
use crate::{overview, page};

#[test]
fn figures_have_three_digits_and_grouped_thousands() {
    let shown = [
        0.914,
        9.99,
        9.996,
        52.34,
        99.96,
        467.6,
        14_669.4,
        1_234_567.0,
    ];
    let shown = shown.map(|value| figure(Some(value)));
    let expected = [
        "0.91",
        "9.99",
        "10.0",
        "52.3",
        "100",
        "468",
        "14,669",
        "1,234,567",
    ];
    assert_eq!(shown, expected);
    assert_eq!(figure(None), "-");
}

#[test]
fn columns_line_up_under_the_widest_cell() {
    let row = |cells: [&str; 3]| cells.map(String::from).to_vec();
    let mut table = Table::new("cost", row(["", "nginx", "x"]));
    assert!(table.is_empty());
    table.push(row(["pp16k", "1", "µµ"]));
    assert!(!table.is_empty());
    let expected = "cost\n         nginx   x\n  pp16k      1  µµ\n";
    assert_eq!(table.to_string(), expected);
}

#[test]
fn markdown_has_names_to_the_left_and_figures_to_the_right() {
    let row = |cells: [&str; 3]| cells.map(String::from).to_vec();
    let mut table = Table::new("cost", row(["", "unit", "nginx"]));
    table.push(row(["conn", "connection", "75.3"]));
    let expected = "|  | unit | nginx |\n| --- | --- | ---: |\n| conn | connection | 75.3 |\n";
    assert_eq!(table.markdown(), expected);
}

#[test]
fn paragraphs_are_wrapped_between_words() {
    let text = format!("{} {} end", "a".repeat(60), "b".repeat(39));
    let expected = format!("{} {}\nend\n", "a".repeat(60), "b".repeat(39));
    assert_eq!(overview::wrapped(&text), expected);
}

/// isobar costs as much as the best peer under `conn`, where it is slower, and less under
/// `pp1`; it needs more memory than HAProxy; its cores are as even as the best.
#[test]
fn the_overview_shows_costs_beside_rates_and_marks_what_is_lost() {
    let shown = overview::overview(&report());
    let table = &shown[shown.find("| ").expect("a table")..];
    let expected = "\
|  | unit | isobar 0.1.0 | HAProxy 2.6.12 | NGINX 1.22.1 | isobar/best | rate | p99 |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| connect, 100 bytes each way, close | connection | 10.0 | 20.0 | 10.0 | 1.00 | **0.50** | **1.50** |
| ping-pong, 1 connection | message | 5.00 | 20.0 | 10.0 | 0.50 | 2.00 | 0.50 |
| memory of an idle connection | byte | 3,000 | 2,000 | 9,000 | **1.50** |  |  |
| ping-pong, 100 connections: connections on the fullest worker | % | 52.0 | 52.0 | 90.0 | 1.00 |  |  |
| ping-pong, 100 connections: CPU time of the busiest worker | % | 60.0 | 75.0 | 80.0 | 0.80 |  |  |
| rate of short connections, all workers to one (more is better) | times | 1.50 | 1.00 | 1.20 | 1.25 |  |  |
| CPU time of a short connection, all workers to one | times | 1.00 | 1.50 | 2.00 | 0.67 |  |  |
";
    assert_eq!(table, expected);
    assert!(
        shown.starts_with("`cargo bench --bench peers -- --save` on 2026-01-02: A CPU, 2 cores")
    );
    assert!(
        shown.contains("CPU time of the proxy, microseconds per unit"),
        "{shown}"
    );
}

#[test]
fn instructions_are_the_unit_of_account_where_they_are_counted() {
    let mut report = report();
    for figures in report
        .cells
        .iter_mut()
        .filter_map(|cell| cell.figures.as_mut())
    {
        if let Some(cost) = &mut figures.cost {
            cost.instructions = Some(Split {
                user: 1_000_000,
                kernel: 3_000_000,
            });
            cost.cycles = Some(Split {
                user: 2_000_000,
                kernel: 4_000_000,
            });
        }
    }
    let shown = overview::overview(&report);
    assert!(
        shown.contains("instructions of the proxy, thousands per unit"),
        "{shown}"
    );
    assert!(
        shown.contains("| connection | 4.00 | 2.67 | 2.00 | **2.00** |"),
        "{shown}"
    );
    let text = report.text();
    assert!(text.contains("of these in user space\n"), "{text}");
    assert!(
        text.contains("cycles of the proxy, thousands per unit\n"),
        "{text}"
    );
}

/// Short connections are shown once, idle ones have no rate, and no proxy no cost.
#[test]
fn tables_show_a_figure_where_the_workload_is_about_it() {
    let text = report().text();
    let rows = |title: &str| -> Vec<String> {
        let lines = text.lines().skip_while(|line| *line != title).skip(2);
        lines
            .take_while(|line| !line.is_empty())
            .map(String::from)
            .collect()
    };
    let costs = rows("CPU time of the proxy, microseconds per unit");
    let names = costs.iter().filter_map(|row| row.split_whitespace().next());
    assert_eq!(names.collect::<Vec<_>>(), ["conn", "pp1", "even"]);
    let first = |rows: Vec<String>| rows.first().cloned().unwrap_or_default();
    let conn: Vec<String> = costs[0].split_whitespace().map(String::from).collect();
    assert_eq!(
        conn,
        ["conn", "connection", "-", "10.0", "20.0", "10.0", "1.00"]
    );
    let memory = first(rows("memory before the idle connections, MiB"));
    assert!(
        memory.contains("MiB") && memory.contains("2.00"),
        "{memory}"
    );
    assert!(
        rows("rate, units per second")
            .iter()
            .all(|row| !row.contains("idle"))
    );
    assert!(!text.contains("instructions"), "{text}");
    assert!(!text.contains("failed"), "{text}");
}

#[test]
fn a_saved_result_says_the_same_with_a_page_beside_it() {
    let mut report = report();
    report.cells[0].error = Some("the clients failed or got stuck".into());
    report.cells[0].figures = None;
    let dir = tempfile::tempdir().expect("a directory");
    let file = report.save(dir.path()).expect("it can be written");
    assert!(file.ends_with("peers-2026-01-02T03-04-05Z.json"));
    let loaded = Report::load(&file).expect("what was written");
    assert_eq!(loaded.text(), report.text());
    let page = std::fs::read_to_string(file.with_extension("md")).expect("a page");
    assert_eq!(page, page::page(&loaded));
    for part in [
        "- kernel: Linux 6.18, clock source tsc\n",
        "- nginx: nginx version: nginx/1.22.1\n",
        "- instructions and cycles are not counted: no counters\n",
        "- round 1, conn, direct: the clients failed or got stuck\n",
        "### nginx\n\n```\nworker_processes 2;\n```\n",
        &overview::overview(&report),
    ] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
}

#[test]
fn a_result_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("peers.json");
    std::fs::write(&file, "{}").expect("it can be written");
    let error = Report::load(&file)
        .expect_err("nothing is in it")
        .to_string();
    assert!(
        error.contains("peers.json") && error.contains("started_at"),
        "{error}"
    );
}

/// A run of one round over one of each kind of workload, in round numbers.
fn report() -> Report {
    let program = |contender, version: &str| Program {
        contender,
        version: version.into(),
        ..Program::direct()
    };
    let mut programs = vec![
        Program::direct(),
        program(Contender::Isobar, "isobar 0.1.0"),
        program(Contender::Haproxy, "HAProxy version 2.6.12-1+deb12u4"),
        program(Contender::Nginx, "nginx version: nginx/1.22.1"),
    ];
    name_columns(&mut programs);
    Report {
        started_at: "2026-01-02T03:04:05Z".into(),
        command: "cargo bench --bench peers -- --save".into(),
        revision: None,
        machine: Machine {
            kernel: "6.18".into(),
            cpu: "A CPU".into(),
            cores: 2,
            memory_mib: 24_152,
            clocksource: "tsc".into(),
        },
        counters_unavailable: Some("no counters".into()),
        skipped: Vec::new(),
        plan: Plan {
            programs,
            workloads: vec![
                Workload::Conn,
                Workload::Pp1,
                Workload::Idle,
                Workload::Even,
                Workload::Scale,
            ],
            rounds: 1,
            warm_ms: 500,
            measure_ms: 1000,
            idle: 1000,
            threads: 2,
            max_connections: 4000,
        },
        configurations: BTreeMap::from([("nginx".into(), "worker_processes 2;\n".into())]),
        cells: cells(),
    }
}

fn cells() -> Vec<Cell> {
    let cell = |workload, column: &str, figures| Cell {
        workload,
        column: column.into(),
        round: 0,
        figures: Some(figures),
        error: None,
    };
    let conn = |column, rate, micros, p99| {
        let figures = Figures::proxied(sample(rate, p99), cost(rate, micros));
        cell(Workload::Conn, column, figures)
    };
    let pp1 = |column, rate, micros, p99| {
        let figures = Figures::proxied(sample(rate, p99), cost(rate, micros));
        cell(Workload::Pp1, column, figures)
    };
    let idle = |column, bytes: u64| {
        let before = 2 << 20;
        let memory = Memory {
            before,
            after: before + bytes * 1000,
        };
        cell(
            Workload::Idle,
            column,
            Figures::idle(sample(1000.0, 1.0), memory),
        )
    };
    let even = |column, connections: [u64; 2], cpu_ns: [u64; 2]| {
        let figures = Figures {
            shares: Some(Shares {
                connections: connections.to_vec(),
                cpu_ns: cpu_ns.to_vec(),
            }),
            ..Figures::proxied(sample(100.0, 1.0), cost(100.0, 1.0))
        };
        cell(Workload::Even, column, figures)
    };
    let scale = |column, rate, micros| {
        let figures = Figures {
            one_worker: Some(OneWorker {
                sample: sample(100.0, 1.0),
                cost: cost(100.0, 10.0),
            }),
            ..Figures::proxied(sample(rate, 1.0), cost(rate, micros))
        };
        cell(Workload::Scale, column, figures)
    };
    vec![
        cell(
            Workload::Conn,
            "direct",
            Figures::direct(sample(9000.0, 10.0)),
        ),
        conn("isobar", 1000.0, 10.0, 30.0),
        conn("haproxy", 1500.0, 20.0, 40.0),
        conn("nginx", 2000.0, 10.0, 20.0),
        pp1("isobar", 2000.0, 5.0, 10.0),
        pp1("haproxy", 1000.0, 20.0, 20.0),
        pp1("nginx", 500.0, 10.0, 30.0),
        idle("isobar", 3000),
        idle("haproxy", 2000),
        idle("nginx", 9000),
        even("isobar", [52, 48], [60, 40]),
        even("haproxy", [52, 48], [75, 25]),
        even("nginx", [90, 10], [80, 20]),
        scale("isobar", 150.0, 10.0),
        scale("haproxy", 100.0, 15.0),
        scale("nginx", 120.0, 20.0),
    ]
}

/// A second of traffic.
fn sample(units: f64, p99_us: f64) -> Sample {
    Sample {
        units,
        seconds: 1.0,
        latency: Some(Latency {
            p50_us: 1.0,
            p99_us,
            p999_us: p99_us * 2.0,
            max_us: p99_us * 3.0,
        }),
    }
}

fn cost(units: f64, micros: f64) -> Cost {
    Cost {
        cpu_ns: (units * micros * 1e3) as u64,
        ticks: Split { user: 1, kernel: 3 },
        ..Cost::default()
    }
}

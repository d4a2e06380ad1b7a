//! The macro benchmark in `benches/peers`, which has no test harness of its own: its arithmetic,
//! its readings of `/proc`, its tables and its pages.

#![allow(
    dead_code,
    reason = "what starts processes is checked by the benchmark itself: cargo test --bench peers"
)]

#[path = "../../benches/peers/args.rs"]
mod args;
#[path = "../../benches/peers/backend.rs"]
mod backend;
#[path = "../../benches/peers/bench.rs"]
mod bench;
#[path = "../../benches/peers/cell.rs"]
mod cell;
#[path = "../../benches/peers/clients.rs"]
mod clients;
#[path = "../../benches/peers/contender.rs"]
mod contender;
#[path = "../../benches/peers/cost.rs"]
mod cost;
#[path = "../../benches/peers/counters.rs"]
mod counters;
#[path = "../../benches/peers/discover.rs"]
mod discover;
#[path = "../../benches/peers/load/mod.rs"]
mod load;
#[path = "../../benches/peers/machine.rs"]
mod machine;
#[path = "../../benches/peers/meter.rs"]
mod meter;
#[path = "../../benches/peers/metric.rs"]
mod metric;
#[path = "../../benches/peers/overview.rs"]
mod overview;
#[path = "../../benches/peers/page.rs"]
mod page;
#[path = "../../benches/peers/process.rs"]
mod process;
#[path = "../../benches/peers/program.rs"]
mod program;
#[path = "../../benches/peers/report.rs"]
mod report;
#[path = "../../benches/peers/run.rs"]
mod run;
#[path = "../../benches/peers/shares.rs"]
mod shares;
#[path = "../../benches/peers/stats.rs"]
mod stats;
#[path = "../../benches/peers/table.rs"]
mod table;
#[path = "../../benches/peers/tasks.rs"]
mod tasks;
#[path = "../../benches/peers/wire.rs"]
mod wire;
#[path = "../../benches/peers/workload.rs"]
mod workload;

mod arithmetic;
mod pages;
mod readings;

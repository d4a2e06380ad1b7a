//! Macro benchmark: isobar beside HAProxy and NGINX, on this machine, in one run.
//!
//! ```text
//! cargo bench --bench peers                  every workload, some ten minutes
//! cargo bench --bench peers -- --quick       the same in about two minutes, less exact
//! cargo bench --bench peers -- --workload conn,pp64 --proxy isobar,nginx --save
//! cargo bench --bench peers -- --haproxy /opt/haproxy-3.5/haproxy --nginx /opt/nginx/sbin/nginx
//! cargo bench --bench peers -- --table benches/results/FILE.json
//! ```
//!
//! The unit of account is instructions of the proxy per connection, message or MB, because
//! they repeat within percents where times drift by a factor of two; without hardware counters
//! it is the proxy's CPU time. Clients and backends are processes of their own (this program
//! in the roles `load` and `backend`), so that only the proxy is measured. Everything that is
//! compared is a ratio within one round of one run. The README beside this file says how the
//! peers are set up and why.

mod args;
mod backend;
mod bench;
mod cell;
mod clients;
mod contender;
mod cost;
mod counters;
mod discover;
mod load;
mod machine;
mod meter;
mod metric;
mod overview;
mod page;
mod process;
mod program;
mod report;
mod run;
mod self_check;
mod shares;
mod stats;
mod table;
mod tasks;
mod wire;
mod workload;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

use args::{Args, Role};
use machine::Machine;
use program::Program;
use report::Report;
use run::{Outcome, Plan};

/// Idle connections; each takes two descriptors of the proxy.
const IDLE_CONNECTIONS: u64 = 4000;
/// Descriptors of a proxy that are not connections: listeners, logs, checks, pipes.
const SPARE_DESCRIPTORS: u64 = 256;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.role {
        Some(Role::Backend { count }) => backend::run(*count),
        Some(Role::Load(load)) => load::run(load),
        Some(Role::Guard { command }) => process::guard(command),
        None => measure_or_show(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure_or_show(args: &Args) -> io::Result<()> {
    match &args.table {
        Some(file) => print!("{}", overview::overview(&Report::load(file)?)),
        None if args.is_test() => self_check::run(args)?,
        None => bench(args)?,
    }
    Ok(())
}

fn bench(args: &Args) -> io::Result<()> {
    let (programs, skipped) = discover::programs(&args.contenders(), args.given());
    for reason in &skipped {
        eprintln!("skipped: {reason}");
    }
    let compared = programs.iter().any(|program| program.contender.is_peer());
    if !compared && !args.names_proxies() {
        println!("no peer to compare with (Debian: apt install haproxy nginx libnginx-mod-stream)");
        return Ok(());
    }
    let report = report(args, plan(args, programs)?, skipped)?;
    println!("{}", report.text());
    if args.save {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
        eprintln!("saved: {}", report.save(&dir)?.display());
    }
    Ok(())
}

/// Measures, and says about it what the figures mean nothing without.
fn report(args: &Args, plan: Plan, skipped: Vec<String>) -> io::Result<Report> {
    let started_at = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let counters_unavailable = counters::unavailable();
    if let Some(reason) = &counters_unavailable {
        eprintln!("instructions are not counted ({reason}); CPU time instead");
    }
    let Outcome {
        cells,
        configurations,
    } = measure(&plan)?;
    Ok(Report {
        started_at,
        command: args::command(std::env::args().skip(1)),
        revision: args.is_own_build().then(revision).flatten(),
        machine: Machine::here(),
        counters_unavailable,
        skipped,
        plan,
        configurations,
        cells,
    })
}

/// The commit that is checked out, and whether there are changes on top; none where Git does
/// not know.
fn revision() -> Option<String> {
    let output = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR")])
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn plan(args: &Args, programs: Vec<Program>) -> io::Result<Plan> {
    // Two sockets each, and HAProxy reserves a pipe for every fourth: five for two.
    let max_connections = (raise_descriptors()? - SPARE_DESCRIPTORS) * 2 / 5;
    let (rounds, warm_ms, measure_ms) = if args.quick {
        (3, 100, 350)
    } else {
        (5, 500, 2000)
    };
    Ok(Plan {
        programs,
        workloads: args.workloads(),
        rounds: args.rounds.unwrap_or(rounds),
        warm_ms,
        measure_ms: args.measure_ms.unwrap_or(measure_ms),
        idle: IDLE_CONNECTIONS.min(max_connections) as usize,
        threads: args.threads,
        max_connections,
    })
}

/// Raises the soft limit to the hard one, for us and for all we start, and returns it.
fn raise_descriptors() -> io::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard.clamp(2 * SPARE_DESCRIPTORS, 20_000))
}

/// Runs the plan with a directory for configurations and logs that is gone afterwards.
fn measure(plan: &Plan) -> io::Result<Outcome> {
    let scratch = tempfile::Builder::new().prefix("isobar-peers-").tempdir()?;
    remove_on_interrupt(scratch.path().to_owned())?;
    run::run(plan, scratch.path())
}

/// On Ctrl-C and SIGTERM: exits, whereupon the kernel ends every process we started.
fn remove_on_interrupt(scratch: PathBuf) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tasks::single_threaded()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
        });
        let _ = std::fs::remove_dir_all(scratch);
        std::process::exit(130);
    });
    Ok(())
}

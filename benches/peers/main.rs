//! Macro benchmark: isobar beside HAProxy and NGINX, on this machine, in one run.
//!
//! ```text
//! cargo bench --bench peers                  every workload, some minutes
//! cargo bench --bench peers -- --quick       the same in about a minute, less exact
//! cargo bench --bench peers -- --workload conn,pp64 --proxy isobar,nginx --save
//! ```
//!
//! The unit of account is instructions of the proxy per connection, message or MB, because
//! they repeat within percents where times drift by a factor of two; without hardware counters
//! it is the proxy's CPU time. Clients and backends are processes of their own (this program
//! in the roles `load` and `backend`), so that only the proxy is measured. Everything that is
//! compared is a ratio within one round of one run. The README beside this file says how the
//! peers are set up and why.

mod backend;
mod contender;
mod load;
mod machine;
mod meter;
mod process;
mod report;
mod run;
mod stats;
mod table;
mod tasks;
mod wire;
mod workload;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use contender::{Contender, Program};
use machine::Machine;
use report::Report;
use run::Plan;
use workload::Workload;

/// Idle connections; each takes two descriptors of the proxy.
const IDLE_CONNECTIONS: u64 = 4000;
/// Descriptors of a proxy that are not connections: listeners, logs, checks, pipes.
const SPARE_DESCRIPTORS: u64 = 256;

/// Measures isobar against its peers.
#[derive(Debug, Parser)]
struct Args {
    /// Workloads to measure [default: all]
    #[arg(long, value_delimiter = ',')]
    workload: Vec<Workload>,
    /// Proxies to measure, and `direct` for none [default: all]
    #[arg(long, value_delimiter = ',')]
    proxy: Vec<Contender>,
    /// Short measurements
    #[arg(long)]
    quick: bool,
    /// Rounds, each of every workload through every proxy [default: 5, or 3 with --quick]
    #[arg(long)]
    rounds: Option<usize>,
    /// Milliseconds of each measurement [default: 2000, or 350 with --quick]
    #[arg(long)]
    measure_ms: Option<u64>,
    /// Workers of each proxy
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The isobar to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_isobar"))]
    isobar: PathBuf,
    /// Keep the raw figures under benches/results
    #[arg(long)]
    save: bool,
    /// Only workloads whose name contains one of these (cargo passes its filter here)
    filter: Vec<String>,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
    /// Passed by cargo test: only a self-check
    #[arg(long, hide = true)]
    test: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program does when it has started itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// Serve on so many addresses
    #[command(hide = true)]
    Backend { count: usize },
    /// Play the clients
    #[command(hide = true)]
    Load(load::LoadArgs),
    /// Become another program that ends with its parent
    #[command(hide = true)]
    Guard {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.role {
        Some(Role::Backend { count }) => backend::run(*count),
        Some(Role::Load(load)) => load::run(load),
        Some(Role::Guard { command }) => process::guard(command),
        // `cargo test --benches` starts benches without --bench.
        None if args.test || !args.bench => self_check(&args),
        None => bench(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One round of direct traffic, without proxies: shows that clients and backends work.
fn self_check(args: &Args) -> io::Result<()> {
    let direct = Contender::Direct
        .find(&args.isobar)
        .map_err(io::Error::other)?;
    let plan = Plan {
        programs: vec![direct],
        workloads: vec![Workload::Pp1, Workload::Up1],
        rounds: 1,
        warm_ms: 10,
        measure_ms: 20,
        idle: 0,
        threads: 1,
        max_connections: 16,
    };
    let cells = measure(&plan)?;
    match cells.into_iter().find_map(|cell| cell.error) {
        Some(error) => Err(io::Error::other(error)),
        None => Ok(()),
    }
}

fn bench(args: &Args) -> io::Result<()> {
    let (programs, skipped) = programs(args);
    for reason in &skipped {
        eprintln!("skipped: {reason}");
    }
    let compared = programs.iter().any(|program| program.contender.is_peer());
    if !compared && args.proxy.is_empty() {
        println!("no peer to compare with (Debian: apt install haproxy nginx libnginx-mod-stream)");
        return Ok(());
    }
    let plan = plan(args, programs)?;
    let started_at = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let counters_unavailable = meter::counters_unavailable();
    if let Some(reason) = &counters_unavailable {
        eprintln!("instructions are not counted ({reason}); CPU time instead");
    }
    let cells = measure(&plan)?;
    let report = Report {
        started_at,
        machine: Machine::here(),
        counters_unavailable,
        skipped,
        plan,
        cells,
    };
    println!("{}", report.text());
    if args.save {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
        eprintln!("saved: {}", report.save(&dir)?.display());
    }
    Ok(())
}

/// The contenders asked for that are there, and why the others are not.
fn programs(args: &Args) -> (Vec<Program>, Vec<String>) {
    let asked = |contender: &Contender| args.proxy.is_empty() || args.proxy.contains(contender);
    let (mut programs, mut skipped) = (Vec::new(), Vec::new());
    for &contender in Contender::value_variants().iter().filter(|c| asked(c)) {
        match contender.find(&args.isobar) {
            Ok(program) => programs.push(program),
            Err(reason) => skipped.push(format!("{}: {reason}", contender.name())),
        }
    }
    (programs, skipped)
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
        workloads: workloads(args),
        rounds: args.rounds.unwrap_or(rounds),
        warm_ms,
        measure_ms: args.measure_ms.unwrap_or(measure_ms),
        idle: IDLE_CONNECTIONS.min(max_connections) as usize,
        threads: args.threads,
        max_connections,
    })
}

fn workloads(args: &Args) -> Vec<Workload> {
    let asked = |workload: &Workload| {
        let name = workload.name();
        (args.workload.is_empty() || args.workload.contains(workload))
            && (args.filter.is_empty() || args.filter.iter().any(|part| name.contains(part)))
    };
    let all = Workload::value_variants().iter().copied();
    all.filter(asked).collect()
}

/// Raises the soft limit to the hard one, for us and for all we start, and returns it.
fn raise_descriptors() -> io::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard.clamp(2 * SPARE_DESCRIPTORS, 20_000))
}

/// Runs the plan with a directory for configurations and logs that is gone afterwards.
fn measure(plan: &Plan) -> io::Result<Vec<run::Cell>> {
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

//! The measurement: rounds of workloads, each workload through every contender in turn.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::contender::{Contender, Program, Settings, Started};
use crate::load::Sample;
use crate::meter::{self, Cost, Meter};
use crate::process::{Running, role};
use crate::stats::rotated;
use crate::workload::Workload;

/// Backends of the pool.
const BACKENDS: usize = 8;
/// Time between the last byte and the reading of costs and memory: connections that the
/// clients have closed are being closed by the proxy.
const SETTLE: Duration = Duration::from_millis(50);
/// How long a stage of the load generator may last beyond what it was asked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be measured.
#[derive(Clone, Debug, Serialize)]
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

/// One contender under one workload in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    /// Row.
    pub workload: Workload,
    /// Column.
    pub contender: Contender,
    /// From 0.
    pub round: usize,
    /// What was seen.
    #[serde(flatten)]
    pub figures: Option<Figures>,
    /// Why there is nothing.
    pub error: Option<String>,
}

/// What one run of the load generator showed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    /// What the clients saw.
    pub sample: Sample,
    /// What the proxy spent; nothing for [`Contender::Direct`].
    pub cost: Option<Cost>,
    /// Growth of the proxy's memory, under [`Workload::Idle`].
    pub memory_bytes: Option<u64>,
}

/// Measures every cell of the plan. A cell that fails says so and does not stop the others.
///
/// `scratch` is a directory for configurations and logs.
///
/// # Errors
/// The backends cannot be started, or a proxy cannot.
pub(crate) fn run(plan: &Plan, scratch: &Path) -> io::Result<Vec<Cell>> {
    let mut bench = Bench::start(plan, scratch)?;
    let mut cells = Vec::new();
    for round in 0..plan.rounds {
        for (row, &workload) in plan.workloads.iter().enumerate() {
            let columns: Vec<usize> = (0..plan.programs.len()).collect();
            for column in rotated(&columns, round + row) {
                cells.extend(bench.cell(&plan.programs[column], workload, round));
            }
        }
    }
    Ok(cells)
}

/// The backends, and the proxies in front of them.
struct Bench<'a> {
    plan: &'a Plan,
    scratch: &'a Path,
    /// Instances started so far: each has a directory of its own.
    instances: usize,
    backends: Vec<SocketAddr>,
    proxies: HashMap<Contender, Started>,
    _backend: Running,
}

impl<'a> Bench<'a> {
    fn start(plan: &'a Plan, scratch: &'a Path) -> io::Result<Self> {
        let (backend, backends) = start_backends()?;
        let mut bench = Self {
            plan,
            scratch,
            instances: 0,
            backends,
            proxies: HashMap::new(),
            _backend: backend,
        };
        for program in &plan.programs {
            if program.contender != Contender::Direct {
                let started = bench.start_proxy(program)?;
                bench.proxies.insert(program.contender, started);
            }
        }
        Ok(bench)
    }

    fn start_proxy(&mut self, program: &Program) -> io::Result<Started> {
        let name = program.contender.name();
        let dir = self.instance_dir(name)?;
        let settings = Settings {
            threads: self.plan.threads,
            max_connections: self.plan.max_connections,
            backends: &self.backends,
            dir: &dir,
        };
        program
            .start(&settings)
            .map_err(|error| io::Error::other(format!("{name}: {error}")))
    }

    fn instance_dir(&mut self, name: &str) -> io::Result<PathBuf> {
        self.instances += 1;
        let dir = self.scratch.join(format!("{name}-{}", self.instances));
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// Measures one cell; there is none for the memory of no proxy.
    fn cell(&mut self, program: &Program, workload: Workload, round: usize) -> Option<Cell> {
        let contender = program.contender;
        let outcome = match (workload, contender) {
            (Workload::Idle, Contender::Direct) => return None,
            (Workload::Idle, _) => self.idle(program),
            _ => self.traffic(contender, workload),
        };
        let cell = Cell {
            workload,
            contender,
            round,
            figures: outcome.as_ref().ok().copied(),
            error: outcome.err().map(|error| error.to_string()),
        };
        progress(&cell);
        Some(cell)
    }

    fn traffic(&mut self, contender: Contender, workload: Workload) -> io::Result<Figures> {
        let proxy = self.proxies.get(&contender);
        let targets = proxy.map_or_else(|| self.backends.clone(), |proxy| vec![proxy.address]);
        let mut load = Load::start(self.plan, workload, &targets)?;
        thread::sleep(SETTLE);
        let Some(proxy) = proxy else {
            return Ok(figures(load.measure()?, None, None));
        };
        let mut meter = Meter::attach(proxy.running.family()?)?;
        let before = meter.read()?;
        let sample = load.measure()?;
        thread::sleep(SETTLE);
        let cost = meter::between(before, meter.read()?);
        Ok(figures(sample, Some(cost), None))
    }

    /// Uses an instance of its own: memory that earlier traffic has left would hide the growth.
    fn idle(&mut self, program: &Program) -> io::Result<Figures> {
        let proxy = self.start_proxy(program)?;
        let pids = proxy.running.family()?;
        let mut load = Load::start(self.plan, Workload::Idle, &[proxy.address])?;
        thread::sleep(SETTLE);
        let before = meter::memory_bytes(&pids)?;
        let sample = load.measure()?;
        thread::sleep(SETTLE);
        let grown = meter::memory_bytes(&pids)?.saturating_sub(before);
        Ok(figures(sample, None, Some(grown)))
    }
}

fn figures(sample: Sample, cost: Option<Cost>, memory_bytes: Option<u64>) -> Figures {
    Figures {
        sample,
        cost,
        memory_bytes,
    }
}

fn start_backends() -> io::Result<(Running, Vec<SocketAddr>)> {
    let mut child = role("backend")?
        .arg(BACKENDS.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().expect("its output is piped");
    let running = Running(child);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let addresses = line.trim().split(',').map(str::parse);
    let addresses = addresses
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)?;
    Ok((running, addresses))
}

/// A load generator that has warmed up.
struct Load {
    lines: Receiver<String>,
    orders: ChildStdin,
    patience: Duration,
    _running: Running,
}

impl Load {
    fn start(plan: &Plan, workload: Workload, targets: &[SocketAddr]) -> io::Result<Self> {
        let targets: Vec<String> = targets.iter().map(SocketAddr::to_string).collect();
        let mut child = role("load")?
            .args(["--workload", workload.name()])
            .args(["--targets", &targets.join(",")])
            .args(["--warm-ms", &plan.warm_ms.to_string()])
            .args(["--measure-ms", &plan.measure_ms.to_string()])
            .args(["--idle", &plan.idle.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let load = Self {
            lines: lines(child.stdout.take().expect("its output is piped")),
            orders: child.stdin.take().expect("its input is piped"),
            patience: PATIENCE + Duration::from_millis(plan.warm_ms.max(plan.measure_ms)),
            _running: Running(child),
        };
        load.line()?;
        Ok(load)
    }

    /// Runs the workload; its connections stay open until this is dropped.
    fn measure(&mut self) -> io::Result<Sample> {
        writeln!(self.orders, "go")?;
        serde_json::from_str(&self.line()?).map_err(io::Error::other)
    }

    fn line(&self) -> io::Result<String> {
        let line = self.lines.recv_timeout(self.patience);
        line.map_err(|_| io::Error::other("the clients failed or got stuck"))
    }
}

/// The lines of a pipe, read by a thread so that waiting for one can time out.
fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.for_each(|line| {
            // Nobody listens any more after a time-out, and then the pipe is closed as well.
            let _ = sender.send(line);
        });
    });
    receiver
}

fn progress(cell: &Cell) {
    let head = format!(
        "round {} {:<6} {:<8}",
        cell.round + 1,
        cell.workload.name(),
        cell.contender.name()
    );
    match (&cell.figures, &cell.error) {
        (Some(figures), _) => {
            let rate = figures.sample.units / figures.sample.seconds;
            eprintln!("{head} {rate:>10.0} {}/s", cell.workload.unit());
        }
        (None, error) => eprintln!("{head} failed: {}", error.as_deref().unwrap_or("?")),
    }
}

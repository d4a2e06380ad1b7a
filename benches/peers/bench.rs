//! The backends, the proxies in front of them, and how a cell is measured.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::cell::{Cell, Figures, Memory, OneWorker};
use crate::clients::Clients;
use crate::contender::Contender;
use crate::cost::Cost;
use crate::load::Sample;
use crate::meter::{self, Meter};
use crate::process::{Running, role};
use crate::program::{Program, Settings, Started};
use crate::run::Plan;
use crate::shares::{self, Shares};
use crate::stats::rotated;
use crate::workload::Workload;

/// Backends of the pool.
const BACKENDS: usize = 8;
/// Time between the last byte and the reading of costs and memory: connections that the
/// clients have closed are being closed by the proxy.
const SETTLE: Duration = Duration::from_millis(50);

/// The backends, and the proxies in front of them.
pub(crate) struct Bench<'a> {
    plan: &'a Plan,
    scratch: &'a Path,
    /// Instances started so far: each has a directory of its own.
    instances: usize,
    backends: Vec<SocketAddr>,
    /// By column.
    proxies: HashMap<String, Started>,
    configurations: BTreeMap<String, String>,
    _backend: Running,
}

/// One run of a workload through a proxy.
struct Pass {
    sample: Sample,
    cost: Cost,
    /// CPU time of the busiest threads, as many as there are workers.
    busiest: Vec<u64>,
    /// Until this is dropped, what the clients have open stays open.
    _clients: Clients,
}

impl<'a> Bench<'a> {
    /// Starts the backends, and one instance of each proxy that lives as long as this.
    pub(crate) fn start(plan: &'a Plan, scratch: &'a Path) -> io::Result<Self> {
        let (backend, backends) = start_backends()?;
        let mut bench = Self {
            plan,
            scratch,
            instances: 0,
            backends,
            proxies: HashMap::new(),
            configurations: BTreeMap::new(),
            _backend: backend,
        };
        for program in &plan.programs {
            if program.contender != Contender::Direct {
                let started = bench.start_proxy(program, plan.threads)?;
                bench.proxies.insert(program.column.clone(), started);
            }
        }
        Ok(bench)
    }

    fn start_proxy(&mut self, program: &Program, threads: usize) -> io::Result<Started> {
        let column = &program.column;
        let dir = self.instance_dir(column)?;
        let settings = Settings {
            threads,
            max_connections: self.plan.max_connections,
            backends: &self.backends,
            dir: &dir,
        };
        let started = program
            .start(&settings)
            .map_err(|error| io::Error::other(format!("{column}: {error}")))?;
        self.keep_configuration(column, threads, &started);
        Ok(started)
    }

    /// Instances of a column differ only in their workers, the address and the directory.
    fn keep_configuration(&mut self, column: &str, threads: usize, started: &Started) {
        let key = match threads {
            all if all == self.plan.threads => column.to_owned(),
            other => format!("{column}, workers: {other}"),
        };
        let configuration = || started.configuration.clone();
        self.configurations.entry(key).or_insert_with(configuration);
    }

    fn instance_dir(&mut self, column: &str) -> io::Result<PathBuf> {
        self.instances += 1;
        let dir = self.scratch.join(format!("{column}-{}", self.instances));
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// Measures one cell; there is none for what only a proxy has.
    pub(crate) fn cell(
        &mut self,
        program: &Program,
        workload: Workload,
        round: usize,
    ) -> Option<Cell> {
        let outcome = match (workload, program.contender) {
            (Workload::Idle | Workload::Scale, Contender::Direct) => return None,
            (_, Contender::Direct) => self.direct(workload),
            (Workload::Idle, _) => self.idle(program),
            (Workload::Scale, _) => self.scale(program, round),
            _ => self.proxied(program, workload),
        };
        let cell = Cell {
            workload,
            column: program.column.clone(),
            round,
            figures: outcome.as_ref().ok().cloned(),
            error: outcome.err().map(|error| error.to_string()),
        };
        Some(cell)
    }

    /// See [`Outcome::configurations`](crate::run::Outcome::configurations).
    pub(crate) fn into_configurations(self) -> BTreeMap<String, String> {
        self.configurations
    }

    fn direct(&self, workload: Workload) -> io::Result<Figures> {
        let mut clients = Clients::start(self.plan, workload, &self.backends)?;
        thread::sleep(SETTLE);
        Ok(Figures::direct(clients.measure()?))
    }

    /// Through the instance that lives as long as the run.
    fn proxied(&self, program: &Program, workload: Workload) -> io::Result<Figures> {
        let proxy = &self.proxies[&program.column];
        match workload {
            Workload::Even => self.even(proxy),
            _ => {
                let pass = self.traffic(proxy, workload)?;
                Ok(Figures::proxied(pass.sample, pass.cost))
            }
        }
    }

    fn traffic(&self, proxy: &Started, workload: Workload) -> io::Result<Pass> {
        let mut clients = Clients::start(self.plan, workload, &[proxy.address])?;
        thread::sleep(SETTLE);
        let mut meter = Meter::attach(proxy.running.family()?)?;
        let before = meter.read()?;
        let sample = clients.measure()?;
        thread::sleep(SETTLE);
        let after = meter.read()?;
        Ok(Pass {
            cost: after.cost.since(before.cost),
            busiest: shares::busiest(&before.cpu_ns, &after.cpu_ns, self.plan.threads),
            sample,
            _clients: clients,
        })
    }

    /// Looks at the workers too, while the connections are open.
    fn even(&self, proxy: &Started) -> io::Result<Figures> {
        let pass = self.traffic(proxy, Workload::Even)?;
        let pids = proxy.running.family()?;
        let shares = Shares {
            connections: shares::connections(&pids, proxy.address)?,
            cpu_ns: pass.busiest,
        };
        Ok(Figures {
            shares: Some(shares),
            ..Figures::proxied(pass.sample, pass.cost)
        })
    }

    /// Uses an instance of its own: memory that earlier traffic has left would hide the growth.
    fn idle(&mut self, program: &Program) -> io::Result<Figures> {
        let proxy = self.start_proxy(program, self.plan.threads)?;
        let pids = proxy.running.family()?;
        let mut clients = Clients::start(self.plan, Workload::Idle, &[proxy.address])?;
        thread::sleep(SETTLE);
        let before = meter::memory_bytes(&pids)?;
        let sample = clients.measure()?;
        thread::sleep(SETTLE);
        let after = meter::memory_bytes(&pids)?;
        Ok(Figures::idle(sample, Memory { before, after }))
    }

    /// Uses two instances of its own, equal but for their workers; in turn one or the other
    /// is measured first.
    fn scale(&mut self, program: &Program, round: usize) -> io::Result<Figures> {
        let (mut one, mut all) = (None, None);
        for threads in rotated(&[1, self.plan.threads], round) {
            let proxy = self.start_proxy(program, threads)?;
            let pass = self.traffic(&proxy, Workload::Scale)?;
            let (sample, cost) = (pass.sample, pass.cost);
            match threads {
                1 => one = Some(OneWorker { sample, cost }),
                _ => all = Some(Figures::proxied(sample, cost)),
            }
        }
        let all = all.ok_or_else(|| io::Error::other("with one worker there is no scale"))?;
        Ok(Figures {
            one_worker: one,
            ..all
        })
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

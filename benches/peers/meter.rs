//! What the proxy's processes have spent, read from outside them: CPU time, context switches,
//! hardware counters where the machine has them, and memory.

use std::collections::HashMap;
use std::io;

use perf_event::events::Hardware;
use procfs::ProcError;
use procfs::process::{Process, Task};

use crate::cost::{Cost, Split, Switches};
use crate::counters::Counters;

/// Reads the account of all threads of some processes.
pub(crate) struct Meter {
    pids: Vec<i32>,
    instructions: Option<Counters>,
    cycles: Option<Counters>,
}

/// The state of a meter; only differences mean something.
pub(crate) struct Reading {
    /// What was spent since the processes started.
    pub cost: Cost,
    /// Its CPU time by thread.
    pub cpu_ns: HashMap<i32, u64>,
}

impl Meter {
    /// Attaches to the processes; without hardware counters there is still CPU time.
    pub(crate) fn attach(pids: Vec<i32>) -> io::Result<Self> {
        let threads: Vec<i32> = cpu_ns_by_thread(&pids)?.into_keys().collect();
        Ok(Self {
            instructions: Counters::attach(Hardware::INSTRUCTIONS, &threads),
            cycles: Counters::attach(Hardware::CPU_CYCLES, &threads),
            pids,
        })
    }

    /// What was spent until now.
    pub(crate) fn read(&mut self) -> io::Result<Reading> {
        let cpu_ns = cpu_ns_by_thread(&self.pids)?;
        let cost = Cost {
            cpu_ns: cpu_ns.values().sum(),
            ticks: ticks(&self.pids)?,
            switches: switches(&self.pids)?,
            instructions: self.instructions.as_mut().map(Counters::read).transpose()?,
            cycles: self.cycles.as_mut().map(Counters::read).transpose()?,
        };
        Ok(Reading { cost, cpu_ns })
    }
}

/// The scheduler's own account (nanoseconds), which is finer than the ticks of
/// `/proc/PID/stat`, by thread.
fn cpu_ns_by_thread(pids: &[i32]) -> io::Result<HashMap<i32, u64>> {
    let of_thread = |task: &Task| Ok((task.tid, task.schedstat()?.sum_exec_runtime));
    Ok(of_threads(pids, of_thread)?.into_iter().collect())
}

/// Anonymous memory of the processes, in bytes: what user space itself has taken.
pub(crate) fn memory_bytes(pids: &[i32]) -> io::Result<u64> {
    let rollups = pids.iter().map(|&pid| {
        let rollup = Process::new(pid)?.smaps_rollup()?.memory_map_rollup;
        let anonymous =
            |map: &procfs::process::MemoryMap| map.extension.map.get("Anonymous").copied();
        Ok(rollup.0.iter().filter_map(anonymous).sum::<u64>())
    });
    rollups
        .sum::<procfs::ProcResult<u64>>()
        .map_err(io::Error::other)
}

/// Of the whole processes, threads that have ended included.
fn ticks(pids: &[i32]) -> io::Result<Split> {
    let mut sum = Split::default();
    for &pid in pids {
        let stat = Process::new(pid).and_then(|process| process.stat());
        let stat = stat.map_err(io::Error::other)?;
        sum.user += stat.utime;
        sum.kernel += stat.stime;
    }
    Ok(sum)
}

fn switches(pids: &[i32]) -> io::Result<Switches> {
    let of_thread = |task: &Task| {
        let status = task.status()?;
        let switches = (
            status.voluntary_ctxt_switches.unwrap_or(0),
            status.nonvoluntary_ctxt_switches.unwrap_or(0),
        );
        Ok(switches)
    };
    let mut sum = Switches::default();
    for (voluntary, involuntary) in of_threads(pids, of_thread)? {
        sum.voluntary += voluntary;
        sum.involuntary += involuntary;
    }
    Ok(sum)
}

/// One value of each thread; one that ends while it is read has none.
fn of_threads<T>(
    pids: &[i32],
    value: impl Fn(&Task) -> procfs::ProcResult<T>,
) -> io::Result<Vec<T>> {
    let mut values = Vec::new();
    for &pid in pids {
        let tasks = Process::new(pid).and_then(|process| process.tasks());
        for task in tasks.map_err(io::Error::other)? {
            match task.and_then(|task| value(&task)) {
                Ok(value) => values.push(value),
                Err(ProcError::NotFound(_)) => (),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
    Ok(values)
}

//! What the proxy's processes spent: CPU time, instructions where the machine counts them,
//! and memory.

use std::io;

use perf_event::events::Hardware;
use perf_event::{Builder, Counter};
use procfs::process::Process;
use serde::{Deserialize, Serialize};

/// What was spent, since the start of the process or between two readings.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Time on a CPU, all threads, in nanoseconds.
    pub cpu_ns: u64,
    /// Instructions in user space and in the kernel; none where they cannot be counted.
    pub instructions: Option<Instructions>,
}

/// Retired instructions.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Instructions {
    /// Of the program itself.
    pub user: u64,
    /// Of the kernel on its behalf, interrupts that hit it included.
    pub kernel: u64,
}

impl Instructions {
    /// Both.
    pub(crate) fn total(self) -> u64 {
        self.user + self.kernel
    }
}

/// Counts for all threads of some processes, and those they start later.
pub(crate) struct Meter {
    pids: Vec<i32>,
    user: Vec<Counter>,
    kernel: Vec<Counter>,
}

impl Meter {
    /// Attaches to the processes; without hardware counters there is still CPU time.
    pub(crate) fn attach(pids: Vec<i32>) -> io::Result<Self> {
        let threads = threads(&pids)?;
        let counters = |kernel| {
            let counters = threads.iter().map(|&thread| counter(thread, kernel));
            counters.collect::<io::Result<Vec<_>>>()
        };
        let (user, kernel) = match (counters(false), counters(true)) {
            (Ok(user), Ok(kernel)) => (user, kernel),
            _ => (Vec::new(), Vec::new()),
        };
        Ok(Self { pids, user, kernel })
    }

    /// What was spent until now; only differences mean something.
    pub(crate) fn read(&mut self) -> io::Result<Cost> {
        let instructions = (!self.user.is_empty())
            .then(|| {
                io::Result::Ok(Instructions {
                    user: sum(&mut self.user)?,
                    kernel: sum(&mut self.kernel)?,
                })
            })
            .transpose()?;
        let cpu_ns = cpu_ns(&self.pids)?;
        Ok(Cost {
            cpu_ns,
            instructions,
        })
    }
}

/// What was spent between two readings of one meter.
pub(crate) fn between(before: Cost, after: Cost) -> Cost {
    let instructions = before.instructions.zip(after.instructions);
    Cost {
        cpu_ns: after.cpu_ns - before.cpu_ns,
        instructions: instructions.map(|(before, after)| Instructions {
            user: after.user - before.user,
            kernel: after.kernel - before.kernel,
        }),
    }
}

/// Why instructions cannot be counted here, or nothing if they can.
pub(crate) fn counters_unavailable() -> Option<String> {
    let own = std::process::id().cast_signed();
    let tried = counter(own, false).and(counter(own, true));
    tried.err().map(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{error}; kernel.perf_event_paranoid must be at most 1")
        }
        _ => format!("no hardware counters: {error}"),
    })
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

fn counter(thread: i32, kernel: bool) -> io::Result<Counter> {
    let mut builder = Builder::new()
        .observe_pid(thread)
        .kind(Hardware::INSTRUCTIONS);
    builder
        .exclude_user(kernel)
        .exclude_kernel(!kernel)
        .inherit(true)
        .enabled(true);
    builder.build()
}

fn sum(counters: &mut [Counter]) -> io::Result<u64> {
    counters.iter_mut().map(Counter::read).sum()
}

/// Sums the scheduler's own account (nanoseconds), which is finer than the ticks of
/// `/proc/PID/stat`.
fn cpu_ns(pids: &[i32]) -> io::Result<u64> {
    let of_process = |&pid: &i32| {
        let tasks = Process::new(pid)?.tasks()?;
        tasks
            .map(|task| Ok(task?.schedstat()?.sum_exec_runtime))
            .sum::<procfs::ProcResult<u64>>()
    };
    pids.iter()
        .map(of_process)
        .sum::<procfs::ProcResult<u64>>()
        .map_err(io::Error::other)
}

fn threads(pids: &[i32]) -> io::Result<Vec<i32>> {
    let mut threads = Vec::new();
    for &pid in pids {
        let tasks = Process::new(pid).and_then(|process| process.tasks());
        for task in tasks.map_err(io::Error::other)? {
            threads.push(task.map_err(io::Error::other)?.tid);
        }
    }
    Ok(threads)
}

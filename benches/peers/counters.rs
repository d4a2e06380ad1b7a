//! Hardware counters, where the machine has them.

use std::io;

use perf_event::events::Hardware;
use perf_event::{Builder, Counter};

use crate::cost::{Split, scaled};

/// One event, counted for some threads and those they start later.
pub(crate) struct Counters {
    user: Vec<Counter>,
    kernel: Vec<Counter>,
}

impl Counters {
    /// Attaches to the threads; none where one of them cannot be counted.
    pub(crate) fn attach(event: Hardware, threads: &[i32]) -> Option<Self> {
        let all = |kernel| {
            let counters = threads.iter().map(|&thread| counter(event, thread, kernel));
            counters.collect::<io::Result<Vec<_>>>().ok()
        };
        Some(Self {
            user: all(false)?,
            kernel: all(true)?,
        })
    }

    /// What was counted until now.
    pub(crate) fn read(&mut self) -> io::Result<Split> {
        Ok(Split {
            user: sum(&mut self.user)?,
            kernel: sum(&mut self.kernel)?,
        })
    }
}

/// Why instructions cannot be counted here, or nothing if they can.
pub(crate) fn unavailable() -> Option<String> {
    let own = std::process::id().cast_signed();
    let tried = |kernel| counter(Hardware::INSTRUCTIONS, own, kernel);
    let error = tried(false).and(tried(true)).err()?;
    Some(match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{error}; kernel.perf_event_paranoid must be at most 1")
        }
        _ => format!("no hardware counters: {error}"),
    })
}

fn counter(event: Hardware, thread: i32, kernel: bool) -> io::Result<Counter> {
    let mut builder = Builder::new().observe_pid(thread).kind(event);
    builder
        .exclude_user(kernel)
        .exclude_kernel(!kernel)
        .inherit(true)
        .enabled(true);
    builder.build()
}

fn sum(counters: &mut [Counter]) -> io::Result<u64> {
    let read = counters.iter_mut().map(|counter| {
        let read = counter.read_count_and_time()?;
        Ok(scaled(read.count, read.time_enabled, read.time_running))
    });
    read.sum()
}

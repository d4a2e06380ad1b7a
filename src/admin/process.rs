//! What the kernel says of this process: the usual `process_*` metrics, and how busy each data
//! core is. From /proc, see proc(5); what cannot be read is left out.

use std::time::Duration;

use procfs::process::{LimitValue, Process};

use crate::metrics;

/// The process as the kernel sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu: Option<Duration>,
    pub(super) open_fds: Option<u64>,
    /// `None`: unlimited, or unknown.
    pub(super) max_fds: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    /// Processor time of each data core that runs, with its number.
    pub(super) cores: Vec<(usize, Duration)>,
}

impl Usage {
    /// Of this moment.
    pub(super) fn now(counted: &metrics::Process) -> Self {
        let Ok(process) = Process::myself() else {
            return Self::default();
        };
        let stat = process.stat().ok();
        let ticks = procfs::ticks_per_second() as f64;
        let stat = stat.as_ref();
        Self {
            cpu: stat.map(|stat| Duration::from_secs_f64((stat.utime + stat.stime) as f64 / ticks)),
            open_fds: process.fd_count().ok().map(|count| count as u64),
            max_fds: max_fds(&process),
            virtual_bytes: stat.map(|stat| stat.vsize),
            resident_bytes: stat.map(|stat| stat.rss * procfs::page_size()),
            threads: stat.and_then(|stat| u64::try_from(stat.num_threads).ok()),
            cores: cores(&process, counted),
        }
    }
}

fn max_fds(process: &Process) -> Option<u64> {
    match process.limits().ok()?.max_open_files.soft_limit {
        LimitValue::Value(most) => Some(most),
        LimitValue::Unlimited => None,
    }
}

fn cores(process: &Process, counted: &metrics::Process) -> Vec<(usize, Duration)> {
    let busy = |core: usize| {
        let thread = i32::try_from(counted.thread(core)).ok()?;
        let task = process.task_from_tid(thread).ok()?;
        let nanoseconds = task.schedstat().ok()?.sum_exec_runtime;
        Some((core, Duration::from_nanos(nanoseconds)))
    };
    (0..counted.cores()).filter_map(busy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_uses_something_of_everything() {
        let counted = metrics::Process::new(2);
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        counted.set_thread(1, u64::try_from(own).expect("a thread"));
        let usage = Usage::now(&counted);
        assert!(usage.open_fds.is_some_and(|count| count >= 3), "{usage:?}");
        assert!(
            usage.resident_bytes.is_some_and(|bytes| bytes > 0),
            "{usage:?}"
        );
        assert!(usage.virtual_bytes >= usage.resident_bytes, "{usage:?}");
        assert!(usage.threads.is_some_and(|count| count >= 1), "{usage:?}");
        assert!(usage.cpu.is_some(), "{usage:?}");
        // Core 0 has not started: it is left out.
        let cores: Vec<_> = usage.cores.iter().map(|(core, _)| *core).collect();
        assert_eq!(cores, [1]);
    }
}

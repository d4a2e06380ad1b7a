//! What was spent, as plain values.

use serde::{Deserialize, Serialize};

/// What some processes spent, since their start or between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Time on a CPU, all threads, in nanoseconds, by the scheduler's account.
    pub cpu_ns: u64,
    /// The same in clock ticks, where user space and kernel are told apart. Coarse: a tick
    /// is ten milliseconds on most machines, and goes to whoever runs when it ends.
    pub ticks: Split,
    /// How often a thread left its CPU.
    pub switches: Switches,
    /// Retired instructions; none where they cannot be counted.
    pub instructions: Option<Split>,
    /// Cycles of the CPU, at whatever clock it ran; none where they cannot be counted.
    pub cycles: Option<Split>,
}

/// A count in user space, and in the kernel on its behalf, interrupts that hit it included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Split {
    /// Of the program itself.
    pub user: u64,
    /// Of the kernel.
    pub kernel: u64,
}

/// Context switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Switches {
    /// It had nothing to do.
    pub voluntary: u64,
    /// Something else was to run.
    pub involuntary: u64,
}

impl Cost {
    /// What was spent between two readings of one meter.
    ///
    /// A thread that ended in between takes its past with it, and an estimated count may step
    /// back: neither makes a difference negative.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            ticks: self.ticks.since(before.ticks),
            switches: Switches {
                voluntary: (self.switches.voluntary).saturating_sub(before.switches.voluntary),
                involuntary: (self.switches.involuntary)
                    .saturating_sub(before.switches.involuntary),
            },
            instructions: since(self.instructions, before.instructions),
            cycles: since(self.cycles, before.cycles),
        }
    }

    /// Nanoseconds in user space; none where not a single tick was seen.
    pub(crate) fn user_ns(self) -> Option<f64> {
        let total = self.ticks.total();
        (total > 0).then(|| self.cpu_ns as f64 * self.ticks.user as f64 / total as f64)
    }
}

impl Split {
    /// Both.
    pub(crate) fn total(self) -> u64 {
        self.user + self.kernel
    }

    fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            kernel: self.kernel.saturating_sub(before.kernel),
        }
    }
}

impl Switches {
    /// Both.
    pub(crate) fn total(self) -> u64 {
        self.voluntary + self.involuntary
    }
}

fn since(after: Option<Split>, before: Option<Split>) -> Option<Split> {
    Some(after?.since(before?))
}

/// The count that a counter would have had if it had run all the time.
///
/// Where there are more counters than the machine has, they take turns (perf_event_open(2)).
/// One that never ran has seen nothing.
pub(crate) fn scaled(count: u64, enabled_ns: u64, running_ns: u64) -> u64 {
    if running_ns == 0 || running_ns >= enabled_ns {
        return count;
    }
    let whole = u128::from(count) * u128::from(enabled_ns) / u128::from(running_ns);
    u64::try_from(whole).unwrap_or(u64::MAX)
}

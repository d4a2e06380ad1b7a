//! The figures that are shown, each taken from the raw ones of a cell.

use crate::cell::Figures;
use crate::load::{Latency, Sample};
use crate::shares::largest;

/// Which of two values is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// Costs.
    Lower,
    /// Rates.
    Higher,
}

impl Better {
    /// Whether isobar loses with this ratio to the best peer, to the two digits that are shown.
    pub(crate) fn is_lost_with(self, ratio: f64) -> bool {
        let hundredths = (ratio * 100.0).round();
        match self {
            Self::Lower => hundredths > 100.0,
            Self::Higher => hundredths < 100.0,
        }
    }
}

/// One figure, taken from every cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    /// What it is.
    pub title: &'static str,
    /// What it is counted in; none: per unit of the workload.
    pub unit: Option<&'static str>,
    /// Which way is good.
    pub better: Better,
    /// The figure of one cell, if it has one.
    pub of: fn(&Figures) -> Option<f64>,
}

const fn lower(title: &'static str, of: fn(&Figures) -> Option<f64>) -> Metric {
    Metric {
        title,
        unit: None,
        better: Better::Lower,
        of,
    }
}

const fn counted_in(unit: &'static str, metric: Metric) -> Metric {
    Metric {
        unit: Some(unit),
        ..metric
    }
}

const fn higher(metric: Metric) -> Metric {
    Metric {
        better: Better::Higher,
        ..metric
    }
}

/// Instructions, the unit of account.
pub(crate) const INSTRUCTIONS: Metric =
    lower("instructions of the proxy, thousands per unit", |figures| {
        let instructions = figures.cost?.instructions?;
        per_unit(figures, instructions.total() as f64 / 1e3)
    });
/// CPU time, where instructions cannot be counted.
pub(crate) const CPU_TIME: Metric =
    lower("CPU time of the proxy, microseconds per unit", |figures| {
        per_unit(figures, figures.cost?.cpu_ns as f64 / 1e3)
    });
/// What goes through.
pub(crate) const RATE: Metric = higher(lower("rate, units per second", |figures| {
    let sample = ordinary(figures)?;
    Some(sample.units / sample.seconds)
}));
/// The tail of the latency.
pub(crate) const P99: Metric = lower("latency p99, microseconds", |figures| {
    latency(figures, |latency| latency.p99_us)
});
/// What an idle connection adds.
pub(crate) const IDLE_MEMORY: Metric = counted_in(
    "byte",
    lower("memory of an idle connection, bytes", |figures| {
        let memory = figures.memory?;
        Some(memory.after.saturating_sub(memory.before) as f64 / figures.sample.units)
    }),
);
/// How connections lie on the workers.
pub(crate) const LARGEST_CONNECTIONS: Metric = counted_in(
    "%",
    lower("connections on the fullest worker, percent", |figures| {
        Some(largest(&figures.shares.as_ref()?.connections)? * 100.0)
    }),
);
/// How the work lies on the workers.
pub(crate) const LARGEST_CPU_TIME: Metric = counted_in(
    "%",
    lower("CPU time of the busiest worker, percent", |figures| {
        Some(largest(&figures.shares.as_ref()?.cpu_ns)? * 100.0)
    }),
);
/// What further workers add.
pub(crate) const SCALED_RATE: Metric = counted_in(
    "times",
    higher(lower(
        "rate of short connections, all workers to one",
        |figures| {
            let (all, one) = (figures.sample, figures.one_worker?.sample);
            Some((all.units / all.seconds) / (one.units / one.seconds))
        },
    )),
);
/// What further workers cost.
pub(crate) const SCALED_CPU_TIME: Metric = counted_in(
    "times",
    lower(
        "CPU time of a short connection, all workers to one",
        |figures| {
            let one = figures.one_worker?;
            let all = figures.cost?.cpu_ns as f64 / figures.sample.units;
            Some(all / (one.cost.cpu_ns as f64 / one.sample.units))
        },
    ),
);

/// All of them, in the order of the tables; the unit of account comes first.
pub(crate) const ALL: [Metric; 17] = [
    INSTRUCTIONS,
    lower("of these in user space", |figures| {
        let instructions = figures.cost?.instructions?;
        per_unit(figures, instructions.user as f64 / 1e3)
    }),
    lower("cycles of the proxy, thousands per unit", |figures| {
        let cycles = figures.cost?.cycles?;
        per_unit(figures, cycles.total() as f64 / 1e3)
    }),
    CPU_TIME,
    lower("of these in user space, by clock ticks", |figures| {
        per_unit(figures, figures.cost?.user_ns()? / 1e3)
    }),
    lower("context switches of the proxy per unit", |figures| {
        per_unit(figures, figures.cost?.switches.total() as f64)
    }),
    RATE,
    lower("latency p50, microseconds", |figures| {
        latency(figures, |latency| latency.p50_us)
    }),
    P99,
    lower("latency p99.9, microseconds", |figures| {
        latency(figures, |latency| latency.p999_us)
    }),
    lower("latency, the worst, microseconds", |figures| {
        latency(figures, |latency| latency.max_us)
    }),
    IDLE_MEMORY,
    counted_in(
        "MiB",
        lower("memory before the idle connections, MiB", |figures| {
            Some(figures.memory?.before as f64 / f64::from(1 << 20))
        }),
    ),
    LARGEST_CONNECTIONS,
    LARGEST_CPU_TIME,
    SCALED_RATE,
    SCALED_CPU_TIME,
];

/// What the clients saw, where that is what the workload is about.
///
/// Nothing of idle connections, whose rate is that of opening them one by one; nothing of
/// the fresh instances of `scale` either, where `conn` says it better.
fn ordinary(figures: &Figures) -> Option<Sample> {
    let ordinary = figures.memory.is_none() && figures.one_worker.is_none();
    ordinary.then_some(figures.sample)
}

/// What all units cost together, for one of them.
fn per_unit(figures: &Figures, total: f64) -> Option<f64> {
    Some(total / ordinary(figures)?.units)
}

fn latency(figures: &Figures, of: fn(Latency) -> f64) -> Option<f64> {
    ordinary(figures)?.latency.map(of)
}

//! What one measurement yields.

use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::load::Sample;
use crate::shares::Shares;
use crate::workload::Workload;

/// One program under one workload in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// Row.
    pub workload: Workload,
    /// Column, see [`Program::column`](crate::program::Program::column).
    pub column: String,
    /// From 0.
    pub round: usize,
    /// What was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
    /// Why there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What the clients saw and the proxy spent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// What the clients saw.
    pub sample: Sample,
    /// What the proxy spent; nothing without a proxy, and under [`Workload::Idle`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// The proxy's memory, under [`Workload::Idle`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// How evenly its workers share, under [`Workload::Even`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<Shares>,
    /// The same with one worker, under [`Workload::Scale`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_worker: Option<OneWorker>,
}

/// Anonymous memory of a proxy, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Before the idle connections: what it takes up front is there.
    pub before: u64,
    /// While they are open.
    pub after: u64,
}

/// What a proxy did with a single worker.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct OneWorker {
    /// What the clients saw.
    pub sample: Sample,
    /// What the proxy spent.
    pub cost: Cost,
}

impl Figures {
    /// Of traffic that went to the backends themselves.
    pub(crate) fn direct(sample: Sample) -> Self {
        Self {
            sample,
            cost: None,
            memory: None,
            shares: None,
            one_worker: None,
        }
    }

    /// Of traffic through a proxy.
    pub(crate) fn proxied(sample: Sample, cost: Cost) -> Self {
        Self {
            cost: Some(cost),
            ..Self::direct(sample)
        }
    }

    /// Of idle connections.
    pub(crate) fn idle(sample: Sample, memory: Memory) -> Self {
        Self {
            memory: Some(memory),
            ..Self::direct(sample)
        }
    }
}

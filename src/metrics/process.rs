//! What is counted for the process as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use crossbeam_utils::CachePadded;
use tokio::sync::Notify;

use super::counters::{Counter, PerCore};
use super::lookups::Lookups;

/// Counts of the process.
#[derive(Debug)]
pub struct Process {
    /// Bytes that were spliced.
    pub spliced: PerCore<Counter>,
    /// Questions to DNS.
    pub lookups: Lookups,
    cores: Box<[CachePadded<CoreGauges>]>,
    emptied: Notify,
}

/// A connection's part in the load of its core, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    process: Arc<Process>,
    core: usize,
}

impl Seat {
    /// One more connection on core `core`. It is counted before it gets there, so that several
    /// accepted at once are not all sent to the same core.
    pub fn take(process: &Arc<Process>, core: usize) -> Self {
        process.cores[core].connections.fetch_add(1, SeqCst);
        Self {
            process: Arc::clone(process),
            core,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let before = self.process.cores[self.core]
            .connections
            .fetch_sub(1, SeqCst);
        if before == 1 {
            self.process.emptied.notify_one();
        }
    }
}

/// What one core has now.
#[derive(Debug, Default)]
struct CoreGauges {
    connections: AtomicUsize,
    pipes: AtomicUsize,
    thread: AtomicU64,
}

impl Process {
    /// Counts for `cores` data cores.
    pub fn new(cores: usize) -> Self {
        Self {
            spliced: PerCore::new(cores),
            lookups: Lookups::default(),
            cores: (0..cores).map(|_| CachePadded::default()).collect(),
            emptied: Notify::new(),
        }
    }

    /// How many data cores there are.
    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// Connections on core `index`.
    pub fn connections(&self, index: usize) -> usize {
        self.cores[index].connections.load(Relaxed)
    }

    /// Completes when no core has a connection. For one waiter at a time.
    pub async fn empty(&self) {
        while (0..self.cores()).any(|core| self.cores[core].connections.load(SeqCst) > 0) {
            self.emptied.notified().await;
        }
    }

    /// The core with the fewest connections.
    pub fn least_loaded(&self) -> usize {
        (0..self.cores())
            .min_by_key(|index| self.connections(*index))
            .unwrap_or(0)
    }

    /// Says how many pipes of core `index` carry bytes.
    pub fn set_pipes(&self, index: usize, pipes: usize) {
        self.cores[index].pipes.store(pipes, Relaxed);
    }

    /// Pipes that carry bytes now.
    pub fn pipes_in_use(&self) -> usize {
        self.cores.iter().map(|core| core.pipes.load(Relaxed)).sum()
    }

    /// Says which thread of the kernel runs core `index`.
    pub fn set_thread(&self, index: usize, thread: u64) {
        self.cores[index].thread.store(thread, Relaxed);
    }

    /// The kernel's number of the thread that runs core `index`; 0: not started yet.
    pub fn thread(&self, index: usize) -> u64 {
        self.cores[index].thread.load(Relaxed)
    }
}

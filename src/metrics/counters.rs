//! Counters that cost their writer one plain addition: every core owns a cell, a reader sums.
//!
//! A cell has one writer, the thread that [`enter`]ed that core, so it adds with a relaxed
//! load and a relaxed store: no locked instruction, no shared cache line. Threads that never
//! entered a core (the control plane) share cell 0 of their own and add atomically.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

thread_local! {
    /// 0: not a data core; else the core's number plus one.
    static CORE: Cell<usize> = const { Cell::new(0) };
}

/// Makes this thread the writer of core `core`'s cells, for good.
///
/// Two threads must never enter the same core: counts would be lost.
pub fn enter(core: usize) {
    CORE.set(core + 1);
}

/// The core that this thread entered.
pub fn core() -> Option<usize> {
    CORE.get().checked_sub(1)
}

/// A count that only grows, or a sum of such, in one core's cell.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Exact as long as only the owner of the cell calls it.
    #[inline]
    pub fn add(&self, n: u64) {
        if CORE.get() == 0 {
            self.0.fetch_add(n, Relaxed);
        } else {
            self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }

    /// Adds `n`, exactly, whoever calls it: for what several threads count so rarely that each
    /// need not have a cell.
    pub fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The cell's count.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One `T` for each data core, and one for all other threads.
#[derive(Debug)]
pub struct PerCore<T>(Box<[CachePadded<T>]>);

impl<T: Default> PerCore<T> {
    /// Cells for `cores` data cores.
    pub fn new(cores: usize) -> Self {
        Self(
            (0..=cores)
                .map(|_| CachePadded::new(T::default()))
                .collect(),
        )
    }
}

impl<T> PerCore<T> {
    /// The cell of the calling thread.
    ///
    /// # Panics
    /// If the thread entered a core that this was not made for.
    #[inline]
    pub fn here(&self) -> &T {
        &self.0[CORE.get()]
    }

    /// The cell of no core, which has several writers.
    pub fn shared(&self) -> &T {
        &self.0[0]
    }

    /// The sum of one count over all cells.
    pub fn sum(&self, count: impl Fn(&T) -> u64) -> u64 {
        self.0
            .iter()
            .map(|cell| count(cell))
            .fold(0, u64::wrapping_add)
    }

    /// Every cell, for a reader.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|cell| &**cell)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn cells_of_all_threads_add_up() {
        let counts = Arc::new(PerCore::<Counter>::new(3));
        let threads: Vec<_> = (0..3)
            .map(|core| {
                let counts = Arc::clone(&counts);
                std::thread::spawn(move || {
                    enter(core);
                    (0..1000).for_each(|_| counts.here().add(2));
                })
            })
            .collect();
        counts.here().add(1);
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("a counting thread"));
        assert_eq!(counts.sum(Counter::value), 6001);
    }
}

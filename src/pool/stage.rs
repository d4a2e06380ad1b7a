//! A pool in virtual time: where its picks have the time and their draws from.
//!
//! A pool of the running balancer has no [`Stage`]: it asks the clock, and the generator of the
//! thread. A simulation gives both, so that the same code picks in a time of
//! its own and draws the same again whenever it is asked to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The time of pools that are simulated together. It stands still until it is set.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    /// Since then, in nanoseconds.
    elapsed: AtomicU64,
}

impl Clock {
    /// A clock at its beginning.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            origin: Instant::now(),
            elapsed: AtomicU64::new(0),
        })
    }

    /// The time, as far as it was set.
    pub fn now(&self) -> Instant {
        self.origin + Duration::from_nanos(self.elapsed.load(Relaxed))
    }

    /// It is so long after the beginning now, up to 584 years.
    pub fn set(&self, elapsed: Duration) {
        let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed.store(elapsed, Relaxed);
    }
}

/// Time and draws of one simulated pool.
#[derive(Debug)]
pub struct Stage {
    clock: Arc<Clock>,
    draws: Mutex<StdRng>,
}

impl Stage {
    /// In the time of `clock`; what is drawn is drawn the same again with the same seed.
    pub fn new(clock: Arc<Clock>, seed: u64) -> Self {
        Self {
            clock,
            draws: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    /// The time.
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// What is drawn from it now.
    pub(super) fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.draws.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

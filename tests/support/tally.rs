//! How many bytes the peers saw: the oracle for the bytes that isobar counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, Mutex};

/// Bytes that one side of a case handed to the kernel and got from it.
#[derive(Debug, Default)]
pub struct Tally {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Tally {
    pub fn add_sent(&self, n: usize) {
        self.sent.fetch_add(n as u64, SeqCst);
    }

    pub fn add_received(&self, n: usize) {
        self.received.fetch_add(n as u64, SeqCst);
    }

    /// Takes back what was received and is no payload.
    pub fn discount_received(&self, n: usize) {
        self.received.fetch_sub(n as u64, SeqCst);
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    pub fn received(&self) -> u64 {
        self.received.load(SeqCst)
    }
}

/// Backends by the address that a configuration, and so `/stats`, names them by.
static BACKENDS: LazyLock<Mutex<HashMap<String, Arc<Tally>>>> = LazyLock::new(Mutex::default);

/// Makes the bytes of the backend at `address` known; a later backend there replaces it.
pub fn register(address: &str, tally: &Arc<Tally>) {
    let mut backends = BACKENDS.lock().expect("no panic while it was held");
    backends.insert(address.to_owned(), Arc::clone(tally));
}

/// The bytes of the backend at `address`, if it is one of ours.
pub fn of_backend(address: &str) -> Option<Arc<Tally>> {
    let backends = BACKENDS.lock().expect("no panic while it was held");
    backends.get(address).cloned()
}

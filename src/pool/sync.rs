//! The primitives that [`hold`](super::hold) is built on, so that its model test can put
//! loom's in their place.

pub(super) use std::sync::atomic::{AtomicUsize, Ordering, fence};
pub(super) use std::sync::{Mutex, MutexGuard};

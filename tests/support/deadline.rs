//! Waiting for a condition, with one deadline for all.

use std::time::{Duration, Instant};

/// How long anything may take that should take no time, on an idle machine of today.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at a condition: short enough not to slow the suite down, long enough
/// that a hundred waiting tests do not eat the processor they wait for.
const LOOK: Duration = Duration::from_millis(5);

/// `duration`, stretched by `ISOBAR_TEST_TIMEOUT_FACTOR` (default 1).
pub fn scaled(duration: Duration) -> Duration {
    let factor = std::env::var("ISOBAR_TEST_TIMEOUT_FACTOR")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1.0);
    duration.mul_f64(factor)
}

/// The deadline of whatever should happen at once.
pub fn patience() -> Duration {
    scaled(PATIENCE)
}

/// Waits until `condition` holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Waits until `look` finds something, and returns it.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(LOOK);
    }
}

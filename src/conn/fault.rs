//! Faults on demand, in builds with the feature `fault-injection` alone.
//!
//! `ISOBAR_PANIC_AT=STAGE@LISTENER` makes the task of every connection of that listener panic
//! when it comes to that stage (`connect`, `relay`), so that a test can prove that nothing but
//! that connection ends.

/// Panics if this stage of this listener is the one that was asked for.
#[cfg(feature = "fault-injection")]
pub(super) fn point(stage: &str, listener: &str) {
    let wanted = std::env::var("ISOBAR_PANIC_AT").unwrap_or_default();
    assert!(
        wanted != format!("{stage}@{listener}"),
        "injected fault at {wanted}"
    );
}

/// Nothing: this build has no faults on demand.
#[cfg(not(feature = "fault-injection"))]
pub(super) fn point(_stage: &str, _listener: &str) {}

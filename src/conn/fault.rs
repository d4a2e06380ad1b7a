//! Faults on demand, in builds with the feature `fault-injection` alone.
//!
//! `ISOBAR_PANIC_AT=STAGE@LISTENER` makes the task of every connection of that listener panic
//! when it comes to that stage (`connect`, `relay`), so that a test can prove that nothing but
//! that connection ends; `draw@top` makes `isobar top` panic when it draws. `ISOBAR_HANG_AT=STAGE@LISTENER` hangs the whole core there instead, for
//! good, as a bug would: a watchdog must notice.

/// Panics, or hangs, if this stage of this listener is the one that was asked for.
#[cfg(feature = "fault-injection")]
pub(crate) fn point(stage: &str, listener: &str) {
    let here = format!("{stage}@{listener}");
    let is_wanted = |name| std::env::var(name).is_ok_and(|wanted| wanted == here);
    while is_wanted("ISOBAR_HANG_AT") {
        std::thread::park();
    }
    assert!(!is_wanted("ISOBAR_PANIC_AT"), "injected fault at {here}");
}

/// Nothing: this build has no faults on demand.
#[cfg(not(feature = "fault-injection"))]
pub(crate) fn point(_stage: &str, _listener: &str) {}

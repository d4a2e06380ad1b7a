//! A panic as one line of the log.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics since the hook was installed.
pub fn panics() -> u64 {
    PANICS.load(Relaxed)
}

/// Makes every panic of this process one error event and a count, see [`panics`]; its
/// backtrace is in it where `RUST_BACKTRACE` asks for one.
///
/// Before [`init`](super::init) the hook that was there before goes on to write panics.
pub fn install_panic_hook() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Relaxed);
        if tracing::dispatcher::has_been_set() {
            report(info);
        } else {
            before(info);
        }
    }));
}

fn report(info: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let captured = backtrace.status() == BacktraceStatus::Captured;
    tracing::error!(
        panic = info.payload_as_str().unwrap_or("not a text"),
        location = info.location().map(tracing::field::display),
        thread = std::thread::current().name(),
        backtrace = captured.then(|| tracing::field::display(&backtrace)),
        "panic"
    );
}

//! Active health checks: one task per backend, one probe in flight each.
//!
//! What a check does is in [`Check`] (built once per pool); what its results mean is for the
//! [`Subject`] to say. This module decides *when* to check:
//!
//! - The next probe starts one `interval` after the previous one started, or one
//!   `fast_interval` while the backend is unsettled; each is jittered by a tenth. If the probe
//!   took longer than that, the next one starts when it is done. Missed rounds are not made up
//!   for: after a pause of the process each backend gets one probe.
//! - A nudge (a connect by traffic failed, a client is held) brings the next probe forward to
//!   one `fast_interval` after the previous one started, never closer.
//! - The first round is spread by [`first_delay`].
//!
//! There is no cap on simultaneous probes beyond the one per backend. Each holds one
//! descriptor, which the process sets aside for it. A cap would let backends that time out
//! delay the checks of healthy ones, just when they matter most.

mod error;
mod exchange;
mod http;
mod pool;
mod probe;
mod tcp;
mod tls;

use std::future::Future;
use std::time::{Duration, SystemTime};

use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub use error::{Answer, End, ProbeError, SetupError, Step};
pub use pool::Checks;
pub use probe::{Check, Target, probe};
use probe::{Probed, examine};

use crate::config;

/// The result of one check.
#[derive(Debug)]
pub struct Outcome {
    /// When the verdict fell.
    pub at: SystemTime,
    /// How long it took from the start of the connect.
    pub took: Duration,
    /// Passed, or what failed.
    pub result: Result<(), ProbeError>,
}

impl Outcome {
    /// Whether the backend passed; `None`: this machine failed, so nothing is known.
    pub fn verdict(&self) -> Option<bool> {
        match &self.result {
            Ok(()) => Some(true),
            Err(error) if error.is_local() => None,
            Err(_) => Some(false),
        }
    }
}

/// Whose checks these are.
pub trait Subject: Send + Sync {
    /// Whether the next check should come after `fast_interval`.
    fn unsettled(&self) -> bool;

    /// Waits for a reason to check sooner.
    ///
    /// A reason that comes up while nobody waits must end the next wait, as a permit of
    /// `tokio::sync::Notify` does.
    fn nudged(&self) -> impl Future<Output = ()> + Send;

    /// Takes a result in; called once per check, in order. Must not block.
    fn checked(&self, outcome: Outcome);
}

/// Checks until `stop` is cancelled; then a probe in flight is dropped and its result with it.
///
/// `first` is the time to the first probe, see [`first_delay`]; `rng` draws the jitter.
pub async fn run(
    target: Target,
    first: Duration,
    rng: SmallRng,
    subject: impl Subject,
    stop: CancellationToken,
) {
    let pace = Pace {
        interval: target.check.interval,
        fast_interval: target.check.fast_interval,
        rng,
    };
    tokio::select! {
        // The order matters: no result is told once nobody wants it.
        biased;
        () = stop.cancelled() => {}
        () = rounds(pace, first, || examine(&target), &subject) => {}
    }
}

/// Backends that are checked at once when they begin together, one a millisecond.
const AT_ONCE: usize = 16;
/// The first round of more than that takes no longer than this, or one `health.timeout`.
const FIRST_ROUND: Duration = Duration::from_secs(1);

/// When the first probe of a backend should start that is number `position` (from 0) of `of`
/// backends whose checks begin together: at the start, or added by one reload.
///
/// Clients wait for first results, so a small configuration has them within milliseconds. A
/// large one must not stampede, in the first round or (as phases last for a while) in later
/// ones: it is spread evenly over half an interval, yet over no more than a second or one
/// `health.timeout`, when backends count as up without a result. Give the first backends of
/// all pools the first positions, so that no pool waits for the others.
pub fn first_delay(position: usize, of: usize, health: &config::Health) -> Duration {
    if of <= AT_ONCE {
        return Duration::from_millis(position as u64);
    }
    let spread = (health.interval / 2).min(health.timeout.max(FIRST_ROUND));
    spread.mul_f64(position as f64 / of as f64)
}

/// Probes in turn for ever. Never more than one future of `probe` lives.
async fn rounds<F: Future<Output = Probed>>(
    mut pace: Pace,
    first: Duration,
    mut probe: impl FnMut() -> F,
    subject: &impl Subject,
) {
    sleep(first).await;
    loop {
        let started = Instant::now();
        let Probed { outcome, farewell } = probe().await;
        subject.checked(outcome);
        if let Some(farewell) = farewell {
            farewell.say().await;
        }
        pace.rest(started, subject).await;
    }
}

/// How long to rest between probes.
struct Pace {
    interval: Duration,
    fast_interval: Duration,
    rng: SmallRng,
}

impl Pace {
    /// Waits for the next probe's time. `started`: of the previous one.
    async fn rest(&mut self, started: Instant, subject: &impl Subject) {
        let soon = started + self.jittered(self.fast_interval);
        let due = started + self.jittered(self.interval);
        if subject.unsettled() {
            sleep_until(soon).await;
        } else {
            tokio::select! {
                () = sleep_until(due) => {}
                () = subject.nudged() => sleep_until(soon.min(due)).await,
            }
        }
        forget_nudge(subject).await;
    }

    /// Up to a tenth less or more.
    fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(self.rng.random_range(0.9..=1.1))
    }
}

/// Takes back a nudge that has come by now: the probe that starts next answers it.
async fn forget_nudge(subject: &impl Subject) {
    tokio::select! {
        biased;
        () = subject.nudged() => {}
        () = std::future::ready(()) => {}
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

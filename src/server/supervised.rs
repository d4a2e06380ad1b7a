//! What a service manager hears while isobar runs: that it lives, how it is, and that a stop
//! takes its time.
//!
//! The watchdog is told only after every data core has answered. The question comes from the
//! control plane, so a hang of either, or of the whole process, silences it, and the service
//! manager ends isobar after `WatchdogSec=`.

use std::sync::Arc;
use std::time::Duration;

use super::notify::Notifier;
use crate::admin::{Phase, Running};
use crate::conn::CoreHandle;

/// How often `systemctl status` gets a new line, if it has changed.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// How much longer a stop may take, told anew every third of it.
const EXTENSION: Duration = Duration::from_secs(30);

/// Half of a time that the watchdog may be is at least this: no less can be promised.
const SHORTEST: Duration = Duration::from_millis(1);

/// Tells the service manager, if there is one, until the process ends. Needs a `LocalSet`.
pub(super) fn begin(running: &Arc<Running>, notifier: &Arc<Notifier>) {
    if !notifier.is_heard() {
        return;
    }
    let (shown, teller) = (Arc::clone(running), Arc::clone(notifier));
    tokio::task::spawn_local(async move { tell_status(&shown, &teller).await });
    if let Some(limit) = notifier.watchdog() {
        let every = (limit / 2).max(SHORTEST);
        let (cores, notifier) = (running.cores.clone(), Arc::clone(notifier));
        tokio::task::spawn_local(async move { feed_watchdog(&cores, &notifier, every).await });
    }
}

/// Asks for more time while a stop goes on and nothing hangs: how long connections may take to
/// end `lb.toml` says, and `TimeoutStopSec=` is not known here. To be dropped at the end.
pub(super) async fn ask_for_time(running: &Running, notifier: &Notifier) {
    if !notifier.is_heard() {
        return std::future::pending().await;
    }
    loop {
        notifier.extend(EXTENSION);
        tokio::time::sleep(EXTENSION / 3).await;
        all_answer(&running.cores, EXTENSION).await;
    }
}

/// Tells how it is, now.
pub(super) fn tell(running: &Running, notifier: &Notifier) {
    if notifier.is_heard() {
        notifier.status(&status(running));
    }
}

async fn feed_watchdog(cores: &[CoreHandle], notifier: &Notifier, every: Duration) {
    loop {
        all_answer(cores, every).await;
        notifier.alive();
        tokio::time::sleep(every).await;
    }
}

/// Completes when every core has answered; never, if one does not. Which one is logged once
/// it has taken for longer than `late`.
async fn all_answer(cores: &[CoreHandle], late: Duration) {
    for (core, handle) in cores.iter().enumerate() {
        let mut answer = std::pin::pin!(handle.answers());
        let gone = match tokio::time::timeout(late, &mut answer).await {
            Ok(answered) => !answered,
            Err(_) => {
                tracing::error!(
                    core,
                    "a core does not answer, so the service manager is not told that isobar lives"
                );
                !answer.await
            }
        };
        if gone {
            tracing::error!(core, "a core has ended");
            return std::future::pending().await;
        }
    }
}

async fn tell_status(running: &Running, notifier: &Notifier) {
    let mut told = String::new();
    loop {
        let now = status(running);
        if now != told {
            notifier.status(&now);
            told = now;
        }
        tokio::time::sleep(STATUS_EVERY).await;
    }
}

/// How it is, in a line.
fn status(running: &Running) -> String {
    let process = &running.process;
    let connections: usize = (0..process.cores()).map(|c| process.connections(c)).sum();
    let configured = running.configured();
    let held: usize = configured.every_pool().map(|pool| pool.held_in_all()).sum();
    let doing = match running.phase() {
        Phase::Serving => "serving",
        Phase::Stopping => "stopping",
        Phase::Replaced => "replaced",
    };
    let pools = configured.pools.iter();
    let unusable = pools.filter(|pool| pool.snapshot().usable() == 0);
    let unusable: Vec<_> = unusable.map(|pool| &*pool.name).collect();
    let unusable = match &*unusable {
        [] => String::new(),
        names => format!("; no usable backend in {}", names.join(", ")),
    };
    format!("{doing}: {connections} connections, {held} held{unusable}")
}

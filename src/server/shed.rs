//! `on_backend_down`: ends the live connections of backends that are down by checks, at once or
//! one after the other.
//!
//! What is to be done follows from three things alone: since when a backend is down, what the
//! pool's file says now, and the time. So a reload takes effect at once, an upgrade goes on where
//! it was, and a backend that is back in time keeps what it has.
//!
//! Only connections that came before the backend went down are meant: with `when_all_down = "try"`
//! it may get further ones, which know what they are in for. Who was on the way to it then is
//! found a moment later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tend::until;
use crate::config::{OnBackendDown, Rate};
use crate::conn::CoreHandle;
use crate::conn::ending::Which;
use crate::conn::idlest::Idle;
use crate::conn::listing::PORTION;
use crate::metrics::Ended;
use crate::pool::{Fallen, Pool};

/// How soon the connections of a backend are looked for again: one that was connecting when it
/// went down may have come through.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The least time between two turns of one backend: at a higher rate several are ended in a turn,
/// as each turn looks at every connection.
const TURN: Duration = Duration::from_millis(100);
/// Connections that are ended in one turn at most, whatever the rate.
const MOST: usize = 5000;

/// Does all that until it is dropped.
pub(super) async fn keep_shedding(pool: Arc<Pool>, cores: Vec<CoreHandle>) {
    let mut changes = pool.changes();
    let mut all: Vec<Shedding> = Vec::new();
    loop {
        changes.mark_unchanged();
        let policy = pool.settings().on_backend_down;
        renew(&mut all, &pool, policy);
        let mut next = None;
        for shedding in &mut all {
            let again = shedding.turn(&pool, &cores).await;
            next = next.into_iter().chain(again).min();
        }
        tokio::select! {
            () = until(next) => {}
            changed = changes.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Keeps those that are down still, with the same policy, and begins with others.
fn renew(all: &mut Vec<Shedding>, pool: &Pool, policy: OnBackendDown) {
    let fallen = match policy {
        OnBackendDown::Keep => Vec::new(),
        OnBackendDown::Reset | OnBackendDown::Paced { .. } => pool.fallen(),
    };
    all.retain(|shedding| {
        let stays = fallen.iter().any(|fallen| shedding.is(fallen, policy));
        if !stays {
            shedding.say_over(pool);
        }
        stays
    });
    let new = fallen.into_iter();
    let new = new.filter(|fallen| !all.iter().any(|shedding| shedding.is(fallen, policy)));
    let new: Vec<_> = new.map(|fallen| Shedding::new(fallen, policy)).collect();
    all.extend(new);
}

/// A backend that loses its connections.
struct Shedding {
    fallen: Fallen,
    policy: OnBackendDown,
    pace: Pace,
    closed: usize,
}

impl Shedding {
    fn new(fallen: Fallen, policy: OnBackendDown) -> Self {
        let pace = match policy {
            OnBackendDown::Paced { after, rate } => Pace::new(rate, fallen.at + after),
            // Not paced.
            OnBackendDown::Keep | OnBackendDown::Reset => Pace::new(Rate::per_second(1), fallen.at),
        };
        Self {
            fallen,
            policy,
            pace,
            closed: 0,
        }
    }

    fn is(&self, fallen: &Fallen, policy: OnBackendDown) -> bool {
        self.fallen.is(fallen) && self.policy == policy
    }

    /// Ends what is to be ended now; when to come again, if nothing changes before.
    async fn turn(&mut self, pool: &Pool, cores: &[CoreHandle]) -> Option<Instant> {
        let now = Instant::now();
        if let OnBackendDown::Paced { .. } = self.policy {
            let due = self.pace.due(now);
            if due > 0 {
                self.end_idlest(pool, cores, due).await;
            }
            let next = self.pace.next.max(now + TURN);
            return Some(next).filter(|_| self.has_some());
        }
        let all = Which::EstablishedBy(Arc::clone(&self.fallen.backend.name), self.fallen.at);
        let mut closed = 0;
        for core in cores {
            closed += core.end(&all, Some(Ended::BackendDown)).await.closed;
        }
        self.note(pool, closed);
        Some(now + LOOK_AGAIN).filter(|_| self.has_some())
    }

    /// Whether it has connections, or may get one that came before it went down.
    fn has_some(&self) -> bool {
        self.fallen.backend.active() > 0
    }

    async fn end_idlest(&mut self, pool: &Pool, cores: &[CoreHandle], most: usize) {
        let mut found: Vec<(Idle, usize)> = Vec::new();
        let (name, by) = (&self.fallen.backend.name, self.fallen.at);
        for (index, core) in cores.iter().enumerate() {
            let idlest = core.idlest(name, by, most).await;
            found.extend(idlest.into_iter().map(|idle| (idle, index)));
        }
        found.sort_unstable();
        found.truncate(most);
        // It may have come back meanwhile.
        if !pool.is_still(&self.fallen) {
            return;
        }
        let mut closed = 0;
        for (index, core) in cores.iter().enumerate() {
            let of_core = found.iter().filter(|(_, core)| *core == index);
            let ids: Vec<_> = of_core.map(|(idle, _)| idle.id).collect();
            for ids in ids.chunks(PORTION) {
                let which = Which::Each(ids.into());
                closed += core.end(&which, Some(Ended::BackendDown)).await.closed;
            }
        }
        self.note(pool, closed);
    }

    /// So many were ended. The first are worth a line; the access log has them all.
    fn note(&mut self, pool: &Pool, closed: usize) {
        if self.closed == 0 && closed > 0 {
            let (pool, backend) = (&*pool.name, &*self.fallen.backend.name);
            tracing::warn!(pool, backend, closed, "down, resetting its connections");
        }
        self.closed += closed;
    }

    fn say_over(&self, pool: &Pool) {
        if self.closed > 0 {
            let (pool, backend) = (&*pool.name, &*self.fallen.backend.name);
            let (closed, left) = (self.closed, self.fallen.backend.active());
            tracing::info!(
                pool,
                backend,
                closed,
                left,
                "the rest of its connections stays"
            );
        }
    }
}

/// Spaces connections evenly. A turn that comes late is made up for, a long wait is not.
struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    /// At most `rate`, from `first` on.
    fn new(rate: Rate, first: Instant) -> Self {
        Self {
            interval: rate.interval().max(Duration::from_nanos(1)),
            next: first,
        }
    }

    /// How many are due by now.
    fn due(&mut self, now: Instant) -> usize {
        let Some(late) = now.checked_duration_since(self.next) else {
            return 0;
        };
        let late = late.min(2 * TURN);
        let due = (late.as_nanos() / self.interval.as_nanos()) as u32;
        let since = now - late;
        self.next = since + self.interval.saturating_mul(due.saturating_add(1));
        (due as usize + 1).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().expect("a rate")
    }

    /// How many are due in turns at these times, in milliseconds from the first moment.
    fn due(text: &str, turns: &[u64]) -> Vec<usize> {
        let start = Instant::now() + Duration::from_secs(9);
        let mut pace = Pace::new(rate(text), start);
        assert_eq!(pace.due(start - Duration::from_millis(1)), 0, "not before");
        let at = |ms: &u64| start + Duration::from_millis(*ms);
        turns.iter().map(|ms| pace.due(at(ms))).collect()
    }

    #[test]
    fn no_more_are_due_than_the_rate_allows() {
        assert_eq!(due("50/s", &[0, 100, 200, 300]), [1, 5, 5, 5]);
        assert_eq!(
            due("1/s", &[0, 100, 999, 1000, 1100, 2000]),
            [1, 0, 0, 1, 0, 1]
        );
        assert_eq!(due("60/m", &[0, 500, 1000]), [1, 0, 1]);
    }

    #[test]
    fn a_late_turn_is_made_up_for_and_a_long_wait_is_not() {
        assert_eq!(due("50/s", &[0, 150, 200]), [1, 7, 3]);
        assert_eq!(due("50/s", &[0, 60_000, 60_100]), [1, 11, 5]);
        assert_eq!(due("2/s", &[0, 60_000, 60_100, 60_500]), [1, 1, 0, 1]);
    }

    #[test]
    fn whatever_the_rate_a_turn_is_short() {
        assert_eq!(due("4294967295/s", &[0, 100]), [1, MOST]);
    }
}

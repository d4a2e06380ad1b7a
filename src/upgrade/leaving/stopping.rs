//! A stop while connections are left here: the new process says for how long they may go on, and
//! is told of the orders that this one gets.

use std::time::{Duration, Instant};

use super::{Leaving, Steps, unexpected};
use crate::admin::NotUpgraded;
use crate::metrics::Ended;
use crate::upgrade::message::Message;
use crate::upgrade::wire::WireError;

/// How long what is left may go on.
#[derive(Debug)]
pub(super) struct Term {
    until: Option<Instant>,
    /// How it ends then.
    ended: Ended,
    /// The whole balancer stops.
    pub(super) stops: bool,
    is_over: bool,
}

impl Term {
    /// For as long as it needs.
    pub(super) fn endless() -> Self {
        Self {
            until: None,
            ended: Ended::DrainTimeout,
            stops: false,
            is_over: false,
        }
    }

    /// For so long from `now`, if not less already.
    pub(super) fn within(&mut self, most: Duration, now: Instant) {
        // A sum that does not fit lies beyond every life.
        let until = now.checked_add(most);
        self.until = self.until.into_iter().chain(until).min();
    }

    /// Not at all.
    fn kill(&mut self, now: Instant) {
        self.within(Duration::ZERO, now);
        self.ended = Ended::Killed;
    }

    /// Whether it was over when it was last asked.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// How what is left ends now; once.
    fn ends(&mut self, now: Instant) -> Option<Ended> {
        let over = !self.is_over && self.until.is_some_and(|until| until <= now);
        self.is_over |= over;
        over.then_some(self.ended)
    }

    /// How long until then, at most `most`.
    pub(super) fn left(&self, most: Duration, now: Instant) -> Duration {
        let until = self.until.filter(|_| !self.is_over);
        until.map_or(most, |until| until.saturating_duration_since(now).min(most))
    }
}

impl<S: Steps> Leaving<S> {
    /// Does what the new process says when it was not asked.
    pub(super) fn heed(&mut self, message: Message) -> Result<(), NotUpgraded> {
        let now = Instant::now();
        match message {
            Message::Overrides { overrides } => self.follow(&overrides),
            Message::Stop { left } => {
                self.term.stops = true;
                if let Some(left) = left {
                    self.term.within(left, now);
                }
            }
            Message::Reset => {
                self.term.stops = true;
                self.term.kill(now);
            }
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    /// Resets what is left, if it may not go on any longer.
    pub(super) fn end_in_time(&mut self) {
        let Some(ended) = self.term.ends(Instant::now()) else {
            return;
        };
        let active = self.connections();
        match (ended, self.term.stops) {
            (Ended::Killed, _) => {
                tracing::warn!(active, "told to stop again, resetting what is left")
            }
            (_, true) => tracing::warn!(active, "drain_timeout is over, resetting what is left"),
            (_, false) => tracing::warn!(active, "upgrade_timeout is over, resetting what is left"),
        }
        for core in &self.running.cores {
            core.tell(crate::conn::Command::EndAll(ended));
        }
    }

    /// Tells the new process of the orders to stop that have come. A second one ends at once what
    /// is left here, too.
    pub(super) fn pass_on(&mut self) -> Result<(), WireError> {
        while self.stops.try_recv().is_ok() {
            self.pass_on_one()?;
        }
        Ok(())
    }

    fn pass_on_one(&mut self) -> Result<(), WireError> {
        let again = std::mem::replace(&mut self.has_passed, true);
        if again {
            self.term.stops = true;
            self.term.kill(Instant::now());
        }
        self.tell(&Message::ToldToStop { again })?;
        self.steps.passed_on();
        Ok(())
    }

    /// Passes on what comes until the process ends: one that has nothing left is not gone yet.
    pub fn pass_on_to_the_end(mut self) {
        while self.stops.recv().is_ok() {
            if self.pass_on_one().is_err() {
                return self.steps.cannot_pass_on();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earliest_end_holds_and_comes_once() {
        let now = Instant::now();
        let mut term = Term::endless();
        assert_eq!(term.ends(now + 1000 * SECOND), None);
        term.within(9 * SECOND, now);
        term.within(5 * SECOND, now);
        term.within(Duration::MAX, now);
        assert_eq!(term.left(SECOND, now), SECOND);
        assert_eq!(term.left(60 * SECOND, now + SECOND), 4 * SECOND);
        assert_eq!(term.ends(now + 4 * SECOND), None);
        assert_eq!(term.ends(now + 5 * SECOND), Some(Ended::DrainTimeout));
        assert_eq!(term.ends(now + 6 * SECOND), None);
        assert_eq!(term.left(SECOND, now + 6 * SECOND), SECOND);
    }

    #[test]
    fn an_order_to_reset_comes_at_once_and_says_so() {
        let now = Instant::now();
        let mut term = Term::endless();
        term.within(9 * SECOND, now);
        term.kill(now);
        assert_eq!(term.ends(now), Some(Ended::Killed));
        assert!(term.is_over());
    }
}

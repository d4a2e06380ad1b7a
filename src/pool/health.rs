//! Up or down, by checks alone: rise and fall, and damping for a backend that flaps.
//!
//! Pure: results come in with the time at which they came, transitions go out. Ejections by
//! traffic, admin states and what follows from all of them for the balancing are decided
//! elsewhere.
//!
//! # Rules
//!
//! - The first result alone decides, also when the backend has been assumed up meanwhile.
//! - `fall` failed results in a row take a backend down, *needed* passed results in a row bring
//!   it back. A result the other way ends the row.
//! - While no other backend of the pool is usable one passed result brings it back.
//! - Damping: `needed = rise × 2^(d - 1)`, where `d` is the number of downs that are
//!   remembered, 4 at most (none counts as one). A down adds one; [`FORGIVE_AFTER`] without a further down takes one
//!   away, and so again for each such stretch. The first result is no down in this sense: a
//!   backend that starts dead has not flapped. A backend that fails once a day is therefore
//!   never held back, one that fails every few seconds needs 1, 2, 4 and then 8 times `rise`.
//!
//! HAProxy keeps the two counters alone, Envoy doubles the *time* of an ejection with each
//! repeat; counting passes instead keeps the return tied to evidence, not to a clock.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config;

/// Every such stretch without a further down halves what a flapping backend needs to return.
pub const FORGIVE_AFTER: Duration = Duration::from_secs(300);

/// Downs beyond this many change nothing: 2^(4 - 1) = 8 times `rise` is the most.
const MAX_REMEMBERED: u32 = 4;

/// A backend as its checks see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No result yet: used only if no other backend is up.
    Starting,
    /// Passes its checks, or has none.
    Up,
    /// Fails them.
    Down,
}

impl State {
    /// As statistics and logs write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What is known of a backend, as another process can have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    state: State,
    since_ago: Duration,
    decided: bool,
    against: u32,
    downs: u32,
    last_down_ago: Option<Duration>,
}

/// A change of state. `from` and `to` differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state since.
    pub to: State,
}

/// How many results decide, and how long nothing is known without consequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Passed results in a row that bring an undamped backend up.
    pub rise: NonZeroU32,
    /// Failed results in a row that take it down.
    pub fall: NonZeroU32,
    /// Without a result for this long a starting backend counts as up (`health.timeout`).
    pub patience: Duration,
}

impl From<&config::Health> for Thresholds {
    fn from(health: &config::Health) -> Self {
        Self {
            rise: health.rise,
            fall: health.fall,
            patience: health.timeout,
        }
    }
}

/// The state machine of one backend.
#[derive(Clone, Debug)]
pub struct Health {
    thresholds: Thresholds,
    state: State,
    since: Instant,
    /// A result has been recorded.
    decided: bool,
    /// Results in a row that speak against `state`.
    against: u32,
    /// A connect by traffic failed since the last result.
    suspect: bool,
    flaps: Flaps,
}

impl Health {
    /// A backend that is checked, and of which nothing is known.
    pub fn new(thresholds: Thresholds, now: Instant) -> Self {
        Self {
            thresholds,
            state: State::Starting,
            since: now,
            decided: false,
            against: 0,
            suspect: false,
            flaps: Flaps::default(),
        }
    }

    /// A backend without checks (`kind = "none"`): up at once and for good.
    pub fn unchecked(thresholds: Thresholds, now: Instant) -> Self {
        Self {
            state: State::Up,
            decided: true,
            ..Self::new(thresholds, now)
        }
    }

    /// Takes a result in. `alone`: no other backend of the pool is usable.
    ///
    /// What isobar's own machine did wrong is no result and must not be recorded.
    pub fn record(&mut self, passed: bool, alone: bool, now: Instant) -> Option<Transition> {
        self.suspect = false;
        if !self.decided {
            self.decided = true;
            return self.turn(if passed { State::Up } else { State::Down }, now);
        }
        if passed == (self.state == State::Up) {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if passed {
            self.rise(alone, now)
        } else {
            self.fall(now)
        }
    }

    /// Counts a backend as up that has been starting for [`Thresholds::patience`].
    ///
    /// Clients are held for that long at most; the first result still decides alone.
    pub fn assume_up(&mut self, now: Instant) -> Option<Transition> {
        let due = self.assumed_up_at()?;
        (now >= due).then(|| self.turn(State::Up, now)).flatten()
    }

    /// When [`assume_up`](Self::assume_up) has something to do; `None`: never.
    pub fn assumed_up_at(&self) -> Option<Instant> {
        (self.state == State::Starting).then(|| self.since + self.thresholds.patience)
    }

    /// A connect by traffic failed: an up backend is unsettled until its next result.
    pub fn suspect(&mut self) {
        self.suspect = self.state == State::Up;
    }

    /// Checks that had stopped begin anew: nothing is known but how it flapped, and the wait for
    /// a result begins now.
    pub fn restart(&mut self, now: Instant) -> Option<Transition> {
        self.decided = false;
        self.suspect = false;
        self.since = now;
        self.turn(State::Starting, now)
    }

    /// New thresholds of a reload; state, rows and damping stay.
    pub fn retune(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// All that is known, for another process.
    pub fn memory(&self, now: Instant) -> Memory {
        let ago = |at: Instant| now.saturating_duration_since(at);
        Memory {
            state: self.state,
            since_ago: ago(self.since),
            decided: self.decided,
            against: self.against,
            downs: self.flaps.remembered,
            last_down_ago: self.flaps.last.map(ago),
        }
    }

    /// Goes on from what another process knew.
    pub fn remember(&mut self, memory: &Memory, now: Instant) {
        let at = |ago| now.checked_sub(ago).unwrap_or(now);
        self.state = memory.state;
        self.since = at(memory.since_ago);
        self.decided = memory.decided;
        self.against = memory.against;
        self.flaps = Flaps {
            remembered: memory.downs.min(MAX_REMEMBERED),
            last: memory.last_down_ago.map(at),
        };
    }

    /// The state by checks.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when the state holds.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether a result has been recorded since the start, or none is needed.
    pub fn decided(&self) -> bool {
        self.decided
    }

    /// Whether the next check may wait for the ordinary interval.
    ///
    /// Not before the first result; not from the first failed check or connect of an up
    /// backend until a check passes or it is down; not while a down one has begun to pass.
    pub fn settled(&self) -> bool {
        self.decided && self.against == 0 && !self.suspect
    }

    /// Passed checks in a row that are still missing before the backend is up; 0: it is.
    pub fn passes_needed(&self, now: Instant) -> u32 {
        match self.state {
            State::Up => 0,
            State::Starting => 1,
            State::Down => self.needed(now).saturating_sub(self.against).max(1),
        }
    }

    fn rise(&mut self, alone: bool, now: Instant) -> Option<Transition> {
        let enough = alone || self.against >= self.needed(now);
        enough.then(|| self.turn(State::Up, now)).flatten()
    }

    fn fall(&mut self, now: Instant) -> Option<Transition> {
        if self.against < self.thresholds.fall.get() {
            return None;
        }
        self.flaps.add(now);
        self.turn(State::Down, now)
    }

    fn needed(&self, now: Instant) -> u32 {
        let rise = self.thresholds.rise.get();
        rise.saturating_mul(self.flaps.factor(now))
    }

    fn turn(&mut self, to: State, now: Instant) -> Option<Transition> {
        self.against = 0;
        let from = std::mem::replace(&mut self.state, to);
        if from == to {
            return None;
        }
        self.since = now;
        Some(Transition { from, to })
    }
}

/// The downs that are remembered against a backend.
#[derive(Clone, Copy, Debug, Default)]
struct Flaps {
    /// As of `last`.
    remembered: u32,
    /// The latest down.
    last: Option<Instant>,
}

impl Flaps {
    fn add(&mut self, now: Instant) {
        self.remembered = (self.remembered(now) + 1).min(MAX_REMEMBERED);
        self.last = Some(now);
    }

    fn factor(&self, now: Instant) -> u32 {
        1 << self.remembered(now).saturating_sub(1)
    }

    fn remembered(&self, now: Instant) -> u32 {
        let quiet = self
            .last
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let forgiven = quiet.as_secs() / FORGIVE_AFTER.as_secs();
        self.remembered
            .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests;

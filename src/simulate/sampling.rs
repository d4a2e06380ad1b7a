//! Whether lines are missing, by the numbers of those that are there: in all of the log, or in a
//! part of it, as where it was put together.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use crate::log::least_share;

/// Numbers of connections that are looked at to see whether others are missing: enough to tell a
/// share of 99.97 % from the whole.
const MOST_NUMBERS: usize = 100_000;

/// So many make a part that is looked at by itself: enough to tell a share of 88 % from the whole.
const PART: usize = 200;

/// So unlikely is it that numbers look like a sample while all are there: e to the power of −25,
/// and there may be thousands of parts.
const DOUBT: f64 = 25.0;

#[derive(Debug)]
pub(super) struct Sampling {
    whole: Numbers,
    part: Numbers,
    found: Option<Sampled>,
}

/// Lines that are a sample.
#[derive(Debug)]
pub(super) struct Sampled {
    /// Which.
    pub(super) lines: RangeInclusive<u64>,
    /// How much of the connections that ended ordinarily is there, 0.0 to 1.0.
    pub(super) share: f64,
}

/// Numbers of connections that ended ordinarily, from one line on.
#[derive(Debug)]
struct Numbers {
    from: u64,
    seen: HashSet<u64>,
    largest: f64,
}

impl Sampling {
    /// Nothing was seen yet.
    pub(super) fn new() -> Self {
        Self {
            whole: Numbers::from(1),
            part: Numbers::from(1),
            found: None,
        }
    }

    /// The connection of this number ended ordinarily, says this line.
    pub(super) fn see(&mut self, id: u64, line: u64) {
        self.whole.see(id);
        self.part.see(id);
        if self.part.seen.len() >= PART {
            let part = std::mem::replace(&mut self.part, Numbers::from(line + 1));
            self.found = self.found.take().or_else(|| part.sampled(line));
        }
    }

    /// What is a sample of this many lines; `None`: as far as one can see nothing is.
    pub(super) fn sampled(self, lines: u64) -> Option<Sampled> {
        self.whole.sampled(lines).or(self.found)
    }
}

impl Numbers {
    fn from(line: u64) -> Self {
        Self {
            from: line,
            seen: HashSet::new(),
            largest: 0.0,
        }
    }

    fn see(&mut self, id: u64) {
        if self.seen.len() < MOST_NUMBERS {
            self.seen.insert(id);
        }
        self.largest = self.largest.max(least_share(id));
    }

    /// Whether they are a sample, up to that line. Of n numbers none needs a share above s with a
    /// likelihood of s to the power of n, if all are there.
    fn sampled(&self, to: u64) -> Option<Sampled> {
        let doubt = -self.largest.ln() * self.seen.len() as f64;
        (!self.seen.is_empty() && doubt > DOUBT).then_some(Sampled {
            lines: self.from..=to,
            share: self.largest,
        })
    }
}

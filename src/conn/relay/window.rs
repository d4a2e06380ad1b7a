//! The time in which another backend could take a connection over, unseen by the client: from
//! the connect to the backend's first byte, for `connect_timeout` at most, as long as the client
//! has sent no more than `replay` allows, and no FIN.
//!
//! What the client sends meanwhile is kept. It takes memory only from the first byte that may be
//! sent again (a plain byte rules `replay = "safe"` out at once) to the end of that time.
//!
//! Which backend accepted those bytes is not settled before the window shuts, so they are
//! counted then, or after [`COUNTED_AFTER`], for statistics that are never older than that.

use std::time::{Duration, Instant};

use crate::config::Replay;
use crate::conn::one_hello::OneHello;
use crate::conn::replay::Trail;

/// How long bytes are not counted that another backend may get.
const COUNTED_AFTER: Duration = Duration::from_secs(1);
/// Most that is kept of a client.
const MOST: usize = 64 << 10;

/// Whether a connection may move to another backend, and what it takes along.
#[derive(Debug)]
pub(super) enum Window {
    /// It may not.
    Shut,
    /// It may, and the client has sent nothing.
    Open(Replay, Option<Box<Trail>>),
    /// It may, with what the client has sent.
    Kept(Box<Kept>),
}

/// What another backend would get.
#[derive(Debug)]
pub(super) struct Kept {
    rule: Rule,
    bytes: Vec<u8>,
    trail: Option<Box<Trail>>,
    times: Option<Times>,
}

#[derive(Debug)]
enum Rule {
    Safe(OneHello),
    Bytes(usize),
}

#[derive(Clone, Copy, Debug)]
struct Times {
    /// When the window shuts; `None`: not by time.
    shuts_at: Option<Instant>,
    counted_at: Instant,
}

impl Window {
    /// Of a connection that has just got its backend, and whose client has sent this.
    pub(super) fn new(replay: Replay, early: &[u8], trail: Option<Box<Trail>>) -> Self {
        let mut window = match replay {
            Replay::Off => Self::Shut,
            replay => Self::Open(replay, trail),
        };
        window.note(early);
        window
    }

    #[inline]
    pub(super) fn is_shut(&self) -> bool {
        matches!(self, Self::Shut)
    }

    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }

    pub(super) fn shut(&mut self) {
        *self = Self::Shut;
    }

    /// The client has sent these as well.
    pub(super) fn note(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Self::Open(replay, trail) = self {
            let mut rule = Rule::of(*replay);
            if rule.allows(bytes) {
                *self = Self::Kept(Box::new(Kept {
                    rule,
                    bytes: bytes.to_vec(),
                    trail: trail.take(),
                    times: None,
                }));
                return;
            }
        } else if let Self::Kept(kept) = self
            && kept.takes(bytes)
        {
            return;
        }
        self.shut();
    }

    /// A connection whose connect was at `opened` has been polled. It shuts by itself after
    /// `timeout`; zero: never.
    pub(super) fn poll(&mut self, opened: Instant, timeout: Duration, now: Instant) {
        let Self::Kept(kept) = self else { return };
        let times = kept.times.get_or_insert_with(|| Times {
            shuts_at: shuts_at(opened, timeout),
            counted_at: now + COUNTED_AFTER,
        });
        if times.shuts_at.is_some_and(|at| at < now) {
            self.shut();
        }
    }

    /// Whether it may move now, if it was connected at `opened` or, where that is known, when it
    /// was first polled with that.
    pub(super) fn is_open(&self, opened: Instant, timeout: Duration, now: Instant) -> bool {
        let times = match self {
            Self::Shut => return false,
            Self::Open(..) => None,
            Self::Kept(kept) => kept.times,
        };
        let at = times.map_or_else(|| shuts_at(opened, timeout), |times| times.shuts_at);
        at.is_none_or(|at| now <= at)
    }

    /// Whether what the backend accepts is not to be counted yet.
    pub(super) fn holds_back(&self, now: Instant) -> bool {
        let Self::Kept(kept) = self else { return false };
        kept.times.is_none_or(|times| now < times.counted_at)
    }

    /// When it is to be polled next, at the latest.
    pub(super) fn look_at(&self, now: Instant) -> Option<Instant> {
        let Self::Kept(kept) = self else { return None };
        let times = kept.times?;
        let counted_at = Some(times.counted_at).filter(|at| now < *at);
        // Past it, not at it: a backend may end the connection in that very moment.
        let shuts_at = times.shuts_at.map(|at| at + Duration::from_millis(1));
        [counted_at, shuts_at].into_iter().flatten().min()
    }

    /// What is known for the way to another backend.
    pub(super) fn take(self) -> (Vec<u8>, Option<Box<Trail>>) {
        match self {
            Self::Shut => (Vec::new(), None),
            Self::Open(_, trail) => (Vec::new(), trail),
            Self::Kept(kept) => (kept.bytes, kept.trail),
        }
    }
}

fn shuts_at(opened: Instant, timeout: Duration) -> Option<Instant> {
    (!timeout.is_zero()).then(|| opened + timeout)
}

impl Kept {
    fn takes(&mut self, bytes: &[u8]) -> bool {
        let fits = self.bytes.len() + bytes.len() <= MOST && self.rule.allows(bytes);
        if fits {
            self.bytes.extend_from_slice(bytes);
        }
        fits
    }
}

impl Rule {
    fn of(replay: Replay) -> Self {
        match replay {
            Replay::Off => Self::Bytes(0),
            Replay::Safe => Self::Safe(OneHello::new()),
            Replay::Bytes(most) => Self::Bytes(most as usize),
        }
    }

    /// Whether another backend may get these as well.
    fn allows(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Safe(hello) => hello.takes(bytes),
            Self::Bytes(left) => match left.checked_sub(bytes.len()) {
                None => false,
                Some(less) => {
                    *left = less;
                    true
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// The beginning of a ClientHello.
    const HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0];

    fn window(replay: Replay) -> Window {
        Window::new(replay, b"", None)
    }

    #[test]
    fn safe_keeps_hellos_and_shuts_at_the_first_plain_byte() {
        let mut safe = window(Replay::Safe);
        safe.note(HELLO);
        assert!(safe.is_kept());
        safe.note(&[2, 3]);
        assert_eq!(safe.take().0, [HELLO, &[2, 3]].concat());
        let mut plain = window(Replay::Safe);
        plain.note(b"G");
        assert!(plain.is_shut());
        plain.note(HELLO);
        assert!(plain.is_shut(), "for good");
    }

    #[test]
    fn a_number_keeps_as_many_bytes_and_shuts_at_the_next() {
        let mut four = window(Replay::Bytes(4));
        four.note(b"abc");
        four.note(b"d");
        assert!(four.is_kept());
        four.note(b"");
        assert!(four.is_kept());
        four.note(b"e");
        assert!(four.is_shut());
        let mut none = window(Replay::Bytes(0));
        assert!(!none.is_shut());
        none.note(b"a");
        assert!(none.is_shut());
    }

    #[test]
    fn what_was_read_before_the_connect_counts_as_sent() {
        assert!(Window::new(Replay::Safe, HELLO, None).is_kept());
        assert!(Window::new(Replay::Safe, b"GET", None).is_shut());
        assert!(Window::new(Replay::Bytes(2), b"GET", None).is_shut());
        assert!(Window::new(Replay::Off, b"", None).is_shut());
    }

    #[test]
    fn it_shuts_after_its_time_and_never_where_there_is_none() {
        let start = Instant::now();
        let mut kept = window(Replay::Safe);
        kept.note(HELLO);
        kept.poll(start, 3 * SECOND, start + SECOND / 2);
        // From here on the moment of the connect is known.
        let later = start + 2 * SECOND;
        assert!(kept.is_open(later, 3 * SECOND, start + 3 * SECOND));
        assert!(!kept.is_open(later, 3 * SECOND, start + 4 * SECOND));
        kept.poll(later, 3 * SECOND, start + 4 * SECOND);
        assert!(kept.is_shut());
        let mut silent = window(Replay::Safe);
        assert!(silent.is_open(start, SECOND, start + SECOND));
        assert!(!silent.is_open(start, SECOND, start + 2 * SECOND));
        let day = 24 * 3600 * SECOND;
        silent.poll(start, Duration::ZERO, start + day);
        assert!(silent.is_open(start, Duration::ZERO, start + day));
    }

    #[test]
    fn what_is_kept_is_counted_after_a_second_and_looked_at_then_and_at_the_end() {
        let start = Instant::now();
        let mut kept = window(Replay::Safe);
        assert!(!kept.holds_back(start) && kept.look_at(start).is_none());
        kept.note(HELLO);
        kept.poll(start, 3 * SECOND, start);
        assert!(kept.holds_back(start));
        assert_eq!(kept.look_at(start), Some(start + COUNTED_AFTER));
        let later = start + COUNTED_AFTER;
        assert!(!kept.holds_back(later));
        let end = start + 3 * SECOND;
        assert!(kept.look_at(later).is_some_and(|at| at > end));
    }

    #[test]
    fn no_more_is_kept_than_of_one_direction() {
        let mut much = window(Replay::Bytes(u32::MAX));
        much.note(&[0; MOST]);
        assert!(much.is_kept());
        much.note(&[0]);
        assert!(much.is_shut());
    }
}

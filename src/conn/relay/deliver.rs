//! The last act of a connection of which one side broke: what that side had sent before goes
//! to the other side, as far as the other side takes it. Of one that isobar itself ends in the
//! middle of something that is what was taken from either side by then.
//!
//! A reset overtakes what is still in the sender's queue (the kernel drops it), so this waits
//! until the receiver's kernel has acknowledged everything, or has made no progress for
//! [`PATIENCE`].

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::direction::{Direction, End, Link, Tally};
use super::window::Window;
use crate::conn::core::Core;
use crate::net::Stream;

/// How long a receiver may take nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// The kernel tells nobody when everything is acknowledged; it is asked this often at first,
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// and at least this often.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// What is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// What is in hand and what the source still has.
    Everything,
    /// What is in hand.
    InHand,
}

/// Delivers that, then waits for it to arrive.
pub(super) async fn deliver(
    what: What,
    direction: &mut Direction,
    source: &Stream,
    sink: &Stream,
    core: &Core,
    mut moved: impl FnMut(&Tally),
) {
    let mut patience = Patience::new(sink);
    while !patience.is_exhausted() {
        let step = pin!(poll_fn(|cx| step(cx, what, direction, source, sink, core)));
        let step = core.timers().timeout_at(patience.deadline(), step);
        let Ok((tally, end)) = step.await else {
            patience.note(0);
            continue;
        };
        moved(&tally);
        patience.note(tally.delivered);
        match end {
            // Others have their turn between two portions.
            None => crate::runtime::yield_now().await,
            // Nobody is left to deliver to.
            Some(End::SinkBroke(_)) => return,
            Some(End::Fin | End::SourceBroke(_)) => return patience.until_acknowledged(core).await,
        }
    }
}

/// Completes with what moved, and with the end if there was one.
fn step(
    cx: &mut Context<'_>,
    what: What,
    direction: &mut Direction,
    source: &Stream,
    sink: &Stream,
    core: &Core,
) -> Poll<(Tally, Option<End>)> {
    let mut tally = Tally::default();
    let mut link = Link {
        source,
        sink,
        buffer: &mut core.buffer(),
        pipes: core.pipes(),
        tally: &mut tally,
        window: &mut Window::Shut,
    };
    let polled = match what {
        What::Everything => direction.poll(cx, &mut link),
        What::InHand => direction.poll_in_hand(cx, &mut link),
    };
    match polled {
        Poll::Ready(end) => Poll::Ready((tally, Some(end))),
        Poll::Pending if tally.delivered > 0 => Poll::Ready((tally, None)),
        Poll::Pending => Poll::Pending,
    }
}

/// How long the receiver has acknowledged nothing. What its own kernel merely takes into the
/// queue is no progress of the receiver.
struct Patience<'a> {
    sink: &'a Stream,
    /// Given to the sink's socket since this began.
    delivered: u64,
    /// Of those and of what was on its way before, how many are acknowledged.
    acknowledged: u64,
    on_its_way: u64,
    progress: Instant,
}

impl<'a> Patience<'a> {
    fn new(sink: &'a Stream) -> Self {
        Self {
            sink,
            delivered: 0,
            acknowledged: 0,
            on_its_way: sink.unacknowledged() as u64,
            progress: Instant::now(),
        }
    }

    /// So many bytes more were given to the sink.
    fn note(&mut self, delivered: u64) {
        self.delivered += delivered;
        let left = self.sink.unacknowledged() as u64;
        let acknowledged = (self.on_its_way + self.delivered).saturating_sub(left);
        if acknowledged > self.acknowledged {
            self.acknowledged = acknowledged;
            self.progress = Instant::now();
        }
    }

    fn deadline(&self) -> Instant {
        self.progress + PATIENCE
    }

    fn is_exhausted(&self) -> bool {
        self.progress.elapsed() >= PATIENCE
    }

    /// Waits until everything that was sent is acknowledged.
    async fn until_acknowledged(mut self, core: &Core) {
        let mut look = FIRST_LOOK;
        while self.sink.unacknowledged() > 0 && !self.is_exhausted() && !self.sink.is_broken() {
            core.timers().sleep(look).await;
            look = (look * 2).min(LAST_LOOK);
            self.note(0);
        }
    }
}

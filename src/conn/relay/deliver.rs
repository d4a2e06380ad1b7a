//! The last act of a connection of which one side broke: what that side had sent before goes
//! to the other side, as far as the other side takes it.
//!
//! A reset overtakes what is still in the sender's queue (the kernel drops it), so this waits
//! until the receiver's kernel has acknowledged everything, or has made no progress for
//! [`PATIENCE`].

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::direction::{Direction, End, Link, Tally};
use crate::conn::core::Core;
use crate::net::Stream;

/// How long a receiver may take nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// The kernel tells nobody when everything is acknowledged; it is asked this often at first,
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// and at least this often.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// Delivers what is in hand and what `source` still has, then waits for it to arrive.
pub(super) async fn deliver(
    mut direction: Direction,
    source: &Stream,
    sink: &Stream,
    core: &Core,
    mut moved: impl FnMut(&Tally),
) {
    loop {
        let step = poll_fn(|cx| {
            let mut tally = Tally::default();
            let mut link = Link {
                source,
                sink,
                buffer: &mut core.buffer(),
                pipes: core.pipes(),
                tally: &mut tally,
            };
            match direction.poll(cx, &mut link) {
                Poll::Ready(end) => Poll::Ready((tally, Some(end))),
                Poll::Pending if tally.delivered > 0 => Poll::Ready((tally, None)),
                Poll::Pending => Poll::Pending,
            }
        });
        let Ok((tally, end)) = timeout_at(Instant::now() + PATIENCE, step).await else {
            return;
        };
        moved(&tally);
        match end {
            None => {}
            // Nobody is left to deliver to.
            Some(End::SinkBroke(_)) => return,
            Some(End::Fin | End::SourceBroke(_)) => break,
        }
    }
    acknowledged(sink).await;
}

/// Waits until everything that was sent is acknowledged.
async fn acknowledged(sink: &Stream) {
    let mut left = sink.unacknowledged();
    let mut progress = Instant::now();
    let mut look = FIRST_LOOK;
    while left > 0 && progress.elapsed() < PATIENCE && !sink.is_broken() {
        sleep(look).await;
        look = (look * 2).min(LAST_LOOK);
        let now_left = sink.unacknowledged();
        if now_left < left {
            progress = Instant::now();
        }
        left = now_left;
    }
}

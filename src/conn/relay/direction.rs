//! One half of a relay: bytes from one socket to the other, until the source's FIN.
//!
//! What is in hand is always delivered before more is taken, so a FIN or a reset of the source
//! is seen only when everything before it is with the sink. Two engines move the bytes: *copy*,
//! through a buffer of the core, which costs least for small messages, and *splice*, through a
//! pipe, which costs half for bulk. With `relay = "auto"` a direction begins with copy, changes
//! to splice after a few full reads in a row, and back when reads get small.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::frozen::InHand;
use super::pipe::{Pipe, Pipes};
use super::window::Window;
use crate::config::RelayEngine;
use crate::net::Stream;

/// A direction that still could go on gives way to others after so many bytes.
const YIELD_AFTER: usize = 256 << 10;
/// Full reads in a row after which a direction is taken for bulk.
const FULL_READS: u8 = 3;
/// A spliced portion below this is small.
const SMALL: usize = 16 << 10;
/// Small portions in a row after which a direction is not taken for bulk any more.
const SMALL_PORTIONS: u8 = 8;

/// Where the bytes of one poll go through and are counted.
pub(super) struct Link<'a> {
    pub(super) source: &'a Stream,
    pub(super) sink: &'a Stream,
    /// The core's copy buffer.
    pub(super) buffer: &'a mut [u8],
    pub(super) pipes: &'a Rc<Pipes>,
    pub(super) tally: &'a mut Tally,
    /// What is taken must be seen here, as long as this is open.
    pub(super) window: &'a mut Window,
}

/// What moved during one poll.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Bytes taken from the source.
    pub(super) taken: u64,
    /// Bytes that the sink accepted.
    pub(super) delivered: u64,
    /// Those of them that were spliced.
    pub(super) spliced: u64,
}

/// How a direction came to its end.
#[derive(Debug)]
pub(super) enum End {
    /// The source sent FIN, and everything before it is with the sink.
    Fin,
    /// The source failed, and everything before that is with the sink.
    SourceBroke(io::Error),
    /// The sink failed; what was in hand is lost.
    SinkBroke(io::Error),
}

/// What a direction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Bytes from the source.
    Source,
    /// Room at the sink, or its turn.
    Sink,
}

/// One half of a relay.
#[derive(Debug)]
pub(super) struct Direction {
    hand: Hand,
    source_end: Option<SourceEnd>,
    sink_error: Option<io::Error>,
    waiting: Waiting,
    engine: RelayEngine,
    bulk: bool,
    /// Reads in a row that speak against the present engine.
    streak: u8,
}

/// Bytes taken and not delivered yet.
#[derive(Debug)]
enum Hand {
    Empty,
    /// What a short write left over, from the offset on. Memory is owned only here.
    Bytes(Box<[u8]>, usize),
    Pipe(Pipe),
}

#[derive(Debug)]
enum SourceEnd {
    Fin,
    Broke(io::Error),
}

impl Direction {
    pub(super) fn new(engine: RelayEngine) -> Self {
        Self::with(Vec::new(), engine)
    }

    /// A direction of which these bytes are taken already.
    pub(super) fn with(early: Vec<u8>, engine: RelayEngine) -> Self {
        Self {
            hand: match early.is_empty() {
                true => Hand::Empty,
                false => Hand::Bytes(early.into(), 0),
            },
            source_end: None,
            sink_error: None,
            waiting: Waiting::Source,
            engine,
            bulk: engine == RelayEngine::Splice,
            streak: 0,
        }
    }

    /// Whether everything it knows can be told to another process: not an error that a socket
    /// gives only once. (A FIN can be read again.)
    pub(super) fn can_move(&self) -> bool {
        self.sink_error.is_none() && !matches!(self.source_end, Some(SourceEnd::Broke(_)))
    }

    /// What it has in hand, and whether it moves bulk.
    pub(super) fn freeze(self) -> (InHand, bool) {
        let hand = match self.hand {
            Hand::Empty => InHand::Nothing,
            Hand::Bytes(bytes, from) => InHand::Bytes(bytes[from..].into()),
            Hand::Pipe(pipe) => pipe.into_hand(),
        };
        (hand, self.bulk)
    }

    /// A direction that has something in hand already.
    pub(super) fn thaw(
        hand: InHand,
        bulk: bool,
        engine: RelayEngine,
        pipes: &Rc<Pipes>,
    ) -> io::Result<Self> {
        let hand = match hand {
            InHand::Nothing => Hand::Empty,
            InHand::Bytes(bytes) => Hand::Bytes(bytes, 0),
            InHand::Pipe { read, write, held } => Hand::Pipe(pipes.adopt(read, write, held)?),
        };
        Ok(Self {
            hand,
            bulk: engine == RelayEngine::Splice || (bulk && engine == RelayEngine::Auto),
            ..Self::new(engine)
        })
    }

    /// Whether the source has come to its end, which may wait behind what is in hand.
    pub(super) fn has_ended(&self) -> bool {
        self.source_end.is_some()
    }

    /// What it waited for when it was last polled.
    pub(super) fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Moves bytes until it must wait or has come to its end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, link: &mut Link<'_>) -> Poll<End> {
        let start = link.tally.taken;
        loop {
            self.waiting = Waiting::Sink;
            if let Err(error) = ready!(self.deliver(cx, link)) {
                return Poll::Ready(End::SinkBroke(error));
            }
            match self.source_end.take() {
                Some(SourceEnd::Fin) => return Poll::Ready(End::Fin),
                Some(SourceEnd::Broke(error)) => return Poll::Ready(End::SourceBroke(error)),
                None => {}
            }
            if link.tally.taken - start >= YIELD_AFTER as u64 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.waiting = Waiting::Source;
            match ready!(self.take(cx, link)) {
                Ok(0) => self.source_end = Some(SourceEnd::Fin),
                Ok(n) => link.tally.taken += n as u64,
                Err(error) => self.source_end = Some(SourceEnd::Broke(error)),
            }
        }
    }

    /// Moves what is in hand and takes no more: when all of it is with the sink it has come to its
    /// end, as if the source had sent FIN.
    pub(super) fn poll_in_hand(&mut self, cx: &mut Context<'_>, link: &mut Link<'_>) -> Poll<End> {
        self.deliver(cx, link).map(|delivered| match delivered {
            Ok(()) => End::Fin,
            Err(error) => End::SinkBroke(error),
        })
    }

    /// Delivers what is in hand.
    fn deliver(&mut self, cx: &mut Context<'_>, link: &mut Link<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.sink_error.take() {
            return Poll::Ready(Err(error));
        }
        match &mut self.hand {
            Hand::Empty => return Poll::Ready(Ok(())),
            Hand::Bytes(bytes, from) => {
                while *from < bytes.len() {
                    let n = ready!(link.sink.poll_send(cx, &bytes[*from..]))?;
                    *from += n;
                    link.tally.delivered += n as u64;
                }
            }
            Hand::Pipe(pipe) => {
                while pipe.held() > 0 {
                    let moved = link.sink.poll_splice_out(cx, pipe.read_end(), pipe.held());
                    let n = match ready!(moved) {
                        Err(error) if cannot_splice(&error) => {
                            self.hand = Hand::Bytes(pipe.empty()?, 0);
                            self.never_splice();
                            return self.deliver(cx, link);
                        }
                        moved => moved?,
                    };
                    pipe.drained(n);
                    link.tally.delivered += n as u64;
                    link.tally.spliced += n as u64;
                }
                // Kept while bytes flow; given back as soon as the source has none.
                return Poll::Ready(Ok(()));
            }
        }
        self.hand = Hand::Empty;
        Poll::Ready(Ok(()))
    }

    /// Takes more, with nothing in hand.
    fn take(&mut self, cx: &mut Context<'_>, link: &mut Link<'_>) -> Poll<io::Result<usize>> {
        // What is spliced is seen by nobody.
        let may_splice = self.bulk && link.window.is_shut();
        if may_splice && link.source.poll_readable(cx).is_ready() {
            let n = self.splice(link)?;
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
        }
        // An empty pipe goes back to the others while there is nothing to splice.
        self.hand = Hand::Empty;
        let n = ready!(link.source.poll_recv(cx, link.buffer))?;
        if !link.window.is_shut() {
            link.window.note(&link.buffer[..n]);
        }
        self.copied(cx, link, n)
    }

    /// Moves what the source has into a pipe; 0: nothing, and only a read can tell why.
    fn splice(&mut self, link: &mut Link<'_>) -> io::Result<usize> {
        let Some(pipe) = self.pipe(link.pipes) else {
            return Ok(0);
        };
        match link.source.try_splice_in(pipe.write_end(), pipe.capacity()) {
            Ok(0) => Ok(0),
            Ok(n) => {
                pipe.filled(n);
                self.judge_splice(n);
                Ok(n)
            }
            Err(error) if cannot_splice(&error) => {
                self.never_splice();
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    fn never_splice(&mut self) {
        self.engine = RelayEngine::Copy;
        self.bulk = false;
    }

    fn pipe(&mut self, pipes: &Rc<Pipes>) -> Option<&mut Pipe> {
        if matches!(self.hand, Hand::Empty) {
            self.hand = Hand::Pipe(pipes.take()?);
        }
        match &mut self.hand {
            Hand::Pipe(pipe) => Some(pipe),
            _ => None,
        }
    }

    /// Forwards `n` bytes of the copy buffer; what the sink does not take stays in hand.
    fn copied(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut Link<'_>,
        n: usize,
    ) -> Poll<io::Result<usize>> {
        self.judge_copy(n == link.buffer.len());
        let mut sent = 0;
        while sent < n {
            match link.sink.poll_send(cx, &link.buffer[sent..n]) {
                Poll::Ready(Ok(m)) => {
                    sent += m;
                    link.tally.delivered += m as u64;
                }
                Poll::Ready(Err(error)) => {
                    self.sink_error = Some(error);
                    break;
                }
                Poll::Pending => {
                    self.hand = Hand::Bytes(link.buffer[sent..n].into(), 0);
                    break;
                }
            }
        }
        Poll::Ready(Ok(n))
    }

    fn judge_copy(&mut self, full: bool) {
        self.streak = if full {
            self.streak.saturating_add(1)
        } else {
            0
        };
        if self.streak >= FULL_READS && self.engine == RelayEngine::Auto {
            self.bulk = true;
            self.streak = 0;
        }
    }

    fn judge_splice(&mut self, n: usize) {
        self.streak = if n < SMALL {
            self.streak.saturating_add(1)
        } else {
            0
        };
        if self.streak >= SMALL_PORTIONS && self.engine == RelayEngine::Auto {
            // Takes effect when the pipe is empty, before more is taken.
            self.bulk = false;
            self.streak = 0;
        }
    }
}

/// Sockets of this kind cannot be spliced on this kernel (`EINVAL`).
fn cannot_splice(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

#[cfg(test)]
mod tests;

//! A relay that stands still, as plain values that another thread or another process can have.
//!
//! Between two polls a relay is: two sockets, what each direction has in hand, which FINs were
//! passed on, and three times. All the rest the kernel keeps, and tells again to whoever
//! watches the sockets next: what has come meanwhile, room to write, FINs, and errors that
//! nobody was told of yet. An error that a socket has told of is gone from it, so a relay that
//! has one in hand cannot move.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::direction::Direction;
use super::window::Window;
use super::{Clock, Exchange, Half, Observer, Pipes, Side};
use crate::config::{self, RelayEngine};
use crate::conn::core::{Core, Entry};
use crate::net::{Kind, Stream};

/// A relay that stands still.
#[derive(Debug)]
pub struct Still {
    /// What is known of it.
    pub pose: Pose,
    /// The client's socket.
    pub client: OwnedFd,
    /// The backend's socket.
    pub backend: OwnedFd,
    /// Bytes of the client's on their way to the backend.
    pub up: InHand,
    /// Bytes of the backend's on their way to the client.
    pub down: InHand,
}

/// What is known of a relay, beside what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pose {
    /// What kind of socket the client's is.
    pub client: Kind,
    /// What kind of socket the backend's is.
    pub backend: Kind,
    /// The direction to the backend.
    pub up: Gait,
    /// The direction to the client.
    pub down: Gait,
    first_fin: Option<Side>,
    /// How long ago the backend could first answer; `None`: it has.
    asked_ago: Option<Duration>,
    /// When it has lasted; `None`: what it shows of the backend was told.
    #[serde(default)]
    lasts_in: Option<Duration>,
    /// When the kernel is to be told to probe the backend; `None`: it was, or never is.
    keepalive_in: Option<Duration>,
}

/// What is known of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gait {
    /// Its FIN was passed on.
    pub done: bool,
    /// It moves bulk.
    pub bulk: bool,
}

/// Bytes taken from one side and not given to the other yet.
#[derive(Debug)]
pub enum InHand {
    /// None.
    Nothing,
    /// In memory, at most 64 KiB.
    Bytes(Box<[u8]>),
    /// In a pipe.
    Pipe {
        /// The end to read from.
        read: OwnedFd,
        /// The end to write to.
        write: OwnedFd,
        /// How many.
        held: usize,
    },
}

impl<'a, O: Observer> Exchange<'a, O> {
    /// Takes a relay apart: what another process can have, and the rest. The sockets are
    /// neither closed nor reset by that. A [window](super::window) does not move, and is shut.
    ///
    /// # Errors
    /// What epoll_ctl(2) gives; the connection is reset then.
    pub fn freeze(self) -> io::Result<(Still, O, Arc<config::Pool>)> {
        let now = Instant::now();
        self.observer.settle();
        let (up, up_gait) = self.up.freeze();
        let (down, down_gait) = self.down.freeze();
        let keepalive_at = self.clock.keepalive_at();
        let still = Still {
            pose: Pose {
                client: self.client.kind(),
                backend: self.backend.kind(),
                up: up_gait,
                down: down_gait,
                first_fin: self.first_fin,
                asked_ago: self.asked.map(|at| now.saturating_duration_since(at)),
                lasts_in: self.lasts_at.map(|at| at.saturating_duration_since(now)),
                keepalive_in: keepalive_at.map(|at| at.saturating_duration_since(now)),
            },
            client: self.client.leave()?,
            backend: self.backend.leave()?,
            up,
            down,
        };
        Ok((still, self.observer, self.settings))
    }

    /// Puts a relay together again.
    ///
    /// # Errors
    /// No memory for the watch of a socket, or what came from elsewhere is not what it should
    /// be; the connection is reset then.
    pub fn thaw(
        still: Still,
        settings: Arc<config::Pool>,
        core: &'a Core,
        entry: &'a Entry,
        observer: O,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let (pose, pipes) = (still.pose, core.pipes());
        // Both exist before anything can fail, so that a failure resets both.
        let client = Stream::new(still.client, pose.client);
        let backend = Stream::new(still.backend, pose.backend);
        let (client, backend) = (client?, backend?);
        entry.sampling().go_on(backend.kind());
        let ago = |time| now.checked_sub(time).unwrap_or(now);
        let keepalive_at = pose.keepalive_in.and_then(|time| now.checked_add(time));
        Ok(Self {
            client,
            backend,
            core,
            entry,
            observer,
            up: Half::thaw(still.up, pose.up, settings.relay, pipes)?,
            down: Half::thaw(still.down, pose.down, settings.relay, pipes)?,
            first_fin: pose.first_fin,
            clock: Clock::new(core.timers(), keepalive_at),
            asked: pose.asked_ago.map(ago),
            lasts_at: pose.lasts_in.and_then(|time| now.checked_add(time)),
            window: Window::Shut,
            settings,
        })
    }
}

impl Half {
    fn freeze(self) -> (InHand, Gait) {
        let (hand, bulk) = self.direction.freeze();
        let done = self.done;
        (hand, Gait { done, bulk })
    }

    fn thaw(hand: InHand, gait: Gait, engine: RelayEngine, pipes: &Rc<Pipes>) -> io::Result<Self> {
        Ok(Self {
            direction: Direction::thaw(hand, gait.bulk, engine, pipes)?,
            done: gait.done,
        })
    }
}

impl Pose {
    /// Whether one side has sent FIN, and the other goes on.
    pub fn is_half_closed(&self) -> bool {
        self.first_fin.is_some()
    }

    /// Whether it can be of a relay that goes on: nobody need believe what another process says.
    pub fn is_possible(&self) -> bool {
        match self.first_fin {
            None => !self.up.done && !self.down.done,
            Some(Side::Client) => self.up.done && !self.down.done,
            Some(Side::Backend) => self.down.done && !self.up.done,
        }
    }
}

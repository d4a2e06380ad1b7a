//! A relay whose backend has ended it before its first byte, taken apart: its client may go to
//! another backend, or it is put together again and goes on where it stood.

use std::sync::Arc;
use std::time::Instant;

use super::window::Window;
use super::{Clock, Exchange, Half, Observer};
use crate::config;
use crate::conn::core::{Core, Entry};
use crate::conn::replay::Trail;
use crate::net::Stream;

/// A relay without what it counts and shows. Dropping it resets both sides.
pub(in crate::conn) struct Parted {
    client: Stream,
    backend: Stream,
    settings: Arc<config::Pool>,
    up: Half,
    down: Half,
    keepalive_at: Option<Instant>,
    asked: Option<Instant>,
    window: Window,
}

impl<'a, O: Observer> Exchange<'a, O> {
    /// Takes a relay apart of which nobody has sent FIN, or whose FIN can be read again.
    pub(in crate::conn) fn part(self) -> (Box<Parted>, O) {
        let parted = Parted {
            client: self.client,
            backend: self.backend,
            settings: self.settings,
            up: self.up,
            down: self.down,
            keepalive_at: self.clock.keepalive_at(),
            asked: self.asked,
            window: self.window,
        };
        (Box::new(parted), self.observer)
    }

    /// Puts it together again, for good: it does not move on from here.
    pub(in crate::conn) fn join(
        parted: Box<Parted>,
        core: &'a Core,
        entry: &'a Entry,
        observer: O,
    ) -> Self {
        observer.settle();
        Self {
            client: parted.client,
            backend: parted.backend,
            core,
            entry,
            observer,
            up: parted.up,
            down: parted.down,
            first_fin: None,
            clock: Clock::new(core.timers(), parted.keepalive_at),
            asked: parted.asked,
            // What the early end shows of the backend was told when it came.
            lasts_at: None,
            window: Window::Shut,
            settings: parted.settings,
        }
    }
}

impl Parted {
    /// What the client has sent, and where it came from.
    pub(in crate::conn) fn take_kept(&mut self) -> (Vec<u8>, Option<Box<Trail>>) {
        std::mem::replace(&mut self.window, Window::Shut).take()
    }

    /// The client, to be watched.
    pub(in crate::conn) fn client(&self) -> &Stream {
        &self.client
    }

    /// The client alone: the backend is reset.
    pub(in crate::conn) fn into_client(self: Box<Self>) -> Stream {
        self.client
    }
}

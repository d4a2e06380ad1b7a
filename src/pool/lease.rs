//! A slot of a backend, held by one connection from the pick to its end.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::snapshot::Taken;
use super::{Backend, Pool};
use crate::config::LatencyOf;
use crate::log::Pick;
use crate::metrics::{ConnectFailure, Failure};
use crate::net::DialError;

/// A slot of a backend. Dropping it gives the slot back, whatever happened, and lets in who
/// waits for it.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    pick: Pick,
    connecting: bool,
    /// It tries a backend whose ejection has expired, and has shown nothing yet.
    trial: Cell<bool>,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, taken: Taken) -> Self {
        let Taken {
            backend,
            pick,
            trial,
        } = taken;
        backend.counters.here().total.add(1);
        if matches!(pick, Pick::Retry(_)) {
            backend.counters.here().retried.add(1);
        }
        Self {
            pool,
            backend,
            pick,
            connecting: true,
            trial: Cell::new(trial),
        }
    }

    /// The slot of a connection that came from another process, where it was picked and
    /// counted. It has it whatever the limits are. Where it was a trial, another connection is
    /// that one here.
    pub fn adopt(pool: Arc<Pool>, backend: Arc<Backend>, pick: Option<Pick>) -> Self {
        backend.adopt();
        Self {
            pool,
            backend,
            pick: pick.unwrap_or(Pick::Held),
            connecting: false,
            trial: Cell::new(false),
        }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The backend's pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Why this one.
    pub fn pick(&self) -> Pick {
        self.pick
    }

    /// The connect succeeded.
    pub fn connected(&mut self, took: Duration, now: Instant) {
        self.backend.connect_seconds.record(took);
        if self.pool.current.load().settings.latency.of == LatencyOf::Connect {
            self.backend.observe_latency(took, now);
        }
        self.backend.open_window();
        self.end_connect();
        self.pool.given_back();
    }

    /// The first byte came, so long after the first moment at which it could.
    pub fn answered(&self, took: Duration, now: Instant) {
        self.backend.first_byte_seconds.record(took);
        if self.pool.current.load().settings.latency.of == LatencyOf::FirstByte {
            self.backend.observe_latency(took, now);
        }
        self.succeeded(now);
    }

    /// It has been relayed for a second without a word of the backend's, which is well.
    pub fn lasted(&self, now: Instant) {
        self.succeeded(now);
    }

    /// The backend ended it before its first byte, and the client had sent nothing.
    pub fn ended_early(&self, how: Failure, now: Instant) {
        let reset = usize::from(how == Failure::EarlyReset);
        self.backend.counters.here().ended_early[reset].add(1);
        let what = match how {
            Failure::EarlyReset => "reset before its first byte",
            _ => "closed before its first byte",
        };
        self.went_wrong(&what, now);
    }

    /// Whether it matters that something goes well: else nobody need look.
    pub fn is_doubted(&self) -> bool {
        self.backend.conduct.is_doubted()
    }

    /// Whether it was a trial; it is none any more.
    pub(super) fn take_trial(&self) -> bool {
        self.trial.take()
    }

    fn succeeded(&self, now: Instant) {
        self.backend.conduct.succeed();
        if self.take_trial() {
            self.pool.trial_passed(&self.backend, now);
        }
    }

    fn went_wrong(&self, what: &dyn fmt::Display, now: Instant) {
        let trial = self.take_trial();
        self.pool.went_wrong(&self.backend, trial, what, now);
    }

    /// The connect failed; the slot is given back.
    pub fn failed(self, error: &DialError) {
        let counters = self.backend.counters.here();
        counters.connect_failures[reason(error) as usize].add(1);
        self.backend.rest();
        if !error.is_local() {
            counters.failed.add(1);
            self.backend.suspect();
            self.went_wrong(&format_args!("connect: {error}"), Instant::now());
        }
    }

    fn end_connect(&mut self) {
        if std::mem::take(&mut self.connecting) {
            self.backend.end_connect();
        }
    }
}

/// Under which word a failed connect is counted.
fn reason(error: &DialError) -> ConnectFailure {
    match error.reason() {
        "refused" => ConnectFailure::Refused,
        "timeout" => ConnectFailure::Timeout,
        "unreachable" => ConnectFailure::Unreachable,
        "reset" => ConnectFailure::Reset,
        "local" => ConnectFailure::LocalError,
        _ => ConnectFailure::Other,
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end_connect();
        if self.take_trial() {
            self.backend.conduct.give_back_trial();
        }
        self.backend.release();
        self.pool.given_back();
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn every_failed_connect_has_its_word() {
        let cases = [
            (Errno::CONNREFUSED, ConnectFailure::Refused),
            (Errno::TIMEDOUT, ConnectFailure::Timeout),
            (Errno::HOSTUNREACH, ConnectFailure::Unreachable),
            (Errno::NETUNREACH, ConnectFailure::Unreachable),
            (Errno::CONNRESET, ConnectFailure::Reset),
            (Errno::MFILE, ConnectFailure::LocalError),
            (Errno::ADDRNOTAVAIL, ConnectFailure::LocalError),
            (Errno::NOENT, ConnectFailure::Other),
        ];
        for (errno, expected) in cases {
            let error = DialError::from(io::Error::from(errno));
            assert_eq!(reason(&error), expected, "{errno}");
        }
        let timeout = DialError::Timeout(Duration::from_secs(1));
        assert_eq!(reason(&timeout), ConnectFailure::Timeout);
    }

    /// As while `/stats` or `/metrics` is answered, a check result is taken in, or an operator
    /// changes something.
    #[test]
    fn a_connection_waits_for_no_lock_of_the_control_plane() {
        let text = "[pool.web]\nbackends = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n\
                    [pool.web.health]\nkind = \"none\"\n";
        let loaded = crate::config::parse(text, "lb.toml", &|_| None).expect("a configuration");
        let pool = Pool::new(Arc::clone(&loaded.config.pools[0]), 1);
        let looking = pool.control.lock().expect("nobody panicked");
        let (done, served) = std::sync::mpsc::channel();
        let serving = Arc::clone(&pool);
        std::thread::spawn(move || {
            let client = crate::pool::Client::Unix(0);
            let attempt = crate::pool::Attempt::new(client);
            let mut lease = serving.acquire(&attempt).expect("a slot");
            lease.connected(Duration::ZERO, Instant::now());
            lease.answered(Duration::ZERO, Instant::now());
            drop(lease);
            let lease = serving.acquire(&attempt).expect("a slot");
            lease.failed(&DialError::from(io::Error::from(Errno::CONNREFUSED)));
            done.send(()).expect("somebody waits");
        });
        let served = served.recv_timeout(Duration::from_secs(20));
        drop(looking);
        served.expect("both connections were served");
    }
}

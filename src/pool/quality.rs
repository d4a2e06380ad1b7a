//! How well the network carries what is sent to a backend, by what the kernel knows of its live
//! connections: round-trip times, what had to be retransmitted, and how fast it delivers.
//!
//! Connections are [sampled](crate::conn::quality); what a sample adds comes in here. It comes a
//! few hundred times a second at most, so all cores share what it is counted in.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Backend;
use crate::metrics::Histogram;
use crate::metrics::histogram::{RATES, ROUND_TRIPS, STEP, WINDOW};
use crate::net::TcpInfo;

/// What the kernel has told of a backend's connections.
#[derive(Debug)]
pub struct Quality {
    /// The kernel tells of them, as they are TCP.
    is_tcp: bool,
    rtt: Histogram,
    delivery_rate: Histogram,
    past: Mutex<Past>,
}

/// What one sample of a connection adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The round-trip time, if it was measured since the sample before.
    pub rtt: Option<Duration>,
    /// In bytes per second, if it was measured since the sample before.
    pub delivery_rate: Option<u64>,
    /// What was sent since the sample before.
    pub sent: Sent,
}

/// Bytes as TCP sends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// All, retransmitted ones included.
    pub bytes: u64,
    /// Of those, what was not sent for the first time.
    pub retransmitted: u64,
}

/// What had been sent at some times, oldest first.
#[derive(Debug, Default)]
struct Past {
    steps: VecDeque<(Instant, Sent)>,
    /// By another process, whose place this one took: it is of no time that is known here.
    carried: Sent,
}

impl Sent {
    /// The part that was retransmitted; `None`: nothing was sent.
    pub fn share(self) -> Option<f64> {
        (self.bytes > 0).then(|| self.retransmitted as f64 / self.bytes as f64)
    }

    fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(before.bytes),
            retransmitted: self.retransmitted.saturating_sub(before.retransmitted),
        }
    }

    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.retransmitted += other.retransmitted;
    }
}

impl Quality {
    pub(super) fn new(is_tcp: bool) -> Self {
        Self {
            is_tcp,
            rtt: Histogram::rare(&ROUND_TRIPS),
            delivery_rate: Histogram::rare(&RATES),
            past: Mutex::default(),
        }
    }

    /// Smoothed round-trip times; `None`: the kernel tells of none, as of a Unix socket.
    pub fn rtt(&self) -> Option<&Histogram> {
        self.is_tcp.then_some(&self.rtt)
    }

    /// Delivery rates in bytes per second; `None`: the kernel tells of none.
    pub fn delivery_rate(&self) -> Option<&Histogram> {
        let told = self.is_tcp && TcpInfo::told().delivery_rate;
        told.then_some(&self.delivery_rate)
    }

    /// Both, whatever this kernel tells, for whoever carries them from one process to another.
    pub(crate) fn histograms(&self) -> [(&'static str, &Histogram); 2] {
        [("rtt", &self.rtt), ("delivery_rate", &self.delivery_rate)]
    }

    /// Moves the windows of the percentiles and of the share on; by now so much was `sent`.
    fn step(&self, sent: Sent, now: Instant) {
        self.rtt.step(now);
        self.delivery_rate.step(now);
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.step(sent, now);
    }

    /// Of what was `sent` by now, that of the last 60 s.
    fn recent(&self, sent: Sent, now: Instant) -> Sent {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        sent.since(past.before_window(now))
    }

    /// Another process has sent this: it is in the count from here on.
    pub(crate) fn carry(&self, sent: Sent) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.carry(sent);
    }
}

impl Past {
    fn step(&mut self, sent: Sent, now: Instant) {
        let last = self.steps.back();
        if sent == Sent::default() || last.is_some_and(|(at, _)| now < *at + STEP) {
            return;
        }
        self.steps.push_back((now, sent));
        while self.steps.len() > 1 && self.steps[1].0 + WINDOW <= now {
            self.steps.pop_front();
        }
    }

    fn before_window(&self, now: Instant) -> Sent {
        let mut steps = self.steps.iter().rev();
        let before = steps.find(|(at, _)| *at + WINDOW <= now);
        before.map_or(self.carried, |(_, sent)| *sent)
    }

    fn carry(&mut self, sent: Sent) {
        self.carried.add(sent);
        self.steps.iter_mut().for_each(|(_, at)| at.add(sent));
    }
}

impl Backend {
    /// A connection of its was sampled.
    pub fn sampled(&self, sample: &Sample) {
        if let Some(rtt) = sample.rtt {
            let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
            self.quality.rtt.record_rarely(micros);
        }
        if let Some(rate) = sample.delivery_rate {
            self.quality.delivery_rate.record_rarely(rate);
        }
        let counters = self.counters.here();
        counters.tcp_sent.add(sample.sent.bytes);
        counters.tcp_retransmitted.add(sample.sent.retransmitted);
    }

    /// What TCP has sent to it on connections that were sampled; `None`: the kernel does not tell.
    pub fn sent(&self) -> Option<Sent> {
        let told = self.quality.is_tcp && TcpInfo::told().retransmitted;
        told.then(|| self.counted())
    }

    /// The same of the last 60 s.
    pub fn sent_lately(&self, now: Instant) -> Option<Sent> {
        let sent = self.sent()?;
        Some(self.quality.recent(sent, now))
    }

    fn counted(&self) -> Sent {
        // What was retransmitted was sent: read in this order it is never more.
        let retransmitted = self.counters.sum(|cell| cell.tcp_retransmitted.value());
        let bytes = self.counters.sum(|cell| cell.tcp_sent.value());
        Sent {
            bytes,
            retransmitted,
        }
    }

    /// Moves the windows of all its percentiles on.
    pub(super) fn step(&self, now: Instant) {
        self.connect_seconds.step(now);
        self.first_byte_seconds.step(now);
        self.duration_seconds.step(now);
        self.quality.step(self.counted(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn backend(address: &str) -> Backend {
        let text = format!("[pool.web]\nbackends = [\"{address}\"]\n");
        let loaded = config::parse(&text, "lb.toml", &|_| None).expect("a configuration");
        let pool = &loaded.config.pools[0];
        Backend::new(&pool.backends[0], pool, 1, Instant::now())
    }

    fn sent(bytes: u64, retransmitted: u64) -> Sent {
        Sent {
            bytes,
            retransmitted,
        }
    }

    fn sample(bytes: u64, retransmitted: u64) -> Sample {
        Sample {
            rtt: Some(Duration::from_micros(300)),
            delivery_rate: None,
            sent: sent(bytes, retransmitted),
        }
    }

    #[test]
    fn a_sample_counts_for_what_it_knows() {
        let (backend, now) = (backend("127.0.0.1:1"), Instant::now());
        backend.sampled(&sample(1000, 10));
        backend.sampled(&Sample {
            delivery_rate: Some(5_000_000),
            ..Sample::default()
        });
        let rtt = backend.quality.rtt().expect("of TCP").summary(now);
        assert_eq!((rtt.count, rtt.max), (1, 0.0003));
        let rate = &backend.quality.delivery_rate.summary(now);
        assert_eq!((rate.count, rate.max), (1, 5e6));
        assert_eq!(backend.counted(), sent(1000, 10));
    }

    #[test]
    fn the_share_forgets_what_is_older_than_a_minute_and_the_counts_do_not() {
        let (backend, start) = (backend("127.0.0.1:1"), Instant::now());
        backend.sampled(&sample(1000, 500));
        for step in 0..8 {
            backend.step(start + STEP * step);
        }
        let now = start + STEP * 8;
        let lately = |backend: &Backend| backend.quality.recent(backend.counted(), now);
        assert_eq!(lately(&backend).share(), None);
        backend.sampled(&sample(1000, 20));
        assert_eq!(lately(&backend).share(), Some(0.02));
        assert_eq!(backend.counted(), sent(2000, 520));
    }

    #[test]
    fn what_another_process_sent_is_counted_and_is_no_part_of_the_last_minute() {
        let (backend, start) = (backend("127.0.0.1:1"), Instant::now());
        let carry = |n: u64| {
            backend.counters.here().tcp_sent.add(n);
            backend.quality.carry(sent(n, 0));
        };
        carry(10_000);
        backend.sampled(&sample(100, 1));
        backend.step(start);
        carry(10_000);
        let lately = |at: Instant| backend.quality.recent(backend.counted(), at);
        assert_eq!(lately(start), sent(100, 1));
        assert_eq!(lately(start + WINDOW), sent(0, 0));
        assert_eq!(backend.counted(), sent(20_100, 1));
    }

    #[test]
    fn a_unix_socket_has_nothing_of_all_that() {
        let backend = backend("unix:/run/b.sock");
        assert!(backend.quality.rtt().is_none());
        assert!(backend.quality.delivery_rate().is_none());
        assert!(backend.sent().is_none());
    }
}

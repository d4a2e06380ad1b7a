//! The open loop: messages leave on a clock, and latency counts from when they were due, so
//! that a stall is charged to every message it delays (coordinated omission, G. Tene).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::record::{Recorder, Sample};
use crate::tasks::all;
use crate::wire::{ECHO, receive, send};

/// Messages of `bytes`, `per_sec` in all, one stream after the other.
pub(crate) async fn paced(
    streams: &[Arc<TcpStream>],
    bytes: usize,
    per_sec: u32,
    time: Duration,
) -> io::Result<Sample> {
    let schedule = Schedule::new(per_sec, time);
    let recorder = Recorder::new();
    let readers = tokio::spawn(all(readers(streams, bytes, schedule, &recorder)));
    write(streams, bytes, schedule, &readers).await?;
    readers.await.map_err(io::Error::other)??;
    Ok(recorder.sample(schedule.start.elapsed()))
}

/// When each message is due.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    start: Instant,
    interval: Duration,
    messages: u32,
}

impl Schedule {
    fn new(per_sec: u32, time: Duration) -> Self {
        Self {
            start: Instant::now(),
            interval: Duration::from_secs(1) / per_sec,
            messages: (time.as_secs_f64() * f64::from(per_sec)) as u32,
        }
    }

    fn due(&self, message: u32) -> Instant {
        self.start + self.interval * message
    }
}

/// One reader for each stream; stream `i` of `n` carries messages `i`, `i + n`, `i + 2n`, …
fn readers(
    streams: &[Arc<TcpStream>],
    bytes: usize,
    schedule: Schedule,
    recorder: &Recorder,
) -> Vec<impl Future<Output = io::Result<()>> + Send + use<>> {
    let read = |(first, stream): (usize, &Arc<TcpStream>)| {
        let (stream, recorder, step) = (Arc::clone(stream), recorder.clone(), streams.len());
        async move {
            let mut answer = vec![0; bytes];
            for message in (first as u32..schedule.messages).step_by(step) {
                receive(&stream, &mut answer).await?;
                recorder.record(schedule.due(message).elapsed());
            }
            Ok(())
        }
    };
    streams.iter().enumerate().map(read).collect()
}

/// Sends what is due at each tick, and stops early when the readers have failed.
async fn write<T>(
    streams: &[Arc<TcpStream>],
    bytes: usize,
    schedule: Schedule,
    readers: &JoinHandle<T>,
) -> io::Result<()> {
    let ticker = Ticker::new(schedule.interval)?;
    let payload = vec![ECHO; bytes];
    let mut message = 0;
    while message < schedule.messages && !readers.is_finished() {
        while message < schedule.messages && schedule.due(message) <= Instant::now() {
            send(&streams[message as usize % streams.len()], &payload).await?;
            message += 1;
        }
        ticker.tick().await?;
    }
    Ok(())
}

/// A timerfd: tokio's own timer has steps of a millisecond, twenty messages here.
struct Ticker(AsyncFd<OwnedFd>);

impl Ticker {
    fn new(interval: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let interval = Timespec::try_from(interval).map_err(io::Error::other)?;
        let every = Itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every)?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe for types that lie about their descriptor; OwnedFd does not"
        )]
        AsyncFd::new(timer).map(Self)
    }

    async fn tick(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut expirations = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
            if let Ok(read) = read {
                return read.map(drop);
            }
        }
    }
}

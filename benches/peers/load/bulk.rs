//! Bulk one way. Every byte sent is waited for, so that the count is exact whatever the
//! proxy keeps in its buffers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};
use tokio::net::TcpStream;

use super::dial::Dialer;
use super::record::Sample;
use crate::tasks::all;
use crate::wire::{CHUNK, SINK, SOURCE, discard, receive, send};

/// As much as goes through `connections` new connections.
pub(crate) async fn bulk(
    dialer: &Dialer,
    connections: usize,
    direction: crate::workload::Direction,
    time: Duration,
) -> io::Result<Sample> {
    let streams = dialer.dial_many(connections).await?;
    let (total, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let flows = streams.into_iter().map(|stream| {
        let total = Arc::clone(&total);
        async move {
            let moved = match direction {
                crate::workload::Direction::Up => up(&stream, start, time).await?,
                crate::workload::Direction::Down => down(&stream, start, time).await?,
            };
            total.fetch_add(moved, Relaxed);
            Ok(())
        }
    });
    all(flows).await?;
    Ok(Sample {
        units: total.load(Relaxed) as f64 / 1e6,
        seconds: start.elapsed().as_secs_f64(),
        latency: None,
    })
}

async fn up(stream: &TcpStream, start: Instant, time: Duration) -> io::Result<u64> {
    let chunk = vec![SINK; CHUNK];
    let mut sent = 0;
    while start.elapsed() < time {
        send(stream, &chunk).await?;
        sent += CHUNK as u64;
    }
    shutdown(stream, Shutdown::Write)?;
    let mut arrived = [0; 8];
    receive(stream, &mut arrived).await?;
    match u64::from_le_bytes(arrived) {
        arrived if arrived == sent => Ok(sent),
        arrived => Err(io::Error::other(format!(
            "sent {sent} B, {arrived} arrived"
        ))),
    }
}

async fn down(stream: &TcpStream, start: Instant, time: Duration) -> io::Result<u64> {
    let mut scratch = vec![0; CHUNK];
    let mut received = 0;
    let mut sending = true;
    send(stream, &[SOURCE]).await?;
    loop {
        match discard(stream, &mut scratch).await? {
            0 if sending => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Ok(received),
            taken => received += taken as u64,
        }
        if sending && start.elapsed() >= time {
            sending = false;
            shutdown(stream, Shutdown::Write)?;
        }
    }
}

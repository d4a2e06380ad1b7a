//! Bulk one way. Every byte sent is waited for, so that the count is exact whatever the
//! proxy keeps in its buffers.
//!
//! Where the other end keeps up, a flow never has to wait; it yields now and then all the same,
//! here and in the backend, or one flow would starve the other seven.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;

use super::dial::Dialer;
use super::record::Sample;
use crate::tasks::all;
use crate::wire::{CHUNK, SINK, SOURCE, discard, receive, send};
use crate::workload::Direction;

/// As much as goes through `connections` new connections.
pub(crate) async fn bulk(
    dialer: &Dialer,
    connections: usize,
    direction: Direction,
    time: Duration,
) -> io::Result<Sample> {
    let streams = dialer.dial_many(connections).await?;
    let (total, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let flows = streams.into_iter().map(|stream| {
        let total = Arc::clone(&total);
        async move {
            let moved = match direction {
                Direction::Up => up(&stream, start, time).await?,
                Direction::Down => down(&stream, start, time).await?,
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
    // At least one chunk: the backend learns from it what to do.
    while sent == 0 || start.elapsed() < time {
        send(stream, &chunk).await?;
        sent += CHUNK as u64;
        consume_budget().await;
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
        consume_budget().await;
        if sending && start.elapsed() >= time {
            sending = false;
            shutdown(stream, Shutdown::Write)?;
        }
    }
}

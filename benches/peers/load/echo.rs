//! Closed loops: short connections, ping-pong, and connections that stay open.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::dial::Dialer;
use super::record::{Recorder, Sample};
use crate::tasks::all;
use crate::wire::{ECHO, receive, send};

/// Bytes of the one message that an idle connection has carried.
const IDLE_BYTES: usize = 64;

/// Opens, exchanges `bytes` and closes, `at_once` at a time; latency is connect to answer.
pub(crate) async fn short(
    dialer: &Arc<Dialer>,
    at_once: usize,
    bytes: usize,
    time: Duration,
) -> io::Result<Sample> {
    let (recorder, start) = (Recorder::new(), Instant::now());
    let loops = (0..at_once).map(|_| {
        let (dialer, recorder) = (Arc::clone(dialer), recorder.clone());
        async move {
            while start.elapsed() < time {
                let opened = Instant::now();
                let stream = dialer.dial().await?;
                exchange(&stream, &mut vec![ECHO; bytes]).await?;
                recorder.record(opened.elapsed());
            }
            Ok(())
        }
    });
    all(loops).await?;
    Ok(recorder.sample(start.elapsed()))
}

/// One message of `bytes` in flight on each stream.
pub(crate) async fn ping_pong(
    streams: &[Arc<TcpStream>],
    bytes: usize,
    time: Duration,
) -> io::Result<Sample> {
    let (recorder, start) = (Recorder::new(), Instant::now());
    let loops = streams.iter().map(|stream| {
        let (stream, recorder) = (Arc::clone(stream), recorder.clone());
        async move {
            let mut message = vec![ECHO; bytes];
            let mut sent = Instant::now();
            while sent.duration_since(start) < time {
                exchange(&stream, &mut message).await?;
                let answered = Instant::now();
                recorder.record(answered - sent);
                sent = answered;
            }
            Ok(())
        }
    });
    all(loops).await?;
    Ok(recorder.sample(start.elapsed()))
}

/// `count` connections, each of which has carried one message.
pub(crate) async fn open(dialer: &Dialer, count: usize) -> io::Result<(Vec<TcpStream>, Sample)> {
    let (recorder, start) = (Recorder::new(), Instant::now());
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let opened = Instant::now();
        let stream = dialer.dial().await?;
        exchange(&stream, &mut [ECHO; IDLE_BYTES]).await?;
        recorder.record(opened.elapsed());
        streams.push(stream);
    }
    Ok((streams, recorder.sample(start.elapsed())))
}

async fn exchange(stream: &TcpStream, message: &mut [u8]) -> io::Result<()> {
    send(stream, message).await?;
    receive(stream, message).await
}

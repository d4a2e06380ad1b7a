//! The `backend` role: one thread behind several addresses that echoes, swallows or sends.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustix::net::{Shutdown, shutdown};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::coop::consume_budget;

use crate::wire::{CHUNK, ECHO, SINK, SOURCE, discard, send};
use crate::{process, tasks};

/// Bytes that one echo takes: a whole message of the largest ping-pong.
const ECHO_BYTES: usize = 16 * 1024;
/// Connections that may wait for the single thread; the kernel caps it at `somaxconn`.
const BACKLOG: u32 = 4096;

/// Listens on `count` addresses, prints them on one line, serves until the parent ends.
pub(crate) fn run(count: usize) -> io::Result<()> {
    process::die_with_parent()?;
    tasks::single_threaded()?.block_on(async {
        let listeners = (0..count)
            .map(|_| listen())
            .collect::<io::Result<Vec<_>>>()?;
        announce(&listeners)?;
        let filler: Arc<[u8]> = vec![0; CHUNK].into();
        for listener in listeners {
            tokio::spawn(accept(listener, Arc::clone(&filler)));
        }
        std::future::pending().await
    })
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    socket.listen(BACKLOG)
}

fn announce(listeners: &[TcpListener]) -> io::Result<()> {
    let addresses = listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.to_string()))
        .collect::<io::Result<Vec<_>>>()?;
    writeln!(io::stdout(), "{}", addresses.join(","))
}

/// Accepts until the process ends. A failed accept is the client's failure, and shows there.
async fn accept(listener: TcpListener, filler: Arc<[u8]>) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&filler)));
        }
    }
}

/// One connection. How it ends is judged by the client, so errors are not looked at here.
async fn serve(stream: TcpStream, filler: Arc<[u8]>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    stream.readable().await?;
    stream.peek(&mut first).await?;
    match first[0] {
        ECHO => echo(&stream).await,
        SINK => sink(&stream).await,
        SOURCE => source(&stream, &filler).await,
        // A health check: it connects and leaves.
        _ => Ok(()),
    }
}

async fn echo(stream: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; ECHO_BYTES];
    loop {
        match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => send(stream, &buffer[..read]).await?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            Err(error) => return Err(error),
        }
    }
}

async fn sink(stream: &TcpStream) -> io::Result<()> {
    let mut scratch = vec![0; CHUNK];
    let mut total = 0_u64;
    loop {
        match discard(stream, &mut scratch).await? {
            0 => return send(stream, &total.to_le_bytes()).await,
            taken => total += taken as u64,
        }
        consume_budget().await;
    }
}

async fn source(stream: &TcpStream, filler: &[u8]) -> io::Result<()> {
    let mut request = [0; 16];
    while !matches!(stream.try_read(&mut request), Ok(0)) {
        send(stream, filler).await?;
        consume_budget().await;
    }
    Ok(shutdown(stream, Shutdown::Write)?)
}

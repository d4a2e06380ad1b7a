//! Exchange checks: some bytes out, and the expected bytes somewhere in what comes back.

use std::convert::Infallible;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::{Answer, End, ProbeError};
use super::tcp::Stream;

/// Bytes of an answer that are looked at.
const MAX_ANSWER: usize = 64 * 1024;

/// Sends `send` and reads until `expect` occurs; an empty one occurs in the first byte.
///
/// Both go on at once, so that a backend that answers before it reads, or does not read at
/// all, is heard. `heard` holds what has come so far, also when the future is dropped.
pub(super) async fn converse(
    stream: &mut Stream,
    send: &[u8],
    expect: &[u8],
    heard: &mut Vec<u8>,
) -> Result<(), ProbeError> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut unsent = None;
    let ended = tokio::select! {
        biased;
        never = say(&mut writer, send, &mut unsent) => match never {},
        ended = listen(&mut reader, expect, heard) => ended,
    };
    match ended {
        Ok(None) => Ok(()),
        Ok(Some(end)) if !heard.is_empty() => Err(mismatch(send, heard, end)),
        Err(_) if !heard.is_empty() => Err(mismatch(send, heard, End::Closed)),
        Ok(Some(_)) => Err(unsent.map_or(ProbeError::Closed, ProbeError::Broken)),
        Err(error) => Err(ProbeError::Broken(error)),
    }
}

/// What is to be said of an answer to `send` that did not hold what was expected.
pub(super) fn mismatch(send: &[u8], heard: &[u8], end: End) -> ProbeError {
    ProbeError::Mismatch {
        answer: Answer::new(send, heard),
        end,
    }
}

/// Never ends: whether the check passes is for the answer to say, also after a failed write.
async fn say(
    writer: &mut (impl AsyncWrite + Unpin),
    send: &[u8],
    unsent: &mut Option<io::Error>,
) -> Infallible {
    let sent = async {
        writer.write_all(send).await?;
        writer.flush().await
    };
    *unsent = sent.await.err();
    std::future::pending().await
}

/// `None`: `expect` occurred; else why no more is read.
async fn listen(
    reader: &mut (impl AsyncReadExt + Unpin),
    expect: &[u8],
    heard: &mut Vec<u8>,
) -> io::Result<Option<End>> {
    while heard.len() < MAX_ANSWER {
        let before = heard.len();
        let room = (MAX_ANSWER - before) as u64;
        let read = (&mut *reader).take(room).read_buf(heard).await;
        // A TLS peer that closes without close_notify has ended its answer all the same.
        if read.or_else(end_of_tls)? == 0 {
            return Ok(Some(End::Closed));
        }
        if occurs(expect, &heard[before.saturating_sub(expect.len())..]) {
            return Ok(None);
        }
    }
    Ok(Some(End::Limit))
}

fn end_of_tls(error: io::Error) -> io::Result<usize> {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Ok(0),
        _ => Err(error),
    }
}

fn occurs(expect: &[u8], text: &[u8]) -> bool {
    expect.is_empty() || text.windows(expect.len()).any(|window| window == expect)
}

//! Work that may block, such as reading a file, on a thread of its own.

use std::io;

use tokio::sync::oneshot;

/// Does `work` aside. (tokio's pool for such work panics where no thread is to be had.)
///
/// # Errors
/// No thread to be had, or it panicked.
///
/// # Cancel safety
/// Dropping the future leaves the work to itself, and drops what comes of it.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (reply, answer) = oneshot::channel();
    std::thread::Builder::new()
        .name("aside".into())
        .spawn(move || drop(reply.send(work())))?;
    let gone = |_| io::Error::other("a thread ended without an answer");
    answer.await.map_err(gone)
}

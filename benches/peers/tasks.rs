//! The little that clients and backends share of the runtime.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// One thread, so that the two ends take no more than a core each from the proxy.
pub(crate) fn single_threaded() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Runs all futures at once, each as a task; the first error ends the others.
pub(crate) async fn all<F>(futures: impl IntoIterator<Item = F>) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut tasks: JoinSet<_> = futures.into_iter().collect();
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(())
}

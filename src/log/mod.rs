//! Logs: what happened, and how each connection went.
//!
//! Whoever has something to say uses `tracing`; a data core hands over an [`Access`] for each
//! finished connection, a plain value. Both only push into one bounded queue. One thread
//! writes all of it, so a full disk, a stopped terminal or a collector that
//! is gone costs lines, which are counted, and never holds up traffic.
//!
//! | file | |
//! | --- | --- |
//! | `line`, `logfmt`, `json` | what a line looks like (pure) |
//! | `access`, `rejection`, `event`, `panic` | what is written |
//! | `journal` | the last events, for whoever watches |
//! | `reconfigure` | what a reload changes |
//! | `writer`, `sink`, `target` | the thread, its buffers, what they are in front of |
//! | `throttle` | no line more than once a second (pure) |

mod access;
mod event;
mod journal;
mod json;
mod line;
mod logfmt;
mod panic;
mod reconfigure;
mod rejection;
mod sample;
mod sink;
mod target;
mod throttle;
mod writer;

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{self, AccessSink, Level, LogFormat};
use crate::metrics::Rejected;
use crate::net::Address;

pub use access::{Access, Pick};
pub use journal::{Journal, Note};
pub use panic::{install_panic_hook, panics};
pub use reconfigure::Prepared;
pub use rejection::{Rejection, Rejections};
pub use sample::least_share;
pub use throttle::{SharedThrottle, Throttle};

use event::EventLayer;
use journal::JournalLayer;
use line::Format;
use reconfigure::{Dials, Written};
use sink::Sink;
use target::Target;
use writer::{Item, Queue, SinkName, Writer};

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.access_file` cannot be opened.
    #[error("access_file {}: cannot open it for writing", path.display())]
    AccessFile {
        /// As configured.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Standard error is closed, or the log's thread cannot be started.
    #[error("cannot start the log")]
    Start(#[source] io::Error),
    /// It can be set up only once in a process.
    #[error("the log is set up already")]
    Twice,
}

/// Sets up `tracing` for this process and starts the thread that writes.
///
/// Drop privileges before: the thread has those of the moment, and its files are opened again
/// with them.
///
/// # Errors
/// The access file cannot be opened, the thread cannot start, or it was called before.
pub fn init(config: &config::Log) -> Result<Handle, LogError> {
    let (queue, items) = Queue::new(sink_name(config));
    let format = stderr_format(config.format);
    let stderr = open_stderr(format, &queue)?;
    let access = open_access(config, &queue)?;
    let writer = Writer::new(items, &queue, stderr, access);
    start(writer)?;
    let layer = EventLayer::new(queue.clone(), format);
    let format = layer.format();
    let journal = Journal::default();
    let level = subscribe(config.level, layer, JournalLayer(journal.clone()))?;
    let dials = Some(Dials { level, format });
    Ok(Handle::new(config, queue, dials, journal))
}

/// The way to the log for whoever has more than events; clones share everything.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Queue,
    written: ArcSwap<Written>,
    /// What the events go by; `None`: they go elsewhere, as in a test.
    dials: Option<Dials>,
    journal: Journal,
}

/// Lines that were given up since the start, by sink: `log_lines_dropped_total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Of standard error; access lines too where they go there.
    pub stderr: u64,
    /// Of the access file or socket.
    pub access: u64,
}

impl Handle {
    fn new(config: &config::Log, queue: Queue, dials: Option<Dials>, journal: Journal) -> Self {
        Self(Arc::new(Shared {
            queue,
            written: ArcSwap::from_pointee(Written::of(config)),
            dials,
            journal,
        }))
    }

    /// The last events.
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// Whether access lines are written at all: `log.access`.
    pub fn access_enabled(&self) -> bool {
        self.0.written.load().access
    }

    /// Writes a finished connection, unless the configuration or the sample leaves it out.
    ///
    /// For data cores: no lock, no allocation, no system call but, for a line after a lull, the
    /// wake of the log's thread.
    pub fn access(&self, access: Access) {
        let written = self.0.written.load();
        if written.access && (!access.is_ordinary() || written.sample.takes(access.id)) {
            self.0.queue.push(Item::Access(access));
        }
    }

    /// Writes a refused connection, at most one a second for each listener and reason; nothing
    /// where `log.access` is off.
    ///
    /// For data cores, as [`access`](Self::access).
    pub fn rejected(
        &self,
        listener: &Rejections,
        client: &Address,
        reason: Rejected,
        now: Instant,
    ) {
        if self.access_enabled()
            && let Some(rejection) = listener.next(client, reason, now)
        {
            self.0.queue.push(Item::Rejection(rejection));
        }
    }

    /// Opens the access file again by its path, after what was pushed before is in the old one.
    ///
    /// Returns at once. Where the file cannot be opened the old one is kept, and the log says so.
    pub fn reopen(&self) {
        self.0.queue.reopen();
    }

    /// Waits until all that was pushed before is written or given up, at most `timeout`.
    ///
    /// False: it is not, as a sink is blocked.
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let (done, written) = sync_channel(0);
        if !self.0.queue.push_until(Item::Flush(done), deadline) {
            return false;
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        // The thread answers by letting go of its end.
        written.recv_timeout(rest) == Err(RecvTimeoutError::Disconnected)
    }

    /// Lines given up so far.
    pub fn dropped(&self) -> Dropped {
        let lost = |sink| self.0.queue.lost().of(sink).load(Relaxed);
        Dropped {
            stderr: lost(SinkName::Stderr),
            access: lost(SinkName::Access),
        }
    }
}

fn sink_name(config: &config::Log) -> SinkName {
    match config.access_sink {
        AccessSink::Stderr => SinkName::Stderr,
        AccessSink::File(_) | AccessSink::Datagram(_) => SinkName::Access,
    }
}

fn stderr_format(format: LogFormat) -> Format {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match format {
        LogFormat::Json => Format::Json,
        LogFormat::Text => Format::Text {
            colour: wanted && io::stderr().is_terminal(),
        },
    }
}

fn open_stderr(format: Format, queue: &Queue) -> Result<Sink, LogError> {
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let target = stderr.and_then(Target::stream).map_err(LogError::Start)?;
    let lost = Arc::clone(queue.lost().of(SinkName::Stderr));
    Ok(Sink::new(target, format, lost))
}

fn open_access(config: &config::Log, queue: &Queue) -> Result<Option<Sink>, LogError> {
    let target = match &config.access_sink {
        AccessSink::Stderr => return Ok(None),
        AccessSink::Datagram(path) => Target::datagram(path),
        AccessSink::File(path) => Target::file(path).map_err(|source| LogError::AccessFile {
            path: path.clone(),
            source,
        })?,
    };
    let lost = Arc::clone(queue.lost().of(SinkName::Access));
    Ok(Some(Sink::new(target, access_format(config.format), lost)))
}

fn access_format(format: LogFormat) -> Format {
    match format {
        LogFormat::Text => Format::Text { colour: false },
        LogFormat::Json => Format::Json,
    }
}

fn start(writer: Writer) -> Result<(), LogError> {
    std::thread::Builder::new()
        .name("log".into())
        .spawn(|| writer.run())
        .map(drop)
        .map_err(LogError::Start)
}

fn subscribe(
    level: Level,
    layer: EventLayer,
    journal: JournalLayer,
) -> Result<reconfigure::Level, LogError> {
    let wanted = std::env::var_os("RUST_LOG").map(|value| value.to_string_lossy().into_owned());
    let (filter, problem) = filter(level, wanted.as_deref());
    let (filter, level) = tracing_subscriber::reload::Layer::new(filter);
    // Each has a filter of its own: what is noted does not depend on the level of the log.
    let subscriber = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .with(journal.with_filter(filter_fn(JournalLayer::wants)));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    if let Some(error) = problem {
        tracing::warn!(error, "RUST_LOG is invalid, log.level holds");
    }
    Ok(level)
}

/// What `RUST_LOG` wants, else what the file says; and what is wrong with `RUST_LOG`.
fn filter(level: Level, wanted: Option<&str>) -> (EnvFilter, Option<String>) {
    match wanted
        .filter(|wanted| !wanted.is_empty())
        .map(EnvFilter::try_new)
    {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(directives(level)), Some(error.to_string())),
        None => (EnvFilter::new(directives(level)), None),
    }
}

/// Libraries below `warn` speak of their own insides. Who changed what is written whatever the
/// level is.
fn directives(level: Level) -> &'static str {
    match level {
        Level::Error => "error,isobar::audit=info,hickory_net=off,hickory_resolver=off",
        Level::Warn => "warn,isobar::audit=info,hickory_net=off,hickory_resolver=off",
        Level::Info => "warn,isobar=info,hickory_net=off,hickory_resolver=off",
        Level::Debug => "warn,isobar=debug,hickory_net=off,hickory_resolver=off",
        Level::Trace => "warn,isobar=trace,hickory_net=off,hickory_resolver=off",
    }
}

#[cfg(test)]
mod tests;

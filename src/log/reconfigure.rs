//! What a reload changes of the log: level, format, what is written of connections, and where.
//!
//! What can fail, opening a file, comes first and changes nothing; the rest cannot fail.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::line::Format;
use super::sample::Sample;
use super::sink::Sink;
use super::writer::{Item, SinkName};
use super::{Handle, LogError, access_format, filter, open_access, sink_name, stderr_format};
use crate::config;

/// The level of events, which can be turned.
pub(super) type Level = reload::Handle<EnvFilter, Registry>;

/// What events go by.
#[derive(Debug)]
pub(super) struct Dials {
    pub(super) level: Level,
    pub(super) format: Arc<ArcSwap<Format>>,
}

/// What is written of connections.
#[derive(Debug)]
pub(super) struct Written {
    /// `log.access`.
    pub(super) access: bool,
    pub(super) sample: Sample,
}

impl Written {
    pub(super) fn of(config: &config::Log) -> Self {
        Self {
            access: config.access,
            sample: Sample::new(config.access_sample),
        }
    }
}

/// A change of the log that cannot fail any more.
#[derive(Debug)]
pub struct Prepared {
    config: config::Log,
    sinks: Sinks,
}

/// What the thread that writes is to go on with.
pub(super) struct Sinks {
    pub(super) stderr: Format,
    pub(super) access: Format,
    /// Where access lines go; `None`: where they went.
    pub(super) instead: Option<Instead>,
}

/// The new sink of access lines; `None`: standard error.
pub(super) struct Instead {
    pub(super) sink: Option<Sink>,
    pub(super) name: SinkName,
}

impl std::fmt::Debug for Sinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sinks")
            .field("stderr", &self.stderr)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// Prepares the change from `old` to `new`: opens the new access file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn prepare(&self, old: &config::Log, new: &config::Log) -> Result<Prepared, LogError> {
        let instead = match old.access_sink == new.access_sink {
            true => None,
            false => Some(Instead {
                sink: open_access(new, &self.0.queue)?,
                name: sink_name(new),
            }),
        };
        Ok(Prepared {
            config: new.clone(),
            sinks: Sinks {
                stderr: stderr_format(new.format),
                access: access_format(new.format),
                instead,
            },
        })
    }

    /// Makes a prepared change. `RUST_LOG`, where it is set, goes on to override the level.
    pub fn reconfigure(&self, prepared: Prepared) {
        let Prepared { config, sinks } = prepared;
        self.0.written.store(Arc::new(Written::of(&config)));
        if let Some(Dials { level, format }) = &self.0.dials {
            let wanted = std::env::var_os("RUST_LOG").map(|v| v.to_string_lossy().into_owned());
            // It fails only if the subscriber is gone, and that is the process's.
            let _ = level.reload(filter(config.level, wanted.as_deref()).0);
            format.store(Arc::new(sinks.stderr));
        }
        self.0.queue.configure(sinks);
    }
}

impl Sinks {
    /// This change after one that the thread has not seen yet.
    pub(super) fn after(self, earlier: Option<Self>) -> Self {
        Self {
            instead: self.instead.or(earlier.and_then(|sinks| sinks.instead)),
            ..self
        }
    }
}

impl super::writer::Queue {
    /// Has the thread go on with other sinks, behind what was pushed before. A full queue costs
    /// that order, not the change.
    fn configure(&self, sinks: Sinks) {
        self.change(sinks);
        self.push(Item::Configure);
    }
}

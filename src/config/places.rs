//! Where the keys stand that only this machine can judge: files to open, a user, limits.
//!
//! What is wrong with them is found after the file was read; it is told at its place all the
//! same.

use std::collections::HashMap;

use super::build::{self, File};
use super::faults::{Problem, Severity};
use super::source::{self, Source};
use super::sources;
use super::value::{At, Value};

/// A key of a configuration that has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyPath<'a> {
    /// `admin.bind`.
    AdminBind,
    /// `runtime.user`.
    User,
    /// `runtime.threads`.
    Threads,
    /// `runtime.max_connections`.
    MaxConnections,
    /// `log.access_file`.
    AccessFile,
    /// `bind` of this listener.
    Bind(&'a str),
    /// `backlog` of this listener.
    Backlog(&'a str),
    /// `max_connections` of this listener.
    ListenerMaxConnections(&'a str),
    /// `max_connections` of the backend of this pool with this index, from 0.
    BackendMaxConnections(&'a str, usize),
    /// `relay` of this pool.
    Relay(&'a str),
    /// `source_address` of this pool.
    SourceAddress(&'a str),
    /// `health.ca` of this pool.
    Ca(&'a str),
}

impl std::fmt::Display for KeyPath<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AdminBind => f.write_str("admin.bind"),
            Self::User => f.write_str("runtime.user"),
            Self::Threads => f.write_str("runtime.threads"),
            Self::MaxConnections => f.write_str("runtime.max_connections"),
            Self::AccessFile => f.write_str("log.access_file"),
            Self::Bind(name) => write!(f, "listener.{name}.bind"),
            Self::Backlog(name) => write!(f, "listener.{name}.backlog"),
            Self::ListenerMaxConnections(name) => write!(f, "listener.{name}.max_connections"),
            Self::BackendMaxConnections(pool, index) => {
                write!(f, "pool.{pool}.backends[{index}].max_connections")
            }
            Self::Relay(name) => write!(f, "pool.{name}.relay"),
            Self::SourceAddress(name) => write!(f, "pool.{name}.source_address"),
            Self::Ca(name) => write!(f, "pool.{name}.health.ca"),
        }
    }
}

/// The places of the keys that are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Places {
    file: String,
    keys: HashMap<String, Place>,
}

#[derive(Clone, Debug, PartialEq)]
struct Place {
    /// A warning without a message.
    blank: Problem,
    /// The text as written where it came from the environment.
    written: Option<Box<str>>,
}

impl Places {
    /// Those of a file without faults.
    pub(super) fn new(file: &File<'_>, source: &Source<'_>) -> Self {
        let mut places = Self {
            file: source.file().to_owned(),
            keys: HashMap::new(),
        };
        let runtime = file.root.sub("runtime");
        let mut note = |key: KeyPath<'_>, at: Option<&At<Value>>| {
            places.note(key, at, source, &mut source.places());
        };
        note(KeyPath::User, runtime.own("user"));
        note(KeyPath::Threads, runtime.own("threads"));
        note(KeyPath::MaxConnections, runtime.own("max_connections"));
        let admin = file.root.sub("admin");
        note(KeyPath::AdminBind, admin.own("bind"));
        let log = file.root.sub("log");
        note(KeyPath::AccessFile, log.own("access_file"));
        for listener in &file.listeners {
            let (name, scope) = (listener.name, &listener.scope);
            note(KeyPath::Bind(name), scope.own("bind"));
            note(KeyPath::Backlog(name), scope.own("backlog"));
            let key = KeyPath::ListenerMaxConnections(name);
            note(key, scope.own("max_connections"));
        }
        for pool in &file.pools {
            note(KeyPath::Relay(pool.name), pool.scope.written("relay"));
            let sources = pool.scope.written(sources::KEY);
            note(KeyPath::SourceAddress(pool.name), sources);
            let health = pool.scope.sub("health");
            note(KeyPath::Ca(pool.name), health.written("ca"));
        }
        for pool in &file.pools {
            // Ten thousand of them may stand on one line, in this order.
            let mut cursor = source.places();
            for (index, (backend, _)) in build::backends(&pool.scope).enumerate() {
                let key = KeyPath::BackendMaxConnections(pool.name, index);
                places.note(key, backend.own("max_connections"), source, &mut cursor);
            }
        }
        places
    }

    fn note(
        &mut self,
        key: KeyPath<'_>,
        at: Option<&At<Value>>,
        source: &Source<'_>,
        cursor: &mut source::Places<'_>,
    ) {
        let Some(at) = at else { return };
        let place = Place {
            blank: Problem::at(source, cursor, at.span.clone()),
            written: at.written.clone(),
        };
        self.keys.insert(key.to_string(), place);
    }

    /// A problem where a key stands; of the whole file where it is a default.
    pub(super) fn problem(&self, key: KeyPath<'_>, severity: Severity, message: String) -> Problem {
        let place = self.keys.get(&key.to_string());
        let mut problem =
            place.map_or_else(|| Problem::of_file(&*self.file, ""), |p| p.blank.clone());
        problem.severity = severity;
        problem.message = message;
        problem
    }

    /// What a message may say instead of the value of a key.
    pub(super) fn shown<'a>(&'a self, key: KeyPath<'_>, value: &'a str) -> &'a str {
        let written = self.keys.get(&key.to_string());
        let written = written.and_then(|place| place.written.as_deref());
        written.unwrap_or(value)
    }
}

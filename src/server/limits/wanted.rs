//! How many connections a file asks for, in so many words.
//!
//! A file that names no number asks for none: it takes what the descriptors allow, and what
//! else is below that is no fault of it.

use crate::config::{Config, KeyPath, Listener};

/// Connections at once that a file asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'c> {
    pub(super) connections: usize,
    /// The key that says so; of several the last.
    pub(super) key: KeyPath<'c>,
    /// What says so, as the subject of a sentence.
    pub(super) subject: String,
}

impl<'c> Wanted<'c> {
    /// Of the whole process.
    pub(super) fn of_process(config: &'c Config) -> Option<Self> {
        let all = config.listeners.iter();
        Self::of_listeners(config, all.map(|listener| &**listener).collect())
    }

    /// Of what comes by these listeners, within the limit of the process. A listener without a
    /// limit may take all of that; without that either, the others say how much it is at least.
    fn of_listeners(config: &'c Config, listeners: Vec<&'c Listener>) -> Option<Self> {
        let process = Self::process(config);
        let all_limited = listeners.iter().all(|l| l.max_connections > 0);
        let listed = Self::sum(listeners);
        match (process, listed) {
            (Some(process), Some(listed)) => {
                let is_listed = all_limited && listed.connections < process.connections;
                Some(if is_listed { listed } else { process })
            }
            (process, listed) => process.or(listed),
        }
    }

    /// Of the clients of one pool that come to it first, not as to a fallback.
    pub(super) fn of_pool(config: &'c Config, pool: &str) -> Option<Self> {
        let leads_there = |listener: &&'c Listener| listener.leads_to().any(|name| **name == *pool);
        let all = config.listeners.iter().map(|listener| &**listener);
        let listeners: Vec<_> = all.filter(leads_there).collect();
        if listeners.is_empty() {
            return None;
        }
        Self::of_listeners(config, listeners)
    }

    fn process(config: &Config) -> Option<Self> {
        let connections = config.runtime.max_connections;
        (connections > 0).then(|| Self {
            connections,
            key: KeyPath::MaxConnections,
            subject: format!("runtime.max_connections = {connections}"),
        })
    }

    fn sum(listeners: Vec<&'c Listener>) -> Option<Self> {
        let limited = listeners.into_iter().filter(|l| l.max_connections > 0);
        let limited: Vec<_> = limited.collect();
        let connections = limited.iter().fold(0, |sum: usize, listener| {
            sum.saturating_add(listener.max_connections)
        });
        let last = limited.last()?;
        let name = &last.name;
        let subject = match limited.len() {
            1 => format!("listener.{name}.max_connections = {connections}"),
            _ => format!("max_connections of listeners, {connections} together,"),
        };
        Some(Self {
            connections,
            key: KeyPath::ListenerMaxConnections(name),
            subject,
        })
    }
}

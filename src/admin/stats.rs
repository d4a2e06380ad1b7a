//! `GET /stats`: everything that is counted, and what state everything is in.
//!
//! The structures are the format: fields may be added, none is renamed. Every state and every
//! reason is always there. The whole answer is built before the first byte is sent, so no lock
//! is held while a slow client reads.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::history::Transition;
use super::rebalance::Progress;
use super::words::{At, Seconds, Table};
use super::{Configured, Running};
use crate::listener::{Listener, Listening};
use crate::metrics::histogram::Summary;
use crate::metrics::{Counter, Ended, ListenerCounters, PerCore, Rejected, Replayed};
use crate::net::{Address, Location};
use crate::pool::overrides::Override;
use crate::pool::{
    Backend, BackendCounters, BackendView, CheckResult, Overview, Pool, PoolCounters, State,
};

/// Entries of a backend's history that are shown here.
const LAST_TRANSITIONS: usize = 3;

/// The whole answer.
#[derive(Debug, Serialize)]
pub(super) struct Stats {
    version: &'static str,
    pid: u32,
    started_at: At,
    uptime_seconds: Seconds,
    config: Config,
    /// Runtime changes.
    overrides: Vec<Override>,
    generations: Vec<Generation>,
    connections: Process,
    listeners: Table<Arc<str>, ListenerStats>,
    pools: Table<Arc<str>, PoolStats>,
}

#[derive(Debug, Serialize)]
struct Config {
    path: String,
    generation: u64,
    loaded_at: At,
    /// Of the endpoint, so that nobody is offered what it would refuse.
    read_only: bool,
    last_reload: LastReload,
}

#[derive(Debug, Serialize)]
struct LastReload {
    ok: bool,
    at: At,
    error: Option<String>,
    pending_restart: Vec<String>,
}

/// A process that has connections of this balancer.
#[derive(Debug, Serialize)]
struct Generation {
    pid: u32,
    active: u64,
    since: At,
}

#[derive(Debug, Serialize)]
struct Process {
    active: u64,
    total: u64,
    limit: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Connections {
    active: u64,
    total: u64,
}

#[derive(Debug, Serialize)]
struct ListenerStats {
    addresses: Vec<Address>,
    pool: Option<Arc<str>>,
    accepting: bool,
    connections: Connections,
    rejected: Table<Rejected, u64>,
    ended: Table<Ended, u64>,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Debug, Serialize)]
struct PoolStats {
    balance: &'static str,
    held: usize,
    held_total: u64,
    /// New connections are held.
    paused: bool,
    /// When that ends by itself; null: it does not, or is not so.
    paused_until: Option<At>,
    /// The rebalance that goes on.
    rebalancing: Option<Progress>,
    connections: Connections,
    bytes_in: u64,
    bytes_out: u64,
    ended: Table<Ended, u64>,
    /// Connections that a backend of it ended before its first byte.
    replays: Table<Replayed, u64>,
    backends: Table<Arc<str>, BackendStats>,
}

#[derive(Debug, Serialize)]
pub(super) struct BackendStats {
    address: Location,
    state: State,
    admin: &'static str,
    checks: &'static str,
    ejected_until: Option<At>,
    /// Since it takes no new connections because somebody wants it so; null: it does.
    leaving: Option<Leaving>,
    weight: u32,
    effective_weight: f64,
    backup: bool,
    connections: BackendConnections,
    bytes_in: u64,
    bytes_out: u64,
    connect_seconds: Summary,
    first_byte_seconds: Summary,
    duration_seconds: Summary,
    /// Round-trip times of live connections; null: the kernel does not tell, as of a Unix socket.
    rtt_seconds: Option<Summary>,
    /// How fast the network delivers to it, in bytes per second; null as above.
    delivery_rate: Option<Summary>,
    /// What had to be sent again; null as above.
    retransmitted: Option<Retransmitted>,
    health: Health,
}

/// What TCP has sent to a backend, of connections that were sampled.
#[derive(Debug, Serialize)]
struct Retransmitted {
    /// Since the start, retransmitted ones included.
    sent_bytes: u64,
    /// Since the start.
    retransmitted_bytes: u64,
    /// Of the last 60 s, from 0 to 1; null: nothing was sent.
    share: Option<f64>,
}

/// The time that is left to the connections of a backend that takes no new ones.
#[derive(Debug, Serialize)]
struct Leaving {
    since: At,
    /// When those that are left are reset; null: they may go on.
    until: Option<At>,
    /// How many were.
    reset: u64,
}

#[derive(Debug, Serialize)]
struct BackendConnections {
    active: u32,
    total: u64,
    limit: u32,
    connecting: u32,
    failed: u64,
    retried: u64,
}

#[derive(Debug, Serialize)]
struct Health {
    kind: &'static str,
    last_at: Option<At>,
    last_ok: Option<bool>,
    last_error: Option<String>,
    latency_seconds: Option<Seconds>,
    since: At,
    transitions: u64,
    passes_needed: u32,
    history: Vec<Transition>,
}

impl Stats {
    /// Of this moment.
    pub(super) fn of(running: &Running) -> Self {
        let pid = std::process::id();
        let now = Instant::now();
        let limited = running.admission.gate.is_paused();
        let configured = running.configured();
        let open = configured.listeners.iter();
        let open = open.map(|open| of_listener(&open.listener, Some(open), limited));
        let leaving = configured.leaving.listeners.iter();
        let leaving = leaving.map(|gone| of_listener(gone, None, limited));
        let listeners: Table<_, _> = open.chain(leaving).collect();
        let pools = configured.every_pool();
        let process = Process::sum(&listeners, running.admission.gate.limit());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            pid,
            started_at: At(running.started_at),
            uptime_seconds: Seconds(now.saturating_duration_since(running.started)),
            config: Config::of(running, &configured),
            overrides: configured.overrides().iter().cloned().collect(),
            generations: generations(running, pid, process.active),
            connections: process,
            listeners,
            pools: pools
                .map(|pool| (Arc::clone(&pool.name), of_pool(pool, now)))
                .collect(),
        }
    }
}

/// This process, and behind it the one whose place it took, as long as that has connections:
/// they are part of everything that is counted here.
fn generations(running: &Running, pid: u32, active: u64) -> Vec<Generation> {
    let elder = running.upgrading.elder();
    let elsewhere = elder.map_or(0, |elder| elder.active);
    let own = Generation {
        pid,
        active: active.saturating_sub(elsewhere),
        since: At(running.started_at),
    };
    let elder = elder.map(|elder| Generation {
        pid: elder.pid,
        active: elder.active,
        since: At(elder.since),
    });
    std::iter::once(own).chain(elder).collect()
}

impl Config {
    fn of(running: &Running, configured: &Configured) -> Self {
        let last = running.last_reload();
        Self {
            path: running.path.display().to_string(),
            generation: configured.generation,
            loaded_at: At(configured.loaded_at),
            read_only: configured.file.config.admin.read_only,
            last_reload: LastReload {
                ok: last.error.is_none(),
                at: At(last.at),
                error: last.error.clone(),
                pending_restart: last.pending_restart.clone(),
            },
        }
    }
}

impl Process {
    fn sum(listeners: &Table<Arc<str>, ListenerStats>, limit: usize) -> Self {
        let each = || listeners.values().map(|listener| listener.connections);
        Self {
            active: each().map(|connections| connections.active).sum(),
            total: each().map(|connections| connections.total).sum(),
            limit,
        }
    }
}

/// One count for each word, in the order of the words.
fn by_word<T: Copy, C>(
    words: &[T],
    cells: &PerCore<C>,
    count: impl Fn(&C, usize) -> &Counter,
) -> Table<T, u64> {
    let counted = words.iter().enumerate();
    counted
        .map(|(index, word)| (*word, cells.sum(|cell| count(cell, index).value())))
        .collect()
}

/// `open`: it has not left the file.
fn of_listener(
    listener: &Listener,
    open: Option<&Listening>,
    limited: bool,
) -> (Arc<str>, ListenerStats) {
    let counters: &PerCore<ListenerCounters> = &listener.origin.counters;
    // What left is read first, and `active` is what is left of the total: so they add up in
    // every answer, while connections come and go.
    let rejected = by_word(Rejected::ALL, counters, |cell, index| &cell.rejected[index]);
    let ended = by_word(Ended::ALL, counters, |cell, index| &cell.ended[index]);
    let left: u64 = rejected.values().chain(ended.values()).sum();
    let total = counters.sum(|cell| cell.total.value()).max(left);
    let addresses = open.map(|open| open.addresses().cloned().collect());
    let stats = ListenerStats {
        addresses: addresses.unwrap_or_default(),
        pool: listener.settings.pool.clone(),
        accepting: open.is_some_and(Listening::is_accepting) && !limited,
        connections: Connections {
            active: total - left,
            total,
        },
        rejected,
        ended,
        bytes_in: counters.sum(|cell| cell.bytes_in.value()),
        bytes_out: counters.sum(|cell| cell.bytes_out.value()),
    };
    (Arc::clone(&listener.origin.name), stats)
}

fn of_pool(pool: &Arc<Pool>, now: Instant) -> PoolStats {
    let settings = pool.settings();
    let paused = pool.overrides().paused(&pool.name);
    let Overview {
        backends, others, ..
    } = pool.overview();
    let backends: Table<_, _> = backends
        .into_iter()
        .map(|view| {
            (
                Arc::clone(&view.backend.name),
                of_backend(view, &settings, now),
            )
        })
        .collect();
    let counters: &PerCore<PoolCounters> = &pool.counters;
    let ended = by_word(Ended::ALL, counters, |cell, index| &cell.ended[index]);
    let replays = by_word(Replayed::ALL, counters, |cell, index| &cell.replays[index]);
    PoolStats {
        balance: settings.balance.as_str(),
        held: pool.held_in_all(),
        held_total: counters.sum(|cell| cell.held.value()),
        paused: paused.is_some(),
        paused_until: paused.flatten().map(At),
        rebalancing: Progress::going_on(pool),
        connections: of_pool_connections(counters, ended.values().sum()),
        bytes_in: others.into + backends.values().map(|b| b.bytes_in).sum::<u64>(),
        bytes_out: others.out + backends.values().map(|b| b.bytes_out).sum::<u64>(),
        ended,
        replays,
        backends,
    }
}

/// Connections that a fallback took over belong to the fallback, to it alone.
fn of_pool_connections(counters: &PerCore<PoolCounters>, ended: u64) -> Connections {
    let moved = counters.sum(|cell| cell.moved.value());
    let total = counters
        .sum(|cell| cell.total.value())
        .saturating_sub(moved);
    let total = total.max(ended);
    Connections {
        active: total - ended,
        total,
    }
}

pub(super) fn of_backend(
    view: BackendView,
    pool: &crate::config::Pool,
    now: Instant,
) -> BackendStats {
    let backend = &view.backend;
    let sum =
        |count: fn(&BackendCounters) -> &Counter| backend.counters.sum(|cell| count(cell).value());
    BackendStats {
        address: backend.location.clone(),
        state: view.state,
        admin: view.admin.as_str(),
        checks: view.checks.as_str(),
        ejected_until: view.ejected_until.map(At),
        leaving: view.leaving.map(|leaving| Leaving {
            since: At(leaving.since),
            until: leaving.until.map(At),
            reset: leaving.reset,
        }),
        weight: view.settings.weight,
        effective_weight: view.effective_weight,
        backup: view.settings.backup,
        connections: BackendConnections {
            active: backend.active(),
            total: sum(|cell| &cell.total),
            limit: backend.limit(),
            connecting: backend.connecting(),
            failed: sum(|cell| &cell.failed),
            retried: sum(|cell| &cell.retried),
        },
        bytes_in: sum(|cell| &cell.bytes_in),
        bytes_out: sum(|cell| &cell.bytes_out),
        connect_seconds: backend.connect_seconds.summary(now),
        first_byte_seconds: backend.first_byte_seconds.summary(now),
        duration_seconds: backend.duration_seconds.summary(now),
        rtt_seconds: backend.quality.rtt().map(|rtt| rtt.summary(now)),
        delivery_rate: backend
            .quality
            .delivery_rate()
            .map(|rate| rate.summary(now)),
        retransmitted: Retransmitted::of(backend, now),
        health: Health::of(view, pool),
    }
}

impl Retransmitted {
    fn of(backend: &Backend, now: Instant) -> Option<Self> {
        // In this order, so that what is of the last 60 s is no more than all.
        let lately = backend.sent_lately(now)?;
        let sent = backend.sent()?;
        Some(Self {
            sent_bytes: sent.bytes,
            retransmitted_bytes: sent.retransmitted,
            share: lately.share(),
        })
    }
}

impl Health {
    fn of(view: BackendView, pool: &crate::config::Pool) -> Self {
        let last = view.last_check.as_ref();
        let shown = view.history.len().saturating_sub(LAST_TRANSITIONS);
        Self {
            kind: pool.health.kind.as_str(),
            last_at: last.map(|check| At(check.at)),
            last_ok: last.map(CheckResult::passed),
            last_error: last.and_then(|check| check.error.clone()),
            latency_seconds: last.map(|check| Seconds(check.took)),
            since: At(view.since),
            transitions: view.transitions,
            passes_needed: view.passes_needed,
            history: view.history[shown..].iter().map(Transition::of).collect(),
        }
    }
}

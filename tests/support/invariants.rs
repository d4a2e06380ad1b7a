//! What is true after every case, once all its connections are closed: nothing leaks, nothing
//! spins, and the counts add up to what the peers saw.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use procfs::net::TcpState;
use serde_json::Value;

use super::deadline::{scaled, wait_until};
use super::isobar::{Isobar, samples};
use super::process::{Descriptors, Process};
use super::tally::{self, Tally};

/// Clean pipes that the cores may keep for later, both ends counted.
const POOLED_PIPE_ENDS: usize = 256;

/// Share of a core that an idle process may use.
const IDLE_SHARE: f64 = 0.02;

/// CPU time that one health check may take, of a debug build on a slow machine.
const CHECK: Duration = Duration::from_millis(1);

/// Long enough that a spin cannot hide, short enough to be paid after every case.
const WINDOW: Duration = Duration::from_millis(150);

/// By then everything that belongs to closed connections is given back.
const SETTLE: Duration = Duration::from_secs(4);

/// What a process had open when it was ready and idle.
#[derive(Clone, Copy, Debug)]
pub struct Baseline(Descriptors);

impl Baseline {
    /// Of now: the least of a few looks, as a check may be under way.
    pub fn of(process: Process) -> Self {
        let look = |_| process.descriptors();
        let least = (0..3).map(look).min_by_key(|open| open.others);
        Self(least.expect("three looks"))
    }
}

/// Asserts all of them. `clients` is what the clients counted, if bytes are to be compared.
#[track_caller]
pub fn check(isobar: &Isobar, baseline: Baseline, clients: Option<&Tally>) {
    let process = isobar.process();
    assert!(process.is_alive(), "isobar is gone");
    if isobar.has_admin() {
        settle("gauges back at zero", || gauges(isobar));
        let departed = isobar.has_departed();
        settle("counts that add up", || sums(&isobar.stats(), departed));
        settle("no fault of isobar but injected ones", || faults(isobar));
        settle("bytes as the peers counted", || match departed {
            true => Ok(()),
            false => bytes(&isobar.stats(), clients, isobar.has_removed()),
        });
    }
    settle("no descriptor leaked", || descriptors(process, baseline));
    settle("no socket left behind", || lingering(process));
    idle(isobar);
}

/// Asserts that it uses next to nothing over some short window, but for its health checks.
#[track_caller]
fn idle(isobar: &Isobar) {
    let allowed = |checks: f64| CHECK.as_secs_f64() * checks / WINDOW.as_secs_f64();
    wait_until(&format!("it used below {IDLE_SHARE} of a core"), || {
        let before = checks(isobar);
        let used = isobar.process().cpu_share(WINDOW);
        used < IDLE_SHARE + allowed(checks(isobar) - before)
    });
}

/// Health checks that have come to an end.
fn checks(isobar: &Isobar) -> f64 {
    if !isobar.has_admin() {
        return 0.0;
    }
    let text = isobar.metrics();
    samples(&text, "isobar_backend_health_checks_total", &[]).sum()
}

/// Asserts that `process` uses less than `share` of a core over some short window.
#[track_caller]
pub fn calm(process: Process, share: f64) {
    let mut last = 1.0;
    wait_until(&format!("it used below {share} of a core"), || {
        last = process.cpu_share(WINDOW);
        last < share
    });
}

/// Waits until `fault` finds none, and fails with the last one it found.
#[track_caller]
fn settle(what: &str, mut fault: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + scaled(SETTLE);
    loop {
        match fault() {
            Ok(()) => return,
            Err(fault) => assert!(Instant::now() < end, "{what}: {fault}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn descriptors(process: Process, Baseline(baseline): Baseline) -> Result<(), String> {
    let now = process.descriptors();
    let fine = now.others <= baseline.others && now.pipes <= baseline.pipes + POOLED_PIPE_ENDS;
    fine.then_some(())
        .ok_or_else(|| format!("{now:?} instead of {baseline:?}"))
}

fn lingering(process: Process) -> Result<(), String> {
    let states = process.tcp_states();
    let bad = |state: &&TcpState| {
        matches!(
            state,
            TcpState::CloseWait | TcpState::FinWait2 | TcpState::SynSent
        )
    };
    match states.iter().find(bad) {
        None => Ok(()),
        Some(state) => Err(format!("{state:?} among {states:?}")),
    }
}

/// Every gauge of connections is zero, in `/stats` and in `/metrics`.
fn gauges(isobar: &Isobar) -> Result<(), String> {
    let stats = isobar.stats();
    let mut left = Vec::new();
    collect_gauges("", &stats, &mut left);
    if !left.is_empty() {
        return Err(left.join(", "));
    }
    zero_metrics(&isobar.metrics())
}

/// What is not zero among the counts of something going on now, at any depth of `/stats`.
fn collect_gauges(path: &str, value: &Value, left: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{key}");
        let is_gauge = matches!(&**key, "active" | "connecting" | "held") && value.is_number();
        if is_gauge && value.as_u64() != Some(0) {
            left.push(format!("{path} is {value}"));
        }
        collect_gauges(&path, value, left);
    }
}

fn zero_metrics(text: &str) -> Result<(), String> {
    let names = [
        "isobar_listener_connections_active",
        "isobar_backend_connections_active",
        "isobar_held_connections",
        "isobar_pipes_in_use",
    ];
    for name in names {
        if let Some(value) = samples(text, name, &[]).find(|value| *value != 0.0) {
            return Err(format!("{name} is {value}"));
        }
    }
    Ok(())
}

/// As many panics, and connections that ended by one, as the case injected.
fn faults(isobar: &Isobar) -> Result<(), String> {
    let expected = isobar.panics_expected();
    let ended = total_of("internal", &isobar.stats()["listeners"]);
    let panics = isobar.metric("isobar_panics_total", &[]);
    let fine = ended == expected && panics == expected as f64;
    fine.then_some(())
        .ok_or_else(|| format!("{ended} connections ended by {panics} panics"))
}

/// Every accepted socket is accounted for once, at its listener and in a pool. Where one of
/// them has `departed` the others do not add up.
fn sums(stats: &Value, departed: bool) -> Result<(), String> {
    for listener in values(&stats["listeners"]) {
        let ended = total(&listener["ended"]) + total(&listener["rejected"]);
        let active = number(&listener["connections"]["active"]);
        if number(&listener["connections"]["total"]) != ended + active {
            return Err(format!(
                "total is not active + rejected + ended: {listener:#}"
            ));
        }
    }
    for reason in reasons(stats).into_iter().filter(|_| !departed) {
        let at = |tables: &str| total_of(&reason, &stats[tables]);
        if at("listeners") != at("pools") {
            return Err(format!("{reason} differs between listeners and pools"));
        }
    }
    Ok(())
}

fn bytes(stats: &Value, clients: Option<&Tally>, removals_expected: bool) -> Result<(), String> {
    let both = |tables: &Value| {
        let sum = |key: &str| values(tables).map(|table| number(&table[key])).sum::<u64>();
        (sum("bytes_in"), sum("bytes_out"))
    };
    let at_listeners = both(&stats["listeners"]);
    if at_listeners != both(&stats["pools"]) {
        return Err(format!(
            "listeners {at_listeners:?}, pools {:?}",
            both(&stats["pools"])
        ));
    }
    // Of backends that were removed the pool alone knows.
    let mut departed = false;
    for pool in values(&stats["pools"]) {
        let (of_backends, of_pool) = (
            both(&pool["backends"]),
            (number(&pool["bytes_in"]), number(&pool["bytes_out"])),
        );
        if of_backends.0 > of_pool.0 || of_backends.1 > of_pool.1 {
            return Err(format!("a pool has less than its backends: {pool:#}"));
        }
        departed |= of_backends != of_pool;
    }
    if departed && !removals_expected {
        return Err(format!("pools and their backends differ: {stats:#}"));
    }
    match clients.filter(|_| !departed) {
        None => Ok(()),
        Some(clients) => between_peers(at_listeners, clients, stats),
    }
}

/// What was delivered lies between what the receivers read and what the senders wrote; where
/// everything was read these are the same, so the count is exact.
fn between_peers(
    (bytes_in, bytes_out): (u64, u64),
    clients: &Tally,
    stats: &Value,
) -> Result<(), String> {
    let Some(backends) = backends(stats) else {
        return Ok(());
    };
    let read: u64 = backends.iter().map(|tally| tally.received()).sum();
    let wrote: u64 = backends.iter().map(|tally| tally.sent()).sum();
    let fine = (read..=clients.sent()).contains(&bytes_in)
        && (clients.received()..=wrote).contains(&bytes_out);
    fine.then_some(()).ok_or_else(|| {
        format!(
            "bytes_in {bytes_in}: clients sent {}, backends got {read}; \
             bytes_out {bytes_out}: backends sent {wrote}, clients got {}",
            clients.sent(),
            clients.received()
        )
    })
}

/// The tallies of all backends; `None` if one is not ours.
fn backends(stats: &Value) -> Option<Vec<std::sync::Arc<Tally>>> {
    let addresses: BTreeSet<&str> = values(&stats["pools"])
        .flat_map(|pool| values(&pool["backends"]))
        .filter_map(|backend| backend["address"].as_str())
        .collect();
    addresses.into_iter().map(tally::of_backend).collect()
}

fn reasons(stats: &Value) -> BTreeSet<String> {
    let tables = [&stats["listeners"], &stats["pools"]];
    let tables = tables.into_iter().flat_map(values);
    tables
        .filter_map(|table| table["ended"].as_object())
        .flat_map(|ended| ended.keys().cloned())
        .collect()
}

fn values(table: &Value) -> impl Iterator<Item = &Value> {
    table
        .as_object()
        .into_iter()
        .flat_map(|table| table.values())
}

/// How many connections ended for `reason`, over all listeners or all pools.
fn total_of(reason: &str, tables: &Value) -> u64 {
    values(tables)
        .map(|table| number(&table["ended"][reason]))
        .sum()
}

fn total(table: &Value) -> u64 {
    values(table).map(number).sum()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

//! What is told in the end. The structures are the format of `--json`: fields may be added, none
//! is renamed.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::Spot;
use super::outages::Outage;
use super::recording::{Recording, Skipped};
use super::tally::{PoolTally, Tally};
use crate::config::{self, Balance, Config, HashKey, Listener};

/// What would have become of the recorded connections.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was drawn with.
    pub seed: u64,
    /// `POOL/BACKEND` of those that are down from the start.
    pub without: Vec<String>,
    /// What was replayed, and what not.
    pub log: LogReport,
    /// What is to be known beside the numbers.
    pub notes: Vec<String>,
    /// In the order of the file.
    pub pools: Vec<PoolReport>,
}

/// What was replayed, and what not.
#[derive(Debug, Serialize)]
pub struct LogReport {
    /// Lines that were read.
    pub lines: u64,
    /// Lines about no connection.
    pub other_lines: u64,
    /// Connections that were replayed.
    pub connections: u64,
    /// When the first of them was accepted, RFC 3339.
    pub from: String,
    /// When the last of them was.
    pub to: String,
    /// Those that were not replayed.
    pub not_replayed: Vec<SkippedReport>,
}

/// Connections that were not replayed.
#[derive(Debug, Serialize)]
pub struct SkippedReport {
    /// Why, in a word.
    pub reason: &'static str,
    /// The listener that it is about; null: none.
    pub listener: Option<String>,
    /// How many.
    pub connections: u64,
    /// Why, for people, to be read after the number.
    pub why: String,
}

/// One pool.
#[derive(Debug, Serialize)]
pub struct PoolReport {
    /// Its name.
    pub pool: Arc<str>,
    /// Its strategy.
    pub balance: &'static str,
    /// Connections that were routed there.
    pub connections: u64,
    /// Of those, how many got a backend of another pool.
    pub to_fallback: u64,
    /// Of those, how many were held.
    pub held: HeldReport,
    /// Of those, how many were reset, and why.
    pub refused: RefusedReport,
    /// Every backend, in the order of the file.
    pub backends: Vec<BackendReport>,
    /// What the loss of one of them would do; those that were looked at, in the order of the file.
    pub if_lost: Vec<OutageReport>,
}

/// Who was held.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HeldReport {
    /// How many, whatever came of it.
    pub connections: u64,
    /// Most at once.
    pub peak: usize,
    /// For how long on average; null: nobody was.
    pub mean_seconds: Option<f64>,
    /// For how long at most.
    pub longest_seconds: Option<f64>,
    /// How many of them were held still when everything else was over.
    pub for_ever: u64,
}

/// Who was reset, under the words of the log.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RefusedReport {
    /// No backend could take them, and nobody is held.
    pub no_backend: u64,
    /// As many were held as may be.
    pub hold_full: u64,
    /// They were held for too long.
    pub hold_timeout: u64,
}

/// One backend.
#[derive(Debug, Serialize)]
pub struct BackendReport {
    /// Its name.
    pub backend: Arc<str>,
    /// Its weight.
    pub weight: u32,
    /// Whether it is for when no other can.
    pub backup: bool,
    /// Whether it is down from the start.
    pub lost: bool,
    /// Most connections at once; 0: no limit.
    pub limit: u32,
    /// Connections that it got.
    pub connections: u64,
    /// Of all that backends of the pool got, 0 to 1; null: none did.
    pub share: Option<f64>,
    /// What its weight promises it; null: the strategy does not go by that.
    pub expected_share: Option<f64>,
    /// Most that it had at once.
    pub peak: u32,
    /// Where backends are down from the start: what it would have had if none was.
    pub with_all: Option<WithReport>,
}

/// A backend while all are up.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WithReport {
    /// Connections that it got.
    pub connections: u64,
    /// Most that it had at once.
    pub peak: u32,
}

/// What the loss of a backend would do to its pool.
#[derive(Debug, Serialize)]
pub struct OutageReport {
    /// The one that is lost.
    pub backend: Arc<str>,
    /// Of the others the one with the highest peak; null: there is none.
    pub most_loaded: Option<Arc<str>>,
    /// Its peak.
    pub peak: u32,
    /// Who is held then.
    pub held: HeldReport,
    /// Who is reset then.
    pub refused: RefusedReport,
    /// Who gets a backend of another pool then.
    pub to_fallback: u64,
}

impl Report {
    pub(super) fn of(
        config: &Config,
        recording: &Recording,
        tally: &Tally,
        outages: &[Outage],
        seed: u64,
    ) -> Self {
        let mut report = Self::without(config, recording, (tally, tally), &[], seed);
        for outage in outages {
            let pool = outage.lost.pool;
            let told = OutageReport::of(&config.pools[pool], outage);
            report.pools[pool].if_lost.push(told);
        }
        let looked_at: usize = report.pools.iter().map(|pool| pool.if_lost.len()).sum();
        let all = tally.pools.iter().flat_map(|pool| &pool.backends);
        let all = all.filter(|of| of.connections > 0).count();
        if looked_at < all {
            report.notes.push(format!(
                "the loss of a backend was looked at for {looked_at} of {all}, those with the \
                 highest peaks; --without tells about any other"
            ));
        }
        report
    }

    pub(super) fn without(
        config: &Config,
        recording: &Recording,
        (tally, before): (&Tally, &Tally),
        lost: &[Spot],
        seed: u64,
    ) -> Self {
        let pools = config.pools.iter().enumerate().map(|(place, settings)| {
            let lost = lost.iter().filter(|spot| spot.pool == place);
            let lost: Vec<_> = lost.map(|spot| spot.backend).collect();
            (PoolReport::of(settings, &tally.pools[place], &lost), lost)
        });
        let (mut pools, lost_of): (Vec<_>, Vec<_>) = pools.unzip();
        if !lost.is_empty() {
            let pairs = pools.iter_mut().zip(&before.pools);
            pairs.for_each(|(pool, before)| pool.compare(before));
        }
        let names = config.pools.iter().zip(lost_of).flat_map(|(pool, lost)| {
            let name = |index: usize| format!("{}/{}", pool.name, pool.backends[index].name);
            lost.into_iter().map(name).collect::<Vec<_>>()
        });
        Self {
            seed,
            without: names.collect(),
            log: LogReport::of(recording),
            notes: notes(config, recording, tally),
            pools,
        }
    }
}

impl LogReport {
    fn of(recording: &Recording) -> Self {
        let time = |micros| {
            let time = Timestamp::from_microsecond(micros).unwrap_or_default();
            time.to_string()
        };
        let skipped = |(why, connections): (&Skipped, &u64)| SkippedReport {
            reason: why.word(),
            listener: why.listener().map(str::to_owned),
            connections: *connections,
            why: why.words(),
        };
        Self {
            lines: recording.lines,
            other_lines: recording.other_lines,
            connections: recording.connections(),
            from: time(recording.span.0),
            to: time(recording.span.1),
            not_replayed: recording.skips.iter().map(skipped).collect(),
        }
    }
}

impl PoolReport {
    fn of(settings: &config::Pool, tally: &PoolTally, lost: &[usize]) -> Self {
        let served = tally.served();
        let expected = expected(settings, lost);
        let backends = settings.backends.iter().zip(&tally.backends).zip(expected);
        let backends = backends.zip(0..).map(|(((own, of), expected), index)| {
            let share = of.connections as f64 / served as f64;
            BackendReport {
                backend: Arc::clone(&own.name),
                weight: own.weight,
                backup: own.backup,
                lost: lost.contains(&index),
                limit: own.max_connections,
                connections: of.connections,
                share: (served > 0).then_some(share),
                expected_share: expected,
                peak: of.peak,
                with_all: None,
            }
        });
        Self {
            pool: Arc::clone(&settings.name),
            balance: settings.balance.as_str(),
            connections: tally.arrived,
            to_fallback: tally.moved,
            held: HeldReport::of(tally),
            refused: RefusedReport::of(tally),
            backends: backends.collect(),
            if_lost: Vec::new(),
        }
    }

    fn compare(&mut self, before: &PoolTally) {
        for (backend, before) in self.backends.iter_mut().zip(&before.backends) {
            backend.with_all = Some(WithReport {
                connections: before.connections,
                peak: before.peak,
            });
        }
    }
}

/// What each backend is promised by its weight.
fn expected(settings: &config::Pool, lost: &[usize]) -> Vec<Option<f64>> {
    let weight = |backup: bool| {
        let backends = settings.backends.iter().enumerate();
        backends.map(
            move |(index, of)| match of.backup == backup && !lost.contains(&index) {
                true => f64::from(of.weight),
                false => 0.0,
            },
        )
    };
    let mut weights: Vec<_> = weight(false).collect();
    if weights.iter().all(|weight| *weight == 0.0) {
        weights = weight(true).collect();
    }
    let total: f64 = weights.iter().sum();
    let goes_by_weight = settings.balance != Balance::First && total > 0.0;
    let share = |weight: f64| goes_by_weight.then(|| weight / total);
    weights.into_iter().map(share).collect()
}

impl HeldReport {
    fn of(tally: &PoolTally) -> Self {
        let seconds = |micros: f64| (tally.held > 0).then_some(micros / 1e6);
        Self {
            connections: tally.held,
            peak: tally.held_peak,
            mean_seconds: seconds(tally.waited as f64 / tally.held.max(1) as f64),
            longest_seconds: seconds(tally.longest as f64),
            for_ever: tally.stuck,
        }
    }
}

impl RefusedReport {
    fn of(tally: &PoolTally) -> Self {
        Self {
            no_backend: tally.not_held,
            hold_full: tally.hold_full,
            hold_timeout: tally.hold_timeout,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.no_backend + self.hold_full + self.hold_timeout
    }
}

impl OutageReport {
    fn of(settings: &config::Pool, outage: &Outage) -> Self {
        let tally = &outage.tally.pools[outage.lost.pool];
        let others = settings.backends.iter().zip(&tally.backends).enumerate();
        let others = others.filter(|(index, (_, of))| *index != outage.lost.backend && of.peak > 0);
        // Of equals the first.
        let most = others.rev().max_by_key(|(_, (_, of))| of.peak);
        Self {
            backend: Arc::clone(&settings.backends[outage.lost.backend].name),
            most_loaded: most.map(|(_, (own, _))| Arc::clone(&own.name)),
            peak: most.map_or(0, |(_, (_, of))| of.peak),
            held: HeldReport::of(tally),
            refused: RefusedReport::of(tally),
            to_fallback: tally.moved,
        }
    }
}

/// What is to be known beside the numbers.
fn notes(config: &Config, recording: &Recording, tally: &Tally) -> Vec<String> {
    let mut notes = Vec::new();
    if recording.cut {
        notes.push("the last line of the log was cut short, and is left out".to_owned());
    }
    if recording.ordinary == 0 {
        notes.push(
            "no connection of the log was closed by its client or its backend: with \
             `log.access_sample = 0.0` those are not in it"
                .to_owned(),
        );
    }
    let by_record = |(listener, n): (&String, &u64)| {
        format!(
            "{n} connections of listener {listener} go to the pool that they were recorded with, \
             as its routes ask for what the log does not have (the server name, the protocols)"
        )
    };
    notes.extend(recording.by_record.iter().map(by_record));
    notes.extend(foreign(&recording.foreign));
    let pools = config.pools.iter().zip(&tally.pools);
    let reached = pools.filter(|(_, tally)| tally.served() > 0);
    notes.extend(reached.filter_map(|(pool, _)| hashed(pool)));
    notes.extend(
        config
            .listeners
            .iter()
            .filter_map(|listener| admitted(listener)),
    );
    notes
}

fn foreign(pools: &BTreeMap<String, u64>) -> impl Iterator<Item = String> {
    pools.iter().map(|(pool, n)| {
        format!(
            "{n} connections were recorded with pool {pool}, which the file does not have: they go \
             where their listener sends them"
        )
    })
}

fn hashed(pool: &config::Pool) -> Option<String> {
    let missing = match (pool.balance, pool.hash.key) {
        (Balance::ConsistentHash, HashKey::Sni) => "the server name",
        (Balance::ConsistentHash, HashKey::DestinationIpPort) => "the destination",
        _ => return None,
    };
    Some(format!(
        "pool {} hashes {missing}, which the log does not have: the client's address is hashed \
         instead",
        pool.name
    ))
}

fn admitted(listener: &Listener) -> Option<String> {
    let rules = [
        ("allow", !listener.allow.is_empty()),
        ("deny", !listener.deny.is_empty()),
        ("max_connections", listener.max_connections > 0),
        (
            "max_connections_per_ip",
            listener.max_connections_per_ip > 0,
        ),
        ("rate", listener.rate.is_some()),
        ("rate_per_ip", listener.rate_per_ip.is_some()),
    ];
    let rules = rules.iter().filter(|(_, given)| *given);
    let rules: Vec<_> = rules.map(|(rule, _)| *rule).collect();
    (!rules.is_empty()).then(|| {
        format!(
            "listener {} lets every recorded connection in: {} play no part",
            listener.name,
            rules.join(", ")
        )
    })
}

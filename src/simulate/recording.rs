//! The connections of a log that can be replayed, and how many others there are.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::line::{Entry, Line};
use super::log::{Log, LogError, Next};
use super::routes::{Destination, Router};
use super::sampling::Sampling;
use super::world;
use crate::config::Config;
use crate::pool::Client;

/// A recorded connection, as it is replayed. Times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arrival {
    /// Since the first of the recording was accepted.
    pub(super) at: u64,
    /// Its number.
    pub(super) id: u64,
    /// How long it has a backend.
    pub(super) lasts: u64,
    /// How long its connect took.
    pub(super) connect: u32,
    /// How long its first byte took from there; `None`: there was none.
    pub(super) first_byte: Option<u32>,
    /// Who it is.
    pub(super) client: Client,
    /// The pool that it goes to.
    pub(super) pool: u32,
    /// The backend that it had, by its place among the names; `None`: the line does not say.
    pub(super) had: Option<u32>,
}

/// Backends that were recorded, by the names of pool and backend.
pub(super) type Names = HashMap<(String, String), u32>;

/// Pools that have to do with each other, and the connections that come to them.
#[derive(Debug)]
pub(super) struct Group {
    /// Places in the file, ascending.
    pub(super) pools: Vec<usize>,
    /// In the order in which they were accepted.
    pub(super) arrivals: Vec<Arrival>,
}

/// What a log has for the pools of one configuration.
#[derive(Debug)]
pub struct Recording {
    pub(super) groups: Vec<Group>,
    names: Names,
    /// When the first and the last were accepted, in microseconds since 1970.
    pub(super) span: (i64, i64),
    /// Lines that were read.
    pub lines: u64,
    /// Lines that are about no connection.
    pub other_lines: u64,
    /// The last line was cut short.
    pub cut: bool,
    /// Connections that are not replayed.
    pub skips: Skips,
    /// Connections that were routed by the pool that they came to when they were recorded, by
    /// listener.
    pub by_record: BTreeMap<String, u64>,
    /// Connections of pools that the file does not have, by pool.
    pub foreign: BTreeMap<String, u64>,
    /// Connections that ended ordinarily.
    pub ordinary: u64,
}

/// Connections that are not replayed, and why.
pub type Skips = BTreeMap<Skipped, u64>;

/// Why connections are not replayed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// They were rejected before any backend was touched.
    Rejected,
    /// They never had a backend: for how long they would have had one is not known.
    NoBackend,
    /// The file has no listener of this name.
    NoListener(String),
    /// No route of this listener takes them, and it has no pool.
    NoRoute(String),
    /// Which route of this listener takes them is not known: it is for a ClientHello to say.
    Untold(String),
}

impl Recording {
    /// Reads a log, whose name is for messages, for the pools and listeners of `config`.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn read(
        config: &Config,
        name: &str,
        source: impl BufRead,
        seed: u64,
    ) -> Result<Self, LogError> {
        let mut reader = Reader::new(config, seed);
        let mut log = Log::new(name, source);
        let cut = loop {
            match log.next()? {
                Next::Line(line) => reader.take(line, log.number()),
                Next::Cut => break true,
                Next::End => break false,
            }
        };
        reader.finish(name, log.number(), cut)
    }

    /// The backends that were recorded.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// How many connections are replayed.
    pub fn connections(&self) -> u64 {
        let groups = self.groups.iter();
        groups.map(|group| group.arrivals.len() as u64).sum()
    }

    fn sort(&mut self) {
        for group in &mut self.groups {
            let arrivals = &mut group.arrivals;
            // Cores number their connections one after the other.
            arrivals.sort_by_key(|arrival| (arrival.at, arrival.id));
        }
    }
}

/// A recording in the making.
struct Reader<'a> {
    router: Router<'a>,
    recording: Recording,
    /// The group of each pool.
    group_of: Vec<usize>,
    times: Vec<Vec<i64>>,
    sampling: Sampling,
    drawn: StdRng,
}

impl<'a> Reader<'a> {
    fn new(config: &'a Config, seed: u64) -> Self {
        let groups = world::groups(config);
        let mut group_of = vec![0; config.pools.len()];
        for (index, group) in groups.iter().enumerate() {
            group.iter().for_each(|pool| group_of[*pool] = index);
        }
        let group = |pools| Group {
            pools,
            arrivals: Vec::new(),
        };
        Self {
            router: Router::new(config),
            times: vec![Vec::new(); groups.len()],
            group_of,
            sampling: Sampling::new(),
            drawn: StdRng::seed_from_u64(seed),
            recording: Recording {
                groups: groups.into_iter().map(group).collect(),
                names: Names::new(),
                span: (i64::MAX, i64::MIN),
                lines: 0,
                other_lines: 0,
                cut: false,
                skips: Skips::new(),
                by_record: BTreeMap::new(),
                foreign: BTreeMap::new(),
                ordinary: 0,
            },
        }
    }

    fn take(&mut self, line: Line, number: u64) {
        match line {
            Line::Other => self.recording.other_lines += 1,
            Line::Rejected { connections } => self.skip(Skipped::Rejected, connections),
            Line::Ended(entry) => self.enter(entry, number),
        }
    }

    fn skip(&mut self, why: Skipped, connections: u64) {
        let count = self.recording.skips.entry(why).or_default();
        *count = count.saturating_add(connections);
    }

    fn enter(&mut self, entry: Entry, line: u64) {
        if entry.is_ordinary {
            self.recording.ordinary += 1;
            entry.id.iter().for_each(|id| self.sampling.see(*id, line));
        }
        let Some(connect) = entry.connect else {
            return self.skip(Skipped::NoBackend, 1);
        };
        let destination = self.router.route(&entry);
        let (pool, by_record) = match destination {
            Destination::Pool(pool) => (pool, false),
            Destination::Recorded(pool) => (pool, true),
            Destination::NoListener => return self.skip(Skipped::NoListener(entry.listener), 1),
            Destination::NoRoute => return self.skip(Skipped::NoRoute(entry.listener), 1),
            Destination::Untold => return self.skip(Skipped::Untold(entry.listener), 1),
        };
        if by_record {
            count(&mut self.recording.by_record, &entry.listener);
        }
        if let Some(name) = entry
            .pool
            .as_ref()
            .filter(|name| !self.router.has_pool(name))
        {
            count(&mut self.recording.foreign, name);
        }
        let span = &mut self.recording.span;
        *span = (span.0.min(entry.at), span.1.max(entry.at));
        let arrival = Arrival {
            at: 0,
            id: entry.id.unwrap_or(0),
            lasts: entry.lasts,
            connect,
            first_byte: entry.first_byte,
            client: match entry.client {
                Some(address) => Client::Ip(address),
                None => Client::Unix(self.drawn.next_u64()),
            },
            pool: u32::try_from(pool).unwrap_or(u32::MAX),
            had: self.name(entry.pool, entry.backend),
        };
        let group = self.group_of[pool];
        self.times[group].push(entry.at);
        self.recording.groups[group].arrivals.push(arrival);
    }

    fn name(&mut self, pool: Option<String>, backend: Option<String>) -> Option<u32> {
        let names = &mut self.recording.names;
        let next = u32::try_from(names.len()).ok()?;
        Some(*names.entry((pool?, backend?)).or_insert(next))
    }

    fn finish(self, name: &str, lines: u64, cut: bool) -> Result<Recording, LogError> {
        let Self {
            mut recording,
            times,
            sampling,
            ..
        } = self;
        recording.lines = lines;
        recording.cut = cut;
        if let Some(sampled) = sampling.sampled(lines) {
            return Err(LogError::Sampled {
                name: name.to_owned(),
                from: *sampled.lines.start(),
                to: *sampled.lines.end(),
                percent: (sampled.share * 1e3).round() / 10.0,
            });
        }
        if recording.connections() == 0 {
            return Err(LogError::Nothing {
                name: name.to_owned(),
                why: recording.instead(),
            });
        }
        for (group, times) in recording.groups.iter_mut().zip(times) {
            for (arrival, at) in group.arrivals.iter_mut().zip(times) {
                arrival.at = at.abs_diff(recording.span.0);
            }
        }
        recording.sort();
        Ok(recording)
    }
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => drop(counts.insert(name.to_owned(), 1)),
    }
}

impl Recording {
    /// What was in a log that has nothing to replay.
    fn instead(&self) -> String {
        let skips = self.skips.iter();
        let mut parts: Vec<_> = skips
            .map(|(why, n)| format!("{n} {}", why.words()))
            .collect();
        if self.other_lines > 0 {
            parts.push(format!("{} lines about other things", self.other_lines));
        }
        match parts.is_empty() {
            true => " in it".to_owned(),
            false => format!(": {}", parts.join(", ")),
        }
    }
}

impl Skipped {
    /// The word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::NoBackend => "no_backend",
            Self::NoListener(_) => "no_listener",
            Self::NoRoute(_) => "no_route",
            Self::Untold(_) => "route_unknown",
        }
    }

    /// The listener that it is about.
    pub fn listener(&self) -> Option<&str> {
        match self {
            Self::Rejected | Self::NoBackend => None,
            Self::NoListener(name) | Self::NoRoute(name) | Self::Untold(name) => Some(name),
        }
    }

    /// The words for people, after a number.
    pub fn words(&self) -> String {
        match self {
            Self::Rejected => "rejected before any backend was touched".to_owned(),
            Self::NoBackend => {
                "never had a backend, so that nobody knows for how long they would have".to_owned()
            }
            Self::NoListener(name) => {
                format!("of listener {name}, which the file does not have")
            }
            Self::NoRoute(name) => {
                format!("of listener {name}, whose routes take them nowhere")
            }
            Self::Untold(name) => format!(
                "of listener {name}, whose routes ask for what the log does not have (the \
                 server name, the protocols), and lead nowhere where they were"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::least_share;
    use crate::simulate::tests::{config, line};

    const FILE: &str = "
        [listener.web]
        bind = \"127.0.0.1:1\"
        pool = \"web\"
        [pool.web]
        backends = [\"127.0.0.1:7001\"]
    ";

    fn read(lines: &[String]) -> Result<Recording, LogError> {
        let text = lines.concat();
        Recording::read(&config(FILE), "a.jsonl", text.as_bytes(), 1)
    }

    #[test]
    fn connections_are_put_in_the_order_of_their_accepts() {
        // Written as they ended.
        let lines = [(2, 30, 1), (9, 10, 5), (3, 30, 9), (1, 20, 99)];
        let lines = lines.map(|(id, at, ms)| line(id, at, ms));
        let recording = read(&lines).expect("a recording");
        let arrivals = &recording.groups[0].arrivals;
        let order: Vec<_> = arrivals.iter().map(|a| (a.id, a.at)).collect();
        assert_eq!(order, [(9, 0), (1, 10_000), (2, 20_000), (3, 20_000)]);
        assert_eq!(arrivals[1].lasts, 99_000);
        assert!(recording.skips.is_empty());
    }

    #[test]
    fn what_is_not_replayed_is_counted_by_why() {
        let rejected = "{\"target\":\"isobar::access\",\"reason\":\"rate\",\"suppressed\":4}\n";
        let lines = [
            line(1, 0, 5),
            line(2, 0, 5).replace("\"connect_ms\":0.2", "\"connect_ms\":null"),
            line(3, 0, 5).replace("\"listener\":\"web\"", "\"listener\":\"gone\""),
            line(4, 0, 5).replace("\"pool\":\"web\"", "\"pool\":\"old\""),
            rejected.to_owned(),
            rejected.replace("access", "server"),
        ];
        let recording = read(&lines).expect("a recording");
        assert_eq!(recording.connections(), 2);
        let expected = [
            (Skipped::Rejected, 5),
            (Skipped::NoBackend, 1),
            (Skipped::NoListener("gone".to_owned()), 1),
        ];
        assert_eq!(recording.skips, Skips::from(expected));
        assert_eq!(recording.other_lines, 1);
        assert_eq!(recording.foreign, BTreeMap::from([("old".to_owned(), 1)]));
    }

    #[test]
    fn a_log_with_nothing_to_replay_is_told_by_what_it_has() {
        let gone = line(3, 0, 5).replace("\"listener\":\"web\"", "\"listener\":\"gone\"");
        let error = read(&[gone]).expect_err("nothing");
        assert_eq!(
            error.to_string(),
            "a.jsonl: no connection to replay: 1 of listener gone, which the file does not have"
        );
        let error = read(&[]).expect_err("nothing");
        assert_eq!(error.to_string(), "a.jsonl: no connection to replay in it");
    }

    #[test]
    fn a_sampled_log_is_known_by_its_numbers_and_refused() {
        for (share, percent) in [(0.1, 10.0), (0.9, 90.0)] {
            let ids = (0..2000).filter(|id| least_share(*id) < share);
            let lines: Vec<_> = ids.map(|id| line(id, 0, 5)).collect();
            match read(&lines) {
                Err(LogError::Sampled { percent: found, .. }) => {
                    assert!((found - percent).abs() < 0.5 * percent.min(2.0), "{found}");
                }
                other => panic!("not refused: {other:?}"),
            }
        }
        let lines: Vec<_> = (0..2000).map(|id| line(id, 0, 5)).collect();
        assert_eq!(read(&lines).expect("a whole one").connections(), 2000);
    }

    /// As of several files, one of which was written with another setting.
    #[test]
    fn a_part_that_is_sampled_is_known_too() {
        let whole = |ids: std::ops::Range<u64>| ids.map(|id| line(id, 0, 5)).collect::<Vec<_>>();
        let sampled = (10_000..20_000).filter(|id| least_share(*id) < 0.5);
        let sampled: Vec<_> = sampled.take(500).map(|id| line(id, 0, 5)).collect();
        let lines = [whole(0..1000), sampled, whole(30_000..31_000)].concat();
        match read(&lines) {
            Err(LogError::Sampled {
                from, to, percent, ..
            }) => {
                assert_eq!((from, to), (1001, 1200));
                assert!((percent - 50.0).abs() < 2.0, "{percent}");
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    /// A few lines whose numbers happen to be low, and many with the same number, prove nothing.
    #[test]
    fn a_log_is_not_refused_for_its_few_numbers() {
        let mut ids: Vec<u64> = (0..1000).collect();
        ids.sort_by(|a, b| least_share(*a).total_cmp(&least_share(*b)));
        let few: Vec<_> = ids[..2].iter().map(|id| line(*id, 0, 5)).collect();
        assert_eq!(read(&few).expect("a whole one").connections(), 2);
        let same = vec![line(ids[500], 0, 5); 1000];
        assert_eq!(read(&same).expect("a whole one").connections(), 1000);
    }
}

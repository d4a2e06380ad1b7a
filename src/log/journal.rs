//! The last events, for whoever watches: changes of state, reloads, what operators did.
//!
//! They are lines of the log that are kept, as JSON, whatever the log's own level and format
//! are. So there is one place where something is said to have happened, and `/events` says what
//! the log says. Lines that come again and again under load (limits reached, errors of accept)
//! are not among them: they would push out what led to them.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::event::{self, MESSAGE};
use super::line::{Format, Head};

/// Events that are kept; the oldest go first.
pub(super) const KEPT: usize = 256;

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub struct Note {
    /// Grows from event to event, also over restarts as long as the clock does not go back:
    /// microseconds of Unix time, or the next free number.
    pub id: u64,
    /// What it is about: `state`, `pool`, `change`, `reload`, `rebalance`, `upgrade`, `process`.
    pub kind: &'static str,
    /// The line of the log, a JSON object.
    pub json: String,
}

/// The last [`KEPT`] events; clones share them.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    notes: Mutex<VecDeque<Arc<Note>>>,
    /// The id of the newest.
    newest: watch::Sender<u64>,
}

impl Default for Journal {
    fn default() -> Self {
        Self(Arc::new(Shared {
            notes: Mutex::default(),
            newest: watch::Sender::new(0),
        }))
    }
}

impl Journal {
    /// Those that are kept and came after the one with this id, oldest first.
    pub fn after(&self, id: u64) -> Vec<Arc<Note>> {
        let notes = self.lock();
        let from = notes.partition_point(|note| note.id <= id);
        notes.range(from..).cloned().collect()
    }

    /// Moves on with every event, to its id.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    fn note(&self, at: SystemTime, kind: &'static str, json: String) {
        let micros = at.duration_since(SystemTime::UNIX_EPOCH);
        let micros = micros.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(0));
        let mut notes = self.lock();
        let id = notes.back().map_or(micros, |last| micros.max(last.id + 1));
        if notes.len() == KEPT {
            notes.pop_front();
        }
        notes.push_back(Arc::new(Note { id, kind, json }));
        drop(notes);
        self.0.newest.send_replace(id);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Note>>> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes the events that are worth it.
pub(super) struct JournalLayer(pub(super) Journal);

impl JournalLayer {
    /// Whether an event of this callsite may be noted.
    pub(super) fn wants(metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && kind(metadata.target(), None).is_some()
    }
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let target = event.metadata().target();
        let mut message = Message(String::new());
        event.record(&mut message);
        let Some(kind) = kind(target, Some(&message.0)) else {
            return;
        };
        let head = Head {
            time: SystemTime::now(),
            level: *event.metadata().level(),
            target,
        };
        let mut line = Vec::with_capacity(256);
        Format::Json.line(&mut line, &head, |fields| event::write(event, fields));
        let json = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        self.0.note(head.time, kind, json);
    }
}

/// What an event is about, by where it happens and, once that is known, what it says.
fn kind(target: &str, message: Option<&str>) -> Option<&'static str> {
    let module = target.strip_prefix("isobar::")?;
    let of = |prefix: &str| {
        let rest = module.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    match message {
        _ if of("pool::control") => Some(match message {
            Some("backend") => "state",
            _ => "pool",
        }),
        // Ejections, and what ends them; who is spared is told again and again.
        Some("backend") | None if of("pool::passive") => Some("state"),
        // Who was refused changed nothing.
        Some("change") | None if of("audit") => Some("change"),
        _ if of("server::reload") => Some("reload"),
        _ if of("rebalance") => Some("rebalance"),
        _ if of("server::upgrade") || of("upgrade") => Some("upgrade"),
        _ if of("server::notify") => None,
        _ if of("server") => Some("process"),
        _ => None,
    }
}

struct Message(String);

impl Visit for Message {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == MESSAGE {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn noted(work: impl FnOnce()) -> Vec<(&'static str, Value)> {
        let journal = Journal::default();
        let layer = JournalLayer(journal.clone()).with_filter(filter_fn(JournalLayer::wants));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let notes = journal.after(0);
        let value = |note: &Arc<Note>| serde_json::from_str(&note.json).expect("JSON");
        notes.iter().map(|note| (note.kind, value(note))).collect()
    }

    #[test]
    fn changes_of_state_are_noted_with_what_the_log_says_of_them() {
        let notes = noted(|| {
            tracing::warn!(target: "isobar::pool::control", backend = "b1", state = "down", "backend");
            tracing::info!(target: "isobar::audit", what = "drain", "change");
        });
        let kinds: Vec<_> = notes.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, ["state", "change"]);
        let (_, first) = &notes[0];
        assert_eq!(first["backend"], "b1");
        assert_eq!(first["state"], "down");
        assert_eq!(first["level"], "warn");
    }

    #[test]
    fn what_comes_again_and_again_changes_nothing_or_is_a_detail_is_not() {
        let notes = noted(|| {
            tracing::warn!(target: "isobar::listener::accept", "connection limit reached");
            tracing::warn!(target: "isobar::audit", "change refused");
            tracing::debug!(target: "isobar::pool::control", "backend");
            tracing::info!(target: "isobar::poolside", "backend");
            tracing::info!(target: "hyper", "change");
        });
        assert_eq!(notes, []);
    }

    #[test]
    fn every_kind_has_its_places() {
        for (target, message, expected) in [
            ("isobar::pool::control", "the pause is over", Some("pool")),
            ("isobar::pool::passive", "backend", Some("state")),
            (
                "isobar::pool::passive",
                "backend fails and is not ejected",
                None,
            ),
            ("isobar::server::reload", "reloaded", Some("reload")),
            ("isobar::server::reload::publish", "closed", Some("reload")),
            (
                "isobar::rebalance::run",
                "the rebalance is over",
                Some("rebalance"),
            ),
            ("isobar::server::upgrade", "upgrading", Some("upgrade")),
            ("isobar::server", "ready", Some("process")),
            ("isobar::server::stop", "stopping", Some("process")),
            ("isobar::server::notify", "cannot be told", None),
        ] {
            assert_eq!(kind(target, Some(message)), expected, "{target}");
        }
    }

    #[test]
    fn the_last_are_kept_in_order_and_told_from_any_of_them_on() {
        let journal = Journal::default();
        let mut newest = journal.newest();
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(1000);
        for n in 0..300 {
            journal.note(at, "state", n.to_string());
        }
        assert_eq!(*newest.borrow_and_update(), 1299);
        let notes = journal.after(0);
        assert_eq!(notes.len(), KEPT);
        assert!(notes.is_sorted_by(|one, next| one.id < next.id));
        assert_eq!(notes[0].json, "44");
        let rest: Vec<_> = journal.after(1297).iter().map(|n| n.json.clone()).collect();
        assert_eq!(rest, ["298", "299"]);
        assert!(journal.after(1299).is_empty());
    }
}

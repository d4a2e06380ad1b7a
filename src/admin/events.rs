//! `GET /events`: what happens, as it happens, as server-sent events (HTML standard, 9.2).
//!
//! The one answer that has no end. A client that takes nothing is given up by its connection, as
//! for every answer; what it missed meanwhile is in the last events, as long as it is.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, Sse};
use futures_util::stream::{self, Stream};
use tokio::sync::watch;

use super::Running;
use crate::log::{Journal, Note};

/// After so long without an event comes a comment, so that whoever is in between does not take
/// the connection for dead.
const LULL: Duration = Duration::from_secs(15);
/// How soon a browser that lost the connection tries again.
const RETRY: Duration = Duration::from_secs(1);

/// The last events, then every new one. With `Last-Event-ID`, as browsers send it when they come
/// again, those after it.
pub(super) async fn events(
    State(running): State<Arc<Running>>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let last = headers.get("last-event-id");
    let last = last.and_then(|id| id.to_str().ok()?.parse().ok());
    let journal = running.log.journal().clone();
    let watcher = Watcher {
        newest: journal.newest(),
        journal,
        seen: last.unwrap_or(0),
        due: VecDeque::new(),
    };
    let first = stream::iter([Ok(Event::default().retry(RETRY).comment("isobar"))]);
    let all = stream::unfold(watcher, |mut watcher| async {
        let event = watcher.next().await?;
        Some((Ok(event), watcher))
    });
    Sse::new(stream::StreamExt::chain(first, all))
}

struct Watcher {
    journal: Journal,
    newest: watch::Receiver<u64>,
    seen: u64,
    due: VecDeque<Arc<Note>>,
}

impl Watcher {
    /// The next event, or a sign of life; `None`: there will be no more.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(note) = self.due.pop_front() {
                self.seen = note.id;
                let event = Event::default().id(note.id.to_string());
                return Some(event.event(note.kind).data(&note.json));
            }
            self.newest.mark_unchanged();
            self.due = self.journal.after(self.seen).into();
            if !self.due.is_empty() {
                continue;
            }
            match tokio::time::timeout(LULL, self.newest.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some(Event::default().comment("")),
            }
        }
    }
}

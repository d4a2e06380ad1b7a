//! What happened, the newest first.

use jiff::Timestamp;

use super::{Cell, Column, Listing, Row, words};
use crate::cli::table::Tone;
use crate::cli::top::answers::Event;
use crate::cli::top::data::Data;
use crate::cli::top::moment;
use crate::terminal::replaced;

const COLUMNS: [Column; 3] = [
    words("AT (UTC)", 8, 0, 0),
    words("KIND", 9, 0, 1),
    words("WHAT", 20, 20, 0),
];

/// The newest first.
pub(in crate::cli::top) fn listing(data: &Data, now: Timestamp) -> Listing<'_> {
    Listing {
        title: format!("Events · the last {}", data.events.len()),
        columns: &COLUMNS,
        rows: data.events.iter().rev().map(|e| row(e, now)).collect(),
        empty: "Nothing happened yet.".to_owned(),
        is_filtered: false,
    }
}

fn row(event: &Event, now: Timestamp) -> Row<'static> {
    let at = moment(&event.at, now);
    let state = event.turn.as_ref().map(|turn| &*turn.state);
    let tone = match state {
        _ if event.bad => Tone::Bad,
        Some(state) => Tone::of_state(state),
        None => Tone::Plain,
    };
    let mark = state.map_or("·", super::glyph);
    Row {
        key: event.id.to_string(),
        cells: vec![
            Cell {
                by: super::By::Text(event.at.clone()),
                ..Cell::words(&at)
            },
            Cell::words(&event.kind),
            Cell::words(format!("{mark} {}", event.words)).toned(tone),
        ],
        bars: &[],
        note: replaced(&format!("{at}: {}", event.words)),
        found_by: format!("{} {}", event.kind, event.words).to_lowercase(),
    }
}

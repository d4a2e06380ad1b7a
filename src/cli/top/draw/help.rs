//! The keys, and what the columns mean.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Paint, put};

const HELP: [(&str, &str); 18] = [
    (
        "1 to 5, Tab",
        "pools, backends, listeners, connections, events",
    ),
    ("↑ ↓ j k", "move; PgUp, PgDn, Home, End, g, G too"),
    ("Enter →", "into the pool or backend that is selected"),
    ("Esc ←", "drop the filter, else go back"),
    (
        "/",
        "filter by name, address or state; connections by KEY=VALUE,",
    ),
    (
        "",
        "by a pool, backend, listener, state, address or 10.0.0.0/8",
    ),
    ("< >  r", "sort by the column before or after; reverse"),
    ("c  e", "connections, events of what is selected"),
    (
        "D  R  M",
        "drain, make ready, set to maintenance; asks before",
    ),
    ("q, Ctrl-C", "leave; Ctrl-Z waits in the background"),
    ("", ""),
    ("NEW/S", "new connections in a second"),
    (
        "IN/S OUT/S",
        "bytes in a second to backends, and back; K is 1024",
    ),
    ("P50 P99", "connects to it took so long, in the last minute"),
    ("FAILED", "connects that failed since the start"),
    ("HELD", "clients that wait until a backend can take them"),
    (
        "states",
        "● up  ✕ down  ▲ ejected  ◐ draining  □ maintenance",
    ),
    ("", "○ starting  – removed"),
];

pub(super) fn draw(buffer: &mut Buffer, area: Rect, paint: Paint) {
    for ((keys, what), row) in HELP.iter().zip(area.rows()) {
        let line = Line::from_iter([
            Span::styled(format!("  {keys:<12} "), paint.strong()),
            Span::raw(*what),
        ]);
        put(buffer, row, &line);
    }
}

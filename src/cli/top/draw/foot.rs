//! The bottom of the screen: what is typed or asked, else what the keys do.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Paint, put, put_right};
use crate::cli::table::Tone;
use crate::cli::top::app::{App, Mode, Place};
use crate::terminal::replaced;

/// The last line: what is typed or asked, else the keys. Where the cursor is, if it is.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, app: &App, paint: Paint) -> Option<u16> {
    match &app.mode {
        Mode::Typing => {
            let typed = Line::from_iter([
                Span::styled(" /", paint.strong()),
                Span::raw(replaced(&app.list().filter)),
            ]);
            put(buffer, area, &typed);
            let hint = match app.place() {
                Place::Connections => "pool, backend, address, state, idle=30s … ",
                _ => "Enter keeps it, Esc drops it ",
            };
            let width = u16::try_from(typed.width()).unwrap_or(u16::MAX);
            if usize::from(width) + hint.chars().count() + 2 < area.width.into() {
                put_right(buffer, area, &Line::styled(hint, paint.soft()));
            }
            Some(area.x + width.min(area.width - 1))
        }
        Mode::Asking(change) => {
            let question = replaced(&change.question(&app.data));
            let line = Line::from_iter([
                Span::styled(format!(" {question} "), paint.tone(Tone::Odd)),
                Span::styled("y", paint.strong()),
                Span::raw(" does it, any other key does not"),
            ]);
            put(buffer, area, &line);
            None
        }
        Mode::Looking | Mode::Help => {
            put(buffer, area, &hints(app, area.width, paint));
            None
        }
    }
}

fn hints<'l>(app: &App, width: u16, paint: Paint) -> Line<'l> {
    let back = app.path.len() > 1 || app.list().filter != app.list().given;
    let opens = !matches!(app.place(), Place::Backend(..));
    let acts = matches!(app.place(), Place::Backends(_) | Place::Backend(..));
    let about = !matches!(app.place(), Place::Connections | Place::Events);
    let hints = [
        ("q", "quit", true),
        ("?", "help", true),
        ("↑↓", "move", true),
        ("Enter", "open", opens),
        ("Esc", "back", back),
        ("/", "filter", true),
        ("<>", "sort", true),
        ("c", "connections", about),
        ("e", "events", about),
        ("D R M", "drain, ready, maintenance", acts),
    ];
    let mut spans = Vec::new();
    let mut used = 0;
    for (key, what, _) in hints.into_iter().filter(|(.., shown)| *shown) {
        used += key.chars().count() + what.len() + 3;
        // The blank behind the last one need not be seen.
        if used > usize::from(width) + 1 {
            break;
        }
        spans.push(Span::styled(format!(" {key}"), paint.strong()));
        spans.push(Span::styled(format!(" {what} "), paint.soft()));
    }
    Line::from(spans)
}

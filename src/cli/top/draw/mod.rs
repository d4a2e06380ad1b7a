//! The screen: from what is known to cells of a terminal.
//!
//! From the top: who answers, the numbers of the whole, where somebody is; what is wrong, where
//! anything is; what is looked at; the words about the selected row; the keys. Where there is
//! less room the charts go first, then columns by their rank.

mod backend;
mod bars;
mod charts;
mod foot;
mod head;
mod help;
mod table;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

use super::app::{App, Mode, Place};
use super::listing::{Align, Listing};
use crate::cli::table::Tone;
use crate::terminal::replaced;

/// With less room than this nothing can be told.
const LEAST: (u16, u16) = (24, 6);

/// What is meant by a style, in colours or without.
#[derive(Clone, Copy)]
struct Paint {
    colours: bool,
}

impl Paint {
    fn tone(self, tone: Tone) -> Style {
        let (colour, style) = match tone {
            Tone::Plain => return Style::new(),
            Tone::Good => (Color::Green, Style::new()),
            Tone::Bad => (Color::Red, Style::new().add_modifier(Modifier::BOLD)),
            Tone::Odd => (Color::Yellow, Style::new()),
        };
        if self.colours {
            style.fg(colour)
        } else {
            style
        }
    }

    /// Bars, and where somebody is.
    fn accent(self) -> Style {
        match self.colours {
            true => Style::new().fg(Color::Cyan),
            false => Style::new(),
        }
    }

    fn soft(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

/// What is left of the screen.
struct Room(Rect);

impl Room {
    /// Takes lines away from the top, as many as there are.
    fn top(&mut self, lines: u16) -> Rect {
        let taken = lines.min(self.0.height);
        let part = Rect {
            height: taken,
            ..self.0
        };
        self.0.y += taken;
        self.0.height -= taken;
        part
    }

    /// The same from the bottom.
    fn bottom(&mut self, lines: u16) -> Rect {
        let taken = lines.min(self.0.height);
        self.0.height -= taken;
        Rect {
            y: self.0.y + self.0.height,
            height: taken,
            ..self.0
        }
    }
}

/// Draws everything, and notes how much of the list is seen.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let words = Line::raw("isobar top: no room");
        return put(frame.buffer_mut(), area, &words);
    }
    let paint = Paint {
        colours: app.colours,
    };
    let mut room = Room(area);
    head::draw(frame.buffer_mut(), &mut room, app, paint);
    let foot = room.bottom(1);
    let note = room.bottom(1);
    if app.mode == Mode::Help {
        help::draw(frame.buffer_mut(), room.0, paint);
    } else {
        let said = body(frame.buffer_mut(), room, app, paint);
        let (text, tone) = app.said.clone().unwrap_or((said, Tone::Plain));
        let line = Line::styled(format!(" {text}"), paint.tone(tone));
        put(frame.buffer_mut(), note, &line);
    }
    let cursor = foot::draw(frame.buffer_mut(), foot, app, paint);
    if let Some(x) = cursor {
        frame.set_cursor_position((x, foot.y));
    }
}

/// One line, cut where the room ends.
fn put(buffer: &mut Buffer, area: Rect, line: &Line<'_>) {
    if area.height > 0 {
        buffer.set_line(area.x, area.y, line, area.width);
    }
}

/// The same, ending at the right edge; how much room is left before it.
fn put_right(buffer: &mut Buffer, area: Rect, line: &Line<'_>) -> u16 {
    let width = u16::try_from(line.width())
        .unwrap_or(u16::MAX)
        .min(area.width);
    let x = area.x + area.width - width;
    let part = Rect { x, width, ..area };
    put(buffer, part, line);
    area.width - width
}

/// What is looked at; the words about the selected row.
fn body(buffer: &mut Buffer, mut room: Room, app: &mut App, paint: Paint) -> String {
    match app.place() {
        Place::Backend(pool, name) => backend::draw(buffer, &mut room, app, pool, name, paint),
        Place::Pools => charts::of_all(buffer, &mut room, app, paint),
        Place::Backends(Some(pool)) => charts::of_pool(buffer, &mut room, app, pool, paint),
        _ => {}
    }
    let listing = app.listing();
    let list = app.list();
    let title = room.top(1);
    heading(buffer, title, app, &listing, paint);
    let columns = room.top(1);
    let height = usize::from(room.0.height);
    let at = list.position(&listing.rows);
    let offset = list.first_seen(at, height, listing.rows.len());
    let seen = listing.rows.iter().skip(offset).take(height);
    let seen: Vec<_> = seen.collect();
    let widths = table::widths(listing.columns, &seen, list.sort, room.0.width);
    table::headings(buffer, columns, &listing, &widths, list.sort, paint);
    table::rows(
        buffer,
        room.0,
        listing.columns,
        &seen,
        &widths,
        at - offset.min(at),
        paint,
    );
    if listing.rows.is_empty() {
        let area = room.top(1);
        put(
            buffer,
            area,
            &Line::styled(format!("  {}", listing.empty), paint.soft()),
        );
    }
    let note = listing.rows.get(at).map(|row| row.note.clone());
    let bars = listing.columns.iter().zip(&widths);
    let has_bars = bars
        .clone()
        .any(|(c, width)| c.align == Align::Bars && *width > 0);
    let list = app.list_mut();
    (list.at, list.offset, list.height, list.has_bars) = (at, offset, height, has_bars);
    note.unwrap_or_default()
}

/// What the list is about, and how it was arranged.
fn heading(buffer: &mut Buffer, area: Rect, app: &App, listing: &Listing<'_>, paint: Paint) {
    let list = app.list();
    let mut how = String::new();
    if !list.filter.is_empty() {
        how.push_str(&format!("/{} ", replaced(&list.filter)));
    }
    if let Some(sort) = list.sort {
        let arrow = if sort.ascending { "▴" } else { "▾" };
        how.push_str(&format!(
            "by {} {arrow} ",
            listing.columns[sort.column].title
        ));
    }
    let left = put_right(buffer, area, &Line::styled(how, paint.accent()));
    let part = Rect {
        width: left,
        ..area
    };
    let title = Line::styled(format!(" {}", listing.title), paint.strong());
    put(buffer, part, &title);
}

#[cfg(test)]
mod tests;

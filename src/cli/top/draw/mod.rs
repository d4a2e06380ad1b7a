//! The screen: from what is known to cells of a terminal.
//!
//! From the top: who answers, the numbers of the whole, where somebody is; what is wrong, where
//! anything is; what is looked at; the words about the selected row; the keys. Where there is
//! less room the charts go first, then columns by their rank.

mod backend;
mod bars;
mod charts;
mod help;
mod table;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::app::{App, Mode, Place, TABS};
use super::data::{Data, sum};
use super::listing::{Align, Listing};
use super::moment;
use crate::cli::table::Tone;
use crate::cli::words::{short, short_bytes, span};
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
    head(frame.buffer_mut(), &mut room, app, paint);
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
    let cursor = keys(frame.buffer_mut(), foot, app, paint);
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

/// Who answers, the whole in numbers, where somebody is, and what is wrong.
fn head(buffer: &mut Buffer, room: &mut Room, app: &App, paint: Paint) {
    let data = &app.data;
    let first = room.top(1);
    let live = live(app, paint);
    let left = put_right(buffer, first, &live);
    let about = Rect {
        width: left.saturating_sub(2),
        ..first
    };
    put(buffer, about, &who(data, about.width, paint));
    if room.0.height >= 10 {
        let area = room.top(1);
        put(buffer, area, &numbers(data, paint));
    }
    let area = room.top(1);
    put(buffer, area, &tabs(app, paint));
    if room.0.height >= 14 {
        let area = room.top(1);
        let rule = "─".repeat(area.width.into());
        put(buffer, area, &Line::styled(rule, paint.soft()));
    }
    for alarm in alarms(app) {
        let area = room.top(1);
        let alarm = replaced(&format!(" ✕ {alarm}"));
        put(buffer, area, &Line::styled(alarm, paint.tone(Tone::Bad)));
    }
}

/// Which balancer it is; what there is no room for is left out as a whole.
fn who<'l>(data: &Data, room: u16, paint: Paint) -> Line<'l> {
    let stats = &data.stats;
    let parts = [
        format!(" {}", stats.version),
        format!("  {}", data.endpoint),
        format!("  up {}", span(stats.uptime_seconds)),
        format!("  {}", stats.config.path),
        format!(", generation {}", stats.config.generation),
    ];
    let mut line = Line::styled(" isobar", paint.strong());
    for part in parts {
        let part = Span::styled(replaced(&part), paint.soft());
        if line.width() + part.width() > room.into() {
            break;
        }
        line.push_span(part);
    }
    line
}

fn live<'l>(app: &App, paint: Paint) -> Line<'l> {
    match &app.data.lost {
        None => Line::from_iter([
            Span::styled("● live", paint.tone(Tone::Good)),
            Span::styled(
                format!(" {} UTC ", moment(&app.now.to_string(), app.now)),
                paint.soft(),
            ),
        ]),
        Some(lost) => {
            let at = moment(&lost.since.to_string(), app.now);
            let ago = app.now.duration_since(lost.since).as_secs_f64();
            let text = format!("✕ no answer since {at} ({}) ", span(ago));
            Line::styled(text, paint.tone(Tone::Bad))
        }
    }
}

fn numbers<'l>(data: &Data, paint: Paint) -> Line<'l> {
    let stats = &data.stats;
    let rates = data.all_rates();
    let rate = |of: Option<f64>, text: fn(f64) -> String| {
        of.map_or_else(|| "-".to_owned(), |rate| text(rate) + "/s")
    };
    let pools = || stats.pools.iter().map(|(_, pool)| pool.usable());
    let (usable, all) = pools().fold((0, 0), |sum, pool| (sum.0 + pool.0, sum.1 + pool.1));
    let held = sum(&stats.pools, |pool| pool.held);
    let connections = &stats.connections;
    let trouble = |is: bool| if is { Tone::Odd } else { Tone::Plain };
    let numbers = [
        (
            "open",
            format!(
                "{}/{}",
                short(connections.active as f64),
                short(connections.limit as f64)
            ),
            Tone::Plain,
        ),
        ("new", rate(rates.map(|r| r.new), short), Tone::Plain),
        ("in", rate(rates.map(|r| r.into), short_bytes), Tone::Plain),
        ("out", rate(rates.map(|r| r.out), short_bytes), Tone::Plain),
        ("usable", format!("{usable}/{all}"), trouble(usable < all)),
        ("held", short(held as f64), trouble(held > 0)),
    ];
    let spans = numbers.into_iter().flat_map(|(name, value, tone)| {
        // As wide as usual, so that what follows stays where it is.
        let pad = " ".repeat(9usize.saturating_sub(value.chars().count()));
        [
            Span::styled(format!(" {name} "), paint.soft()),
            Span::styled(value, paint.strong().patch(paint.tone(tone))),
            Span::raw(pad),
        ]
    });
    Line::from_iter(spans)
}

fn tabs<'l>(app: &App, paint: Paint) -> Line<'l> {
    let here = &app.path[0];
    let mut spans = Vec::new();
    for (place, (name, tab)) in TABS.iter().enumerate() {
        let style = match tab == here {
            true => paint.selected().patch(paint.strong()),
            false => Style::new(),
        };
        spans.push(Span::styled(format!(" {} {name} ", place + 1), style));
    }
    for (before, place) in app.path.iter().zip(&app.path[1..]) {
        let crumb = match place {
            Place::Pools => "pools".to_owned(),
            Place::Backends(None) => "backends".to_owned(),
            Place::Backends(Some(name)) => name.clone(),
            Place::Backend(pool, name) => match before {
                Place::Backends(Some(_)) => name.clone(),
                _ => format!("{pool}/{name}"),
            },
            Place::Listeners => "listeners".to_owned(),
            Place::Connections => "connections".to_owned(),
            Place::Events => "events".to_owned(),
        };
        spans.push(Span::styled(" › ", paint.soft()));
        spans.push(Span::styled(replaced(&crumb), paint.strong()));
    }
    Line::from(spans)
}

fn alarms(app: &App) -> Vec<String> {
    let lost = app.data.lost.as_ref().map(|lost| {
        let why = lost.why.split(';').next().unwrap_or_default();
        format!("Trying again: {why}")
    });
    let mut alarms: Vec<_> = lost.into_iter().chain(app.data.alarms()).collect();
    if alarms.len() > 2 {
        let more = alarms.len() - 1;
        alarms.truncate(1);
        alarms.push(format!("and {more} more"));
    }
    alarms
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

/// The last line: what is typed or asked, else the keys. Where the cursor is, if it is.
fn keys(buffer: &mut Buffer, area: Rect, app: &App, paint: Paint) -> Option<u16> {
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

#[cfg(test)]
mod tests;

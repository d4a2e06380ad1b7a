//! One backend: what it is, its numbers, its last fifteen minutes. Its history is listed below.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Paint, Room, charts, put};
use crate::cli::stats::{Backend, Percentiles};
use crate::cli::table::Tone;
use crate::cli::top::app::App;

use crate::cli::top::listing::backends::{tone, weight, why};
use crate::cli::top::listing::glyph;
use crate::cli::top::rates::Rates;
use crate::cli::words::{bytes, latency, short, short_bytes, since};
use crate::terminal::replaced;

/// What is known of it, above its history.
pub(super) fn draw(
    buffer: &mut Buffer,
    room: &mut Room,
    app: &App,
    pool: &str,
    name: &str,
    paint: Paint,
) {
    let found = app.data.stats.pools.find(pool);
    let Some(backend) = found.and_then(|pool| pool.backends.find(name)) else {
        let area = room.top(2);
        let text = replaced(&format!(" There is no {pool}/{name} any more."));
        return put(buffer, area, &Line::styled(text, paint.tone(Tone::Odd)));
    };
    let area = room.top(1);
    put(buffer, area, &state(backend, name, app, paint));
    let facts = facts(backend, app.data.backend_rates(pool, name));
    let lines = if room.0.height > 12 { 3 } else { 1 };
    let area = room.top(lines);
    grid(buffer, area, &facts, paint);
    if lines > 1 {
        let area = room.top(2);
        put(buffer, area, &check(backend, app, paint));
    }
    charts::of_backend(buffer, room, app, (pool, name), paint);
}

fn state<'l>(backend: &Backend, name: &str, app: &App, paint: Paint) -> Line<'l> {
    let ago = since(backend.health.since.as_deref(), app.now);
    let state = replaced(&backend.state);
    let mut rest = format!(" for {ago}");
    if let Some(why) = why(backend, app.now) {
        rest.push_str(&format!(": {why}"));
    }
    if backend.address != name {
        rest.push_str(&format!("  at {}", backend.address));
    }
    if backend.backup {
        rest.push_str("  (backup)");
    }
    Line::from_iter([
        Span::styled(
            format!(" {} {state}", glyph(&state)),
            paint.tone(tone(backend)).patch(paint.strong()),
        ),
        Span::raw(replaced(&rest)),
    ])
}

fn facts(backend: &Backend, rates: Option<Rates>) -> [(&'static str, String); 9] {
    let connections = &backend.connections;
    let rate = |of: fn(&Rates) -> f64, text: fn(f64) -> String| match &rates {
        Some(rates) => text(of(rates)) + "/s",
        None => "-".to_owned(),
    };
    let active = match connections.limit {
        0 => connections.active.to_string(),
        limit => format!("{} of {limit}", connections.active),
    };
    let times = |of: &Percentiles| match latency(of.p50) {
        none if none == "-" => none,
        p50 => format!("{p50}, p99 {}", latency(of.p99)),
    };
    [
        ("active", active),
        ("weight", weight(backend)),
        ("failed", connections.failed.to_string()),
        (
            "new",
            format!("{}, {} in all", rate(|r| r.new, short), connections.total),
        ),
        (
            "in",
            format!(
                "{}, {} in all",
                rate(|r| r.into, short_bytes),
                bytes(backend.bytes_in)
            ),
        ),
        (
            "out",
            format!(
                "{}, {} in all",
                rate(|r| r.out, short_bytes),
                bytes(backend.bytes_out)
            ),
        ),
        ("connect", times(&backend.connect_seconds)),
        ("first byte", times(&backend.first_byte_seconds)),
        ("duration", times(&backend.duration_seconds)),
    ]
}

/// Of a line, in percent: numbers that are short, those with a total, and times.
const SHARES: [u16; 3] = [22, 37, 41];

/// Three columns, each filled from the top, of which each line has as many as fit.
fn grid(buffer: &mut Buffer, area: Rect, facts: &[(&str, String)], paint: Paint) {
    let lines = usize::from(area.height.max(1));
    let mut x = area.x;
    for (column, share) in facts.chunks(lines).zip(SHARES) {
        let width = area.width * share / 100;
        let names = column.iter().map(|(name, _)| name.len());
        let name_width = names.max().unwrap_or(0);
        let part = Rect { x, width, ..area };
        for ((name, value), row) in column.iter().zip(part.rows()) {
            let line = Line::from_iter([
                Span::styled(format!(" {name:<name_width$} "), paint.soft()),
                Span::raw(value.clone()),
            ]);
            put(buffer, row, &line);
        }
        x += width;
    }
}

fn check<'l>(backend: &Backend, app: &App, paint: Paint) -> Line<'l> {
    let health = &backend.health;
    let ago = since(health.last_at.as_deref(), app.now);
    let took = latency(health.latency_seconds);
    let (text, tone) = match (&*health.kind, health.last_ok) {
        ("none", _) => ("none".to_owned(), Tone::Plain),
        (kind, None) => (format!("{kind}, no result yet"), Tone::Plain),
        (kind, Some(true)) => (format!("{kind}, passed in {took}, {ago} ago"), Tone::Plain),
        (kind, Some(false)) => {
            let why = health.last_error.as_deref().unwrap_or("no reason given");
            (format!("{kind}, {why}, {ago} ago"), Tone::Bad)
        }
    };
    Line::from_iter([
        Span::styled(" check  ", paint.soft()),
        Span::styled(replaced(&text), paint.tone(tone)),
    ])
}

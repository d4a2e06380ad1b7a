//! The last fifteen minutes in a few lines, with what happened in them.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{Paint, Room, bars, put};
use crate::cli::table::Tone;
use crate::cli::top::answers::{Event, List, POINTS, PoolSeries, Track};
use crate::cli::top::app::App;
use crate::cli::top::listing::glyph;
use crate::cli::words::{latency, short, short_bytes};

/// Before the bars: what they are.
const NAME: u16 = 9;
/// Behind them: how much it is.
const VALUE: u16 = 22;
/// Lines of a table that a chart must leave.
const LINES_OF_TABLE: u16 = 6;

/// One line, or a few, of bars.
pub(super) struct Chart {
    pub(super) name: &'static str,
    pub(super) values: Vec<Option<f64>>,
    pub(super) words: fn(f64) -> String,
}

fn per_second(value: f64) -> String {
    short(value) + "/s"
}

fn bytes_per_second(value: f64) -> String {
    short_bytes(value) + "/s"
}

fn time(seconds: f64) -> String {
    latency(Some(seconds))
}

/// Of all pools together.
pub(super) fn of_all(buffer: &mut Buffer, room: &mut Room, app: &App, paint: Paint) {
    let pools: Vec<_> = match &app.data.series {
        Some(series) => series.pools.iter().map(|(_, pool)| pool).collect(),
        None => Vec::new(),
    };
    let all = charts(&pools, app.data.step());
    draw(buffer, room, app, &all, &[], |_| true, paint);
}

/// Of one pool.
pub(super) fn of_pool(buffer: &mut Buffer, room: &mut Room, app: &App, pool: &str, paint: Paint) {
    let series: Vec<_> = app.data.pool_series(pool).into_iter().collect();
    let all = charts(&series, app.data.step());
    let about = |event: &Event| event.turn.as_ref().is_none_or(|turn| turn.pool == pool);
    draw(buffer, room, app, &all, &[], about, paint);
}

/// Of one backend, with its states.
pub(super) fn of_backend(
    buffer: &mut Buffer,
    room: &mut Room,
    app: &App,
    (pool, name): (&str, &str),
    paint: Paint,
) {
    let details = app.data.details(pool);
    let series = details.and_then(|pool| pool.backends.find(name));
    let step = app.data.step();
    let (new, open, bytes, p99, states): (_, _, _, _, &[_]) = match series {
        Some(series) => (
            each(&series.connections, step),
            each(&series.active, 1.0),
            added(
                &each(&series.bytes_in, step),
                &each(&series.bytes_out, step),
            ),
            series.connect_p99.clone(),
            &series.state,
        ),
        None => (Vec::new(), Vec::new(), Vec::new(), Vec::new(), &[]),
    };
    let all = [
        chart("New", new, per_second),
        chart("Open", open, short),
        chart("Payload", bytes, bytes_per_second),
        chart("Connect", p99, time),
    ];
    let about = |event: &Event| {
        let turn = event.turn.as_ref();
        turn.is_none_or(|turn| turn.pool == pool && turn.backend == name)
    };
    draw(buffer, room, app, &all, states, about, paint);
}

fn charts(pools: &[&PoolSeries], step: f64) -> [Chart; 4] {
    let total = |of: fn(&PoolSeries) -> &List<u64>, step: f64| {
        let lists = pools.iter().map(|pool| each(of(pool), step));
        lists
            .reduce(|one, other| added(&one, &other))
            .unwrap_or_default()
    };
    let bytes = added(
        &total(|pool| &pool.bytes_in, step),
        &total(|pool| &pool.bytes_out, step),
    );
    [
        chart("New", total(|pool| &pool.connections, step), per_second),
        chart("Open", total(|pool| &pool.active, 1.0), short),
        chart("Payload", bytes, bytes_per_second),
        chart("Held", total(|pool| &pool.held, 1.0), short),
    ]
}

fn chart(name: &'static str, values: Vec<Option<f64>>, words: fn(f64) -> String) -> Chart {
    Chart {
        name,
        values,
        words,
    }
}

fn each(list: &List<u64>, step: f64) -> Vec<Option<f64>> {
    list.iter()
        .map(|value| value.map(|n| n as f64 / step))
        .collect()
}

/// Point by point, of lists that end now.
fn added(one: &[Option<f64>], other: &[Option<f64>]) -> Vec<Option<f64>> {
    let length = one.len().max(other.len());
    let at = |list: &[Option<f64>], age: usize| {
        let place = list.len().checked_sub(age + 1)?;
        list[place]
    };
    let sum = |age| match (at(one, age), at(other, age)) {
        (Some(one), Some(other)) => Some(one + other),
        (one, other) => one.or(other),
    };
    (0..length).rev().map(sum).collect()
}

/// Draws them where they leave enough for the table below: bars, states where there are any,
/// marks of what happened, the time.
fn draw(
    buffer: &mut Buffer,
    room: &mut Room,
    app: &App,
    charts: &[Chart],
    states: &[Option<Track>],
    about: impl Fn(&Event) -> bool,
    paint: Paint,
) {
    let others = 2 + u16::from(!states.is_empty());
    let lines = charts.len() as u16;
    let left = room.0.height.saturating_sub(LINES_OF_TABLE + others + 1);
    // A few, rather than all in no height.
    let (shown, height) = match left / lines {
        0 => (left.into(), 1),
        1..4 => (charts.len(), 1),
        4..8 => (charts.len(), 2),
        _ => (charts.len(), 3),
    };
    if shown == 0 {
        return;
    }
    for chart in &charts[..shown] {
        let area = room.top(height);
        draw_one(buffer, area, chart, paint);
    }
    let width = usize::from(bars_of(room.0).width);
    if !states.is_empty() {
        let area = room.top(1);
        put(buffer, area, &name("State", paint));
        put(buffer, bars_of(area), &track(states, width, paint));
    }
    let area = room.top(1);
    put(buffer, area, &name("Events", paint));
    let events = app.data.events.iter().filter(|e| e.is_mark() && about(e));
    let line = marks(events, app, width, paint);
    put(buffer, bars_of(area), &line);
    let area = room.top(1);
    put(
        buffer,
        bars_of(area),
        &Line::styled(scale(width), paint.soft()),
    );
    room.top(1);
}

fn draw_one(buffer: &mut Buffer, area: Rect, chart: &Chart, paint: Paint) {
    let bars_area = bars_of(area);
    let lines = bars::bars(&chart.values, bars_area.width.into(), area.height.into());
    for (line, row) in lines.into_iter().zip(bars_area.rows()) {
        put(buffer, row, &Line::styled(line, paint.accent()));
    }
    // Beside the bottom, where the bars begin.
    let bottom = Rect {
        y: area.y + area.height - 1,
        height: 1,
        ..area
    };
    put(buffer, bottom, &name(chart.name, paint));
    let known = chart.values.iter().flatten();
    let most = known.copied().reduce(f64::max);
    if let (Some(most), last) = (most, chart.values.last().copied().flatten()) {
        let now = last.map_or_else(|| "-".to_owned(), chart.words);
        let value = Rect {
            x: bars_area.x + bars_area.width,
            width: VALUE.min(area.width),
            ..bottom
        };
        let line = Line::from_iter([
            Span::styled(format!(" {now:>7}"), paint.strong()),
            Span::styled(format!("  most {}", (chart.words)(most)), paint.soft()),
        ]);
        put(buffer, value, &line);
    }
}

fn name(text: &'static str, paint: Paint) -> Line<'static> {
    Line::styled(format!(" {text}"), paint.soft())
}

/// The part of a line in which time goes from left to right.
fn bars_of(area: Rect) -> Rect {
    let width = area.width.saturating_sub(NAME + VALUE);
    Rect {
        x: area.x + NAME,
        width: bars::cells(width.into()) as u16,
        ..area
    }
}

/// The worst state of each cell.
fn track<'l>(states: &[Option<Track>], width: usize, paint: Paint) -> Line<'l> {
    let cells = bars::resampled(states, width, Track::max);
    let span = |state: Option<Track>| match state {
        None => Span::raw(" "),
        Some(Track::Up) => Span::styled("▁", paint.tone(Tone::Good)),
        Some(state) => {
            let tone = Tone::of_state(state.word());
            Span::styled(glyph(state.word()), paint.tone(tone))
        }
    };
    Line::from_iter(cells.into_iter().map(span))
}

/// When something happened: a cross where something went wrong.
fn marks<'l, 'e>(
    events: impl Iterator<Item = &'e Event>,
    app: &App,
    width: usize,
    paint: Paint,
) -> Line<'l> {
    let mut cells: Vec<Option<bool>> = vec![None; bars::cells(width)];
    for event in events {
        let Ok(at) = event.at.parse::<jiff::Timestamp>() else {
            continue;
        };
        let age = app.now.duration_since(at).as_secs_f64().max(0.0) / app.data.step();
        if let Some(cell) = bars::cell_of(age as usize, width) {
            let bad = cells[cell].unwrap_or(false) || event.bad;
            cells[cell] = Some(bad);
        }
    }
    let span = |cell: Option<bool>| match cell {
        None => Span::styled(" ", Style::new()),
        Some(true) => Span::styled("✕", paint.tone(Tone::Bad)),
        Some(false) => Span::raw("↑"),
    };
    Line::from_iter(cells.into_iter().map(span))
}

/// The time below the bars.
fn scale(width: usize) -> String {
    let cells = bars::cells(width);
    let minutes = |n: usize| n * 60 / crate::series::STEP.as_secs() as usize;
    let mut line = String::new();
    for (ago, text) in [(15, "15 min ago"), (10, "10"), (5, "5")] {
        let cell = bars::cell_of(minutes(ago).min(POINTS) - 1, width).unwrap_or(0);
        if line.chars().count() <= cell {
            line.push_str(&" ".repeat(cell - line.chars().count()));
            line.push_str(text);
        }
    }
    let pad = cells.saturating_sub(line.chars().count() + 3);
    format!("{line}{}now", " ".repeat(pad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_different_lengths_are_added_from_their_ends() {
        let sum = added(&[Some(1.0), None, Some(3.0)], &[Some(10.0)]);
        assert_eq!(sum, [Some(1.0), None, Some(13.0)]);
        assert_eq!(added(&[], &[]), []);
    }

    #[test]
    fn the_scale_has_its_times_where_their_bars_are() {
        let scale = scale(45);
        assert_eq!(scale, "15 min ago     10             5           now");
        assert_eq!(scale.chars().count(), 45);
    }
}

//! The top of the screen: who answers, how much there is of everything, where somebody is.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{Paint, Room, put, put_right};
use crate::cli::table::Tone;
use crate::cli::top::app::{App, Place, TABS};
use crate::cli::top::data::{Data, sum};
use crate::cli::top::moment;
use crate::cli::words::{short, short_bytes, span};
use crate::terminal::replaced;

/// Who answers, the whole in numbers, where somebody is, and what is wrong.
pub(super) fn draw(buffer: &mut Buffer, room: &mut Room, app: &App, paint: Paint) {
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

//! A table in the room that there is.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{Paint, bars, put};
use crate::cli::top::listing::{Align, Column, Listing, Row, Sort};

/// Before the first column: whether the row is selected.
const MARGIN: u16 = 2;
/// Wider bars say no more.
const MOST_BARS: usize = 60;

/// How wide each column is; 0: there is no room for it.
///
/// Columns of the highest rank go first. What is left over goes to those that were cut, then to
/// the bars.
pub(super) fn widths(
    columns: &[Column],
    rows: &[&Row<'_>],
    sort: Option<Sort>,
    width: u16,
) -> Vec<usize> {
    let mut room = usize::from(width.saturating_sub(MARGIN));
    let wanted: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let marked = sort.is_some_and(|sort| sort.column == index);
            let title = column.title.chars().count() + usize::from(marked);
            let texts = rows
                .iter()
                .map(|row| Span::raw(&row.cells[index].text).width());
            texts.max().unwrap_or(0).max(title).max(column.usual)
        })
        .collect();
    let least = |index: usize| match columns[index].least {
        0 => wanted[index],
        least => wanted[index].min(least.max(columns[index].title.chars().count())),
    };
    let mut widths: Vec<_> = (0..columns.len()).map(least).collect();
    loop {
        let kept = widths.iter().filter(|width| **width > 0).count();
        let needed = widths.iter().sum::<usize>() + kept.saturating_sub(1);
        let going = (0..columns.len())
            .filter(|index| widths[*index] > 0 && columns[*index].rank > 0)
            .max_by_key(|index| columns[*index].rank);
        match going {
            Some(index) if needed > room => widths[index] = 0,
            _ => {
                room = room.saturating_sub(needed);
                break;
            }
        }
    }
    for (index, width) in widths.iter_mut().enumerate() {
        let is_bars = columns[index].align == Align::Bars;
        if *width > 0 && !is_bars {
            let more = (wanted[index] - *width).min(room);
            *width += more;
            room -= more;
        }
    }
    for (index, width) in widths.iter_mut().enumerate() {
        if *width > 0 && columns[index].align == Align::Bars {
            *width = (*width + room).min(MOST_BARS);
        }
    }
    widths
}

/// What the columns are.
pub(super) fn headings(
    buffer: &mut Buffer,
    area: Rect,
    listing: &Listing<'_>,
    widths: &[usize],
    sort: Option<Sort>,
    paint: Paint,
) {
    let mut spans = vec![Span::raw(" ".repeat(MARGIN.into()))];
    for (index, (column, width)) in listing.columns.iter().zip(widths).enumerate() {
        let (title, style) = match sort.filter(|sort| sort.column == index) {
            Some(sort) => {
                let arrow = if sort.ascending { '▴' } else { '▾' };
                (
                    format!("{}{arrow}", column.title),
                    paint.strong().patch(paint.accent()),
                )
            }
            None => (column.title.to_owned(), paint.soft()),
        };
        push(&mut spans, &title, column.align, *width, style);
    }
    put(buffer, area, &Line::from(spans));
}

/// Rows, of which one is selected.
pub(super) fn rows(
    buffer: &mut Buffer,
    area: Rect,
    columns: &[Column],
    rows: &[&Row<'_>],
    widths: &[usize],
    selected: usize,
    paint: Paint,
) {
    for (index, (row, line)) in rows.iter().zip(area.rows()).enumerate() {
        let is_selected = index == selected;
        let mut spans = vec![Span::raw(if is_selected { "▸ " } else { "  " })];
        for ((column, cell), width) in columns.iter().zip(&row.cells).zip(widths) {
            let (text, style) = match column.align {
                Align::Bars => (line_of(row, *width), paint.accent()),
                _ => (cell.text.clone(), paint.tone(cell.tone)),
            };
            // Colours on a reversed row would be its ground.
            let is_bars = column.align == Align::Bars;
            let style = if is_selected && !is_bars {
                Style::new()
            } else {
                style
            };
            push(&mut spans, &text, column.align, *width, style);
        }
        put(buffer, line, &Line::from(spans));
        if is_selected {
            buffer.set_style(words_of(line, columns, widths), paint.selected());
        }
    }
}

/// The part of a line without bars, which would be their own ground if they were reversed.
fn words_of(line: Rect, columns: &[Column], widths: &[usize]) -> Rect {
    let (mut words, mut bars) = (MARGIN - 1, 0);
    for (column, width) in columns.iter().zip(widths).filter(|(_, width)| **width > 0) {
        match column.align {
            Align::Bars => bars += width,
            _ => words += *width as u16 + 1,
        }
    }
    match bars {
        0 => line,
        _ => Rect {
            width: words.min(line.width),
            ..line
        },
    }
}

fn line_of(row: &Row<'_>, width: usize) -> String {
    let values: Vec<_> = row
        .bars
        .iter()
        .map(|value| value.map(|n| n as f64))
        .collect();
    bars::bars(&values, width, 1).concat()
}

/// One cell, padded or cut to its width, and a space behind it.
fn push(spans: &mut Vec<Span<'_>>, text: &str, align: Align, width: usize, style: Style) {
    if width == 0 {
        return;
    }
    let text = cut(text, width);
    let pad = " ".repeat(width - Span::raw(&text).width());
    let text = Span::styled(text, style);
    match align {
        Align::Right => spans.extend([Span::raw(pad), text]),
        Align::Left | Align::Bars => spans.extend([text, Span::raw(pad)]),
    }
    spans.push(Span::raw(" "));
}

/// At most this wide; what is cut off is an ellipsis.
fn cut(text: &str, width: usize) -> String {
    if Span::raw(text).width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for character in text.chars() {
        cut.push(character);
        if Span::raw(&cut).width() >= width {
            cut.pop();
            break;
        }
    }
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::super::super::app::Place;
    use super::super::super::testing::{app, large};
    use super::*;

    fn shown(width: u16, sort: Option<Sort>) -> Vec<(&'static str, usize)> {
        let mut app = app();
        app.open(Place::Backends(Some("web".to_owned())), String::new());
        let listing = app.listing();
        let rows: Vec<_> = listing.rows.iter().collect();
        let widths = widths(listing.columns, &rows, sort, width);
        let columns = listing.columns.iter().map(|column| column.title);
        columns
            .zip(widths)
            .filter(|(_, width)| *width > 0)
            .collect()
    }

    #[test]
    fn columns_go_by_rank_where_there_is_no_room() {
        let titles = |width| -> Vec<_> { shown(width, None).into_iter().map(|(t, _)| t).collect() };
        assert_eq!(
            titles(80),
            [
                "BACKEND", "STATE", "SINCE", "ACTIVE", "NEW/S", "IN/S", "OUT/S", "P50", "P99",
                "FAILED"
            ]
        );
        assert_eq!(titles(160).len(), 13);
        assert_eq!(titles(40), ["BACKEND", "STATE", "ACTIVE", "NEW/S"]);
        assert_eq!(titles(10), ["BACKEND", "STATE", "ACTIVE"]);
    }

    #[test]
    fn a_row_is_never_wider_than_its_room() {
        for width in 30..200 {
            let needed: usize = shown(width, None).iter().map(|(_, width)| width + 1).sum();
            assert!(needed < usize::from(width), "{needed} of {width}");
        }
    }

    #[test]
    fn a_column_keeps_its_width_while_its_values_change() {
        let width = |n| {
            let mut app = large(n);
            app.go(1);
            let listing = app.listing();
            let rows: Vec<_> = listing.rows.iter().collect();
            widths(listing.columns, &rows, None, 80)
        };
        assert_eq!(width(3), width(140));
    }

    #[test]
    fn what_is_cut_ends_with_an_ellipsis() {
        assert_eq!(cut("web/oak", 7), "web/oak");
        assert_eq!(cut("web/oak", 5), "web/…");
        assert_eq!(cut("日本語", 5), "日本…");
    }
}

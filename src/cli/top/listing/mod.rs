//! Rows under headings: what is listed, in which order, and what of it is left by a filter.
//!
//! Pure, and without a screen: how wide a column becomes is for whoever draws it to say.

pub(super) mod backends;
pub(super) mod connections;
pub(super) mod events;
pub(super) mod history;
pub(super) mod listeners;
pub(super) mod pools;

use std::cmp::Ordering;

use super::rates::Rates;
use crate::cli::table::Tone;
use crate::terminal::replaced;

/// How a column stands, and what becomes of it where there is no room for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) align: Align,
    /// Wide enough for usual values, so that it keeps its place while they change.
    pub(super) usual: usize,
    /// It may be cut to this; 0: it is not cut.
    pub(super) least: usize,
    /// The highest goes first; 0: it stays.
    pub(super) rank: u8,
}

/// On which side the text of a column begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
    /// No text, but the last fifteen minutes.
    Bars,
}

/// A column of words.
const fn words(title: &'static str, usual: usize, least: usize, rank: u8) -> Column {
    Column {
        title,
        align: Align::Left,
        usual,
        least,
        rank,
    }
}

/// A column of numbers.
const fn numbers(title: &'static str, usual: usize, rank: u8) -> Column {
    Column {
        title,
        align: Align::Right,
        usual,
        least: 0,
        rank,
    }
}

/// The last fifteen minutes of each row.
const BARS: Column = Column {
    title: "NEW, 15 MIN",
    align: Align::Bars,
    usual: 12,
    least: 12,
    rank: 8,
};

/// What a cell is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum By {
    Text(String),
    Number(f64),
}

impl By {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Number(one), Self::Number(other)) => one.total_cmp(other),
            (Self::Text(_), Self::Number(_)) => Ordering::Less,
            (Self::Number(_), Self::Text(_)) => Ordering::Greater,
        }
    }
}

/// One cell: what is read, and what is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
    pub(super) by: By,
}

impl Cell {
    fn words(text: impl AsRef<str>) -> Self {
        let text = replaced(text.as_ref());
        Self {
            by: By::Text(text.to_lowercase()),
            tone: Tone::Plain,
            text,
        }
    }

    fn number(text: String, by: f64) -> Self {
        Self {
            text,
            tone: Tone::Plain,
            by: By::Number(by),
        }
    }

    /// Nothing to show, less than everything.
    fn none() -> Self {
        Self::number("-".to_owned(), -1.0)
    }

    /// A number, if there is one.
    fn maybe(value: Option<f64>, text: impl Fn(f64) -> String) -> Self {
        value.map_or_else(Self::none, |value| Self::number(text(value), value))
    }

    /// What comes in a second, if that is known.
    fn rate(rates: Option<Rates>, of: fn(&Rates) -> f64, text: fn(f64) -> String) -> Self {
        Self::maybe(rates.as_ref().map(of), text)
    }

    /// A count that is worth a look when it is not 0.
    fn trouble(count: u64, text: String) -> Self {
        let cell = Self::number(text, count as f64);
        match count {
            0 => cell,
            _ => cell.toned(Tone::Odd),
        }
    }

    /// The state of a backend: a shape, a word, a colour.
    fn state(state: &str) -> Self {
        let text = replaced(state);
        Self {
            text: format!("{} {text}", glyph(&text)),
            tone: Tone::of_state(&text),
            by: By::Number(rank(&text)),
        }
    }

    fn toned(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

/// A shape for each state, so that nobody has to tell colours apart.
pub(super) fn glyph(state: &str) -> &'static str {
    match state {
        "up" => "●",
        "down" => "✕",
        "ejected" => "▲",
        "draining" => "◐",
        "maintenance" => "□",
        "starting" => "○",
        "removed" => "–",
        _ => "·",
    }
}

/// Trouble first.
fn rank(state: &str) -> f64 {
    let order = [
        "down",
        "ejected",
        "starting",
        "draining",
        "maintenance",
        "removed",
        "up",
    ];
    let place = order.iter().position(|known| *known == state);
    place.unwrap_or(order.len()) as f64
}

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Row<'d> {
    /// Its name among all rows.
    pub(super) key: String,
    pub(super) cells: Vec<Cell>,
    /// New connections of the last fifteen minutes.
    pub(super) bars: &'d [Option<u64>],
    /// What there is no column for: shown while the row is selected.
    pub(super) note: String,
    /// What a filter looks at, in lower case.
    pub(super) found_by: String,
}

/// What is listed.
#[derive(Debug)]
pub(super) struct Listing<'d> {
    pub(super) title: String,
    pub(super) columns: &'static [Column],
    /// In the order that they have where nobody wants another one.
    pub(super) rows: Vec<Row<'d>>,
    /// What is said where there are none.
    pub(super) empty: String,
    /// The rows are what the filter has found already.
    pub(super) is_filtered: bool,
}

/// An order that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sort {
    pub(super) column: usize,
    pub(super) ascending: bool,
}

impl Sort {
    /// By a column, as it is looked at first: words from A, numbers from the largest.
    fn by(columns: &[Column], column: usize) -> Self {
        let ascending = columns[column].align == Align::Left;
        Self { column, ascending }
    }

    /// The one after this, or before it; behind the last one comes none.
    pub(super) fn next(this: Option<Self>, columns: &[Column], forward: bool) -> Option<Self> {
        let sortable: Vec<_> = (0..columns.len())
            .filter(|column| columns[*column].align != Align::Bars)
            .collect();
        let place = this.and_then(|sort| sortable.iter().position(|c| *c == sort.column));
        let next = match (place, forward) {
            (None, true) => Some(0),
            (None, false) => sortable.len().checked_sub(1),
            (Some(place), true) => Some(place + 1),
            (Some(place), false) => place.checked_sub(1),
        };
        let column = sortable.get(next?)?;
        Some(Self::by(columns, *column))
    }
}

impl Listing<'_> {
    /// With the rows that `filter` finds, in the order of `sort`.
    pub(super) fn arranged(mut self, filter: &str, sort: Option<Sort>) -> Self {
        let filter = filter.trim().to_lowercase();
        if !self.is_filtered && !filter.is_empty() {
            let all = self.rows.len();
            self.rows.retain(|row| row.found_by.contains(&filter));
            self.title = format!("{} · {} of {all} match", self.title, self.rows.len());
        }
        if let Some(Sort { column, ascending }) = sort {
            self.rows.sort_by(|one, other| {
                let order = one.cells[column].by.compare(&other.cells[column].by);
                if ascending { order } else { order.reverse() }
            });
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [words("NAME", 4, 4, 0), numbers("N", 3, 0), BARS];

    fn row(name: &str, n: f64) -> Row<'static> {
        Row {
            key: name.to_owned(),
            cells: vec![
                Cell::words(name),
                Cell::number(n.to_string(), n),
                Cell::none(),
            ],
            bars: &[],
            note: String::new(),
            found_by: name.to_lowercase(),
        }
    }

    fn keys(filter: &str, sort: Option<Sort>) -> Vec<String> {
        let listing = Listing {
            title: "Things".to_owned(),
            columns: &COLUMNS,
            rows: vec![row("Birch", 2.0), row("ash", 10.0), row("oak", 2.0)],
            empty: String::new(),
            is_filtered: false,
        };
        let arranged = listing.arranged(filter, sort);
        arranged.rows.into_iter().map(|row| row.key).collect()
    }

    #[test]
    fn a_filter_ignores_case_and_an_order_keeps_what_is_equal() {
        let by = |column, ascending| Some(Sort { column, ascending });
        assert_eq!(keys("", None), ["Birch", "ash", "oak"]);
        assert_eq!(keys(" BIR", None), ["Birch"]);
        assert_eq!(keys("", by(0, true)), ["ash", "Birch", "oak"]);
        assert_eq!(keys("", by(1, true)), ["Birch", "oak", "ash"]);
        assert_eq!(keys("", by(1, false)), ["ash", "Birch", "oak"]);
    }

    #[test]
    fn orders_come_one_after_the_other_and_end_with_none() {
        let mut sort = None;
        let mut seen = Vec::new();
        for _ in 0..3 {
            sort = Sort::next(sort, &COLUMNS, true);
            seen.push(sort.map(|sort| (sort.column, sort.ascending)));
        }
        assert_eq!(seen, [Some((0, true)), Some((1, false)), None]);
        assert_eq!(Sort::next(None, &COLUMNS, false).map(|s| s.column), Some(1));
    }

    #[test]
    fn trouble_is_before_everything_else() {
        let mut states = ["up", "unheard-of", "draining", "down", "ejected"];
        states.sort_by(|one, other| rank(one).total_cmp(&rank(other)));
        assert_eq!(states, ["down", "ejected", "draining", "up", "unheard-of"]);
    }

    #[test]
    fn what_a_terminal_would_obey_is_in_no_cell() {
        assert!(!Cell::words("a\u{1b}[2J").text.contains('\u{1b}'));
        assert!(!Cell::state("up\u{9b}").text.contains('\u{9b}'));
    }
}

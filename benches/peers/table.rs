//! Tables in plain text and in Markdown: names to the left, figures to the right.

use std::fmt;

/// In Markdown, columns to the left that hold names: of the row, and of its unit.
const NAMES: usize = 2;

/// A title, a head, and rows of as many cells.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(title: impl Into<String>, head: Vec<String>) -> Self {
        Self {
            title: title.into(),
            rows: vec![head],
        }
    }

    /// Adds a row; a row shorter than the head ends early.
    pub(crate) fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Whether there is nothing below the head.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// What it is about.
    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// The head and the rows in Markdown, figures to the right; the title is left to the page.
    pub(crate) fn markdown(&self) -> String {
        let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
        let mut text = line(&self.rows[0]);
        let alignment = |column| if column < NAMES { "---" } else { "---:" };
        let alignments: Vec<_> = (0..self.rows[0].len()).map(alignment).collect();
        text += &format!("| {} |\n", alignments.join(" | "));
        text.extend(self.rows[1..].iter().map(line));
        text
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                let width = self.width(column);
                match column {
                    0 => write!(f, "  {cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Three significant digits, whole from 100 on; a dash for what is not known.
pub(crate) fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value >= 99.95 => grouped(value),
        Some(value) if value >= 9.995 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

//! Text in columns.

use std::fmt::Write;

/// What a cell means, and so its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    /// Worth a look.
    Odd,
}

impl Tone {
    /// Of the state of a backend.
    pub(super) fn of_state(state: &str) -> Self {
        match state {
            "up" => Self::Good,
            "down" | "ejected" => Self::Bad,
            _ => Self::Odd,
        }
    }

    /// SGR parameter, ECMA-48.
    fn colour(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Bad => Some("31"),
            Self::Odd => Some("33"),
        }
    }
}

/// One cell.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn new(text: impl ToString, tone: Tone) -> Self {
        Self {
            text: crate::terminal::replaced(&text.to_string()),
            tone,
        }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// A column's heading.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Self::Left(heading) | Self::Right(heading) => heading,
        }
    }
}

/// Rows under headings, two spaces between columns, none at the end of a line.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [Column; N]) -> Self {
        let rows = Vec::new();
        Self { columns, rows }
    }

    pub(super) fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    /// The lines; with `colours`, as a terminal takes them.
    pub(super) fn render(&self, colours: bool) -> String {
        let headings = self.columns.map(|column| Cell::from(column.heading()));
        let lines = || std::iter::once(&headings).chain(&self.rows);
        let widths: [usize; N] = std::array::from_fn(|column| {
            let width = |cells: &[Cell; N]| cells[column].text.chars().count();
            lines().map(width).max().unwrap_or(0)
        });
        let mut text = String::new();
        for cells in lines() {
            self.line(&mut text, cells, &widths, colours);
        }
        text
    }

    fn line(&self, text: &mut String, cells: &[Cell; N], widths: &[usize; N], colours: bool) {
        for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let pad = " ".repeat(width - cell.text.chars().count());
            let gap = if index == 0 { "" } else { "  " };
            let (before, after) = match self.columns[index] {
                Column::Left(_) if index + 1 == N => ("", ""),
                Column::Left(_) => ("", &*pad),
                Column::Right(_) => (&*pad, ""),
            };
            let shown = coloured(cell, colours);
            // Writing to a string cannot fail.
            let _ = write!(text, "{gap}{before}{shown}{after}");
        }
        text.push('\n');
    }
}

fn coloured(cell: &Cell, colours: bool) -> String {
    match cell.tone.colour().filter(|_| colours) {
        Some(colour) => format!("\u{1b}[{colour}m{}\u{1b}[0m", cell.text),
        None => cell.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let mut table = Table::new([
            Column::Left("NAME"),
            Column::Right("TOTAL"),
            Column::Left("STATE"),
        ]);
        table.row(["a-long-name".into(), 7.into(), Cell::new("up", Tone::Good)]);
        table.row(["ö".into(), 123_456.into(), Cell::new("down", Tone::Bad)]);
        table
    }

    #[test]
    fn columns_line_up_and_lines_end_with_text() {
        assert_eq!(
            table().render(false),
            "NAME          TOTAL  STATE\n\
             a-long-name       7  up\n\
             ö            123456  down\n"
        );
    }

    #[test]
    fn colours_take_no_room() {
        let plain = table().render(false);
        let coloured = table().render(true);
        assert!(coloured.contains("\u{1b}[32mup\u{1b}[0m"));
        let stripped = ["32", "31", "0"].iter().fold(coloured, |text, colour| {
            text.replace(&format!("\u{1b}[{colour}m"), "")
        });
        assert_eq!(stripped, plain);
    }
}

//! Lines under titles whose cells line up.

use std::fmt::Write;

/// What a text means, and so its colour.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Tone {
    Plain,
    Added,
    Changed,
    Removed,
    Title,
}

impl Tone {
    /// SGR parameter, ECMA-48.
    fn colour(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Added => Some("32"),
            Self::Changed => Some("33"),
            Self::Removed => Some("31"),
            Self::Title => Some("1"),
        }
    }
}

/// A line: whom it is about, and either cells that line up or a sentence.
pub(super) struct Line {
    pub(super) tone: Tone,
    /// With its sign, indented; empty: the same as the line above.
    pub(super) name: String,
    pub(super) cells: Vec<String>,
}

/// Lines under a title.
pub(super) struct Section {
    title: &'static str,
    lines: Vec<Line>,
}

impl Line {
    pub(super) fn new<const N: usize>(tone: Tone, name: String, cells: [String; N]) -> Self {
        Self {
            tone,
            name,
            cells: cells.into(),
        }
    }

    /// A sentence about the line above.
    pub(super) fn note(text: String) -> Self {
        Self::new(Tone::Plain, String::new(), [text])
    }
}

impl Section {
    pub(super) fn new(title: &'static str, lines: Vec<Line>) -> Self {
        Self { title, lines }
    }

    pub(super) fn write(&self, out: &mut String, colours: bool) {
        if self.lines.is_empty() {
            return;
        }
        let title = coloured(Tone::Title, self.title, colours);
        out.push_str(&format!("{title}\n"));
        let widths = self.widths();
        for line in &self.lines {
            let mut text = coloured(line.tone, &line.name, colours);
            let mut room = widths[0].saturating_sub(width(&line.name));
            for (cell, column) in line.cells.iter().zip(1..) {
                let _ = write!(text, "{:room$}  {cell}", "");
                let column = widths.get(column).copied().unwrap_or(0);
                room = column.saturating_sub(width(cell));
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out.push('\n');
    }

    /// Of the columns; a cell that ends its line needs none.
    fn widths(&self) -> [usize; 4] {
        let mut widths = [0; 4];
        for line in &self.lines {
            let cells = std::iter::once(&line.name).chain(&line.cells);
            let last = if line.cells.is_empty() {
                0
            } else {
                line.cells.len()
            };
            for (cell, widest) in cells.take(last).zip(&mut widths) {
                *widest = width(cell).max(*widest);
            }
        }
        widths
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn coloured(tone: Tone, text: &str, colours: bool) -> String {
    match tone.colour().filter(|_| colours && !text.is_empty()) {
        Some(colour) => format!("\u{1b}[{colour}m{text}\u{1b}[0m"),
        None => text.to_owned(),
    }
}

//! Mending a text just enough to read on behind a syntax fault.
//!
//! The `toml` parser gives up the rest of a file, or takes it for something else, where a line
//! is no `key = value`, or where a bracket is never closed. Those faults are reported, the
//! line is blanked or the bracket put in, and the text is parsed again: so that what is wrong
//! further down is found in the same go. Offsets into a mended text are taken back to the text
//! as written by its [`Shift`].

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A change that lets the parser read on.
pub(super) enum Edit {
    /// Blanks the line around an offset.
    Blank(usize),
    /// Puts a text in at an offset.
    Insert(usize, String),
}

impl Edit {
    fn offset(&self) -> usize {
        match self {
            Self::Blank(offset) | Self::Insert(offset, _) => *offset,
        }
    }
}

/// From offsets into a mended text to offsets into the text before.
#[derive(Debug, Default)]
pub(super) struct Shift {
    /// For each insertion, where it is in the mended text, and the sum of the lengths of all
    /// up to it.
    insertions: Vec<(usize, usize)>,
}

impl Shift {
    /// The offset in the text before; that of an insertion for what was inserted.
    pub(super) fn back(&self, offset: usize) -> usize {
        let count = self.insertions.partition_point(|(at, _)| *at <= offset);
        let sum = |count: usize| {
            count
                .checked_sub(1)
                .map_or(0, |last| self.insertions[last].1)
        };
        let begin = count
            .checked_sub(1)
            .map_or(0, |last| self.insertions[last].0);
        (offset - sum(count).min(offset)).max(begin - sum(count.saturating_sub(1)).min(begin))
    }
}

/// Applies every edit.
pub(super) fn apply(text: &str, mut edits: Vec<Edit>) -> (String, Shift) {
    edits.sort_by_key(Edit::offset);
    let mut out = String::with_capacity(text.len() + edits.len());
    let mut shift = Shift::default();
    let (mut from, mut sum) = (0, 0);
    for edit in edits {
        let blank = match &edit {
            Edit::Blank(offset) => line_around(text, *offset),
            Edit::Insert(offset, _) => *offset..*offset,
        };
        if blank.start < from {
            continue;
        }
        out.push_str(&text[from..blank.start]);
        from = blank.end;
        match edit {
            Edit::Blank(_) => out.extend(std::iter::repeat_n(' ', blank.len())),
            Edit::Insert(_, insertion) => {
                sum += insertion.len();
                shift.insertions.push((out.len(), sum));
                out.push_str(&insertion);
            }
        }
    }
    out.push_str(&text[from..]);
    (out, shift)
}

/// The line around an offset, without its end.
pub(super) fn line_around(text: &str, offset: usize) -> Range<usize> {
    let start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
    let end = text[offset..]
        .find('\n')
        .map_or(text.len(), |at| offset + at);
    start..end
}

/// Where the lists and tables begin that are open at the end of the text, the outermost first.
pub(super) fn still_open(tree: &DeTable<'_>, end: usize) -> Vec<usize> {
    let mut open = Vec::new();
    for (_, value) in tree {
        open_values(value, end, &mut open);
    }
    open
}

fn open_values(value: &Spanned<DeValue<'_>>, end: usize, open: &mut Vec<usize>) {
    let span = value.span();
    let items: Vec<_> = match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        DeValue::Table(table) => table.values().collect(),
        _ => return,
    };
    if span.end == end && !span.is_empty() {
        open.push(span.start);
    }
    for item in items {
        open_values(item, end, open);
    }
}

/// Where a list or table that begins at `open` and is never closed was probably meant to end:
/// before the next line that begins a table or sets a key.
pub(super) fn meant_end(text: &str, open: usize) -> usize {
    let mut at = line_around(text, open).end;
    while at < text.len() {
        let start = at + 1;
        let line = line_around(text, start);
        if begins_anew(&text[line.clone()]) {
            return start;
        }
        at = line.end;
    }
    text.len()
}

/// `[table]`, `[[table]]` or `key = …`, as opposed to an item of a list.
fn begins_anew(line: &str) -> bool {
    let line = line.trim_start();
    let header = line.trim_start_matches('[');
    let word = header.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if word.len() == header.len() {
        return false;
    }
    let is_header = header.len() < line.len() && word.starts_with(['.', ']', '\"']);
    let is_key = header.len() == line.len() && word.trim_start().starts_with('=');
    is_header || is_key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_lead_back_to_the_text_as_written() {
        let edits = vec![
            Edit::Insert(4, "]\n".to_owned()),
            Edit::Insert(2, "]".to_owned()),
        ];
        let (text, shift) = apply("[a\nb\nc", edits);
        assert_eq!(text, "[a]\nb]\n\nc");
        let back: Vec<_> = (0..=text.len()).map(|offset| shift.back(offset)).collect();
        assert_eq!(back, [0, 1, 2, 2, 3, 4, 4, 4, 5, 6]);
    }

    #[test]
    fn a_blanked_line_keeps_its_length() {
        let (text, shift) = apply("a = 1\nwhät\nb", vec![Edit::Blank(8), Edit::Blank(10)]);
        assert_eq!(text, "a = 1\n     \nb");
        assert_eq!(shift.back(9), 9);
    }

    #[test]
    fn an_open_list_ends_before_the_next_table_or_key() {
        for (rest, expected) in [
            ("\n\"a\",\n[pool.x]", 6),
            ("\n\"a\",\nkey = 1", 6),
            ("\n[\"a\"],\n[[b.c]]", 8),
            ("\n[1, 2],\n", 9),
            ("", 0),
        ] {
            let text = format!("x = [{rest}");
            assert_eq!(meant_end(&text, 4), 5 + expected, "{text}");
        }
    }
}

//! The text of a file: from byte offsets to lines, columns and what is shown of a line.
//!
//! Offsets are those of the text without its byte order mark, in bytes; columns count
//! characters. A caret stands under the right character wherever characters are one cell
//! wide; tabs are kept so that they line up too.

use std::fmt;
use std::ops::Range;

use super::hidden::{BLANK, secret_in};
use crate::terminal::is_hostile;

/// Characters shown on either side of a place. A file may be one line of megabytes.
const EXCERPT_MARGIN: usize = 100;

/// A file's text and its name.
pub(super) struct Source<'a> {
    file: &'a str,
    text: &'a str,
    /// Offset of the first byte of each line.
    starts: Vec<usize>,
}

impl<'a> Source<'a> {
    /// `text` may begin with a byte order mark, which counts as nothing.
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0)
            .chain(breaks.map(|(offset, _)| offset + 1))
            .collect();
        Self { file, text, starts }
    }

    pub(super) fn file(&self) -> &'a str {
        self.file
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// Index of the line, from 0.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset) - 1
    }

    /// A line without its end.
    pub(super) fn line_text(&self, line: usize) -> &'a str {
        &self.text[self.line_range(line)]
    }

    /// Whether a line is the header of that table.
    pub(super) fn has_header(&self, table: &str) -> bool {
        let header = format!("[{table}]");
        let mut lines = self.text.lines().map(str::trim_start);
        lines.any(|line| line.starts_with(&header))
    }

    /// A line and column from offsets that only grow.
    pub(super) fn places(&self) -> Places<'_> {
        Places {
            source: self,
            line: 0,
            offset: 0,
            column: 1,
        }
    }

    /// What to show of the line of `span`: no secret.
    pub(super) fn excerpt(&self, span: Range<usize>) -> Excerpt {
        let range = self.line_range(self.line(span.start));
        let start = self.floor(span.start).min(range.end);
        let end = self.floor(span.end).clamp(start, range.end);
        let secret = secret_in(&self.text[range.clone()]).map(|at| range.start + at);
        let shown = secret.unwrap_or(range.end);
        if secret.is_some_and(|at| at <= start) {
            return Excerpt::new(&self.text[range.start..shown], BLANK, "");
        }
        let before = &self.text[range.start..start];
        let marked = self.text[start..end.min(shown)].chars();
        let marked: String = marked.take(EXCERPT_MARGIN).collect();
        let after = &self.text[start + marked.len()..shown];
        match secret {
            None => Excerpt::new(before, &marked, after),
            Some(_) => Excerpt::new(before, &marked, &format!("{after}{BLANK}")),
        }
    }

    fn line_range(&self, line: usize) -> Range<usize> {
        let start = self.starts[line];
        let end = self.starts.get(line + 1).map(|next| next - 1);
        let text = &self.text[start..end.unwrap_or(self.text.len())];
        start..start + text.strip_suffix('\r').unwrap_or(text).len()
    }

    /// The next character boundary at or before `offset`, in the text.
    fn floor(&self, offset: usize) -> usize {
        self.text.floor_char_boundary(offset.min(self.text.len()))
    }
}

/// See [`Source::places`].
pub(super) struct Places<'a> {
    source: &'a Source<'a>,
    line: usize,
    offset: usize,
    column: usize,
}

impl Places<'_> {
    /// Line and column of `offset`, both from 1. `offset` is not below the one before: so a
    /// thousand faults on one long line are counted in one pass.
    pub(super) fn next(&mut self, offset: usize) -> (usize, usize) {
        let offset = self.source.floor(offset);
        let line = self.source.line(offset);
        if line != self.line {
            self.line = line;
            self.offset = self.source.starts[line];
            self.column = 1;
        }
        self.column += self.source.text[self.offset..offset].chars().count();
        self.offset = offset;
        (line + 1, self.column)
    }
}

/// A line, or the part of it around a place, with the place marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    text: String,
    marker: String,
}

impl Excerpt {
    fn new(before: &str, marked: &str, after: &str) -> Self {
        let (left, before) = match before.char_indices().rev().nth(EXCERPT_MARGIN) {
            Some((cut, skipped)) => ("…", &before[cut + skipped.len_utf8()..]),
            None => ("", before),
        };
        let (after, right) = match after.char_indices().nth(EXCERPT_MARGIN) {
            Some((cut, _)) => (&after[..cut], "…"),
            None => (after, ""),
        };
        let text = format!("{left}{before}{marked}{after}{right}");
        let blank = |c: char| if c == '\t' { '\t' } else { ' ' };
        let indent = left.chars().chain(before.chars()).map(blank);
        let carets = std::iter::repeat_n('^', marked.chars().count().max(1));
        Self {
            text: text.chars().map(printable).collect(),
            marker: indent.chain(carets).collect(),
        }
    }

    /// Both lines, with the number of the line in front.
    pub(super) fn with_number(&self, number: usize) -> impl fmt::Display {
        let number = number.to_string();
        let blank = " ".repeat(number.len());
        format!(" {number} | {}\n {blank} | {}", self.text, self.marker)
    }
}

/// Tabs are kept: the marker has them too.
fn printable(c: char) -> char {
    match is_hostile(c) && c != '\t' {
        true => char::REPLACEMENT_CHARACTER,
        false => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let text = "token = \"s3cret\\q\"\nhealth = { kind = 1, send = \"s3cret\" }";
        let source = Source::new("f", text);
        let shown = |what: &str| {
            let at = text.find(what).expect("it is there");
            let excerpt = source.excerpt(at..at + what.len());
            (excerpt.text, excerpt.marker)
        };
        let lines = |text: &str, marker: &str| (text.to_owned(), marker.to_owned());
        assert_eq!(shown("\\q"), lines("token = …", "        ^"));
        assert_eq!(shown("token"), lines("token = …", "^^^^^"));
        let health = lines("health = { kind = 1, send = …", "                  ^");
        assert_eq!(shown("1"), health);
    }

    #[test]
    fn columns_count_characters_and_skip_the_byte_order_mark() {
        let source = Source::new("f", "\u{feff}é = 1\nxé = 2");
        let mut places = source.places();
        assert_eq!(places.next(0), (1, 1));
        assert_eq!(places.next(3), (1, 3));
        assert_eq!(places.next(7), (2, 1));
        assert_eq!(places.next(11), (2, 4));
        assert_eq!(places.next(1000), (2, 7));
    }

    #[test]
    fn the_end_of_a_file_is_a_place_too() {
        let source = Source::new("f", "a\n");
        assert_eq!(source.places().next(2), (2, 1));
        assert_eq!(source.excerpt(2..2).text, "");
        assert_eq!(source.excerpt(2..2).marker, "^");
        assert_eq!(Source::new("f", "").places().next(0), (1, 1));
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}x{}", "a".repeat(5000), "b".repeat(5000));
        let excerpt = Source::new("f", &text).excerpt(5000..5001);
        assert_eq!(excerpt.text.chars().count(), 2 * EXCERPT_MARGIN + 3);
        assert_eq!(excerpt.marker.find('^'), Some(EXCERPT_MARGIN + 1));
        assert_eq!(excerpt.text.chars().nth(EXCERPT_MARGIN + 1), Some('x'));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let excerpt = Source::new("f", "a\u{1b}[31m = 1").excerpt(0..1);
        assert_eq!(excerpt.text, "a\u{fffd}[31m = 1");
    }

    #[test]
    fn the_marker_stays_within_its_line() {
        let excerpt = Source::new("f", "a = [\r\n1,\r\n]").excerpt(4..12);
        assert_eq!((&*excerpt.text, &*excerpt.marker), ("a = [", "    ^"));
    }
}

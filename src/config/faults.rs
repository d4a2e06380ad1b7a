//! What is wrong with a file, and where.
//!
//! Readers throw faults and warnings at a [`Sink`] as they meet them, by byte span; the sink
//! turns them into [`Problem`]s in the order of the file. A problem prints as
//!
//! ```text
//! lb.toml:7:1: unknown key `blance` in [pool.web], did you mean `balance`?
//!  7 | blance = "first"
//!    | ^^^^^^
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use super::repair::Shift;
use super::source::{Excerpt, Places, Source};
use crate::terminal;

/// How much of a file's faults is kept. Beyond it nobody reads on, and a file that is nothing
/// but faults must not take minutes or gigabytes.
const MAX_PROBLEMS: usize = 1000;

/// One fault or warning.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The file as it was named.
    pub file: String,
    /// From 1; 0: the file as a whole.
    pub line: usize,
    /// In characters from 1; 0: the file as a whole.
    pub column: usize,
    /// One sentence, with a suggestion where there is one.
    pub message: String,
    /// Whether the file is refused for it.
    #[serde(skip)]
    pub severity: Severity,
    #[serde(skip)]
    excerpt: Option<Excerpt>,
}

/// What a [`Problem`] means for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Fault,
    /// The file is used; somebody should look all the same.
    Warning,
}

impl Problem {
    /// A fault of the file as a whole, such as that it is not there.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            message: message.into(),
            severity: Severity::Fault,
            excerpt: None,
        }
    }

    /// What problems are sorted by.
    pub fn place(&self) -> (usize, usize) {
        (self.line, self.column)
    }

    /// `FILE:LINE:COLUMN`, or the file alone.
    pub fn whereabouts(&self) -> String {
        match self.line {
            0 => self.file.clone(),
            line => format!("{}:{line}:{}", self.file, self.column),
        }
    }

    /// Writes it to the log, as a warning with its place.
    pub fn log(&self) {
        tracing::warn!(place = self.whereabouts(), "{}", self.message);
    }

    /// One of what stands at `span`, without a message yet. `cursor` has not passed it.
    pub(super) fn at(source: &Source<'_>, cursor: &mut Places<'_>, span: Range<usize>) -> Self {
        let (line, column) = cursor.next(span.start);
        Self {
            line,
            column,
            excerpt: Some(source.excerpt(span)),
            ..Self::of_file(source.file(), "")
        }
    }
}

/// The first line is the problem, whatever names and values are in it: nothing of the file
/// begins a line of its own or drives the terminal.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&terminal::escaped(&self.file))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let kind = match self.severity {
            Severity::Fault => "",
            Severity::Warning => "warning: ",
        };
        write!(f, ": {kind}{}", terminal::escaped(&self.message))?;
        match &self.excerpt {
            Some(excerpt) => write!(f, "\n{}", excerpt.with_number(self.line)),
            None => Ok(()),
        }
    }
}

/// Why a file is refused: at least one fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// The faults, in the order of the file.
    pub problems: Vec<Problem>,
    /// What else was found, in the order of the file.
    pub warnings: Vec<Problem>,
}

impl Faults {
    /// The one fault of a file that cannot be read at all.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            problems: vec![Problem::of_file(file, message)],
            warnings: Vec::new(),
        }
    }

    /// The first faults in one line, each with its place and without what stands there: that may
    /// be a secret.
    pub fn summary(&self) -> String {
        const SHOWN: usize = 3;
        let shown = self.problems.iter().take(SHOWN);
        let shown = shown.map(|fault| format!("{}: {}", fault.whereabouts(), fault.message));
        let shown = shown.collect::<Vec<_>>().join("; ");
        match self.problems.len().saturating_sub(SHOWN) {
            0 => shown,
            more => format!("{shown}; and {more} more"),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().chain(&self.warnings).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Collects faults and warnings while a file is read.
pub(super) struct Sink<'s> {
    source: &'s Source<'s>,
    faults: Found,
    warnings: Found,
    /// Where the text does not parse: what was made of it is not the writer's fault as well.
    broken: BTreeSet<usize>,
    /// How the text was mended since it was written, step by step.
    shifts: Vec<Shift>,
}

impl<'s> Sink<'s> {
    pub(super) fn new(source: &'s Source<'s>) -> Self {
        Self {
            source,
            faults: Found::default(),
            warnings: Found::default(),
            broken: BTreeSet::new(),
            shifts: Vec::new(),
        }
    }

    /// From now on spans are those of a mended text.
    pub(super) fn mended(&mut self, shift: Shift) {
        self.shifts.push(shift);
    }

    pub(super) fn source(&self) -> &'s Source<'s> {
        self.source
    }

    /// The text does not parse at `span`.
    pub(super) fn syntax(&mut self, span: Range<usize>, message: impl Into<String>) {
        let span = self.as_written(span);
        self.broken.insert(span.start);
        self.faults.add(span, message.into());
    }

    /// What stands at `span` parses, but is wrong.
    pub(super) fn fault(&mut self, span: Range<usize>, message: impl Into<String>) {
        let span = self.as_written(span);
        if !self.is_broken(&span) {
            self.faults.add(span, message.into());
        }
    }

    /// What stands at `span` is right, but hardly what was meant.
    pub(super) fn warn(&mut self, span: Range<usize>, message: impl Into<String>) {
        let span = self.as_written(span);
        if !self.is_broken(&span) {
            self.warnings.add(span, message.into());
        }
    }

    /// Drops what was thrown at places that do not stand under the header of this table.
    pub(super) fn forgive_outside(&mut self, table: &str) {
        let source = self.source;
        let header = format!("[{table}]");
        let inside = |offset: usize| {
            let lines = (0..=source.line(offset)).rev();
            let headers = lines.map(|line| source.line_text(line).trim_start());
            let mut headers = headers.filter(|line| line.starts_with('['));
            headers.next().is_some_and(|line| line.starts_with(&header))
        };
        for found in [&mut self.faults, &mut self.warnings] {
            found.kept.retain(|(span, _)| inside(span.start));
            found.dropped = 0;
        }
    }

    /// The number of the line at `span`, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.source.line(self.as_written(span.clone()).start) + 1
    }

    /// The text at `span` as the file has it.
    pub(super) fn written(&self, span: &Range<usize>) -> &'s str {
        let span = self.as_written(span.clone());
        self.source.text().get(span).unwrap_or_default()
    }

    /// A span of the text as it was before it was mended.
    fn as_written(&self, span: Range<usize>) -> Range<usize> {
        let back = |offset| {
            self.shifts
                .iter()
                .rev()
                .fold(offset, |at, shift| shift.back(at))
        };
        back(span.start)..back(span.end)
    }

    /// Further faults are only counted: no need to think about suggestions any more.
    pub(super) fn is_full(&self) -> bool {
        self.faults.kept.len() >= MAX_PROBLEMS
    }

    pub(super) fn has_faults(&self) -> bool {
        !self.faults.kept.is_empty()
    }

    /// The lines that do not parse, without their indentation.
    pub(super) fn broken_lines(&self) -> impl Iterator<Item = &'s str> {
        let line = |at: &usize| self.source.line_text(self.source.line(*at));
        self.broken.iter().map(line).map(str::trim_start)
    }

    /// Whether what stands at `span` is all that could be made of what does not parse.
    fn is_broken(&self, span: &Range<usize>) -> bool {
        self.broken.range(span.start..=span.end).next().is_some()
    }

    /// Faults and warnings, each in the order of the file.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        (
            self.faults.finish(self.source, Severity::Fault),
            self.warnings.finish(self.source, Severity::Warning),
        )
    }
}

#[derive(Default)]
struct Found {
    kept: Vec<(Range<usize>, String)>,
    dropped: usize,
}

impl Found {
    fn add(&mut self, span: Range<usize>, message: String) {
        if self.kept.len() < MAX_PROBLEMS {
            self.kept.push((span, message));
        } else {
            self.dropped += 1;
        }
    }

    fn finish(mut self, source: &Source<'_>, severity: Severity) -> Vec<Problem> {
        self.kept
            .sort_by(|a, b| (a.0.start, &a.1).cmp(&(b.0.start, &b.1)));
        self.kept
            .dedup_by(|a, b| (a.0.start, &a.1) == (b.0.start, &b.1));
        let mut places = source.places();
        let problem = |(span, message): (Range<usize>, String)| {
            let (line, column) = places.next(span.start);
            Problem {
                line,
                column,
                severity,
                excerpt: Some(source.excerpt(span)),
                ..Problem::of_file(source.file(), message)
            }
        };
        let mut problems: Vec<_> = self.kept.into_iter().map(problem).collect();
        if self.dropped > 0 {
            let message = format!("… and {} more", self.dropped);
            problems.push(Problem {
                severity,
                ..Problem::of_file(source.file(), message)
            });
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_prints_its_place_its_line_and_a_marker_under_it() {
        let source = Source::new("lb.toml", "a = 1\n\tbad = 2\r\n");
        let mut sink = Sink::new(&source);
        sink.fault(7..10, "no such key");
        let (faults, warnings) = sink.finish();
        assert_eq!(
            faults[0].to_string(),
            "lb.toml:2:2: no such key\n 2 | \tbad = 2\n   | \t^^^"
        );
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_problem_is_one_line_and_what_it_shows_another() {
        let text = "\"a\u{1b}[31m\u{2028}b\" = 1";
        let source = Source::new("lb\n.toml", text);
        let mut sink = Sink::new(&source);
        sink.fault(0..text.len() - 4, "unknown key `a\u{1b}[31m\n\u{202e}b`");
        let shown = sink.finish().0[0].to_string();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines.len(), 3, "{shown}");
        assert_eq!(
            lines[0],
            "lb\\n.toml:1:1: unknown key `a\\u{1b}[31m\\n\\u{202e}b`"
        );
        assert!(!shown.replace('\n', "").contains(terminal::is_hostile));
    }

    #[test]
    fn problems_come_in_the_order_of_the_file_and_each_once() {
        let source = Source::new("f", "one\ntwo\n");
        let mut sink = Sink::new(&source);
        for (start, message) in [(4, "b"), (0, "z"), (0, "a"), (4, "b")] {
            sink.fault(start..start + 1, message);
        }
        let messages: Vec<_> = sink.finish().0.into_iter().map(|p| p.message).collect();
        assert_eq!(messages, ["a", "z", "b"]);
    }

    #[test]
    fn what_is_made_of_a_value_that_does_not_parse_is_no_second_fault() {
        let source = Source::new("f", "x = oops\ny = 1\n");
        let mut sink = Sink::new(&source);
        sink.syntax(4..8, "strings are quoted");
        sink.fault(4..8, "no such word");
        sink.fault(0..1, "unknown key");
        assert_eq!(sink.finish().0.len(), 2);
    }

    #[test]
    fn a_file_of_nothing_but_faults_ends_with_a_count() {
        let text = "x\n".repeat(MAX_PROBLEMS + 7);
        let source = Source::new("f", &text);
        let mut sink = Sink::new(&source);
        for line in 0..MAX_PROBLEMS + 7 {
            sink.fault(line * 2..line * 2 + 1, "no");
        }
        let faults = sink.finish().0;
        assert_eq!(faults.len(), MAX_PROBLEMS + 1);
        assert_eq!(faults[MAX_PROBLEMS].to_string(), "f: … and 7 more");
    }

    #[test]
    fn a_warning_says_so() {
        let source = Source::new("f", "x = 1");
        let mut sink = Sink::new(&source);
        sink.warn(0..1, "no effect");
        assert!(!sink.has_faults());
        let warning = sink.finish().1.remove(0).to_string();
        assert!(
            warning.starts_with("f:1:1: warning: no effect\n"),
            "{warning}"
        );
    }
}

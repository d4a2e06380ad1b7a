//! From bytes to a text that parses, with every syntax fault that can be found.
//!
//! The `toml` parser recovers from most faults and goes on; what it leaves in the tree in
//! place of what it could not read is hidden by [`Sink::syntax`], line by line. From the
//! others [`super::repair`] recovers. The parser's messages are those of a grammar; the
//! frequent ones are said here in words of somebody who writes a file.

use std::borrow::Cow;
use std::ops::Range;

use toml::de::{DeTable, Error};

use super::faults::{Faults, Sink};
use super::hidden::secret_in;
use super::repair::{self, Edit};
use super::source::Source;

/// How often a text is mended. Each time finds all faults of its kind but one: a list that is
/// never closed hides the next.
const MAX_REPAIRS: usize = 10;

/// The text of a file, or why it has none.
///
/// # Errors
///
/// Bytes that are not UTF-8, with the place of the first.
pub(super) fn text(file: &str, bytes: Vec<u8>) -> Result<String, Faults> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Faults::of_file(
            file,
            "the file is UTF-16: save it as UTF-8",
        ));
    }
    String::from_utf8(bytes).map_err(|error| not_utf8(file, &error))
}

fn not_utf8(file: &str, error: &std::string::FromUtf8Error) -> Faults {
    let valid = error.utf8_error().valid_up_to();
    let byte = error.as_bytes()[valid];
    // Its first replacement character stands at the offset of the first bad byte.
    let text = String::from_utf8_lossy(error.as_bytes());
    let source = Source::new(file, &text);
    let mark = text.len() - source.text().len();
    let mut sink = Sink::new(&source);
    let message = format!("the file is not UTF-8: byte 0x{byte:02x}");
    sink.syntax(valid - mark..valid - mark, message);
    let (problems, warnings) = sink.finish();
    Faults { problems, warnings }
}

/// Throws every syntax fault of the source at the sink. What is given back parses as far as it
/// can be read; offsets into it are those that the sink takes from now on.
pub(super) fn readable<'s>(sink: &mut Sink<'s>) -> Cow<'s, str> {
    let mut text = Cow::Borrowed(sink.source().text());
    for round in 0.. {
        let (tree, errors) = DeTable::parse_recoverable(&text);
        let repair = |error| repair(&text, tree.get_ref(), error);
        let mut repairs: Vec<_> = errors.iter().filter_map(repair).collect();
        repairs.dedup_by_key(|repair| repair.place.clone());
        if repairs.is_empty() || round == MAX_REPAIRS {
            for error in errors {
                let span = error.span().unwrap_or(0..0);
                let line = |at: usize| sink.line(&(at..at));
                let message = in_words(&text, &span, error.message(), &line);
                sink.syntax(span, message);
            }
            break;
        }
        let mut edits = Vec::with_capacity(repairs.len());
        for repair in repairs {
            sink.syntax(repair.place, repair.message);
            edits.push(repair.edit);
        }
        if sink.is_full() {
            break;
        }
        let (mended, shift) = repair::apply(&text, edits);
        text = Cow::Owned(mended);
        sink.mended(shift);
    }
    text
}

/// A fault from which the parser does not recover, and a change with which it does.
struct Repair {
    place: Range<usize>,
    message: String,
    edit: Edit,
}

fn repair(text: &str, tree: &DeTable<'_>, error: &Error) -> Option<Repair> {
    let span = error.span()?;
    match error.message() {
        "key with no value, expected `=`" | "missing value for key, expected `=`" => {
            let (place, message) = no_value(text, span.start);
            let edit = Edit::Blank(span.start);
            Some(Repair {
                place,
                message,
                edit,
            })
        }
        "extra `=`, expected nothing" => Some(Repair {
            message: "there is one `=` too many".to_owned(),
            edit: Edit::Blank(span.start),
            place: span,
        }),
        "unclosed table, expected `]`" | "unclosed array table, expected `]`" => {
            Some(unclosed_header(span, "]"))
        }
        "unclosed array table, expected `]]`" => Some(unclosed_header(span, "]]")),
        "unclosed array, expected `]`" | "unclosed inline table, expected `}`" => {
            unclosed_value(text, tree, span.start)
        }
        _ => None,
    }
}

/// A line without `=`.
fn no_value(text: &str, offset: usize) -> (Range<usize>, String) {
    let line = repair::line_around(text, offset);
    let key = text[line.clone()].split(':').next().unwrap_or_default();
    let colon = line.start + key.len();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-. ".contains(c);
    if colon < line.end && key.trim_start().chars().all(plain) {
        let message = "a key and its value are divided by `=`, not `:`";
        return (colon..colon + 1, message.to_owned());
    }
    (offset..offset, "a key needs `=` and a value".to_owned())
}

fn unclosed_header(place: Range<usize>, closing: &str) -> Repair {
    Repair {
        message: format!("the header of this table is not closed: `{closing}` is missing"),
        edit: Edit::Insert(place.start, closing.to_owned()),
        place,
    }
}

/// The outermost list or table that is open at the end of the text, and what is open within
/// it. What begins behind the end that was probably meant has only been swallowed.
fn unclosed_value(text: &str, tree: &DeTable<'_>, end: usize) -> Option<Repair> {
    let open = repair::still_open(tree, end);
    let first = *open.first().filter(|_| text[end..].trim().is_empty())?;
    let meant_end = repair::meant_end(text, first);
    let inside = open.iter().filter(|at| **at < meant_end).rev();
    let closing: String = inside
        .map(|at| {
            if text[*at..].starts_with('{') {
                '}'
            } else {
                ']'
            }
        })
        .collect();
    Some(Repair {
        place: first..first + 1,
        message: format!("this is never closed: `{closing}` is missing"),
        edit: Edit::Insert(meant_end, format!("{closing}\n")),
    })
}

/// What the parser says, in words that tell what to write instead.
/// `line` is the number of the line at an offset in the file as written.
fn in_words(
    text: &str,
    span: &Range<usize>,
    message: &str,
    line: &dyn Fn(usize) -> usize,
) -> String {
    let found = text.get(span.clone()).unwrap_or_default();
    let unquoted = message.starts_with("string values must be quoted");
    if unquoted && found.is_empty() {
        return "a value is missing behind the `=`".to_owned();
    }
    if unquoted || message.starts_with("invalid boolean") {
        let line = repair::line_around(text, span.start);
        if secret_in(&text[line]).is_some() {
            return "text is written in quotes".to_owned();
        }
        return format!("text is written in quotes: \"{found}\"");
    }
    match message {
        "recursion limit" | "cannot recurse further; max recursion depth met" => {
            "this is nested too deeply".to_owned()
        }
        "duplicate key" => format!("`{found}` is here twice{}", first_header(text, span, line)),
        _ => message.to_owned(),
    }
}

/// Where the table whose second header is at `span` began, if it is a header.
fn first_header(text: &str, span: &Range<usize>, number: &dyn Fn(usize) -> usize) -> String {
    let line = repair::line_around(text, span.start);
    let until_bracket = |line: &str| line.split(']').next().unwrap_or_default().trim().to_owned();
    let header = until_bracket(&text[line.clone()]);
    let mut before = text[..line.start]
        .split_inclusive('\n')
        .scan(0, |at, line| {
            let start = *at;
            *at += line.len();
            Some((start, line))
        });
    let first = before.find(|(_, line)| until_bracket(line) == header);
    match first {
        Some((first, _)) if header.starts_with('[') => {
            format!(": {header}] begins in line {} already", number(first))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let source = Source::new("f", text);
        let mut sink = Sink::new(&source);
        readable(&mut sink);
        let problems = sink.finish().0;
        let place = |p: &super::super::Problem| format!("{}:{}: {}", p.line, p.column, p.message);
        problems.iter().map(place).collect()
    }

    #[test]
    fn a_fault_in_a_secret_does_not_repeat_it() {
        assert_eq!(
            faults("token = s3cret\n"),
            ["1:9: text is written in quotes"]
        );
    }

    #[test]
    fn every_syntax_fault_is_found_in_one_go() {
        let text = "[a]\nx = first\ny =\nz = 5m\n[b\nc = \"\\q\"\n[c]\nw 1\nv: 1\n[a]\n";
        assert_eq!(
            faults(text),
            [
                "2:5: text is written in quotes: \"first\"",
                "3:4: a value is missing behind the `=`",
                "4:5: text is written in quotes: \"5m\"",
                "5:3: the header of this table is not closed: `]` is missing",
                "6:7: missing escaped value, expected `b`, `e`, `f`, `n`, `r`, `\\`, `\"`, `x`, `u`, `U`",
                "8:3: a key needs `=` and a value",
                "9:2: a key and its value are divided by `=`, not `:`",
                "10:2: `a` is here twice: [a] begins in line 1 already",
            ]
        );
    }

    #[test]
    fn what_is_never_closed_is_one_fault_where_it_begins() {
        let text = "[a]\nx = [\n  \"1\", # one\n\n[b]\ny = { z = 1\nw = 1\n[a]\nv = [ { u = 1,";
        assert_eq!(
            faults(text),
            [
                "2:5: this is never closed: `]` is missing",
                "6:5: this is never closed: `}` is missing",
                "8:2: `a` is here twice: [a] begins in line 1 already",
                "9:5: this is never closed: `}]` is missing",
            ]
        );
    }

    #[test]
    fn lines_behind_a_mended_list_keep_their_numbers() {
        let found = faults("x = [\n  \"1\", # one\n[b]\n[c]\n[b]\n");
        assert_eq!(
            found[1],
            "5:2: `b` is here twice: [b] begins in line 3 already"
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_named_with_their_place() {
        let fault = |bytes: &[u8]| text("f", bytes.to_vec()).expect_err("no text").to_string();
        let first = fault(b"a = 1\nb = \"\xc3\xa9\xff\"\n");
        assert!(
            first.starts_with("f:2:7: the file is not UTF-8: byte 0xff\n"),
            "{first}"
        );
        assert!(fault(b"\xef\xbb\xbfa\xff").starts_with("f:1:2: "));
        assert_eq!(
            fault(b"\xff\xfea\0"),
            "f: the file is UTF-16: save it as UTF-8"
        );
    }
}

//! The lines of an access log, one at a time, whatever is behind them.

use std::io::{self, BufRead, Read};

use super::line::Line;

/// No line of isobar is as long: a file without line ends is none of its logs.
const LONGEST: usize = 1 << 20;

/// Why a log cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It cannot be read.
    #[error("{name}")]
    Read {
        /// The file.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// It is no text.
    #[error("{name}: {what}")]
    NoText {
        /// The file.
        name: String,
        /// What it is instead, and what to do.
        what: String,
    },
    /// One of its lines is none of an access log.
    #[error("{name}:{place}: {why}")]
    Line {
        /// The file.
        name: String,
        /// `LINE` or `LINE:COLUMN`, from 1.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A part of the connections was written, and what is missing cannot be replayed.
    #[error(
        "{name}: lines {from} to {to} have about {percent} % of the connections that ended ordinarily \
         (`log.access_sample`, which shows by their numbers): what is missing cannot be replayed; \
         record with `access_sample = 1.0`"
    )]
    Sampled {
        /// The file.
        name: String,
        /// The first line of those that show it, from 1.
        from: u64,
        /// The last one.
        to: u64,
        /// How much of the connections is there.
        percent: f64,
    },
    /// None of its connections can be replayed.
    #[error("{name}: no connection to replay{why}")]
    Nothing {
        /// The file.
        name: String,
        /// What was in it instead.
        why: String,
    },
}

/// A log that is being read.
pub(super) struct Log<'a, R> {
    name: &'a str,
    source: R,
    number: u64,
    buffer: Vec<u8>,
}

/// A line that was read.
pub(super) enum Next {
    /// This one.
    Line(Line),
    /// The last one, which was cut short: it is no line yet, or not any more.
    Cut,
    /// There is no more.
    End,
}

impl<'a, R: BufRead> Log<'a, R> {
    /// The log of this name, for messages.
    pub(super) fn new(name: &'a str, source: R) -> Self {
        Self {
            name,
            source,
            number: 0,
            buffer: Vec::new(),
        }
    }

    /// Lines that were read so far.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next line; empty ones are none.
    pub(super) fn next(&mut self) -> Result<Next, LogError> {
        loop {
            if !self.read()? {
                return Ok(Next::End);
            }
            let whole = self.buffer.ends_with(b"\n");
            let text = match std::str::from_utf8(&self.buffer) {
                Ok(text) => text.trim(),
                Err(_) if !whole && self.number > 1 => return Ok(Next::Cut),
                Err(_) => return Err(self.no_text("it is no text in UTF-8")),
            };
            if text.is_empty() {
                continue;
            }
            return match Line::parse(text) {
                Ok(line) => Ok(Next::Line(line)),
                Err(_) if !whole && text.starts_with('{') && self.number > 1 => Ok(Next::Cut),
                Err((column, why)) => Err(self.fault(column, why)),
            };
        }
    }

    /// Reads one line with its end into the buffer; false: there is none.
    fn read(&mut self) -> Result<bool, LogError> {
        if self.number == 0 {
            self.refuse_archives()?;
        }
        self.buffer.clear();
        let mut source = (&mut self.source).take(LONGEST as u64);
        let read = source.read_until(b'\n', &mut self.buffer);
        match read {
            Ok(0) => return Ok(false),
            Ok(length) => {
                self.number += 1;
                if length == LONGEST && !self.buffer.ends_with(b"\n") {
                    let why = "no line of an access log: it is longer than 1 MiB";
                    return Err(self.fault(None, why.to_owned()));
                }
            }
            Err(source) => return Err(self.unreadable(source)),
        }
        Ok(true)
    }

    fn refuse_archives(&mut self) -> Result<(), LogError> {
        let packed = match self.source.fill_buf() {
            Ok([0x1f, 0x8b, ..]) => Some(("gzip", "zcat")),
            Ok([0x28, 0xb5, 0x2f, 0xfd, ..]) => Some(("zstd", "zstdcat")),
            Ok([0xfd, b'7', b'z', b'X', b'Z', ..]) => Some(("xz", "xzcat")),
            Ok(_) => None,
            Err(source) => return Err(self.unreadable(source)),
        };
        let Some((format, unpack)) = packed else {
            return Ok(());
        };
        Err(self.no_text(&format!(
            "it is no text but packed by {format}: let {unpack} unpack it, and read that with \
             `--log -`"
        )))
    }

    fn unreadable(&self, source: io::Error) -> LogError {
        LogError::Read {
            name: self.name.to_owned(),
            source,
        }
    }

    fn no_text(&self, what: &str) -> LogError {
        LogError::NoText {
            name: self.name.to_owned(),
            what: what.to_owned(),
        }
    }

    fn fault(&self, column: Option<usize>, why: String) -> LogError {
        let place = match column {
            Some(column) => format!("{}:{column}", self.number),
            None => self.number.to_string(),
        };
        LogError::Line {
            name: self.name.to_owned(),
            place,
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    const LINE: &str = r#"{"accepted_at":"2026-01-01T00:00:00Z","listener":"l","client":"10.0.0.1:9","duration_ms":1}"#;

    /// How many lines there are, and how it ends.
    fn read(bytes: &[u8]) -> (usize, Result<bool, String>) {
        let mut log = Log::new("a.jsonl", bytes);
        let mut lines = 0;
        loop {
            match log.next() {
                Ok(Next::Line(_)) => lines += 1,
                Ok(Next::Cut) => return (lines, Ok(true)),
                Ok(Next::End) => return (lines, Ok(false)),
                Err(error) => return (lines, Err(error.to_string())),
            }
        }
    }

    #[test]
    fn every_line_is_read_whatever_ends_it() {
        let two = format!("{LINE}\r\n\n{LINE}\n");
        assert_eq!(read(two.as_bytes()), (2, Ok(false)));
        let no_end = format!("{LINE}\n{LINE}");
        assert_eq!(read(no_end.as_bytes()), (2, Ok(false)));
        assert_eq!(read(b""), (0, Ok(false)));
    }

    #[test]
    fn a_last_line_that_is_cut_short_is_no_fault() {
        for cut in [1, 10, LINE.len() - 1] {
            let text = format!("{LINE}\n{}", &LINE[..cut]);
            assert_eq!(read(text.as_bytes()), (1, Ok(true)), "{cut}");
        }
        let (lines, fault) = read(format!("{LINE}\n{{\n{LINE}\n").as_bytes());
        assert!(lines == 1 && fault.expect_err("no end").starts_with("a.jsonl:2:"));
    }

    #[test]
    fn a_fault_is_told_with_its_line() {
        let text = format!("{LINE}\n\nnonsense\n");
        let expected = "a.jsonl:3:2: no line of an access log in JSON: expected ident";
        assert_eq!(read(text.as_bytes()), (1, Err(expected.to_owned())));
        let logfmt = "time=2026-01-01T00:00:00Z level=info";
        let expected = "a.jsonl:1: a line of text, where JSON is read: record the log with \
                        `log.format = \"json\"`";
        assert_eq!(read(logfmt.as_bytes()), (0, Err(expected.to_owned())));
    }

    #[test]
    fn what_is_no_text_is_told_with_the_way_to_read_it() {
        let expected = "a.jsonl: it is no text but packed by gzip: let zcat unpack it, and read \
                        that with `--log -`";
        let packed = read(&[0x1f, 0x8b, 8, 0, 0, b'\n']);
        assert_eq!(packed, (0, Err(expected.to_owned())));
        let expected = "a.jsonl: it is no text in UTF-8";
        assert_eq!(read(&[0xff, b'\n']), (0, Err(expected.to_owned())));
    }

    #[test]
    fn a_line_without_end_is_not_read_for_ever() {
        let endless = BufReader::new(io::repeat(b'x'));
        let fault = Log::new("a.jsonl", endless).next().err();
        let expected = "a.jsonl:1: no line of an access log: it is longer than 1 MiB";
        assert_eq!(
            fault.map(|fault| fault.to_string()).as_deref(),
            Some(expected)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes: Vec<u8>, at in 0..LINE.len(), byte: u8) {
            let _ = read(&bytes);
            let mut line = LINE.as_bytes().to_vec();
            line[at] = byte;
            let _ = read(&line);
        }
    }
}

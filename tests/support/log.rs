//! What a process has written, line by line, while it runs.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Map, Value};

use super::deadline::wait_for;

/// One line, with its fields where it is a JSON object. There may be tens of thousands, faster
/// than a debug build parses them: that is left until somebody asks.
#[derive(Clone, Debug)]
pub struct Line {
    /// As it was written.
    pub raw: String,
    fields: OnceLock<Value>,
}

impl Line {
    fn new(raw: String) -> Self {
        let fields = OnceLock::new();
        Self { raw, fields }
    }

    /// The fields. Of a logfmt line all of them are text, under the names that JSON has; null
    /// where it is neither.
    pub fn fields(&self) -> &Value {
        let read = || serde_json::from_str(&self.raw).ok();
        let read = || read().or_else(|| logfmt(&self.raw)).unwrap_or(Value::Null);
        self.fields.get_or_init(read)
    }

    /// A field that holds text.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields()[field].as_str()
    }

    /// What happened.
    pub fn message(&self) -> &str {
        self.text("message").unwrap_or("")
    }

    /// Whether a field holds this plain word, without parsing the line.
    pub fn says(&self, field: &str, word: &str) -> bool {
        let json = format!("\"{field}\":\"{word}\"");
        self.raw.contains(&json) || self.raw.contains(&format!(" {field}={word} "))
    }

    /// Whether it tells how a connection ended, in either format.
    pub fn is_access(&self) -> bool {
        self.says("target", "isobar::access") || self.raw.contains(" target=isobar::access ")
    }
}

/// The fields of a logfmt line, if it is one; quoted values are those of JSON.
fn logfmt(line: &str) -> Option<Value> {
    let mut fields = Map::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=')?;
        let mut value = serde_json::Deserializer::from_str(behind).into_iter::<String>();
        let (value, length) = match behind.starts_with('"') {
            true => (value.next()?.ok()?, value.byte_offset()),
            false => {
                let plain = behind.split(' ').next()?;
                (plain.to_owned(), plain.len())
            }
        };
        let key = if key == "msg" { "message" } else { key };
        fields.insert(key.to_owned(), value.into());
        rest = behind[length..].trim_start();
    }
    Some(fields.into())
}

/// The lines of one stream, collected by a thread.
pub struct Log {
    lines: Arc<Mutex<Vec<Line>>>,
    attention: Arc<AtomicU8>,
    reader: Option<JoinHandle<()>>,
}

/// What the reader does after the next line: goes on, ...
const READ: u8 = 0;
/// ... leaves everything in the pipe, ...
const IGNORE: u8 = 1;
/// ... or closes its end.
const HANG_UP: u8 = 2;

impl Log {
    /// Collects what `source` delivers, until its end.
    pub fn of(source: impl Read + Send + 'static) -> Self {
        let lines = Arc::<Mutex<Vec<Line>>>::default();
        let attention = Arc::new(AtomicU8::new(READ));
        let reader = {
            let (sink, attention) = (Arc::clone(&lines), Arc::clone(&attention));
            std::thread::spawn(move || collect(source, &sink, &attention))
        };
        Self {
            lines,
            attention,
            reader: Some(reader),
        }
    }

    /// From the next line on nothing is read, until [`read_on`](Self::read_on).
    pub fn stop_reading(&self) {
        self.attention.store(IGNORE, SeqCst);
    }

    /// Reads again.
    pub fn read_on(&self) {
        self.attention.store(READ, SeqCst);
    }

    /// From the next line on nobody has the other end open.
    pub fn hang_up(&self) {
        self.attention.store(HANG_UP, SeqCst);
    }

    /// Everything so far.
    pub fn lines(&self) -> Vec<Line> {
        self.lines
            .lock()
            .expect("no panic while it was held")
            .clone()
    }

    /// Looks at everything so far, in place: there may be very much of it.
    pub fn look<T>(&self, look: impl FnOnce(&[Line]) -> T) -> T {
        look(&self.lines.lock().expect("no panic while it was held"))
    }

    /// Everything so far, as one text.
    pub fn text(&self) -> String {
        let raw: Vec<_> = self.lines().into_iter().map(|line| line.raw).collect();
        raw.join("\n")
    }

    /// Waits for the first line that `is_it` accepts.
    #[track_caller]
    pub fn wait(&self, what: &str, is_it: impl Fn(&Line) -> bool) -> Line {
        wait_for(&format!("the log said {what}"), || {
            self.lines().into_iter().find(|line| is_it(line))
        })
    }

    /// Waits until the writer has closed its end: nothing can follow.
    pub fn finish(&mut self) {
        if self.attention.load(SeqCst) == IGNORE {
            self.read_on();
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
    }
}

fn collect(source: impl Read, sink: &Mutex<Vec<Line>>, attention: &AtomicU8) {
    for raw in BufReader::new(source).split(b'\n') {
        let Ok(raw) = raw else { return };
        let raw = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = sink.lock().expect("no panic while it was held");
        lines.push(Line::new(raw));
        drop(lines);
        while attention.load(SeqCst) == IGNORE {
            std::thread::sleep(Duration::from_millis(5));
        }
        if attention.load(SeqCst) == HANG_UP {
            return;
        }
    }
}

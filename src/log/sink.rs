//! Where lines go: a bounded buffer in front of something that may be full, gone or broken.
//!
//! A [`Sink`] never blocks and never fails. It takes lines until its buffer is full, writes
//! as much as its target takes now, and counts every line that it has to give up.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::line::Format;
use super::target::Target;

/// Most bytes that wait for a target: some four thousand lines.
const MAX_WAITING: usize = 1 << 20;
/// Bytes from which on a write is worth its system call in the middle of a turn.
const BATCH: usize = 64 << 10;

/// One place that lines go to.
pub(super) struct Sink {
    target: Target,
    format: Format,
    /// Whole lines, but for the first and last ones that a target took or gave up in part.
    waiting: Vec<u8>,
    /// The target took nothing at the last try.
    blocked: bool,
    /// The last byte that the target took did not end a line.
    midline: bool,
    fault: Option<io::Error>,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    /// An empty sink that counts what it gives up in `dropped`.
    pub(super) fn new(target: Target, format: Format, dropped: Arc<AtomicU64>) -> Self {
        Self {
            target,
            format,
            waiting: Vec::new(),
            blocked: false,
            midline: false,
            fault: None,
            dropped,
        }
    }

    /// Lines look so from now on.
    pub(super) fn set_format(&mut self, format: Format) {
        self.format = format;
    }

    /// Writes what its target takes still, and counts the rest as dropped.
    pub(super) fn close(mut self) {
        self.flush();
        self.dropped.fetch_add(lines_in(&self.waiting), Relaxed);
    }

    /// Takes one line that `write` appends, or counts it as dropped where too much waits.
    pub(super) fn line(&mut self, write: impl FnOnce(&mut Vec<u8>, Format)) {
        if self.waiting.len() >= BATCH && !self.blocked {
            self.flush();
        }
        if self.midline && self.waiting.is_empty() {
            // The rest of that line was given up.
            self.waiting.push(b'\n');
        }
        let before = self.waiting.len();
        write(&mut self.waiting, self.format);
        if self.waiting.len() > MAX_WAITING {
            self.waiting.truncate(before);
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Writes what the target takes now. A fault of the target costs all lines that wait.
    pub(super) fn flush(&mut self) {
        let mut written = 0;
        self.blocked = false;
        while written < self.waiting.len() && !self.blocked {
            match self.target.write(&self.waiting[written..]) {
                Ok(taken) => {
                    written += taken;
                    self.midline = self.waiting[written - 1] != b'\n';
                    self.fault = None;
                }
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return self.give_up(written, fault),
            }
        }
        self.waiting.drain(..written);
    }

    fn give_up(&mut self, written: usize, fault: io::Error) {
        self.dropped
            .fetch_add(lines_in(&self.waiting[written..]), Relaxed);
        self.fault = Some(fault);
        self.waiting.clear();
    }

    /// Whether lines wait.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The fault of the last write, if it failed.
    pub(super) fn fault(&self) -> Option<&io::Error> {
        self.fault.as_ref()
    }

    /// The path of the target, if it has one.
    pub(super) fn path(&self) -> Option<&Path> {
        self.target.path()
    }

    /// What to poll for the moment at which a blocked target takes more.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.target.descriptor()
    }

    /// Writes what waits to the target as it is, then opens that anew by its path.
    ///
    /// # Errors
    /// Those of open(2). The old target is kept.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.flush();
        self.target.reopen()
    }
}

fn lines_in(bytes: &[u8]) -> u64 {
    bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .count() as u64
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn pipe() -> (io::PipeReader, Sink, Arc<AtomicU64>) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let dropped = Arc::new(AtomicU64::new(0));
        let target = Target::stream(writer.into()).expect("a target");
        let format = Format::Text { colour: false };
        (
            reader,
            Sink::new(target, format, Arc::clone(&dropped)),
            dropped,
        )
    }

    fn push(sink: &mut Sink, line: &str) {
        sink.line(|out, _| out.extend_from_slice(line.as_bytes()));
    }

    #[test]
    fn a_pipe_that_nobody_reads_keeps_a_bounded_rest_and_counts_the_others() {
        let (mut reader, mut sink, dropped) = pipe();
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..4000 {
            push(&mut sink, &line);
            sink.flush();
        }
        assert!(sink.is_waiting() && sink.waiting.len() <= MAX_WAITING);
        let lost = dropped.load(Relaxed);
        assert!(lost > 2500, "{lost}");

        let kept = (4000 - lost) as usize * line.len();
        let mut read = vec![0; kept];
        let copy = std::thread::spawn(move || {
            reader.read_exact(&mut read).expect("the lines kept");
            read
        });
        while sink.is_waiting() {
            sink.flush();
            std::thread::yield_now();
        }
        assert_eq!(
            copy.join().expect("a reader"),
            line.repeat(kept / 1000).as_bytes()
        );
        assert_eq!(dropped.load(Relaxed), lost);
    }

    #[test]
    fn a_pipe_whose_reader_is_gone_costs_lines_and_nothing_else() {
        let (reader, mut sink, dropped) = pipe();
        drop(reader);
        push(&mut sink, "one\n");
        push(&mut sink, "two\n");
        sink.flush();
        assert!(!sink.is_waiting());
        assert_eq!(dropped.load(Relaxed), 2);
        let fault = sink.fault().map(io::Error::kind);
        assert_eq!(fault, Some(io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn a_full_device_costs_lines_and_nothing_else() {
        let device = std::fs::File::options().write(true).open("/dev/full");
        let dropped = Arc::new(AtomicU64::new(0));
        let target = Target::stream(device.expect("/dev/full").into()).expect("a target");
        let mut sink = Sink::new(target, Format::Json, Arc::clone(&dropped));
        push(&mut sink, "one\n");
        sink.flush();
        assert!(!sink.is_waiting());
        assert_eq!(dropped.load(Relaxed), 1);
        let fault = sink.fault().map(io::Error::kind);
        assert_eq!(fault, Some(io::ErrorKind::StorageFull));
    }

    #[test]
    fn a_line_after_a_torn_one_begins_on_its_own() {
        let (mut reader, mut sink, dropped) = pipe();
        let long = "x".repeat(100_000);
        push(&mut sink, &format!("{long}\nlost\n"));
        sink.flush();
        assert!(sink.is_waiting() && sink.midline);
        sink.give_up(0, io::ErrorKind::StorageFull.into());
        assert_eq!(dropped.load(Relaxed), 2);

        let mut head = vec![b' '; 65_536];
        reader.read_exact(&mut head).expect("what the pipe took");
        assert!(head.iter().all(|&byte| byte == b'x'));
        push(&mut sink, "whole\n");
        sink.flush();
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("the text");
        assert_eq!(text, "\nwhole\n");
    }
}

//! The parts together: queue, thread, sinks; and the whole in a process of its own.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::access::tests::full;
use super::*;

fn config(access_sink: AccessSink) -> config::Log {
    config::Log {
        level: Level::Info,
        format: LogFormat::Json,
        access: true,
        access_sample: 1.0,
        access_sink,
    }
}

/// A log whose turns the test takes itself, with a pipe for standard error.
struct Bench {
    handle: Handle,
    writer: Writer,
    stderr: PipeReader,
}

impl Bench {
    fn new(sink: AccessSink) -> Self {
        let (reader, writer) = io::pipe().expect("a pipe");
        let (handle, writer) = assemble(config(sink), writer);
        Self {
            handle,
            writer,
            stderr: reader,
        }
    }

    /// What stands in the pipe; there must be something.
    fn stderr(&mut self) -> String {
        let mut bytes = vec![0; 1 << 16];
        let count = self.stderr.read(&mut bytes).expect("a read");
        bytes.truncate(count);
        String::from_utf8(bytes).expect("UTF-8")
    }

    /// Takes turns with the events of this thread going to this log.
    fn turns(&mut self, count: usize) {
        let layer = EventLayer::new(self.handle.0.queue.clone(), Format::Json);
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            (0..count).for_each(|_| assert!(self.writer.turn()));
        });
    }
}

fn assemble(config: config::Log, stderr: PipeWriter) -> (Handle, Writer) {
    let name = match config.access_sink {
        AccessSink::Stderr => SinkName::Stderr,
        _ => SinkName::Access,
    };
    let (queue, items) = Queue::new(name);
    let lost = Arc::clone(queue.lost().of(SinkName::Stderr));
    let target = Target::stream(stderr.into()).expect("a target");
    let access = open_access(&config, &queue).expect("an access sink");
    let stderr = Sink::new(target, Format::Json, lost);
    let writer = Writer::new(items, &queue, stderr, access);
    (
        Handle::new(&config, queue, None, Journal::default()),
        writer,
    )
}

fn ids(text: &str) -> Vec<u64> {
    let id = |line| {
        let value: Value = serde_json::from_str(line).expect("JSON");
        value["id"]
            .as_str()
            .expect("an id")
            .parse()
            .expect("a number")
    };
    text.lines().map(id).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the access file")
}

/// Four threads write 25,000 lines each, never more at once than the queue holds.
#[test]
fn no_line_is_lost_while_the_queue_has_room() {
    const EACH: u64 = 25_000;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.jsonl");
    let (_reader, stderr) = io::pipe().expect("a pipe");
    let (handle, writer) = assemble(config(AccessSink::File(path.clone())), stderr);
    let log = std::thread::spawn(|| writer.run());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let handle = handle.clone();
            scope.spawn(move || {
                for id in 0..EACH {
                    handle.access(full(thread * EACH + id));
                    if id % 1000 == 999 {
                        assert!(handle.flush(Duration::from_secs(30)));
                    }
                }
            });
        }
    });
    assert_eq!(handle.dropped(), Dropped::default());
    drop(handle);
    log.join().expect("the log's thread");
    let seen = ids(&read(&path));
    assert_eq!(seen.len() as u64, 4 * EACH);
    assert_eq!(
        seen.into_iter().collect::<HashSet<_>>().len() as u64,
        4 * EACH
    );
}

#[test]
fn a_full_queue_drops_and_counts_by_sink() {
    let bench = Bench::new(AccessSink::File("/dev/null".into()));
    for id in 0..10_000 {
        bench.handle.access(full(id));
    }
    bench.handle.0.queue.push(Item::Event(b"lost\n".into()));
    let expected = Dropped {
        stderr: 1,
        access: 10_000 - 8192,
    };
    assert_eq!(bench.handle.dropped(), expected);
}

#[test]
fn access_lines_that_go_to_standard_error_are_lost_there() {
    let bench = Bench::new(AccessSink::Stderr);
    for id in 0..8193 {
        bench.handle.access(full(id));
    }
    assert_eq!(bench.handle.dropped().stderr, 1);
    assert_eq!(bench.handle.dropped().access, 0);
}

/// Nobody reads standard error: 3 MB of events go to it, each with an access line to a file.
#[test]
fn a_blocked_standard_error_does_not_hold_up_the_access_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.jsonl");
    let mut bench = Bench::new(AccessSink::File(path.clone()));
    let event = format!("{}\n", "x".repeat(999)).into_bytes();
    for id in 0..3000 {
        bench.handle.access(full(id));
        bench.handle.0.queue.push(Item::Event(event.clone()));
        if id % 1000 == 999 {
            assert!(bench.writer.turn());
        }
    }
    assert_eq!(ids(&read(&path)), (0..3000).collect::<Vec<_>>());
    let dropped = bench.handle.dropped();
    assert_eq!(dropped.access, 0);
    assert!((1500..3000).contains(&dropped.stderr), "{dropped:?}");
}

#[test]
fn a_flush_behind_a_blocked_sink_ends_at_its_time_out() {
    let (reader, stderr) = io::pipe().expect("a pipe");
    let (handle, writer) = assemble(config(AccessSink::Stderr), stderr);
    let log = std::thread::spawn(|| writer.run());
    handle.0.queue.push(Item::Event(vec![b'x'; 100_000]));
    assert!(!handle.flush(Duration::from_millis(20)));
    let drained = std::thread::spawn(|| io::copy(&mut { reader }, &mut io::sink()));
    assert!(handle.flush(Duration::from_secs(30)));
    drop(handle);
    log.join().expect("the log's thread");
    let copied = drained.join().expect("a reader").expect("a read");
    assert_eq!(copied, 100_000);
}

#[test]
fn a_lost_reader_of_standard_error_costs_its_lines_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.jsonl");
    let (reader, stderr) = io::pipe().expect("a pipe");
    let (handle, mut writer) = assemble(config(AccessSink::File(path.clone())), stderr);
    drop(reader);
    for id in 0..3 {
        handle.0.queue.push(Item::Event(b"lost\n".into()));
        handle.access(full(id));
        assert!(writer.turn());
    }
    assert_eq!(handle.dropped().stderr, 3);
    assert_eq!(ids(&read(&path)), [0, 1, 2]);
}

#[test]
fn lost_lines_are_told_once_someone_can_read_it() {
    let mut bench = Bench::new(AccessSink::File("/dev/full".into()));
    bench.handle.access(full(1));
    bench.handle.access(full(2));
    bench.turns(2);
    let value: Value = serde_json::from_str(&bench.stderr()).expect("one line");
    assert_eq!(value["message"], "log lines dropped");
    assert_eq!(value["access"], 2);
    assert_eq!(value["stderr"], 0);
    assert_eq!(value["path"], "/dev/full");
    assert_eq!(value["error"], "No space left on device (os error 28)");
}

#[test]
fn reopening_after_a_rename_begins_a_new_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.jsonl");
    let rotated = directory.path().join("access.jsonl.1");
    let mut bench = Bench::new(AccessSink::File(path.clone()));
    bench.handle.access(full(1));
    bench.turns(1);
    std::fs::rename(&path, &rotated).expect("a rename");
    bench.handle.access(full(2));
    bench.handle.reopen();
    bench.handle.access(full(3));
    bench.turns(1);
    assert_eq!(ids(&read(&rotated)), [1, 2]);
    assert_eq!(ids(&read(&path)), [3]);
    let mode = std::fs::metadata(&path).expect("metadata").permissions();
    assert_eq!(mode.mode() & 0o137, 0, "no more than 0640");
}

#[test]
fn a_full_queue_does_not_lose_the_request_to_reopen() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.jsonl");
    let mut bench = Bench::new(AccessSink::File(path.clone()));
    (0..8192).for_each(|id| bench.handle.access(full(id)));
    std::fs::remove_file(&path).expect("a file");
    bench.handle.reopen();
    bench.turns(1);
    bench.handle.access(full(9000));
    bench.turns(1);
    assert_eq!(ids(&read(&path)), [9000]);
}

#[test]
fn a_file_that_cannot_be_reopened_is_kept_and_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.jsonl");
    let rotated = directory.path().join("access.jsonl.1");
    let mut bench = Bench::new(AccessSink::File(path.clone()));
    std::fs::rename(&path, &rotated).expect("a rename");
    std::fs::create_dir(&path).expect("a directory in its place");
    bench.handle.reopen();
    bench.handle.access(full(1));
    bench.turns(1);
    assert_eq!(ids(&read(&rotated)), [1]);
    let value: Value = serde_json::from_str(&bench.stderr()).expect("one line");
    assert_eq!(value["path"], path.to_str().expect("UTF-8"));
    assert_eq!(value["error"], "Is a directory (os error 21)");
}

/// A receiver comes late, goes, and is replaced by another one at the same path.
#[test]
fn a_datagram_socket_may_go_away_and_return() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let mut bench = Bench::new(AccessSink::Datagram(path.clone()));
    let send = |bench: &mut Bench, id| {
        bench.handle.access(full(id));
        bench.turns(1);
    };
    send(&mut bench, 1);
    assert_eq!(bench.handle.dropped().access, 1);

    let first = UnixDatagram::bind(&path).expect("a socket");
    send(&mut bench, 2);
    assert_eq!(received(&first), 2);
    std::fs::remove_file(&path).expect("a socket file");
    let second = UnixDatagram::bind(&path).expect("a socket");
    drop(first);
    send(&mut bench, 3);
    assert_eq!(received(&second), 3);

    drop(second);
    send(&mut bench, 4);
    assert_eq!(bench.handle.dropped().access, 2);
}

fn received(socket: &UnixDatagram) -> u64 {
    let mut bytes = [0; 4096];
    socket.set_nonblocking(true).expect("a mode");
    let count = socket.recv(&mut bytes).expect("a datagram");
    let text = std::str::from_utf8(&bytes[..count]).expect("UTF-8");
    assert!(!text.contains('\n'));
    ids(text)[0]
}

/// The receiver's queue is full time and again: lines wait until it reads on.
#[test]
fn a_slow_receiver_of_datagrams_gets_every_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    let mut bench = Bench::new(AccessSink::Datagram(path));
    (0..2000).for_each(|id| bench.handle.access(full(id)));
    for id in 0..2000 {
        if id % 5 == 0 {
            // With an item, a turn never waits, whether lines do or not.
            bench.handle.reopen();
            bench.turns(1);
        }
        assert_eq!(received(&socket), id);
    }
    assert_eq!(bench.handle.dropped(), Dropped::default());
}

#[test]
fn only_ordinary_endings_are_sampled() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.jsonl");
    let (_reader, stderr) = io::pipe().expect("a pipe");
    let mut config = config(AccessSink::File(path.clone()));
    config.access_sample = 0.0;
    let (handle, mut writer) = assemble(config, stderr);
    for (id, ended) in ["client_closed", "backend_closed", "client_reset", "killed"]
        .into_iter()
        .enumerate()
    {
        let mut access = full(id as u64);
        access.ended = ended;
        handle.access(access);
    }
    assert!(writer.turn());
    assert_eq!(ids(&read(&path)), [2, 3]);
}

#[test]
fn access_off_writes_neither_connections_nor_rejections() {
    let (_reader, stderr) = io::pipe().expect("a pipe");
    let mut config = config(AccessSink::Stderr);
    config.access = false;
    let (handle, mut writer) = assemble(config, stderr);
    assert!(!handle.access_enabled());
    handle.access(full(1));
    let now = Instant::now();
    let rejections = Rejections::new("web".into(), now);
    handle.rejected(&rejections, &full(1).client, Rejected::Denied, now);
    drop(handle);
    assert!(!writer.turn(), "an item before the end");
}

#[test]
fn rejections_go_where_access_lines_go() {
    let mut bench = Bench::new(AccessSink::Stderr);
    let now = Instant::now();
    let rejections = Rejections::new("web".into(), now);
    for _ in 0..3 {
        let client = full(1).client;
        bench
            .handle
            .rejected(&rejections, &client, Rejected::Denied, now);
    }
    bench.turns(1);
    let value: Value = serde_json::from_str(&bench.stderr()).expect("one line");
    assert_eq!(value["message"], "rejected");
    assert_eq!(value["reason"], "denied");
}

#[test]
fn an_access_file_that_cannot_be_opened_is_an_error_that_names_it() {
    let sink = AccessSink::File("/nowhere/access.log".into());
    let (queue, _items) = Queue::new(SinkName::Access);
    let Err(error) = open_access(&config(sink), &queue) else {
        panic!("it was opened");
    };
    assert!(error.to_string().contains("/nowhere/access.log"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn rust_log_overrides_the_level_unless_it_is_invalid() {
    let chosen = |wanted| {
        let (filter, problem) = filter(Level::Info, wanted);
        (filter.to_string(), problem.is_some())
    };
    let own = filter(Level::Info, None).0.to_string();
    assert_eq!(chosen(None), (own.clone(), false));
    assert_eq!(chosen(Some("")), (own.clone(), false));
    assert_eq!(chosen(Some("debug")), ("debug".into(), false));
    assert_eq!(chosen(Some("isobar=loud")), (own, true));
}

/// Set in the processes of their own that tests start: a log is set up for good.
const ACCESS_FILE: &str = "ISOBAR_TEST_ACCESS_FILE";

/// Starts this program once more, for this one test, whose first line calls [`is_child`].
fn spawn(test: &str, access_file: &Path) -> std::process::Child {
    let program = std::env::current_exe().expect("this program");
    Command::new(program)
        .args(["--exact", &format!("log::tests::{test}")])
        .env(ACCESS_FILE, access_file)
        .env("RUST_LOG", "isobar=loud")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child")
}

/// In the started process: sets the log up, lets a thread panic, writes a connection.
fn is_child() -> bool {
    let Some(path) = std::env::var_os(ACCESS_FILE) else {
        return false;
    };
    install_panic_hook();
    let config = config(AccessSink::File(path.into()));
    let handle = init(&config).expect("a log");
    assert!(matches!(init(&config), Err(LogError::Twice)));
    // Standard input ends when the parent has done with standard error what it wants.
    io::copy(&mut io::stdin(), &mut io::sink()).expect("an end");
    tracing::info!(listener = "web", "listening");
    tracing::debug!("not written");
    let panicked = std::thread::Builder::new()
        .name("core-0".into())
        .spawn(|| panic!("two\nlines"));
    assert!(panicked.expect("a thread").join().is_err());
    handle.access(full(panics()));
    assert!(handle.flush(Duration::from_secs(30)));
    true
}

#[test]
fn a_whole_log_writes_events_panics_and_connections() {
    if is_child() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.jsonl");
    let mut child = spawn("a_whole_log_writes_events_panics_and_connections", &path);
    drop(child.stdin.take());
    let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let lines: Vec<Value> = stderr
        .lines()
        .map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON"))
        .collect();
    assert!(child.wait().expect("an exit").success());

    let messages: Vec<_> = lines.iter().map(|line| &line["message"]).collect();
    assert_eq!(
        messages,
        ["RUST_LOG is invalid, log.level holds", "listening", "panic"]
    );
    assert_eq!(lines[2]["panic"], "two\nlines");
    assert_eq!(lines[2]["thread"], "core-0");
    assert_eq!(lines[2]["level"], "error");
    let location = lines[2]["location"].as_str().expect("a location");
    assert!(location.starts_with("src/log/tests.rs:"), "{location}");
    assert_eq!(ids(&read(&path)), [1]);
}

#[test]
fn a_log_works_when_standard_error_is_gone() {
    if is_child() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.jsonl");
    let mut child = spawn("a_log_works_when_standard_error_is_gone", &path);
    drop(child.stderr.take());
    drop(child.stdin.take());
    assert!(child.wait().expect("an exit").success());
    assert_eq!(ids(&read(&path)), [1]);
}

/// Who changed what is on record, however little else is wanted.
#[test]
fn changes_are_written_at_every_level() {
    for level in [Level::Error, Level::Warn, Level::Info] {
        let directives = filter(level, None).0.to_string();
        let wanted = ["isobar::audit=info", "isobar=info"];
        let has = wanted.iter().any(|wanted| directives.contains(wanted));
        assert!(has, "{directives}");
    }
}

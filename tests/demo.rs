//! `isobar demo` as a new user, or a script, meets it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running demo; ended when it is dropped.
struct Demo {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Of the balancer.
    address: String,
}

impl Demo {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_isobar"))
            .arg("demo")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("isobar runs");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok);
            lines.for_each(|line| drop(sender.send(line)));
        });
        let mut demo = Self {
            child,
            stdin,
            lines,
            address: String::new(),
        };
        let line = demo.line_with("http://");
        let url = line.split("http://").nth(1).expect("a URL");
        demo.address = url.trim_end_matches('/').to_owned();
        demo
    }

    /// The next line on standard output that contains `text`.
    fn line_with(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("another line");
            if line.contains(text) {
                return line;
            }
        }
    }

    fn order(&mut self, order: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        writeln!(stdin, "{order}").expect("an order");
    }

    /// Everything the balancer answers to `request`.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the balancer");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// Who answers `count` clients, and how often.
    fn answers(&self, count: usize) -> BTreeMap<String, usize> {
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            *answers.entry(self.ask("hello\n")).or_default() += 1;
        }
        answers
    }

    /// Waits until clients are shared evenly by the given backends and by nobody else.
    fn wait_for_share(&self, names: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        let wanted = names.iter().map(|name| (format!("{name}\n"), 4)).collect();
        loop {
            let answers = self.answers(4 * names.len());
            if answers == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{names:?}: {answers:?}");
        }
    }

    fn terminate(&mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        self.exit()
    }

    fn exit(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the demo does not end");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_backend_answers_in_turn_and_all_is_said_how_to_try_it() {
    let mut demo = Demo::start();
    let dashboard = demo.line_with("dashboard:");
    assert!(dashboard.ends_with('/'), "{dashboard}");
    demo.wait_for_share(&["birch", "oak", "pine"]);
    let page = demo.ask("GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("<h1>"), "{page}");
    assert_eq!(demo.terminate(), Some(0));
}

#[test]
fn traffic_moves_away_from_a_stopped_backend_and_comes_back() {
    let mut demo = Demo::start();
    demo.order("stop oak");
    demo.line_with("oak is stopped");
    demo.wait_for_share(&["birch", "pine"]);
    demo.order("start oak");
    demo.line_with("oak is back");
    demo.wait_for_share(&["birch", "oak", "pine"]);
    demo.order("quit");
    assert_eq!(demo.exit(), Some(0));
}

#[test]
fn it_goes_on_when_standard_input_is_closed() {
    let mut demo = Demo::start();
    demo.order("stop oak");
    demo.stdin = None;
    demo.line_with("oak is stopped");
    demo.wait_for_share(&["birch", "pine"]);
    assert_eq!(demo.terminate(), Some(0));
}

#[test]
fn the_configuration_is_printed_when_asked_for_and_is_valid() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_isobar"))
        .args(["demo", "--print-config"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("isobar runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"quit\n").expect("an order");
    let output = child.wait_with_output().expect("an exit");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (config, _) = text.split_once("\nisobar balances").expect("both");
    isobar::config::parse(config, "demo", &|_| None).expect("a configuration");
}

//! `isobar status` against an endpoint that answers what the test says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread::JoinHandle;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};

const STATS: &str = r#"{"version": "0.1.0", "pid": 1, "uptime_seconds": 1.5,
"config": {"path": "lb.toml", "generation": 1},
"connections": {"active": 0, "total": 3, "limit": 100},
"listeners": {"in": {"addresses": ["127.0.0.1:80"], "pool": "web", "accepting": true,
  "connections": {"active": 0, "total": 3}}},
"pools": {"web": {"balance": "first", "held": 0, "connections": {"active": 0, "total": 3},
  "backends": {"b1": {"address": "127.0.0.1:81", "state": "up", "weight": 1,
    "connections": {"active": 0, "total": 3, "limit": 0, "failed": 0}}}}}}"#;

/// Answers one request after the other on a port of its own.
struct Endpoint {
    address: String,
    requests: JoinHandle<Vec<String>>,
}

impl Endpoint {
    /// One answer for each request that comes, then nobody listens any more.
    fn answering(answers: &[(u16, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let answers: Vec<_> = answers.iter().map(|(s, b)| (*s, (*b).to_owned())).collect();
        let serve = move || {
            let serve = |(status, body): (u16, String)| {
                let (stream, _) = listener.accept().expect("a client");
                answer(stream, status, &body)
            };
            answers.into_iter().map(serve).collect()
        };
        let requests = std::thread::spawn(serve);
        Self { address, requests }
    }

    fn status(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isobar"));
        command
            .args(["status", "--admin", &self.address])
            .args(args);
        command
            .env_remove("ISOBAR_CONFIG")
            .env_remove("ISOBAR_TOKEN");
        command
    }

    /// The heads of the requests that came.
    fn requests(self) -> Vec<String> {
        self.requests.join().expect("every answer was asked for")
    }
}

fn answer(mut stream: TcpStream, status: u16, body: &str) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a request") > 0 {
        head.push(byte[0]);
    }
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).expect("an answer");
    String::from_utf8(head).expect("UTF-8")
}

fn run(mut command: Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("isobar runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_pipe_gets_tables_without_colours() {
    let endpoint = Endpoint::answering(&[(200, STATS)]);
    let (code, stdout, stderr) = run(endpoint.status(&[]));
    assert_eq!((code, &*stderr), (Some(0), ""));
    for heading in ["LISTENER  ADDRESS", "POOL  BALANCE", "BACKEND  ADDRESS"] {
        assert!(stdout.contains(&format!("\n{heading}")), "{stdout}");
    }
    assert!(stdout.contains("\nweb/b1 "), "{stdout}");
    assert!(!stdout.contains('\u{1b}'));
    assert!(endpoint.requests()[0].starts_with("GET /stats HTTP/1.1\r\n"));
}

#[test]
fn json_is_the_answer_as_it_came() {
    let endpoint = Endpoint::answering(&[(200, STATS)]);
    let (code, stdout, _) = run(endpoint.status(&["--json"]));
    assert_eq!((code, stdout), (Some(0), format!("{STATS}\n")));
}

#[test]
fn one_backend_comes_with_its_history() {
    let history = r#"{"history": [{"at": "2026-01-01T00:00:00Z", "from": "starting", "to": "up",
        "cause": "check passed", "check_seconds": 0.001, "by": "checks"}]}"#;
    let endpoint = Endpoint::answering(&[(200, STATS), (200, history)]);
    let (code, stdout, stderr) = run(endpoint.status(&["web/b1"]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("check passed"), "{stdout}");
    let asked = &endpoint.requests()[1];
    assert!(
        asked.starts_with("GET /pools/web/backends/b1/history "),
        "{asked}"
    );
}

#[test]
fn an_unknown_pool_or_backend_is_exit_code_1() {
    for what in ["wbe", "wbe/b1", "web/b2"] {
        let endpoint = Endpoint::answering(&[(200, STATS)]);
        let (code, stdout, stderr) = run(endpoint.status(&[what]));
        assert_eq!((code, &*stdout), (Some(1), ""), "{what}");
        assert!(stderr.starts_with("error: no "), "{stderr}");
    }
}

#[test]
fn a_refusal_is_exit_code_1_with_what_the_balancer_says() {
    for status in [401, 403, 404, 421, 503] {
        let endpoint = Endpoint::answering(&[(status, r#"{"error": "because"}"#)]);
        let (code, stdout, stderr) = run(endpoint.status(&[]));
        assert_eq!((code, &*stdout), (Some(1), ""), "{status}");
        assert!(stderr.starts_with("error: because"), "{stderr}");
    }
}

/// An address that refuses connections for as long as the socket lives: bound, not listening.
fn refusing() -> (std::os::fd::OwnedFd, String) {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    bind(&socket, &any_port).expect("a port");
    let bound = getsockname(&socket).expect("an address");
    let bound = SocketAddr::try_from(bound).expect("an IP address");
    (socket, bound.to_string())
}

#[test]
fn nobody_there_is_exit_code_3_with_the_address_and_a_remedy() {
    let (_socket, address) = refusing();
    for admin in [&*address, "unix:/nowhere/admin.sock"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isobar"));
        command.args(["status", "--admin", admin]);
        let (code, stdout, stderr) = run(command);
        assert_eq!((code, &*stdout), (Some(3), ""));
        assert!(
            stderr.contains(admin) && stderr.contains("isobar run"),
            "{stderr}"
        );
    }
}

#[test]
fn who_speaks_no_http_is_exit_code_3() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.write_all(b"SSH-2.0-X\r\n").expect("a greeting");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_isobar"));
    command.args(["status", "--admin", &address]);
    let (code, _, stderr) = run(command);
    assert_eq!(code, Some(3));
    assert!(stderr.contains(&address), "{stderr}");
    server.join().expect("the server ends");
}

#[test]
fn the_token_is_that_of_the_flag_then_of_the_environment_then_of_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "of-flag\n").expect("a file");
    let token_file = token_file.display().to_string();
    let endpoint = Endpoint::answering(&[(200, STATS), (200, STATS), (200, STATS), (200, STATS)]);
    let config = directory.path().join("lb.toml");
    let text = format!(
        "[admin]\nbind = \"{}\"\ntoken = \"of-file\"\n",
        endpoint.address
    );
    std::fs::write(&config, text).expect("a file");
    let by_file = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isobar"));
        command.arg("status").arg("-c").arg(&config);
        command.env_remove("ISOBAR_TOKEN");
        command
    };
    let mut of_flag = by_file();
    of_flag.args(["--token-file", &token_file]);
    of_flag.env("ISOBAR_TOKEN", "of-environment");
    let mut of_environment = by_file();
    of_environment.env("ISOBAR_TOKEN", "of-environment");
    // The file's token is not for whoever --admin names.
    let none = endpoint.status(&[]);
    for command in [of_flag, of_environment, by_file(), none] {
        let (code, _, stderr) = run(command);
        assert_eq!(code, Some(0), "{stderr}");
    }
    let token = |head: &String| {
        let line = head
            .lines()
            .find_map(|line| line.strip_prefix("authorization: "));
        line.map(str::to_owned)
    };
    let tokens: Vec<_> = endpoint.requests().iter().map(token).collect();
    let expected = ["of-flag", "of-environment", "of-file"].map(|t| Some(format!("Bearer {t}")));
    assert_eq!(tokens[..3], expected);
    assert_eq!(tokens[3], None);
}

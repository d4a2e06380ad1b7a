//! `runtime.user`: from root to a user that can do nothing but bind low ports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

/// `CAP_NET_BIND_SERVICE`, number 10 of capabilities(7).
const ONLY_BINDING: &str = "0000000000000400";

/// 1. Root starts isobar as "nobody" on a port below 1024.
/// 2. Every thread has nobody's ids and groups, and one capability.
/// 3. It serves: bytes go to the backend and back.
#[test]
#[ignore = "needs root"]
fn root_becomes_the_user_and_keeps_what_binding_needs() {
    let nobody = nix::unistd::User::from_name("nobody").expect("a user database");
    let nobody = nobody.expect("every Debian has nobody");
    let backend = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free_low_port();
    let running = Running::start(port, &backend);

    for status in running.statuses() {
        let uid = nobody.uid.to_string();
        let gid = nobody.gid.to_string();
        assert_eq!(field(&status, "Uid:"), [&*uid; 4]);
        assert_eq!(field(&status, "Gid:"), [&*gid; 4]);
        assert!(!field(&status, "Groups:").contains(&"0"), "{status}");
        for set in ["CapPrm:", "CapEff:"] {
            assert_eq!(field(&status, set), [ONLY_BINDING], "{status}");
        }
        for set in ["CapInh:", "CapAmb:"] {
            assert_eq!(field(&status, set), ["0000000000000000"], "{status}");
        }
    }

    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("isobar");
    client.write_all(b"ping").expect("sent");
    let mut got = [0; 4];
    // The first connections of the backend are checks: they send nothing.
    while backend
        .accept()
        .expect("isobar")
        .0
        .read(&mut got)
        .expect("bytes")
        == 0
    {}
    assert_eq!(&got, b"ping");
}

fn free_low_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (600..1024).rev().find(is_free).expect("a free low port")
}

/// The values behind a name in `/proc/PID/status`.
fn field<'s>(status: &'s str, name: &str) -> Vec<&'s str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.expect("a field of proc(5)")
        .split_whitespace()
        .collect()
}

/// A balancer that says it is ready; ended when it is dropped.
struct Running {
    child: Child,
    /// Held so that the binary and the file are there for nobody to read.
    _directory: tempfile::TempDir,
}

impl Running {
    fn start(port: u16, backend: &TcpListener) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = backend.local_addr().expect("an address");
        let config = directory.path().join("lb.toml");
        let text = format!(
            "[runtime]\nuser = \"nobody\"\n[admin]\nbind = \"127.0.0.1:0\"\n\
             [listener.web]\nbind = \"127.0.0.1:{port}\"\npool = \"web\"\n\
             [pool.web]\nbackends = [\"{backend}\"]\n"
        );
        std::fs::write(&config, text).expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_isobar"))
            .args(["run", "-c"])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("isobar runs");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let running = Self {
            child,
            _directory: directory,
        };
        let mut lines = stderr.lines().map_while(Result::ok);
        let ready = lines.any(|line| line.ends_with("msg=ready"));
        assert!(ready, "isobar ended before it was ready");
        // What is said later is read, so that nobody waits for room in the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        running
    }

    /// `/proc/PID/task/TID/status` of every thread.
    fn statuses(&self) -> Vec<String> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(tasks).expect("a process");
        let status = |task: std::io::Result<std::fs::DirEntry>| {
            let path = task.expect("a thread").path().join("status");
            std::fs::read_to_string(path).expect("a thread")
        };
        let statuses: Vec<_> = tasks.map(status).collect();
        assert!(statuses.len() > 1, "isobar has more than one thread");
        statuses
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

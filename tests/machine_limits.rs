//! Limits of the machine below what a file asks for: what `check` and `run` say of them, and
//! that what they advise is enough.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::{Launch, patience};

const FILE: &str = r#"[runtime]
max_connections = 1000
[admin]
bind = "127.0.0.1:0"
[listener.web]
bind = "127.0.0.1:0"
backlog = 300
pool = "web"
[pool.web]
backends = [{ address = "127.0.0.1:1", max_connections = 200 }, "127.0.0.1:2"]
"#;

/// 1. Too few descriptors: `check` says how many are needed.
/// 2. With one less than that it still does, with that many nothing is left to say.
#[test]
fn as_many_open_files_as_check_asks_for_are_enough() {
    let check = |descriptors: u64| {
        let exit = Launch::new(FILE)
            .nofile(descriptors)
            .run_to_exit(&["check"]);
        assert_eq!(exit.code, Some(0), "{}", exit.stderr);
        exit.stderr
    };
    let warning = check(256);
    let start = "lb.toml:2:19: warning: runtime.max_connections = 1000 is lowered to ";
    assert!(warning.starts_with(start), "{warning}");
    let (_, advice) = warning.split_once("`ulimit -n ").expect("a command");
    let (needed, _) = advice.split_once('`').expect("the end of the command");
    let needed: u64 = needed.parse().expect("a number");
    assert!((2000..3000).contains(&needed), "{warning}");
    assert!(check(needed - 1).starts_with(start));
    assert_eq!(check(needed), "");
}

/// `check`, then `run`, in a network namespace with a short accept queue and a hundred ports.
#[test]
#[ignore = "needs root"]
fn limits_of_a_network_namespace_are_told_by_check_and_once_by_run() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("lb.toml"), FILE).expect("a file");
    let queue = "listener.web.backlog = 300 is cut to 128 by the kernel; raise it with \
                 `sysctl -w net.core.somaxconn=300`";
    let ports = "this backend cannot have 200 connections: each to one address needs a port of \
                 its own, and net.ipv4.ip_local_port_range has 98; widen it with `sysctl -w \
                 net.ipv4.ip_local_port_range=\"1024 65535\"`, or add addresses of backends, or to `source_address`";

    let narrow = "echo 128 >/proc/sys/net/core/somaxconn && \
                  echo 20000 20099 >/proc/sys/net/ipv4/ip_local_port_range && \
                  echo 20010-20011 >/proc/sys/net/ipv4/ip_local_reserved_ports";
    let check = in_namespace(directory.path(), narrow, "check").output();
    let check = check.expect("unshare of util-linux");
    let told = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(0), "{told}");
    let told: Vec<_> = told
        .lines()
        .filter(|line| line.starts_with("lb.toml"))
        .collect();
    let expected = [
        format!("lb.toml:7:11: warning: {queue}"),
        format!("lb.toml:10:58: warning: {ports}"),
    ];
    assert_eq!(told, expected);

    let lines = until_ready(in_namespace(directory.path(), narrow, "run"));
    for (place, message) in [("lb.toml:7:11", queue), ("lb.toml:10:58", ports)] {
        let message = message.replace('"', "\\\"");
        let said = lines.iter().filter(|line| line.contains(&message));
        let said: Vec<_> = said.collect();
        assert_eq!(said.len(), 1, "{message}\n{lines:#?}");
        assert!(said[0].contains(&format!("place={place}")), "{said:?}");
        assert!(said[0].contains("level=warn"), "{said:?}");
    }

    // What they advise is enough, and wants a new start alone.
    let advised = "echo 300 >/proc/sys/net/core/somaxconn && \
                   echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range";
    let check = in_namespace(directory.path(), advised, "check").output();
    let check = check.expect("unshare of util-linux");
    assert_eq!(String::from_utf8_lossy(&check.stderr), "");
}

/// A command of isobar in a network namespace of its own, after `settings`.
fn in_namespace(directory: &Path, settings: &str, command: &str) -> Command {
    let script = format!("ip link set lo up && {settings} && exec \"$0\" {command} -c lb.toml");
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--net", "sh", "-c", &script, env!("CARGO_BIN_EXE_isobar")])
        .current_dir(directory)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    unshare
}

/// What it logs until it is ready, then it is ended.
fn until_ready(mut command: Command) -> Vec<String> {
    struct Running(Child);
    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let child = command.stderr(Stdio::piped()).spawn().expect("unshare");
    let mut running = Running(child);
    let stderr = running.0.stderr.take().expect("a pipe");
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(stderr.take(1 << 20)).lines();
        lines
            .map_while(Result::ok)
            .for_each(|line| drop(sender.send(line)));
    });
    let mut read = Vec::new();
    loop {
        match lines.recv_timeout(patience()) {
            Ok(line) if line.ends_with("msg=ready") => return read,
            Ok(line) => read.push(line),
            Err(error) => panic!("isobar does not become ready: {error}\n{read:#?}"),
        }
    }
}

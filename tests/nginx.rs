//! wrk and curl through isobar to two nginx.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::nginx::Nginx;
use support::programs::{
    Connection, Ended, Program, all_connections, balancer, ended_on, now, run,
};
use support::{Isobar, Pattern, wait_until, web};

/// How long a client may take beyond the time that it was told to run.
const SPARE: Duration = Duration::from_secs(30);

/// Large enough for any engine to be at its best.
const LARGE: u64 = 256 << 20;

// What checks say is to be seen: an ejection would outlast the time that a server is down.
const SETTINGS: &str = "[pool.web.outlier]\nconsecutive_failures = 0\n\
    [pool.web.health]\nkind = \"http\"\npath = \"/health\"\n\
    expect_status = \"204\"\ninterval = \"500ms\"\nfast_interval = \"100ms\"\n\
    timeout = \"400ms\"\n";

/// Two web servers, and isobar before them.
struct Scene {
    isobar: Isobar,
    servers: [Nginx; 2],
}

impl Scene {
    #[track_caller]
    fn set(files: &[(&str, &[u8])]) -> Self {
        let servers = ["n1", "n2"].map(|name| Nginx::web(name, "", "", files));
        let [n1, n2] = &servers;
        let entries = [n1.entry("n1", ""), n2.entry("n2", "")];
        let isobar = balancer(&web(SETTINGS, &entries));
        for name in ["n1", "n2"] {
            isobar.wait_state("web", name, "up");
        }
        Self { isobar, servers }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.isobar.address("web"))
    }

    /// wrk on 32 connections.
    fn wrk(&self, seconds: u64, further: &[&str]) -> Wrk {
        let mut command = Command::new("wrk");
        command.args(["-t", "2", "-c", "32", "-d", &seconds.to_string()]);
        command.args(further).arg(self.url("/name"));
        Wrk {
            program: Program::start(&mut command),
            limit: Duration::from_secs(seconds) + SPARE,
        }
    }

    fn curl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--max-time", "30"]);
        command.args(arguments);
        command
    }

    fn ended(&self) -> [u64; 2] {
        ["n1", "n2"].map(|name| ended_on(&self.isobar, name))
    }

    /// Waits until `more` further connections have ended on each.
    #[track_caller]
    fn wait_for_both(&self, more: u64) {
        let before = self.ended();
        wait_until("both servers were in use", || {
            let now = self.ended();
            now.iter()
                .zip(before)
                .all(|(now, before)| *now >= before + more)
        });
    }
}

struct Wrk {
    program: Program,
    limit: Duration,
}

impl Wrk {
    #[track_caller]
    fn finish(self) -> Ended {
        self.program.finish(self.limit).expect_success()
    }
}

/// wrk mentions faults only if there were any.
#[track_caller]
fn expect_no_fault(ended: &Ended) {
    for fault in ["Non-2xx", "Socket errors"] {
        assert!(!ended.stdout.contains(fault), "{}", ended.stdout);
    }
    assert!(requests(ended) > 100, "{}", ended.stdout);
}

fn requests(ended: &Ended) -> u64 {
    let mut lines = ended.stdout.lines();
    let line = lines.find(|line| line.contains(" requests in "));
    let count = line.and_then(|line| line.split_whitespace().next());
    count
        .and_then(|count| count.parse().ok())
        .expect("wrk says how many requests it made")
}

#[test]
#[ignore = "needs nginx and wrk"]
fn requests_on_lasting_connections_all_succeed() {
    let scene = Scene::set(&[]);
    expect_no_fault(&scene.wrk(3, &[]).finish());
    assert!(all_connections(&scene.isobar).len() >= 32);
    let [n1, n2] = scene.ended();
    assert!(n1.abs_diff(n2) <= 1, "{n1} and {n2}");
}

/// New connections all the time, so that the reload of a server is felt: its listening socket
/// stays open, and its old workers finish what they have begun.
#[test]
#[ignore = "needs nginx and wrk"]
fn requests_on_new_connections_all_succeed_while_a_server_reloads() {
    let mut scene = Scene::set(&[]);
    let wrk = scene.wrk(5, &["-H", "Connection: close"]);
    scene.wait_for_both(100);
    for _ in 0..3 {
        scene.servers[0].reload();
        scene.wait_for_both(100);
    }
    let ended = wrk.finish();
    expect_no_fault(&ended);
    let all = all_connections(&scene.isobar);
    let fine = |one: &&Connection| one.is_ordinary() && one.bytes_out > 0;
    let odd: Vec<_> = all.iter().filter(|one| !fine(one)).collect();
    // wrk asks nothing at first, and leaves in the middle of its last requests.
    assert!(odd.len() <= 33, "{odd:#?}");
    let [n1, n2] = scene.ended();
    assert!(n1.abs_diff(n2) <= 32, "{n1} and {n2}");
}

/// 1. both servers are in use, each request on a connection of its own;
/// 2. one is killed, found to be down, started again, and found to be up;
/// 3. it is in use again: only what was open when it was killed has failed.
#[test]
#[ignore = "needs nginx and wrk"]
fn requests_fail_only_where_they_were_under_way_when_a_server_was_killed() {
    let mut scene = Scene::set(&[]);
    let wrk = scene.wrk(8, &["-H", "Connection: close"]);
    scene.wait_for_both(100);
    let before = now();
    scene.servers[0].kill();
    let after = now();
    scene.isobar.wait_state("web", "n1", "down");
    scene.servers[0].restart();
    scene.isobar.wait_state("web", "n1", "up");
    scene.wait_for_both(100);
    let at_end = now();
    let ended = wrk.finish();
    let all = all_connections(&scene.isobar);
    let open =
        |one: &&Connection| one.is_on("n1") && one.accepted <= after && one.ended_at >= before;
    let asked = |one: &&Connection| one.bytes_in > 0 && one.ended_at < at_end;
    for one in all.iter().filter(asked) {
        assert!(one.bytes_out > 0 || open(&one), "{}", one.raw);
    }
    let most = all.iter().filter(open).count();
    assert!(most > 0, "the kill hit nobody");
    assert!(errors(&ended) <= most, "{}", ended.stdout);
    assert!(!ended.stdout.contains("Non-2xx"), "{}", ended.stdout);
}

/// The sum of `Socket errors: connect 0, read 0, write 0, timeout 0`.
fn errors(ended: &Ended) -> usize {
    let mut lines = ended.stdout.lines();
    let line = lines.find(|line| line.contains("Socket errors:"));
    let words = line.unwrap_or("").split([' ', ',']);
    words.filter_map(|word| word.parse::<usize>().ok()).sum()
}

#[test]
#[ignore = "needs nginx and curl"]
fn requests_one_after_the_other_share_a_connection() {
    let scene = Scene::set(&[]);
    let url = scene.url("/name");
    let format = "%{num_connects} %{http_code}\n";
    let mut curl = scene.curl(&["--write-out", format, &url, &url, &url, &url]);
    let ended = run(&mut curl, SPARE).expect_success();
    let expected = ["1", "0", "0", "0"].map(|new| format!("n1\n{new} 200\n"));
    assert_eq!(ended.stdout, expected.concat().trim_end());
    assert_eq!(all_connections(&scene.isobar).len(), 1);
}

#[test]
#[ignore = "needs nginx and curl"]
fn a_large_file_arrives_whole() {
    let mut content = Vec::new();
    while (content.len() as u64) < LARGE {
        let left = usize::try_from(LARGE).expect("it fits") - content.len();
        content.extend_from_slice(Pattern(1).at(content.len() as u64, left));
    }
    let scene = Scene::set(&[("large", &content)]);
    let dir = tempfile::TempDir::new().expect("a directory");
    let got = dir.path().join("got");
    let mut curl = scene.curl(&["--output", got.to_str().expect("a plain path")]);
    run(curl.arg(scene.url("/large")), SPARE).expect_success();
    assert!(read(&got) == content, "another file");
    let all = all_connections(&scene.isobar);
    assert!(all.len() == 1 && all[0].bytes_out > LARGE, "{all:?}");
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("curl has written it")
}

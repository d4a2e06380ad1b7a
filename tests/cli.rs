//! The commands that ask, against a balancer that runs; and the demo as a script uses it.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::{Backend, Exit, Isobar, Launch, patience, wait_until, web};

/// Two pools; the backends of `web` are up and down.
fn running(admin: &str) -> (Launch, [Backend; 2]) {
    let backends = [Backend::named("b1"), Backend::refusing("b2")];
    let health = "[pool.web.health]\ninterval = \"100ms\"\nfast_interval = \"50ms\"\n";
    let text = format!(
        "{admin}{}[pool.spare]\nbackends = []\n",
        web(health, &backends.each_ref().map(Backend::entry))
    );
    (Launch::new(&text), backends)
}

#[track_caller]
fn started(launch: Launch) -> Isobar {
    let mut isobar = launch.start();
    // The backends see the checks too.
    isobar.skip_byte_check();
    isobar.wait_state("web", "b1", "up");
    isobar.wait_state("web", "b2", "down");
    isobar
}

/// `isobar status` with the endpoint of `isobar` and these arguments.
#[track_caller]
fn status(isobar: &Isobar, args: &[&str], env: &[(&str, &str)]) -> Exit {
    let address = isobar.admin().to_string();
    let mut launch = Launch::new("");
    for (name, value) in env {
        launch = launch.env(name, value);
    }
    launch.run_to_exit(&[&["status", "--admin", &address], args].concat())
}

#[test]
fn the_table_shows_what_runs_and_the_pool_that_is_named() {
    let (launch, _backends) = running("");
    let isobar = started(launch);
    assert_eq!(isobar.visit("web"), "b1");
    for env in [
        &[][..],
        &[("NO_COLOR", "1")],
        &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")],
    ] {
        let exit = status(&isobar, &[], env);
        assert_eq!((exit.code, &*exit.stderr), (Some(0), ""));
        for word in ["web/b1", "web/b2", "spare", "up", "down", "round-robin"] {
            assert!(exit.stdout.contains(word), "no {word} in\n{}", exit.stdout);
        }
        assert!(!exit.stdout.contains('\u{1b}'), "{}", exit.stdout);
    }
    let exit = status(&isobar, &["spare"], &[]);
    assert_eq!((exit.code, &*exit.stderr), (Some(0), ""));
    assert!(exit.stdout.contains("spare"), "{}", exit.stdout);
    assert!(!exit.stdout.contains("web/b1"), "{}", exit.stdout);
}

#[test]
fn one_backend_is_shown_with_how_it_came_to_its_state() {
    let (launch, _backends) = running("");
    let isobar = started(launch);
    let exit = status(&isobar, &["web/b2"], &[]);
    assert_eq!((exit.code, &*exit.stderr), (Some(0), ""));
    for word in ["b2", "down", "starting"] {
        assert!(exit.stdout.contains(word), "no {word} in\n{}", exit.stdout);
    }
}

#[test]
fn json_is_what_the_endpoint_says() {
    let (launch, _backends) = running("");
    let isobar = started(launch);
    let exit = status(&isobar, &["--json"], &[]);
    assert_eq!((exit.code, &*exit.stderr), (Some(0), ""));
    let told: serde_json::Value = serde_json::from_str(&exit.stdout).expect("JSON");
    let stats = isobar.stats();
    for pointer in [
        "/pid",
        "/started_at",
        "/listeners/web/addresses",
        "/pools/web/balance",
    ] {
        assert_eq!(told.pointer(pointer), stats.pointer(pointer), "{pointer}");
    }
}

#[test]
fn a_pool_or_backend_that_is_not_there_is_exit_code_1() {
    let (launch, _backends) = running("");
    let isobar = started(launch);
    for what in ["wbe", "web/b9", "nope/b1"] {
        let exit = status(&isobar, &[what], &[]);
        assert_eq!((exit.code, &*exit.stdout), (Some(1), ""), "{what}");
        assert!(exit.stderr.starts_with("error: "), "{}", exit.stderr);
    }
}

/// An endpoint that others can reach wants the token, from whichever place it comes.
#[test]
fn the_token_opens_an_endpoint_that_others_can_reach() {
    let (launch, _backends) = running("[admin]\nbind = \"0.0.0.0:0\"\ntoken = \"secret\"\n");
    let isobar = started(launch.token("secret"));
    let port = isobar.admin().to_string();
    let address = port.replace("0.0.0.0", "127.0.0.1");
    let ask = |launch: Launch, args: &[&str]| {
        launch.run_to_exit(&[&["status", "--admin", &address], args].concat())
    };
    for launch in [
        Launch::new(""),
        Launch::new("").env("ISOBAR_TOKEN", "wrong"),
        Launch::new("").env("ISOBAR_TOKEN", "secret2"),
    ] {
        let exit = ask(launch, &[]);
        assert_eq!((exit.code, &*exit.stdout), (Some(1), ""), "{}", exit.stderr);
        assert!(!exit.stderr.contains("secret"), "{}", exit.stderr);
    }
    let by_environment = ask(Launch::new("").env("ISOBAR_TOKEN", "secret"), &[]);
    assert_eq!(by_environment.code, Some(0), "{}", by_environment.stderr);
    let launch = Launch::new("").env("ISOBAR_TOKEN", "wrong");
    std::fs::write(launch.dir().join("token"), "secret\n").expect("a file");
    let by_file = ask(launch, &["--token-file", "token"]);
    assert_eq!(by_file.code, Some(0), "{}", by_file.stderr);
    let launch = Launch::new("");
    let exit = ask(launch, &["--token-file", "nowhere"]);
    assert_ne!(exit.code, Some(0));
    assert!(exit.stderr.contains("nowhere"), "{}", exit.stderr);
}

#[test]
fn an_endpoint_on_a_unix_socket_is_found_by_its_path_and_by_the_file() {
    let (launch, _backends) = running("[admin]\nbind = \"unix:$DIR/admin.sock\"\n");
    let isobar = started(launch);
    let exit = status(&isobar, &[], &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(exit.stdout.contains("web/b1"), "{}", exit.stdout);
    let file = isobar.dir().join("lb.toml").display().to_string();
    let exit = Launch::new("").run_to_exit(&["status", "-c", &file]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let by_environment = Launch::new("").env("ISOBAR_CONFIG", &file);
    assert_eq!(by_environment.run_to_exit(&["status"]).code, Some(0));
}

#[test]
fn a_balancer_that_has_ended_is_exit_code_3() {
    let (launch, _backends) = running("");
    let mut isobar = started(launch);
    isobar.stop();
    let exit = status(&isobar, &[], &[]);
    assert_eq!((exit.code, &*exit.stdout), (Some(3), ""));
    let address = isobar.admin().to_string();
    assert!(exit.stderr.contains(&address), "{}", exit.stderr);
}

#[test]
fn an_admin_address_in_use_is_exit_code_1_and_named() {
    let taken = Backend::named("taken");
    let address = taken.address().to_string();
    let backend = Backend::named("b1");
    let text = format!(
        "[admin]\nbind = \"{address}\"\n{}",
        web("", &[backend.entry()])
    );
    let exit = Launch::new(&text).run_to_exit(&["run"]);
    assert_eq!((exit.code, &*exit.stdout), (Some(1), ""));
    assert!(exit.stderr.contains(&address), "{}", exit.stderr);
}

#[test]
fn a_second_balancer_on_the_same_addresses_leaves_the_first_alone() {
    let backend = Backend::named("b1");
    let first = Isobar::start(&web("", &[backend.entry()]));
    let address = first.address("web").to_string();
    let text = format!("[admin]\nbind = \"\"\n{}", web("", &[backend.entry()]));
    let text = text.replace("127.0.0.1:0", &address);
    let exit = Launch::new(&text).run_to_exit(&["run"]);
    assert_eq!((exit.code, &*exit.stdout), (Some(1), ""), "{}", exit.stderr);
    assert!(exit.stderr.contains(&address), "{}", exit.stderr);
    assert_eq!(first.visit("web"), "b1");
}

/// A child that does not outlive its test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended, and been waited for, already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `isobar demo > file < /dev/null` in a script, with both of its answers: to a browser, and
/// to whoever just connects and says a word.
#[test]
fn the_demo_goes_on_without_standard_input_and_ends_on_a_signal() {
    let child = Command::new(env!("CARGO_BIN_EXE_isobar"))
        .arg("demo")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut child = Guarded(child);
    let mut lines = BufReader::new(child.0.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("another line").expect("text");
    let line = std::iter::from_fn(|| Some(next())).find(|line| line.contains("http://"));
    let line = line.expect("an address");
    let address = line.split("http://").nth(1).expect("an address");
    let address = address.trim().trim_end_matches('/').to_owned();
    let ask = |request: &[u8]| {
        let mut stream = TcpStream::connect(&address).expect("the balancer");
        stream
            .set_read_timeout(Some(patience()))
            .expect("a time-out");
        stream.write_all(request).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let page = ask(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(!ask(b"hello\n").trim().is_empty());
    kill_process(Pid::from_child(&child.0), Signal::TERM).expect("our own child");
    let mut status = None;
    wait_until("the demo ended", || {
        status = child.0.try_wait().expect("our own child");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

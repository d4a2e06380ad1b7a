//! What scripts rely on: exit codes, and what goes to which stream.

use std::process::{Command, Output, Stdio};

fn isobar(args: &[&str]) -> Output {
    in_directory(std::env::temp_dir().as_path(), args)
}

/// With nothing from the environment that would change the outcome.
fn in_directory(directory: &std::path::Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_isobar"))
        .args(args)
        .current_dir(directory)
        .env_remove("ISOBAR_CONFIG")
        .env_remove("ISOBAR_TOKEN")
        .stdin(Stdio::null())
        .output()
        .expect("isobar runs")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

/// A file of that content in a directory of its own.
fn file(content: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, content).expect("a file");
    let path = path.display().to_string();
    (directory, path)
}

const GOOD: &str = r#"
[listener.web]
bind = "127.0.0.1:0"
pool = "web"

[pool.web]
backends = ["127.0.0.1:1", "127.0.0.1:2"]
"#;

#[test]
fn help_and_version_are_what_was_asked_for() {
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let output = isobar(args);
        assert_eq!(code(&output), Some(0), "{args:?}");
        assert!(!stdout(&output).is_empty(), "{args:?}");
        assert_eq!(stderr(&output), "", "{args:?}");
    }
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_isobar"))
        .arg("--help")
        .stdout(full.expect("/dev/full"))
        .output()
        .expect("isobar runs");
    assert_eq!(code(&output), Some(1), "{output:?}");
    assert!(stderr(&output).contains("standard output"), "{output:?}");
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    for args in [
        &[][..],
        &["frobnicate"],
        &["run", "--frobnicate"],
        &["completions", "cmd"],
        &["status", "--admin", "https://127.0.0.1:1"],
    ] {
        let output = isobar(args);
        assert_eq!(code(&output), Some(2), "{args:?}");
        assert_eq!(stdout(&output), "", "{args:?}");
        assert!(!stderr(&output).is_empty(), "{args:?}");
    }
}

/// How to reach the balancer is all that its file is asked for: exit code 3 is that nobody
/// answers there.
#[test]
fn the_way_to_the_balancer_is_found_in_a_file_with_other_faults() {
    let faulty = "[pool.web]\nbackends = [\"${NOBODY_SETS_THIS}\"]\nblance = 1\nnonsense\n";
    let (_directory, path) = file(&format!("{faulty}[admin]\nbind = \"127.0.0.1:1\"\n"));
    let output = isobar(&["status", "-c", &path]);
    assert_eq!(code(&output), Some(3), "{output:?}");
    assert!(stderr(&output).contains("127.0.0.1:1"), "{output:?}");
    let (_directory, path) = file(&format!("{faulty}[admin]\nbind = 1\n"));
    let output = isobar(&["status", "-c", &path]);
    assert_eq!(code(&output), Some(2), "{output:?}");
    assert!(stderr(&output).contains(":6:8: "), "{output:?}");
    // Where the section may be lost, its defaults may be those of another balancer.
    let (_directory, path) = file("garbage [");
    for command in ["status", "reload", "plan"] {
        let output = isobar(&[command, "-c", &path]);
        assert_eq!(code(&output), Some(2), "{output:?}");
        let fault = format!("{path}:1:");
        assert!(stderr(&output).starts_with(&fault), "{output:?}");
        let remedy = stderr(&output).contains("--admin");
        assert_eq!(remedy, command != "plan", "{output:?}");
    }
    let elsewhere = ["reload", "-c", &path, "--admin", "127.0.0.1:1"];
    let output = isobar(&elsewhere);
    assert_eq!(code(&output), Some(2), "{output:?}");
    assert!(stderr(&output).contains("leave -c out"), "{output:?}");
    let output = isobar(&["plan", "-c", "/nope"]);
    assert_eq!(code(&output), Some(2), "{output:?}");
    assert_eq!(stderr(&output), "/nope: there is no such file\n");
}

#[test]
fn a_missing_configuration_is_exit_code_2_and_says_where_it_was_looked_for() {
    let empty = tempfile::tempdir().expect("a directory");
    for command in ["run", "check"] {
        let missing = in_directory(empty.path(), &[command, "-c", "nowhere.toml"]);
        assert_eq!(code(&missing), Some(2));
        assert!(
            stderr(&missing).starts_with("nowhere.toml: "),
            "{missing:?}"
        );
    }
    if !std::path::Path::new("/etc/isobar/lb.toml").exists() {
        let missing = in_directory(empty.path(), &["check"]);
        assert_eq!(code(&missing), Some(2));
        assert!(stderr(&missing).contains("lb.toml"), "{missing:?}");
    }
}

/// A FIFO has nothing to read until somebody writes; a pipe that is standard input has.
#[test]
fn a_fifo_is_refused_and_standard_input_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lb.toml");
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo runs").success());
    let path = path.display().to_string();
    for command in ["check", "run", "plan", "reload"] {
        let output = isobar(&[command, "-c", &path]);
        assert_eq!(code(&output), Some(2), "{output:?}");
        let said = format!("{path}: this is a FIFO, not a regular file\n");
        assert!(stderr(&output).starts_with(&said), "{output:?}");
    }
    let (_directory, good) = file(GOOD);
    let given = |stdin: Stdio| {
        let mut check = Command::new(env!("CARGO_BIN_EXE_isobar"));
        check.args(["check", "-c", "/dev/stdin"]).stdin(stdin);
        check.output().expect("isobar runs")
    };
    let regular = given(std::fs::File::open(&good).expect("a file").into());
    let mut cat = Command::new("cat")
        .arg(&good)
        .stdout(Stdio::piped())
        .spawn()
        .expect("cat runs");
    let piped = given(cat.stdout.take().expect("a pipe").into());
    assert!(cat.wait().expect("it ends").success());
    let nothing = given(Stdio::null());
    for output in [regular, piped, nothing] {
        assert_eq!(code(&output), Some(0), "{output:?}");
        assert!(
            stdout(&output).starts_with("/dev/stdin: ok, "),
            "{output:?}"
        );
    }
}

#[test]
fn check_says_what_a_good_file_holds() {
    let (directory, _) = file(GOOD);
    let output = in_directory(directory.path(), &["check"]);
    assert_eq!(code(&output), Some(0), "{output:?}");
    assert_eq!(
        stdout(&output),
        "lb.toml: ok, 1 listener, 1 pool, 2 backends\n"
    );
    assert_eq!(stderr(&output), "");
}

#[test]
fn check_passes_a_file_with_warnings() {
    let (_directory, path) = file(&format!("[runtime]\nmax_connections = 4000000000\n{GOOD}"));
    let output = isobar(&["check", "-c", &path]);
    assert_eq!(code(&output), Some(0), "{output:?}");
    assert!(stdout(&output).contains(": ok, "), "{output:?}");
    assert!(stderr(&output).contains(": warning: "), "{output:?}");
}

#[test]
fn check_and_run_print_every_problem_of_a_file() {
    let bad = GOOD
        .replace("pool = ", "pol = ")
        .replace("backends", "backend");
    let (_directory, path) = file(&bad);
    for command in ["check", "run"] {
        let output = isobar(&[command, "-c", &path]);
        assert_eq!(code(&output), Some(2), "{output:?}");
        assert_eq!(stdout(&output), "");
        for place in [":4:1: ", ":7:1: "] {
            let problem = format!("{path}{place}");
            assert!(stderr(&output).contains(&problem), "{output:?}");
        }
    }
}

#[test]
fn a_file_that_a_check_needs_is_missed_before_anything_starts() {
    let (_directory, path) = file(&format!(
        "{GOOD}\n[pool.web.health]\nkind = \"tls\"\nca = \"/nowhere/ca.pem\"\n"
    ));
    for command in ["check", "run"] {
        let output = isobar(&[command, "-c", &path]);
        assert_eq!(code(&output), Some(2), "{output:?}");
        assert!(stderr(&output).contains("/nowhere/ca.pem"), "{output:?}");
    }
}

#[test]
fn an_unknown_user_is_a_problem_of_the_file() {
    let (_directory, path) = file(&format!("[runtime]\nuser = \"no-such-user-here\"\n{GOOD}"));
    for command in ["check", "run"] {
        let output = isobar(&[command, "-c", &path]);
        assert_eq!(code(&output), Some(2), "{output:?}");
        assert!(stderr(&output).contains("no-such-user-here"), "{output:?}");
    }
}

#[test]
fn run_names_an_address_in_use_and_prints_nothing_on_standard_output() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let content = format!("[admin]\nbind = \"\"\n{GOOD}").replace("127.0.0.1:0", &address);
    let (_directory, path) = file(&content);
    let output = isobar(&["run", "-c", &path]);
    assert_eq!(code(&output), Some(1), "{output:?}");
    assert_eq!(stdout(&output), "");
    let last = stderr(&output).lines().last().unwrap_or_default();
    assert!(
        last.starts_with("error: ") && last.contains(&address),
        "{output:?}"
    );
}

#[test]
fn every_shell_gets_a_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = isobar(&["completions", shell]);
        assert_eq!(code(&output), Some(0), "{shell}");
        assert!(stdout(&output).contains("isobar"), "{shell}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_isobar"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("isobar runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("an exit");
    assert_eq!(code(&output), Some(0), "{output:?}");
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_full_disk_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_isobar"))
        .args(["completions", "bash"])
        .stdout(full.expect("/dev/full"))
        .output()
        .expect("isobar runs");
    assert_eq!(code(&output), Some(1), "{output:?}");
}

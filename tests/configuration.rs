//! What `check` and `run` say about a file: every fault, at its place, in one go.

mod support;

use std::path::Path;
use std::time::Duration;

use support::{Backend, Exit, Isobar, Launch, patience, web};

/// A file without a fault, on ports that the kernel chooses.
const GOOD: &str = r#"[admin]
bind = "127.0.0.1:0"

[listener.web]
bind = "127.0.0.1:0"
pool = "web"

[pool.web]
backends = ["127.0.0.1:1", "127.0.0.1:2"]
"#;

/// The problems on standard error without the excerpts: what names a place.
fn problems(exit: &Exit) -> Vec<&str> {
    let places = exit.stderr.lines();
    places.filter(|line| line.starts_with("lb.toml")).collect()
}

fn check(text: &str) -> Exit {
    Launch::new(text).run_to_exit(&["check"])
}

/// `check` and `run` refuse `text`, and name exactly these problems.
#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    for command in ["check", "run"] {
        let exit = Launch::new(text).run_to_exit(&[command]);
        assert_eq!(exit.code, Some(2), "{command} of {text}\n{}", exit.stderr);
        assert_eq!(exit.stdout, "", "{command} of {text}");
        assert_eq!(problems(&exit), expected, "{command} of {text}");
    }
}

/// `check` passes `text` with exactly these warnings.
#[track_caller]
fn passed(text: &str, warnings: &[&str]) {
    let exit = check(text);
    assert_eq!(exit.code, Some(0), "{text}\n{}", exit.stderr);
    assert_eq!(problems(&exit), warnings, "{text}");
    assert!(exit.stdout.starts_with("lb.toml: ok, "), "{}", exit.stdout);
}

/// The good file with `line` at the end of `[pool.web]`, its tenth line.
fn in_pool(line: &str) -> String {
    format!("{GOOD}{line}\n")
}

#[test]
fn a_good_file_passes_without_a_word_on_standard_error() {
    let exit = check(GOOD);
    assert_eq!((exit.code, &*exit.stderr), (Some(0), ""));
    assert_eq!(exit.stdout, "lb.toml: ok, 1 listener, 1 pool, 2 backends");
}

#[test]
fn the_line_of_a_fault_is_shown_with_the_place_marked() {
    let exit = check(&in_pool("\tblance = \"first\""));
    assert_eq!(
        exit.stderr,
        "lb.toml:10:2: unknown key `blance` in [pool.web], did you mean `balance`?\n \
         10 | \tblance = \"first\"\n    | \t^^^^^^"
    );
}

#[test]
fn each_kind_of_fault_has_its_place_and_its_words() {
    for (line, problem) in [
        ("timout = 3", "10:1: unknown key `timout` in [pool.web]"),
        (
            "conect_timeout = \"1s\"",
            "10:1: unknown key `conect_timeout` in [pool.web], did you mean `connect_timeout`?",
        ),
        (
            "bind = \"127.0.0.1:0\"",
            "10:1: unknown key `bind` in [pool.web], `bind` belongs in [admin]",
        ),
        (
            "connect_attempts = 0",
            "10:20: `connect_attempts` must be a whole number from 1 to 1000, not 0",
        ),
        (
            "connect_attempts = 9223372036854775807",
            "10:20: `connect_attempts` must be a whole number from 1 to 1000, not 9223372036854775807",
        ),
        (
            "max_connecting = -1",
            "10:18: `max_connecting` must be a whole number from 0 to 4294967295, not -1",
        ),
        (
            "idle_timeout = \"-1s\"",
            "10:16: `idle_timeout` cannot be \"-1s\": a duration is not negative",
        ),
        (
            "connect_timeout = 3",
            "10:19: `connect_timeout` must be a duration such as \"1m30s\", not 3, did you mean \"3s\"?",
        ),
        (
            "health.interval = \"0s\"",
            "10:19: `interval` cannot be \"0s\": 0s makes no sense here",
        ),
        (
            "health.kind = \"htp\"",
            "10:15: `kind` cannot be \"htp\": expected one of \"tcp\", \"tls\", \"http\", \
             \"exchange\" or \"none\", did you mean \"http\"?",
        ),
        ("fallback = \"nope\"", "10:12: there is no pool `nope`"),
        (
            "balance = \"${NO_SUCH_NAME}\"",
            "10:12: the environment variable `NO_SUCH_NAME` is not set",
        ),
    ] {
        refused(&in_pool(line), &[&format!("lb.toml:{problem}")]);
    }
}

#[test]
fn a_backend_has_an_address_and_a_weight_in_range_and_a_name_of_its_own() {
    for (backends, problem) in [
        (
            "{ address = \"127.0.0.1:1\", weight = -1 }",
            "2:49: `weight` must be a whole number from 0 to 1000, not -1",
        ),
        (
            "{ address = \"127.0.0.1:1\", weight = 1001 }",
            "2:49: `weight` must be a whole number from 0 to 1000, not 1001",
        ),
        ("{ name = \"b1\" }", "2:13: a backend needs an `address`"),
        (
            "\"127.0.0.1:1\", \"127.0.0.1:1\"",
            "2:28: pool `web` has a backend named `127.0.0.1:1` already, in line 2",
        ),
        (
            "{ name = \"b\", address = \"127.0.0.1:1\" }, { name = \"b\", address = \"127.0.0.1:2\" }",
            "2:63: pool `web` has a backend named `b` already, in line 2",
        ),
        (
            "\"127.0.0.1\"",
            "2:13: `backends` cannot be \"127.0.0.1\": expected IP:PORT, [IP6]:PORT or unix:PATH, \
             did you mean \"127.0.0.1:80\"?",
        ),
        (
            "\"127.0.0.1:65536\"",
            "2:13: `backends` cannot be \"127.0.0.1:65536\": expected IP:PORT, [IP6]:PORT, NAME:PORT, \
             srv:NAME or unix:PATH",
        ),
    ] {
        let text = format!(
            "[pool.web]\nbackends = [{backends}]\n\
             [listener.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n"
        );
        refused(&text, &[&format!("lb.toml:{problem}")]);
    }
}

#[test]
fn an_address_is_bound_by_one_listener_only() {
    for (first, second, named) in [
        ("127.0.0.1:7999", "127.0.0.1:7999", "127.0.0.1:7999"),
        ("127.0.0.1:7999", "0.0.0.0:7999", "0.0.0.0:7999"),
        ("[::]:7999", "127.0.0.1:7999", "127.0.0.1:7999"),
        ("unix:/tmp/x.sock", "unix:/tmp/x.sock", "unix:/tmp/x.sock"),
    ] {
        let text = format!(
            "[listener.a]\nbind = \"{first}\"\npool = \"web\"\n\
             [listener.b]\nbind = \"{second}\"\npool = \"web\"\n\
             [pool.web]\nbackends = [\"127.0.0.1:1\"]\n"
        );
        let problem = format!(
            "lb.toml:5:8: {named} cannot be bound: listener `a` has {first} already, in line 2"
        );
        refused(&text, &[&problem]);
    }
}

#[test]
fn what_is_out_of_scope_says_so() {
    for line in ["tls = true", "stick_table = \"ip\"", "udp = true"] {
        let exit = check(&in_pool(line));
        assert_eq!(exit.code, Some(2), "{}", exit.stderr);
        assert!(exit.stderr.contains("out of scope"), "{}", exit.stderr);
    }
}

/// Every table has a fault, one line does not even parse: all of it is told at once, in the
/// order of the file, and nothing is told that only follows from another fault.
#[test]
fn all_faults_of_a_file_are_told_in_one_go() {
    let text = r#"[runtime]
threads = -1
[listner.web]
bind = "127.0.0.1:0"
[listener.web]
bind = ["127.0.0.1:8080", "127.0.0.1:99999"]
pool = "wbe"
[pool.web]
blance = "first"
idle_timeout = 1h
backends = [{ address = "127.0.0.1:1", weight = 1001 }, "app_1.internal:80"]
[pool.web]
[pool."bad name"]
backends = ["127.0.0.1:1"]
"#;
    refused(
        text,
        &[
            "lb.toml:2:11: `threads` must be a whole number from 0 to 1024, not -1",
            "lb.toml:3:2: unknown key `listner` at the top level, did you mean `listener`?",
            "lb.toml:6:27: `bind` cannot be \"127.0.0.1:99999\": expected IP:PORT, [IP6]:PORT \
             or unix:PATH",
            "lb.toml:7:8: there is no pool `wbe`, did you mean `web`?",
            "lb.toml:9:1: unknown key `blance` in [pool.web], did you mean `balance`?",
            "lb.toml:10:16: text is written in quotes: \"1h\"",
            "lb.toml:11:49: `weight` must be a whole number from 0 to 1000, not 1001",
            "lb.toml:11:57: `backends` cannot be \"app_1.internal:80\": a host name has no \
             underscore",
            "lb.toml:12:7: `web` is here twice: [pool.web] begins in line 8 already",
            "lb.toml:13:7: \"bad name\" is no name: a name has 1 to 64 characters out of A-Z, \
             a-z, 0-9, `_`, `.` and `-`",
        ],
    );
}

#[test]
fn warnings_change_nothing_but_are_told() {
    for (text, warning) in [
        (
            GOOD.replace("[\"127.0.0.1:1\", \"127.0.0.1:2\"]", "[]"),
            "9:12: warning: pool `web` has no backends: its clients are held",
        ),
        (
            in_pool("hash.key = \"client-ip\""),
            "10:12: warning: `key` has no effect without balance = \"consistent-hash\"",
        ),
        (
            in_pool("health.timeout = \"3s\""),
            "10:18: warning: `timeout` is above `interval`: a check may last longer than the \
             time between two",
        ),
        (
            in_pool("[pool.spare]\nbackends = [\"127.0.0.1:3\"]"),
            "10:7: warning: nothing refers to pool `spare`: no listener, no fallback",
        ),
        (
            GOOD.replace("pool = \"web\"\n", "").replace(
                "[pool.web]",
                "[listener.other]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n[pool.web]",
            ),
            "4:11: warning: listener `web` has no `pool`: every connection is rejected",
        ),
        (
            GOOD.replace("bind = \"127.0.0.1:0\"\npool", "unix_mode = \"0600\"\n$0")
                .replace("$0", "bind = \"127.0.0.1:0\"\npool"),
            "5:13: warning: `unix_mode` has no effect without a `bind` to the path of a Unix \
             socket",
        ),
    ] {
        passed(&text, &[&format!("lb.toml:{warning}")]);
    }
}

#[test]
fn run_logs_warnings_with_their_place_and_starts() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("[pool.spare]\nbackends = []", &[backend.entry()]));
    let warning = isobar.log().wait("a warning", |line| {
        line.text("level") == Some("warn") && line.message().contains("`spare`")
    });
    let place = warning.text("place").expect("a place");
    assert!(place.starts_with("lb.toml:"), "{place}");
    assert_eq!(isobar.visit("web"), "b1");
}

/// A file is checked on the machine where it runs already.
#[test]
fn check_binds_nothing() {
    let taken = Backend::named("taken");
    let text = GOOD.replace("127.0.0.1:0", &taken.address().to_string());
    // The administrator's address may not be the listener's.
    let text = text.replacen(&taken.address().to_string(), "127.0.0.1:9900", 1);
    passed(&text, &[]);
    let unix = Launch::new(&GOOD.replace("127.0.0.1:0", "unix:$DIR/x.sock").replacen(
        "unix:$DIR/x.sock",
        "unix:$DIR/admin.sock",
        1,
    ));
    assert_eq!(unix.run_to_exit(&["check"]).code, Some(0));
    for socket in ["x.sock", "admin.sock"] {
        assert!(!unix.dir().join(socket).exists(), "{socket}");
    }
}

#[test]
fn run_with_a_fault_binds_nothing() {
    let launch =
        Launch::new(&in_pool("blance = \"first\"").replace("127.0.0.1:0", "unix:$DIR/x.sock"));
    let exit = launch.run_to_exit(&["run"]);
    assert_eq!(exit.code, Some(2), "{}", exit.stderr);
    assert!(!launch.dir().join("x.sock").exists());
}

/// One line that names the path, for `check` and `run` alike.
#[track_caller]
fn unreadable(dir: &Launch, file: &str, reason: &str) {
    for command in ["check", "run"] {
        let exit = dir.run_to_exit(&[command, "-c", file]);
        assert_eq!(exit.code, Some(2), "{command}: {}", exit.stderr);
        assert_eq!(exit.stdout, "");
        assert_eq!(exit.stderr, format!("{file}: {reason}"), "{command}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let launch = Launch::new(GOOD);
    std::fs::create_dir(launch.dir().join("dir.toml")).expect("a directory");
    unreadable(&launch, "nowhere.toml", "there is no such file");
    unreadable(&launch, "no/where.toml", "there is no such file");
    unreadable(&launch, "dir.toml", "this is a directory, not a file");
    let closed = launch.dir().join("closed.toml");
    std::fs::write(&closed, GOOD).expect("a file");
    set_mode(&closed, 0o000);
    // Root reads everything.
    if std::fs::read(&closed).is_err() {
        unreadable(
            &launch,
            "closed.toml",
            "the file cannot be read: permission denied",
        );
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).expect("our own file");
}

/// `check` of a file with these bytes, beside the usual one.
fn check_bytes(bytes: &[u8]) -> Exit {
    let launch = Launch::new("");
    std::fs::write(launch.dir().join("bytes.toml"), bytes).expect("a file");
    launch.run_to_exit(&["check", "-c", "bytes.toml"])
}

#[test]
fn a_byte_order_mark_and_line_ends_of_windows_change_nothing() {
    let crlf = GOOD.replace('\n', "\r\n");
    for bytes in [
        format!("\u{feff}{GOOD}"),
        crlf.clone(),
        format!("\u{feff}{crlf}"),
        GOOD.trim_end().to_owned(),
    ] {
        let exit = check_bytes(bytes.as_bytes());
        assert_eq!((exit.code, &*exit.stderr), (Some(0), ""), "{bytes:?}");
    }
    let exit = check_bytes(format!("\u{feff}{crlf}blance = 1\r\n").as_bytes());
    let first = exit.stderr.lines().next().expect("a problem");
    assert!(first.starts_with("bytes.toml:10:1: unknown key"), "{first}");
    let exit = check_bytes("\u{feff}é = 1\n".as_bytes());
    assert!(
        exit.stderr.starts_with("bytes.toml:1:1: "),
        "{}",
        exit.stderr
    );
}

#[test]
fn bytes_that_are_no_text_are_a_fault_with_a_place() {
    let mut bytes = GOOD.as_bytes().to_vec();
    bytes.extend(b"# \xc3\xa9 is fine, \xe9 is not\n");
    let exit = check_bytes(&bytes);
    assert_eq!(exit.code, Some(2));
    assert!(
        exit.stderr.starts_with("bytes.toml:10:14: "),
        "{}",
        exit.stderr
    );
    for hostile in [
        &b"\0"[..],
        b"\xff\xfe[\0",
        &[0x5b; 100_000],
        b"a = \"\x1b[2J\"",
    ] {
        let exit = check_bytes(hostile);
        assert_eq!(exit.code, Some(2), "{}", exit.stderr);
        assert!(!exit.stderr.contains('\u{1b}'), "{}", exit.stderr);
        assert!(!exit.stderr.contains("panicked"), "{}", exit.stderr);
    }
}

#[test]
fn an_empty_file_is_a_configuration_that_listens_nowhere() {
    let exit = check_bytes(b"");
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(exit.stderr.contains("no connection can come in"));
}

#[test]
fn a_file_of_megabytes_is_checked_in_no_time() {
    let comment = format!("# {}\n", "x".repeat(100));
    let big = comment.repeat(50_000) + GOOD;
    let exit = check_bytes(big.as_bytes());
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(exit.took < patience());
    let nonsense = "blance = 1\n".repeat(100_000);
    let exit = check_bytes(nonsense.as_bytes());
    assert_eq!(exit.code, Some(2));
    assert!(exit.stderr.len() < 1 << 20, "{} bytes", exit.stderr.len());
    let huge = comment.repeat(200_000);
    let exit = check_bytes(huge.as_bytes());
    assert_eq!(exit.code, Some(2));
    assert_eq!(exit.stderr, "bytes.toml: the file is larger than 16 MiB");
}

#[test]
fn the_flag_wins_over_the_environment_and_that_over_the_directory() {
    let launch = Launch::new(GOOD).env("ISOBAR_CONFIG", "env.toml");
    for (name, backends) in [("env.toml", 3), ("flag.toml", 4)] {
        let list: Vec<_> = (1..=backends)
            .map(|n| format!("\"127.0.0.1:{n}\""))
            .collect();
        let text = GOOD.replace("\"127.0.0.1:1\", \"127.0.0.1:2\"", &list.join(", "));
        std::fs::write(launch.dir().join(name), text).expect("a file");
    }
    let exit = launch.run_to_exit(&["check", "-c", "flag.toml"]);
    assert_eq!(exit.stdout, "flag.toml: ok, 1 listener, 1 pool, 4 backends");
    let exit = launch.run_to_exit(&["check"]);
    assert_eq!(exit.stdout, "env.toml: ok, 1 listener, 1 pool, 3 backends");
    let exit = Launch::new(GOOD)
        .env("ISOBAR_CONFIG", "")
        .run_to_exit(&["check"]);
    assert_eq!(exit.stdout, "lb.toml: ok, 1 listener, 1 pool, 2 backends");
}

#[test]
fn what_the_environment_names_must_exist() {
    let launch = Launch::new(GOOD).env("ISOBAR_CONFIG", "gone.toml");
    let exit = launch.run_to_exit(&["check"]);
    assert_eq!(exit.code, Some(2));
    assert_eq!(exit.stderr, "gone.toml: there is no such file");
}

#[test]
fn a_name_of_the_environment_is_replaced_and_never_shown() {
    let backend = Backend::named("b1");
    let text = web("", &["\"${BACKEND}\"".to_owned()]);
    let isobar = Launch::new(&text)
        .env("BACKEND", &backend.address().to_string())
        .start();
    assert_eq!(isobar.visit("web"), "b1");
    let shown = isobar.get("/config").body;
    assert!(!shown.contains(&backend.address().to_string()), "{shown}");
}

#[test]
fn two_dollars_are_one() {
    let text = in_pool("health = { kind = \"exchange\", send = \"$$HOME$$\", expect = \"a\" }");
    passed(&text, &[]);
}

/// `[defaults.pool]` holds for a pool unless it says otherwise, table by table, also where it
/// says 0, and wherever in the file the defaults stand.
#[test]
fn pools_inherit_what_they_do_not_say_themselves() {
    let defaults = "[defaults.pool]\nbalance = \"first\"\nidle_timeout = \"7m\"\n\
        half_close_timeout = \"11s\"\n[defaults.pool.health]\nkind = \"none\"\n\
        [defaults.pool.hold]\nmax = 5\ntimeout = \"3s\"\n";
    let pools = "[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"a\"\n\
        [pool.a]\nbackends = [\"127.0.0.1:1\"]\nfallback = \"b\"\n\
        [pool.b]\nbackends = [\"127.0.0.1:2\"]\nidle_timeout = \"0s\"\nhold.timeout = \"4s\"\n";
    let first = Isobar::start(&format!("{defaults}{pools}"));
    let last = Isobar::start(&format!("{pools}{defaults}"));
    let shown = first.get("/config").body;
    assert_eq!(
        without_admin(&shown),
        without_admin(&last.get("/config").body)
    );
    let config: toml::Table = shown.parse().expect("TOML");
    let (a, b) = (&config["pool"]["a"], &config["pool"]["b"]);
    for (pool, idle, timeout) in [(a, "7m", "3s"), (b, "0s", "4s")] {
        assert_eq!(pool["balance"].as_str(), Some("first"), "{shown}");
        assert_eq!(pool["half_close_timeout"].as_str(), Some("11s"), "{shown}");
        assert_eq!(pool["idle_timeout"].as_str(), Some(idle), "{shown}");
        assert_eq!(pool["hold"]["timeout"].as_str(), Some(timeout), "{shown}");
        assert_eq!(pool["hold"]["max"].as_integer(), Some(5), "{shown}");
        assert_eq!(pool["health"]["kind"].as_str(), Some("none"), "{shown}");
    }
}

fn without_admin(shown: &str) -> String {
    let lines = shown.lines().filter(|line| !line.starts_with("bind"));
    lines.collect::<Vec<_>>().join("\n")
}

/// What `/config` shows is a configuration, and the same one.
#[test]
fn the_configuration_that_is_shown_can_be_run_again() {
    let backend = Backend::named("b1");
    let first = Isobar::start(&web("idle_timeout = \"9m\"", &[backend.entry()]));
    let shown = first.get("/config").body;
    let second = Isobar::start(&shown);
    assert_eq!(second.get("/config").body, shown);
    assert_eq!(second.visit("web"), "b1");
}

#[test]
fn a_hundred_pools_of_fifty_backends_start() {
    let backend = Backend::named("b1");
    let pool = |number: usize| {
        let mut entries: Vec<_> = (1..50)
            .map(|n| format!("{{ name = \"x{n}\", address = \"127.0.0.1:{n}\", weight = 0 }}"))
            .collect();
        entries.push(backend.entry());
        format!(
            "[listener.l{number}]\nbind = \"127.0.0.1:0\"\npool = \"p{number}\"\n\
             [pool.p{number}]\nbackends = [{}]\nhealth.kind = \"none\"\n",
            entries.join(", ")
        )
    };
    let text: String = (0..100).map(pool).collect();
    let started = std::time::Instant::now();
    let isobar = Isobar::start(&text);
    assert!(started.elapsed() < patience() / 2);
    for number in [0, 50, 99] {
        assert_eq!(isobar.visit(&format!("l{number}")), "b1");
    }
    let wrong = text.clone() + "timout = 1\n";
    let line = wrong.lines().count();
    let exit = Launch::new(&wrong).run_to_exit(&["check"]);
    assert_eq!(
        problems(&exit),
        [format!(
            "lb.toml:{line}:1: unknown key `timout` in [pool.p99]"
        )]
    );
}

/// The machine allows fewer descriptors than the file asks for.
#[test]
fn a_limit_of_the_machine_below_what_the_file_needs_is_a_warning() {
    let text = format!("[runtime]\nmax_connections = 100000\n{GOOD}");
    let exit = Launch::new(&text).nofile(256).run_to_exit(&["check"]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(
        exit.stderr.starts_with("lb.toml:2:19: warning: "),
        "{}",
        exit.stderr
    );
    let backend = Backend::named("b1");
    let text = format!(
        "[runtime]\nmax_connections = 100000\n{}",
        web("", &[backend.entry()])
    );
    let isobar = Launch::new(&text).nofile(256).start();
    let limit = isobar.count("/connections/limit");
    assert!((1..256).contains(&limit), "{limit}");
    isobar.log().wait("that the limit is lower", |line| {
        line.text("level") == Some("warn") && line.raw.contains("100000")
    });
    assert_eq!(isobar.visit("web"), "b1");
    assert!(exit.took < patience() + Duration::from_secs(1));
}

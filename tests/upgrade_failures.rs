//! An upgrade that fails, at any step, changes nothing.

mod support;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use isobar::upgrade::message::Message;
use isobar::upgrade::wire::{Wire, WireError};
use support::programs::Program;
use support::{Backend, Family, Isobar, Launch, Stream, wait_until, web};

/// Names what the new program does wrong.
const ROLE: &str = "ISOBAR_TEST_HEIR";

/// Not a case: the program that takes the place of isobar, and does so badly.
#[test]
#[ignore = "the program that the other tests start"]
fn the_other_process() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let wire = Wire::new(rustix::io::dup(rustix::stdio::stdin()).expect("the socket"));
    play(&role, wire);
    std::process::exit(0);
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Reads on until that message.
fn until(wire: &mut Wire, wanted: impl Fn(&Message) -> bool) {
    while !wanted(&wire.receive(soon()).expect("a message").message) {}
}

fn say(wire: &mut Wire, message: &Message) -> Result<(), WireError> {
    wire.send(message, &[], &[], Duration::from_secs(60))
}

fn ready(wire: &mut Wire) {
    until(wire, |message| *message == Message::Start);
    let ready = Message::Ready {
        version: "9.9.9".to_owned(),
        taken: Vec::new(),
        stops: true,
    };
    say(wire, &ready).expect("somebody listens");
}

fn is_go(message: &Message) -> bool {
    matches!(message, Message::Go { .. })
}

fn is_connections(message: &Message) -> bool {
    matches!(message, Message::Connections { .. })
}

fn play(role: &str, mut wire: Wire) {
    use std::os::fd::AsFd;
    let write = |wire: &Wire, bytes: &[u8]| {
        rustix::net::send(wire.as_fd(), bytes, rustix::net::SendFlags::NOSIGNAL)
            .expect("somebody listens");
    };
    match role {
        "ends" => {}
        "garbage" => write(&wire, &[b'x'; 4096]),
        "other version" => {
            let mut head = b"isobarUP".to_vec();
            head.extend(77_u32.to_le_bytes());
            head.extend([0; 12]);
            write(&wire, &head);
        }
        "too long" => {
            let mut head = b"isobarUP".to_vec();
            head.extend(isobar::upgrade::wire::VERSION.to_le_bytes());
            head.extend([0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0]);
            write(&wire, &head);
        }
        "out of turn" => say(&mut wire, &Message::Serving).expect("somebody listens"),
        "ends at go" => {
            ready(&mut wire);
            until(&mut wire, is_go);
            return;
        }
        "ends with connections" => {
            ready(&mut wire);
            until(&mut wire, is_go);
            say(&mut wire, &Message::Serving).expect("somebody listens");
            until(&mut wire, is_connections);
            return;
        }
        "is silent with connections" => {
            ready(&mut wire);
            until(&mut wire, is_go);
            say(&mut wire, &Message::Serving).expect("somebody listens");
            until(&mut wire, is_connections);
        }
        "hangs" => {}
        other => panic!("no role {other}"),
    }
    if role != "ends" {
        std::thread::sleep(Duration::from_secs(600));
    }
}

/// A balancer with two connections that have talked, and what is replaced where it is.
struct Case {
    isobar: Isobar,
    clients: Vec<Stream>,
    _backend: Backend,
}

impl Case {
    fn start() -> Self {
        let backend = Backend::echo(Family::Ipv4);
        let isobar = Launch::new(&web("", &[backend.entry()])).by_link().start();
        let clients: Vec<_> = (0..2).map(|_| isobar.connect("web")).collect();
        clients.iter().for_each(talk);
        Self {
            isobar,
            clients,
            _backend: backend,
        }
    }

    /// The program that is there from now on.
    fn replace(&self, script: &str) {
        let file = self.isobar.dir().join("other");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a file");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("our own file");
        std::fs::rename(&file, self.isobar.dir().join("isobar")).expect("our own file");
    }

    /// The same, playing a role of this test.
    fn play(&self, role: &str) {
        let own = std::env::current_exe().expect("a test binary has a path");
        let own = own.display();
        let arguments = "--exact the_other_process --ignored --nocapture";
        self.replace(&format!(
            "{ROLE}='{role}' exec '{own}' {arguments} >/dev/null"
        ));
    }

    /// The upgrade is refused so.
    #[track_caller]
    fn fail(&self, status: u16, why: &str) {
        let response = self.isobar.ask("POST", "/upgrade", "");
        assert_eq!(response.status, status, "{}", response.body);
        assert!(response.body.contains(why), "{}", response.body);
    }

    /// Everything is as it was: the same process, all its connections, new ones, no leak.
    #[track_caller]
    fn goes_on(self) {
        assert_eq!(
            self.isobar.count("/pid"),
            u64::from(self.isobar.process().0)
        );
        self.clients.iter().for_each(talk);
        let next = self.isobar.connect("web");
        talk(&next);
        leave(&next);
        self.clients.iter().for_each(leave);
        let mut ended = HashMap::new();
        wait_until("all had ended", || {
            let stats = self.isobar.stats();
            let counts = stats["listeners"]["web"]["ended"]
                .as_object()
                .expect("a table");
            ended = counts
                .iter()
                .map(|(w, n)| (w.clone(), n.as_u64().expect("a count")))
                .collect();
            ended["client_closed"] == self.clients.len() as u64 + 1
        });
        assert_eq!(ended.values().sum::<u64>(), self.clients.len() as u64 + 1);
    }
}

fn talk(client: &Stream) {
    client.write("ping");
    client.expect("ping");
}

fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let case = Case::start();
    std::fs::remove_file(case.isobar.dir().join("isobar")).expect("the link");
    case.fail(500, "cannot start");
    case.goes_on();
}

#[test]
fn a_program_that_cannot_be_executed_is_told() {
    let case = Case::start();
    let link = case.isobar.dir().join("isobar");
    std::fs::remove_file(&link).expect("the link");
    std::fs::write(&link, "").expect("a file");
    case.fail(500, "cannot start");
    case.goes_on();
}

#[test]
fn a_program_that_ends_at_once_is_told_with_its_status() {
    let case = Case::start();
    case.replace("exit 3");
    case.fail(500, "exit status: 3");
    case.goes_on();
}

#[test]
fn an_invalid_file_is_told_and_the_next_upgrade_succeeds() {
    let case = Case::start();
    let file = case.isobar.dir().join("lb.toml");
    let text = std::fs::read_to_string(&file).expect("the file");
    std::fs::write(&file, format!("{text}\nnonsense = 1\n")).expect("the file");
    case.fail(422, "nonsense");
    let admin = format!("http://{}", case.isobar.admin());
    let exit = Launch::new("").run_to_exit(&["upgrade", "--admin", &admin]);
    assert_eq!(exit.code, Some(2), "{}", exit.stderr);
    assert!(exit.stderr.contains("nonsense"), "{}", exit.stderr);
    std::fs::write(&file, text).expect("the file");
    case.isobar.upgrade();
    case.goes_on();
}

/// What stands where a fault is may be a secret: neither the answer, nor the log of either process,
/// nor an event has it.
#[test]
fn faults_are_told_with_their_places_and_not_with_what_stands_there() {
    let case = Case::start();
    let file = case.isobar.dir().join("lb.toml");
    let text = std::fs::read_to_string(&file).expect("the file");
    let line = text.lines().count() + 1;
    let faulty = "[defaults.pool.health]\nsend = \"s3cret\\q\"\n";
    std::fs::write(&file, format!("{text}{faulty}")).expect("the file");
    let refused = case.isobar.ask("POST", "/upgrade", "");
    assert_eq!(refused.status, 422, "{}", refused.body);
    let answer = refused.json();
    let problems = answer["problems"].as_array().expect("a list");
    assert_eq!(problems.len(), 1, "{answer}");
    assert_eq!(problems[0]["line"], line + 1);
    assert!(
        problems[0]["file"]
            .as_str()
            .is_some_and(|f| f.ends_with("lb.toml"))
    );
    assert!(problems[0]["column"].as_u64().is_some_and(|c| c > 0));
    let message = problems[0]["message"].as_str().expect("a sentence");
    let admin = format!("http://{}", case.isobar.admin());
    let exit = Launch::new("").run_to_exit(&["upgrade", "--admin", &admin]);
    assert_eq!(exit.code, Some(2), "{}", exit.stderr);
    assert!(exit.stderr.contains(&format!("lb.toml:{}:", line + 1)));
    assert!(exit.stderr.contains(message), "{}", exit.stderr);
    let place = |text: &str| text.contains(&format!("lb.toml:{}:", line + 1));
    case.isobar.log().wait("the fault and its place", |line| {
        line.text("place").is_some_and(place) && line.message() == message
    });
    case.isobar.log().wait("the refusal", |line| {
        line.message().starts_with("not upgraded") && line.fields()["faults"] == 1
    });
    let log = case.isobar.log().text();
    for said in [&*refused.body, &exit.stderr, &log] {
        assert!(!said.contains("s3cret"), "{said}");
    }
    std::fs::write(&file, text).expect("the file");
    case.goes_on();
}

#[test]
fn an_address_that_cannot_be_bound_is_told() {
    let case = Case::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|a| (a, taken)).expect("an address");
    let file = case.isobar.dir().join("lb.toml");
    let text = std::fs::read_to_string(&file).expect("the file");
    let other = format!(
        "\n[listener.other]\nbind = \"{}\"\npool = \"web\"\n",
        taken.0
    );
    std::fs::write(&file, text + &other).expect("the file");
    case.fail(500, "cannot listen on");
    case.goes_on();
}

#[test]
fn a_process_that_ends_is_told() {
    let case = Case::start();
    case.play("ends");
    case.fail(500, "ended before it served");
    case.goes_on();
}

#[test]
fn what_is_no_message_is_refused() {
    for (role, why) in [
        ("garbage", "no message"),
        ("too long", "too long a message"),
        ("out of turn", "out of turn"),
    ] {
        let case = Case::start();
        case.play(role);
        case.fail(500, why);
        case.goes_on();
    }
}

#[test]
fn another_version_of_the_handover_is_told_apart() {
    let case = Case::start();
    case.play("other version");
    case.fail(500, "version 77");
    case.goes_on();
}

#[test]
fn a_process_that_ends_before_it_accepts_leaves_everything_as_it_was() {
    let case = Case::start();
    case.play("ends at go");
    case.fail(500, "ended before it served");
    case.goes_on();
}

#[test]
fn a_process_that_ends_with_connections_in_its_hands_leaves_them_to_the_old_one() {
    let case = Case::start();
    case.play("ends with connections");
    case.fail(500, "ended before it served");
    case.goes_on();
}

#[test]
fn a_process_that_is_silent_with_connections_in_its_hands_is_ended() {
    let case = Case::start();
    case.play("is silent with connections");
    case.fail(500, "did not answer in time");
    case.goes_on();
}

/// 1. The new process hangs before it is ready. Meanwhile the old one serves, and takes no
///    second upgrade, no reload and no change, which might be lost.
/// 2. It is told to stop, and does, as if nobody had asked for an upgrade.
#[test]
fn a_stop_ends_an_upgrade_that_hangs() {
    let mut case = Case::start();
    case.play("hangs");
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| case.isobar.ask("POST", "/upgrade", ""));
        wait_until("the upgrade had begun", || {
            let same = "{\"weight\": 1}";
            let path = "/pools/web/backends/echo";
            case.isobar.ask("PUT", path, same).status == 409
        });
        case.fail(409, "an upgrade is in progress");
        let reload = case.isobar.ask("POST", "/reload", "");
        assert_eq!(reload.status, 409, "{}", reload.body);
        assert_eq!(case.isobar.ask("POST", "/plan", "").status, 200);
        case.isobar.signal(rustix::process::Signal::HUP);
        case.isobar.log().wait("the refusal", |line| {
            line.message() == "reload refused" && line.fields()["by"] == "SIGHUP"
        });
        case.clients.iter().for_each(talk);
        leave(&case.isobar.connect("web"));
        case.clients.iter().for_each(leave);
        case.isobar.signal(rustix::process::Signal::TERM);
        let response = upgrade.join().expect("an answer");
        assert_eq!(response.status, 409, "{}", response.body);
        assert!(response.body.contains("told to stop"), "{}", response.body);
    });
    assert!(case.isobar.wait_exit().success());
}

/// Its end would be the end of the container.
#[test]
#[ignore = "needs root"]
fn process_1_is_not_upgraded_and_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = "[admin]\nbind = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n";
    std::fs::write(dir.path().join("lb.toml"), text).expect("a file");
    let mut command = std::process::Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        env!("CARGO_BIN_EXE_isobar"),
    ]);
    command
        .args(["run", "-c", "lb.toml"])
        .current_dir(dir.path());
    let program = Program::start(&mut command);
    let line = program
        .stderr()
        .wait("the admin endpoint", |line| line.message() == "admin");
    let address = line.text("address").and_then(|text| text.parse().ok());
    let address = address.expect("an address");
    let response = support::request(&address, "POST", "/upgrade", "", "");
    assert_eq!(response.status, 409, "{}", response.body);
    assert!(response.body.contains("process 1"), "{}", response.body);
    assert_eq!(support::get(&address, "/healthz", "").status, 200);
}

#[test]
fn the_file_of_a_unix_socket_stays_when_the_new_process_fails() {
    let backend = Backend::echo(Family::Ipv4);
    let text = web("", &[backend.entry()]).replace("127.0.0.1:0", "unix:$DIR/web.sock");
    let isobar = Isobar::start(&text);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let file = isobar.dir().join("lb.toml");
    let before = std::fs::read_to_string(&file).expect("the file");
    let other = format!("\n[listener.zz]\nbind = \"{address}\"\npool = \"web\"\n");
    std::fs::write(&file, before + &other).expect("the file");
    let response = isobar.ask("POST", "/upgrade", "");
    assert_eq!(response.status, 500, "{}", response.body);
    let client = isobar.connect("web");
    talk(&client);
    leave(&client);
}

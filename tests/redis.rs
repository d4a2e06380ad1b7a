//! redis-benchmark and plain clients through isobar to three Redis servers.

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use isobar::net::Address;
use procfs::net::TcpState;
use rustix::process::Signal;
use support::programs::{
    Connection, Ended, Program, all_connections, balancer, directory_of, ended_on, own_address,
    run, server, wait_listening, wait_refusing,
};
use support::{Isobar, Stream, sockets_at, wait_until, web};
use tempfile::TempDir;

/// The user that Debian's package has it run as.
const USER: &str = "redis";

/// How long a benchmark may take: many times what it takes on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);

const NAMES: [&str; 3] = ["r1", "r2", "r3"];

/// A server is asked for its health as a client would ask, and is quickly found to be down.
// What checks say is to be seen: an ejection would outlast the time that a server is down.
const SETTINGS: &str = "[pool.web.outlier]\nconsecutive_failures = 0\n\
    [pool.web.health]\nkind = \"exchange\"\nsend = \"PING\\r\\n\"\n\
    expect = \"+PONG\"\ninterval = \"500ms\"\nfast_interval = \"100ms\"\ntimeout = \"400ms\"\n";

struct Redis {
    address: SocketAddr,
    program: Program,
    dir: TempDir,
}

impl Redis {
    #[track_caller]
    fn start() -> Self {
        let (address, dir) = (own_address(), directory_of(USER));
        let program = launch(address, &dir);
        wait_listening(address);
        Self {
            address,
            program,
            dir,
        }
    }

    #[track_caller]
    fn kill(&mut self) {
        self.program.kill();
        wait_refusing(self.address);
    }

    #[track_caller]
    fn restart(&mut self) {
        self.program = launch(self.address, &self.dir);
        wait_listening(self.address);
    }

    /// Sockets on which a client is connected to it.
    fn clients(&self) -> usize {
        sockets_at(self.address, &TcpState::Established).len()
    }
}

fn launch(address: SocketAddr, dir: &TempDir) -> Program {
    let mut command = server(USER, "TERM", "redis-server");
    command.current_dir(dir);
    command.args(["--bind", &address.ip().to_string()]);
    command.args(["--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.args(["--tcp-backlog", "511"]);
    Program::start_ended_by(Signal::TERM, &mut command)
}

/// Three servers, and isobar before them.
struct Scene {
    isobar: Isobar,
    servers: [Redis; 3],
}

impl Scene {
    #[track_caller]
    fn set() -> Self {
        let servers = NAMES.map(|_| Redis::start());
        let entry = |(name, server): (&str, &Redis)| {
            format!("{{ name = \"{name}\", address = \"{}\" }}", server.address)
        };
        let entries: Vec<_> = NAMES.into_iter().zip(&servers).map(entry).collect();
        let isobar = balancer(&web(SETTINGS, &entries));
        for name in NAMES {
            isobar.wait_state("web", name, "up");
        }
        Self { isobar, servers }
    }

    /// redis-benchmark through isobar.
    fn benchmark(&self, arguments: &[&str]) -> Command {
        let Address::Ip(address) = self.isobar.address("web") else {
            panic!("it listens on TCP");
        };
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", &address.ip().to_string()]);
        command.args(["-p", &address.port().to_string()]);
        command.args(["-q", "-c", "50"]).args(arguments);
        command
    }

    /// How many connections each server has had, once all have ended.
    fn shares(&self) -> [usize; 3] {
        let all = all_connections(&self.isobar);
        NAMES.map(|name| all.iter().filter(|one| one.is_on(name)).count())
    }

    /// How many more have ended on each server than `before`.
    fn shares_since(&self, before: [usize; 3]) -> [usize; 3] {
        let mut shares = self.shares();
        for (now, before) in shares.iter_mut().zip(before) {
            *now -= before;
        }
        shares
    }
}

#[track_caller]
fn expect_no_error(ended: Ended, commands: usize) {
    let ended = ended.expect_success();
    let results = ended.stdout.matches("requests per second").count();
    assert!(results >= commands, "{ended:#?}");
    let text = format!("{}{}", ended.stdout, ended.stderr);
    assert!(!text.to_lowercase().contains("error"), "{ended:#?}");
}

#[test]
#[ignore = "needs redis-server and redis-tools"]
fn every_command_is_answered_one_at_a_time_and_in_pipelines() {
    let scene = Scene::set();
    let commands = "ping,set,get,incr,lpush,lpop,sadd,hset,mset";
    let plain = scene.benchmark(&["-n", "10000", "-t", commands]);
    expect_no_error(run(&mut { plain }, LIMIT), 10);
    let pipelined = scene.benchmark(&["-n", "100000", "-P", "16", "-d", "512", "-t", commands]);
    expect_no_error(run(&mut { pipelined }, LIMIT), 10);
    let shares = scene.shares();
    let (least, most) = (shares.iter().min(), shares.iter().max());
    // Round-robin over everything: the benchmark's connections are spread evenly.
    assert!(
        least
            .zip(most)
            .is_some_and(|(least, most)| most - least <= 1),
        "{shares:?}"
    );
    assert!(least > Some(&0));
    assert!(
        all_connections(&scene.isobar)
            .iter()
            .all(Connection::is_ordinary)
    );
}

/// A server that hangs keeps its port open, and only an exchange shows it:
///
/// 1. a benchmark has connections to all three;
/// 2. one is stopped: its share of that benchmark waits, a check times out, it is down;
/// 3. another benchmark, started now, uses the two others only;
/// 4. it goes on: the first benchmark ends without an error, the server is up again;
/// 5. a third benchmark uses all three.
#[test]
#[ignore = "needs redis-server and redis-tools"]
fn a_server_that_hangs_gets_no_new_connection_until_it_answers_again() {
    let scene = Scene::set();
    let hung = &scene.servers[1];
    let mut long = scene.benchmark(&["-n", "600000", "-P", "4", "-t", "set"]);
    let long = Program::start(&mut long);
    wait_until("the benchmark used all three", || {
        scene.servers.iter().all(|server| server.clients() >= 10)
    });
    hung.program.signal(Signal::STOP);
    scene.isobar.wait_state("web", "r2", "down");
    let error = scene
        .isobar
        .stat("/pools/web/backends/r2/health/last_error");
    assert_eq!(error, "no answer within 400ms");
    assert!(
        hung.clients() >= 10,
        "nobody waits for the server that hangs"
    );
    let short = &mut scene.benchmark(&["-n", "20000", "-t", "get"]);
    expect_no_error(run(short, LIMIT), 1);
    wait_until("the two others had its connections", || {
        let [r1, r3] = ["r1", "r3"].map(|name| ended_on(&scene.isobar, name));
        r1 >= 25 && r3 >= 25
    });
    assert_eq!(ended_on(&scene.isobar, "r2"), 0);
    hung.program.signal(Signal::CONT);
    expect_no_error(long.finish(LIMIT), 1);
    scene.isobar.wait_state("web", "r2", "up");
    let before = scene.shares();
    let short = &mut scene.benchmark(&["-n", "20000", "-t", "get"]);
    expect_no_error(run(short, LIMIT), 1);
    let after = scene.shares_since(before);
    assert!(after.iter().all(|share| *share >= 10), "{after:?}");
    assert!(
        all_connections(&scene.isobar)
            .iter()
            .all(Connection::is_ordinary)
    );
}

/// Clients that ask all the time, each on one connection, while one server is killed.
#[test]
#[ignore = "needs redis-server and redis-tools"]
fn a_server_that_is_killed_takes_only_its_own_connections_along() {
    let mut scene = Scene::set();
    let clients: Vec<_> = (0..30).map(|_| scene.isobar.connect("web")).collect();
    let (answers, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let outcomes = std::thread::scope(|scope| {
        let ask = |client| ping(client, &answers, &stop);
        let threads: Vec<_> = clients
            .iter()
            .map(|client| scope.spawn(move || ask(client)))
            .collect();
        wait_until("all asked often", || answers.load(SeqCst) > 3000);
        assert_eq!(scene.servers[0].clients(), 10);
        scene.servers[0].kill();
        scene.isobar.wait_state("web", "r1", "down");
        let seen = answers.load(SeqCst);
        wait_until("the others went on", || answers.load(SeqCst) > seen + 3000);
        stop.store(true, SeqCst);
        let outcomes = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        outcomes.collect::<Vec<_>>()
    });
    assert_eq!(outcomes.iter().filter(|fine| !**fine).count(), 10);
    drop(clients);
    let all = all_connections(&scene.isobar);
    assert_eq!(all.len(), 30);
    for one in all {
        assert_eq!(one.ended != "client_closed", one.is_on("r1"), "{}", one.raw);
    }
    scene.servers[0].restart();
    scene.isobar.wait_state("web", "r1", "up");
    let before = scene.shares();
    expect_no_error(
        run(&mut scene.benchmark(&["-n", "20000", "-t", "get"]), LIMIT),
        1,
    );
    let after = scene.shares_since(before);
    assert!(after.iter().all(|share| *share >= 10), "{after:?}");
}

/// Asks again and again until told to stop; whether every question was answered.
fn ping(client: &Stream, answers: &AtomicUsize, stop: &AtomicBool) -> bool {
    while !stop.load(SeqCst) {
        if client.try_write("PING\r\n").is_err() {
            return false;
        }
        match client.try_read_line() {
            Ok(line) => assert_eq!(line, "+PONG\r"),
            Err(_) => return false,
        }
        answers.fetch_add(1, SeqCst);
    }
    client.fin();
    true
}

//! pgbench through isobar to one PostgreSQL behind two ways, each an nginx of its own.

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use procfs::net::TcpState;
use rustix::process::Signal;
use support::nginx::Nginx;
use support::programs::{
    Connection, Ended, Program, all_connections, balancer, directory_of, ended_on, now,
    own_address, run, server,
};
use support::{Isobar, scaled, sockets_at, wait_until, web};
use tempfile::TempDir;

/// The user that PostgreSQL wants to run as instead of root.
const USER: &str = "postgres";

/// Where Debian has the server's programs, which are in no `PATH`: a directory for each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// How long a client may take beyond the time that it was told to run.
const SPARE: Duration = Duration::from_secs(40);

struct Postgres {
    address: SocketAddr,
    // The program is to end before its directory goes.
    _program: Program,
    _dir: TempDir,
}

impl Postgres {
    /// A server with the tables of pgbench.
    #[track_caller]
    fn start() -> Self {
        let (address, dir) = (own_address(), directory_of(USER));
        let data = dir.path().join("data");
        let mut initdb = server(USER, "KILL", program("initdb"));
        initdb.arg("-D").arg(&data).current_dir(&dir);
        initdb.args(["-A", "trust", "-U", "bench", "--no-sync", "--locale=C"]);
        run(&mut initdb, SPARE).expect_success();
        let mut postgres = server(USER, "QUIT", program("postgres"));
        postgres.arg("-D").arg(&data).arg("-k").arg(dir.path());
        postgres.args(["-h", &address.ip().to_string()]);
        postgres.args(["-p", &address.port().to_string()]);
        postgres.args(["-F", "-N", "200", "-c", "synchronous_commit=off"]);
        postgres.current_dir(&dir);
        // SIGINT: end the sessions, write everything, leave.
        let program = Program::start_ended_by(Signal::INT, &mut postgres);
        program.stderr().wait("that it is ready", |line| {
            line.raw.contains("ready to accept connections")
        });
        let postgres = Self {
            address,
            _program: program,
            _dir: dir,
        };
        run(pgbench(address).args(["-i", "-q"]), SPARE).expect_success();
        postgres
    }
}

/// A program of the server's newest version.
#[track_caller]
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir(VERSIONS).expect("postgresql is installed");
    let programs = versions
        .flatten()
        .map(|version| version.path().join("bin").join(name));
    let newest = programs.filter(|program| program.exists()).max();
    newest.unwrap_or_else(|| panic!("no {name} below {VERSIONS}"))
}

/// pgbench at `address`; what it is to do comes after.
fn pgbench(address: SocketAddr) -> Command {
    let mut command = Command::new(program("pgbench"));
    command.env("PGHOST", address.ip().to_string());
    command.env("PGPORT", address.port().to_string());
    command.env("PGUSER", "bench");
    command.env("PGDATABASE", "postgres");
    command.env("PGCONNECT_TIMEOUT", "20");
    command.stdin(Stdio::null());
    command
}

/// One PostgreSQL behind the ways `a` and `b`, and isobar before these.
struct Scene {
    isobar: Isobar,
    a: Nginx,
    b: Nginx,
    _postgres: Postgres,
}

// What checks say is to be seen: an ejection would outlast the time that a server is down.
const CHECKS: &str = "[pool.web.outlier]\nconsecutive_failures = 0\n\
    [pool.web.health]\ninterval = \"500ms\"\ntimeout = \"500ms\"\nfast_interval = \"100ms\"\n";

impl Scene {
    /// `keys` are further ones of each way.
    #[track_caller]
    fn set(keys: &str) -> Self {
        let postgres = Postgres::start();
        let a = Nginx::way_to(postgres.address);
        let b = Nginx::way_to(postgres.address);
        let entries = [a.entry("a", keys), b.entry("b", keys)];
        let settings = format!("balance = \"least-connections\"\n{CHECKS}");
        let isobar = balancer(&web(&settings, &entries));
        for way in ["a", "b"] {
            isobar.wait_state("web", way, "up");
        }
        Self {
            isobar,
            a,
            b,
            _postgres: postgres,
        }
    }

    /// pgbench through isobar with so many clients for so many seconds, more where everything
    /// may take longer.
    fn bench(&self, clients: usize, seconds: u64, further: &[&str]) -> Bench {
        let seconds = scaled(Duration::from_secs(seconds)).as_secs().max(1);
        let isobar::net::Address::Ip(address) = self.isobar.address("web") else {
            panic!("it listens on TCP");
        };
        let mut command = pgbench(*address);
        let (clients, time) = (clients.to_string(), seconds.to_string());
        // A thread each: pgbench connects without looking after the thread's other clients.
        command.args(["-n", "-j", &clients, "-c", &clients, "-T", &time]);
        Bench {
            program: Program::start(command.args(further)),
            seconds,
        }
    }

    fn ways(&self) -> [SocketAddr; 2] {
        [self.a.address(), self.b.address()]
    }

    /// How many connections have ended on each way.
    fn ended(&self) -> [u64; 2] {
        ["a", "b"].map(|way| ended_on(&self.isobar, way))
    }

    /// Waits until so many more have ended on each way than `before`.
    #[track_caller]
    fn wait_for_both(&self, before: [u64; 2], more: u64) {
        wait_until("both ways were in use", || {
            let mut pairs = self.ended().into_iter().zip(before);
            pairs.all(|(now, before)| now >= before + more)
        });
    }
}

struct Bench {
    program: Program,
    seconds: u64,
}

impl Bench {
    #[track_caller]
    fn finish(self) -> Ended {
        self.program
            .finish(Duration::from_secs(self.seconds) + SPARE)
    }
}

#[track_caller]
fn expect_no_failure(ended: Ended) {
    let ended = ended.expect_success();
    assert!(
        ended.stdout.contains("number of failed transactions: 0 "),
        "{ended:#?}"
    );
    assert!(!ended.stderr.contains("error"), "{ended:#?}");
}

/// How many of pgbench's clients gave up because their connection failed.
fn aborted(ended: &Ended) -> usize {
    let lines = ended.stderr.lines();
    let aborted = lines.filter(|line| line.contains("client ") && line.contains(" aborted"));
    aborted.count()
}

/// Connections of `all` that were on `backend`.
fn on<'a>(all: &'a [Connection], backend: &str) -> Vec<&'a Connection> {
    all.iter().filter(|one| one.is_on(backend)).collect()
}

#[test]
#[ignore = "needs postgresql, nginx and libnginx-mod-stream"]
fn no_transaction_fails_when_each_has_a_connection_of_its_own() {
    let scene = Scene::set("");
    expect_no_failure(scene.bench(16, 4, &["-C"]).finish());
    let all = all_connections(&scene.isobar);
    let [a, b] = ["a", "b"].map(|way| on(&all, way).len());
    assert!(a.min(b) * 10 >= (a + b) * 4, "uneven: {a} and {b}");
    assert!(all.iter().all(|one| one.is_ordinary() && !one.held));
}

#[test]
#[ignore = "needs postgresql, nginx and libnginx-mod-stream"]
fn no_transaction_fails_on_lasting_connections() {
    let scene = Scene::set("");
    expect_no_failure(scene.bench(16, 4, &[]).finish());
    let all = all_connections(&scene.isobar);
    let [a, b] = ["a", "b"].map(|way| on(&all, way).len());
    // 16 clients, and one connection before these that asks for the size of the tables.
    assert_eq!(a + b, 17, "{a} and {b}");
    assert!(a.abs_diff(b) <= 2, "uneven: {a} and {b}");
    assert!(all.iter().all(Connection::is_ordinary));
}

/// The ways take fewer connections at a time than there are clients, so that some are always
/// held:
///
/// 1. every transaction has a connection of its own, on both ways;
/// 2. `a` is killed: the clients whose connections it had give up;
/// 3. `b` is at its limit, the others are held;
/// 4. `a` is started again, passes a check, and gets connections.
#[test]
#[ignore = "needs postgresql, nginx and libnginx-mod-stream"]
fn a_way_that_is_killed_takes_only_its_own_connections_along() {
    let mut scene = Scene::set("max_connections = 6");
    let bench = scene.bench(24, 8, &["-C"]);
    scene.wait_for_both([0; 2], 100);
    let before = now();
    scene.a.kill();
    let after = now();
    scene.isobar.wait_state("web", "a", "down");
    let held = || scene.isobar.count("/pools/web/held_total");
    let so_far = held();
    wait_until("clients were held without it", || held() >= so_far + 20);
    // Since before it can have had any, however late this goes on: pgbench does not wait.
    let back = scene.ended();
    scene.a.restart();
    scene.isobar.wait_state("web", "a", "up");
    scene.wait_for_both(back, 50);
    let ended = bench.finish();
    let all = all_connections(&scene.isobar);
    let open = |one: &&Connection| one.accepted <= after && one.ended_at >= before;
    let own: Vec<_> = on(&all, "a").into_iter().filter(open).collect();
    let aborted = aborted(&ended);
    assert!(aborted > 0, "the kill hit nobody");
    // Some were over just before it.
    assert!(aborted <= own.len(), "{ended:#?}\n{own:#?}");
    for one in all.iter().filter(|one| !one.is_ordinary()) {
        assert!(one.is_on("a") && open(&one), "{}", one.raw);
    }
}

/// The same with connections that last:
///
/// 1. each way has half of them;
/// 2. `a` is killed: its half gives up, the other half goes on to the end;
/// 3. `a` is started again, and new clients are spread over both.
#[test]
#[ignore = "needs postgresql, nginx and libnginx-mod-stream"]
fn a_way_that_is_killed_leaves_lasting_connections_of_the_other_alone() {
    let mut scene = Scene::set("");
    let bench = scene.bench(16, 6, &["-P", "1"]);
    let stderr = bench.program.stderr();
    stderr.wait("all are at work", |line| line.raw.starts_with("progress"));
    wait_until("each way had half of the clients", || {
        scene.ways().iter().all(|way| established(*way) == 8)
    });
    let before = now();
    scene.a.kill();
    let after = now();
    scene.isobar.wait_state("web", "a", "down");
    scene.a.restart();
    scene.isobar.wait_state("web", "a", "up");
    let ended = bench.finish();
    assert_eq!(aborted(&ended), 8, "{ended:#?}");
    let all = all_connections(&scene.isobar);
    let last = |way| {
        on(&all, way)
            .into_iter()
            .filter(|one| one.ended_at > before)
    };
    let broken: Vec<_> = last("a").collect();
    assert_eq!(broken.len(), 8, "{broken:#?}");
    let now_gone = |one: &&Connection| one.accepted < before && one.ended != "client_closed";
    assert!(broken.iter().all(now_gone), "{after} {broken:#?}");
    let kept: Vec<_> = last("b").collect();
    assert_eq!(kept.len(), 8, "{kept:#?}");
    assert!(kept.iter().all(|one| one.is_ordinary()), "{kept:#?}");
    expect_no_failure(scene.bench(8, 1, &[]).finish());
    let again = all_connections(&scene.isobar).split_off(all.len());
    assert!(on(&again, "a").len() >= 4, "{again:#?}");
}

fn established(address: SocketAddr) -> usize {
    sockets_at(address, &TcpState::Established).len()
}

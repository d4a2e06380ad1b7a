//! What isobar tells of its connections: the log, `/stats` and `/metrics` say the same, and it
//! is what the peers saw.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::{
    Backend, Blackhole, Family, Isobar, Launch, Line, Stream, patience, wait_until, web,
};

/// A listener and a pool of this name.
fn pool(name: &str, settings: &str, entries: &[String]) -> String {
    let table = |key: &str| settings.replace("[pool.web", &format!("[{key}"));
    web(&table("pool.web"), entries).replace("web", name)
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// Counts by listener and reason; what is 0 is left out.
type Endings = BTreeMap<(String, String), u64>;

fn of_log(isobar: &Isobar) -> Endings {
    let mut endings = Endings::new();
    for line in isobar.access_lines() {
        let reason = line.text("ended").or(line.text("reason"));
        let listener = line.text("listener").expect("a listener");
        let key = (listener.to_owned(), reason.expect("a reason").to_owned());
        *endings.entry(key).or_default() += 1;
    }
    endings
}

fn of_stats(isobar: &Isobar) -> Endings {
    let stats = isobar.stats();
    let listeners = stats["listeners"].as_object().expect("listeners");
    let of_listener = |(name, table): (&String, &Value)| {
        let both = ["ended", "rejected"].map(|key| table[key].as_object().expect("counts").clone());
        let name = name.clone();
        let counts = both.into_iter().flatten();
        counts
            .map(|(reason, n)| ((name.clone(), reason), n.as_u64().expect("a count")))
            .collect::<Vec<_>>()
    };
    let all = listeners.iter().flat_map(of_listener);
    all.filter(|(_, n)| *n > 0).collect()
}

fn of_metrics(isobar: &Isobar) -> Endings {
    let text = isobar.metrics();
    let families = ["isobar_ended_total{", "isobar_rejected_total{"];
    let lines = text
        .lines()
        .filter(|l| families.iter().any(|f| l.starts_with(f)));
    let label = |line: &str, name: &str| {
        let rest = line.split(&format!("{name}=\"")).nth(1).expect("the label");
        rest.split('"').next().expect("its value").to_owned()
    };
    let all = lines.map(|line| {
        let n: f64 = line
            .rsplit(' ')
            .next()
            .expect("a value")
            .parse()
            .expect("a number");
        ((label(line, "listener"), label(line, "reason")), n as u64)
    });
    all.filter(|(_, n)| *n > 0).collect()
}

/// One connection for each way to end that a client and a backend can bring about, some
/// twice; each way has a listener that is set up for it.
#[test]
fn the_log_the_statistics_and_the_metrics_tell_each_ending_alike() {
    let backend = Backend::manual(Family::Ipv4);
    let (refusing, hole) = (Backend::refusing("b1"), Blackhole::new());
    let here = [backend.entry()];
    let off = "[pool.web.hold]\nmax = 0\n";
    let text = [
        pool("plain", "", &here),
        pool("idle", "idle_timeout = \"200ms\"", &here),
        pool("half", "half_close_timeout = \"200ms\"", &here),
        pool("refused", off, &[refusing.entry()]),
        pool(
            "silent",
            &format!("connect_timeout = \"200ms\"\n{off}"),
            &[hole.entry("b1", "")],
        ),
        pool("none", off, &[]),
        pool("full", "[pool.web.hold]\nmax = 1\n", &[]),
        pool("late", "[pool.web.hold]\ntimeout = \"200ms\"\n", &[]),
        "[listener.void]\nbind = \"127.0.0.1:0\"\n".to_owned(),
    ];
    let isobar = Isobar::start(&text.concat());
    let open = |listener: &str| (isobar.connect(listener), backend.accept());
    let both_close = |first: &Stream, second: &Stream| {
        first.fin();
        second.expect_fin();
        second.fin();
        first.expect_fin();
    };
    for _ in 0..2 {
        let (client, backend) = open("plain");
        both_close(&client, &backend);
    }
    let (client, server) = open("plain");
    both_close(&server, &client);
    let (client, server) = open("plain");
    client.reset();
    server.expect_reset();
    let (client, server) = open("plain");
    // A reset that is there before isobar has looked at the connect is a connect that failed.
    wait_until("it is relayed", || {
        let relaying = isobar.get("/connections?listener=plain&state=relaying");
        relaying.json()["total"] == 1
    });
    server.reset();
    client.expect_reset();
    let (client, server) = open("idle");
    client.expect_reset();
    server.expect_reset();
    let (client, server) = open("half");
    client.fin();
    server.expect_fin();
    client.expect_reset();
    for listener in ["refused", "silent", "none", "late", "void"] {
        isobar.connect(listener).expect_reset();
    }
    let held = isobar.connect("full");
    isobar.wait_count("/pools/full/held", 1);
    isobar.connect("full").expect_reset();
    held.reset();
    let expected: Endings = [
        ("plain", "client_closed", 2),
        ("plain", "backend_closed", 1),
        ("plain", "client_reset", 1),
        ("plain", "backend_reset", 1),
        ("idle", "idle_timeout", 1),
        ("half", "half_close_timeout", 1),
        ("refused", "connect_failed", 1),
        ("silent", "connect_timeout", 1),
        ("none", "no_backend", 1),
        ("full", "hold_full", 1),
        ("full", "client_left", 1),
        ("late", "hold_timeout", 1),
        ("void", "no_route", 1),
    ]
    .map(|(listener, reason, n)| ((listener.to_owned(), reason.to_owned()), n))
    .into();
    wait_until("all had ended", || {
        of_stats(&isobar).values().sum::<u64>() == 14
    });
    assert_eq!(of_stats(&isobar), expected);
    assert_eq!(of_metrics(&isobar), expected);
    wait_until("all was logged", || {
        of_log(&isobar).values().sum::<u64>() == 14
    });
    assert_eq!(of_log(&isobar), expected);
}

/// Clients of many sizes at three backends, and as many that a refusing backend delays: every
/// number is what the peers counted. (That bytes are exact is an invariant of every case.)
#[test]
fn the_numbers_of_a_mixed_workload_are_those_of_the_peers() {
    const CLIENTS: u64 = 40;
    let echoes = ["e1", "e2"].map(|name| {
        Backend::serving(Family::Ipv4, name, |stream| {
            let (bytes, _) = stream.read_to_end();
            let _ = stream.try_write(bytes);
        })
    });
    let (refusing, last) = (Backend::refusing("r1"), Backend::named("r2"));
    let text = pool("echo", "", &echoes.each_ref().map(Backend::entry))
        + &pool(
            "retry",
            "balance = \"first\"",
            &[refusing.entry(), last.entry()],
        );
    let isobar = Isobar::start(&text);
    let mut bytes = 0;
    for n in 0..CLIENTS {
        let client = isobar.connect("echo");
        client.write(vec![7; 100 * n as usize]);
        client.fin();
        assert_eq!(client.read_to_end().0.len() as u64, 100 * n);
        bytes += 100 * n;
        assert_eq!(isobar.visit("retry"), "r2");
    }
    isobar.wait_count("/connections/active", 0);
    let stats = isobar.stats();
    assert_eq!(stats["connections"]["total"], 2 * CLIENTS);
    for listener in ["echo", "retry"] {
        assert_eq!(
            stats["listeners"][listener]["connections"]["total"],
            CLIENTS
        );
        assert_eq!(
            stats["listeners"][listener]["ended"]["client_closed"],
            CLIENTS
        );
        assert_eq!(stats["pools"][listener]["connections"]["total"], CLIENTS);
        assert_eq!(stats["pools"][listener]["held_total"], 0);
    }
    for table in [&stats["listeners"]["echo"], &stats["pools"]["echo"]] {
        assert_eq!(
            (&table["bytes_in"], &table["bytes_out"]),
            (&bytes.into(), &bytes.into())
        );
    }
    for name in ["e1", "e2"] {
        let backend = &stats["pools"]["echo"]["backends"][name];
        assert_eq!(backend["connections"]["total"], CLIENTS / 2);
        assert_eq!(backend["connections"]["failed"], 0);
        for times in ["connect_seconds", "duration_seconds"] {
            plausible(&backend[times], CLIENTS / 2);
        }
    }
    let (first, second) = (
        &stats["pools"]["retry"]["backends"]["r1"],
        &stats["pools"]["retry"]["backends"]["r2"],
    );
    assert_eq!(first["connections"]["failed"], CLIENTS);
    assert_eq!(first["connect_seconds"]["count"], 0);
    assert_eq!(second["connections"]["retried"], CLIENTS);
    assert_eq!(second["connections"]["failed"], 0);
    plausible(&second["connect_seconds"], CLIENTS);
    plausible(&second["first_byte_seconds"], CLIENTS);
}

/// `count` samples, in order, none longer than a case can take.
#[track_caller]
fn plausible(summary: &Value, count: u64) {
    assert_eq!(summary["count"], count, "{summary}");
    let values = ["p50", "p90", "p99"].map(|key| summary[key].as_f64().expect("a number"));
    assert!(values.is_sorted() && values[0] > 0.0, "{summary}");
    let max = summary["max"].as_f64().expect("a number");
    // Percentiles are those of buckets, within an eighth.
    assert!(values[2] <= max * 1.125, "{summary}");
    assert!(max < patience().as_secs_f64() * 3.0, "{summary}");
}

#[test]
fn bytes_of_live_connections_are_seen() {
    let echo = Backend::echo(Family::Ipv4);
    let isobar = Isobar::start(&web("", &[echo.entry()]));
    let client = isobar.connect("web");
    client.write(vec![1; 10_000]);
    client.read_exact(10_000);
    for pointer in [
        "/listeners/web/bytes_in",
        "/pools/web/bytes_out",
        "/pools/web/backends/echo/bytes_in",
    ] {
        isobar.wait_count(pointer, 10_000);
    }
    let listed = isobar.get("/connections").json();
    assert_eq!(listed["connections"][0]["bytes_out"], 10_000, "{listed}");
    assert_eq!(isobar.count("/connections/active"), 1);
    leave(&client);
}

/// The fields of an access line, in their order; `message` and the like come before.
const FIELDS: [&str; 16] = [
    "id",
    "accepted_at",
    "listener",
    "route",
    "client",
    "pool",
    "backend",
    "bytes_in",
    "bytes_out",
    "hold_ms",
    "connect_ms",
    "first_byte_ms",
    "duration_ms",
    "attempts",
    "pick",
    "ended",
];

#[test]
fn an_access_line_has_every_field_with_its_type() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let (client, _) = isobar.stay("web");
    let local = client.local().expect("an address");
    client.write("four");
    leave(&client);
    let line = isobar.wait_access(local);
    let places: Vec<_> = FIELDS
        .iter()
        .map(|key| line.raw.find(&format!("\"{key}\":")).expect(key))
        .collect();
    assert!(places.is_sorted(), "{}", line.raw);
    let head = ["timestamp", "level", "target"];
    let fields = line.fields().as_object().expect("an object");
    assert_eq!(fields.len(), head.len() + FIELDS.len(), "{}", line.raw);
    for key in [
        "id",
        "accepted_at",
        "listener",
        "client",
        "pool",
        "backend",
        "pick",
        "ended",
    ] {
        assert!(fields[key].is_string(), "{key} in {}", line.raw);
    }
    for key in ["connect_ms", "first_byte_ms", "duration_ms"] {
        assert!(fields[key].as_f64() > Some(0.0), "{key} in {}", line.raw);
    }
    for key in ["route", "hold_ms"] {
        assert!(fields[key].is_null(), "{key} in {}", line.raw);
    }
    assert_eq!(
        (&fields["bytes_in"], &fields["bytes_out"]),
        (&4.into(), &3.into())
    );
    assert_eq!(fields["attempts"], 1);
    let spent = ["connect_ms", "first_byte_ms"].map(|key| fields[key].as_f64().expect("a number"));
    assert!(
        fields["duration_ms"].as_f64() >= Some(spent.iter().sum()),
        "{}",
        line.raw
    );
}

#[test]
fn what_a_connection_never_had_is_null() {
    let backend = Backend::manual(Family::Ipv4);
    let text =
        pool("web", "", &[backend.entry()]) + &pool("none", "[pool.web.hold]\nmax = 0\n", &[]);
    let isobar = Isobar::start(&text);
    let client = isobar.connect("none");
    let local = client.local().expect("an address");
    client.expect_reset();
    let line = isobar.wait_access(local);
    for key in ["backend", "hold_ms", "connect_ms", "first_byte_ms", "pick"] {
        assert!(line.fields()[key].is_null(), "{key} in {}", line.raw);
    }
    assert_eq!(line.fields()["attempts"], 0);
    assert_eq!(line.text("pool"), Some("none"));
    let (client, silent) = (isobar.connect("web"), backend.accept());
    let local = client.local().expect("an address");
    client.fin();
    silent.expect_fin();
    silent.fin();
    client.expect_fin();
    let line = isobar.wait_access(local);
    assert!(line.fields()["first_byte_ms"].is_null(), "{}", line.raw);
    assert!(line.fields()["connect_ms"].is_number(), "{}", line.raw);
}

#[test]
fn the_text_of_an_access_line_has_the_same_order_and_leaves_out_what_is_not() {
    let backend = Backend::named("b1");
    let text = web("[log]\nformat = \"text\"\n", &[backend.entry()]);
    let isobar = Isobar::start(&text);
    let (client, _) = isobar.stay("web");
    let local = client.local().expect("an address");
    leave(&client);
    let line = isobar.wait_access(local);
    let keys: Vec<_> = line
        .raw
        .split(' ')
        .map(|field| field.split('=').next().expect("a key"))
        .collect();
    let present = FIELDS
        .iter()
        .filter(|key| !["route", "hold_ms"].contains(key));
    let expected: Vec<_> = ["time", "level", "target"]
        .iter()
        .chain(present)
        .copied()
        .collect();
    assert_eq!(keys, expected, "{}", line.raw);
    assert!(
        line.raw.ends_with(" pick=rr ended=client_closed"),
        "{}",
        line.raw
    );
}

#[test]
fn ids_are_unique() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    isobar.visits("web", 50);
    wait_until("all was logged", || isobar.access_lines().len() == 50);
    let mut ids: Vec<_> = isobar
        .access_lines()
        .iter()
        .map(|line| line.text("id").expect("an id").to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 50);
}

#[test]
fn without_access_no_connection_is_logged() {
    let backend = Backend::named("b1");
    let text =
        "[log]\nformat = \"json\"\naccess = false\n".to_owned() + &web("", &[backend.entry()]);
    let mut isobar = Isobar::start(&(text + "[listener.void]\nbind = \"127.0.0.1:0\"\n"));
    isobar.visits("web", 5);
    isobar.connect("web").reset();
    isobar.connect("void").expect_reset();
    isobar.wait_count("/connections/active", 0);
    assert_eq!(isobar.count("/connections/total"), 7);
    isobar.stop();
    assert!(isobar.access_lines().is_empty(), "{}", isobar.log().text());
}

#[test]
fn a_sample_leaves_out_ordinary_endings_alone() {
    let backend = Backend::named("b1");
    let log = "[log]\nformat = \"json\"\naccess_sample = 0.0\n";
    let isobar = Isobar::start(&(log.to_owned() + &web("", &[backend.entry()])));
    isobar.visits("web", 20);
    let (client, _) = isobar.stay("web");
    client.reset();
    isobar.wait_ended("web", "client_reset", 1);
    wait_until("the reset was logged", || !isobar.access_lines().is_empty());
    let lines = isobar.access_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].text("ended"), Some("client_reset"));
    assert_eq!(isobar.ended("web", "client_closed"), 20);
}

/// Lines go to the file alone; after it was moved away and isobar told, to a new one.
#[test]
fn an_access_file_gets_the_lines_and_is_opened_again_when_told() {
    let backend = Backend::named("b1");
    let log = "[log]\nformat = \"json\"\naccess_file = \"$DIR/access.log\"\n";
    let isobar = Isobar::start(&(log.to_owned() + &web("", &[backend.entry()])));
    let file = isobar.dir().join("access.log");
    let moved = isobar.dir().join("access.log.1");
    let lines = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().count()
    };
    isobar.visits("web", 3);
    wait_until("the file had the lines", || lines(&file) == 3);
    std::fs::rename(&file, &moved).expect("our own file");
    isobar.signal(Signal::USR1);
    wait_until("the file was there again", || file.exists());
    isobar.visits("web", 2);
    wait_until("the new file had the lines", || lines(&file) == 2);
    assert_eq!(lines(&moved), 3);
    assert!(isobar.access_lines().is_empty(), "{}", isobar.log().text());
}

#[test]
fn a_datagram_socket_gets_one_line_each() {
    let backend = Backend::named("b1");
    let log = "[log]\nformat = \"json\"\naccess_file = \"unix:$DIR/log.sock\"\n";
    let launch = Launch::new(&(log.to_owned() + &web("", &[backend.entry()])));
    let socket = UnixDatagram::bind(launch.dir().join("log.sock")).expect("a socket");
    socket
        .set_read_timeout(Some(patience()))
        .expect("a time-out");
    let mut isobar = launch.start();
    for _ in 0..3 {
        isobar.visit("web");
        let mut buffer = [0; 4096];
        let n = socket.recv(&mut buffer).expect("a line");
        let line: Value = serde_json::from_slice(&buffer[..n]).expect("JSON");
        assert_eq!(line["ended"], "client_closed");
    }
    // The log's own socket is opened with the first line.
    isobar.wait_count("/connections/active", 0);
    isobar.renew_baseline();
    assert!(isobar.access_lines().is_empty(), "{}", isobar.log().text());
}

/// Whether the fields of an access line say that it is of a refused connection.
fn is_rejection(line: &Line) -> bool {
    line.message() == "rejected"
}

#[test]
fn refused_clients_get_a_line_a_second_which_counts_the_others() {
    let isobar = Isobar::start("[listener.void]\nbind = \"127.0.0.1:0\"\n");
    let started = Instant::now();
    let told = || {
        let lines = isobar.access_lines().into_iter().filter(is_rejection);
        let suppressed = lines.map(|line| line.fields()["suppressed"].as_u64().expect("a count"));
        suppressed.collect::<Vec<_>>()
    };
    let mut clients = 0;
    wait_until("a second line came", || {
        isobar.connect("void").expect_reset();
        clients += 1;
        told().len() >= 2
    });
    assert!(told().len() as u64 <= started.elapsed().as_secs() + 1);
    // Those that came after the second line wait for the third.
    let told = told();
    assert_eq!(told[0], 0);
    assert!(
        (1..=clients - 2).contains(&told[1]),
        "{told:?} of {clients}"
    );
    isobar.wait_count("/listeners/void/rejected/no_route", clients);
}

#[test]
fn each_change_of_a_backend_is_one_line() {
    let backend = Backend::named("b1");
    let checks = "[pool.web.health]\ninterval = \"100ms\"\nfast_interval = \"50ms\"\n\
                  timeout = \"100ms\"\nrise = 1\nfall = 2\n";
    let mut isobar = Isobar::start(&web(checks, &[backend.entry()]));
    isobar.skip_byte_check();
    isobar.wait_state("web", "b1", "up");
    backend.stop();
    isobar.wait_state("web", "b1", "down");
    backend.listen();
    isobar.wait_state("web", "b1", "up");
    let changes = || {
        let lines = isobar.log().lines().into_iter();
        let lines = lines.filter(|line| line.message() == "backend");
        let word = |line: &Line, key| line.text(key).expect(key).to_owned();
        lines
            .map(|line| (word(&line, "from"), word(&line, "state")))
            .collect::<Vec<_>>()
    };
    wait_until("all was logged", || changes().len() >= 3);
    let expected = [("starting", "up"), ("up", "down"), ("down", "up")];
    let expected = expected.map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(changes(), expected);
    assert_eq!(isobar.count("/pools/web/backends/b1/health/transitions"), 3);
    let history = isobar.get("/pools/web/backends/b1/history").json();
    let history = history["history"].as_array().expect("a list").clone();
    let told: Vec<_> = history.iter().map(|entry| entry["to"].as_str()).collect();
    assert_eq!(told, [Some("up"), Some("down"), Some("up")]);
}

/// A backend refuses, its checks fail, hundreds of clients come and go: no line but those of
/// the connections more than once a second.
#[test]
fn an_outage_does_not_flood_the_log() {
    let backend = Backend::refusing("b1");
    let settings = "[pool.web.hold]\nmax = 50\n\
                    [pool.web.health]\ninterval = \"50ms\"\nfast_interval = \"50ms\"\n";
    let isobar = Isobar::start(&web(settings, &[backend.entry()]));
    let started = Instant::now();
    for _ in 0..10 {
        let clients: Vec<_> = (0..60).map(|_| isobar.connect("web")).collect();
        isobar.wait_count("/pools/web/held", 50);
        clients.into_iter().for_each(Stream::reset);
        isobar.wait_count("/pools/web/held", 0);
    }
    let mut lines = HashMap::<_, u64>::new();
    for line in isobar.log().lines() {
        if !line.is_access() {
            let kind = (
                line.text("target").map(str::to_owned),
                line.message().to_owned(),
            );
            *lines.entry(kind).or_default() += 1;
        }
    }
    let most = started.elapsed().as_secs() + 2;
    assert!(
        lines.values().all(|n| *n <= most),
        "{lines:?} in {most} seconds"
    );
}

/// The value of each series that may only grow.
fn growing(text: &str) -> HashMap<String, f64> {
    let ends = ["_total", "_count", "_sum", "_bucket"];
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let name = series.split('{').next()?;
            let grows = ends.iter().any(|end| name.ends_with(end));
            grows.then(|| (series.to_owned(), value.parse().expect("a number")))
        })
        .collect()
}

#[test]
fn counters_only_grow_while_connections_come_and_go() {
    let backends = [Backend::named("b1"), Backend::refusing("b2")];
    let isobar = Isobar::start(&web("", &backends.each_ref().map(Backend::entry)));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| isobar.visits("web", 60)))
            .collect();
        scope.spawn(|| {
            let mut before = growing(&isobar.metrics());
            assert!(before.len() > 50, "only {before:?}");
            while !done.load(SeqCst) {
                let now = growing(&isobar.metrics());
                for (series, value) in &before {
                    assert!(now[series] >= *value, "{series} fell from {value}");
                }
                before = now;
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let visited = visitors.into_iter().map(|visitor| visitor.join().is_ok());
        let visited: Vec<_> = visited.collect();
        done.store(true, SeqCst);
        assert!(visited.iter().all(|fine| *fine), "a visitor failed");
    });
    isobar.wait_ended("web", "client_closed", 240);
}

#[test]
fn at_debug_failed_connects_are_a_line_a_second_for_each_pool() {
    let entries = ["\"127.0.0.1:1\"".to_owned()];
    let settings = "connect_attempts = 1\n[pool.web.hold]\nmax = 0\n";
    let text = pool("web", settings, &entries);
    let text = format!("{text}\n[log]\nlevel = \"debug\"\nformat = \"json\"\n");
    let begun = std::time::Instant::now();
    let mut isobar = Launch::new(&text).start();
    for _ in 0..100 {
        isobar.connect("web").expect_reset();
    }
    isobar.wait_ended("web", "connect_failed", 100);
    isobar.stop();
    let allowed = begun.elapsed().as_secs() as usize + 2;
    let lines = isobar.log().lines();
    let failed = lines
        .iter()
        .filter(|line| line.message() == "connect failed");
    let said = failed.count();
    assert!((1..=allowed).contains(&said), "{said} lines");
}

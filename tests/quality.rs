//! What the kernel knows of live connections to a backend is sampled and shown: round-trip times,
//! what was retransmitted, how fast it delivers. Nothing is counted twice or lost, and nobody pays
//! for it.

mod support;

use std::collections::HashMap;
use std::io::Read;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use isobar::net::Address;
use serde_json::Value;
use support::crowd::play_if_told;
use support::{Backend, Crowd, Echoes, Family, Isobar, Pattern, Stream, patience, wait_until, web};

/// Not a case: the program that a case starts.
#[test]
#[ignore = "the program that the other tests start"]
fn the_other_process() {
    play_if_told();
}

/// One connection of a client, through the balancer, to the backend.
fn open(isobar: &Isobar, backend: &Backend) -> (Stream, Stream) {
    let client = isobar.connect("web");
    (client, backend.accept())
}

fn close(client: &Stream, server: &Stream) {
    client.fin();
    server.expect_fin();
    server.fin();
    client.expect_fin();
}

/// The client asks `n` times, and is answered.
fn talk(client: &Stream, server: &Stream, n: usize) {
    for _ in 0..n {
        client.write("ask\n");
        server.expect("ask\n");
        server.write("ok\n");
        client.expect("ok\n");
    }
}

/// What `/stats` has of the only backend.
struct Told(Value);

impl Told {
    fn by(isobar: &Isobar, backend: &Backend) -> Self {
        Self(isobar.stat(&format!("/pools/web/backends/{}", backend.name())))
    }

    fn number(&self, pointer: &str) -> f64 {
        let value = self.0.pointer(pointer);
        let number = value.and_then(Value::as_f64);
        number.unwrap_or_else(|| panic!("{pointer} is {value:?} in {}", self.0))
    }

    fn sent(&self) -> u64 {
        self.number("/retransmitted/sent_bytes") as u64
    }

    fn sent_again(&self) -> u64 {
        self.number("/retransmitted/retransmitted_bytes") as u64
    }

    fn round_trips(&self) -> u64 {
        self.number("/rtt_seconds/count") as u64
    }

    /// Bytes that were sent for the first time.
    fn payload(&self) -> u64 {
        self.sent() - self.sent_again()
    }
}

/// Waits until so many bytes have been seen on their way to the backend; what is told then.
#[track_caller]
fn wait_payload(isobar: &Isobar, backend: &Backend, n: u64) -> Told {
    let mut told = Told::by(isobar, backend);
    wait_until(&format!("{n} bytes are counted as sent"), || {
        told = Told::by(isobar, backend);
        assert!(told.payload() <= n, "{} bytes of {n}", told.payload());
        told.payload() == n
    });
    told
}

/// 1. A client asks and is answered, ten times, then all is quiet.
/// 2. When the connection has lasted a second, a round-trip time is counted, and every byte.
/// 3. Nothing changes while it is quiet: what was measured is no news.
/// 4. It asks again and ends in the same moment: at its end the rest is counted.
#[test]
fn a_connection_that_lasts_is_sampled_and_every_byte_of_it_counted_once() {
    let backend = Backend::manual_as("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let (client, server) = open(&isobar, &backend);
    talk(&client, &server, 10);
    let told = wait_payload(&isobar, &backend, 40);
    let count = told.round_trips();
    assert!(count >= 1, "{}", told.0);
    let max = told.number("/rtt_seconds/max");
    assert!(max > 0.0 && max < 20.0, "{max}");
    for percentile in ["p50", "p90", "p99"] {
        let value = told.number(&format!("/rtt_seconds/{percentile}"));
        assert!(
            value > 0.0 && value <= max,
            "{percentile}: {value} of {max}"
        );
    }
    assert!(told.0["retransmitted"]["share"].is_number());
    let quiet = Instant::now() + Duration::from_secs(3);
    while Instant::now() < quiet {
        let now = Told::by(&isobar, &backend);
        assert_eq!((now.sent(), now.round_trips()), (told.sent(), count));
        std::thread::sleep(Duration::from_millis(100));
    }
    talk(&client, &server, 5);
    close(&client, &server);
    wait_payload(&isobar, &backend, 60);
    isobar.wait_count("/listeners/web/connections/active", 0);
    let labels = [("backend", "b1")];
    let metric = |name: &str| isobar.metric(&format!("isobar_backend_{name}"), &labels);
    let told = Told::by(&isobar, &backend);
    assert_eq!(metric("rtt_seconds_count"), told.round_trips() as f64);
    assert_eq!(metric("tcp_sent_bytes_total"), told.sent() as f64);
    assert_eq!(
        metric("tcp_retransmitted_bytes_total"),
        told.sent_again() as f64
    );
    let limits = isobar.metrics();
    let buckets = limits.lines().filter(|line| {
        line.starts_with("isobar_backend_rtt_seconds_bucket") && line.contains("\"b1\"")
    });
    assert_eq!(buckets.count(), 12);
}

#[test]
fn connections_of_less_than_a_second_are_not_asked_about() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let begun = Instant::now();
    let mut visits = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        let visit = Instant::now();
        assert_eq!(isobar.visit("web"), "b1");
        if visit.elapsed() >= Duration::from_secs(1) {
            return; // The machine is too slow for this to show anything.
        }
        visits += 1;
    }
    isobar.wait_count("/pools/web/backends/b1/duration_seconds/count", visits);
    let told = Told::by(&isobar, &backend);
    assert_eq!((told.round_trips(), told.sent()), (0, 0), "{}", told.0);
    assert!(told.0["retransmitted"]["share"].is_null());
}

/// 1. Of what comes to the backend one segment in ten is lost.
/// 2. A client uploads 8 MiB, which all arrive.
/// 3. What was sent is the payload and what was sent again, which is about as much as was lost.
#[test]
fn what_is_lost_and_sent_again_shows_as_a_share() {
    const PAYLOAD: u64 = 8 << 20;
    let backend = Backend::manual_as("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let (client, server) = open(&isobar, &backend);
    server.lose_one_in(10);
    upload(&client, &server, PAYLOAD);
    let told = wait_payload(&isobar, &backend, PAYLOAD);
    let share = told.number("/retransmitted/share");
    assert!((0.02..0.5).contains(&share), "{}", told.0);
    let by_counts = told.sent_again() as f64 / told.sent() as f64;
    assert!((share / by_counts - 1.0).abs() < 0.01, "{}", told.0);
    close(&client, &server);
}

fn upload(client: &Stream, server: &Stream, bytes: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| client.write_pattern(Pattern(1), bytes));
        server.expect_pattern(Pattern(1), bytes);
    });
}

/// A backend that reads slowly: there is always more to send than it takes, so that the kernel
/// knows how fast it takes it.
#[test]
fn the_rate_is_known_of_a_backend_that_gets_more_than_it_takes() {
    let backend = Backend::manual_as("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let (client, server) = open(&isobar, &backend);
    let (enough, begun) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 64 << 10];
            while server.read(&mut buffer).is_ok_and(|n| n > 0) {
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        scope.spawn(|| {
            // The bound is for a case that fails.
            while !enough.load(SeqCst) && begun.elapsed() < 2 * patience() {
                client.write(vec![7; 256 << 10]);
            }
            client.fin();
        });
        wait_until("a rate was measured", || {
            Told::by(&isobar, &backend).number("/delivery_rate/count") >= 1.0
        });
        enough.store(true, SeqCst);
    });
    server.fin();
    client.expect_fin();
    let told = Told::by(&isobar, &backend);
    let rate = told.number("/delivery_rate/p50");
    // What a slow machine makes of it, and what no memory can do.
    assert!((1e4..1e12).contains(&rate), "{}", told.0);
    let labels = [("backend", "b1")];
    let count = isobar.metric("isobar_backend_delivery_bytes_per_second_count", &labels);
    assert_eq!(count, told.number("/delivery_rate/count"));
}

#[test]
fn of_a_unix_socket_nothing_is_told() {
    let backend = Backend::echo(Family::Unix);
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = isobar.connect("web");
    client.write("hello");
    client.expect("hello");
    // As long as it takes to be sampled, if it were.
    std::thread::sleep(Duration::from_millis(2500));
    let told = Told::by(&isobar, &backend);
    for field in ["rtt_seconds", "delivery_rate", "retransmitted"] {
        assert!(told.0[field].is_null(), "{field}: {}", told.0);
    }
    let text = isobar.metrics();
    for name in ["rtt", "delivery", "tcp"] {
        let series = format!("isobar_backend_{name}_");
        let found = text.lines().find(|line| line.starts_with(&series));
        assert_eq!(found, None);
    }
    client.fin();
    client.expect_fin();
}

#[test]
fn a_backend_that_is_removed_takes_its_samples_along() {
    let (backend, other) = (Backend::manual_as("b1"), Backend::named("b2"));
    let isobar = Isobar::start(&web("", &[backend.entry(), other.entry_with("weight = 0")]));
    isobar.expect_removal();
    let (client, server) = open(&isobar, &backend);
    talk(&client, &server, 1);
    wait_payload(&isobar, &backend, 4);
    close(&client, &server);
    isobar.wait_count("/listeners/web/connections/active", 0);
    isobar.tell("DELETE", "/pools/web/backends/b1", "");
    wait_until("it is gone", || {
        isobar.stat("/pools/web/backends").get("b1").is_none()
    });
    assert!(!isobar.metrics().contains("backend=\"b1\""));
    isobar.tell("POST", "/pools/web/backends", &json_of(&backend));
    let told = Told::by(&isobar, &backend);
    assert_eq!((told.round_trips(), told.sent()), (0, 0), "{}", told.0);
}

fn json_of(backend: &Backend) -> String {
    format!(
        r#"{{"name": "{}", "address": "{}"}}"#,
        backend.name(),
        backend.address()
    )
}

/// 1. A connection that lasts is sampled; the file is reloaded, the program upgraded.
/// 2. What was counted is counted still, and no byte of the same connection is counted again.
/// 3. It asks again, before and after a second upgrade, and ends: every byte is there.
#[test]
fn reloads_and_upgrades_lose_nothing_and_count_nothing_twice() {
    let backend = Backend::manual_as("b1");
    let text = web("", &[backend.entry()]);
    let isobar = Isobar::start(&text);
    let (client, server) = open(&isobar, &backend);
    talk(&client, &server, 10);
    let before = wait_payload(&isobar, &backend, 40);
    isobar.reload_to(&format!("{text}\n[pool.more]\nbackends = []\n"));
    let reloaded = Told::by(&isobar, &backend);
    assert_eq!(reloaded.payload(), 40);
    assert!(reloaded.round_trips() >= before.round_trips());
    isobar.upgrade();
    let upgraded = Told::by(&isobar, &backend);
    assert_eq!(upgraded.payload(), 40);
    assert!(upgraded.round_trips() >= before.round_trips());
    assert_eq!(
        upgraded.number("/rtt_seconds/p50"),
        before.number("/rtt_seconds/p50")
    );
    talk(&client, &server, 5);
    wait_payload(&isobar, &backend, 60);
    talk(&client, &server, 5);
    isobar.upgrade();
    talk(&client, &server, 5);
    wait_payload(&isobar, &backend, 100);
    close(&client, &server);
    wait_payload(&isobar, &backend, 100);
}

/// 1. A thousand clients have talked, and say nothing more. Each is sampled.
/// 2. The balancer is calm then, and counts nothing more of them.
#[test]
fn a_thousand_idle_connections_are_sampled_once_and_then_left_alone() {
    const CLIENTS: usize = 1000;
    let echoes = Echoes::start(1);
    let pool = web("", &echoes.entries());
    let isobar = Isobar::start(&format!("[runtime]\nthreads = 2\n{pool}"));
    let mut crowd = Crowd::start();
    crowd.open(CLIENTS, &[isobar.address("web")]);
    let count = "/pools/web/backends/b0/rtt_seconds/count";
    wait_until("each was sampled", || isobar.count(count) >= CLIENTS as u64);
    let sampled = isobar.count(count);
    isobar.assert_calm();
    assert_eq!(isobar.count(count), sampled);
    crowd.leave(CLIENTS);
}

/// The words that `ss -ti` has about the only connection to the backend.
fn ss(backend: &Backend) -> HashMap<String, String> {
    let Address::Ip(address) = backend.address() else {
        panic!("ss tells of TCP alone");
    };
    let mut command = Command::new("ss");
    command.args([
        "-tinHO",
        "state",
        "established",
        "dst",
        &address.to_string(),
    ]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("ss of iproute2");
    let mut text = String::new();
    let mut output = child.stdout.take().expect("a pipe");
    output.read_to_string(&mut text).expect("text");
    assert!(child.wait().expect("it was started").success());
    assert_eq!(text.lines().count(), 1, "{text}");
    let words = text.split_whitespace();
    let pair = |word: &str| {
        word.split_once(':')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    words.filter_map(pair).collect()
}

/// Another program asks the same kernel about the same socket, which is quiet.
#[test]
#[ignore = "needs ss of iproute2"]
fn what_is_told_is_what_ss_says_of_the_same_connection() {
    const PAYLOAD: u64 = 4 << 20;
    let backend = Backend::manual_as("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let (client, server) = open(&isobar, &backend);
    server.lose_one_in(10);
    upload(&client, &server, PAYLOAD);
    let told = wait_payload(&isobar, &backend, PAYLOAD);
    let ss = ss(&backend);
    let number = |word: &str| ss[word].parse::<u64>().expect("a number");
    assert_eq!(told.sent(), number("bytes_sent"), "{ss:?}");
    assert_eq!(told.sent_again(), number("bytes_retrans"), "{ss:?}");
    assert!(told.sent_again() > 0);
    let milliseconds = ss["rtt"].split('/').next().expect("a mean");
    let rtt = milliseconds.parse::<f64>().expect("a number") / 1e3;
    // It may have been sampled before, when the time was another one.
    let max = told.number("/rtt_seconds/max");
    assert!(max >= rtt - 1e-6, "{max} and {rtt}");
    if told.round_trips() == 1 {
        assert!((max - rtt).abs() < 1.5e-6, "{max} and {rtt}");
    }
    close(&client, &server);
}

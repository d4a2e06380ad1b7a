//! Clients that come and go without a pause while backends die and return: nobody may be
//! forgotten, and no place for a connection may be lost on the way.
//!
//! `ISOBAR_TEST_CHURN_SECONDS` has it go on for longer. What hangs is shown as it hangs: every
//! wait has a deadline, and before it fails it prints what isobar says of itself and what the
//! kernel says of its sockets.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rand::RngExt;
use support::{Backend, Family, Isobar, Stream, patience, scaled, web};

const ENGINES: [&str; 3] = ["copy", "splice", "auto"];

/// Clients at a time, of each engine.
const CROWD: usize = 12;

/// Connections that each of two backends takes at a time: some clients are always held.
const LIMIT: usize = 3;

/// Requests on a connection, at most.
const REQUESTS: usize = 4;

/// The most that a request or an answer has, beyond what one read takes.
const LARGEST: usize = 100_000;

/// Served in between two blows, so that each hits a balancer in full use.
const IN_BETWEEN: usize = 40;

/// How long blows fall.
fn time() -> Duration {
    let seconds = std::env::var("ISOBAR_TEST_CHURN_SECONDS").ok();
    let seconds = seconds.map_or(4, |text| text.parse().expect("a number"));
    Duration::from_secs(seconds)
}

/// What answers a request: as many bytes as asked for, after reading as many.
fn backend(name: &str) -> Backend {
    Backend::serving(Family::Ipv4, name, |stream| {
        while let Ok(line) = stream.try_read_line() {
            let Some((up, down)) = line.split_once(' ') else {
                return;
            };
            let (Ok(up), Ok(down)) = (up.parse(), down.parse()) else {
                return;
            };
            let got = stream.try_read_up_to(up);
            if got.len() < up || stream.try_write(vec![b'a'; down]).is_err() {
                return;
            }
        }
    })
}

/// A pool of one engine, and who goes through it.
struct Scene<'a> {
    engine: &'a str,
    isobar: &'a Isobar,
    backends: [Backend; 2],
    served: AtomicUsize,
    /// Connections that a blow cut.
    cut: AtomicUsize,
    over: AtomicBool,
}

fn pool(engine: &str, backends: &[Backend; 2]) -> String {
    let limit = format!("max_connections = {LIMIT}");
    let entries = backends
        .each_ref()
        .map(|backend| backend.entry_with(&limit));
    let settings = format!(
        "relay = \"{engine}\"\nbalance = \"least-connections\"\n[pool.web.health]\n\
         interval = \"300ms\"\ntimeout = \"300ms\"\nfast_interval = \"50ms\"\n"
    );
    web(&settings, &entries).replace("web", engine)
}

impl Scene<'_> {
    /// A client that comes again and again.
    fn come(&self) {
        let mut rng = rand::rng();
        while !self.over.load(SeqCst) {
            let client = self.isobar.connect(self.engine);
            let wish = rng.random_range(0..20);
            if wish == 0 {
                // In whatever state it is.
                client.reset();
                continue;
            }
            match self.talk(&client, rng.random_range(1..=REQUESTS)) {
                Ok(()) => drop(self.served.fetch_add(1, SeqCst)),
                Err(error) if support::is_reset(&error) => drop(self.cut.fetch_add(1, SeqCst)),
                Err(error) => self.hangs(&format!("{client:?} hangs: {error}")),
            }
        }
    }

    fn talk(&self, client: &Stream, requests: usize) -> std::io::Result<()> {
        let mut rng = rand::rng();
        for _ in 0..requests {
            let sizes = [(); 2].map(|()| match rng.random_range(0..10) {
                0 => rng.random_range(0..LARGEST),
                _ => rng.random_range(0..200),
            });
            let [up, down] = sizes;
            client.try_write(format!("{up} {down}\n"))?;
            client.try_write(vec![b'q'; up])?;
            let (mut left, mut buffer) = (down, [0; 4096]);
            while left > 0 {
                let most = left.min(buffer.len());
                left -= match client.read(&mut buffer[..most])? {
                    0 => return Err(std::io::ErrorKind::ConnectionReset.into()),
                    n => n,
                };
            }
        }
        client.fin();
        match client.read(&mut [0])? {
            0 => Ok(()),
            n => panic!("{n} bytes more than were asked for"),
        }
    }

    /// Kills one backend or the other, or has it refuse for a while, or both; each time all go
    /// on being served in the end.
    fn strike(&self) {
        let mut rng = rand::rng();
        let end = Instant::now() + scaled(time());
        while Instant::now() < end {
            let one = rng.random_range(0..2);
            let other = &self.backends[1 - one];
            let one = &self.backends[one];
            match rng.random_range(0..4) {
                0 => one.crash(),
                1 => one.stop(),
                2 => one.reset_all(),
                _ => {
                    one.crash();
                    other.crash();
                    std::thread::sleep(Duration::from_millis(rng.random_range(0..100)));
                    other.listen();
                }
            }
            self.wait_for_service("after a blow");
            one.listen();
            self.wait_for_service("after a return");
        }
    }

    /// Waits until many more were served.
    fn wait_for_service(&self, when: &str) {
        let before = self.served.load(SeqCst);
        let end = Instant::now() + patience();
        while self.served.load(SeqCst) < before + IN_BETWEEN {
            if Instant::now() > end {
                let served = self.served.load(SeqCst) - before;
                self.hangs(&format!("{served} were served {when}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Says all that is known of it while it lasts, and fails.
    fn hangs(&self, what: &str) -> ! {
        eprintln!("--- {}: {what}", self.engine);
        for path in ["/stats", "/connections"] {
            let ask = AssertUnwindSafe(|| self.isobar.get(path).body);
            let answer = catch_unwind(ask);
            eprintln!("--- {path}: {}", answer.as_deref().unwrap_or("no answer"));
        }
        let sockets = Command::new("ss").args(["-tnpoi"]).output();
        let sockets = sockets.map(|output| output.stdout).unwrap_or_default();
        eprintln!("--- ss: {}", String::from_utf8_lossy(&sockets));
        panic!("{}: {what}", self.engine);
    }

    /// Every place is there still: as many as all backends take get in, and no further one.
    fn counts_its_places(&self) {
        let all = format!("/pools/{}/connections/active", self.engine);
        let held = format!("/pools/{}/held", self.engine);
        self.isobar.wait_count(&all, 0);
        for backend in &self.backends {
            self.isobar.wait_state(self.engine, backend.name(), "up");
        }
        let inside: Vec<_> = (0..2 * LIMIT)
            .map(|_| self.isobar.connect(self.engine))
            .collect();
        for client in &inside {
            client.write("3 2\nabc");
            client.expect("aa");
        }
        let late = self.isobar.connect(self.engine);
        self.isobar.wait_count(&held, 1);
        late.write("3 2\nabc");
        inside[0].fin();
        late.expect("aa");
        inside.into_iter().chain([late]).for_each(|client| {
            client.fin();
            client.expect_fin();
        });
    }
}

/// With each engine at the same time:
///
/// 1. a crowd sends requests, gets answers, leaves in order or by a reset, and comes again,
///    more than the backends take at a time;
/// 2. again and again a backend is killed, refuses, or resets all it has, or both are killed;
///    each time many more are served, before it is back and after;
/// 3. at last all are back: nobody hangs, and each place for a connection can be taken.
#[test]
fn nobody_is_forgotten_while_clients_and_backends_come_and_go() {
    let backends = ENGINES.map(|_| [backend("b1"), backend("b2")]);
    let pools = ENGINES.iter().zip(&backends);
    let text: String = pools
        .map(|(engine, backends)| pool(engine, backends))
        .collect();
    let isobar = Isobar::start(&text);
    let scenes = ENGINES
        .iter()
        .zip(backends)
        .map(|(engine, backends)| Scene {
            engine,
            isobar: &isobar,
            backends,
            served: AtomicUsize::default(),
            cut: AtomicUsize::default(),
            over: AtomicBool::default(),
        });
    let scenes: Vec<_> = scenes.collect();
    std::thread::scope(|scope| {
        for scene in &scenes {
            for _ in 0..CROWD {
                scope.spawn(|| scene.come());
            }
            scope.spawn(|| {
                let outcome = catch_unwind(AssertUnwindSafe(|| scene.strike()));
                // Whatever happens the clients must stop, or the scope waits for ever.
                scene.over.store(true, SeqCst);
                scene.backends.iter().for_each(Backend::listen);
                if let Err(failure) = outcome {
                    resume_unwind(failure);
                }
            });
        }
    });
    for scene in &scenes {
        scene.counts_its_places();
        let [served, cut] = [&scene.served, &scene.cut].map(|count| count.load(SeqCst));
        eprintln!("{}: {served} served, {cut} cut", scene.engine);
        assert!(served > 0 && cut > 0, "{}: nothing happened", scene.engine);
    }
}

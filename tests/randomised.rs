//! Thousands of operations in an order that nobody chose, against a model that knows what must
//! come of each.
//!
//! Every run prints its seed; `ISOBAR_TEST_SEED` plays one again.

mod support;

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use support::{Backend, End, Family, Isobar, Pattern, Stream, scaled, web};

const ENGINES: [&str; 3] = ["copy", "splice", "auto"];

/// Each of a thousand clients that are connected at once sends bytes like nobody else's and
/// gets them back.
#[test]
fn a_thousand_clients_at_once_get_their_own_bytes_back() {
    const CLIENTS: usize = 1000;
    for engine in ENGINES {
        let echo = Backend::echo(Family::Ipv4);
        let relay = format!("relay = \"{engine}\"");
        let isobar = Isobar::start(&web(&relay, &[echo.entry()]));
        let clients: Vec<_> = (0..CLIENTS).map(|_| isobar.connect("web")).collect();
        let size = |number: usize| 1 + (number as u64 * 37) % 5000;
        for (number, client) in clients.iter().enumerate() {
            client.write_pattern(Pattern(number), size(number));
        }
        for (number, client) in clients.iter().enumerate().rev() {
            client.expect_pattern(Pattern(number), size(number));
        }
        isobar.wait_count("/connections/active", CLIENTS as u64);
        for client in &clients {
            client.fin();
        }
        clients.iter().for_each(Stream::expect_fin);
        isobar.wait_ended("web", "client_closed", CLIENTS as u64);
    }
}

/// How long the random mix goes on.
const MIX: Duration = Duration::from_secs(12);

/// Connections at once.
const CROWD: usize = 60;

/// The largest write: little enough that all of a connection fits into the buffers on its way,
/// so that no write has to wait for a reader.
const LARGEST: u64 = 4096;

/// The most that one direction of a connection carries.
const MOST: u64 = 48 * 1024;

/// What one side of a connection has done, and what it must still get.
struct Side {
    stream: Option<Stream>,
    pattern: Pattern,
    written: u64,
    fin: bool,
    /// Of the other side's bytes.
    read: u64,
    /// It reads nothing, ever.
    deaf: bool,
}

impl Side {
    fn new(stream: Stream, number: usize, deaf: bool) -> Self {
        Self {
            stream: Some(stream),
            pattern: Pattern(number),
            written: 0,
            fin: false,
            read: 0,
            deaf,
        }
    }

    fn stream(&self) -> &Stream {
        self.stream.as_ref().expect("it is open")
    }

    fn write(&mut self, n: u64) {
        let to = (self.written + n).min(MOST);
        let stream = self.stream();
        let done = stream.try_write_range(self.pattern, self.written, to);
        done.unwrap_or_else(|error| panic!("cannot write: {error} ({stream:?})"));
        self.written = to;
    }

    fn fin(&mut self) {
        self.stream().fin();
        self.fin = true;
    }

    /// Reads and checks some of what `other` has written.
    fn read_some(&mut self, other: &Self, n: u64) {
        let to = self.read.saturating_add(n).min(other.written);
        let mut buffer = vec![0; LARGEST as usize];
        while self.read < to {
            let room =
                usize::try_from(to - self.read).map_or(buffer.len(), |n| n.min(buffer.len()));
            let got = self.stream().read(&mut buffer[..room]);
            let got = got.unwrap_or_else(|error| panic!("{error} ({:?})", self.stream()));
            assert!(got > 0, "FIN after {} of {to} bytes", self.read);
            other.pattern.check(self.read, &buffer[..got]);
            self.read += got as u64;
        }
    }

    /// Reads all that `other` has written, and then the end, which must be `end`.
    fn read_all(&mut self, other: &Self, end: End) {
        self.read_some(other, u64::MAX);
        assert_eq!(self.stream().end(), end, "{:?}", self.stream());
    }
}

/// One connection: the client's side and the backend's.
struct Pair {
    client: Side,
    backend: Side,
}

/// What the connections of a run have ended with, by the model.
#[derive(Debug, Default)]
struct Model {
    client_closed: u64,
    backend_closed: u64,
    client_reset: u64,
    backend_reset: u64,
}

impl Pair {
    /// With a byte of the backend's at the client: isobar may well take a reset before that
    /// for a connect that failed, and connect once more.
    fn new(client: Stream, backend: Stream, number: usize, [first, second]: [bool; 2]) -> Self {
        let mut client = Side::new(client, 2 * number, first);
        let mut backend = Side::new(backend, 2 * number + 1, second);
        backend.write(1);
        client.read_some(&backend, 1);
        Self { client, backend }
    }

    /// The side that acts, and the other one.
    fn sides(&mut self, client_acts: bool) -> (&mut Side, &mut Side) {
        match client_acts {
            true => (&mut self.client, &mut self.backend),
            false => (&mut self.backend, &mut self.client),
        }
    }

    /// One operation; what comes of the connection, if it has ended.
    fn act(mut self, rng: &mut SmallRng, model: &mut Model) -> Option<Self> {
        let client_acts = rng.random();
        let n = rng.random_range(1..=LARGEST);
        let (own, other) = self.sides(client_acts);
        match rng.random_range(0..100) {
            0..40 if !own.fin => own.write(n),
            40..75 if !own.deaf => own.read_some(other, n),
            75..85 if !own.fin => own.fin(),
            85..92 => {
                self.close(client_acts, model);
                return None;
            }
            92..96 => {
                self.reset(client_acts, model);
                return None;
            }
            _ => {}
        }
        Some(self)
    }

    /// Both sides say all they have to say and read all there is.
    fn close(mut self, client_first: bool, model: &mut Model) {
        let already = (self.client.fin, self.backend.fin);
        let client_closed = match already {
            (true, false) => true,
            (false, true) => false,
            (false, false) => client_first,
            // Who was first is not known to the model: the kernel may deliver both at once.
            (true, true) => return self.close_both(model),
        };
        let (first, second) = self.sides(client_closed);
        if !first.fin {
            first.fin();
        }
        second.read_all(first, End::Fin);
        second.fin();
        first.read_all(second, End::Fin);
        match client_closed {
            true => model.client_closed += 1,
            false => model.backend_closed += 1,
        }
    }

    fn close_both(mut self, model: &mut Model) {
        self.backend.read_all(&self.client, End::Fin);
        self.client.read_all(&self.backend, End::Fin);
        // Either is right; the sum is compared.
        model.client_closed += 1;
    }

    /// One side resets; the other gets what was sent before, and the reset. A reset after both
    /// have sent FIN, of which isobar may have passed on everything, is none any more.
    fn reset(mut self, client_resets: bool, model: &mut Model) {
        if self.client.fin && self.backend.fin {
            return self.close_both(model);
        }
        let (own, other) = self.sides(client_resets);
        // What is still unread would be thrown away by a reset, here as without isobar.
        other.read_some(own, u64::MAX);
        let stream = own.stream.take().expect("it is open");
        stream.reset();
        if own.fin {
            // The FIN may come before the reset; closing now would be an answer to it.
            other.stream().expect_gone();
        }
        let end = other.stream().read_to_end().1;
        assert!(end == End::Reset || own.fin, "{:?}", other.stream());
        match client_resets {
            true => model.client_reset += 1,
            false => model.backend_reset += 1,
        }
    }
}

fn seed() -> u64 {
    let given = std::env::var("ISOBAR_TEST_SEED").ok();
    given.map_or_else(rand::random, |text| text.parse().expect("a number"))
}

/// A crowd of connections whose sides write, read, never read, send FIN, close and reset as
/// the dice say. Every byte and every end is what the model says; in the end the statistics
/// agree, and the invariants of every case hold.
#[test]
fn a_random_mix_of_everything_follows_the_model() {
    let seed = seed();
    eprintln!("ISOBAR_TEST_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let backend = Backend::manual(Family::Ipv4);
    let pool = |engine: &str| {
        web(&format!("relay = \"{engine}\""), &[backend.entry()]).replace("web", engine)
    };
    let isobar = Isobar::start(&ENGINES.map(pool).concat());
    let mut model = Model::default();
    let mut crowd: Vec<Pair> = Vec::new();
    let mut opened = 0;
    let (mut operations, start) = (0, Instant::now());
    while operations < 30_000 && start.elapsed() < scaled(MIX) {
        operations += 1;
        if crowd.len() < CROWD && rng.random_ratio(1, 4) {
            let client = isobar.connect(ENGINES.choose(&mut rng).expect("three"));
            let server = backend.accept();
            opened += 1;
            let mut deaf = || rng.random_ratio(1, 10);
            crowd.push(Pair::new(client, server, opened, [(); 2].map(|()| deaf())));
        } else if !crowd.is_empty() {
            let place = rng.random_range(0..crowd.len());
            let pair = crowd.swap_remove(place);
            crowd.extend(pair.act(&mut rng, &mut model));
        }
    }
    for pair in crowd {
        pair.close(rng.random(), &mut model);
    }
    eprintln!("{operations} operations on {opened} connections: {model:?}");
    agree(&isobar, opened as u64, &model);
}

/// The statistics say what the model says.
#[track_caller]
fn agree(isobar: &Isobar, opened: u64, model: &Model) {
    isobar.wait_count("/connections/active", 0);
    let stats = isobar.stats();
    let ended = |reason: &str| {
        let of = |engine| stats["listeners"][engine]["ended"][reason].as_u64();
        ENGINES.into_iter().filter_map(of).sum::<u64>()
    };
    assert_eq!(stats["connections"]["total"], opened);
    assert_eq!(ended("client_reset"), model.client_reset);
    assert_eq!(ended("backend_reset"), model.backend_reset);
    let closed = ended("client_closed") + ended("backend_closed");
    assert_eq!(closed, model.client_closed + model.backend_closed);
}

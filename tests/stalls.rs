//! Dozens of peers that do not read: what isobar keeps for them is bounded, nobody else
//! notices, and when they read on not a byte is missing.

mod support;

use std::sync::{Arc, Mutex};

use rustix::net::sockopt::{self, Timeout};
use support::{Backend, End, Family, Isobar, Pattern, STALL, Stream, scaled, wait_until, web};

const STALLED: usize = 80;

/// Of them, those that read on in the end; the others reset.
const READ_ON: usize = 20;

/// What isobar may keep of one stalled direction: a copy of its own, or one pipe.
const KEPT: u64 = 64 << 10;

/// Tasks, sockets and table entries, and what the allocator holds back.
const SLACK: u64 = 8 << 20;

/// Of the peers' sockets, so that all connections together do not use up what the kernel grants
/// all sockets of the machine; well above a segment, or the windows would close to crumbs.
const BUFFER: usize = 256 << 10;

/// More than the buffers of all sockets on the way of one connection hold.
const NEVER_FITS: u64 = 512 << 20;

const BYTES: Pattern = Pattern(1);

const ENGINES: [&str; 3] = ["copy", "splice", "auto"];

/// How much the pushing sides got rid of, one by one.
type Sent = Mutex<Vec<u64>>;

/// One case at a time, for the same reason.
static ALONE: Mutex<()> = Mutex::new(());

/// Listeners and pools `stuck` and `echo`.
fn start(engine: &str, stuck: &Backend, echo: &Backend) -> Isobar {
    let pool = |name: &str, backend: &Backend| {
        web(&format!("relay = \"{engine}\""), &[backend.entry()]).replace("web", name)
    };
    Isobar::start(&(pool("stuck", stuck) + &pool("echo", echo)))
}

/// Sends until nothing more fits, then FIN, then waits for the other end's.
fn push(stream: &Stream, all: &Sent) {
    sockopt::set_socket_send_buffer_size(stream, BUFFER).expect("a socket option");
    let sent = stream.fill(BYTES, NEVER_FITS, scaled(STALL) * 4);
    all.lock().expect("no panic while it was held").push(sent);
    stream.fin();
    sockopt::set_socket_timeout(stream, Timeout::Recv, None).expect("a socket option");
    let _ = stream.read(&mut [0]);
}

fn with_fixed_buffer(reader: Stream) -> Stream {
    sockopt::set_socket_recv_buffer_size(&reader, BUFFER).expect("a socket option");
    reader
}

/// Asserts that all of them are stalled, that they cost no more than they may, and that a
/// newcomer gets what it wants.
#[track_caller]
fn unharmed(isobar: &Isobar, before: u64, all: &Sent) {
    let all = || all.lock().expect("no panic while it was held");
    wait_until("all were stalled", || all().len() == STALLED);
    assert!(all().iter().all(|sent| *sent < NEVER_FITS));
    isobar.assert_calm();
    let grown = isobar.process().resident().saturating_sub(before);
    let bound = STALLED as u64 * KEPT + SLACK;
    assert!(grown <= bound, "{grown} bytes, more than {bound}");
    let client = isobar.connect("echo");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write_pattern(BYTES, 1 << 20);
            client.fin();
        });
        assert_eq!(client.read_pattern_to_end(BYTES), (1 << 20, End::Fin));
    });
}

/// Some read on and get everything that was sent, the others reset.
#[track_caller]
fn read_on(mut readers: Vec<Stream>, all: &Sent) {
    let mut left = all.lock().expect("no panic while it was held").clone();
    for reader in readers.drain(..READ_ON) {
        let (got, end) = reader.read_pattern_to_end(BYTES);
        assert_eq!(end, End::Fin);
        let place = left.iter().position(|sent| *sent == got);
        left.swap_remove(place.unwrap_or_else(|| panic!("nobody sent {got} bytes")));
        reader.fin();
    }
    readers.into_iter().for_each(Stream::reset);
}

/// Clients that do not read, while their backends push as much as they can.
#[test]
fn dozens_of_clients_that_do_not_read_harm_nobody_and_lose_nothing() {
    let _alone = ALONE.lock();
    for engine in ENGINES {
        let all = Arc::<Sent>::default();
        let sent = Arc::clone(&all);
        let pusher = Backend::serving(Family::Ipv4, "pusher", move |stream| push(stream, &sent));
        let echo = Backend::echo(Family::Ipv4);
        let isobar = start(engine, &pusher, &echo);
        let before = isobar.process().resident();
        let clients = (0..STALLED).map(|_| with_fixed_buffer(isobar.connect("stuck")));
        let clients: Vec<_> = clients.collect();
        unharmed(&isobar, before, &all);
        read_on(clients, &all);
        isobar.wait_ended("stuck", "backend_closed", READ_ON as u64);
        isobar.wait_ended("stuck", "client_reset", (STALLED - READ_ON) as u64);
    }
}

/// The mirror image: backends that do not read, while their clients push.
#[test]
fn dozens_of_backends_that_do_not_read_harm_nobody_and_lose_nothing() {
    let _alone = ALONE.lock();
    for engine in ENGINES {
        let stuck = Backend::manual(Family::Ipv4);
        let echo = Backend::echo(Family::Ipv4);
        let isobar = start(engine, &stuck, &echo);
        let before = isobar.process().resident();
        let all = Sent::default();
        std::thread::scope(|scope| {
            // Dropped, and so closed, before the clients are waited for, should this fail.
            let mut backends = Vec::new();
            for _ in 0..STALLED {
                let client = isobar.connect("stuck");
                let all = &all;
                scope.spawn(move || push(&client, all));
                backends.push(with_fixed_buffer(stuck.accept()));
            }
            unharmed(&isobar, before, &all);
            read_on(backends, &all);
        });
        isobar.wait_ended("stuck", "client_closed", READ_ON as u64);
        isobar.wait_ended("stuck", "backend_reset", (STALLED - READ_ON) as u64);
    }
}

//! Long-lived connections are spread evenly over the cores, however they come: of 100 on two
//! cores none has more than 60.

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use rustix::process::Signal;
use support::{Backend, Family, Isobar, Stream, wait_until, web};

const CLIENTS: usize = 100;
/// Of a hundred.
const MOST: usize = 60;

/// Two cores, and a backend that sends back what it gets.
fn two_cores() -> (Isobar, Backend) {
    let backend = Backend::echo(Family::Ipv4);
    let pool = web("", &[backend.entry()]);
    let isobar = Isobar::start(&format!("[runtime]\nthreads = 2\n{pool}"));
    (isobar, backend)
}

/// Connects, and knows afterwards that it is relayed.
#[track_caller]
fn enter(isobar: &Isobar) -> Stream {
    let client = isobar.connect("web");
    talk(&client);
    client
}

#[track_caller]
fn talk(client: &Stream) {
    client.write("hello\n");
    assert_eq!(client.read_line(), "hello");
}

fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

fn enter_all(isobar: &Isobar, n: usize) -> Vec<Stream> {
    (0..n).map(|_| enter(isobar)).collect()
}

/// The other ends of what each core has, once it has these clients and nobody else.
#[track_caller]
fn cores(isobar: &Isobar, clients: &[Stream]) -> Vec<HashSet<SocketAddr>> {
    let mut watched = Vec::new();
    wait_until("nothing else was open", || {
        watched = isobar.process().watched_peers();
        // Each has a socket to its client and one to its backend.
        watched.iter().map(Vec::len).sum::<usize>() == 2 * clients.len()
    });
    let cores = watched.into_iter().map(|peers| peers.into_iter().collect());
    cores.collect()
}

/// The clients of one core.
fn on_core<'a>(
    core: &'a HashSet<SocketAddr>,
    clients: &'a [Stream],
) -> impl Iterator<Item = usize> + 'a {
    let is_there = |client: &Stream| client.local().is_some_and(|own| core.contains(&own));
    let clients = clients.iter().enumerate();
    clients.filter_map(move |(index, client)| is_there(client).then_some(index))
}

#[track_caller]
fn assert_even(isobar: &Isobar, clients: &[Stream]) {
    assert_eq!(clients.len(), CLIENTS);
    let cores = cores(isobar, clients);
    let counts: Vec<_> = cores
        .iter()
        .map(|core| on_core(core, clients).count())
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), CLIENTS);
    assert!(counts.iter().all(|count| *count <= MOST), "{counts:?}");
}

/// All of these come from one address, as clients behind one gateway do.
#[test]
fn connections_that_come_one_by_one_are_spread_evenly() {
    let (isobar, _backend) = two_cores();
    let clients = enter_all(&isobar, CLIENTS);
    assert_even(&isobar, &clients);
    clients.iter().for_each(leave);
}

/// With long pauses both cores sleep whenever one comes, and the same one may always be woken
/// first.
#[test]
fn connections_that_come_while_nothing_else_happens_are_spread_evenly() {
    let (isobar, _backend) = two_cores();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        std::thread::sleep(Duration::from_millis(10));
        clients.push(enter(&isobar));
    }
    assert_even(&isobar, &clients);
    clients.iter().for_each(leave);
}

/// They are all in the queue when the first core wakes up.
#[test]
fn connections_that_come_all_at_once_are_spread_evenly() {
    let (isobar, _backend) = two_cores();
    isobar.signal(Signal::STOP);
    let clients: Vec<_> = (0..CLIENTS).map(|_| isobar.connect("web")).collect();
    isobar.signal(Signal::CONT);
    clients.iter().for_each(talk);
    assert_even(&isobar, &clients);
    clients.iter().for_each(leave);
}

#[test]
fn connections_from_many_addresses_are_spread_evenly() {
    let (isobar, _backend) = two_cores();
    let from = |n| isobar.connect_from(&format!("127.0.1.{n}"), "web");
    let clients: Vec<_> = (1..=CLIENTS).map(from).collect();
    clients.iter().for_each(talk);
    assert_even(&isobar, &clients);
    clients.iter().for_each(leave);
}

#[test]
fn connections_that_come_among_short_ones_are_spread_evenly() {
    let (isobar, _backend) = two_cores();
    let enough = AtomicBool::new(false);
    let clients = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !enough.load(SeqCst) {
                    leave(&enter(&isobar));
                }
            });
        }
        let enter_among = |_| {
            std::thread::sleep(Duration::from_millis(2));
            enter(&isobar)
        };
        let clients = (0..CLIENTS).map(enter_among).collect::<Vec<_>>();
        enough.store(true, SeqCst);
        clients
    });
    assert!(isobar.count("/connections/total") > CLIENTS as u64 + 10);
    assert_even(&isobar, &clients);
    clients.iter().for_each(leave);
}

/// Nothing is moved for it: those who come next make up for those who left.
#[test]
fn new_connections_even_out_what_a_core_has_lost() {
    const LEAVING: usize = 40;
    let (isobar, _backend) = two_cores();
    let mut clients = enter_all(&isobar, CLIENTS);
    let cores = cores(&isobar, &clients);
    let mut leaving: Vec<_> = on_core(&cores[0], &clients).take(LEAVING).collect();
    assert_eq!(leaving.len(), LEAVING, "a core has too few of them");
    // From the end, so that the others keep their places.
    leaving.reverse();
    for index in leaving {
        leave(&clients.swap_remove(index));
    }
    isobar.wait_count("/connections/active", (CLIENTS - LEAVING) as u64);
    clients.append(&mut enter_all(&isobar, LEAVING));
    assert_even(&isobar, &clients);
    clients.iter().for_each(leave);
}

/// Each core has its part of the connections, so it has its part of the work.
#[test]
fn steady_traffic_over_many_connections_is_work_for_both_cores() {
    const WORK: Duration = Duration::from_millis(300);
    let (isobar, _backend) = two_cores();
    let clients = enter_all(&isobar, CLIENTS);
    let busy = |core: &str| isobar.metric("isobar_core_busy_seconds_total", &[("core", core)]);
    let both = || [busy("0"), busy("1")];
    let before = both();
    let mut spent = [0.0, 0.0];
    wait_until("there was some work", || {
        clients.iter().for_each(talk);
        let now = both();
        spent = [now[0] - before[0], now[1] - before[1]];
        spent.iter().sum::<f64>() > WORK.as_secs_f64()
    });
    let all: f64 = spent.iter().sum();
    assert!(spent.iter().all(|core| *core > all / 4.0), "{spent:?}");
    clients.iter().for_each(leave);
}

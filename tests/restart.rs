//! The only backend of a pool is restarted under a stream of new connections.
//!
//! What the old process's kernel had completed is the old process's: whether that answers it is
//! nothing that a balancer can help. Everything else must reach the new process.

mod support;

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use support::programs::{Connection, all_connections, balancer, now, own_address};
use support::restartable::{Restartable, serve_if_told};
use support::{Isobar, Stream, wait_until, web};

/// Clients at a time.
const CROWD: usize = 12;

/// As many visits as show that a process is in full use.
const MANY: usize = 200;

const CHECKS: &str = "[pool.web.health]\ninterval = \"500ms\"\ntimeout = \"500ms\"\n\
    fast_interval = \"100ms\"\n";

/// Not a case: the program that the cases start.
#[test]
#[ignore = "the program that the other tests start"]
fn the_backend_process() {
    serve_if_told();
}

/// What a client experienced: the process that answered, or what went wrong.
type Visit = io::Result<u32>;

/// Clients that come again and again, [`CROWD`] at a time.
#[derive(Default)]
struct Crowd {
    visits: Mutex<Vec<Visit>>,
    answered: AtomicUsize,
    over: AtomicBool,
}

impl Crowd {
    /// Has them come while `story` goes on; what it returns, and every visit.
    fn during<T>(isobar: &Isobar, story: impl FnOnce(&Self) -> T) -> (T, Vec<Visit>) {
        let crowd = Self::default();
        let told = std::thread::scope(|scope| {
            // Also when the story ends in a panic.
            let _over = Over(&crowd.over);
            for _ in 0..CROWD {
                scope.spawn(|| crowd.come(isobar));
            }
            story(&crowd)
        });
        (
            told,
            crowd
                .visits
                .into_inner()
                .expect("no panic while it was held"),
        )
    }

    fn come(&self, isobar: &Isobar) {
        while !self.over.load(SeqCst) {
            let visit = visit(&isobar.connect("web"));
            self.answered.fetch_add(visit.is_ok().into(), SeqCst);
            let mut visits = self.visits.lock().expect("no panic while it was held");
            visits.push(visit);
        }
    }

    /// Waits until many more have been answered.
    #[track_caller]
    fn wait_for_many(&self) {
        let before = self.answered.load(SeqCst);
        wait_until("many more were answered", || {
            self.answered.load(SeqCst) >= before + MANY
        });
    }
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Asks who is there, and leaves in order.
fn visit(client: &Stream) -> Visit {
    client.try_write("who?\n")?;
    let answer = client.try_read_line()?;
    client.fin();
    match client.read(&mut [0])? {
        0 => Ok(answer.parse().expect("a process id")),
        _ => panic!("more than an answer"),
    }
}

fn before(address: SocketAddr, settings: &str) -> Isobar {
    let entry = format!("{{ name = \"b\", address = \"{address}\" }}");
    balancer(&web(settings, &[entry]))
}

/// How many visits this process answered.
fn answered_by(visits: &[Visit], id: u32) -> usize {
    let answered = |visit: &&Visit| matches!(visit, Ok(by) if *by == id);
    visits.iter().filter(answered).count()
}

fn failed(visits: &[Visit]) -> usize {
    visits.iter().filter(|visit| visit.is_err()).count()
}

#[track_caller]
fn wait_held(isobar: &Isobar) {
    wait_until("clients were held", || isobar.count("/pools/web/held") > 0);
}

/// 1. the old process lets no SYN in any more, accepts what it has, and closes;
/// 2. with nobody there, clients are held;
/// 3. the new process listens;
/// 4. every client was answered, by the one or the other.
#[track_caller]
fn no_connection_fails_at_a_close(settings: &str, checked: bool) {
    let address = own_address();
    let mut old = Restartable::start(address);
    let isobar = before(address, settings);
    let ((old, mut new), visits) = Crowd::during(&isobar, |crowd| {
        crowd.wait_for_many();
        old.close();
        wait_held(&isobar);
        if checked {
            isobar.wait_state("web", "b", "down");
        }
        let new = Restartable::start(address);
        crowd.wait_for_many();
        (old, new)
    });
    new.close();
    assert_eq!(failed(&visits), 0, "of {} visits", visits.len());
    for process in [old, new] {
        let mine = answered_by(&visits, process.id());
        let (accepted, answered) = process.finish();
        assert!(mine >= MANY && answered == mine, "{mine}, {answered}");
        assert!(checked || accepted == mine, "{mine}, {accepted}");
    }
    assert!(all_connections(&isobar).iter().all(Connection::is_ordinary));
}

#[test]
fn no_connection_fails_when_the_only_backend_closes_an_empty_queue() {
    no_connection_fails_at_a_close("", false);
}

#[test]
fn no_connection_fails_when_the_only_backend_is_down_by_checks_for_a_while() {
    no_connection_fails_at_a_close(CHECKS, true);
}

/// 1. three clients have their answer and stay;
/// 2. the old process accepts no more, its queue fills, further SYNs are lost;
/// 3. it is killed: what it had accepted and what was in its queue is gone;
/// 4. everybody else is answered by the new process.
#[test]
fn exactly_what_was_open_or_queued_fails_when_the_only_backend_is_killed() {
    let address = own_address();
    let mut old = Restartable::start(address);
    let isobar = before(address, "");
    let stay: Vec<_> = (0..3).map(|_| isobar.connect("web")).collect();
    for client in &stay {
        client.write("stay\n");
        assert_eq!(client.read_line(), old.id().to_string());
    }
    let ((frozen, new), visits) = Crowd::during(&isobar, |crowd| {
        crowd.wait_for_many();
        let frozen = old.freeze(4);
        old.kill();
        let new = Restartable::start(address);
        crowd.wait_for_many();
        (frozen, new)
    });
    let (queued, open) = (frozen.queued.len(), frozen.open.len());
    assert!(queued >= 4 && open >= stay.len(), "{frozen:?}");
    for client in &stay {
        let (more, _) = client.read_to_end();
        assert!(more.is_empty());
    }
    assert_eq!(failed(&visits) + stay.len(), queued + open, "{frozen:?}");
    assert!(answered_by(&visits, new.id()) >= MANY);
    drop(stay);
}

/// Killed at any moment, what its kernel had completed cannot be listed. But isobar knows which
/// of its connects had succeeded: only such may fail, and only if they were open at the kill.
#[test]
fn nothing_fails_that_was_not_connected_when_the_only_backend_is_killed() {
    let address = own_address();
    let mut process = Restartable::start(address);
    let isobar = before(address, CHECKS);
    let (kills, visits) = Crowd::during(&isobar, |crowd| {
        let kills = (0..3).map(|_| {
            crowd.wait_for_many();
            let before = now();
            process.kill();
            let after = now();
            wait_held(&isobar);
            process = Restartable::start(address);
            crowd.wait_for_many();
            (before, after)
        });
        kills.collect::<Vec<_>>()
    });
    assert!(failed(&visits) > 0, "the kills hit nobody");
    let all = all_connections(&isobar);
    let cut: Vec<_> = all.iter().filter(|one| one.bytes_out == 0).collect();
    assert_eq!(cut.len(), failed(&visits), "{cut:#?}");
    for one in cut {
        let at = |(before, after): &(_, _)| one.accepted <= *after && one.ended_at >= *before;
        assert!(one.connected && kills.iter().any(at), "{}", one.raw);
    }
}

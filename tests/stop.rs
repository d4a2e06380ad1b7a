//! From the order to stop to the end of the process, and the signals that end nothing.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use isobar::net::Address;
use rustix::process::Signal;
use support::{
    Backend, Blackhole, End, Family, Isobar, Launch, Line, Stream, is_listening, scaled,
    wait_until, web,
};

/// Far more than anything that ends at once takes, far less than the shortest time-out that it
/// could be mistaken for.
const SOON: Duration = Duration::from_secs(4);

/// `[runtime]` with these keys, before the tables of [`web`].
fn with_runtime(keys: &str, settings: &str, entries: &[String]) -> String {
    format!("[runtime]\n{keys}\n{}", web(settings, entries))
}

/// Waits for the line that says so.
#[track_caller]
fn wait_message(isobar: &Isobar, message: &str) {
    isobar
        .log()
        .wait(message, |line: &Line| line.message() == message);
}

/// Waits until listener `web` takes nobody any more.
#[track_caller]
fn wait_closed(isobar: &Isobar) {
    let Address::Ip(address) = *isobar.address("web") else {
        panic!("a listener on a port");
    };
    wait_until("the listener was closed", || !is_listening(address));
    assert!(isobar.try_connect(None, isobar.address("web")).is_err());
}

/// Waits for its end, which must be in good order.
#[track_caller]
fn assert_exits(isobar: &mut Isobar) {
    let status = isobar.wait_exit();
    assert_eq!(status.code(), Some(0), "{}", isobar.log().text());
}

/// How its connections ended, by the log.
fn endings(isobar: &Isobar) -> Vec<String> {
    let lines = isobar.access_lines();
    let ended = lines.iter().filter_map(|line| line.text("ended"));
    ended.map(str::to_owned).collect()
}

fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[test]
fn each_signal_to_stop_ends_an_idle_balancer_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let backend = Backend::named("b1");
        let mut isobar = Isobar::start(&web("", &[backend.entry()]));
        assert_eq!(isobar.visit("web"), "b1");
        let start = Instant::now();
        isobar.signal(signal);
        assert_exits(&mut isobar);
        assert!(start.elapsed() < scaled(SOON), "{:?}", start.elapsed());
        wait_message(&isobar, "stopping");
        wait_message(&isobar, "stopped");
    }
}

/// A check that gets no answer and an admin client that says nothing are under way.
#[test]
fn what_is_no_connection_of_a_client_does_not_delay_the_end() {
    let hole = Blackhole::new();
    let settings = "[pool.web.health]\nkind = \"tcp\"\ninterval = \"1m\"\ntimeout = \"50s\"\n";
    let mut isobar = Isobar::start(&web(settings, &[hole.entry("hole", "")]));
    let _silent = isobar.connect_to(isobar.admin());
    let start = Instant::now();
    isobar.signal(Signal::TERM);
    assert_exits(&mut isobar);
    assert!(start.elapsed() < scaled(SOON), "{:?}", start.elapsed());
}

#[test]
fn readiness_ends_first_and_for_the_stop_delay_clients_are_still_served() {
    let backend = Backend::named("b1");
    let text = with_runtime("stop_delay = \"1m\"", "", &[backend.entry()]);
    let mut isobar = Isobar::start(&text);
    assert_eq!(isobar.get("/readyz").status, 200);
    isobar.signal(Signal::TERM);
    wait_until("it was not ready", || isobar.get("/readyz").status == 503);
    assert_eq!(isobar.get("/healthz").status, 200);
    for _ in 0..5 {
        assert_eq!(isobar.visit("web"), "b1");
    }
    isobar.signal(Signal::TERM);
    assert_exits(&mut isobar);
    assert_eq!(endings(&isobar), ["client_closed"; 5]);
}

#[test]
fn after_the_stop_delay_the_stop_goes_on_by_itself() {
    let backend = Backend::named("b1");
    let text = with_runtime("stop_delay = \"700ms\"", "", &[backend.entry()]);
    let mut isobar = Isobar::start(&text);
    let start = Instant::now();
    isobar.signal(Signal::TERM);
    assert_exits(&mut isobar);
    assert!(start.elapsed() >= Duration::from_millis(700));
}

/// The process is held up while clients connect and the order comes: the kernel has accepted
/// them, so they must be served.
#[test]
fn who_is_in_an_accept_queue_is_served() {
    const CLIENTS: usize = 50;
    let backend = Backend::named("b1");
    let mut text = web("", &[backend.entry()]);
    text.push_str("[listener.unix]\nbind = \"unix:$DIR/web.sock\"\npool = \"web\"\n");
    let mut isobar = Isobar::start(&text);
    isobar.signal(Signal::STOP);
    let connect = |listener| (0..CLIENTS).map(|_| isobar.connect(listener)).collect();
    let clients: [Vec<_>; 2] = ["web", "unix"].map(connect);
    isobar.signal(Signal::TERM);
    isobar.signal(Signal::CONT);
    for client in clients.iter().flatten() {
        assert_eq!(client.read_line(), "b1");
        leave(client);
    }
    assert_exits(&mut isobar);
    assert_eq!(endings(&isobar).len(), 2 * CLIENTS);
}

/// 1. Two clients fill the limit, of the listener or of the process; three wait in the queue.
/// 2. At the stop those three are accepted, and wait on: the limit holds.
/// 3. The first two leave, and the three are served.
#[test]
fn who_waits_for_a_slot_in_the_queue_is_served_within_the_limit() {
    let limit = "max_connections = 2\n";
    for (runtime, listener) in [(limit, ""), ("", limit)] {
        let backend = Backend::named("b1");
        let text = web("", &[backend.entry()]);
        let text = text.replacen("pool = ", &format!("{listener}pool = "), 1);
        let mut isobar = Isobar::start(&format!("[runtime]\n{runtime}{text}"));
        let inside = [(); 2].map(|()| isobar.stay("web").0);
        let waiting = [(); 3].map(|()| isobar.connect("web"));
        isobar.signal(Signal::TERM);
        wait_closed(&isobar);
        isobar.wait_count("/connections/active", 5);
        assert_eq!(backend.accepted(), 2);
        inside.iter().for_each(leave);
        // Whose turn comes first is between the cores that took them out of the queue.
        std::thread::scope(|scope| {
            for client in &waiting {
                scope.spawn(|| {
                    assert_eq!(client.read_line(), "b1");
                    leave(client);
                });
            }
        });
        assert_exits(&mut isobar);
        assert_eq!(endings(&isobar).len(), 5);
    }
}

/// 1. Two clients fill the limit, a dozen wait in the queue; all have sent something.
/// 2. Two orders to stop, the second while the listener is still open: everybody is reset,
///    none sees a clean end, and each has its line.
#[test]
fn a_second_order_resets_who_waits_in_the_queue_as_well() {
    const CLIENTS: usize = 14;
    for _ in 0..5 {
        let backend = Backend::manual(Family::Ipv4);
        let runtime = "threads = 4\nmax_connections = 2\nstop_delay = \"30s\"";
        let mut isobar = Isobar::start(&with_runtime(runtime, "", &[backend.entry()]));
        let clients: Vec<_> = (0..CLIENTS).map(|_| isobar.connect("web")).collect();
        let servers = [(); 2].map(|()| backend.accept());
        isobar.signal(Signal::TERM);
        wait_message(&isobar, "stopping");
        isobar.signal(Signal::TERM);
        assert_exits(&mut isobar);
        for client in clients.iter().chain(&servers) {
            assert_eq!(client.read_to_end().1, End::Reset);
        }
        assert_eq!(endings(&isobar), ["killed"; CLIENTS]);
    }
}

#[test]
fn connections_go_on_to_their_own_end() {
    let backend = Backend::manual(Family::Ipv4);
    let mut isobar = Isobar::start(&web("", &[backend.entry()]));
    let client = isobar.connect("web");
    let server = backend.accept();
    isobar.signal(Signal::TERM);
    wait_closed(&isobar);
    assert_eq!(isobar.count("/connections/active"), 1);
    assert_eq!(isobar.get("/readyz").status, 503);
    client.write("question");
    server.expect("question");
    client.fin();
    server.expect_fin();
    server.write("answer");
    server.fin();
    assert_eq!(client.read_to_end(), (b"answer".to_vec(), End::Fin));
    assert_exits(&mut isobar);
    assert_eq!(endings(&isobar), ["client_closed"]);
}

#[test]
fn what_is_left_at_the_drain_timeout_is_reset() {
    let backend = Backend::manual(Family::Ipv4);
    let text = with_runtime("drain_timeout = \"700ms\"", "", &[backend.entry()]);
    let mut isobar = Isobar::start(&text);
    let client = isobar.connect("web");
    let server = backend.accept();
    let half_closed = isobar.connect("web");
    let half_server = backend.accept();
    half_closed.fin();
    half_server.expect_fin();
    let start = Instant::now();
    isobar.signal(Signal::TERM);
    for end in [&client, &server, &half_closed] {
        end.expect_reset();
        assert!(start.elapsed() >= Duration::from_millis(700), "too early");
    }
    half_server.expect_gone();
    assert_exits(&mut isobar);
    assert_eq!(endings(&isobar), ["drain_timeout"; 2]);
}

/// The deadline counts from the closing of the listeners, not from the order.
#[test]
fn the_drain_timeout_begins_after_the_stop_delay() {
    let backend = Backend::named("b1");
    let keys = "stop_delay = \"400ms\"\ndrain_timeout = \"400ms\"";
    let mut isobar = Isobar::start(&with_runtime(keys, "", &[backend.entry()]));
    let (client, _) = isobar.stay("web");
    let start = Instant::now();
    isobar.signal(Signal::TERM);
    client.expect_reset();
    assert!(start.elapsed() >= Duration::from_millis(800), "too early");
    assert_exits(&mut isobar);
}

#[test]
fn without_a_drain_timeout_a_connection_has_all_the_time_it_wants() {
    let backend = Backend::named("b1");
    let text = with_runtime("drain_timeout = \"0s\"", "", &[backend.entry()]);
    let mut isobar = Isobar::start(&text);
    let (client, _) = isobar.stay("web");
    isobar.signal(Signal::TERM);
    wait_closed(&isobar);
    assert!(client.is_silent_for(Duration::from_millis(700)));
    leave(&client);
    assert_exits(&mut isobar);
    assert_eq!(endings(&isobar), ["client_closed"]);
}

#[test]
fn a_held_client_is_served_when_a_backend_comes_up_during_the_drain() {
    let backend = Backend::refusing("b1");
    let mut isobar = Isobar::start(&web("", &[backend.entry()]));
    held_over_a_stop(&mut isobar, &backend);
}

/// Here nobody but a check can find out that the backend is back.
#[test]
fn checks_go_on_during_the_drain_as_long_as_a_client_is_held() {
    let backend = Backend::refusing("b1");
    let settings = "[pool.web.health]\nkind = \"tcp\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\n\
                    fast_interval = \"50ms\"\n";
    let mut isobar = Isobar::start(&web(settings, &[backend.entry()]));
    isobar.wait_state("web", "b1", "down");
    held_over_a_stop(&mut isobar, &backend);
}

#[track_caller]
fn held_over_a_stop(isobar: &mut Isobar, backend: &Backend) {
    let client = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    isobar.signal(Signal::TERM);
    wait_closed(isobar);
    assert_eq!(isobar.count("/pools/web/held"), 1);
    backend.listen();
    assert_eq!(client.read_line(), "b1");
    leave(&client);
    assert_exits(isobar);
    assert_eq!(endings(isobar), ["client_closed"]);
}

/// One relaying, one half closed, one held, one whose backend is being connected.
#[test]
fn a_second_signal_resets_whatever_is_left_and_exits_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let (backend, refusing) = (Backend::named("b1"), Backend::refusing("b2"));
        let hole = Blackhole::new();
        let mut text = with_runtime("drain_timeout = \"0s\"", "", &[backend.entry()]);
        text.push_str(&further("held", &refusing.entry()));
        text.push_str(&further("connecting", &hole.entry("hole", "")));
        let mut isobar = Isobar::start(&text);
        let clients = [
            isobar.stay("web").0,
            isobar.connect("held"),
            isobar.connect("connecting"),
        ];
        isobar.wait_count("/pools/held/held", 1);
        isobar.wait_count("/pools/connecting/backends/hole/connections/connecting", 1);
        isobar.signal(Signal::TERM);
        wait_message(&isobar, "stopping");
        let start = Instant::now();
        isobar.signal(second);
        clients.iter().for_each(Stream::expect_reset);
        assert_exits(&mut isobar);
        assert!(start.elapsed() < scaled(SOON), "{:?}", start.elapsed());
        assert_eq!(endings(&isobar), ["killed"; 3]);
    }
}

/// A listener and a pool of one name.
fn further(name: &str, entry: &str) -> String {
    format!(
        "[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n\
         [pool.{name}]\nconnect_timeout = \"1m\"\nbackends = [{entry}]\n\
         [pool.{name}.health]\nkind = \"none\"\n"
    )
}

#[test]
fn no_other_signal_ends_the_process() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    let (client, _) = isobar.stay("web");
    for _ in 0..3 {
        for signal in [Signal::HUP, Signal::USR1, Signal::PIPE] {
            isobar.signal(signal);
            assert_eq!(isobar.visit("web"), "b1");
        }
    }
    leave(&client);
}

/// An access file that is renamed, as log rotation does.
fn rotate(signal: Signal) {
    let backend = Backend::named("b1");
    let mut text = web("", &[backend.entry()]);
    text.push_str("[log]\nformat = \"json\"\naccess_file = \"$DIR/access.log\"\n");
    let isobar = Isobar::start(&text);
    let (now, old) = (
        isobar.dir().join("access.log"),
        isobar.dir().join("old.log"),
    );
    isobar.visits("web", 3);
    wait_lines(&now, 3);
    std::fs::rename(&now, &old).expect("a file to rename");
    isobar.visits("web", 2);
    wait_lines(&old, 5);
    isobar.signal(signal);
    wait_until("there was a new file", || now.exists());
    isobar.visits("web", 4);
    wait_lines(&now, 4);
    assert_eq!(lines(&old), 5);
}

#[track_caller]
fn wait_lines(file: &Path, n: usize) {
    wait_until(&format!("{n} lines were in {}", file.display()), || {
        lines(file) == n
    });
}

fn lines(file: &Path) -> usize {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter(|line| line.contains("client_closed"))
        .count()
}

#[test]
fn the_access_file_is_opened_again_on_sigusr1() {
    rotate(Signal::USR1);
}

#[test]
fn the_access_file_is_opened_again_on_sighup() {
    rotate(Signal::HUP);
}

#[test]
fn a_reader_of_standard_error_that_goes_away_stops_nothing() {
    let backend = Backend::named("b1");
    let mut isobar = Isobar::start(&web("", &[backend.entry()]));
    isobar.log().hang_up();
    for _ in 0..30 {
        assert_eq!(isobar.visit("web"), "b1");
    }
    isobar.assert_calm();
    assert_eq!(isobar.stop().code(), Some(0));
}

/// The pipe fills up after some hundred lines.
#[test]
fn a_reader_of_standard_error_that_reads_nothing_holds_up_nobody() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    isobar.log().stop_reading();
    for _ in 0..500 {
        assert_eq!(isobar.visit("web"), "b1");
    }
    isobar.assert_calm();
    isobar.log().read_on();
    let (client, _) = isobar.stay("web");
    let local = client.local().expect("an address");
    leave(&client);
    isobar.wait_access(local);
}

/// The end does not wait for somebody to read why.
#[test]
fn a_full_standard_error_does_not_delay_the_end() {
    let backend = Backend::named("b1");
    let mut isobar = Launch::new(&web("", &[backend.entry()])).start();
    isobar.log().stop_reading();
    isobar.visits("web", 500);
    let start = Instant::now();
    isobar.signal(Signal::TERM);
    wait_until("the process ended", || isobar.has_exited());
    assert!(start.elapsed() < scaled(SOON), "{:?}", start.elapsed());
    assert_exits(&mut isobar);
}

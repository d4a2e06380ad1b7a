//! When a connection is given up: nothing moves, one side has closed and the other says
//! nothing, a backend does not answer, a peer is not there any more.
//!
//! A time-out must not come early, which is asserted to the millisecond; that it comes at all
//! is waited for as long as any other condition.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use support::{
    Backend, Blackhole, End, Family, Isobar, Path, Pattern, STALL, Stream, on_every_path,
    on_every_path_with, scaled, wait_until, web,
};

/// Far above the pauses that a busy machine makes in [`trickle`], or a test would be cut off
/// for its own slowness.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// Between two bytes of a [`trickle`].
const STEP: Duration = Duration::from_millis(50);

/// More than the buffers of all sockets on the way hold.
const NEVER_FITS: u64 = 512 << 20;

fn timeout() -> Duration {
    scaled(TIMEOUT)
}

/// A line of a pool that sets `key` to [`timeout`].
fn setting(key: &str) -> String {
    format!("{key} = \"{}ms\"\n", timeout().as_millis())
}

/// Sends a byte now and then for well over [`timeout`], and checks that each arrives.
#[track_caller]
fn trickle(from: &Stream, to: &Stream) {
    let end = Instant::now() + timeout().mul_f64(2.2);
    while Instant::now() < end {
        from.write("x");
        to.expect("x");
        std::thread::sleep(STEP);
    }
}

/// Asserts that both ends are reset for `reason`, a time-out that began after `start`.
#[track_caller]
fn assert_timed_out(path: &Path<'_>, ends: [&Stream; 2], start: Instant, reason: &str) {
    for end in ends {
        end.expect_reset();
        let took = start.elapsed();
        assert!(took >= timeout(), "{}: after {took:?}", path.name);
    }
    path.wait_ended(reason, 1);
}

#[test]
fn a_connection_on_which_nothing_moves_ends_at_the_idle_timeout() {
    on_every_path_with(&setting("idle_timeout"), |path| {
        let (client, backend) = path.open();
        client.write("hello");
        backend.expect("hello");
        let start = Instant::now();
        backend.write("hi");
        client.expect("hi");
        assert_timed_out(path, [&client, &backend], start, "idle_timeout");
    });
}

#[test]
fn a_connection_on_which_nobody_ever_speaks_ends_at_the_idle_timeout() {
    on_every_path_with(&setting("idle_timeout"), |path| {
        let start = Instant::now();
        let (client, backend) = path.open();
        assert_timed_out(path, [&client, &backend], start, "idle_timeout");
    });
}

#[test]
fn bytes_of_the_client_alone_keep_a_connection_alive() {
    on_every_path_with(&setting("idle_timeout"), |path| {
        let (client, backend) = path.open();
        trickle(&client, &backend);
        client.fin();
        backend.expect_fin();
        backend.fin();
        client.expect_fin();
    });
}

#[test]
fn bytes_of_the_backend_alone_keep_a_connection_alive() {
    on_every_path_with(&setting("idle_timeout"), |path| {
        let (client, backend) = path.open();
        trickle(&backend, &client);
        backend.fin();
        client.expect_fin();
        client.fin();
        backend.expect_fin();
    });
}

/// The writer would go on for ever, but what it writes does not move: that is idle too.
#[test]
fn a_writer_whose_reader_does_not_read_is_timed_out() {
    on_every_path_with(&setting("idle_timeout"), |path| {
        let (client, backend) = path.open();
        let cut_short = client.try_write_pattern(Pattern(0), NEVER_FITS);
        assert!(cut_short.is_err(), "{}: nobody read this", path.name);
        backend.expect_gone();
        path.wait_ended("idle_timeout", 1);
    });
}

/// Its reader takes a little now and then. Every portion is progress, although the writer
/// is blocked all the time.
#[test]
fn a_slow_reader_keeps_its_connection_alive() {
    on_every_path_with(&setting("idle_timeout"), |path| {
        let (client, backend) = path.open();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let sent = backend.try_write_pattern(Pattern(0), NEVER_FITS);
                assert!(done.load(SeqCst), "{}: cut off: {sent:?}", path.name);
            });
            let end = Instant::now() + timeout().mul_f64(2.2);
            while Instant::now() < end {
                client.read_exact(256 << 10);
                std::thread::sleep(STEP);
            }
            done.store(true, SeqCst);
            client.abort();
            writer.join().expect("cut off when it was over only");
        });
        path.wait_ended("client_reset", 1);
    });
}

#[test]
fn after_a_fin_of_the_client_a_silent_backend_is_waited_for_no_longer_than_the_half_close_timeout()
{
    let settings = setting("half_close_timeout") + "idle_timeout = \"0s\"\n";
    on_every_path_with(&settings, |path| {
        let (client, backend) = path.open();
        client.write("hello");
        let start = Instant::now();
        client.fin();
        assert_eq!(backend.read_to_end(), (b"hello".to_vec(), End::Fin));
        client.expect_reset();
        assert!(start.elapsed() >= timeout(), "{}", path.name);
        backend.expect_gone();
        path.wait_ended("half_close_timeout", 1);
    });
}

#[test]
fn after_a_fin_of_the_backend_a_silent_client_is_waited_for_no_longer_than_the_half_close_timeout()
{
    let settings = setting("half_close_timeout") + "idle_timeout = \"0s\"\n";
    on_every_path_with(&settings, |path| {
        let (client, backend) = path.open();
        let start = Instant::now();
        backend.fin();
        client.expect_fin();
        backend.expect_reset();
        assert!(start.elapsed() >= timeout(), "{}", path.name);
        client.expect_gone();
        path.wait_ended("half_close_timeout", 1);
    });
}

#[test]
fn bytes_that_trickle_after_a_fin_keep_the_connection_alive() {
    on_every_path_with(&setting("half_close_timeout"), |path| {
        let (client, backend) = path.open();
        client.fin();
        backend.expect_fin();
        trickle(&backend, &client);
        backend.fin();
        client.expect_fin();
        path.wait_ended("client_closed", 1);
    });
}

/// The connection has been silent for most of `half_close_timeout` when the FIN comes: that
/// does not count.
#[test]
fn the_half_close_timeout_begins_with_the_fin() {
    let settings = setting("half_close_timeout") + "idle_timeout = \"0s\"\n";
    on_every_path_with(&settings, |path| {
        let (client, backend) = path.open();
        client.write("hello");
        backend.expect("hello");
        std::thread::sleep(timeout().mul_f64(0.8));
        let start = Instant::now();
        client.fin();
        backend.expect_fin();
        client.expect_reset();
        assert!(start.elapsed() >= timeout(), "{}: early", path.name);
        path.wait_ended("half_close_timeout", 1);
    });
}

#[test]
fn after_a_fin_the_idle_timeout_holds_as_before() {
    for half_close in ["0s", "1h"] {
        let half_close = format!("half_close_timeout = \"{half_close}\"\n");
        on_every_path_with(&(setting("idle_timeout") + &half_close), |path| {
            let (client, backend) = path.open();
            client.fin();
            backend.expect_fin();
            client.expect_reset();
            path.wait_ended("idle_timeout", 1);
        });
    }
}

#[test]
fn a_timeout_of_zero_is_off() {
    let off = "idle_timeout = \"0s\"\nhalf_close_timeout = \"0s\"\nconnect_timeout = \"0s\"\n\
               user_timeout = \"0s\"\nkeepalive = \"0s\"\n";
    on_every_path_with(off, |path| {
        let (client, backend) = path.open();
        assert!(client.is_silent_for(STALL), "{}", path.name);
        client.write("a");
        backend.expect("a");
        client.fin();
        backend.expect_fin();
        assert!(client.is_silent_for(STALL), "{}", path.name);
        backend.write("b");
        backend.fin();
        assert_eq!(client.read_to_end(), (b"b".to_vec(), End::Fin));
    });
}

#[test]
fn the_idle_timeout_does_not_run_while_a_client_is_held() {
    let backend = Backend::refusing("b1");
    let settings = setting("idle_timeout");
    let isobar = Isobar::start(&web(&settings, &[backend.entry()]));
    let client = isobar.connect("web");
    assert!(client.is_silent_for(timeout().mul_f64(1.2)));
    backend.listen();
    assert_eq!(client.read_line(), "b1");
    client.fin();
    client.expect_fin();
}

/// Everybody's time-out comes at the same moment, while one other client goes on talking.
#[test]
fn hundreds_of_connections_that_time_out_together_do_not_disturb_another() {
    const CLIENTS: usize = 300;
    let backend = Backend::echo(Family::Ipv4);
    let isobar = Isobar::start(&web(&setting("idle_timeout"), &[backend.entry()]));
    let idle: Vec<_> = (0..CLIENTS).map(|_| isobar.connect("web")).collect();
    let busy = isobar.connect("web");
    wait_until("the idle ones were gone", || {
        busy.write("ping");
        busy.expect("ping");
        isobar.ended("web", "idle_timeout") == CLIENTS as u64
    });
    idle.iter().for_each(Stream::expect_reset);
    busy.fin();
    busy.expect_fin();
}

#[test]
fn a_backend_that_does_not_answer_costs_its_client_one_connect_timeout() {
    let (hole, good) = (Blackhole::new(), Backend::named("good"));
    let settings = "balance = \"first\"\nconnect_timeout = \"300ms\"\n";
    let isobar = Isobar::start(&web(settings, &[hole.entry("hole", ""), good.entry()]));
    let start = Instant::now();
    let (client, name) = isobar.stay("web");
    assert_eq!(name, "good");
    assert!(start.elapsed() >= Duration::from_millis(300));
    let local = client.local().expect("an address");
    client.fin();
    client.expect_fin();
    let line = isobar.wait_access(local);
    assert_eq!(line.fields()["attempts"], 2, "{}", line.raw);
    let hole = "/pools/web/backends/hole/connections";
    assert_eq!(isobar.count(&format!("{hole}/failed")), 1);
    assert_eq!(isobar.count(&format!("{hole}/connecting")), 0);
    let labels = [("backend", "hole"), ("reason", "timeout")];
    let timeouts = isobar.metric("isobar_backend_connect_failures_total", &labels);
    assert!((timeouts - 1.0).abs() < f64::EPSILON, "{timeouts}");
}

/// Two holes and no hold: each attempt has the whole of `connect_timeout`.
#[test]
fn every_attempt_has_its_own_connect_timeout() {
    let holes = [Blackhole::new(), Blackhole::new()];
    let settings = "connect_timeout = \"300ms\"\nconnect_attempts = 2\n[pool.web.hold]\nmax = 0\n";
    let entries = [holes[0].entry("h1", ""), holes[1].entry("h2", "")];
    let isobar = Isobar::start(&web(settings, &entries));
    let start = Instant::now();
    let client = isobar.connect("web");
    let local = client.local().expect("an address");
    client.expect_reset();
    assert!(start.elapsed() >= Duration::from_millis(600));
    isobar.wait_ended("web", "connect_timeout", 1);
    let line = isobar.wait_access(local);
    assert_eq!(line.text("ended"), Some("connect_timeout"));
    for hole in ["h1", "h2"] {
        let failed = format!("/pools/web/backends/{hole}/connections/failed");
        assert_eq!(isobar.count(&failed), 1, "{hole}");
    }
}

#[test]
fn without_a_connect_timeout_a_client_waits_as_long_as_the_kernel_tries() {
    let hole = Blackhole::new();
    let settings = "connect_timeout = \"0s\"\n";
    let isobar = Isobar::start(&web(settings, &[hole.entry("hole", "")]));
    let client = isobar.connect("web");
    let connecting = "/pools/web/backends/hole/connections/connecting";
    isobar.wait_count(connecting, 1);
    assert!(client.is_silent_for(timeout()));
    assert_eq!(isobar.count(connecting), 1);
    client.reset();
    isobar.wait_ended("web", "client_left", 1);
}

/// A pool whose peers are given up after a second without a sign of them.
fn with_a_second_of_patience(backend: &Backend) -> Isobar {
    let settings = "user_timeout = \"1s\"\nkeepalive = \"1s\"\n";
    Isobar::start(&web(settings, &[backend.entry()]))
}

/// A connection on which both sides have spoken.
fn talking(isobar: &Isobar, backend: &Backend) -> (Stream, Stream) {
    let client = isobar.connect("web");
    let server = backend.accept();
    client.write("hello");
    server.expect("hello");
    server.write("hi");
    client.expect("hi");
    (client, server)
}

#[test]
fn a_client_that_vanishes_while_it_is_written_to_is_lost() {
    let backend = Backend::manual(Family::Ipv4);
    let isobar = with_a_second_of_patience(&backend);
    let (client, server) = talking(&isobar, &backend);
    let local = client.local().expect("an address");
    client.vanish();
    server.write("are you there?");
    server.expect_reset();
    isobar.wait_ended("web", "client_lost", 1);
    assert_eq!(isobar.wait_access(local).text("ended"), Some("client_lost"));
}

#[test]
fn a_backend_that_vanishes_while_it_is_written_to_is_lost() {
    let backend = Backend::manual(Family::Ipv4);
    let isobar = with_a_second_of_patience(&backend);
    let (client, server) = talking(&isobar, &backend);
    server.vanish();
    client.write("are you there?");
    client.expect_reset();
    isobar.wait_ended("web", "backend_lost", 1);
}

#[test]
fn a_client_that_vanishes_in_silence_is_lost_by_keepalive() {
    let backend = Backend::manual(Family::Ipv4);
    let isobar = with_a_second_of_patience(&backend);
    let (client, server) = talking(&isobar, &backend);
    client.vanish();
    server.expect_reset();
    isobar.wait_ended("web", "client_lost", 1);
}

#[test]
fn a_backend_that_vanishes_in_silence_is_lost_by_keepalive() {
    let backend = Backend::manual(Family::Ipv4);
    let isobar = with_a_second_of_patience(&backend);
    let (client, server) = talking(&isobar, &backend);
    server.vanish();
    client.expect_reset();
    isobar.wait_ended("web", "backend_lost", 1);
}

#[test]
fn a_silent_peer_that_is_there_is_not_lost() {
    let backend = Backend::manual(Family::Ipv4);
    let isobar = with_a_second_of_patience(&backend);
    let (client, server) = talking(&isobar, &backend);
    assert!(client.is_silent_for(scaled(Duration::from_secs(3))));
    client.fin();
    server.expect_fin();
    server.fin();
    client.expect_fin();
}

/// The defaults are an hour and five minutes: nothing of the suites may notice them.
#[test]
fn by_default_a_pause_of_a_second_ends_nothing() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        assert!(client.is_silent_for(Duration::from_secs(1)));
        client.fin();
        backend.expect_fin();
        assert!(client.is_silent_for(Duration::from_secs(1)));
        backend.fin();
        client.expect_fin();
    });
}

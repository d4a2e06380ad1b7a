//! A reset is never passed on as anything else, nor lost, and never overtakes the bytes
//! before it.
//!
//! A Unix socket knows no reset, so most cases run on IPv4 and IPv6 alone.

mod support;

use std::time::Duration;

use support::{
    Backend, Blackhole, End, Family, Isobar, Path, Pattern, STALL, Stream, on_every_path,
    on_every_path_with, scaled, web,
};

const MIB: u64 = 1 << 20;

/// More than the buffers of all sockets on the way hold.
const NEVER_FITS: u64 = 512 * MIB;
const IN: Pattern = Pattern(1);
const OUT: Pattern = Pattern(2);

/// Runs `case` on the paths where a reset can be told from a close.
#[track_caller]
fn on_every_tcp_path(case: impl Fn(&Path<'_>) + Sync) {
    on_every_tcp_path_with("", case);
}

fn on_every_tcp_path_with(settings: &str, case: impl Fn(&Path<'_>) + Sync) {
    on_every_path_with(settings, |path| {
        if path.knows_reset() {
            case(path);
        }
    });
}

/// A connection on which both sides have spoken.
#[track_caller]
fn talking(path: &Path<'_>) -> (Stream, Stream) {
    let (client, backend) = path.open();
    client.write("hello");
    backend.expect("hello");
    backend.write("hi");
    client.expect("hi");
    (client, backend)
}

#[test]
fn a_reset_of_the_client_resets_the_backend() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        client.reset();
        backend.expect_reset();
        path.wait_ended("client_reset", 1);
    });
}

#[test]
fn a_reset_of_the_backend_resets_the_client() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        backend.reset();
        client.expect_reset();
        path.wait_ended("backend_reset", 1);
    });
}

/// The kernel resets where a process closes with bytes unread.
#[test]
fn a_client_that_closes_with_bytes_unread_has_reset() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        backend.write("unread");
        backend.wait_acknowledged();
        support::wait_until("the bytes are at the client", || {
            !client.is_silent_for(Duration::ZERO)
        });
        drop(client);
        backend.expect_reset();
        path.wait_ended("client_reset", 1);
    });
}

#[test]
fn bytes_before_a_reset_of_the_client_are_delivered_first() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        client.write_pattern(IN, 16 * 1024);
        client.wait_acknowledged();
        client.reset();
        assert_eq!(
            backend.read_pattern_to_end(IN),
            (16 * 1024, End::Reset),
            "{}",
            path.name
        );
        path.wait_ended("client_reset", 1);
    });
}

#[test]
fn bytes_before_a_reset_of_the_backend_are_delivered_first() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        backend.write_pattern(OUT, 16 * 1024);
        backend.wait_acknowledged();
        backend.reset();
        assert_eq!(
            client.read_pattern_to_end(OUT),
            (16 * 1024, End::Reset),
            "{}",
            path.name
        );
        path.wait_ended("backend_reset", 1);
    });
}

/// A server that refuses an upload answers at once and closes without reading the rest, which
/// its kernel turns into a reset behind the answer. Meanwhile the client goes on writing.
///
/// What surely fits on the way is read only after the reset; more than that as it comes.
#[test]
fn an_early_answer_is_delivered_whole_although_a_reset_follows_it() {
    const FITS: u64 = 64 * 1024;
    for n in [FITS, 40 * FITS] {
        on_every_tcp_path(|path| {
            let (client, backend) = talking(path);
            let read = || client.read_pattern_to_end(OUT);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let cut_short = client.try_write_pattern(IN, NEVER_FITS);
                    assert!(cut_short.is_err(), "nobody read this");
                });
                client.wait_for_stall();
                let early = (n > FITS).then(|| scope.spawn(read));
                backend.write_pattern(OUT, n);
                backend.wait_acknowledged();
                drop(backend);
                let got = early.map_or_else(read, |reader| reader.join().expect("no panic"));
                assert_eq!(got, (n, End::Reset), "{}", path.name);
            });
            path.wait_ended("backend_reset", 1);
        });
    }
}

/// As above, but the client, too, reads nothing until the reset has long come.
#[test]
fn an_answer_waits_for_its_client_although_a_reset_follows_it() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        let n = backend.fill(OUT, NEVER_FITS, scaled(STALL));
        let received = n - backend.unacknowledged();
        backend.reset();
        let (got, end) = client.read_pattern_to_end(OUT);
        assert_eq!(end, End::Reset, "{}", path.name);
        assert!((received..=n).contains(&got), "{got} of {received}");
        path.wait_ended("backend_reset", 1);
    });
}

#[test]
fn an_upload_waits_for_its_backend_although_a_reset_follows_it() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        let n = client.fill(IN, NEVER_FITS, scaled(STALL));
        let received = n - client.unacknowledged();
        client.reset();
        let (got, end) = backend.read_pattern_to_end(IN);
        assert_eq!(end, End::Reset, "{}", path.name);
        assert!((received..=n).contains(&got), "{got} of {received}");
        path.wait_ended("client_reset", 1);
    });
}

/// Nobody ever reads what is left: after 5 s without progress it is given up.
#[test]
fn a_reset_of_the_client_is_noticed_while_the_backend_does_not_read() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        client.fill(IN, NEVER_FITS, scaled(STALL));
        client.reset();
        backend.expect_gone();
        path.wait_ended("client_reset", 1);
    });
}

/// Where segments were dropped for want of room, the kernel drops a reset behind them too, as it is
/// beyond the window: then a probe finds that nobody is there.
#[test]
fn a_reset_of_the_backend_is_noticed_while_the_client_does_not_read() {
    on_every_tcp_path_with("keepalive = \"1s\"\n", |path| {
        let (client, backend) = talking(path);
        backend.fill(OUT, NEVER_FITS, scaled(STALL));
        backend.reset();
        client.expect_gone();
        path.wait_ended("backend_reset", 1);
    });
}

#[test]
fn a_backend_that_writes_to_a_client_that_has_reset_is_reset() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let cut_short = backend.try_write_pattern(OUT, 1 << 40);
                assert!(cut_short.is_err());
            });
            client.expect_pattern(OUT, MIB);
            client.abort();
        });
        path.wait_ended("client_reset", 1);
    });
}

#[test]
fn a_client_that_writes_to_a_backend_that_has_reset_is_reset() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let cut_short = client.try_write_pattern(IN, 1 << 40);
                assert!(cut_short.is_err());
            });
            backend.expect_pattern(IN, MIB);
            backend.abort();
        });
        path.wait_ended("backend_reset", 1);
    });
}

#[test]
fn a_client_that_resets_after_its_fin_resets_the_backend() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        client.fin();
        backend.expect_fin();
        client.reset();
        backend.expect_gone();
        path.wait_ended("client_reset", 1);
    });
}

#[test]
fn a_backend_that_resets_after_the_clients_fin_resets_the_client() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        client.fin();
        backend.expect_fin();
        backend.write("half an answ");
        backend.wait_acknowledged();
        backend.reset();
        assert_eq!(client.read_to_end(), (b"half an answ".to_vec(), End::Reset));
        path.wait_ended("backend_reset", 1);
    });
}

#[test]
fn a_backend_that_resets_after_its_own_fin_resets_the_client() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        backend.fin();
        client.expect_fin();
        backend.reset();
        client.expect_gone();
        path.wait_ended("backend_reset", 1);
    });
}

#[test]
fn a_client_that_resets_after_the_backends_fin_resets_the_backend() {
    on_every_tcp_path(|path| {
        let (client, backend) = talking(path);
        backend.fin();
        client.expect_fin();
        client.write("half a wor");
        client.wait_acknowledged();
        client.reset();
        assert_eq!(backend.read_to_end(), (b"half a wor".to_vec(), End::Reset));
        path.wait_ended("client_reset", 1);
    });
}

/// On a Unix socket a close is all there is: the other side, which still writes, must not be
/// left hanging.
#[test]
fn a_unix_peer_that_closes_ends_the_connection() {
    on_every_path(|path| {
        if path.knows_reset() {
            return;
        }
        let (client, backend) = talking(path);
        drop(client);
        let cut_short = backend.try_write_pattern(OUT, NEVER_FITS);
        assert!(cut_short.is_err());
        let (client, backend) = talking(path);
        drop(backend);
        let cut_short = client.try_write_pattern(IN, NEVER_FITS);
        assert!(cut_short.is_err());
    });
}

/// Bytes of a connection that was cut are in a buffer or a pipe then; whoever gets that next
/// must not see them.
#[test]
fn bytes_of_a_cut_connection_never_show_up_in_another() {
    on_every_path(|path| {
        for round in 0..5 {
            let (client, backend) = talking(path);
            client.fill(Pattern(100), NEVER_FITS, scaled(STALL) / 4);
            backend.fill(Pattern(101), NEVER_FITS, scaled(STALL) / 4);
            client.reset();
            backend.reset();
            let (client, backend) = path.open();
            std::thread::scope(|scope| {
                scope.spawn(|| client.write_pattern(Pattern(round), 200_000));
                backend.expect_pattern(Pattern(round), 200_000);
                scope.spawn(|| backend.write_pattern(Pattern(round + 50), 200_000));
                client.expect_pattern(Pattern(round + 50), 200_000);
            });
            client.fin();
            backend.expect_fin();
            backend.fin();
            client.expect_fin();
        }
    });
}

#[test]
fn a_client_that_resets_while_its_backend_is_being_connected_has_left() {
    let hole = Blackhole::new();
    let isobar = Isobar::start(&web("", &[hole.entry("hole", "")]));
    let client = isobar.connect("web");
    isobar.wait_count("/pools/web/backends/hole/connections/connecting", 1);
    client.reset();
    isobar.wait_ended("web", "client_left", 1);
}

/// As fast as one can: most are gone before they are accepted.
#[test]
fn hundreds_of_clients_that_connect_and_reset_leave_nothing_behind() {
    const CLIENTS: u64 = 500;
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&web("", &[backend.entry()]));
    for _ in 0..CLIENTS {
        isobar.connect("web").reset();
    }
    support::wait_until("all were counted", || {
        let left = isobar.ended("web", "client_left");
        left + isobar.ended("web", "client_reset") == CLIENTS
    });
    assert_eq!(isobar.visit("web"), "b1");
}

/// Every way of leaving, mixed, and afterwards not a single count is off.
#[test]
fn a_mix_of_all_endings_gives_back_every_count() {
    let backend = Backend::serving(Family::Ipv4, "moody", |stream| {
        let Ok(line) = stream.try_read_line() else {
            return;
        };
        match &*line {
            "reset" => stream.abort(),
            "close" => drop(stream.try_write("bye")),
            "push" => drop(stream.try_write_pattern(OUT, 4 * MIB)),
            _ => while stream.read(&mut [0; 64]).is_ok_and(|n| n > 0) {},
        }
    });
    let isobar = Isobar::start(&web("balance = \"least-connections\"", &[backend.entry()]));
    for round in 0..200 {
        let client = isobar.connect("web");
        let wish = ["reset", "close", "push", "listen"][round % 4];
        client.write(format!("{wish}\n"));
        match round % 3 {
            0 => client.reset(),
            1 => drop(client),
            _ => {
                client.fin();
                client.read_to_end();
            }
        }
    }
    isobar.wait_count("/connections/active", 0);
    assert_eq!(isobar.count("/listeners/web/connections/total"), 200);
    assert_eq!(
        isobar.count("/pools/web/backends/moody/connections/active"),
        0
    );
}

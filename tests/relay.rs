//! Bytes and FINs, both ways, on every engine and address family.

mod support;

use std::time::Duration;

use rustix::process::Signal;
use support::{
    Backend, End, Family, Isobar, Pattern, STALL, Stream, auto_finds_bulk, on_every_path,
    on_every_path_with, scaled, web,
};

const MIB: u64 = 1 << 20;

/// More than the buffers of all sockets on the way hold.
const NEVER_FITS: u64 = 512 * MIB;

/// What the client says, and what the backend says.
const IN: Pattern = Pattern(1);
const OUT: Pattern = Pattern(2);

/// Sends `n` bytes and FIN while they are read and checked at the other end.
#[track_caller]
fn transfer(from: &Stream, to: &Stream, pattern: Pattern, n: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            from.write_pattern(pattern, n);
            from.fin();
        });
        assert_eq!(to.read_pattern_to_end(pattern), (n, End::Fin));
    });
}

/// Ends a connection as is proper, the client first.
#[track_caller]
fn close(client: &Stream, backend: &Stream) {
    client.fin();
    backend.expect_fin();
    backend.fin();
    client.expect_fin();
}

#[test]
fn bytes_go_both_ways() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        client.write("ping");
        backend.expect("ping");
        backend.write("pong");
        client.expect("pong");
        close(&client, &backend);
        path.wait_ended("client_closed", 1);
    });
}

#[test]
fn a_backend_may_speak_first() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        backend.write("220 ready\r\n");
        client.expect("220 ready\r\n");
        close(&client, &backend);
    });
}

/// The client sends and shuts down its side; the backend has seen all of it and the FIN
/// before it begins to answer, with more than any buffer holds.
#[test]
fn half_close_from_client_lets_the_backend_answer() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        client.write("question");
        client.fin();
        assert_eq!(backend.read_to_end(), (b"question".to_vec(), End::Fin));
        transfer(&backend, &client, OUT, MIB);
        path.wait_ended("client_closed", 1);
    });
}

#[test]
fn half_close_from_backend_keeps_client_writing() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        backend.write("goodbye");
        backend.fin();
        assert_eq!(client.read_to_end(), (b"goodbye".to_vec(), End::Fin));
        transfer(&client, &backend, IN, MIB);
        path.wait_ended("backend_closed", 1);
    });
}

#[test]
fn a_half_closed_connection_costs_no_processor_time() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        client.fin();
        backend.expect_fin();
        path.isobar.assert_calm();
        assert!(client.is_silent_for(Duration::ZERO), "{}", path.name);
        backend.fin();
        client.expect_fin();
    });
}

#[test]
fn a_half_closed_connection_carries_drops_for_as_long_as_they_come() {
    on_every_path_with("half_close_timeout = \"400ms\"", |path| {
        let (client, backend) = path.open();
        client.fin();
        backend.expect_fin();
        for _ in 0..8 {
            assert!(client.is_silent_for(Duration::from_millis(100)));
            backend.write(".");
            client.expect(".");
        }
        backend.fin();
        client.expect_fin();
        path.wait_ended("client_closed", 1);
    });
}

#[test]
fn data_and_fin_in_one_segment_arrive_in_this_order() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        client.write_and_fin(b"last words");
        assert_eq!(backend.read_to_end(), (b"last words".to_vec(), End::Fin));
        backend.write_and_fin(b"farewell");
        assert_eq!(client.read_to_end(), (b"farewell".to_vec(), End::Fin));
    });
}

/// The client has said everything and is done before the backend is even connected.
#[test]
fn data_and_fin_that_come_before_the_backend_is_connected_reach_it() {
    on_every_path(|path| {
        path.backend.stop();
        let client = path.connect();
        client.write_and_fin(b"early");
        path.backend.listen();
        let backend = path.backend.accept();
        assert_eq!(backend.read_to_end(), (b"early".to_vec(), End::Fin));
        backend.write("answer");
        backend.fin();
        assert_eq!(client.read_to_end(), (b"answer".to_vec(), End::Fin));
        path.wait_ended("client_closed", 1);
    });
}

#[test]
fn a_client_that_says_nothing_and_closes_is_a_whole_connection() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        client.fin();
        backend.expect_fin();
        backend.fin();
        client.expect_fin();
        path.wait_ended("client_closed", 1);
    });
}

#[test]
fn both_sides_may_close_at_the_same_time() {
    on_every_path(|path| {
        for _ in 0..20 {
            let (client, backend) = path.open();
            client.write("x");
            backend.write("y");
            client.fin();
            backend.fin();
            assert_eq!(client.read_to_end(), (b"y".to_vec(), End::Fin));
            assert_eq!(backend.read_to_end(), (b"x".to_vec(), End::Fin));
        }
    });
}

#[test]
fn a_side_that_closes_at_once_after_everything_is_read_ends_with_fin() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        client.write("request");
        backend.expect("request");
        backend.write("response");
        drop(backend);
        assert_eq!(client.read_to_end(), (b"response".to_vec(), End::Fin));
        drop(client);
        path.wait_ended("backend_closed", 1);
    });
}

#[test]
fn a_few_mebibytes_each_way_at_once_arrive_as_they_were() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        std::thread::scope(|scope| {
            scope.spawn(|| transfer(&client, &backend, IN, 4 * MIB));
            transfer(&backend, &client, OUT, 4 * MIB);
        });
    });
}

/// Both sides write until nothing more fits, and only then begin to read.
#[test]
fn both_sides_may_write_before_they_read() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        let up = client.fill(IN, NEVER_FITS, scaled(STALL));
        let down = backend.fill(OUT, NEVER_FITS, scaled(STALL));
        client.fin();
        backend.fin();
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(backend.read_pattern_to_end(IN), (up, End::Fin)));
            assert_eq!(client.read_pattern_to_end(OUT), (down, End::Fin));
        });
    });
}

#[test]
fn a_bulk_download_waits_for_a_slow_client_and_arrives_whole() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        arrives_after_a_stall(&backend, &client);
        client.fin();
        backend.expect_fin();
        path.wait_ended("backend_closed", 1);
    });
}

#[test]
fn a_bulk_upload_waits_for_a_slow_backend_and_arrives_whole() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        arrives_after_a_stall(&client, &backend);
        backend.fin();
        client.expect_fin();
        path.wait_ended("client_closed", 1);
    });
}

/// More than all buffers hold, and FIN, against a reader that begins only when the writer is
/// stuck.
#[track_caller]
fn arrives_after_a_stall(from: &Stream, to: &Stream) {
    let stuck = from.fill(OUT, NEVER_FITS, scaled(STALL));
    assert!(stuck < NEVER_FITS, "nothing holds the writer back");
    let n = stuck + 4 * MIB;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            from.try_write_range(OUT, stuck, n).expect("a reader");
            from.fin();
        });
        assert_eq!(to.read_pattern_to_end(OUT), (n, End::Fin));
    });
}

/// A pipe is full by slots long before it is full by bytes when segments are small.
#[test]
fn small_segments_to_a_reader_that_pauses_arrive_whole() {
    const SEGMENT: usize = 1448;
    on_every_path(|path| {
        let (client, backend) = path.open();
        let stuck = backend.fill_in_segments(SEGMENT, OUT, NEVER_FITS, scaled(STALL));
        assert!(stuck < NEVER_FITS, "nothing holds the writer back");
        client.expect_pattern(OUT, 1000);
        backend.fin();
        assert_eq!(client.read_rest_of_pattern(OUT), (stuck, End::Fin));
        client.fin();
        backend.expect_fin();
    });
}

/// One direction is stuck as its reader does not read; the other carries on.
#[test]
fn a_stalled_direction_does_not_hold_up_the_other() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        let down = backend.fill(OUT, NEVER_FITS, scaled(STALL));
        transfer(&client, &backend, IN, 4 * MIB);
        backend.fin();
        assert_eq!(client.read_pattern_to_end(OUT), (down, End::Fin));
    });
}

#[test]
fn a_stalled_connection_costs_no_processor_time_and_others_go_on() {
    on_every_path(|path| {
        let (stuck, pusher) = path.open();
        pusher.fill(OUT, NEVER_FITS, scaled(STALL));
        path.isobar.assert_calm();
        let (client, backend) = path.open();
        transfer(&client, &backend, IN, MIB);
        transfer(&backend, &client, OUT, MIB);
        stuck.reset();
        pusher.expect_gone();
    });
}

/// Fifty clients that never read, each with a backend that pushes as much as it can: what
/// isobar keeps is 64 KiB a direction at most, and the senders are held back by TCP.
#[test]
fn clients_that_never_read_cost_bounded_memory() {
    const CLIENTS: usize = 50;
    for engine in ["copy", "splice", "auto"] {
        let pusher = Backend::serving(Family::Ipv4, "pusher", |stream| {
            stream.fill(OUT, u64::MAX, scaled(STALL) * 4);
            let _ = stream.read(&mut [0]);
        });
        let isobar = Isobar::start(&web(&format!("relay = \"{engine}\""), &[pusher.entry()]));
        let before = isobar.process().resident();
        let clients: Vec<_> = (0..CLIENTS).map(|_| isobar.connect("web")).collect();
        isobar.wait_count("/connections/active", CLIENTS as u64);
        isobar.assert_calm();
        let grown = isobar.process().resident().saturating_sub(before);
        let bound = CLIENTS as u64 * 2 * 64 * 1024 + 8 * MIB;
        assert!(
            grown < bound,
            "{engine}: {grown} bytes for {CLIENTS} clients"
        );
        clients.into_iter().for_each(Stream::reset);
    }
}

/// Byte by byte, where a delayed segment costs 40 ms each way: the deadline of the harness,
/// hundreds of times what this takes, would not hold.
#[test]
fn a_single_byte_is_never_kept_back() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        let started = std::time::Instant::now();
        for i in 0..500_u32 {
            let byte = [i.to_le_bytes()[0]];
            client.write(byte);
            backend.expect(byte);
            backend.write(byte);
            client.expect(byte);
        }
        assert!(started.elapsed() < support::patience(), "{}", path.name);
        close(&client, &backend);
    });
}

/// A read of a Unix socket stops where descriptors were passed, with more behind them:
///
/// 1. while isobar stands still, a client sends bytes with a descriptor, then more bytes;
/// 2. isobar goes on, and all of them arrive, without the descriptor and without another byte
///    that would wake it again.
#[test]
fn bytes_behind_a_passed_descriptor_arrive_without_more_to_push_them() {
    on_every_path(|path| {
        if path.family != Family::Unix {
            return;
        }
        let (client, backend) = path.open();
        client.write("a");
        backend.expect("a");
        path.isobar.signal(Signal::STOP);
        client.write_with_descriptor("bc");
        client.write("de");
        path.isobar.signal(Signal::CONT);
        backend.expect("bcde");
        close(&client, &backend);
    });
}

/// The last bytes of a bulk transfer come without the FIN or more bytes to push them.
#[test]
fn the_tail_of_a_bulk_transfer_is_not_kept_back() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        let n = 3 * MIB + 17;
        std::thread::scope(|scope| {
            scope.spawn(|| backend.write_pattern(OUT, n));
            client.expect_pattern(OUT, n);
        });
        client.write("got it");
        backend.expect("got it");
        close(&client, &backend);
    });
}

/// An engine that changes its mind on the way must not lose or repeat a byte.
#[test]
fn bulk_and_small_messages_may_alternate() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        for round in 0..6 {
            std::thread::scope(|scope| {
                scope.spawn(|| backend.write_pattern(Pattern(round), 2 * MIB));
                client.expect_pattern(Pattern(round), 2 * MIB);
            });
            for _ in 0..20 {
                client.write("next?");
                backend.expect("next?");
                backend.write("yes");
                client.expect("yes");
            }
        }
        close(&client, &backend);
    });
}

#[test]
fn thousands_of_one_byte_writes_arrive_as_they_were() {
    on_every_path(|path| {
        let (client, backend) = path.open();
        let n = 5_000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for offset in 0..n {
                    client.write(IN.at(offset, 1));
                }
                client.fin();
            });
            let mut byte = [0];
            for offset in 0..n {
                assert_eq!(backend.read(&mut byte).expect("a byte"), 1);
                IN.check(offset, &byte);
            }
            backend.expect_fin();
        });
        backend.fin();
        client.expect_fin();
    });
}

#[test]
fn every_one_of_many_clients_gets_its_own_bytes_back() {
    const CLIENTS: usize = 200;
    for family in Family::all() {
        let echo = Backend::echo(family);
        let isobar = Isobar::start(&web("", &[echo.entry()]));
        let clients: Vec<_> = (0..CLIENTS).map(|_| isobar.connect("web")).collect();
        for (number, client) in clients.iter().enumerate() {
            client.write_pattern(Pattern(number), 10_000);
        }
        for (number, client) in clients.iter().enumerate().rev() {
            client.expect_pattern(Pattern(number), 10_000);
            client.fin();
            client.expect_fin();
        }
        isobar.wait_ended("web", "client_closed", CLIENTS as u64);
    }
}

#[test]
fn connections_may_follow_one_another() {
    on_every_path(|path| {
        for round in 0..30 {
            let (client, backend) = path.open();
            client.write_pattern(Pattern(round), 100);
            backend.expect_pattern(Pattern(round), 100);
            close(&client, &backend);
        }
        path.wait_ended("client_closed", 30);
    });
}

/// In a bulk transfer the bytes stay in the kernel.
#[test]
fn a_gibibyte_is_spliced() {
    let n = 1 << 30;
    for engine in ["splice", "auto"] {
        let source = Backend::source(Family::Ipv4, n);
        let relay = format!("relay = \"{engine}\"");
        let isobar = Isobar::start(&web(&relay, &[source.entry()]));
        let client = isobar.connect("web");
        assert_eq!(client.read_pattern_to_end(Pattern(0)), (n, End::Fin));
        client.fin();
        isobar.wait_ended("web", "backend_closed", 1);
        let spliced = isobar.metric("isobar_spliced_bytes_total", &[]);
        if engine == "splice" || auto_finds_bulk() {
            assert!(spliced >= 0.9 * n as f64, "{engine}: {spliced} of {n}");
        }
    }
}

/// An urgent byte stops splice(2) at its mark, where it looks like the end of the stream.
///
/// 1. Enough bytes that `auto` splices, then an urgent byte, more bytes, and FIN.
/// 2. All but the urgent byte arrive, then FIN; the same the other way.
#[test]
fn an_urgent_byte_is_dropped_and_what_follows_it_is_not() {
    const LAST: &[u8] = b"after the mark";
    on_every_path(|path| {
        if path.family == Family::Unix {
            return;
        }
        let (client, backend) = path.open();
        for (from, to) in [(&client, &backend), (&backend, &client)] {
            let arrived = std::thread::scope(|scope| {
                scope.spawn(|| {
                    from.write_pattern(IN, 4 * MIB);
                    from.write_urgent();
                    from.write(LAST);
                    from.fin();
                });
                to.read_to_end()
            });
            assert_eq!(arrived.1, End::Fin);
            assert_eq!(arrived.0.len() as u64, 4 * MIB + LAST.len() as u64);
            assert!(arrived.0.ends_with(LAST));
        }
        path.wait_ended("client_closed", 1);
    });
}

/// A read stops at the mark, so it comes back short with bytes still behind it.
///
/// 1. Bytes, an urgent byte, and more bytes go out in one breath; then silence.
/// 2. All but the urgent byte arrive without another byte being sent; many times over, as it
///    takes both portions to be there when the first is read.
#[test]
fn nothing_waits_behind_an_urgent_byte() {
    on_every_path(|path| {
        if path.family == Family::Unix {
            return;
        }
        let (client, backend) = path.open();
        for (from, to) in [(&client, &backend), (&backend, &client)] {
            for _ in 0..50 {
                from.write("before");
                from.write_urgent();
                from.write("behind");
                to.expect("beforebehind");
            }
        }
        close(&client, &backend);
        path.wait_ended("client_closed", 1);
    });
}

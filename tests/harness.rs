//! The harness itself, before a balancer is put between its peers: a fault that it injects
//! must happen, and an end that it reports must be the one that was sent.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Backend, Blackhole, End, Family, Log, Pattern, Process, Stream, Tally, scaled};

fn pair(family: Family) -> (Stream, Stream, Backend) {
    let backend = Backend::manual(family);
    let client = Stream::connect(backend.address(), &Arc::default()).expect("it listens");
    let server = backend.accept();
    (client, server, backend)
}

#[test]
fn a_fin_is_told_from_a_reset() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let (client, server, _backend) = pair(family);
        server.write("last");
        server.fin();
        assert_eq!(client.read_to_end(), (b"last".to_vec(), End::Fin));
        client.reset();
        server.expect_gone();
        server.expect_reset();
    }
}

#[test]
fn a_reset_is_seen_after_the_bytes_before_it() {
    let (client, server, _backend) = pair(Family::Ipv4);
    server.write("before");
    server.reset();
    client.expect_gone();
    assert_eq!(client.read_to_end(), (b"before".to_vec(), End::Reset));
}

#[test]
fn a_unix_stream_ends_with_a_close() {
    let (client, server, _backend) = pair(Family::Unix);
    client.write("x");
    server.expect("x");
    server.reset();
    client.expect_reset();
}

#[test]
fn an_echo_returns_a_pattern_in_each_family() {
    for family in Family::all() {
        let backend = Backend::echo(family);
        let tally = Arc::new(Tally::default());
        let client = Stream::connect(backend.address(), &tally).expect("it listens");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                client.write_pattern(Pattern(3), 1 << 20);
                client.fin();
            });
            assert_eq!(client.read_pattern_to_end(Pattern(3)), (1 << 20, End::Fin));
        });
        assert_eq!((tally.sent(), tally.received()), (1 << 20, 1 << 20));
        assert_eq!(backend.tally().sent(), 1 << 20);
    }
}

#[test]
#[should_panic(expected = "wrong bytes")]
fn a_swapped_block_does_not_pass_for_the_pattern() {
    let mut bytes = Pattern(0).at(0, 8192).to_vec();
    let (first, second) = bytes.split_at_mut(4096);
    first.swap_with_slice(second);
    Pattern(0).check(0, &bytes);
}

#[test]
fn a_stopped_backend_refuses_and_a_restarted_one_serves_on_the_same_address() {
    for family in Family::all() {
        let backend = Backend::named_on(family, "b1");
        let dial = || Stream::connect(backend.address(), &Arc::default());
        let before = dial().expect("it listens");
        assert_eq!(before.read_line(), "b1");
        backend.stop();
        assert!(dial().is_err(), "{family}: it is not listening");
        before.write("still served");
        backend.listen();
        assert_eq!(dial().expect("it listens again").read_line(), "b1");
        assert_eq!(backend.accepted(), 2);
    }
}

#[test]
fn a_crashing_backend_resets_what_it_serves() {
    let backend = Backend::named("b1");
    let client = Stream::connect(backend.address(), &Arc::default()).expect("it listens");
    assert_eq!(client.read_line(), "b1");
    backend.crash();
    client.expect_reset();
}

#[test]
fn a_full_receiver_stalls_the_sender() {
    for family in Family::all() {
        let (client, server, _backend) = pair(family);
        let sent = client.fill(Pattern(1), 1 << 30, Duration::from_millis(100));
        assert!((1..1 << 30).contains(&sent), "{family}: {sent}");
        client.fin();
        assert_eq!(server.read_pattern_to_end(Pattern(1)), (sent, End::Fin));
    }
}

#[test]
fn a_black_hole_neither_accepts_nor_refuses() {
    let hole = Blackhole::new();
    let entry = hole.entry("hole", "");
    let address = entry.split('"').nth(3).expect("an address");
    let address: std::net::SocketAddr = address.parse().expect("an address");
    let outcome = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
    let error = outcome.expect_err("nobody is there");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn a_source_address_is_chosen_by_the_client() {
    let backend = Backend::manual(Family::Ipv4);
    let source = "127.0.0.77".parse().expect("an address");
    let client =
        Stream::connect_from(Some(source), backend.address(), &Arc::default()).expect("it listens");
    assert_eq!(client.local().map(|local| local.ip()), Some(source));
}

#[test]
fn processor_time_and_descriptors_of_a_process_are_seen() {
    let own = Process(std::process::id());
    let before = own.cpu_time();
    while own.cpu_time() < before + Duration::from_millis(20) {
        std::hint::spin_loop();
    }
    let open = own.descriptors().others;
    let _more: Vec<_> = (0..64).map(|_| pair(Family::Ipv4)).collect();
    assert!(own.descriptors().others >= open + 64);
    assert!(own.resident() > 1 << 20);
    assert!(own.is_alive() && !Process(u32::MAX >> 1).is_alive());
}

#[test]
fn a_log_is_read_line_by_line_while_it_is_written() {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let mut log = Log::of(reader);
    let write = |writer: &mut std::io::PipeWriter, text: &str| {
        std::io::Write::write_all(writer, text.as_bytes()).expect("a reader");
    };
    write(&mut writer, "{\"message\":\"ready\",\"n\":1}\nplain\n");
    let line = log.wait("ready", |line| line.message() == "ready");
    assert_eq!(line.fields()["n"], 1);
    log.wait("the plain line", |line| line.raw == "plain");
    drop(writer);
    log.finish();
    assert!(scaled(Duration::from_secs(1)) > Duration::ZERO);
}

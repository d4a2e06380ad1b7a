//! 1 GiB each way at once on one connection, compared by SHA-256.

mod support;

use std::time::{Duration, Instant};

use ring::digest::{Context, Digest, SHA256};
use support::programs::{all_connections, balancer};
use support::{Backend, Engine, Family, Pattern, Stream, auto_finds_bulk, scaled, web};

/// Each way.
const SIZE: u64 = 1 << 30;

const BLOCK: usize = 64 * 1024;

/// Many times what it takes on an idle machine.
const LIMIT: Duration = Duration::from_secs(180);

/// How much more memory than when it is idle isobar may have used: buffers, and the code that
/// was not needed before.
const MEMORY: u64 = 8 << 20;

/// 1. both ends send [`SIZE`] bytes of their own and FIN, and read at the same time;
/// 2. each has received what the other has sent;
/// 3. isobar needed no more memory than its buffers.
///
/// Returns how many bytes were spliced.
#[track_caller]
fn transfer(engine: Engine) -> u64 {
    let backend = Backend::manual(Family::Ipv4);
    let settings = format!("relay = \"{engine}\"");
    let isobar = balancer(&web(&settings, &[backend.entry()]));
    let idle = isobar.process().resident();
    let (client, server) = (isobar.connect("web"), backend.accept());
    let deadline = Instant::now() + scaled(LIMIT);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| send(&client, Pattern(1), deadline));
        let down = scope.spawn(|| send(&server, Pattern(2), deadline));
        let at_server = scope.spawn(|| receive(&server, deadline));
        let at_client = scope.spawn(|| receive(&client, deadline));
        let [up, down, at_server, at_client] = [up, down, at_server, at_client]
            .map(|thread| thread.join().expect("no panic"))
            .map(|digest| digest.as_ref().to_vec());
        assert_ne!(up, down);
        assert_eq!((up, down), (at_server, at_client));
    });
    let used = isobar.process().peak_resident().saturating_sub(idle);
    assert!(used < MEMORY, "{used} bytes of memory more than when idle");
    drop((client, server));
    let all = all_connections(&isobar);
    assert!(all.len() == 1 && all[0].is_ordinary(), "{all:?}");
    isobar.metric("isobar_spliced_bytes_total", &[]) as u64
}

/// Sends blocks that all differ, as each begins with its number, and FIN.
fn send(stream: &Stream, pattern: Pattern, deadline: Instant) -> Digest {
    let mut digest = Context::new(&SHA256);
    let mut block = pattern.at(0, BLOCK).to_vec();
    for number in 0..SIZE / BLOCK as u64 {
        assert!(Instant::now() < deadline, "too slow: block {number}");
        block[..8].copy_from_slice(&number.to_be_bytes());
        digest.update(&block);
        stream.write(&block);
    }
    stream.fin();
    digest.finish()
}

fn receive(stream: &Stream, deadline: Instant) -> Digest {
    let mut digest = Context::new(&SHA256);
    let mut buffer = vec![0; 4 * BLOCK];
    loop {
        assert!(Instant::now() < deadline, "too slow");
        match stream.read(&mut buffer).expect("bytes or FIN") {
            0 => return digest.finish(),
            n => digest.update(&buffer[..n]),
        }
    }
}

#[test]
#[ignore = "moves 2 GiB"]
fn both_ways_at_once_arrive_whole_by_copy() {
    assert_eq!(transfer(Engine::Copy), 0);
}

#[test]
#[ignore = "moves 2 GiB"]
fn both_ways_at_once_arrive_whole_by_splice() {
    assert!(transfer(Engine::Splice) >= 2 * SIZE / 10 * 9);
}

#[test]
#[ignore = "moves 2 GiB"]
fn both_ways_at_once_arrive_whole_and_are_spliced_by_auto() {
    let spliced = transfer(Engine::Auto);
    assert!(spliced >= 2 * SIZE / 10 * 9 || !auto_finds_bulk());
}

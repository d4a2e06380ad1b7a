//! An upgrade of thousands of connections, again and again.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use support::crowd::play_if_told;
use support::{Backend, Crowd, Echoes, End, Family, Isobar, Pattern};

/// Not a case: the program that the case starts.
#[test]
#[ignore = "the program that the other tests start"]
fn the_other_process() {
    play_if_told();
}

const CONNECTIONS: usize = 3000;
const STREAMS: usize = 16;
const UPGRADES: usize = 6;

/// 1. Thousands who stay, and streams that are echoed without a pause.
/// 2. Each upgrade moves all of them, and the old process is gone.
/// 3. Everybody talks after each: their bytes are their own. Every byte of the streams is right.
#[test]
fn thousands_of_connections_and_streams_move_again_and_again() {
    let (echoes, mut crowd) = (Echoes::start(2), Crowd::start());
    let streamed = Backend::echo(Family::Ipv4);
    let web = support::web("balance = \"least-connections\"", &echoes.entries());
    let bulk = format!(
        "[listener.bulk]\nbind = \"127.0.0.1:0\"\npool = \"bulk\"\n\
         [pool.bulk]\nbackends = [{}]\n[pool.bulk.health]\nkind = \"none\"\n",
        streamed.entry()
    );
    let mut isobar = Isobar::start(&format!("{web}{bulk}"));
    isobar.skip_byte_check();
    crowd.open(CONNECTIONS, &[isobar.address("web")]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS)
            .map(|n| {
                let (isobar, stop) = (&isobar, &stop);
                scope.spawn(move || stream(isobar, n, stop))
            })
            .collect();
        let _stop = StopOnDrop(&stop);
        for _ in 0..UPGRADES {
            let began = Instant::now();
            let answer = isobar.upgrade();
            let took = began.elapsed();
            eprintln!(
                "moved {} in {took:?}, in {} s by its own account",
                answer["moved"], answer["seconds"]
            );
            let moved = answer["moved"].as_u64().expect("a count");
            assert!(moved >= (CONNECTIONS + STREAMS) as u64, "{answer}");
            assert!(took < support::scaled(Duration::from_secs(20)), "{took:?}");
            crowd.talk(CONNECTIONS);
        }
        stop.store(true, SeqCst);
        for stream in streams {
            assert!(stream.join().expect("every byte is right") > 0);
        }
    });
    let active = isobar.count("/connections/active");
    assert_eq!(active, CONNECTIONS as u64);
    crowd.leave(CONNECTIONS);
    isobar.wait_ended("web", "client_closed", CONNECTIONS as u64);
    assert_eq!(isobar.count("/listeners/web/bytes_in"), crowd.bytes());
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn stream(isobar: &Isobar, n: usize, stop: &AtomicBool) -> u64 {
    const PART: u64 = 128 << 10;
    let client = isobar.connect("bulk");
    let pattern = Pattern(n + 1);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| client.read_pattern_to_end(pattern));
        let mut sent = 0;
        while !stop.load(SeqCst) {
            let more = client.try_write_range(pattern, sent, sent + PART);
            more.expect("a stream goes on");
            sent += PART;
            // Leaves the processors to others: it is to be under way, not to be fast.
            std::thread::sleep(Duration::from_millis(2));
        }
        client.fin();
        assert_eq!(reader.join().expect("the right bytes"), (sent, End::Fin));
        sent
    })
}

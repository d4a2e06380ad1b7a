//! Reloads while traffic flows, and very many of them: nothing is lost, nothing is left over.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use support::{Backend, End, Family, Isobar, Pattern, samples, wait_until, web};

/// Files that differ in everything that a reload may change: backends, weights, strategies,
/// settings, checks, pools, listeners.
fn variant(n: usize, named: &[Backend], echo: &Backend) -> String {
    let strategies = [
        "round-robin",
        "least-connections",
        "random-two",
        "consistent-hash",
    ];
    let settings = format!(
        "balance = \"{}\"\nidle_timeout = \"{}m\"\nkeepalive = \"{}s\"\n{}",
        strategies[n % 4],
        10 + n % 3,
        30 + n % 2,
        match n % 5 {
            0 => "[pool.web.health]\ninterval = \"100ms\"\n",
            _ => "",
        }
    );
    let count = 2 + n % 2;
    let entries: Vec<_> = named[..count]
        .iter()
        .enumerate()
        .map(|(index, b)| b.entry_with(&format!("weight = {}", 1 + (n + index) % 3)))
        .collect();
    let mut text = web(&settings, &entries);
    text += "[listener.bulk]\nbind = \"127.0.0.1:0\"\npool = \"bulk\"\n";
    text += &format!("backlog = {}\n", 1000 + n % 7);
    text += &format!("[pool.bulk]\nbackends = [{}]\n", echo.entry());
    text += &format!("connect_attempts = {}\n", 1 + n % 3);
    text += "[pool.bulk.health]\nkind = \"none\"\n";
    if n.is_multiple_of(3) {
        text += "[listener.extra]\nbind = \"127.0.0.1:0\"\npool = \"extra\"\n";
        text += &format!("[pool.extra]\nbackends = [{}]\n", named[2].entry());
    }
    text
}

fn named() -> Vec<Backend> {
    ["b1", "b2", "b3"].into_iter().map(Backend::named).collect()
}

/// The listening sockets of the listeners that are in every variant.
fn sockets(isobar: &Isobar) -> Vec<Option<u64>> {
    let listening = isobar.process().listening();
    let of = |name: &str| {
        let address = isobar.addresses_now(name)[0].to_string();
        let address = address.parse().expect("an IP address");
        listening.get(&address).copied()
    };
    vec![of("web"), of("bulk")]
}

#[test]
fn a_hundred_reloads_lose_no_connection_and_no_byte() {
    const STREAMS: usize = 12;
    const CLIENTS: usize = 3;
    let (named, echo) = (named(), Backend::echo(Family::Ipv4));
    let isobar = Isobar::start(&variant(0, &named, &echo));
    isobar.expect_removal();
    isobar.expect_departure();
    let inodes = sockets(&isobar);
    assert!(inodes.iter().all(Option::is_some));
    let (over, visits) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    isobar.visit("web");
                    visits.fetch_add(1, SeqCst);
                }
            });
        }
        for stream in 0..STREAMS {
            let (isobar, over) = (&isobar, &over);
            scope.spawn(move || {
                let client = isobar.connect("bulk");
                let (pattern, mut sent) = (Pattern(stream), 0);
                while !over.load(SeqCst) {
                    let next = sent + 32_768;
                    client
                        .try_write_range(pattern, sent, next)
                        .expect("it goes on");
                    let got = client.read_exact(32_768);
                    pattern.check(sent, &got);
                    sent = next;
                }
                client.fin();
                assert_eq!(client.read_to_end(), (Vec::new(), End::Fin));
            });
        }
        for n in 1..=100 {
            let before = visits.load(SeqCst);
            isobar.reload_to(&variant(n, &named, &echo));
            wait_until("clients came through since", || {
                visits.load(SeqCst) > before
            });
        }
        over.store(true, SeqCst);
    });
    assert_eq!(isobar.count("/config/generation"), 101);
    assert_eq!(sockets(&isobar), inodes);
    let ended = isobar.stat("/listeners/web/ended");
    let ended = ended.as_object().expect("reasons").iter();
    let bad: Vec<_> = ended
        .filter(|(reason, n)| !reason.ends_with("_closed") && **n != 0)
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
}

/// Descriptors, threads, tasks and memory after many reloads are those after few.
#[test]
fn a_thousand_reloads_leave_nothing_behind() {
    let (named, echo) = (named(), Backend::echo(Family::Ipv4));
    let isobar = Isobar::start(&variant(0, &named, &echo));
    isobar.expect_removal();
    isobar.expect_departure();
    let reload = |range: std::ops::RangeInclusive<usize>| {
        for n in range {
            isobar.reload_to(&variant(n, &named, &echo));
        }
        // What has left is forgotten.
        isobar.reload_to(&variant(0, &named, &echo));
        wait_until("what had left was forgotten", || {
            let stats = isobar.stats();
            stats["pools"].as_object().map(|pools| pools.len()) == Some(3)
        });
    };
    reload(1..=200);
    let (open, memory) = (isobar.process().descriptors(), isobar.process().resident());
    reload(201..=1000);
    wait_until("as many descriptors were open as before", || {
        isobar.process().descriptors().others <= open.others
    });
    let more = isobar.process().resident().saturating_sub(memory);
    assert!(more < 8 << 20, "{more} bytes more");
    assert!(isobar.visit("web").starts_with('b'));
    let text = isobar.metrics();
    assert_eq!(
        samples(&text, "isobar_config_generation", &[]).next(),
        Some(1003.0)
    );
    isobar.assert_calm();
}

/// Scrapes of everything while listeners, pools and backends come and go: whole each time, and
/// no count goes back.
#[test]
fn scrapes_are_whole_while_things_come_and_go() {
    let (named, echo) = (named(), Backend::echo(Family::Ipv4));
    let isobar = Isobar::start(&variant(0, &named, &echo));
    isobar.expect_removal();
    isobar.expect_departure();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(SeqCst) {
                isobar.visit("web");
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut before = 0.0;
                while !over.load(SeqCst) {
                    let text = isobar.metrics();
                    let labels = [("listener", "web")];
                    let name = "isobar_listener_connections_total";
                    let now = samples(&text, name, &labels).next().expect("a count");
                    assert!(now >= before, "{now} after {before}");
                    before = now;
                    isobar.stats();
                }
            });
        }
        for n in 1..=40 {
            isobar.reload_to(&variant(n, &named, &echo));
            std::thread::sleep(Duration::from_millis(5));
        }
        over.store(true, SeqCst);
    });
}

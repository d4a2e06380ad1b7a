//! Who may come in: lists, limits for each address, rates. Whoever is refused is reset, no
//! backend hears of it, and it counts as nothing but that.
//!
//! Rates are by the hour, so that no token comes in the time a case takes, however long.

mod support;

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use isobar::net::Address;
use serde_json::Value;
use support::{Backend, Family, Isobar, Stream, request, scaled, wait_for, wait_until, web};

/// Listener `web` with these keys, and pool `web`.
fn file(keys: &str, backend: &Backend) -> String {
    web("", &[backend.entry()]).replace(
        "bind = \"127.0.0.1:0\"\n",
        &format!("bind = \"127.0.0.1:0\"\n{keys}\n"),
    )
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// A client from `source` that is let in, and stays.
#[track_caller]
fn come(isobar: &Isobar, source: &str) -> Stream {
    let client = isobar.connect_from(source, "web");
    assert_eq!(client.read_line(), "b1");
    client
}

#[track_caller]
fn is_refused(isobar: &Isobar, source: &str) {
    let source = source.parse().expect("an IP address");
    match isobar.try_connect(Some(source), isobar.address("web")) {
        Ok(client) => client.expect_reset(),
        // It was refused before it knew that it was connected.
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

#[track_caller]
fn wait_rejected(isobar: &Isobar, reason: &str, n: u64) {
    isobar.wait_count(&format!("/listeners/web/rejected/{reason}"), n);
}

/// What would become of a client now: why it would be refused, and each rule.
#[track_caller]
fn explained(isobar: &Isobar, client: &str) -> (Value, String) {
    let path = format!("/explain?listener=web&client={client}");
    let answer = isobar.get(&path).json();
    let refused = answer["admission"]["reason"].clone();
    let (result, reason) = (&answer["outcome"]["result"], &answer["outcome"]["reason"]);
    assert_eq!(result == "rejected", !refused.is_null(), "{answer:#}");
    assert!(refused.is_null() || *reason == refused, "{answer:#}");
    let why = answer["admission"]["why"].as_array().expect("sentences");
    let why: Vec<_> = why.iter().filter_map(Value::as_str).collect();
    (refused, why.join("; "))
}

#[test]
fn denied_clients_are_reset_and_no_backend_hears_of_them() {
    let backend = Backend::named("b1");
    let lists = "allow = [\"127.0.0.0/8\"]\ndeny = [\"127.0.0.2\", \"127.0.1.0/24\"]";
    let isobar = Isobar::start(&file(lists, &backend));
    for source in ["127.0.0.2", "127.0.1.1", "127.0.1.255"] {
        is_refused(&isobar, source);
    }
    wait_rejected(&isobar, "denied", 3);
    assert_eq!(backend.accepted(), 0);
    for source in ["127.0.0.1", "127.0.0.3", "127.0.2.0"] {
        leave(&come(&isobar, source));
    }
    assert_eq!(backend.accepted(), 3);
    let line = wait_for("the line of a refusal", || {
        let mut lines = isobar.access_lines().into_iter();
        lines.find(|line| line.message() == "rejected")
    });
    assert_eq!(line.fields()["reason"], "denied");
    let metric = isobar.metric(
        "isobar_rejected_total",
        &[("listener", "web"), ("reason", "denied")],
    );
    assert_eq!(metric as u64, 3);
    let (refused, why) = explained(&isobar, "127.0.1.9");
    assert_eq!(
        (refused.as_str(), &*why),
        (Some("denied"), "denied by deny 127.0.1.0/24")
    );
    let (refused, why) = explained(&isobar, "127.0.2.9");
    assert_eq!(
        (refused, &*why),
        (Value::Null, "allowed by allow 127.0.0.0/8")
    );
    let (refused, why) = explained(&isobar, "::1");
    assert_eq!(refused, "denied");
    assert_eq!(why, "denied: no entry of allow has it");
}

#[test]
fn unix_clients_come_in_where_allow_names_them_or_is_empty() {
    let backend = Backend::named("b1");
    for (lists, unix, tcp) in [
        ("", true, true),
        ("allow = [\"unix\"]", true, false),
        ("allow = [\"127.0.0.0/8\"]", false, true),
        ("allow = [\"127.0.0.0/8\", \"unix\"]", true, true),
        ("deny = [\"0.0.0.0/0\", \"::/0\"]", true, false),
    ] {
        let text = file(lists, &backend).replace(
            "bind = \"127.0.0.1:0\"",
            "bind = [\"127.0.0.1:0\", \"unix:$DIR/web.sock\"]",
        );
        let isobar = Isobar::start(&text);
        let addresses = isobar.addresses("web");
        for address in addresses {
            let is_unix = matches!(address, Address::Unix(_));
            let client = isobar.connect_to(address);
            match (is_unix, if is_unix { unix } else { tcp }) {
                (_, true) => {
                    assert_eq!(client.read_line(), "b1", "{lists} {address}");
                    leave(&client);
                }
                (true, false) => client.expect_gone(),
                (false, false) => client.expect_reset(),
            }
        }
        let refused = [unix, tcp].iter().filter(|admitted| !**admitted).count();
        wait_rejected(&isobar, "denied", refused as u64);
        assert_eq!(explained(&isobar, "unix").0.is_null(), unix, "{lists}");
    }
}

/// Unix clients have no address: however many there are, they are no address' too many.
#[test]
fn unix_clients_are_under_no_limit_of_an_address() {
    let backend = Backend::named("b1");
    let text = file(
        "max_connections_per_ip = 1\nrate_per_ip = \"1/h\"",
        &backend,
    );
    let text = text.replace(
        "bind = \"127.0.0.1:0\"",
        "bind = [\"127.0.0.1:0\", \"unix:$DIR/web.sock\"]",
    );
    let isobar = Isobar::start(&text);
    let socket = isobar.addresses("web").iter().find(|a| a.ip().is_none());
    let socket = socket.expect("a Unix socket");
    let clients: Vec<_> = (0..5).map(|_| isobar.connect_to(socket)).collect();
    for client in &clients {
        assert_eq!(client.read_line(), "b1");
        leave(client);
    }
}

/// An IPv4 client of a `[::]` listener comes as `::ffff:127.0.0.2`.
#[test]
fn ipv4_rules_hold_for_ipv4_clients_of_an_ipv6_socket() {
    if !Family::all().contains(&Family::Ipv6) {
        return;
    }
    let backend = Backend::named("b1");
    let keys = "deny = [\"127.0.0.2\"]\nmax_connections_per_ip = 1";
    let text = file(keys, &backend).replace("\"127.0.0.1:0\"", "\"[::]:0\"");
    let isobar = Isobar::start(&text);
    let port = isobar.address("web").port().expect("a port");
    let connect = |source: &str| {
        let ip = source.parse().expect("an address");
        let to = match source.contains(':') {
            true => format!("[::1]:{port}"),
            false => format!("127.0.0.1:{port}"),
        };
        let to = to.parse().expect("an address");
        isobar.try_connect(Some(ip), &to).expect("it listens")
    };
    connect("127.0.0.2").expect_reset();
    wait_rejected(&isobar, "denied", 1);
    let inside = ["127.0.0.3", "127.0.0.4", "::1"].map(|source| {
        let client = connect(source);
        assert_eq!(client.read_line(), "b1", "{source}");
        client
    });
    for source in ["127.0.0.3", "127.0.0.4", "::1"] {
        connect(source).expect_reset();
    }
    wait_rejected(&isobar, "ip_limit", 3);
    inside.iter().for_each(leave);
    assert_eq!(backend.accepted(), 3);
}

#[test]
fn the_limit_of_an_address_is_exact_over_all_cores_and_of_that_address_alone() {
    const LIMIT: usize = 3;
    const THREADS: usize = 8;
    let backend = Backend::named("b1");
    let keys = format!("max_connections_per_ip = {LIMIT}");
    let text = format!("[runtime]\nthreads = 4\n{}", file(&keys, &backend));
    let isobar = Isobar::start(&text);
    // All of them stay until all have come: who is let in is in all at once.
    let (inside, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let come_all = |source: &str| {
        let all = std::sync::Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let clients = [(); 3].map(|()| isobar.connect_from(source, "web"));
                    let clients = clients.map(|client| (client.try_read_line().is_ok(), client));
                    let let_in = clients.iter().filter(|(let_in, _)| *let_in).count();
                    inside.fetch_add(let_in, SeqCst);
                    refused.fetch_add(clients.len() - let_in, SeqCst);
                    all.wait();
                    let stayed = clients.iter().filter(|(let_in, _)| *let_in);
                    stayed.for_each(|(_, client)| leave(client));
                });
            }
        });
    };
    come_all("127.0.0.2");
    assert_eq!(inside.load(SeqCst), LIMIT);
    come_all("127.0.0.3");
    assert_eq!(inside.load(SeqCst), 2 * LIMIT);
    let refused = refused.load(SeqCst);
    assert_eq!(refused, 2 * (3 * THREADS - LIMIT));
    wait_rejected(&isobar, "ip_limit", refused as u64);
    assert_eq!(backend.accepted(), 2 * LIMIT);
}

#[test]
fn a_place_that_is_given_back_lets_the_next_in_however_the_connection_ended() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&file("max_connections_per_ip = 1", &backend));
    let ends: [&dyn Fn(Stream); 3] = [
        &|client| leave(&client),
        &|client| client.reset(),
        &|client| {
            isobar.tell("DELETE", "/connections?listener=web", "");
            client.expect_reset();
        },
    ];
    let mut inside = come(&isobar, "127.0.0.2");
    for (round, end) in ends.iter().enumerate() {
        is_refused(&isobar, "127.0.0.2");
        let (refused, why) = explained(&isobar, "127.0.0.2");
        assert_eq!(refused, "ip_limit");
        assert_eq!(why, "127.0.0.2 has 1 of 1 connections");
        end(inside);
        let free = || explained(&isobar, "127.0.0.2").0.is_null();
        wait_until("its place is free", free);
        inside = come(&isobar, "127.0.0.2");
        assert_eq!(backend.accepted(), round + 2);
    }
    leave(&inside);
    wait_rejected(&isobar, "ip_limit", 3);
}

#[test]
fn a_rate_lets_as_many_in_at_once_and_the_refused_take_no_token() {
    let backend = Backend::named("b1");
    let keys = "rate = \"8/h\"\nrate_per_ip = \"5/h\"\nmax_connections_per_ip = 1\n\
                deny = [\"127.0.0.9\"]";
    let isobar = Isobar::start(&file(keys, &backend));
    let again = |source: &str| {
        let client = come(&isobar, source);
        // Neither of these takes one of the tokens.
        is_refused(&isobar, "127.0.0.9");
        is_refused(&isobar, source);
        leave(&client);
        let free = || explained(&isobar, source).1.contains("has 0 of 1");
        wait_until("its place is free", free);
    };
    (0..5).for_each(|_| again("127.0.0.2"));
    let (refused, why) = explained(&isobar, "127.0.0.2");
    assert_eq!(refused, "rate");
    let of_its_own = "rate_per_ip 5/h of 127.0.0.2: no token left, the next in";
    assert!(why.contains(of_its_own), "{why}");
    assert!(why.contains("rate 8/h: 3 tokens left"), "{why}");
    (0..4).for_each(|_| is_refused(&isobar, "127.0.0.2"));
    // Others have tokens of their own, and the listener has three left.
    (0..3).for_each(|_| again("127.0.0.3"));
    for source in ["127.0.0.3", "127.0.0.4", "127.0.0.2"] {
        is_refused(&isobar, source);
    }
    wait_rejected(&isobar, "rate", 7);
    wait_rejected(&isobar, "denied", 8);
    wait_rejected(&isobar, "ip_limit", 8);
    assert_eq!(backend.accepted(), 8);
}

#[test]
fn tokens_come_back_with_time_and_no_faster() {
    const RATE: f64 = 10.0;
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&file("rate = \"10/s\"", &backend));
    let began = Instant::now();
    let mut let_in = 0;
    // Twice the bucket: half of it has to come while the case runs.
    wait_until("twenty came in", || {
        let client = isobar.connect("web");
        if client.try_read_line().is_ok() {
            leave(&client);
            let_in += 1;
        } else {
            std::thread::sleep(Duration::from_millis(5));
        }
        let_in >= 20
    });
    let most = RATE + RATE * began.elapsed().as_secs_f64();
    assert!(f64::from(let_in) <= most, "{let_in} of {most}");
    assert!(isobar.count("/listeners/web/rejected/rate") > 0);
}

#[test]
fn a_reload_holds_for_new_connections_and_counts_who_is_there() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&file("", &backend));
    let there = [(); 2].map(|()| come(&isobar, "127.0.0.2"));
    // A limit where there was none: who is there counts.
    let limited = file("max_connections_per_ip = 2", &backend);
    let headers = "Content-Type: application/toml\r\n";
    let limited = isobar.completed(&limited);
    let planned = request(isobar.admin(), "POST", "/plan", headers, &limited).body;
    assert!(planned.contains("\"max_connections_per_ip\""), "{planned}");
    isobar.reload_to(&limited);
    let counted = || explained(&isobar, "127.0.0.2").1.contains("has 2 of 2");
    wait_until("both are counted", counted);
    is_refused(&isobar, "127.0.0.2");
    leave(&come(&isobar, "127.0.0.3"));
    // A higher one: who is there still counts.
    isobar.reload_to(&file("max_connections_per_ip = 3", &backend));
    let third = come(&isobar, "127.0.0.2");
    is_refused(&isobar, "127.0.0.2");
    // A list: who is there stays, whoever it is.
    isobar.reload_to(&file("deny = [\"127.0.0.2\"]", &backend));
    is_refused(&isobar, "127.0.0.2");
    wait_rejected(&isobar, "denied", 1);
    assert!(there[0].is_silent_for(scaled(Duration::from_millis(20))));
    there.iter().chain([&third]).for_each(leave);
    isobar.reload_to(&file("max_connections_per_ip = 1", &backend));
    wait_until("nobody is counted", || {
        explained(&isobar, "127.0.0.2").1.contains("has 0 of 1")
    });
    leave(&come(&isobar, "127.0.0.2"));
    wait_rejected(&isobar, "ip_limit", 2);
}

#[test]
fn a_rate_goes_on_through_a_reload_that_leaves_it_as_it_is() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&file("rate_per_ip = \"2/h\"", &backend));
    leave(&come(&isobar, "127.0.0.2"));
    isobar.reload_to(&file("rate_per_ip = \"2/h\"\nbacklog = 100", &backend));
    leave(&come(&isobar, "127.0.0.2"));
    is_refused(&isobar, "127.0.0.2");
    isobar.reload_to(&file("rate_per_ip = \"3/h\"", &backend));
    leave(&come(&isobar, "127.0.0.2"));
}

#[test]
fn connections_that_move_to_another_process_count_there() {
    let backend = Backend::named("b1");
    let isobar = Isobar::start(&file("max_connections_per_ip = 2", &backend));
    let there = [(); 2].map(|()| come(&isobar, "127.0.0.2"));
    isobar.upgrade();
    let (refused, why) = explained(&isobar, "127.0.0.2");
    assert_eq!(refused, "ip_limit");
    assert_eq!(why, "127.0.0.2 has 2 of 2 connections");
    is_refused(&isobar, "127.0.0.2");
    there.iter().for_each(leave);
    let free = || explained(&isobar, "127.0.0.2").1.contains("has 0 of 2");
    wait_until("their places are free", free);
    leave(&come(&isobar, "127.0.0.2"));
}

/// An attack: nobody of it reaches a backend, others are served all the while, the log stays
/// short, and no descriptor stays behind (which is an invariant of every case).
#[test]
fn under_a_flood_of_refused_clients_others_are_served() {
    const FLOOD: usize = 2000;
    let backend = Backend::named("b1");
    let text = file("deny = [\"127.0.0.2\"]\nmax_connections = 50", &backend);
    let isobar = Isobar::start(&text);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..FLOOD / 2).for_each(|_| is_refused(&isobar, "127.0.0.2")));
        }
        (0..50).for_each(|_| assert_eq!(isobar.visit("web"), "b1"));
    });
    wait_rejected(&isobar, "denied", FLOOD as u64);
    assert_eq!(backend.accepted(), 50);
    let lines = isobar.access_lines().into_iter();
    let told = lines.filter(|line| line.message() == "rejected").count();
    assert!(told as u64 <= 2 + began.elapsed().as_secs(), "{told} lines");
}

//! What becomes of the live connections of a backend that goes down by checks.

mod support;

use std::time::{Duration, Instant};

use support::{Backend, Family, Isobar, Line, Pattern, STALL, Stream, scaled, wait_until, web};

/// Checks that notice within a moment.
const FAST: &str =
    "[pool.web.health]\ninterval = \"100ms\"\nfast_interval = \"50ms\"\nfall = 2\nrise = 2\n";

/// Pool `web` with that `on_backend_down`, and these backends up.
fn started(on_backend_down: &str, backends: &[&Backend]) -> Isobar {
    let text = text(on_backend_down, backends);
    let mut isobar = Isobar::start(&text);
    // Backends see the bytes of checks, too.
    isobar.skip_byte_check();
    for backend in backends {
        isobar.wait_state("web", backend.name(), "up");
    }
    isobar
}

fn text(on_backend_down: &str, backends: &[&Backend]) -> String {
    let entries: Vec<_> = backends.iter().map(|backend| backend.entry()).collect();
    web(
        &format!("on_backend_down = {on_backend_down}\n{FAST}"),
        &entries,
    )
}

/// A client who stays with an echo, and has had an answer.
#[track_caller]
fn stay(isobar: &Isobar) -> Stream {
    let client = isobar.connect("web");
    talk(&client);
    client
}

#[track_caller]
fn talk(client: &Stream) {
    client.write("x");
    client.expect("x");
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// It refuses from now on, which checks notice; live connections of its own it keeps.
#[track_caller]
fn fall(isobar: &Isobar, backend: &Backend) -> Instant {
    let at = Instant::now();
    backend.stop();
    isobar.wait_state("web", backend.name(), "down");
    at
}

/// The access lines when there are so many.
#[track_caller]
fn all_lines(isobar: &Isobar, n: usize) -> Vec<Line> {
    wait_until("each has its line", || isobar.access_lines().len() == n);
    isobar.access_lines()
}

fn ended(isobar: &Isobar) -> u64 {
    isobar.ended("web", "backend_down")
}

#[test]
fn they_go_on_unless_the_file_says_otherwise() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = started("\"keep\"", &[&backend]);
    let client = stay(&isobar);
    fall(&isobar, &backend);
    assert!(client.is_silent_for(STALL));
    talk(&client);
    leave(&client);
    isobar.wait_ended("web", "client_closed", 1);
    assert_eq!(ended(&isobar), 0);
}

#[test]
fn at_once_means_those_of_that_backend_and_no_others() {
    let (first, second) = (Backend::manual_as("b1"), Backend::manual_as("b2"));
    let isobar = started("\"reset\"", &[&first, &second]);
    let clients = [isobar.connect("web"), isobar.connect("web")];
    clients.iter().for_each(|client| client.write("x"));
    isobar.wait_count("/pools/web/connections/active", 2);
    fall(&isobar, &first);
    isobar.wait_ended("web", "backend_down", 1);
    assert_eq!(isobar.count("/pools/web/ended/backend_down"), 1);
    let lines = all_lines(&isobar, 1);
    let line = &lines[0];
    assert!(line.says("ended", "backend_down") && line.says("backend", "b1"));
    isobar.log().wait("a line about it", |line| {
        line.says("backend", "b1") && line.message() == "down, resetting its connections"
    });
    let gone = line.text("client").expect("an address");
    for client in &clients {
        match client.local().expect("an address").to_string() == gone {
            true => client.expect_reset(),
            false => assert!(client.is_silent_for(STALL)),
        }
    }
    assert_eq!(isobar.count("/pools/web/backends/b2/connections/active"), 1);
    // The test plays both backends, and closes neither.
    clients.iter().for_each(Stream::abort);
}

/// The client has not read when the backend goes down; what isobar had taken reaches it.
#[test]
fn what_it_said_before_is_delivered_first() {
    let backend = Backend::source(Family::Ipv4, u64::MAX / 2);
    let isobar = started("\"reset\"", &[&backend]);
    let client = isobar.connect("web");
    let stalled = || {
        let before = isobar.count("/pools/web/bytes_out");
        std::thread::sleep(STALL);
        before > 0 && isobar.count("/pools/web/bytes_out") == before
    };
    wait_until("it stands still", stalled);
    fall(&isobar, &backend);
    let (got, end) = client.read_pattern_to_end(Pattern(0));
    client.assert_is_reset(end);
    isobar.wait_ended("web", "backend_down", 1);
    assert_eq!(isobar.count("/pools/web/bytes_out"), got);
}

/// The last to have spoken goes last, and none before the time.
#[test]
fn after_a_while_they_go_at_the_rate_and_the_idlest_first() {
    const N: usize = 6;
    let backend = Backend::echo(Family::Ipv4);
    let isobar = started("{ after = \"1s\", rate = \"5/s\" }", &[&backend]);
    let clients: Vec<_> = (0..N).map(|_| stay(&isobar)).collect();
    // In another order than they came in.
    let order = [3, 0, 5, 1, 4, 2];
    for index in order {
        talk(&clients[index]);
        // Cores have clocks of their own: the next one is later by any of them.
        wait_until("it is silent", || {
            let silent = isobar.get("/connections?idle=20ms").json();
            silent["total"] == N
        });
    }
    let fell = fall(&isobar, &backend);
    isobar.wait_ended("web", "backend_down", 1);
    assert!(
        fell.elapsed() >= Duration::from_secs(1),
        "{:?}",
        fell.elapsed()
    );
    isobar.wait_ended("web", "backend_down", N as u64);
    // The first at once, the others 200 ms apart.
    assert!(
        fell.elapsed() >= Duration::from_secs(2),
        "{:?}",
        fell.elapsed()
    );
    clients.iter().for_each(Stream::expect_reset);
    let lines = all_lines(&isobar, N);
    let gone: Vec<_> = lines
        .iter()
        .filter_map(|line| line.text("client"))
        .collect();
    let expected: Vec<_> = order
        .iter()
        .map(|index| clients[*index].local().expect("an address").to_string())
        .collect();
    assert_eq!(gone, expected);
}

#[test]
fn if_it_is_back_before_the_rest_stays() {
    const N: u64 = 8;
    let backend = Backend::echo(Family::Ipv4);
    let isobar = started("{ after = \"300ms\", rate = \"1/s\" }", &[&backend]);
    let clients: Vec<_> = (0..N).map(|_| stay(&isobar)).collect();
    fall(&isobar, &backend);
    isobar.wait_ended("web", "backend_down", 1);
    backend.listen();
    isobar.wait_state("web", backend.name(), "up");
    let gone = ended(&isobar);
    assert!(gone < N, "{gone}");
    isobar.log().wait("a line about it", |line| {
        line.message() == "the rest of its connections stays"
    });
    let stays = isobar.count("/pools/web/connections/active");
    // Two more would have gone.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(ended(&isobar), gone);
    assert_eq!(isobar.count("/pools/web/connections/active"), stays);
    let lives = clients.iter().filter(|c| c.is_silent_for(Duration::ZERO));
    let lives: Vec<_> = lives.collect();
    assert_eq!(lives.len() as u64, N - gone);
    lives.into_iter().for_each(|client| {
        talk(client);
        leave(client);
    });
}

/// Checks fail at a port of their own; the backend itself is well, and gets clients all the same.
#[test]
fn who_comes_while_it_is_down_is_left_alone() {
    let (backend, checked) = (Backend::echo(Family::Ipv4), Backend::manual_as("checked"));
    let port = checked.address().port().expect("a port");
    let entries = [backend.entry()];
    let settings =
        format!("on_backend_down = \"reset\"\nwhen_all_down = \"try\"\n{FAST}port = {port}\n");
    let mut isobar = Isobar::start(&web(&settings, &entries));
    isobar.skip_byte_check();
    isobar.wait_state("web", "echo", "up");
    let before = stay(&isobar);
    checked.stop();
    isobar.wait_state("web", "echo", "down");
    before.expect_reset();
    let later = stay(&isobar);
    // Longer than it takes to look again.
    assert!(later.is_silent_for(Duration::from_millis(1500)));
    talk(&later);
    leave(&later);
    isobar.wait_ended("web", "client_closed", 1);
    assert_eq!(ended(&isobar), 1);
}

#[test]
fn a_new_file_says_what_becomes_of_those_who_live_now() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = started("\"keep\"", &[&backend]);
    let client = stay(&isobar);
    fall(&isobar, &backend);
    let done = isobar.reload_to(&text("\"reset\"", &[&backend]));
    let change = &done["plan"]["pools"][0]["fields"][0];
    assert_eq!(change["key"], "on_backend_down", "{done}");
    assert_eq!(change["effect"], "at_once");
    client.expect_reset();
    isobar.wait_ended("web", "backend_down", 1);
}

/// What is drained has its own time, but a backend that is down has nothing to give.
#[test]
fn a_drained_backend_that_goes_down_is_down() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = started("\"reset\"", &[&backend]);
    let client = stay(&isobar);
    isobar.set("web/echo", r#"{"state": "drain"}"#);
    assert!(client.is_silent_for(STALL));
    backend.stop();
    client.expect_reset();
    isobar.wait_ended("web", "backend_down", 1);
    assert_eq!(isobar.stat("/pools/web/backends/echo/state"), "draining");
}

#[test]
fn in_maintenance_nothing_is_checked_and_nobody_is_reset() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = started("\"reset\"", &[&backend]);
    let client = stay(&isobar);
    isobar.set("web/echo", r#"{"state": "maintenance"}"#);
    backend.stop();
    assert!(client.is_silent_for(Duration::from_secs(1)));
    talk(&client);
    leave(&client);
    isobar.wait_ended("web", "client_closed", 1);
}

/// The time since it went down moves along.
#[test]
fn an_upgrade_does_not_begin_the_time_anew() {
    let backend = Backend::echo(Family::Ipv4);
    let isobar = started("{ after = \"5s\", rate = \"10/s\" }", &[&backend]);
    let client = stay(&isobar);
    let fell = fall(&isobar, &backend);
    let wait = Duration::from_secs(3).saturating_sub(fell.elapsed());
    assert!(client.is_silent_for(wait));
    isobar.upgrade();
    client.expect_reset();
    isobar.wait_ended("web", "backend_down", 1);
    // Anew it would be 8 s at the least.
    let late = scaled(Duration::from_millis(7500));
    let took = fell.elapsed();
    assert!(took >= Duration::from_secs(5) && took < late, "{took:?}");
}

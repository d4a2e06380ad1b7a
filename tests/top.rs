//! `isobar top` on a terminal of its own: what is seen there while a real balancer works,
//! loses a backend, restarts, and while somebody types.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::programs::own_address;
use support::{Backend, Isobar, Terminal, scaled, web};

/// Checks that notice at once.
const QUICK: &str = "[pool.web.health]\ninterval = \"200ms\"\nfast_interval = \"100ms\"\n\
    timeout = \"1s\"\nfall = 1\nrise = 1\n";

fn top(isobar: &Isobar) -> Command {
    top_at(&isobar.admin().to_string())
}

fn top_at(admin: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isobar"));
    command.args(["top", "--admin", admin]);
    command
}

/// A balancer over these backends, and a terminal of the usual size that shows it.
fn shown(backends: &[&Backend]) -> (Isobar, Terminal) {
    let entries: Vec<_> = backends.iter().map(|backend| backend.entry()).collect();
    let isobar = Isobar::start(&web(QUICK, &entries));
    for backend in backends {
        isobar.wait_state("web", backend.name(), "up");
    }
    let terminal = Terminal::start(&top(&isobar), 80, 24);
    terminal.wait_text("● live");
    (isobar, terminal)
}

fn leave(mut terminal: Terminal) {
    terminal.press("q");
    assert_eq!(terminal.wait_exit().code(), Some(0));
    terminal.assert_given_back();
}

/// 1. The whole screen of a pool with two backends.
/// 2. Enter leads into the pool, again into a backend with its history; Escape back.
/// 3. `q` leaves the terminal as it was.
#[test]
fn one_goes_from_a_pool_into_a_backend_and_its_history_and_back() {
    let (oak, elm) = (Backend::named("oak"), Backend::named("elm"));
    let (isobar, terminal) = shown(&[&oak, &elm]);
    isobar.visits("web", 4);
    assert!(terminal.is_taken());
    terminal.wait_lines("the pool", |lines| {
        lines[0].starts_with(" isobar ")
            && lines[0].ends_with(" UTC")
            && lines[1].contains("usable 2/2")
            && lines[2] == " 1 Pools  2 Backends  3 Listeners  4 Connections  5 Events"
            && lines[3] == "─".repeat(80)
            && lines[4].starts_with(" New ")
            && lines[11] == " Pools · 1 in all"
            && lines[12].starts_with("  POOL       USABLE    HELD ACTIVE NEW/S  IN/S OUT/S")
            && lines[13].starts_with("▸ web        ● 2/2        0      0")
            && lines[22] == " web: round-robin, nothing is wrong"
            && lines[23].starts_with(" q quit  ? help ")
    });
    terminal.press("\r");
    terminal.wait_text("› web");
    terminal.wait_text(" web · round-robin · 2 of 2 usable");
    terminal.wait_line("▸ oak ", "● up");
    terminal.wait_line("  elm ", "● up");
    terminal.press("\r");
    terminal.wait_text("› web › oak");
    terminal.wait_text("History · 1 change of state");
    terminal.wait_line("▸ ", "○ starting ● up");
    terminal.wait_text("check passed");
    terminal.press("\u{1b}");
    terminal.wait_text(" web · round-robin · 2 of 2 usable");
    terminal.press("\u{1b}");
    terminal.wait_text("Pools · 1 in all");
    leave(terminal);
}

#[test]
fn a_filter_leaves_what_it_finds_while_it_is_typed() {
    let (oak, elm) = (Backend::named("oak"), Backend::named("elm"));
    let (_isobar, terminal) = shown(&[&oak, &elm]);
    terminal.press("2/el");
    terminal.wait_text("Backends · 2 in all · 1 of 2 match");
    terminal.wait_text("▸ web/elm");
    terminal.wait_gone("web/oak");
    // `q` is a letter now.
    terminal.press("q\r");
    terminal.wait_text("There is no backend.");
    terminal.press("\u{1b}");
    terminal.wait_text("web/oak");
    leave(terminal);
}

/// The state, its cause and the event are seen soon after the check has failed.
#[test]
fn a_backend_that_dies_is_seen_to_be_down_with_the_cause() {
    let (oak, elm) = (Backend::named("oak"), Backend::named("elm"));
    let (isobar, terminal) = shown(&[&oak, &elm]);
    terminal.press("\r");
    terminal.wait_text("2 of 2 usable");
    elm.stop();
    isobar.wait_state("web", "elm", "down");
    let known = Instant::now();
    // Trouble comes first, where the selection is.
    terminal.wait_line("▸ elm ", "✕ down");
    let took = known.elapsed();
    assert!(took < scaled(Duration::from_secs(2)), "{took:?}");
    terminal.wait_text(" web/elm at ");
    terminal.wait_text("onnection refused");
    terminal.press("5");
    terminal.wait_text("✕ web/elm is down: ");
    elm.listen();
    terminal.wait_text("● web/elm is up: ");
    leave(terminal);
}

/// 1. The balancer ends: since when is said, the terminal stays.
/// 2. Another one starts at the same address, with another backend: the view goes on.
#[test]
fn the_view_goes_on_after_a_restart_of_the_balancer() {
    let (oak, elm) = (Backend::named("oak"), Backend::named("elm"));
    let admin = own_address();
    let text = |entries: &[String]| {
        let text = web(QUICK, entries);
        format!("[admin]\nbind = \"{admin}\"\n{text}")
    };
    let mut first = Isobar::start(&text(&[oak.entry()]));
    let terminal = Terminal::start(&top(&first), 80, 24);
    terminal.wait_text("● live");
    terminal.wait_text("/1");
    assert!(first.stop().success());
    terminal.wait_text("✕ no answer since ");
    terminal.wait_text("✕ Trying again: no balancer answers at ");
    let second = Isobar::start(&text(&[oak.entry(), elm.entry()]));
    terminal.wait_text("● live");
    terminal.wait_text("usable 2/2");
    // Events come from the new process too.
    terminal.press("5");
    elm.stop();
    second.wait_state("web", "elm", "down");
    terminal.wait_text("✕ web/elm is down: ");
    leave(terminal);
}

#[test]
fn the_view_goes_on_after_an_upgrade_of_the_balancer() {
    let oak = Backend::named("oak");
    let (isobar, terminal) = shown(&[&oak]);
    isobar.upgrade();
    terminal.press("2");
    isobar.set("web/oak", r#"{"state": "drain"}"#);
    terminal.wait_text("◐ draining");
    terminal.wait_text("● live");
    leave(terminal);
}

#[test]
fn another_size_of_the_terminal_is_filled_at_once() {
    let oak = Backend::named("oak");
    let (_isobar, terminal) = shown(&[&oak]);
    terminal.press("2");
    terminal.wait_text("▸ web/oak");
    terminal.wait_gone("ADDRESS");
    terminal.resize(160, 50);
    terminal.wait_lines("a larger screen", |lines| {
        lines[3] == "─".repeat(160)
            && lines[5].starts_with("  BACKEND  ADDRESS ")
            && lines[5].contains(" NEW, 15 MIN")
            && lines[49].starts_with(" q quit")
    });
    terminal.resize(40, 10);
    terminal.wait_lines("a smaller screen", |lines| lines[9].starts_with(" q quit"));
    terminal.wait_text("▸ web/oak");
    leave(terminal);
}

#[test]
fn live_connections_are_found_by_who_and_where() {
    let (oak, elm) = (Backend::named("oak"), Backend::named("elm"));
    let (isobar, terminal) = shown(&[&oak, &elm]);
    let (client, name) = isobar.stay("web");
    let (other, _) = isobar.stay("web");
    let address = client.local().expect("an address").to_string();
    terminal.press("4");
    terminal.wait_text("Connections · 2 match");
    terminal.press("/");
    terminal.press(name.trim());
    terminal.wait_text("Connections · 1 match");
    terminal.wait_line(
        &format!("▸ {address} "),
        &format!("{:<8} relaying", name.trim()),
    );
    terminal.press("\r/\u{15}backend=nobody");
    terminal.wait_text("No connection matches.");
    terminal.press("\u{15}nonsense");
    terminal.wait_text("nonsense is no pool, backend, listener, state or address");
    for client in [client, other] {
        client.fin();
        client.expect_fin();
    }
    terminal.press("\u{1b}");
    leave(terminal);
}

/// 1. `D` asks, anything but `y` does nothing.
/// 2. After `y` the backend is drained, and the screen says so.
#[test]
fn a_backend_is_drained_after_a_yes_and_not_before() {
    let (oak, elm) = (Backend::named("oak"), Backend::named("elm"));
    let (isobar, terminal) = shown(&[&oak, &elm]);
    terminal.press("\rD");
    terminal.wait_text("web/oak: Drain it?");
    terminal.press("n");
    terminal.wait_text(" q quit");
    assert_eq!(isobar.stat("/pools/web/backends/oak/admin"), "ready");
    terminal.press("D");
    terminal.wait_text("web/oak: Drain it?");
    terminal.press("y");
    terminal.wait_text("web/oak is draining, 0 are open");
    terminal.wait_text("◐ draining");
    assert_eq!(isobar.stat("/pools/web/backends/oak/admin"), "drain");
    leave(terminal);
}

#[test]
fn the_terminal_is_given_back_whoever_ends_it() {
    let oak = Backend::named("oak");
    let (isobar, terminal) = shown(&[&oak]);
    leave(terminal);
    for end in [
        &(|terminal: &Terminal| terminal.press("\u{3}")) as &dyn Fn(&Terminal),
        &|terminal| terminal.press("/\u{3}"),
        &|terminal| terminal.signal(Signal::TERM),
        &|terminal| terminal.signal(Signal::INT),
        &|terminal| terminal.signal(Signal::HUP),
    ] {
        let mut terminal = Terminal::start(&top(&isobar), 80, 24);
        terminal.wait_text("● live");
        end(&terminal);
        assert_eq!(terminal.wait_exit().code(), Some(0));
        terminal.assert_given_back();
    }
}

/// Somebody else had the terminal meanwhile, such as a shell after `kill -STOP`.
#[test]
fn the_screen_is_taken_again_when_it_goes_on() {
    let oak = Backend::named("oak");
    let (_isobar, terminal) = shown(&[&oak]);
    terminal.signal(Signal::STOP);
    terminal.signal(Signal::CONT);
    terminal.press("2");
    terminal.wait_text("▸ web/oak");
    assert!(terminal.is_taken());
    leave(terminal);
}

#[test]
fn without_colours_the_same_is_said() {
    let oak = Backend::named("oak");
    let isobar = Isobar::start(&web(QUICK, &[oak.entry()]));
    isobar.wait_state("web", "oak", "up");
    let mut command = top(&isobar);
    command.env("NO_COLOR", "1");
    let terminal = Terminal::start(&command, 80, 24);
    terminal.wait_text("● 1/1");
    assert!(!terminal.is_coloured());
    leave(terminal);
    let terminal = Terminal::start(&top(&isobar), 80, 24);
    terminal.wait_text("● 1/1");
    assert!(terminal.is_coloured());
    leave(terminal);
}

#[test]
fn what_is_no_terminal_is_exit_code_2_with_what_to_use_instead() {
    let mut command = top_at("127.0.0.1:1");
    let output = command.output().expect("isobar runs");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(
        stderr.starts_with("error: standard output is no terminal"),
        "{stderr}"
    );
    assert!(stderr.contains("`isobar status`"), "{stderr}");
}

/// The screen is not even taken: the message stays where it can be read.
#[test]
fn nobody_there_is_exit_code_3_as_for_every_command() {
    let mut terminal = Terminal::start(&top_at(&own_address().to_string()), 80, 24);
    assert_eq!(terminal.wait_exit().code(), Some(3));
    terminal.wait_text("error: no balancer answers at ");
    terminal.assert_given_back();
}

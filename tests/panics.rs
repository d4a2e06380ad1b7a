//! A connection's task that panics, and `isobar top`: needs a build with the feature `fault-injection`.
#![cfg(feature = "fault-injection")]

mod support;

use std::process::Command;

use support::{Backend, End, Family, Isobar, Launch, Terminal, web};

/// 1. Every connection of listener `faulty` panics at a stage; listener `web` shares its pool.
/// 2. A connection of `web` lives through all of it.
/// 3. The client of the one that panics is reset, it is counted as `internal`, and (the
///    harness checks) every slot, gauge and descriptor is given back.
#[test]
fn a_task_that_panics_ends_its_own_connection_and_gives_everything_back() {
    for stage in ["connect", "relay"] {
        let backend = Backend::echo(Family::Ipv4);
        let text = format!(
            "[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\
             [listener.faulty]\nbind = \"127.0.0.1:0\"\npool = \"web\"\nmax_connections = 2\n\
             [pool.web]\nbackends = [{}]\n[pool.web.health]\nkind = \"none\"\n",
            backend.entry()
        );
        let mut isobar = Launch::new(&text)
            .env("ISOBAR_PANIC_AT", &format!("{stage}@faulty"))
            .start();
        let witness = isobar.connect("web");
        witness.write("before");
        witness.expect("before");
        for n in 1..=5 {
            let client = isobar.connect("faulty");
            assert_eq!(client.read_to_end(), (Vec::new(), End::Reset), "{stage}");
            isobar.wait_ended("faulty", "internal", n);
        }
        witness.write("after");
        witness.expect("after");
        witness.fin();
        assert_eq!(witness.read_to_end(), (Vec::new(), End::Fin));
        isobar.expect_panics(5);
        assert_eq!(isobar.ended("web", "internal"), 0);
    }
}

/// The terminal is as it was, and what went wrong is told there.
#[test]
fn a_panic_of_top_gives_the_terminal_back_and_is_told() {
    let isobar = Isobar::start(&web("", &[]));
    let mut command = Command::new(env!("CARGO_BIN_EXE_isobar"));
    command.args(["top", "--admin", &isobar.admin().to_string()]);
    command.env("ISOBAR_PANIC_AT", "draw@top");
    // A screen has no room for one.
    command.env("RUST_BACKTRACE", "0");
    let mut terminal = Terminal::start(&command, 80, 24);
    assert_eq!(terminal.wait_exit().code(), Some(101));
    terminal.wait_text("injected fault at draw@top");
    terminal.assert_given_back();
}

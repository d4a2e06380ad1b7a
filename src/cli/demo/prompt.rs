//! Orders from standard input, one a line.

use std::io::{self, IsTerminal, Stdin};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;
use tokio::sync::mpsc::UnboundedSender;

use super::backend::Identity;
use crate::terminal::replaced;

/// How often a process in the background looks whether it is in the foreground again.
const BACKGROUND_PAUSE: Duration = Duration::from_millis(500);
/// No order is longer.
const MAX_LINE: usize = 4096;

/// What can be typed.
pub(super) const ORDERS: &str = "  stop oak    closes its port and resets its connections
  start oak   brings it back
  (nothing)   shows who answered how often
  help        shows these lines
  quit        ends the demo, as Ctrl-C does
";
/// Characters of what is no order that are repeated.
const SHOWN: usize = 40;

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Stop(String),
    Start(String),
    Show,
    Help,
    Quit,
    Unknown(String),
}

impl Order {
    fn parse(line: &str) -> Self {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [] => Self::Show,
            ["help" | "?"] => Self::Help,
            ["stop", name] => Self::Stop(name.to_owned()),
            ["start", name] => Self::Start(name.to_owned()),
            ["quit" | "exit" | "q"] => Self::Quit,
            _ => Self::Unknown(line.trim().to_owned()),
        }
    }
}

/// The answer to what is no order.
pub(super) fn explain(text: &str) -> String {
    let names = Identity::all().map(|identity| identity.name).join("|");
    let cut = match text.chars().nth(SHOWN) {
        Some(_) => "…",
        None => "",
    };
    let text: String = text.chars().take(SHOWN).collect();
    format!(
        "{:?}{cut} is no order; stop {names}, start {names}, help, or quit\n",
        replaced(&text)
    )
}

/// Reads to the end of standard input.
pub(super) fn read(orders: &UnboundedSender<Order>) {
    let stdin = io::stdin();
    let mut pending = Vec::new();
    let mut chunk = [0; 512];
    while let Ok(1..) = wait(&stdin)
        && let Ok(count @ 1..) = rustix::io::read(&stdin, &mut chunk)
    {
        pending.extend_from_slice(&chunk[..count]);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<_> = pending.drain(..=end).collect();
            let order = Order::parse(&String::from_utf8_lossy(&line));
            if orders.send(order).is_err() {
                return;
            }
        }
        pending.truncate(MAX_LINE);
    }
}

/// Waits until there is something to read, or the end.
///
/// A process in the background that reads from its terminal is stopped, see SIGTTIN in
/// signal(7): the balancer would stop with it.
fn wait(stdin: &Stdin) -> rustix::io::Result<usize> {
    loop {
        let ready = rustix::event::poll(&mut [PollFd::new(stdin, PollFlags::IN)], None);
        match ready {
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) if is_background(stdin) => std::thread::sleep(BACKGROUND_PAUSE),
            done => return done,
        }
    }
}

fn is_background(stdin: &Stdin) -> bool {
    stdin.is_terminal() && tcgetpgrp(stdin).is_ok_and(|foreground| foreground != getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_order_or_is_explained() {
        for (line, order) in [
            ("stop oak\n", Order::Stop("oak".into())),
            ("  start  pine\r\n", Order::Start("pine".into())),
            ("\n", Order::Show),
            ("quit\n", Order::Quit),
            ("help\n", Order::Help),
            ("stop\n", Order::Unknown("stop".into())),
        ] {
            assert_eq!(Order::parse(line), order);
        }
        assert!(explain("stop").contains("stop oak|pine|birch"));
        assert!(explain(&"x".repeat(4000)).len() < 200);
    }
}

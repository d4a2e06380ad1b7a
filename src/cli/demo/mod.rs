//! `isobar demo`: a whole balancer to play with, in one process.
//!
//! Three embedded backends on free ports, a balancer of its own configuration in front of
//! them, and a prompt that takes backends away and gives them back. The balancer is the real
//! one: only its backends and its configuration are not the user's.

mod answer;
mod backend;
mod page;
mod prompt;

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::output::print;
use super::{Failure, Outcome};
use crate::admin::Running;
use crate::config;
use crate::log;
use crate::net::Inherited;
use crate::server::{Server, addresses};
use backend::{Backend, Identity};
use prompt::{ORDERS, Order};

/// The last lines of the log.
const LAST_LINES: Duration = Duration::from_millis(200);

/// What the demo shows.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Print the configuration that it runs with, too
    #[arg(long)]
    print_config: bool,
}

/// Runs until a signal, or `quit`.
pub(super) fn demo(args: &DemoArgs) -> Outcome {
    let no_port = |error| Failure::failed(format_args!("cannot listen on 127.0.0.1: {error}"));
    let backends = Identity::all().map(Backend::bind);
    let backends: io::Result<Vec<_>> = backends.into_iter().collect();
    let backends = backends.map_err(no_port)?;
    let text = configuration(backends.iter().map(|(backend, _)| backend));
    let loaded = config::parse(&text, "demo", &|_| None).map_err(Failure::problems)?;
    let log = log::init(&loaded.config.log).map_err(|error| Failure::error(&error))?;
    log::install_panic_hook();
    let server = Server::start(loaded, "demo".into(), log.clone(), Inherited::none())
        .map_err(|error| Failure::error(&error))?;
    if args.print_config {
        print(&text)?;
    }
    print(introduction(server.running()))?;
    let stop = CancellationToken::new();
    play(backends, stop.clone()).map_err(|error| Failure::error(&error))?;
    server.run(stop);
    log.flush(LAST_LINES);
    Ok(())
}

fn configuration<'b>(backends: impl Iterator<Item = &'b Backend>) -> String {
    let entry = |backend: &Backend| {
        let (name, address) = (backend.name(), backend.address());
        format!("  {{ name = \"{name}\", address = \"{address}\" }},\n")
    };
    let backends: String = backends.map(entry).collect();
    format!(
        r#"[runtime]
threads = {threads}
drain_timeout = "1s"

[admin]
bind = "127.0.0.1:0"

[log]
access = false

[listener.demo]
bind = "127.0.0.1:0"
pool = "demo"

[pool.demo]
balance = "round-robin"
backends = [
{backends}]

[pool.demo.health]
kind = "http"
path = "{health}"
interval = "1s"
fast_interval = "100ms"
timeout = "500ms"
rise = 1
fall = 1

"#,
        threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2)),
        health = answer::HEALTH_PATH,
    )
}

/// The address to try comes first, whoever reads it: a person or a script.
fn introduction(running: &Running) -> String {
    let names = Identity::all().map(|identity| identity.name).join(", ");
    let tried = addresses(running)
        .into_iter()
        .map(|(_, address)| format!("http://{address}/"));
    let tried: String = tried.take(1).collect();
    let admin = running
        .configured()
        .admin_address
        .as_ref()
        .map(ToString::to_string);
    let admin = admin.unwrap_or_default();
    format!(
        "isobar balances over three backends in this process: {names}.

  try:        curl {tried}
  dashboard:  http://{admin}/
  status:     isobar status --admin http://{admin}

Each connection goes to the next backend; a browser and nc get an answer too.
Take a backend away and see the traffic move. Type, then press Enter:

{ORDERS}
Stop all three, and clients wait until one is back.

"
    )
}

/// Starts the threads of the backends and of the prompt.
fn play(backends: Vec<(Backend, TcpListener)>, stop: CancellationToken) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (orders, obeyed) = unbounded_channel();
    std::thread::Builder::new()
        .name("backends".into())
        .spawn(move || runtime.block_on(obey(backends, obeyed, stop)))?;
    std::thread::Builder::new()
        .name("prompt".into())
        .spawn(move || prompt::read(&orders))?;
    Ok(())
}

async fn obey(
    bound: Vec<(Backend, TcpListener)>,
    mut orders: UnboundedReceiver<Order>,
    stop: CancellationToken,
) {
    let mut backends = Vec::new();
    for (mut backend, listener) in bound {
        let started = backend.serve(listener);
        tell(started.map(|()| String::new()), backend.name());
        backends.push(backend);
    }
    while let Some(order) = orders.recv().await {
        match order {
            Order::Quit => stop.cancel(),
            Order::Help => say(ORDERS),
            Order::Show => say(&format!("{}\n", counts(&backends))),
            Order::Unknown(text) => say(&prompt::explain(&text)),
            Order::Stop(name) => {
                let backend = backends.iter_mut().find(|backend| backend.name() == name);
                match backend {
                    Some(backend) => say(&backend.stop().await),
                    None => say(&prompt::explain(&name)),
                }
            }
            Order::Start(name) => {
                let backend = backends.iter_mut().find(|backend| backend.name() == name);
                match backend {
                    Some(backend) => tell(backend.start().await, &name),
                    None => say(&prompt::explain(&name)),
                }
            }
        }
    }
    // Standard input is at its end; the backends go on.
    std::future::pending().await
}

fn counts(backends: &[Backend]) -> String {
    let counts: Vec<_> = backends.iter().map(ToString::to_string).collect();
    counts.join(", ")
}

fn tell(outcome: io::Result<String>, name: &str) {
    match outcome {
        Ok(text) => say(&text),
        Err(error) => say(&format!("{name} cannot start: {error}\n")),
    }
}

/// Whoever stopped reading does not stop the demo.
fn say(text: &str) {
    let _ = print(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_the_demo_is_without_fault_or_warning() {
        let backends = Identity::all().map(|identity| Backend::bind(identity).expect("a port"));
        let text = configuration(backends.iter().map(|(backend, _)| backend));
        let loaded = config::parse(&text, "demo", &|_| None).expect("a configuration");
        assert_eq!(loaded.warnings, []);
        assert_eq!(loaded.config.pools[0].backends.len(), 3);
    }
}

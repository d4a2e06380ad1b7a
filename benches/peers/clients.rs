//! The clients of one cell: a load generator in a process of its own, and the orders it gets.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use crate::load::Sample;
use crate::process::{Running, role};
use crate::run::Plan;
use crate::workload::Workload;

/// How long a stage of the load generator may last beyond what it was asked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A load generator that has warmed up.
pub(crate) struct Clients {
    lines: Receiver<String>,
    orders: ChildStdin,
    patience: Duration,
    _running: Running,
}

impl Clients {
    /// Starts it, and waits until it has warmed up.
    pub(crate) fn start(
        plan: &Plan,
        workload: Workload,
        targets: &[SocketAddr],
    ) -> io::Result<Self> {
        let targets: Vec<String> = targets.iter().map(SocketAddr::to_string).collect();
        let mut child = role("load")?
            .args(["--workload", workload.name()])
            .args(["--targets", &targets.join(",")])
            .args(["--warm-ms", &plan.warm_ms.to_string()])
            .args(["--measure-ms", &plan.measure_ms.to_string()])
            .args(["--idle", &plan.idle.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let clients = Self {
            lines: lines(child.stdout.take().expect("its output is piped")),
            orders: child.stdin.take().expect("its input is piped"),
            patience: PATIENCE + Duration::from_millis(plan.warm_ms.max(plan.measure_ms)),
            _running: Running(child),
        };
        clients.line()?;
        Ok(clients)
    }

    /// Runs the workload; its connections stay open until this is dropped.
    pub(crate) fn measure(&mut self) -> io::Result<Sample> {
        writeln!(self.orders, "go")?;
        serde_json::from_str(&self.line()?).map_err(io::Error::other)
    }

    fn line(&self) -> io::Result<String> {
        let line = self.lines.recv_timeout(self.patience);
        line.map_err(|_| io::Error::other("the clients failed or got stuck"))
    }
}

/// The lines of a pipe, read by a thread so that waiting for one can time out.
fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.for_each(|line| {
            // Nobody listens any more after a time-out, and then the pipe is closed as well.
            let _ = sender.send(line);
        });
    });
    receiver
}

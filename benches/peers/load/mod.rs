//! The `load` role: one thread that plays the clients of one workload.
//!
//! It talks to the process that measures in lines: it warms up and prints `ready`; at a line
//! on standard input it runs the workload for the time given and prints a [`Sample`] as JSON;
//! at the next line, or the end of input, it closes its connections. Costs are read while
//! nothing moves, so that connecting, warming up and closing are not counted (except by the
//! workload that is about them).

mod bulk;
mod dial;
mod echo;
mod paced;
pub(crate) mod record;

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::workload::{Traffic, Workload};
use crate::{process, tasks};
use dial::Dialer;
pub(crate) use record::{Latency, Sample};

/// Connections opened and closed before idle ones are counted, so that what a proxy allocates
/// once is not charged to them.
const IDLE_WARM_UP: usize = 64;

/// What to do, against whom, for how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LoadArgs {
    /// The traffic
    #[arg(long)]
    pub workload: Workload,
    /// Where to connect, in turn
    #[arg(long, value_delimiter = ',')]
    pub targets: Vec<SocketAddr>,
    /// Time before the measurement
    #[arg(long)]
    pub warm_ms: u64,
    /// Time of the measurement
    #[arg(long)]
    pub measure_ms: u64,
    /// Connections of the idle workload
    #[arg(long)]
    pub idle: usize,
}

/// Plays the workload once.
///
/// # Errors
/// Any connection that fails: a proxy that drops one is not measured.
pub(crate) fn run(args: &LoadArgs) -> io::Result<()> {
    process::die_with_parent()?;
    tasks::single_threaded()?.block_on(play(args))
}

async fn play(args: &LoadArgs) -> io::Result<()> {
    let dialer = Arc::new(Dialer::new(args.targets.clone()));
    match args.workload.traffic() {
        Traffic::Short { at_once, bytes } => {
            stages(args, async |time| {
                echo::short(&dialer, at_once, bytes, time).await
            })
            .await
        }
        Traffic::PingPong { connections, bytes } => {
            let streams = dialer.dial_many(connections).await?;
            stages(args, async |time| {
                echo::ping_pong(&streams, bytes, time).await
            })
            .await
        }
        Traffic::Paced {
            connections,
            bytes,
            per_sec,
        } => {
            let streams = dialer.dial_many(connections).await?;
            stages(args, async |time| {
                paced::paced(&streams, bytes, per_sec, time).await
            })
            .await
        }
        Traffic::Bulk {
            connections,
            direction,
        } => {
            stages(args, async |time| {
                bulk::bulk(&dialer, connections, direction, time).await
            })
            .await
        }
        Traffic::Idle => idle(&dialer, args.idle).await,
    }
}

/// Warm-up, then the measurement, each when the measuring process is ready for it.
async fn stages(
    args: &LoadArgs,
    pass: impl AsyncFn(Duration) -> io::Result<Sample>,
) -> io::Result<()> {
    pass(Duration::from_millis(args.warm_ms)).await?;
    say("ready")?;
    wait()?;
    let sample = pass(Duration::from_millis(args.measure_ms)).await?;
    report(&sample)?;
    wait()
}

async fn idle(dialer: &Dialer, count: usize) -> io::Result<()> {
    drop(echo::open(dialer, IDLE_WARM_UP).await?);
    say("ready")?;
    wait()?;
    let (_open, sample) = echo::open(dialer, count).await?;
    report(&sample)?;
    wait()
}

fn report(sample: &Sample) -> io::Result<()> {
    say(&serde_json::to_string(sample)?)
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Blocks on purpose: between two stages nothing may move.
fn wait() -> io::Result<()> {
    io::stdin().lock().read_line(&mut String::new()).map(drop)
}

//! The command line: one file for each command.
//!
//! Exit codes: 0 done; 1 failed while running; 2 the command line or the configuration is
//! missing or invalid; 3 no balancer answers. Standard output carries what was asked for,
//! everything else goes to standard error.

mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// A layer-4 (TCP) load balancer.
#[derive(Debug, Parser)]
#[command(name = "isobar", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the balancer in the foreground until it is told to stop.
    Run(ConfigArgs),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file [default: $ISOBAR_CONFIG, ./lb.toml, /etc/isobar/lb.toml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Failed while running.
const FAILED: u8 = 1;
/// The command line or the configuration is missing or invalid.
const INVALID: u8 = 2;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Run(args) => run::run(&args),
    }
}

/// Writes a line for people to standard error; a reader that is gone is no reason to panic.
fn say(what: &dyn std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{what}");
}

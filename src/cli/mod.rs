//! The command line: one file for each command.
//!
//! Exit codes: 0 done; 1 failed while running; 2 the command line or the configuration is
//! missing or invalid; 3 no balancer answers; 10 (`plan`) something would change. Standard output carries what was asked for,
//! everything else goes to standard error.

mod backend;
mod check;
mod client;
mod completions;
mod connections;
mod demo;
mod endpoint;
mod explain;
mod names;
mod output;
mod pause;
mod plan;
mod rebalance;
mod reload;
mod run;
mod simulate;
mod stats;
mod status;
mod table;
mod top;
mod upgrade;
mod words;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Loaded};
use crate::terminal;

/// A layer-4 (TCP) load balancer.
#[derive(Debug, Parser)]
#[command(name = "isobar", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the balancer in the foreground until it is told to stop
    Run(ConfigArgs),
    /// Validate the configuration, print every problem, start nothing
    Check(ConfigArgs),
    /// Balance over three embedded backends: needs no file and no other program
    Demo(demo::DemoArgs),
    /// Show listeners, pools and backends of the running balancer
    Status(status::StatusArgs),
    /// Show the running balancer live, full screen: pools, backends, connections, events
    Top(top::TopArgs),
    /// Show what a reload would change in the running balancer: 0 nothing, 10 something
    Plan(plan::PlanArgs),
    /// Have the running balancer read its file again
    Reload(reload::ReloadArgs),
    /// Tell which backend a client would get now, and why, step by step
    Explain(explain::ExplainArgs),
    /// Have a backend take connections again
    Ready(backend::ReadyArgs),
    /// Have a backend take no new connections; live ones go on, and so do its checks
    Drain(backend::LeaveArgs),
    /// The same without checks, for a backend that is going to be away
    Maintenance(backend::LeaveArgs),
    /// Change a backend's share of the connections
    Weight(backend::WeightArgs),
    /// Add a backend to a running pool
    Add(backend::AddArgs),
    /// Remove a backend from a running pool; live connections go on
    Remove(backend::ReadyArgs),
    /// Hold the new connections of a pool; live ones go on
    Pause(pause::PauseArgs),
    /// Let the connections of a paused pool in again, paced
    Resume(pause::ResumeArgs),
    /// Even a pool: close, at quiet moments, the connections whose redial does it
    Rebalance(rebalance::RebalanceArgs),
    /// List live connections
    Connections(connections::ConnectionsArgs),
    /// Reset live connections, on both sides
    Kill(connections::KillArgs),
    /// Replace the running balancer by the program now on disk; connections move to it
    Upgrade(upgrade::UpgradeArgs),
    /// Replay an access log through a file in virtual time: shares, peaks, who is held
    Simulate(simulate::SimulateArgs),
    /// Print a completion script
    Completions(completions::CompletionsArgs),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file [default: $ISOBAR_CONFIG, ./lb.toml, /etc/isobar/lb.toml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Finds the file.
    fn find(&self) -> Result<PathBuf, Failure> {
        config::find(self.config.as_deref()).map_err(Failure::invalid)
    }

    /// Finds and reads the file.
    fn load(&self) -> Result<(PathBuf, Loaded), Failure> {
        let path = self.find()?;
        let loaded = config::load(&path).map_err(Failure::problems)?;
        Ok((path, loaded))
    }
}

/// Why a command ends without having done what it was asked for.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Failed while running.
    fn failed(why: impl std::fmt::Display) -> Self {
        Self {
            code: 1,
            message: one_line(why),
        }
    }

    /// The same for an error, with all that is behind it.
    fn error(error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        for cause in std::iter::successors(error.source(), |error| error.source()) {
            let cause = cause.to_string();
            // Some errors tell their source themselves.
            if !message.contains(&cause) {
                message = format!("{message}: {cause}");
            }
        }
        Self::failed(message)
    }

    /// The command line or the configuration is missing or invalid.
    fn invalid(why: impl std::fmt::Display) -> Self {
        Self {
            code: 2,
            message: one_line(why),
        }
    }

    /// The same for problems that name their place themselves.
    fn problems(problems: impl std::fmt::Display) -> Self {
        Self {
            code: 2,
            message: problems.to_string(),
        }
    }

    /// `plan`: something would change.
    fn changes() -> Self {
        Self {
            code: 10,
            message: String::new(),
        }
    }

    /// No balancer answers.
    fn unanswered(why: impl std::fmt::Display) -> Self {
        Self {
            code: 3,
            message: one_line(why),
        }
    }
}

/// A name of a file or an answer from elsewhere begins no line of its own.
fn one_line(why: impl std::fmt::Display) -> String {
    terminal::escaped(&format!("error: {why}"))
}

type Outcome = Result<(), Failure>;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(usage) => return say_usage(&usage),
    };
    let outcome = match command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Status(args) => status::status(&args),
        Command::Top(args) => top::top(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Reload(args) => reload::reload(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Ready(args) => backend::ready(&args),
        Command::Drain(args) => backend::drain(&args),
        Command::Maintenance(args) => backend::maintenance(&args),
        Command::Weight(args) => backend::weight(&args),
        Command::Add(args) => backend::add(&args),
        Command::Remove(args) => backend::remove(&args),
        Command::Pause(args) => pause::pause(&args),
        Command::Resume(args) => pause::resume(&args),
        Command::Rebalance(args) => rebalance::rebalance(&args),
        Command::Connections(args) => connections::connections(&args),
        Command::Kill(args) => connections::kill(&args),
        Command::Upgrade(args) => upgrade::upgrade(&args),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::Completions(args) => completions::completions(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                output::say(&failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Help, the version, or what is wrong with the command line. A full disk behind standard
/// output is a failure, as it is for every other command.
fn say_usage(usage: &clap::Error) -> ExitCode {
    let said = usage.print().and_then(|()| std::io::stdout().flush());
    match said {
        Err(error) if !usage.use_stderr() && error.kind() != ErrorKind::BrokenPipe => {
            output::say(format_args!(
                "error: cannot write to standard output: {error}"
            ));
            ExitCode::FAILURE
        }
        _ if usage.use_stderr() => ExitCode::from(2),
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_makes_sense_to_its_parser() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_told_with_its_causes_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open {0}")]
        struct Open(&'static str, #[source] std::io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("log: {0}")]
        struct Log(#[source] Open);
        let error = Log(Open("a.log", std::io::ErrorKind::NotFound.into()));
        let failure = Failure::error(&error);
        assert_eq!(
            failure.message,
            "error: log: cannot open a.log: entity not found"
        );
    }

    #[test]
    fn every_command_and_flag_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(
                    arg.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    arg.get_id()
                );
            }
        }
    }
}

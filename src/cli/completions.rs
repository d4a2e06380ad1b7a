//! `isobar completions`: a script that completes commands and flags in a shell.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::output::print;
use super::{Cli, Outcome};

/// Which shell.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Shell that the script is for
    shell: Shell,
}

/// Prints the script: `source <(isobar completions bash)`.
pub(super) fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "isobar", &mut script);
    print(script)
}

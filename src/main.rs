//! The `isobar` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    isobar::cli::main()
}

//! `isobar run`: the balancer in the foreground.

use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ConfigArgs, FAILED, INVALID, say};
use crate::config::{self, Loaded};
use crate::log;
use crate::server::{Server, StartError};

/// How long the last lines may take to be written.
const LAST_LINES: Duration = Duration::from_millis(200);

/// Runs until told to stop.
pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let loaded = match load(args) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let log = match log::init(&loaded.config.log) {
        Ok(log) => log,
        Err(error) => return fail(&error),
    };
    log::install_panic_hook();
    for warning in &loaded.warnings {
        say(&warning);
    }
    let done = serve(loaded, log.clone());
    log.flush(LAST_LINES);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn serve(loaded: Loaded, log: log::Handle) -> Result<(), StartError> {
    Server::start(loaded, log)?.run(CancellationToken::new())
}

/// Finds and reads the configuration; says what is wrong with it.
pub(super) fn load(args: &ConfigArgs) -> Result<Loaded, ExitCode> {
    let path = config::find(args.config.as_deref()).map_err(|missing| invalid(&missing))?;
    config::load(&path).map_err(|faults| invalid(&faults))
}

fn invalid(why: &dyn std::fmt::Display) -> ExitCode {
    say(why);
    ExitCode::from(INVALID)
}

fn fail(why: &dyn std::fmt::Display) -> ExitCode {
    say(&format_args!("error: {why}"));
    ExitCode::from(FAILED)
}

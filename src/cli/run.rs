//! `isobar run`: the balancer in the foreground.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ConfigArgs, Failure, Outcome};
use crate::config::{Faults, Loaded, Problem};
use crate::log;
use crate::net::Inherited;
use crate::server::{self, Server, StartError, UserError};

/// How long the last lines may take to be written: a stop with nothing connected takes less
/// than 200 ms in all, also where nobody reads standard error.
const LAST_LINES: Duration = Duration::from_millis(100);

/// Runs until told to stop. Nothing is written to standard output.
pub(super) fn run(args: &ConfigArgs) -> Outcome {
    // Before any file is opened that stays open.
    let inherited = Inherited::from_activation();
    let (path, loaded) = args.load()?;
    // Before the log starts the first thread and opens the first file.
    server::drop_to(&loaded.config.runtime.user).map_err(|why| cannot_become(&loaded, &why))?;
    let problems = server::faults_of_checks(&loaded);
    if !problems.is_empty() {
        let warnings = loaded.warnings;
        return Err(Failure::problems(Faults { problems, warnings }));
    }
    let log = log::init(&loaded.config.log).map_err(|error| Failure::error(&error))?;
    log::install_panic_hook();
    loaded.warnings.iter().for_each(Problem::log);
    let served = serve(loaded, path, log.clone(), inherited);
    log.flush(LAST_LINES);
    served.map_err(|error| Failure::error(&error))
}

/// Starts a balancer and serves until told to stop.
fn serve(
    loaded: Loaded,
    path: PathBuf,
    log: log::Handle,
    inherited: Inherited,
) -> Result<(), StartError> {
    Server::start(loaded, path, log, inherited)?.run(CancellationToken::new());
    Ok(())
}

fn cannot_become(loaded: &Loaded, why: &UserError) -> Failure {
    match why.is_unknown() {
        true => Failure::problems(server::unknown_user(loaded, why)),
        false => Failure::error(why),
    }
}

//! `isobar run`: the balancer in the foreground.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ConfigArgs, Failure, Outcome};
use crate::config::{Faults, Loaded, Problem};
use crate::log;
use crate::net::Inherited;
use crate::server::{self, Server, UserError};
use crate::upgrade::heir::Heir;
use crate::upgrade::program::Program;

/// How long the last lines may take to be written: a stop with nothing connected takes less
/// than 200 ms in all, also where nobody reads standard error.
const LAST_LINES: Duration = Duration::from_millis(100);
/// The exit code for a configuration that is missing or invalid.
const INVALID: u8 = 2;

/// Runs until told to stop, or replaced. Nothing is written to standard output.
pub(super) fn run(args: &ConfigArgs) -> Outcome {
    // Before any file is opened that stays open.
    let heir = Heir::of_this_process().map_err(|error| Failure::error(&error))?;
    let begun = begin(args, heir.is_none());
    match (begun, heir) {
        (Ok(begun), None) => begun.serve(),
        (Ok(begun), Some(heir)) => begun.succeed(heir),
        (Err(failure), None) => Err(failure),
        (Err(failure), Some(heir)) => {
            heir.fail(failure.message.clone(), failure.code == INVALID);
            Err(failure)
        }
    }
}

/// Reads the configuration, and begins to log.
fn begin(args: &ConfigArgs, activated: bool) -> Result<Begun, Failure> {
    let inherited = match activated {
        true => Inherited::from_activation(),
        false => Inherited::none(),
    };
    let program = Program::of_this_process().map_err(|error| Failure::error(&error))?;
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
    Ok(Begun {
        loaded,
        path,
        log,
        inherited,
        program,
    })
}

/// What a balancer is started with.
struct Begun {
    loaded: Loaded,
    path: PathBuf,
    log: log::Handle,
    inherited: Inherited,
    program: Program,
}

impl Begun {
    /// Serves until told to stop.
    fn serve(self) -> Outcome {
        let log = self.log.clone();
        let started = Server::start(self.loaded, self.path, self.log, self.inherited);
        let served = started.map(|server| {
            let server = server.replaceable_by(self.program);
            server.run(CancellationToken::new());
        });
        log.flush(LAST_LINES);
        served.map_err(|error| Failure::error(&error))
    }

    /// Takes the place of the process that `heir` hears from.
    fn succeed(self, mut heir: Heir) -> Outcome {
        let log = self.log.clone();
        let prepared = match heir.inherited() {
            Ok(inherited) => Server::prepare(self.loaded, self.path, self.log, inherited)
                .map_err(|error| Failure::error(&error)),
            Err(error) => Err(Failure::error(&error)),
        };
        let served = match prepared {
            Ok(server) => {
                let server = server.replaceable_by(self.program);
                let served = server.run_as_heir(heir);
                served.map_err(|error| Failure::error(&error))
            }
            Err(failure) => {
                heir.fail(failure.message.clone(), false);
                Err(failure)
            }
        };
        log.flush(LAST_LINES);
        served
    }
}

fn cannot_become(loaded: &Loaded, why: &UserError) -> Failure {
    match why.is_unknown() {
        true => Failure::problems(server::unknown_user(loaded, why)),
        false => Failure::error(why),
    }
}

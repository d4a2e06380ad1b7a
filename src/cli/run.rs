//! `isobar run`: the balancer in the foreground.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ConfigArgs, Failure, Outcome};
use crate::config::{self, Faults, Loaded, Problem};
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
        (Err(why), None) => Err(why.into()),
        (Err(NotBegun::Invalid(faults)), Some(heir)) => {
            heir.refuse(&faults);
            // The other process says it, in the same log, and without what stands in the file.
            Err(Failure {
                code: INVALID,
                message: String::new(),
            })
        }
        (Err(NotBegun::Failed(failure)), Some(heir)) => {
            heir.fail(failure.message.clone(), failure.code == INVALID);
            Err(failure)
        }
    }
}

/// Why there is no balancer to be started.
enum NotBegun {
    /// The configuration is invalid.
    Invalid(Faults),
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for NotBegun {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<NotBegun> for Failure {
    fn from(why: NotBegun) -> Self {
        match why {
            NotBegun::Invalid(faults) => Self::problems(faults),
            NotBegun::Failed(failure) => failure,
        }
    }
}

/// Reads the configuration, and begins to log.
fn begin(args: &ConfigArgs, activated: bool) -> Result<Begun, NotBegun> {
    let inherited = match activated {
        true => Inherited::from_activation(),
        false => Inherited::none(),
    };
    let program = Program::of_this_process().map_err(|error| Failure::error(&error))?;
    let path = args.find()?;
    let loaded = config::load(&path).map_err(NotBegun::Invalid)?;
    // Before the log starts the first thread and opens the first file.
    server::drop_to(&loaded.config.runtime.user).map_err(|why| cannot_become(&loaded, &why))?;
    let problems = server::faults_of_checks(&loaded);
    if !problems.is_empty() {
        let warnings = loaded.warnings;
        return Err(NotBegun::Invalid(Faults { problems, warnings }));
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

fn cannot_become(loaded: &Loaded, why: &UserError) -> NotBegun {
    match why.is_unknown() {
        true => NotBegun::Invalid(Faults {
            problems: vec![server::unknown_user(loaded, why)],
            warnings: Vec::new(),
        }),
        false => NotBegun::Failed(Failure::error(why)),
    }
}

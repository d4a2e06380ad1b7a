//! `isobar check`: what is wrong with a configuration, before anybody runs it.
//!
//! Beyond the file itself it looks at what the file needs of this machine: the files that
//! checks name, the user, the limits. It binds nothing and resolves nothing.

use std::sync::Arc;

use super::output::{print, say};
use super::{ConfigArgs, Failure, Outcome};
use crate::check::{Check, SetupError};
use crate::config::{AccessSink, Config, Faults, KeyPath, Loaded, Pool, Problem};
use crate::server::{self, UserError};
use crate::terminal;

/// Prints every fault and warning on standard error, or that there is no fault on standard
/// output.
pub(super) fn check(args: &ConfigArgs) -> Outcome {
    let (path, mut loaded) = args.load()?;
    let limits = server::limit_warnings(&loaded);
    let problems = faults(&loaded);
    loaded.warnings.extend(limits);
    loaded.warnings.sort_by_key(place);
    if !problems.is_empty() {
        let warnings = loaded.warnings;
        return Err(Failure::problems(Faults { problems, warnings }));
    }
    loaded.warnings.iter().for_each(say);
    print(format!(
        "{}: ok, {}\n",
        terminal::escaped(&path.display().to_string()),
        summary(&loaded.config)
    ))
}

fn faults(loaded: &Loaded) -> Vec<Problem> {
    let user = match loaded.config.runtime.user.as_str() {
        "" => None,
        user => server::look_up(user).err(),
    };
    let user = user.map(|why| unknown_user(loaded, &why));
    let others = access_file(loaded).into_iter().chain(user);
    let mut faults: Vec<_> = others.chain(faults_of_checks(loaded)).collect();
    faults.sort_by_key(place);
    faults
}

fn place(problem: &Problem) -> (usize, usize) {
    (problem.line, problem.column)
}

/// The fault of an access file that nobody could open, whatever its rights: it is not opened,
/// which would make it, and who will run the balancer is not known here.
fn access_file(loaded: &Loaded) -> Option<Problem> {
    let AccessSink::File(path) = &loaded.config.log.access_sink else {
        return None;
    };
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let why = if path.is_dir() {
        "is a directory"
    } else if directory.is_some_and(|directory| !directory.is_dir()) {
        "is in a directory that does not exist"
    } else {
        return None;
    };
    let path = path.to_string_lossy();
    let shown = loaded.shown(KeyPath::AccessFile, &path);
    let message = format!("the access file {shown} {why}");
    Some(loaded.fault(KeyPath::AccessFile, message))
}

/// The fault of a user that this machine does not have.
pub(super) fn unknown_user(loaded: &Loaded, why: &UserError) -> Problem {
    let user = &loaded.config.runtime.user;
    let shown = loaded.shown(KeyPath::User, user);
    let message = match why {
        UserError::Unknown(_) => format!("there is no user {shown:?} on this machine"),
        _ => why.to_string(),
    };
    loaded.fault(KeyPath::User, message)
}

/// Checks that cannot be made, such as for a `health.ca` file that is not there.
pub(super) fn faults_of_checks(loaded: &Loaded) -> Vec<Problem> {
    let fault = |pool: &Arc<Pool>| {
        let error = Check::new(&pool.health).err()?;
        let key = KeyPath::Ca(&pool.name);
        let message = match &error {
            SetupError::Ca { path, reason } => {
                let path = path.to_string_lossy();
                format!("{}: {reason}", loaded.shown(key, &path))
            }
            other => format!("pool {}: {other}", pool.name),
        };
        Some(loaded.fault(key, message))
    };
    loaded.config.pools.iter().filter_map(fault).collect()
}

/// `2 listeners, 1 pool, 3 backends`.
fn summary(config: &Config) -> String {
    let backends = config.pools.iter().map(|pool| pool.backends.len()).sum();
    [
        counted(config.listeners.len(), "listener"),
        counted(config.pools.len(), "pool"),
        counted(backends, "backend"),
    ]
    .join(", ")
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> Loaded {
        let env = |_: &str| Some("no-such-user-here".to_owned());
        crate::config::parse(text, "lb.toml", &env).expect("a configuration")
    }

    const FILE: &str = r#"
        [listener.web]
        bind = "127.0.0.1:0"
        pool = "web"
        [pool.web]
        backends = ["127.0.0.1:1", "127.0.0.1:2"]
    "#;

    #[test]
    fn one_is_not_written_as_many() {
        assert_eq!(
            summary(&loaded(FILE).config),
            "1 listener, 1 pool, 2 backends"
        );
    }

    #[test]
    fn an_access_file_that_cannot_be_is_a_fault_and_one_to_be_made_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| {
            let path = directory.path().join(name);
            let text = format!("[log]\naccess_file = {:?}\n{FILE}", path.display());
            let found = faults(&loaded(&text));
            assert!(!path.is_file(), "it was made");
            found.iter().map(|fault| fault.message.clone()).collect()
        };
        let [made, nowhere, there]: [Vec<String>; 3] = ["new.log", "no/new.log", ""].map(at);
        assert_eq!(made, Vec::<String>::new());
        assert!(nowhere[0].ends_with("is in a directory that does not exist"));
        assert!(there[0].ends_with("is a directory"));
    }

    #[test]
    fn what_only_the_machine_can_tell_is_a_fault_of_the_file() {
        let text = format!(
            "[runtime]\nuser = \"${{USER}}\"\n{FILE}
             [pool.web.health]\nkind = \"tls\"\nca = \"/nowhere/ca.pem\"\n"
        );
        let found: Vec<_> = faults(&loaded(&text))
            .iter()
            .map(Problem::to_string)
            .collect();
        assert_eq!(found.len(), 2, "{found:?}");
        let user = "lb.toml:2:8: there is no user \"${USER}\" on this machine\n 2 | user = ";
        assert!(found[0].starts_with(user), "{found:?}");
        let ca = "lb.toml:12:6: /nowhere/ca.pem: ";
        assert!(found[1].starts_with(ca), "{found:?}");
    }
}

//! What is wrong with a configuration on this machine: files that checks name, the user, the
//! access file. Nothing is bound, resolved or made.

use std::collections::HashMap;
use std::sync::Arc;

use super::{UserError, look_up};
use crate::check::{Check, SetupError};
use crate::config::{AccessSink, KeyPath, Loaded, Problem};

/// All of them, in the order of the file. Reads the files that checks name.
pub fn faults(loaded: &Loaded) -> Vec<Problem> {
    look(loaded).1
}

/// The same with the checks that it made for that.
pub(super) fn look(loaded: &Loaded) -> (Made, Vec<Problem>) {
    let user = match loaded.config.runtime.user.as_str() {
        "" => None,
        user => look_up(user).err(),
    };
    let user = user.map(|why| unknown_user(loaded, &why));
    let others = access_file(loaded).into_iter().chain(user);
    let (made, of_checks) = make_checks(loaded);
    let mut faults: Vec<_> = others.chain(of_checks).collect();
    faults.sort_by_key(Problem::place);
    (made, faults)
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
pub fn unknown_user(loaded: &Loaded, why: &UserError) -> Problem {
    let user = &loaded.config.runtime.user;
    let shown = loaded.shown(KeyPath::User, user);
    let message = match why {
        UserError::Unknown(_) => format!("there is no user {shown:?} on this machine"),
        _ => why.to_string(),
    };
    loaded.fault(KeyPath::User, message)
}

/// Checks that cannot be made, such as for a `health.ca` file that is not there.
pub fn faults_of_checks(loaded: &Loaded) -> Vec<Problem> {
    make_checks(loaded).1
}

/// The checks of each pool, and the faults of those that cannot be made. Reads files.
pub(super) fn make_checks(loaded: &Loaded) -> (Made, Vec<Problem>) {
    let (mut made, mut faults) = (Made::new(), Vec::new());
    for pool in &loaded.config.pools {
        match Check::new(&pool.health, pool.send_proxy) {
            Ok(check) => drop(made.insert(Arc::clone(&pool.name), check)),
            Err(error) => faults.push(of_check(loaded, &pool.name, &error)),
        }
    }
    (made, faults)
}

/// The checks of each pool, by its name; `None`: it has none.
pub(super) type Made = HashMap<Arc<str>, Option<Check>>;

fn of_check(loaded: &Loaded, pool: &str, error: &SetupError) -> Problem {
    let key = KeyPath::Ca(pool);
    let message = match error {
        SetupError::Ca { path, reason } => {
            let path = path.to_string_lossy();
            format!("{}: {reason}", loaded.shown(key, &path))
        }
        other => format!("pool {pool}: {other}"),
    };
    loaded.fault(key, message)
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

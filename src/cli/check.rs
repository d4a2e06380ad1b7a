//! `isobar check`: what is wrong with a configuration, before anybody runs it.
//!
//! Beyond the file itself it looks at what the file needs of this machine: the files that
//! checks name, the user, the limits. It binds nothing and resolves nothing.

use std::path::Path;

use super::output::{print, say};
use super::{ConfigArgs, Failure, Outcome};
use crate::check::Check;
use crate::config::{Config, Faults, Problem, Severity};
use crate::server;
use crate::terminal;

/// Prints every fault and warning on standard error, or that there is no fault on standard
/// output.
pub(super) fn check(args: &ConfigArgs) -> Outcome {
    let (path, mut loaded) = args.load()?;
    loaded.warnings.extend(limits(&path, &loaded.config));
    let problems = faults(&path, &loaded.config);
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

fn faults(path: &Path, config: &Config) -> Vec<Problem> {
    let user = config.runtime.user.as_str();
    let user = match user {
        "" => None,
        user => server::look_up(user).err(),
    };
    let user = user.map(|error| Problem::of_file(path.display().to_string(), error.to_string()));
    user.into_iter()
        .chain(faults_of_checks(path, config))
        .collect()
}

/// Checks that cannot be made, such as for a `health.ca` file that is not there.
pub(super) fn faults_of_checks(path: &Path, config: &Config) -> Vec<Problem> {
    let fault = |pool: &std::sync::Arc<crate::config::Pool>| {
        let error = Check::new(&pool.health).err()?;
        let message = format!("pool {}: {error}", pool.name);
        Some(Problem::of_file(path.display().to_string(), message))
    };
    config.pools.iter().filter_map(fault).collect()
}

fn limits(path: &Path, config: &Config) -> impl Iterator<Item = Problem> + use<> {
    let file = path.display().to_string();
    let warning = move |message| {
        let mut problem = Problem::of_file(file.clone(), message);
        problem.severity = Severity::Warning;
        problem
    };
    server::limit_warnings(config).into_iter().map(warning)
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

    fn config(text: &str) -> Config {
        let loaded = crate::config::parse(text, "lb.toml", &|_| None);
        loaded.expect("a configuration").config
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
        assert_eq!(summary(&config(FILE)), "1 listener, 1 pool, 2 backends");
    }

    #[test]
    fn what_only_the_machine_can_tell_is_a_fault_of_the_file() {
        let text = format!(
            "[runtime]\nuser = \"no-such-user-here\"\n{FILE}
             [pool.web.health]\nkind = \"tls\"\nca = \"/nowhere/ca.pem\"\n"
        );
        let found = faults(Path::new("lb.toml"), &config(&text));
        let found: Vec<_> = found.iter().map(Problem::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("lb.toml: runtime.user: there is no user"));
        assert!(found[1].starts_with("lb.toml: pool web: health.ca: /nowhere/ca.pem"));
    }
}

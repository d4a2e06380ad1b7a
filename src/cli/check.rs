//! `isobar check`: what is wrong with a configuration, before anybody runs it.
//!
//! Beyond the file itself it looks at what the file needs of this machine: the files that
//! checks name, the user, the limits. It binds nothing and resolves nothing.

use super::output::{print, say};
use super::{ConfigArgs, Failure, Outcome};
use crate::config::{Config, Faults, Problem};
use crate::server;
use crate::terminal;

/// Prints every fault and warning on standard error, or that there is no fault on standard
/// output.
pub(super) fn check(args: &ConfigArgs) -> Outcome {
    let (path, mut loaded) = args.load()?;
    let limits = server::limit_warnings(&loaded);
    let problems = server::faults(&loaded);
    loaded.warnings.extend(limits);
    loaded.warnings.sort_by_key(Problem::place);
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

    fn loaded(text: &str) -> crate::config::Loaded {
        crate::config::parse(text, "lb.toml", &|_| None).expect("a configuration")
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
}

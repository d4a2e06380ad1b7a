//! From a path, or a text, to a [`Loaded`] configuration.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::faults::{Faults, Problem, Severity, Sink};
use super::hidden::Hidden;
use super::places::{KeyPath, Places};
use super::source::Source;
use super::{Admin, Config, build, document, effects, references, schema};

/// The largest file that is read. A configuration of ten thousand backends has half a
/// megabyte; what is larger is another file.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Where a file is looked for when none is named: `$ISOBAR_CONFIG`, then these.
const DEFAULT_PATHS: [&str; 2] = ["lb.toml", "/etc/isobar/lb.toml"];

/// A configuration with what was noticed while it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is right, but hardly what was meant, in the order of the file.
    pub warnings: Vec<Problem>,
    pub(super) hidden: Hidden,
    pub(super) places: Places,
}

impl Loaded {
    /// Whether a value of a table, or part of it, is never shown: `hides("pool/web",
    /// "health.ca")`.
    pub(super) fn hides(&self, table: &str, key: &str) -> bool {
        let path = format!("{table}/{}", key.replace('.', "/"));
        self.hidden.contains_within(&path)
    }

    /// A fault that only this machine could show, at the place of its key.
    pub fn fault(&self, key: KeyPath<'_>, message: impl Into<String>) -> Problem {
        self.places.problem(key, Severity::Fault, message.into())
    }

    /// The same as a warning.
    pub fn warning(&self, key: KeyPath<'_>, message: impl Into<String>) -> Problem {
        self.places.problem(key, Severity::Warning, message.into())
    }

    /// What a fault may say instead of the `value` of a key: the text of the file where that
    /// takes it from the environment.
    pub fn shown<'a>(&'a self, key: KeyPath<'_>, value: &'a str) -> &'a str {
        self.places.shown(key, value)
    }
}

/// Why no configuration file was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no configuration: looked for {looked}; write one, name one with -c FILE, \
     or try `isobar demo`, which needs none"
)]
pub struct NotFound {
    /// The places, in the order in which they were looked at.
    looked: String,
}

/// The file to read: `flag`, else `$ISOBAR_CONFIG`, else `./lb.toml`, else
/// `/etc/isobar/lb.toml`. What is named by the operator is not checked to exist; what is not,
/// is.
///
/// # Errors
///
/// Nothing is named, and there is no file at the usual places.
pub fn find(flag: Option<&Path>) -> Result<PathBuf, NotFound> {
    let named = std::env::var_os("ISOBAR_CONFIG").map(PathBuf::from);
    let named = flag
        .map(Path::to_owned)
        .or(named.filter(|path| !path.as_os_str().is_empty()));
    named.map_or_else(|| first_of(&DEFAULT_PATHS.map(Path::new)), Ok)
}

/// The first path at which something is, readable or not: a file that must not be read is
/// better reported than passed over.
fn first_of(paths: &[&Path]) -> Result<PathBuf, NotFound> {
    let exists = |path: &&&Path| match path.symlink_metadata() {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    };
    if let Some(path) = paths.iter().find(exists) {
        return Ok(path.to_path_buf());
    }
    let places = paths.iter().map(|path| format!(", {}", path.display()));
    Err(NotFound {
        looked: format!("$ISOBAR_CONFIG (not set){}", places.collect::<String>()),
    })
}

/// Reads and checks the file at `path`, with `${NAME}` from this process's environment.
/// Blocks on the file system.
///
/// # Errors
///
/// Every fault of the file in one go, or the one reason why it cannot be read.
pub fn load(path: &Path) -> Result<Loaded, Faults> {
    let name = path.display().to_string();
    parse(&load_text(path)?, &name, &|variable| {
        std::env::var(variable).ok()
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    if waits_for_a_writer(path) {
        return Err("this is a FIFO, not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > MAX_FILE => Err(format!(
            "the file is larger than {} MiB",
            MAX_FILE / 1024 / 1024
        )),
        Ok(_) => Ok(bytes),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => "there is no such file".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "the file cannot be read: permission denied".to_owned()
            }
            io::ErrorKind::IsADirectory => "this is a directory, not a file".to_owned(),
            _ => format!("the file cannot be read: {error}"),
        }),
    }
}

/// Whether this is a FIFO that somebody made with a name: to open it is to wait until another
/// process opens it for writing, which may be never. The pipe behind `/dev/stdin` or `<(…)` has
/// its writer, and a file system of its own.
fn waits_for_a_writer(path: &Path) -> bool {
    /// `PIPEFS_MAGIC` of linux/magic.h.
    const PIPES: u64 = 0x5049_5045;
    let fifo = path
        .metadata()
        .is_ok_and(|about| about.file_type().is_fifo());
    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        reason = "the type differs between architectures"
    )]
    let of_pipes = || rustix::fs::statfs(path).is_ok_and(|about| about.f_type as u64 == PIPES);
    fifo && !of_pipes()
}

/// Reads and checks a text; `file_name` is only for its problems, `env` gives the values of
/// `${NAME}`.
///
/// # Errors
///
/// Every fault of the text in one go.
pub fn parse(
    text: &str,
    file_name: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Faults> {
    let source = Source::new(file_name, text);
    let mut sink = Sink::new(&source);
    let readable = document::readable(&mut sink);
    let (tree, _) = DeTable::parse_recoverable(&readable);
    let root = schema::read(tree.get_ref(), env, &mut sink);
    let file = build::File::new(&root);
    references::check(&file, &mut sink);
    effects::check(&file, &mut sink);
    let config = build::config(&file);
    let (problems, warnings) = sink.finish();
    if !problems.is_empty() {
        return Err(Faults { problems, warnings });
    }
    let hidden = hidden(&file);
    let places = Places::new(&file, &source);
    Ok(Loaded {
        config,
        warnings,
        hidden,
        places,
    })
}

/// Reads the text of the file at `path`. Blocks on the file system.
///
/// # Errors
///
/// The one reason why it cannot be read.
pub fn load_text(path: &Path) -> Result<String, Faults> {
    let name = path.display().to_string();
    let bytes = read(path).map_err(|reason| Faults::of_file(&name, reason))?;
    document::text(&name, bytes)
}

/// Reads `[admin]` of the file at `path` and nothing else: how to reach the balancer that runs
/// with it, though the file may have become faulty since, or name variables that only the
/// balancer has. Blocks on the file system.
///
/// # Errors
///
/// The faults of `[admin]`, all that does not parse where that may be why there is none, or the
/// one reason why the file cannot be read.
pub fn load_admin(path: &Path) -> Result<Admin, Faults> {
    admin_of(&load_text(path)?, path)
}

/// The same of a text that was read from `path`.
///
/// # Errors
///
/// As [`load_admin`].
pub fn admin_of(text: &str, path: &Path) -> Result<Admin, Faults> {
    let name = path.display().to_string();
    parse_admin(text, &name, &|variable| std::env::var(variable).ok())
}

fn parse_admin(
    text: &str,
    file_name: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Admin, Faults> {
    let source = Source::new(file_name, text);
    let mut sink = Sink::new(&source);
    let readable = document::readable(&mut sink);
    let (tree, _) = DeTable::parse_recoverable(&readable);
    // What does not parse may have been, or have swallowed, the section: its defaults would
    // lead to another balancer.
    if sink.has_faults() && !(tree.get_ref().contains_key("admin") && source.has_header("admin")) {
        let (problems, warnings) = sink.finish();
        return Err(Faults { problems, warnings });
    }
    sink.forgive_outside("admin");
    let items = tree.into_inner().into_iter();
    let tree: DeTable<'_> = items
        .filter(|(name, _)| name.get_ref() == "admin")
        .collect();
    let root = schema::read(&tree, env, &mut sink);
    let admin = build::admin(&build::File::new(&root).root.sub("admin"));
    match sink.finish() {
        (problems, _) if problems.is_empty() => Ok(admin),
        (problems, warnings) => Err(Faults { problems, warnings }),
    }
}

fn hidden(file: &build::File<'_>) -> Hidden {
    let mut hidden = Hidden::default();
    for table in ["runtime", "admin", "log"] {
        hidden.collect(table, file.root.sub(table));
    }
    for listener in &file.listeners {
        hidden.collect(&format!("listener/{}", listener.name), listener.scope);
    }
    for pool in &file.pools {
        hidden.collect(&format!("pool/{}", pool.name), pool.scope);
    }
    hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_path_at_which_something_is_is_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let (first, second) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
        std::fs::write(&second, "").expect("written");
        assert_eq!(first_of(&[&first, &second]), Ok(second.clone()));
        std::os::unix::fs::symlink("nowhere", &first).expect("a link");
        assert_eq!(first_of(&[&first, &second]), Ok(first));
    }

    #[test]
    fn without_a_file_every_place_and_the_remedy_are_named() {
        let fault = first_of(&[Path::new("/no/lb.toml"), Path::new("/nor/lb.toml")]);
        assert_eq!(
            fault.expect_err("nothing is there").to_string(),
            "no configuration: looked for $ISOBAR_CONFIG (not set), /no/lb.toml, /nor/lb.toml; \
             write one, name one with -c FILE, or try `isobar demo`, which needs none"
        );
    }

    #[test]
    fn the_admin_section_is_read_whatever_else_is_wrong() {
        let others =
            "[pool.p]\nbackends = [\"${UNSET}\"]\nblance = 1\nidle_timeout = 5m\nnonsense\n";
        let read = |admin: &str| {
            parse_admin(&format!("{others}[admin]\n{admin}\n{others}"), "f", &|_| {
                None
            })
        };
        let admin =
            read("bind = \"127.0.0.1:7\"\ntoken = \"t\"").expect("a section without faults");
        assert_eq!(admin.bind, Some("127.0.0.1:7".parse().expect("an address")));
        assert_eq!(admin.token, "t");
        for fault in [
            "bind = 1",
            "bnd = \"\"",
            "token = t",
            "token = \"${UNSET}\"",
            "token",
        ] {
            let faults = read(fault).expect_err(fault);
            let lines: Vec<_> = faults.problems.iter().map(|problem| problem.line).collect();
            assert_eq!(lines, [7], "{faults}");
        }
    }

    /// Without the section the endpoint would be the usual one, which another balancer may have.
    #[test]
    fn where_the_admin_section_may_be_lost_the_faults_are_told() {
        let section = "[admin]\nbind = \"127.0.0.1:7\"\n";
        let read = |text: &str| parse_admin(text, "f", &|_| None);
        for (lost, first) in [
            ("garbage [".to_owned(), 1),
            (format!("x = \"\"\"\n{section}"), 4),
            ("[admin\nbind = \"127.0.0.1:7\"\n".to_owned(), 1),
            ("admin.bind = 127.0.0.1:7\n".to_owned(), 1),
            ("[pool.p]\nbackends = [\n".to_owned(), 2),
        ] {
            let faults = read(&lost).expect_err(&lost);
            assert_eq!(faults.problems[0].line, first, "{lost}: {faults}");
        }
        for known in [
            format!("garbage [\n{section}"),
            format!("{section}[pool.p]\nbackends = [\n"),
            format!("x = [\n{section}"),
        ] {
            let admin = read(&known).unwrap_or_else(|faults| panic!("{known}: {faults}"));
            assert_eq!(admin.bind, Some("127.0.0.1:7".parse().expect("an address")));
        }
        let usual = read("").expect("a file without faults").bind;
        assert_eq!(usual, Some("127.0.0.1:9900".parse().expect("an address")));
    }

    #[test]
    fn what_the_command_line_names_is_taken_as_it_is() {
        assert_eq!(
            find(Some(Path::new("/no/file"))),
            Ok(PathBuf::from("/no/file"))
        );
    }
}

//! Where the programs are, which version each is, and what its column is called.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::contender::Contender;
use crate::program::Program;

/// Where Debian and others keep NGINX's stream module, for a build that does not say.
const NGINX_MODULES: [&str; 3] = [
    "/usr/lib/nginx/modules",
    "/usr/lib64/nginx/modules",
    "/usr/share/nginx/modules",
];
const STREAM_MODULE: &str = "ngx_stream_module.so";

/// Programs that were given; where none is, the installed one is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a> {
    /// The isobar.
    pub isobar: &'a Path,
    /// HAProxies.
    pub haproxy: &'a [PathBuf],
    /// NGINXes.
    pub nginx: &'a [PathBuf],
}

/// The programs of these kinds that can be started, and why others cannot.
pub(crate) fn programs(contenders: &[Contender], given: Given) -> (Vec<Program>, Vec<String>) {
    let (mut programs, mut skipped) = (Vec::new(), Vec::new());
    for &contender in contenders {
        for found in find(contender, given) {
            match found {
                Ok(program) => programs.push(program),
                Err(reason) => skipped.push(format!("{}: {reason}", contender.name())),
            }
        }
    }
    name_columns(&mut programs);
    (programs, skipped)
}

fn find(contender: Contender, given: Given) -> Vec<Result<Program, String>> {
    match contender {
        Contender::Direct => vec![Ok(Program::direct())],
        Contender::Isobar => vec![isobar(given.isobar)],
        Contender::Haproxy => each(given.haproxy, "haproxy", haproxy),
        Contender::Nginx => each(given.nginx, "nginx", nginx),
    }
}

/// Those that were given, or the one that is installed.
fn each(
    given: &[PathBuf],
    name: &str,
    program: fn(&Path) -> Result<Program, String>,
) -> Vec<Result<Program, String>> {
    match given {
        [] => vec![search(name).and_then(|path| program(&path))],
        given => given.iter().map(|path| program(path)).collect(),
    }
}

fn isobar(path: &Path) -> Result<Program, String> {
    program(
        Contender::Isobar,
        path,
        "--version",
        include_str!("isobar.toml"),
    )
}

fn haproxy(path: &Path) -> Result<Program, String> {
    program(Contender::Haproxy, path, "-v", include_str!("haproxy.cfg"))
}

fn nginx(path: &Path) -> Result<Program, String> {
    let build = printed(path, "-V")?;
    let module = match stream(&build) {
        Stream::Linked => None,
        Stream::Module(dir) => Some(stream_module(dir)?),
        Stream::Missing => return Err("built without the stream module".into()),
    };
    let nginx = program(Contender::Nginx, path, "-v", include_str!("nginx.conf"))?;
    Ok(Program { module, ..nginx })
}

fn program(
    contender: Contender,
    path: &Path,
    flag: &str,
    template: &'static str,
) -> Result<Program, String> {
    let text = printed(path, flag)?;
    let version = text.lines().next().unwrap_or_default().trim().to_owned();
    Ok(Program {
        contender,
        column: contender.name().into(),
        version,
        path: path.to_owned(),
        module: None,
        template,
    })
}

/// Where an NGINX has its stream module.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stream<'a> {
    /// In the program.
    Linked,
    /// In a file of its own, in this directory if the build says so.
    Module(Option<&'a str>),
    /// Nowhere.
    Missing,
}

/// Reads the arguments of `./configure` that `nginx -V` prints.
pub(crate) fn stream(build: &str) -> Stream<'_> {
    let mut arguments = build.split_whitespace();
    let has = |wanted| arguments.clone().any(|argument| argument == wanted);
    if has("--with-stream") {
        return Stream::Linked;
    }
    if !has("--with-stream=dynamic") {
        return Stream::Missing;
    }
    Stream::Module(arguments.find_map(|argument| argument.strip_prefix("--modules-path=")))
}

fn stream_module(dir: Option<&str>) -> Result<PathBuf, String> {
    let dirs = dir.into_iter().chain(NGINX_MODULES);
    dirs.map(|dir| Path::new(dir).join(STREAM_MODULE))
        .find(|file| file.is_file())
        .ok_or_else(|| "its stream module is not installed (libnginx-mod-stream)".into())
}

/// Looks where a shell would, and where Debian keeps what only root is expected to run.
fn search(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| "not installed".into())
}

/// What the program prints about itself, which is not nothing.
fn printed(path: &Path, flag: &str) -> Result<String, String> {
    let output = Command::new(path)
        .arg(flag)
        .output()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let text = [output.stdout, output.stderr].concat();
    match String::from_utf8_lossy(&text).trim() {
        "" => Err(format!("{} {flag} says nothing", path.display())),
        text => Ok(text.to_owned()),
    }
}

/// Where several are of one kind, their versions become part of their columns' names.
pub(crate) fn name_columns(programs: &mut [Program]) {
    let kinds: Vec<Contender> = programs.iter().map(|program| program.contender).collect();
    let mut names: Vec<String> = Vec::new();
    for program in programs {
        let (contender, version) = (program.contender, number(&program.version));
        let name = match kinds.iter().filter(|kind| **kind == contender).count() {
            1 => contender.name().to_owned(),
            _ => format!("{}-{version}", contender.name()),
        };
        let same = names.iter().filter(|taken| **taken == name).count();
        program.column = match same {
            0 => name.clone(),
            _ => format!("{name}-{}", same + 1),
        };
        names.push(name);
    }
}

/// The number in what a program says of its version, without what a distribution adds.
pub(crate) fn number(version: &str) -> &str {
    let words = version.split([' ', '/']);
    let mut words = words.filter(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    let word = words.next().unwrap_or_default();
    let is_part = |character: char| character.is_ascii_digit() || character == '.';
    let numbers = word.find(|c| !is_part(c)).unwrap_or(word.len());
    let rest = &word[numbers..];
    let suffix = match rest.strip_prefix('-') {
        Some(suffix) if suffix.starts_with("dev") || suffix.starts_with("rc") => {
            1 + suffix
                .find(|c: char| !c.is_ascii_alphanumeric())
                .unwrap_or(suffix.len())
        }
        _ => 0,
    };
    &word[..numbers + suffix]
}

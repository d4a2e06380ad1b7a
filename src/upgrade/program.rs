//! The program that takes the place of this one, and how it is started.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::server::for_successor;

/// Tells the new process who hands over to it: the number of its parent. The socket is its
/// standard input, so that it is inherited without ever being open to any other program.
pub(super) const VARIABLE: &str = "ISOBAR_HANDOVER";

/// The program as this process was started with: path, arguments, directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    name: OsString,
    arguments: Vec<OsString>,
}

impl Program {
    /// Of this process. To be called at its start, before a file can have been replaced.
    ///
    /// The path is the one that it was started with, not the file behind it: where that is a
    /// symbolic link, an upgrade follows it anew. A name alone was looked up in `$PATH`, and
    /// `argv[0]` may be anything; what does not lead to the running program is not believed,
    /// and the file itself taken.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of_this_process() -> io::Result<Self> {
        let running = std::env::current_exe()?;
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_else(|| running.clone().into());
        let directory = std::env::current_dir().unwrap_or_default();
        let named = named(Path::new(&name), &directory, std::env::var_os("PATH"));
        let path = named.into_iter().find(|path| is_same(path, &running));
        Ok(Self {
            path: path.unwrap_or(running),
            name,
            arguments: arguments.collect(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts what is there now, with `socket` to speak to it.
    pub(super) fn start(&self, socket: OwnedFd) -> io::Result<Child> {
        let mut command = Command::new(&self.path);
        command
            .arg0(&self.name)
            .args(&self.arguments)
            .env(VARIABLE, std::process::id().to_string())
            .stdin(Stdio::from(socket));
        for_successor(&mut command);
        command.spawn()
    }
}

/// The files that a program of this name may be.
fn named(name: &Path, directory: &Path, path: Option<OsString>) -> Vec<PathBuf> {
    if name.components().count() > 1 || name.is_absolute() {
        return vec![directory.join(name)];
    }
    let path = path.unwrap_or_default();
    let directories = std::env::split_paths(&path);
    directories.map(|d| directory.join(d).join(name)).collect()
}

fn is_same(path: &Path, running: &Path) -> bool {
    let of = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    of(path).is_ok_and(|file| of(running).is_ok_and(|running| running == file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_from_the_directory_and_a_name_looked_up() {
        let directory = Path::new("/srv");
        let path = Some(OsString::from("/usr/bin:tools"));
        let of = |name: &str| named(Path::new(name), directory, path.clone());
        assert_eq!(of("/opt/isobar"), [PathBuf::from("/opt/isobar")]);
        assert_eq!(of("./isobar"), [PathBuf::from("/srv/./isobar")]);
        assert_eq!(of("bin/isobar"), [PathBuf::from("/srv/bin/isobar")]);
        let found = ["/usr/bin/isobar", "/srv/tools/isobar"];
        assert_eq!(of("isobar"), found.map(PathBuf::from));
    }

    #[test]
    fn a_link_to_the_running_program_is_kept_and_what_leads_elsewhere_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let running = directory.path().join("isobar-1");
        let link = directory.path().join("isobar");
        std::fs::write(&running, "").expect("a file");
        std::os::unix::fs::symlink(&running, &link).expect("a link");
        assert!(is_same(&link, &running));
        assert!(!is_same(directory.path(), &running));
        assert!(!is_same(&directory.path().join("none"), &running));
    }
}

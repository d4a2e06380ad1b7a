//! Processes that end with us, however we end.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// How long a process may take to stop before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Asks the kernel for SIGTERM when the parent is gone, be it by a panic, Ctrl-C or SIGKILL.
///
/// The parent must have started this process from its main thread (prctl(2)).
pub(crate) fn die_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::TERM))?)
}

/// This program in another role.
pub(crate) fn role(name: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(name);
    Ok(command)
}

/// `program`, started by way of the `guard` role, so that it too ends with us.
pub(crate) fn guarded(program: &Path) -> io::Result<Command> {
    let mut command = role("guard")?;
    command.arg(program);
    Ok(command)
}

/// The `guard` role: becomes the command, which keeps the death signal across exec.
pub(crate) fn guard(command: &[OsString]) -> io::Result<()> {
    die_with_parent()?;
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::other("no command to become"))?;
    Err(Command::new(program).args(arguments).exec())
}

/// A child that is stopped when this is dropped: SIGTERM, then SIGKILL.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    /// The process and its children, which do its work in nginx.
    pub(crate) fn family(&self) -> io::Result<Vec<i32>> {
        let own = self.pid();
        let children = procfs::process::all_processes()
            .map_err(io::Error::other)?
            .filter_map(|process| process.ok()?.stat().ok())
            .filter(|stat| stat.ppid == own)
            .map(|stat| stat.pid);
        Ok(std::iter::once(own).chain(children).collect())
    }

    fn stops_by(&mut self, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already, which is what is wanted.
        if let Some(pid) = Pid::from_raw(self.pid()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if !self.stops_by(Instant::now() + STOP_GRACE) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

//! What the service manager is told: one datagram for each message, see sd_notify(3).
//!
//! Nothing is said where `NOTIFY_SOCKET` is not set, and nothing fails where nobody listens.
//! The variable is left in the environment: what a successor must not see is taken out of its
//! environment alone ([`for_successor`]).
//!
//! Code of our own, as it is this page: the crate `sd-notify` takes a socket of the abstract
//! namespace for a path, and waits without limit while the service manager reads nothing.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::log::SharedThrottle;

/// How long a message waits while the service manager reads nothing: the control plane waits
/// with it. It has room for hundreds of messages, so this is no ordinary case.
const PATIENCE: Duration = Duration::from_millis(100);

/// What the variables of one process say to no other: descriptors, and whose watchdog it is.
const OF_ONE_PROCESS: [&str; 5] = [
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
];

/// Takes out of the environment of `command`, which takes the place of this process, what a
/// service manager said to this process alone.
///
/// `NOTIFY_SOCKET` and `WATCHDOG_USEC` stay: the successor needs them. By default the service
/// manager hears only the main process (`NotifyAccess=main`), so what the successor says is
/// lost until this process has told of it by [`Notifier::mainpid`].
pub fn for_successor(command: &mut Command) {
    for name in OF_ONE_PROCESS {
        command.env_remove(name);
    }
}

/// The line to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    line: Option<Line>,
    watchdog: Option<Duration>,
    /// Another process is the service now.
    retired: AtomicBool,
}

#[derive(Debug)]
struct Line {
    socket: UnixDatagram,
    manager: SocketAddr,
    failures: SharedThrottle,
}

impl Notifier {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say. A socket that cannot be
    /// spoken to is logged.
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let line = variable("NOTIFY_SOCKET").and_then(|name| match Line::to(&name) {
            Ok(line) => Some(line),
            Err(error) => {
                tracing::warn!(socket = name, %error, "NOTIFY_SOCKET cannot be used");
                None
            }
        });
        Self {
            watchdog: line
                .as_ref()
                .and_then(|_| watchdog(&variable, std::process::id())),
            line,
            retired: AtomicBool::new(false),
        }
    }

    /// Whether there is anybody to be told.
    pub fn is_heard(&self) -> bool {
        self.line.is_some()
    }

    /// How long the service manager waits for the next [`alive`](Self::alive); `None`: it does
    /// not.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Every listener is bound and accepts; or, after [`reloading`](Self::reloading): the reload
    /// has ended, however it did.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// A reload has begun. [`ready`](Self::ready) must follow, as `systemctl reload` waits.
    pub fn reloading(&self) {
        // By this clock it is known that the signal sent before has come.
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic()));
    }

    /// A stop has begun.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// The process `pid` is the service from now on, and this one has nothing more to say: that
    /// it stops is not to be taken for the end of the service. Only the process that was the
    /// service before can say so; `pid` has to be ready.
    pub fn mainpid(&self, pid: u32) {
        self.say(&format!("MAINPID={pid}"));
        self.retired.store(true, Ordering::Relaxed);
    }

    /// One line for whoever asks `systemctl status`.
    pub fn status(&self, text: &str) {
        let mut message = String::from("STATUS=");
        // A line break would begin another assignment.
        message.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
        self.say(&message);
    }

    /// Nothing hangs.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// The start or stop that is under way takes up to this much longer from now. It never
    /// shortens what the service manager allows.
    pub fn extend(&self, by: Duration) {
        self.say(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
    }

    fn say(&self, message: &str) {
        let Some(line) = &self.line else {
            return;
        };
        if self.retired.load(Ordering::Relaxed) {
            return;
        }
        let sent = line.socket.send_to_addr(message.as_bytes(), &line.manager);
        if let Err(error) = sent
            && let Some(suppressed) = line.failures.check(Instant::now())
        {
            tracing::warn!(%error, suppressed, message, "the service manager cannot be told");
        }
    }
}

impl Line {
    fn to(name: &str) -> io::Result<Self> {
        let manager = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
            None => return Err(io::Error::other("it is neither a path nor an @name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            manager,
            failures: SharedThrottle::new(Instant::now()),
        })
    }
}

/// Microseconds of `CLOCK_MONOTONIC`.
fn monotonic() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// See sd_watchdog_enabled(3).
fn watchdog(variable: &dyn Fn(&str) -> Option<String>, pid: u32) -> Option<Duration> {
    let is_ours = variable("WATCHDOG_PID").is_none_or(|value| value.parse() == Ok(pid));
    let micros: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    (is_ours && micros > 0).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notifier(name: &str) -> Notifier {
        Notifier {
            line: Some(Line::to(name).expect("a socket")),
            watchdog: None,
            retired: AtomicBool::new(false),
        }
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut message = [0; 512];
        let n = manager.recv(&mut message).expect("a message");
        String::from_utf8(message[..n].to_vec()).expect("text")
    }

    fn read(usec: Option<&str>, pid: Option<&str>) -> Option<Duration> {
        let variable = |name: &str| match name {
            "WATCHDOG_USEC" => usec.map(ToOwned::to_owned),
            "WATCHDOG_PID" => pid.map(ToOwned::to_owned),
            _ => None,
        };
        watchdog(&variable, 7)
    }

    #[test]
    fn both_forms_of_a_socket_are_spoken_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("a socket");
        notifier(path.to_str().expect("a plain path")).ready();
        assert_eq!(heard(&by_path), "READY=1");

        let name = format!("isobar-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let by_name = UnixDatagram::bind_addr(&address).expect("a socket");
        notifier(&format!("@{name}")).stopping();
        assert_eq!(heard(&by_name), "STOPPING=1");
    }

    #[test]
    fn every_message_is_as_sd_notify_has_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let notifier = notifier(path.to_str().expect("a plain path"));
        notifier.alive();
        assert_eq!(heard(&manager), "WATCHDOG=1");
        notifier.extend(Duration::from_secs(30));
        assert_eq!(heard(&manager), "EXTEND_TIMEOUT_USEC=30000000");
        notifier.status("one\nREADY=1");
        assert_eq!(heard(&manager), "STATUS=one READY=1");
    }

    /// Where every process of the service is heard, the end of the old one would stop the new.
    #[test]
    fn who_has_named_a_successor_says_nothing_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let (old, new) = (
            notifier(path.to_str().expect("a plain path")),
            notifier(path.to_str().expect("a plain path")),
        );
        old.mainpid(4711);
        old.stopping();
        new.ready();
        assert_eq!(heard(&manager), "MAINPID=4711");
        assert_eq!(heard(&manager), "READY=1");
    }

    /// The service manager compares it with its own clock at the time of the signal.
    #[test]
    fn a_reload_is_told_with_the_time_of_the_monotonic_clock() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let before = monotonic();
        notifier(path.to_str().expect("a plain path")).reloading();
        let message = heard(&manager);
        let told = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let told: i64 = told.expect("both").parse().expect("a number");
        assert!((before..=monotonic()).contains(&told));
    }

    #[test]
    fn a_manager_that_is_gone_or_never_was_stops_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        notifier(path.to_str().expect("a plain path")).ready();
        assert!(Line::to("vsock:2:1234").is_err());
        assert!(Line::to("relative").is_err());
    }

    /// A full queue of the service manager.
    #[test]
    fn a_manager_that_reads_nothing_holds_a_message_up_for_a_moment_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let _manager = UnixDatagram::bind(&path).expect("a socket");
        let filler = UnixDatagram::unbound().expect("a socket");
        filler.set_nonblocking(true).expect("a socket");
        while filler.send_to(b"full", &path).is_ok() {}
        notifier(path.to_str().expect("a plain path")).ready();
    }

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names_or_for_whoever_has_none() {
        assert_eq!(read(Some("20"), Some("7")), Some(Duration::from_micros(20)));
        assert_eq!(read(Some("20"), None), Some(Duration::from_micros(20)));
        assert_eq!(read(Some("20"), Some("8")), None);
        assert_eq!(read(Some("0"), Some("7")), None);
        assert_eq!(read(Some("soon"), None), None);
        assert_eq!(read(None, Some("7")), None);
    }

    #[test]
    fn a_successor_sees_what_is_for_it_and_no_more() {
        let mut command = Command::new("true");
        command.env("NOTIFY_SOCKET", "/run/notify");
        for_successor(&mut command);
        let removed: Vec<_> = command.get_envs().filter(|(_, v)| v.is_none()).collect();
        assert_eq!(removed.len(), OF_ONE_PROCESS.len());
        assert!(removed.iter().all(|(name, _)| *name != "WATCHDOG_USEC"));
        let mut kept = command.get_envs().filter(|(_, v)| v.is_some());
        assert!(kept.any(|(name, _)| name == "NOTIFY_SOCKET"));
    }
}

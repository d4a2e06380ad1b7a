//! A program that is measured: how it is configured, started and found ready.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::contender::Contender;
use crate::process::{Running, guarded};
use crate::wire::ECHO;

/// How long a proxy may take from its start to its first answered connection.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A contender that can be started: a column of the result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Which kind.
    pub contender: Contender,
    /// The name of its column; no other program of the run has the same.
    pub column: String,
    /// Its own words about its version; empty for [`Contender::Direct`].
    pub version: String,
    /// The executable; empty for [`Contender::Direct`]. It says nothing on another machine.
    #[serde(skip)]
    pub path: PathBuf,
    /// A module that must be loaded first.
    #[serde(skip)]
    pub module: Option<PathBuf>,
    /// The configuration before addresses are filled in.
    #[serde(skip)]
    pub template: &'static str,
}

/// What is filled into a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings<'a> {
    /// Worker threads or processes.
    pub threads: usize,
    /// Connections that must fit at the same time.
    pub max_connections: u64,
    /// The pool, eight of them.
    pub backends: &'a [SocketAddr],
    /// A directory of this instance alone, which exists.
    pub dir: &'a Path,
}

/// A proxy that answers.
#[derive(Debug)]
pub(crate) struct Started {
    /// The process.
    pub running: Running,
    /// Where clients connect.
    pub address: SocketAddr,
    /// The configuration as used, with `DIR` for the directory of the instance.
    pub configuration: String,
}

impl Program {
    /// No program.
    pub(crate) fn direct() -> Self {
        Self {
            contender: Contender::Direct,
            column: Contender::Direct.name().into(),
            version: String::new(),
            path: PathBuf::new(),
            module: None,
            template: "",
        }
    }

    /// Starts it and waits until a connection through it is answered.
    ///
    /// # Errors
    /// It ended, or did not answer in time; what it printed is in the message.
    pub(crate) fn start(&self, settings: &Settings) -> io::Result<Started> {
        let address = free_address()?;
        let file = settings.dir.join("config");
        let configuration = self.fill(address, settings)?;
        fs::write(&file, &configuration)?;
        let log = File::create(settings.dir.join("output.log"))?;
        let child = guarded(&self.path)?
            .args(self.arguments(&file))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut started = Started {
            running: Running(child),
            address,
            configuration: configuration.replace(&settings.dir.display().to_string(), "DIR"),
        };
        match started.becomes_ready() {
            Ok(()) => Ok(started),
            Err(error) => Err(io::Error::other(format!(
                "{error}{}",
                printed(settings.dir)
            ))),
        }
    }

    fn arguments(&self, config: &Path) -> Vec<PathBuf> {
        let before: &[&str] = match self.contender {
            Contender::Direct => &[],
            Contender::Isobar => &["run", "-c"],
            Contender::Haproxy => &["-db", "-f"],
            Contender::Nginx => &["-e", "stderr", "-c"],
        };
        let before = before.iter().map(PathBuf::from);
        before.chain([config.to_path_buf()]).collect()
    }

    fn fill(&self, listen: SocketAddr, settings: &Settings) -> io::Result<String> {
        let load = |file: &PathBuf| format!("load_module {};", file.display());
        let worker_connections = settings.max_connections * 2;
        let mut text = self
            .template
            .replace("@NAMES@", "Names between at signs")
            .replace("@LISTEN@", &listen.to_string())
            .replace("@DIR@", &settings.dir.display().to_string())
            .replace("@THREADS@", &settings.threads.to_string())
            .replace("@MAX_CONNECTIONS@", &settings.max_connections.to_string())
            .replace("@WORKER_CONNECTIONS@", &worker_connections.to_string())
            .replace(
                "@LOAD_MODULE@",
                &self.module.as_ref().map_or(String::new(), load),
            );
        for (index, backend) in settings.backends.iter().enumerate() {
            text = text.replace(&format!("@BACKEND{}@", index + 1), &backend.to_string());
        }
        match text.split_once('@') {
            None => Ok(text),
            Some((_, rest)) => Err(io::Error::other(format!("nothing to fill in for @{rest}"))),
        }
    }
}

impl Started {
    fn becomes_ready(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.running.0.try_wait()? {
                return Err(io::Error::other(format!("it ended with {status}")));
            }
            match echo_once(self.address) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

/// An address that was free a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn echo_once(address: SocketAddr) -> io::Result<()> {
    let limit = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(&[ECHO])?;
    stream.read_exact(&mut [0])
}

/// The end of what a proxy that failed had to say.
fn printed(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("output.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines
        .iter()
        .rev()
        .map(|line| format!("\n    {line}"))
        .collect()
}

//! Who is measured: where its program is, how it is configured, started and found ready.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::process::{Running, guarded};
use crate::wire::ECHO;

/// How long a proxy may take from its start to its first answered connection.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Where Debian and others keep the stream module; relative to nothing.
const NGINX_MODULES: [&str; 3] = [
    "/usr/lib/nginx/modules/ngx_stream_module.so",
    "/usr/lib64/nginx/modules/ngx_stream_module.so",
    "/usr/share/nginx/modules/ngx_stream_module.so",
];

/// A column of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contender {
    /// Clients dial the backends: the floor.
    Direct,
    /// The balancer of this repository.
    Isobar,
    /// HAProxy in TCP mode.
    Haproxy,
    /// NGINX with the stream module.
    Nginx,
}

/// A contender that can be started.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Program {
    /// Which.
    pub contender: Contender,
    /// The executable; empty for [`Contender::Direct`].
    pub path: PathBuf,
    /// Its own words about its version.
    pub version: String,
    /// The configuration before addresses are filled in.
    pub config: &'static str,
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
}

impl Contender {
    /// The name on the command line, in tables and in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Isobar => "isobar",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Whether isobar is compared with it.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Haproxy | Self::Nginx)
    }

    /// The program, or why there is none to be measured.
    pub(crate) fn find(self, isobar: &Path) -> Result<Program, String> {
        let (path, flag, config) = match self {
            Self::Direct => return Ok(direct()),
            Self::Isobar => (
                isobar.to_path_buf(),
                "--version",
                include_str!("isobar.toml"),
            ),
            Self::Haproxy => (search("haproxy")?, "-v", include_str!("haproxy.cfg")),
            Self::Nginx => {
                nginx_module()?;
                (search("nginx")?, "-v", include_str!("nginx.conf"))
            }
        };
        Ok(Program {
            contender: self,
            version: version(&path, flag)?,
            path,
            config,
        })
    }
}

impl Program {
    /// Starts it and waits until a connection through it is answered.
    ///
    /// # Errors
    /// It ended, or did not answer in time; what it printed is in the message.
    pub(crate) fn start(&self, settings: &Settings) -> io::Result<Started> {
        let address = free_address()?;
        let file = settings.dir.join("config");
        fs::write(&file, fill(self.config, address, settings)?)?;
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

fn direct() -> Program {
    Program {
        contender: Contender::Direct,
        path: PathBuf::new(),
        version: String::new(),
        config: "",
    }
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

fn nginx_module() -> Result<&'static str, String> {
    let module = NGINX_MODULES
        .into_iter()
        .find(|file| Path::new(file).is_file());
    module.ok_or_else(|| "its stream module is not installed (libnginx-mod-stream)".into())
}

/// The first line that the program prints about itself.
fn version(path: &Path, flag: &str) -> Result<String, String> {
    let output = Command::new(path)
        .arg(flag)
        .output()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    match text.lines().next() {
        Some(line) => Ok(line.trim().into()),
        None => Err(format!("{} {flag} says nothing", path.display())),
    }
}

/// An address that was free a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn fill(template: &str, listen: SocketAddr, settings: &Settings) -> io::Result<String> {
    let module = nginx_module().map_or(String::new(), |file| format!("load_module {file};"));
    let worker_connections = settings.max_connections * 2;
    let mut text = template
        .replace("@NAMES@", "Names between at signs")
        .replace("@LISTEN@", &listen.to_string())
        .replace("@DIR@", &settings.dir.display().to_string())
        .replace("@THREADS@", &settings.threads.to_string())
        .replace("@MAX_CONNECTIONS@", &settings.max_connections.to_string())
        .replace("@WORKER_CONNECTIONS@", &worker_connections.to_string())
        .replace("@LOAD_MODULE@", &module);
    for (index, backend) in settings.backends.iter().enumerate() {
        text = text.replace(&format!("@BACKEND{}@", index + 1), &backend.to_string());
    }
    match text.split_once('@') {
        None => Ok(text),
        Some((_, rest)) => Err(io::Error::other(format!("nothing to fill in for @{rest}"))),
    }
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

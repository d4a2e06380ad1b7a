//! What it costs to look: processor time of one `/metrics`, `/stats` and `/connections`, on the
//! thread that answers and on the data cores, of a balancer that has much to tell of.
//!
//! ```text
//! cargo bench --bench scrape                        all cases, less than a minute
//! cargo bench --bench scrape -- --isobar PATH       of another isobar, such as an older one
//! cargo bench --bench scrape -- connections         only cases whose name contains this
//! ```
//!
//! Times are of the kernel's accounting of each thread (`schedstat`), so other load on the
//! machine disturbs them little. Connections are held by this program in two other roles, in
//! processes of their own: each process has its own limit on descriptors.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What one scrape may cost on the thread that answers it, in milliseconds.
const BOUND_MS: f64 = 50.0;
/// What is asked for: also who is connected, all of them, and those whom a filter leaves.
const PATHS: [&str; 5] = [
    "/metrics",
    "/stats",
    "/connections",
    "/connections?limit=1000000",
    "/connections?client=192.0.2.1",
];
/// Long enough for everything to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures what scrapes cost.
#[derive(Debug, Parser)]
struct Args {
    /// The isobar to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_isobar"))]
    isobar: PathBuf,
    /// Scrapes of each kind
    #[arg(long, default_value_t = 20)]
    scrapes: u32,
    /// Only cases whose name contains one of these (cargo passes its filter here)
    filter: Vec<String>,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
    /// Passed by cargo test: only a self-check
    #[arg(long, hide = true)]
    test: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program does when it has started itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// Listen on so many addresses, greet every connection and keep it
    #[command(hide = true)]
    Backends { count: usize },
    /// Open so many connections, wait for each greeting, keep them
    #[command(hide = true)]
    Clients {
        count: usize,
        address: Vec<SocketAddr>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.role {
        Some(Role::Backends { count }) => play(backends(*count)),
        Some(Role::Clients { count, address }) => play(clients(*count, address)),
        // `cargo test --benches` starts benches without --bench.
        None if args.test || !args.bench => measure(&args, &Case::small(), 2).map(drop),
        None => bench(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scrape: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> io::Result<()> {
    let asked = |case: &&Case| {
        args.filter.is_empty() || args.filter.iter().any(|part| case.name.contains(&**part))
    };
    let cases = Case::all();
    for case in cases.iter().filter(asked) {
        println!("{}", case.name);
        println!("  control ms   core ms  KiB of answer");
        for cost in measure(args, case, args.scrapes)? {
            println!("{cost}");
        }
    }
    Ok(())
}

/// What there is to tell of.
struct Case {
    name: &'static str,
    connections: usize,
    listeners: usize,
    backends: usize,
}

impl Case {
    fn all() -> [Self; 3] {
        let case = |name, connections, listeners, backends| Self {
            name,
            connections,
            listeners,
            backends,
        };
        [
            case("9,000 connections", 9000, 1, 4),
            // Two each: whatever has a histogram has samples in it.
            case("1,000 backends", 2000, 1, 1000),
            case("1,000 listeners", 2000, 1000, 4),
        ]
    }

    fn small() -> Self {
        Self {
            name: "a few of everything",
            connections: 20,
            listeners: 3,
            backends: 5,
        }
    }

    /// Checks are far apart: they would be counted as part of a scrape.
    fn configuration(&self, backends: &[String]) -> String {
        let listener = |n| {
            format!("[listener.l{n}]\nbind = \"127.0.0.1:0\"\npool = \"web\"\nbacklog = 4096\n")
        };
        let listeners: String = (0..self.listeners).map(listener).collect();
        let entries: Vec<_> = backends
            .iter()
            .map(|address| format!("\"{address}\""))
            .collect();
        format!(
            "[runtime]\nthreads = 2\n[admin]\nbind = \"127.0.0.1:0\"\n\
             [log]\nformat = \"json\"\naccess = false\n{listeners}\
             [pool.web]\nbackends = [{}]\n[pool.web.health]\ninterval = \"1h\"\n",
            entries.join(", ")
        )
    }
}

/// What one scrape costs.
struct Cost {
    path: &'static str,
    /// Of the thread that answers, in milliseconds.
    control_ms: f64,
    /// Of each data core, in milliseconds.
    cores_ms: Vec<f64>,
    bytes: usize,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cores = self.cores_ms.iter().copied().fold(0.0, f64::max);
        let kib = self.bytes as f64 / 1024.0;
        let over = if self.control_ms > BOUND_MS {
            "  over the bound"
        } else {
            ""
        };
        write!(
            f,
            "  {:>10.2}  {cores:>8.2}  {kib:>13.0}  {}{over}",
            self.control_ms, self.path
        )
    }
}

fn measure(args: &Args, case: &Case, scrapes: u32) -> io::Result<Vec<Cost>> {
    let (_backends, line) = role(&["backends", &case.backends.to_string()])?;
    let addresses: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("lb.toml");
    std::fs::write(&file, case.configuration(&addresses))?;
    let isobar = Balancer::start(&args.isobar, &file)?;
    isobar.wait_checked()?;
    let count = case.connections.to_string();
    let mut order = vec!["clients", &count];
    order.extend(isobar.listeners.iter().map(|address| &**address));
    let (_clients, _) = role(&order)?;
    PATHS
        .iter()
        .map(|path| isobar.cost(path, scrapes))
        .collect()
}

/// Starts this program in a role, which ends when its standard input does; its first line.
fn role(arguments: &[&str]) -> io::Result<(Ending, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = Ending(command.spawn()?);
    let mut line = String::new();
    let stdout = child.0.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    BufReader::new(stdout).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::other(format!("no {} to be had", arguments[0])));
    }
    Ok((child, line))
}

/// A child that is gone when this is.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The isobar that is measured.
struct Balancer {
    child: Ending,
    listeners: Vec<String>,
    admin: String,
}

impl Balancer {
    /// Starts it, and waits until it says ready.
    fn start(program: &PathBuf, file: &PathBuf) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("run").arg("-c").arg(file);
        let mut child = Ending(command.stderr(Stdio::piped()).spawn()?);
        let stderr = child.0.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut lines = BufReader::new(stderr).lines();
        let (mut listeners, mut admin) = (Vec::new(), String::new());
        loop {
            let line = lines
                .next()
                .ok_or_else(|| io::Error::other("isobar does not start"))??;
            let line: serde_json::Value = serde_json::from_str(&line)?;
            let address = line["address"].as_str().unwrap_or_default().to_owned();
            match line["message"].as_str() {
                Some("listening") => listeners.push(address),
                Some("admin") => admin = address,
                Some("ready") => break,
                _ => {}
            }
        }
        // What it says later must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self {
            child,
            listeners,
            admin,
        })
    }

    /// Waits until every backend has its first check result.
    fn wait_checked(&self) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.get("/readyz")?.starts_with(b"HTTP/1.1 200") {
            if Instant::now() > end {
                return Err(io::Error::other("isobar does not become ready"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn get(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(&self.admin)?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }

    fn cost(&self, path: &'static str, scrapes: u32) -> io::Result<Cost> {
        let mut bytes = self.answer(path)?;
        let before = self.spent()?;
        for _ in 0..scrapes {
            bytes = self.answer(path)?;
        }
        let after = self.spent()?;
        let each = |before: &Duration, after: &Duration| {
            after.saturating_sub(*before).as_secs_f64() * 1e3 / f64::from(scrapes)
        };
        let spent = |name: &str| -> Vec<f64> {
            let of = |spent: &[(String, Duration)]| -> Vec<Duration> {
                let named = spent.iter().filter(|(thread, _)| thread.starts_with(name));
                named.map(|(_, time)| *time).collect()
            };
            of(&before)
                .iter()
                .zip(&of(&after))
                .map(|(before, after)| each(before, after))
                .collect()
        };
        Ok(Cost {
            path,
            control_ms: spent("isobar").iter().sum(),
            cores_ms: spent("core-"),
            bytes,
        })
    }

    /// How long the answer is.
    fn answer(&self, path: &str) -> io::Result<usize> {
        let answer = self.get(path)?;
        match answer.starts_with(b"HTTP/1.1 200") {
            true => Ok(answer.len()),
            false => Err(io::Error::other(format!("{path} is not answered"))),
        }
    }

    /// Processor time of each thread so far, by name. The first one, which bears the name of
    /// the program, answers scrapes.
    fn spent(&self) -> io::Result<Vec<(String, Duration)>> {
        let process = procfs::process::Process::new(self.child.0.id().cast_signed());
        let tasks = process
            .and_then(|process| process.tasks())
            .map_err(io::Error::other)?;
        let spent = |task: procfs::process::Task| {
            let name = task.stat()?.comm;
            let time = task.schedstat()?.sum_exec_runtime;
            Ok((name, Duration::from_nanos(time)))
        };
        let spent = tasks.map(|task| task.and_then(spent));
        let spent = spent.collect::<procfs::ProcResult<Vec<_>>>();
        let mut spent = spent.map_err(io::Error::other)?;
        if let Some((first, _)) = spent.first_mut() {
            "isobar".clone_into(first);
        }
        Ok(spent)
    }
}

/// Plays a role on one thread, until whoever started it is gone.
fn play(role: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(role)
}

async fn backends(count: usize) -> io::Result<()> {
    let mut addresses = Vec::new();
    for _ in 0..count {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(4096)?;
        addresses.push(listener.local_addr()?.to_string());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(greet(stream));
            }
        });
    }
    writeln!(io::stdout(), "{}", addresses.join(" "))?;
    std::future::pending().await
}

async fn greet(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    stream.write_all(b"!").await?;
    // Until the other side leaves.
    tokio::io::copy(&mut stream, &mut tokio::io::sink())
        .await
        .map(drop)
}

async fn clients(count: usize, addresses: &[SocketAddr]) -> io::Result<()> {
    let mut open = Vec::new();
    for address in addresses.iter().cycle().take(count) {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.read_exact(&mut [0]).await?;
        open.push(stream);
    }
    writeln!(io::stdout(), "open")?;
    std::future::pending().await
}

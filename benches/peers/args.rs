//! The command line, and what it asks for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};

use crate::contender::Contender;
use crate::discover::Given;
use crate::load::LoadArgs;
use crate::workload::Workload;

/// Measures isobar against its peers.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Workloads to measure [default: all]
    #[arg(long, value_delimiter = ',')]
    workload: Vec<Workload>,
    /// Proxies to measure, and `direct` for none [default: all]
    #[arg(long, value_delimiter = ',')]
    proxy: Vec<Contender>,
    /// Short measurements
    #[arg(long)]
    pub quick: bool,
    /// Rounds, each of every workload through every proxy [default: 5, or 3 with --quick]
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Milliseconds of each measurement [default: 2000, or 350 with --quick]
    #[arg(long)]
    pub measure_ms: Option<u64>,
    /// Workers of each proxy
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// The isobar to measure [default: the one that cargo built]
    #[arg(long, value_name = "PATH")]
    isobar: Option<PathBuf>,
    /// An HAProxy to measure instead of the installed one; for several, give it again
    #[arg(long, value_name = "PATH")]
    haproxy: Vec<PathBuf>,
    /// An NGINX to measure instead of the installed one; for several, give it again
    #[arg(long, value_name = "PATH")]
    nginx: Vec<PathBuf>,
    /// Keep the raw figures, and a page of tables, under benches/results
    #[arg(long)]
    pub save: bool,
    /// Measure nothing; print what the README shows of a saved result
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Only workloads whose name contains one of these (cargo passes its filter here)
    filter: Vec<String>,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
    /// Passed by cargo test: only a self-check
    #[arg(long, hide = true)]
    test: bool,
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What this program does when it has started itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Serve on so many addresses
    #[command(hide = true)]
    Backend { count: usize },
    /// Play the clients
    #[command(hide = true)]
    Load(LoadArgs),
    /// Become another program that ends with its parent
    #[command(hide = true)]
    Guard {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

impl Args {
    /// Whether this is `cargo test`, which starts benches without `--bench`.
    pub(crate) fn is_test(&self) -> bool {
        self.test || !self.bench
    }

    /// Whether it was said which proxies to measure.
    pub(crate) fn names_proxies(&self) -> bool {
        !self.proxy.is_empty()
    }

    /// Whether the isobar is the one that cargo built, out of this repository.
    pub(crate) fn is_own_build(&self) -> bool {
        self.isobar.is_none()
    }

    /// The programs that were given.
    pub(crate) fn given(&self) -> Given<'_> {
        let built = Path::new(env!("CARGO_BIN_EXE_isobar"));
        Given {
            isobar: self.isobar.as_deref().unwrap_or(built),
            haproxy: &self.haproxy,
            nginx: &self.nginx,
        }
    }

    /// What is to be measured, columns.
    pub(crate) fn contenders(&self) -> Vec<Contender> {
        let all = Contender::value_variants().iter().copied();
        all.filter(|one| self.proxy.is_empty() || self.proxy.contains(one))
            .collect()
    }

    /// What is to be measured, rows. With a single worker there is nothing to scale.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        let asked = |workload: &Workload| {
            let name = workload.name();
            (self.workload.is_empty() || self.workload.contains(workload))
                && (self.filter.is_empty() || self.filter.iter().any(|part| name.contains(part)))
                && (self.threads > 1 || *workload != Workload::Scale)
        };
        let all = Workload::value_variants().iter().copied();
        all.filter(asked).collect()
    }
}

/// The command as somebody else would type it: of paths only the names of files are kept, as
/// directories of one machine mean nothing on another, and nothing that cargo adds.
pub(crate) fn command(arguments: impl IntoIterator<Item = String>) -> String {
    let mut command = "cargo bench --bench peers".to_owned();
    let typed = arguments
        .into_iter()
        .filter(|argument| argument != "--bench");
    for (index, argument) in typed.enumerate() {
        command += if index == 0 { " -- " } else { " " };
        command += &without_directories(&argument);
    }
    command
}

fn without_directories(argument: &str) -> String {
    let (option, value) = match argument.split_once('=') {
        Some((option, value)) => (format!("{option}="), value),
        None => (String::new(), argument),
    };
    let name = value.rsplit('/').next().unwrap_or(value);
    option + name
}

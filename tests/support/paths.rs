//! One case on every way that bytes can take: each engine on each address family.
//!
//! All ways share one process, each with a listener, a pool and a backend of its own, and run
//! at the same time: a case costs its time once, not nine times.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::backend::Backend;
use super::family::Family;
use super::isobar::Isobar;
use super::stream::Stream;

/// A pool's `relay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Copy,
    Splice,
    Auto,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copy => "copy",
            Self::Splice => "splice",
            Self::Auto => "auto",
        })
    }
}

/// One way: a listener and a backend of one family, with one engine between them.
pub struct Path<'a> {
    /// Of its listener and its pool.
    pub name: String,
    pub engine: Engine,
    pub family: Family,
    /// Played by the test.
    pub backend: &'a Backend,
    pub isobar: &'a Isobar,
}

impl Path<'_> {
    /// A client.
    #[track_caller]
    pub fn connect(&self) -> Stream {
        self.isobar.connect(&self.name)
    }

    /// A connection with both its ends: the client's and the backend's.
    #[track_caller]
    pub fn open(&self) -> (Stream, Stream) {
        let client = self.connect();
        let backend = self.backend.accept();
        (client, backend)
    }

    /// Waits until `n` of its connections have ended for `reason`.
    #[track_caller]
    pub fn wait_ended(&self, reason: &str, n: u64) {
        self.isobar.wait_ended(&self.name, reason, n);
    }

    /// Whether a reset can be told from a close.
    pub fn knows_reset(&self) -> bool {
        self.family != Family::Unix
    }
}

/// Runs `case` on every path.
#[track_caller]
pub fn on_every_path(case: impl Fn(&Path<'_>) + Sync) {
    on_every_path_with("", case);
}

/// The same with further lines for every pool; `$POOL` in them is the pool's name.
#[track_caller]
pub fn on_every_path_with(settings: &str, case: impl Fn(&Path<'_>) + Sync) {
    let ways = ways();
    let backends: Vec<_> = ways
        .iter()
        .map(|(_, family)| Backend::manual(*family))
        .collect();
    let text: String = ways
        .iter()
        .zip(&backends)
        .map(|(way, backend)| tables(*way, backend, settings))
        .collect();
    let isobar = Isobar::start(&text);
    let paths = ways.into_iter().zip(&backends);
    let paths = paths.map(|((engine, family), backend)| Path {
        name: format!("{engine}-{family}"),
        engine,
        family,
        backend,
        isobar: &isobar,
    });
    run(&paths.collect::<Vec<_>>(), case);
}

fn ways() -> Vec<(Engine, Family)> {
    let engines = [Engine::Copy, Engine::Splice, Engine::Auto];
    let families = Family::all();
    let pairs = engines.into_iter().flat_map(|engine| {
        let families = families.iter();
        families.map(move |family| (engine, *family))
    });
    pairs.collect()
}

fn tables((engine, family): (Engine, Family), backend: &Backend, settings: &str) -> String {
    let name = format!("{engine}-{family}");
    let bind = match family {
        Family::Ipv4 => "127.0.0.1:0".to_owned(),
        Family::Ipv6 => "[::1]:0".to_owned(),
        Family::Unix => format!("unix:$DIR/{name}.sock"),
    };
    let health = "[pool.$POOL.health]\nkind = \"none\"\n";
    let health = health.replace("$POOL", &name);
    let settings = settings.replace("$POOL", &name);
    format!(
        "[listener.{name}]\nbind = \"{bind}\"\npool = \"{name}\"\n\
         [pool.{name}]\nrelay = \"{engine}\"\nbackends = [{}]\n{settings}\n{health}",
        backend.entry()
    )
}

/// Every path on a thread of its own; the first failure is the test's, under its path's name.
fn run(paths: &[Path<'_>], case: impl Fn(&Path<'_>) + Sync) {
    let case = &case;
    let failure = std::thread::scope(|scope| {
        let threads: Vec<_> = paths
            .iter()
            .map(|path| {
                scope.spawn(move || {
                    let outcome = catch_unwind(AssertUnwindSafe(|| case(path)));
                    if outcome.is_err() {
                        eprintln!("--- failed on {}", path.name);
                    }
                    outcome
                })
            })
            .collect();
        let outcomes = threads.into_iter().map(|thread| thread.join());
        outcomes.fold(None, |first, outcome| match outcome {
            Ok(Ok(())) => first,
            Ok(Err(failure)) | Err(failure) => first.or(Some(failure)),
        })
    });
    if let Some(failure) = failure {
        resume_unwind(failure);
    }
}

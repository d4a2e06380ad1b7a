//! The server: what is started, in which order, and how it stops.
//!
//! Everything that can fail fails before the first connection is accepted: all listeners and
//! the admin endpoint are bound first, then the cores start. The thread that calls
//! [`Server::run`] becomes the control plane: checks, the admin endpoint and signals.

mod core;
mod limits;
mod notify;
mod privileges;
mod signals;
mod stop;
mod supervised;
mod tend;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::core::CorePlan;
use crate::admin::{self, Parts, Running};
use crate::check;
use crate::config::{self, Config};
use crate::conn::CoreHandle;
use crate::listener::Listener;
use crate::listener::accept::Admission;
use crate::log;
use crate::metrics::Process;
use crate::net::{Address, Inherited, ListenError};
use crate::pool::Pool;
use limits::{Limits, Machine};
use signals::Signals;

pub use limits::warnings as limit_warnings;
pub use notify::{Notifier, for_successor};
pub use privileges::{UserError, drop_to, look_up};

/// How often the windows of percentiles move on.
const HISTOGRAM_STEP: Duration = Duration::from_secs(10);

/// Why the balancer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No thread or no runtime to be had.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// The checks of a pool cannot be set up.
    #[error("pool {pool}: {source}")]
    Check {
        /// The pool's name.
        pool: Arc<str>,
        /// What is wrong.
        source: check::SetupError,
    },
}

/// A balancer whose sockets are bound and whose cores run.
pub struct Server {
    /// Of the control plane.
    runtime: tokio::runtime::Runtime,
    signals: Signals,
    serving: Serving,
}

/// What the control plane has to do with.
struct Serving {
    running: Arc<Running>,
    admin: Option<admin::Bound>,
    checks: Vec<check::Checks>,
    /// Ends the accept loops.
    close: CancellationToken,
    /// Ends the checks.
    halt: CancellationToken,
    accepting: TaskTracker,
    notifier: Arc<Notifier>,
}

impl Server {
    /// Binds every socket, then starts the cores. `path` is where `loaded` was read from; a
    /// socket in `inherited` is taken instead of a new one.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    pub fn start(
        loaded: config::Loaded,
        path: PathBuf,
        log: log::Handle,
        inherited: Inherited,
    ) -> Result<Self, StartError> {
        // First of all, so that no signal finds its default in force, which would be the end.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let signals = {
            let _entered = runtime.enter();
            Signals::listen().map_err(StartError::Thread)?
        };
        let serving = Serving::start(loaded, path, log, inherited)?;
        Ok(Self {
            runtime,
            signals,
            serving,
        })
    }

    /// The parts of the running balancer.
    pub fn running(&self) -> &Arc<Running> {
        &self.serving.running
    }

    /// Serves until a signal, or `stop`, says to stop and everything has ended.
    pub fn run(self, stop: CancellationToken) {
        let Self {
            runtime,
            signals,
            serving,
        } = self;
        runtime.block_on(LocalSet::new().run_until(serving.control(signals, stop)));
        // Name look-ups of the admin side may hang in a helper thread; nobody waits for them.
        runtime.shutdown_background();
    }
}

impl Serving {
    fn start(
        loaded: config::Loaded,
        path: PathBuf,
        log: log::Handle,
        mut inherited: Inherited,
    ) -> Result<Self, StartError> {
        let config = &loaded.config;
        let machine = Machine::read();
        let limits = Limits::new(config, &machine);
        let cores = limits.cores;
        for warning in limits::warnings_on(&machine, &loaded) {
            warning.log();
        }
        let pools = build_pools(config, cores);
        let checks = build_checks(&pools)?;
        let listeners = bind_listeners(config, &pools, cores, &mut inherited)?;
        let admin = admin::bind(&config.admin, &mut inherited)?;
        for what in inherited.left() {
            tracing::warn!("{what}");
        }
        let process = Arc::new(Process::new(cores));
        let (handles, commands): (Vec<_>, Vec<_>) = (0..cores).map(|_| CoreHandle::new()).unzip();
        let running = Arc::new(Running::new(Parts {
            listeners,
            pools,
            admission: Arc::new(Admission::new(limits.connections, Arc::clone(&process))),
            process,
            cores: handles,
            admin_address: admin.as_ref().map(|admin| admin.address().clone()),
            log,
            path,
            config: Arc::new(loaded),
        }));
        let serving = Self {
            running,
            admin,
            checks,
            close: CancellationToken::new(),
            halt: CancellationToken::new(),
            accepting: TaskTracker::new(),
            notifier: Arc::new(Notifier::from_environment()),
        };
        for (index, commands) in commands.into_iter().enumerate() {
            let plan = serving.core_plan(index, limits, commands);
            plan.spawn().map_err(StartError::Thread)?;
        }
        Ok(serving)
    }

    fn core_plan(
        &self,
        index: usize,
        limits: Limits,
        commands: tokio::sync::mpsc::UnboundedReceiver<crate::conn::Command>,
    ) -> CorePlan {
        CorePlan {
            index,
            pipes: limits.pipes_per_core,
            listeners: self.running.listeners.clone(),
            admission: Arc::clone(&self.running.admission),
            cores: self.running.cores.clone(),
            commands,
            log: self.running.log.clone(),
            close: self.close.clone(),
            accepting: self.accepting.clone(),
        }
    }

    async fn control(mut self, signals: Signals, stop: CancellationToken) {
        for checks in std::mem::take(&mut self.checks) {
            checks.spawn(&self.halt);
        }
        self.tend_pools();
        if let Some(admin) = self.admin.take() {
            tokio::task::spawn_local(admin.serve(Arc::clone(&self.running)));
        }
        self.say_ready();
        supervised::begin(&self.running, &self.notifier);
        self.until_stopped(signals, stop).await;
    }

    fn tend_pools(&self) {
        for pool in &self.running.pools {
            tokio::task::spawn_local(Arc::clone(pool).tend());
            let cores = self.running.cores.clone();
            tokio::task::spawn_local(tend::keep_time(Arc::clone(pool), cores));
        }
        tokio::task::spawn_local(step_histograms(Arc::clone(&self.running)));
    }

    fn say_ready(&self) {
        for listener in &self.running.listeners {
            for address in &listener.addresses {
                tracing::info!(listener = &*listener.settings.name, %address, "listening");
            }
        }
        if let Some(address) = &self.running.admin_address {
            tracing::info!(%address, "admin");
        }
        tracing::info!("ready");
        self.notifier.ready();
    }
}

fn build_pools(config: &Config, cores: usize) -> Vec<Arc<Pool>> {
    let build = |settings: &Arc<config::Pool>| Pool::new(Arc::clone(settings), cores);
    let pools: Vec<_> = config.pools.iter().map(build).collect();
    for pool in &pools {
        let settings = pool.settings();
        let fallback = settings.fallback.as_deref();
        if let Some(fallback) = pools.iter().find(|other| Some(&*other.name) == fallback) {
            pool.set_fallback(fallback);
        }
    }
    pools
}

fn build_checks(pools: &[Arc<Pool>]) -> Result<Vec<check::Checks>, StartError> {
    let build = |pool: &Arc<Pool>| {
        check::Checks::new(Arc::clone(pool)).map_err(|source| StartError::Check {
            pool: Arc::clone(&pool.name),
            source,
        })
    };
    pools.iter().map(build).collect()
}

fn bind_listeners(
    config: &Config,
    pools: &[Arc<Pool>],
    cores: usize,
    inherited: &mut Inherited,
) -> Result<Vec<Arc<Listener>>, ListenError> {
    let mut bind = |settings: &Arc<config::Listener>| {
        let pool = pools
            .iter()
            .find(|pool| Some(&pool.name) == settings.pool.as_ref());
        Listener::bind(Arc::clone(settings), pool.cloned(), cores, inherited).map(Arc::new)
    };
    config.listeners.iter().map(&mut bind).collect()
}

async fn step_histograms(running: Arc<Running>) {
    loop {
        tokio::time::sleep(HISTOGRAM_STEP).await;
        let now = Instant::now();
        running
            .pools
            .iter()
            .for_each(|pool| pool.step_histograms(now));
    }
}

/// Says where everything listens; for callers that print it themselves.
pub fn addresses(running: &Running) -> impl Iterator<Item = (&str, &Address)> {
    running.listeners.iter().flat_map(|listener| {
        let name = &*listener.settings.name;
        listener
            .addresses
            .iter()
            .map(move |address| (name, address))
    })
}

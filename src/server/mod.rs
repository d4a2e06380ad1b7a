//! The server: what is started, in which order, and how it stops.
//!
//! Everything that can fail fails before the first connection is accepted: all listeners and
//! the admin endpoint are bound first, then the cores start. The thread that calls
//! [`Server::run`] becomes the control plane: checks, the admin endpoint and signals.

mod accepting;
mod core;
mod limits;
mod notify;
mod privileges;
mod signals;
mod stop;
mod supervised;
mod tend;
mod upgrade;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use self::core::CorePlan;
use crate::admin::{self, Parts, Running, UpgradeRequest};
use crate::check;
use crate::config::{self, Config};
use crate::conn::CoreHandle;
use crate::listener::Listener;
use crate::listener::accept::Admission;
use crate::log;
use crate::metrics::Process;
use crate::net::{Address, Inherited, ListenError};
use crate::pool::Pool;
use crate::upgrade::heir::{Heir, HeirError};
use crate::upgrade::program::Program;
use accepting::Accepting;
use limits::{Limits, Machine};
use signals::Signals;
use stop::Orders;
use upgrade::Upgrades;

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
    program: Option<Program>,
    upgrades: UnboundedReceiver<UpgradeRequest>,
}

/// What the control plane has to do with.
struct Serving {
    running: Arc<Running>,
    admin: Option<admin::Bound>,
    admin_open: RefCell<Option<admin::Open>>,
    checks: Vec<check::Checks>,
    /// Ends the checks.
    halt: CancellationToken,
    accepting: Accepting,
    notifier: Arc<Notifier>,
}

impl Server {
    /// Binds every socket, starts the cores, and accepts. `path` is where `loaded` was read
    /// from; a socket in `inherited` is taken instead of a new one.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    pub fn start(
        loaded: config::Loaded,
        path: PathBuf,
        log: log::Handle,
        inherited: Inherited,
    ) -> Result<Self, StartError> {
        let server = Self::prepare(loaded, path, log, inherited)?;
        server
            .serving
            .accepting
            .start()
            .map_err(StartError::Thread)?;
        Ok(server)
    }

    /// The same, but nobody is accepted before [`run_as_heir`](Self::run_as_heir).
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then, but for what was inherited.
    pub fn prepare(
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
        let (ask, upgrades) = unbounded_channel();
        let serving = Serving::start(loaded, path, log, inherited, ask)?;
        Ok(Self {
            runtime,
            signals,
            serving,
            program: None,
            upgrades,
        })
    }

    /// May be upgraded: what is at the path of `program` then takes the place of this process.
    pub fn replaceable_by(mut self, program: Program) -> Self {
        self.program = Some(program);
        self
    }

    /// The parts of the running balancer.
    pub fn running(&self) -> &Arc<Running> {
        &self.serving.running
    }

    /// Serves until a signal, or `stop`, says to stop and everything has ended; or until another
    /// process has taken over everything.
    pub fn run(self, stop: CancellationToken) {
        let Self {
            runtime,
            signals,
            serving,
            program,
            upgrades,
        } = self;
        let orders = Orders {
            signals,
            upgrades: Upgrades::new(program, upgrades),
            stop,
        };
        runtime.block_on(LocalSet::new().run_until(serving.control(orders)));
        // Name look-ups of the admin side may hang in a helper thread; nobody waits for them.
        runtime.shutdown_background();
    }

    /// Takes the place of the process that `heir` hears from, then serves as [`run`](Self::run)
    /// does.
    ///
    /// # Errors
    /// [`HeirError`]: the other process goes on, and this one must end.
    pub fn run_as_heir(self, heir: Heir) -> Result<(), HeirError> {
        let serving = &self.serving;
        let successor = heir.succeed(&serving.running, || serving.begin_to_accept())?;
        std::thread::Builder::new()
            .name("upgrade".to_owned())
            .spawn(|| successor.take_over())
            .map_err(HeirError::Accept)?;
        self.run(CancellationToken::new());
        Ok(())
    }
}

impl Serving {
    fn start(
        loaded: config::Loaded,
        path: PathBuf,
        log: log::Handle,
        mut inherited: Inherited,
        upgrades: UnboundedSender<UpgradeRequest>,
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
            upgrades,
        }));
        let serving = Self {
            accepting: Accepting::new(&running),
            running,
            admin,
            admin_open: RefCell::default(),
            checks,
            halt: CancellationToken::new(),
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
            process: Arc::clone(&self.running.process),
            commands,
            log: self.running.log.clone(),
        }
    }

    async fn control(mut self, orders: Orders) {
        for checks in std::mem::take(&mut self.checks) {
            checks.spawn(&self.halt);
        }
        self.tend_pools();
        self.open_admin();
        self.say_ready();
        supervised::begin(&self.running, &self.notifier);
        self.until_stopped(orders).await;
    }

    /// Answers at the admin endpoint from now on.
    fn open_admin(&self) {
        let open = self.admin.as_ref().map(|admin| admin.open(&self.running));
        self.admin_open.replace(open);
    }

    /// Leaves the admin endpoint to another process, but for who is being answered.
    fn close_admin(&self) {
        if let Some(open) = &*self.admin_open.borrow() {
            open.close();
        }
        if let Some(admin) = &self.admin {
            admin.socket().give_away_file();
        }
    }

    /// Accepts with sockets that were another process's, as their owner from now on.
    fn begin_to_accept(&self) -> io::Result<()> {
        self.accepting.start()?;
        let listeners = self.running.listeners.iter();
        let sockets = listeners.flat_map(|listener| listener.sockets());
        sockets.for_each(|socket| socket.own_file());
        if let Some(admin) = &self.admin {
            admin.socket().own_file();
        }
        Ok(())
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

//! The server: what is started, in which order, and how it stops.
//!
//! Everything that can fail fails before the first connection is accepted: all listeners and
//! the admin endpoint are bound first, then the cores start. The thread that calls
//! [`Server::run`] becomes the control plane: checks, the admin endpoint and signals.

mod care;
mod core;
mod faults;
mod limits;
mod live;
mod notify;
mod privileges;
mod reload;
mod shed;
mod signals;
mod stop;
mod supervised;
mod tend;
mod upgrade;
mod watch;

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use self::core::{CorePlan, Opener};
use crate::admin::orders::{Order, Orders};
use crate::admin::{
    self, Configured, Current, Endpoint, Leaving, Running, UpgradeRequest, Upgrading,
};
use crate::check;
use crate::config::{self, Config};
use crate::conn::{Command, CoreHandle};
use crate::listener::accept::Admission;
use crate::listener::{Door, Listener, Listening, options};
use crate::log;
use crate::metrics::Process;
use crate::net::{Address, Inherited, ListenError};
use crate::pool::{Pool, Wiring};
use crate::resolve::{Resolver, System};
use crate::upgrade::heir::{Heir, HeirError};
use crate::upgrade::program::Program;
use care::Care;
use limits::{Limits, Machine};
use reload::Reloader;
use signals::Signals;
use stop::{Ending, Sources};
use upgrade::Upgrades;

pub use faults::{faults, faults_of_checks, unknown_user};
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
    admin: Rc<Endpoint>,
    checks: Vec<check::Checks>,
    orders: UnboundedReceiver<Order>,
    opener: Opener,
    /// Ends the checks.
    halt: CancellationToken,
    /// SIGHUP came.
    hangup: Rc<Notify>,
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
        let opened = server.runtime.block_on(server.serving.open());
        opened.map_err(StartError::Thread)?;
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
        let (serving, upgrades) = Serving::start(loaded, path, log, inherited)?;
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
        let sources = Sources {
            signals,
            upgrades: Upgrades::new(program, upgrades),
            stop,
        };
        runtime.block_on(LocalSet::new().run_until(serving.control(sources)));
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
        let accept = || self.runtime.block_on(serving.begin_to_accept());
        let successor = heir.succeed(&serving.running, accept)?;
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
    ) -> Result<(Self, UnboundedReceiver<UpgradeRequest>), StartError> {
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
        let (orders, receiver) = Orders::new();
        let (upgrading, upgrades) = Upgrading::new();
        let at = SystemTime::now();
        let running = Arc::new(Running {
            path,
            started: Instant::now(),
            started_at: at,
            admission: Arc::new(Admission::new(limits.connections, Arc::clone(&process))),
            process,
            cores: handles,
            log,
            series: admin::Recorder::default(),
            orders,
            upgrading,
            current: Current::new(Configured {
                file: Arc::new(loaded),
                generation: 1,
                loaded_at: at,
                listeners,
                pools,
                leaving: Leaving::default(),
                admin_address: admin.as_ref().map(|admin| admin.address().clone()),
            }),
        });
        for (index, commands) in commands.into_iter().enumerate() {
            let plan = core_plan(&running, index, limits, commands);
            plan.spawn().map_err(StartError::Thread)?;
        }
        let serving = Self {
            opener: Opener {
                admission: Arc::clone(&running.admission),
                cores: running.cores.clone(),
            },
            running,
            admin: Rc::new(Endpoint::new(admin)),
            checks,
            orders: receiver,
            halt: CancellationToken::new(),
            hangup: Rc::default(),
            notifier: Arc::new(Notifier::from_environment()),
        };
        Ok((serving, upgrades))
    }

    /// Has every core accept from every listener.
    async fn open(&self) -> io::Result<()> {
        let doors = self.running.configured().doors();
        self.opener.open(&doors).await
    }

    /// Accepts with sockets that were another process's, as their owner from now on.
    async fn begin_to_accept(&self) -> io::Result<()> {
        self.open().await?;
        let doors = self.running.configured().doors();
        let sockets = doors.iter().filter_map(|door| door.socket());
        let sockets = sockets.chain(self.admin.socket());
        sockets.for_each(|socket| socket.own_file());
        Ok(())
    }

    async fn control(self, sources: Sources) {
        let running = &self.running;
        let resolver = Resolver::new(System::of_this_process(), Arc::clone(&running.process));
        let begin = |checks| Care::begin(checks, &running.cores, &self.halt, &resolver);
        let reloader = Reloader {
            running: Arc::clone(running),
            cares: self.checks.into_iter().map(begin).collect(),
            opener: self.opener.clone(),
            halt: self.halt.clone(),
            resolver: Rc::clone(&resolver),
            admin: Rc::clone(&self.admin),
            notifier: Arc::clone(&self.notifier),
        };
        tokio::task::spawn_local(step_histograms(Arc::clone(running)));
        tokio::task::spawn_local(record_series(Arc::clone(running)));
        self.admin.open(running);
        tokio::task::spawn_local(watch::run(Arc::clone(running)));
        tokio::task::spawn_local(reloader.run(self.orders, Rc::clone(&self.hangup)));
        say_ready(running);
        self.notifier.ready();
        supervised::begin(running, &self.notifier);
        let ending = Ending {
            running: self.running,
            opener: self.opener,
            admin: self.admin,
            halt: self.halt,
            hangup: self.hangup,
            notifier: self.notifier,
        };
        ending.until_ended(sources).await;
    }
}

fn core_plan(
    running: &Running,
    index: usize,
    limits: Limits,
    commands: UnboundedReceiver<Command>,
) -> CorePlan {
    CorePlan {
        index,
        pipes: limits.pipes_per_core,
        process: Arc::clone(&running.process),
        commands,
        log: running.log.clone(),
    }
}

fn say_ready(running: &Running) {
    let configured = running.configured();
    for Listening { listener, doors } in &configured.listeners {
        for door in doors {
            let (name, address) = (&*listener.settings.name, door.address());
            tracing::info!(listener = name, %address, "listening");
        }
    }
    if let Some(address) = &configured.admin_address {
        tracing::info!(%address, "admin");
    }
    tracing::info!("ready");
}

fn build_pools(config: &Config, cores: usize) -> Vec<Arc<Pool>> {
    let build = |settings: &Arc<config::Pool>| Pool::new(Arc::clone(settings), cores);
    let pools: Vec<_> = config.pools.iter().map(build).collect();
    for (index, pool) in pools.iter().enumerate() {
        pool.wire(Wiring::of(&pools, &config.pools, index));
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
) -> Result<Vec<Listening>, ListenError> {
    let mut bind = |settings: &Arc<config::Listener>| {
        let mut all = pools.iter();
        let pool = all.find(|pool| Some(&pool.name) == settings.pool.as_ref());
        let options = options(settings, pool.map(|pool| pool.settings()).as_deref());
        let settings = Arc::clone(settings);
        let listener = Arc::new(Listener::new(settings, pools, cores));
        let mut doors = Vec::new();
        for address in &listener.settings.bind {
            let own = Arc::clone(&listener);
            doors.push(Door::open(address, options, own, inherited)?);
        }
        Ok(Listening { listener, doors })
    };
    config.listeners.iter().map(&mut bind).collect()
}

async fn step_histograms(running: Arc<Running>) {
    loop {
        tokio::time::sleep(HISTOGRAM_STEP).await;
        let now = Instant::now();
        let configured = running.configured();
        configured
            .every_pool()
            .for_each(|pool| pool.step_histograms(now));
    }
}

async fn record_series(running: Arc<Running>) {
    let mut steps = tokio::time::interval(crate::series::STEP);
    steps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        steps.tick().await;
        admin::sample(&running);
    }
}

/// Says where everything listens; for callers that print it themselves.
pub fn addresses(running: &Running) -> Vec<(Arc<str>, Address)> {
    let configured = running.configured();
    let listeners = configured.listeners.iter();
    let all = listeners.flat_map(|listening| {
        let name = &listening.listener.settings.name;
        let addresses = listening.addresses();
        addresses.map(move |address| (Arc::clone(name), address.clone()))
    });
    all.collect()
}

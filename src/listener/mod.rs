//! Listeners: bound addresses and who may come in through them.
//!
//! A [`Listener`] is bound by the control plane before any core starts, so that all listeners
//! bind or none does. Every core then runs one accept loop ([`accept`]) for each address.

pub mod accept;
pub mod admit;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;

use crate::config;
use crate::conn::Origin;
use crate::log::Rejections;
use crate::metrics::PerCore;
use crate::net::{Address, Inherited, ListenError, ListenOptions, Liveness, Socket};
use crate::pool::Pool;
use accept::AcceptErrors;
use admit::Gate;

/// A listener of the running balancer.
#[derive(Debug)]
pub struct Listener {
    /// `[listener.NAME]`.
    pub settings: Arc<config::Listener>,
    /// What its connections know of it.
    pub origin: Arc<Origin>,
    /// Its limit.
    pub gate: Gate,
    /// What accept(2) could not do.
    pub errors: AcceptErrors,
    /// Where it listens, ports chosen by the kernel included.
    pub addresses: Vec<Address>,
    /// Bound sockets until they are closed.
    sockets: Mutex<Vec<Arc<Socket>>>,
}

impl Listener {
    /// Listens on every address of `settings`, by the socket in `inherited` where there is one.
    ///
    /// # Errors
    /// [`ListenError`] of the first address that cannot be bound; the others are closed again.
    pub fn bind(
        settings: Arc<config::Listener>,
        pool: Option<Arc<Pool>>,
        cores: usize,
        inherited: &mut Inherited,
    ) -> Result<Self, ListenError> {
        let options = options(&settings, pool.as_deref());
        let sockets = settings
            .bind
            .iter()
            .map(|address| {
                let address = inherited.chosen(Some(&settings.name), address);
                Socket::open(&address, options, inherited).map(Arc::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            origin: Arc::new(Origin {
                name: Arc::clone(&settings.name),
                counters: PerCore::new(cores),
                rejections: Rejections::new(Arc::clone(&settings.name), Instant::now()),
                pool: ArcSwapOption::new(pool),
            }),
            gate: Gate::new(settings.max_connections),
            errors: AcceptErrors::default(),
            addresses: sockets.iter().map(|s| s.address().clone()).collect(),
            sockets: Mutex::new(sockets),
            settings,
        })
    }

    /// Its sockets, for a core to accept from.
    pub fn sockets(&self) -> Vec<Arc<Socket>> {
        self.lock().clone()
    }

    /// Lets go of its sockets; each is closed when the last core has let go of it too.
    pub fn close(&self) {
        self.lock().clear();
    }

    /// Whether it takes connections: open, and not at a limit.
    pub fn is_accepting(&self) -> bool {
        !self.lock().is_empty() && !self.gate.is_paused() && !self.errors.is_paused()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Socket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn options(settings: &config::Listener, pool: Option<&Pool>) -> ListenOptions {
    let liveness = pool
        .map(Pool::settings)
        .map_or(Liveness::OFF, |pool| Liveness {
            keepalive: pool.keepalive,
            user_timeout: pool.user_timeout,
        });
    ListenOptions {
        backlog: settings.backlog,
        ipv6_only: settings.ipv6_only,
        unix_mode: settings.unix_mode,
        liveness,
    }
}

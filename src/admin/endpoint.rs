//! Binding and serving the endpoint.

use std::sync::Arc;

use super::Running;
use crate::config;
use crate::net::{Address, ListenError, ListenOptions, Liveness, Socket};

/// The bound endpoint.
pub struct Bound {
    socket: Socket,
}

/// Binds the endpoint; `None`: it is off.
///
/// # Errors
/// [`ListenError`].
pub fn bind(settings: &config::Admin) -> Result<Option<Bound>, ListenError> {
    let Some(address) = &settings.bind else {
        return Ok(None);
    };
    let options = ListenOptions {
        backlog: 128,
        ipv6_only: false,
        unix_mode: 0o600,
        liveness: Liveness::OFF,
    };
    Socket::bind(address, options).map(|socket| Some(Bound { socket }))
}

impl Bound {
    /// Where it listens.
    pub fn address(&self) -> &Address {
        self.socket.address()
    }

    /// Answers requests until the process ends.
    pub async fn serve(self, _running: Arc<Running>) {
        std::future::pending().await
    }
}

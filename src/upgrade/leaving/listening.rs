//! What listens, as it is handed over.

use std::sync::Arc;

use crate::admin::Configured;
use crate::listener::Listening;
use crate::net::{Address, Keeper, Socket};
use crate::upgrade::message::SocketRecord;

/// What listens, as the new process is told of it.
pub fn sockets(
    configured: &Configured,
    admin: Option<Arc<Socket>>,
) -> Vec<(SocketRecord, Arc<Socket>)> {
    let mut all = Vec::new();
    for Listening { listener, doors } in &configured.listeners {
        for door in doors {
            if let Some(socket) = door.socket() {
                let name = Some(Arc::clone(&listener.settings.name));
                all.push((record(name, door.configured(), &socket), socket));
            }
        }
    }
    if let (Some(configured), Some(socket)) = (&configured.file.config.admin.bind, admin) {
        all.push((record(None, configured, &socket), socket));
    }
    all
}

fn record(listener: Option<Arc<str>>, configured: &Address, socket: &Socket) -> SocketRecord {
    SocketRecord {
        listener,
        configured: configured.clone(),
        bound: socket.address().clone(),
        service_manager: socket.keeper() == Keeper::ServiceManager,
    }
}

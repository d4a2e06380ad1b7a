//! A service manager, as far as it hears: the other end of `NOTIFY_SOCKET`.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use super::deadline::patience;

/// Hears what a service says of itself.
pub struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    /// At a path in this directory.
    pub fn in_dir(dir: &Path) -> Self {
        let path = dir.join("notify");
        Self {
            socket: UnixDatagram::bind(&path).expect("a socket"),
            name: path.to_str().expect("a plain path").to_owned(),
        }
    }

    /// In the abstract namespace.
    pub fn abstract_one(name: &str) -> Self {
        let name = format!("isobar-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        Self {
            socket: UnixDatagram::bind_addr(&address).expect("a socket"),
            name: format!("@{name}"),
        }
    }

    /// `NOTIFY_SOCKET`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next message.
    #[track_caller]
    pub fn next(&self) -> String {
        self.next_within(patience())
            .expect("the service says something")
    }

    /// The next message, if one comes in this time.
    pub fn next_within(&self, time: Duration) -> Option<String> {
        let mut message = [0; 4096];
        self.socket
            .set_read_timeout(Some(time))
            .expect("a time above 0");
        match self.socket.recv(&mut message) {
            Ok(n) => Some(String::from_utf8(message[..n].to_vec()).expect("text")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("cannot hear: {error}"),
        }
    }

    /// Everything up to a message that begins so, which is the last.
    #[track_caller]
    pub fn until(&self, begin: &str) -> Vec<String> {
        let mut heard: Vec<String> = Vec::new();
        let end = Instant::now() + patience();
        loop {
            assert!(Instant::now() < end, "{begin} was not heard, but {heard:?}");
            let Some(message) = self.next_within(Duration::from_millis(50)) else {
                continue;
            };
            let is_it = message.starts_with(begin);
            heard.push(message);
            if is_it {
                return heard;
            }
        }
    }
}

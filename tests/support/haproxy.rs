//! HAProxy, with one way in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tempfile::TempDir;

use super::deadline::wait_until;
use super::programs::{Program, directory_of, own_address, server, wait_listening, write_into};

/// The user that Debian's package has it run as.
const USER: &str = "haproxy";

/// One HAProxy; ended with the test.
pub struct Haproxy {
    address: SocketAddr,
    dir: TempDir,
    _program: Program,
}

impl Haproxy {
    /// Passes connections on to `target` with these keys of its `server` line. It listens on an
    /// address and on a Unix socket.
    #[track_caller]
    pub fn way_to(target: SocketAddr, keys: &str) -> Self {
        Self::start(&format!(
            "listen in\nmode tcp\nbind $ADDRESS\nbind unix@$DIR/in.sock mode 666\n\
             server target {target} {keys}\n"
        ))
    }

    /// A web server that wants a PROXY header, and answers with the two addresses that it knows
    /// of its client's connection.
    #[track_caller]
    pub fn mirror() -> Self {
        Self::start(
            "frontend in\nmode http\nbind $ADDRESS accept-proxy\n\
             http-request return status 200 content-type text/plain \
             lf-string \"%[src]:%[src_port] %[dst]:%[dst_port]\\n\"\n",
        )
    }

    #[track_caller]
    fn start(text: &str) -> Self {
        let address = own_address();
        let dir = directory_of(USER);
        let path = dir.path().to_str().expect("a plain path");
        let text = format!(
            "global\nmaxconn 1000\n\
             defaults\ntimeout connect 60s\ntimeout client 60s\ntimeout server 60s\n{text}"
        );
        let text = text.replace("$DIR", path);
        let text = text.replace("$ADDRESS", &address.to_string());
        write_into(&dir, "haproxy.cfg", USER, text);
        let mut command = server(USER, "TERM", "haproxy");
        command
            .arg("-db")
            .arg("-f")
            .arg(dir.path().join("haproxy.cfg"));
        let program = Program::start_ended_by(Signal::TERM, &mut command);
        wait_listening(address);
        Self {
            address,
            dir,
            _program: program,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket on which it listens beside that.
    #[track_caller]
    pub fn socket(&self) -> PathBuf {
        let path = self.dir.path().join("in.sock");
        wait_until("it made its socket", || Path::exists(&path));
        path
    }
}

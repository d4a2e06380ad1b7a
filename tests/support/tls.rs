//! Certificates, and a TLS server that tells which one it is by its own.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::programs::{
    Program, directory_of, own_address, run, server, wait_listening, write_into,
};

/// For openssl to make a certificate.
const LIMIT: Duration = Duration::from_secs(20);

/// A certificate that vouches for itself, and its key.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Identity {
    /// For a host, of an owner, who is part of it.
    #[track_caller]
    pub fn new(host: &str, owner: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut openssl = Command::new("openssl");
        openssl
            .current_dir(&dir)
            .args(["req", "-x509", "-nodes", "-days", "2"]);
        openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        openssl.args(["-subj", &format!("/CN={host}/O={owner}")]);
        openssl.args(["-addext", &format!("subjectAltName=DNS:{host}")]);
        openssl.args(["-keyout", "key.pem", "-out", "cert.pem"]);
        run(&mut openssl, LIMIT).expect_success();
        let read = |name| fs::read_to_string(dir.path().join(name)).expect("openssl wrote it");
        Self {
            certificate: read("cert.pem"),
            key: read("key.pem"),
        }
    }
}

/// openssl's own server, which serves one connection after the other.
pub struct SServer {
    pub address: SocketAddr,
    pub program: Program,
    _dir: TempDir,
}

impl SServer {
    /// With these arguments beside its certificate.
    #[track_caller]
    pub fn start(identity: &Identity, arguments: &[&str]) -> Self {
        let (address, dir) = (own_address(), directory_of("www-data"));
        write_into(&dir, "cert.pem", "www-data", &identity.certificate);
        write_into(&dir, "key.pem", "www-data", &identity.key);
        let mut command = server("www-data", "KILL", "openssl");
        command.args(["s_server", "-accept", &address.to_string(), "-www"]);
        command.args(["-cert", "cert.pem", "-key", "key.pem", "-quiet"]);
        command.args(arguments);
        let program = Program::start(command.current_dir(&dir).stdin(Stdio::null()));
        wait_listening(address);
        Self {
            address,
            program,
            _dir: dir,
        }
    }
}

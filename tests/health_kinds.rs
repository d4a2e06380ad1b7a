//! Active checks of each kind: what passes, and what does not.

mod support;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};
use support::{Backend, Family, Launch, Stream, wait_until};

/// Checks of each kind, every one in a pool of its own, all in one process.
#[derive(Default)]
struct Kinds {
    text: String,
    backends: Vec<Backend>,
    expected: Vec<(&'static str, &'static str)>,
}

impl Kinds {
    /// `backend` checked with these `keys` must get into `state`.
    fn add(&mut self, what: &'static str, keys: &str, backend: Backend, state: &'static str) {
        let pool = format!("p{}", self.backends.len());
        self.text.push_str(&format!(
            "[listener.{pool}]\nbind = \"127.0.0.1:0\"\npool = \"{pool}\"\n\
             [pool.{pool}]\nbackends = [{{ name = \"b1\", address = \"{}\" }}]\n\
             [pool.{pool}.health]\ninterval = \"5s\"\ntimeout = \"2s\"\n{keys}\n",
            backend.address()
        ));
        self.backends.push(backend);
        self.expected.push((what, state));
    }

    /// The same where what a check says decides.
    fn say(&mut self, what: &'static str, keys: &str, talk: Talk, state: &'static str) {
        self.add(what, keys, talking(talk), state);
    }

    #[track_caller]
    fn check(self, launch: Launch) {
        let mut isobar = launch.with_text(&self.text).start();
        isobar.skip_byte_check();
        for (i, (what, state)) in self.expected.iter().enumerate() {
            let backend = format!("/pools/p{i}/backends/b1");
            let mut now = serde_json::Value::Null;
            wait_until(&format!("the first check of {what} was over"), || {
                now = isobar.stat(&backend);
                now["state"] != "starting" && !now["health"]["last_at"].is_null()
            });
            assert_eq!(now["state"], *state, "{what}: {}", now["health"]);
            assert_eq!(
                now["health"]["last_error"].is_null(),
                *state == "up",
                "{what}"
            );
        }
    }
}

/// What a backend hears, and answers: `None` hangs up.
type Talk = fn(&str) -> Option<&'static str>;

/// Reads once, answers, waits for the end.
fn talking(talk: Talk) -> Backend {
    Backend::serving(Family::Ipv4, "b1", move |stream| {
        let mut heard = [0; 4096];
        let n = stream.read(&mut heard).unwrap_or(0);
        if let Some(answer) = talk(&String::from_utf8_lossy(&heard[..n])) {
            let _ = stream.try_write(answer);
            while let Ok(1..) = stream.read(&mut heard) {}
        }
    })
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const GONE: &str = "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n";

#[test]
fn http_checks_pass_and_fail_by_the_status() {
    let mut kinds = Kinds::default();
    let http = "kind = \"http\"\n";
    kinds.say("a good status", http, |_| Some(OK), "up");
    kinds.say("a bad status", http, |_| Some(GONE), "down");
    kinds.say("no HTTP", http, |_| Some("hello\r\n\r\n"), "down");
    kinds.say("a hang-up", http, |_| None, "down");
    let listed = |list: &str| format!("{http}expect_status = \"{list}\"");
    kinds.say("a listed status", &listed("200,410"), |_| Some(GONE), "up");
    kinds.say(
        "a status in a range",
        &listed("500,400-420"),
        |_| Some(GONE),
        "up",
    );
    kinds.say(
        "a status outside",
        &listed("201-299,404"),
        |_| Some(OK),
        "down",
    );
    let asked = format!("{http}path = \"/health?deep=1\"\nhost = \"db.example.com\"");
    let right: Talk = |request| {
        let line = request.starts_with("GET /health?deep=1 HTTP/1.1\r\n");
        let host = request.to_lowercase().contains("host: db.example.com\r\n");
        Some(if line && host { OK } else { GONE })
    };
    kinds.say("the path and the host", &asked, right, "up");
    kinds.check(Launch::new(""));
}

#[test]
fn exchange_checks_pass_and_fail_by_what_comes_back() {
    let mut kinds = Kinds::default();
    let ping = "kind = \"exchange\"\nsend = \"PING\\r\\n\"\nexpect = \"PONG\"";
    let pong: Talk = |heard| {
        Some(if heard == "PING\r\n" {
            "+PONG\r\n"
        } else {
            "?"
        })
    };
    kinds.say("the expected answer", ping, pong, "up");
    kinds.say("another answer", ping, |_| Some("-ERR"), "down");
    kinds.say("a hang-up", ping, |_| None, "down");
    let hex = "kind = \"exchange\"\nsend = \"hex:50494e470d0a\"\nexpect = \"hex:504f4e47\"";
    kinds.say("bytes in hex", hex, pong, "up");
    let late: Talk = |_| {
        std::thread::sleep(Duration::from_secs(4));
        Some("PONG")
    };
    kinds.say("the answer too late", ping, late, "down");
    kinds.check(Launch::new(""));
}

/// The certificate of one issuer, and a server that shows one of it.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    /// A backend for `name`, which answers `OK` to whatever it is asked.
    fn backend(&self, name: &str) -> Backend {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("both versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a matching key");
        let config = Arc::new(config);
        Backend::serving(Family::Ipv4, "b1", move |stream| {
            let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            let mut tls = rustls::StreamOwned::new(session, Wire(stream));
            // Whatever fails, the check says so.
            let _ = tls
                .read(&mut [0; 4096])
                .and_then(|_| tls.write_all(OK.as_bytes()));
            while let Ok(1..) = tls.read(&mut [0; 64]) {}
        })
    }
}

struct Wire<'a>(&'a Stream);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn checks_over_tls_trust_whom_they_are_told_to() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let launch = Launch::new("");
    let file = launch.dir().join("ca.pem");
    std::fs::write(&file, ours.0.pem()).expect("a file");
    let trusting = format!(
        "server_name = \"db.example.com\"\nca = \"{}\"",
        file.display()
    );
    let tls = format!("kind = \"tls\"\n{trusting}");
    let mut kinds = Kinds::default();
    kinds.add(
        "the right issuer",
        &tls,
        ours.backend("db.example.com"),
        "up",
    );
    kinds.add(
        "another issuer",
        &tls,
        theirs.backend("db.example.com"),
        "down",
    );
    kinds.add(
        "another name",
        &tls,
        ours.backend("other.example.com"),
        "down",
    );
    kinds.add(
        "no issuer asked for",
        "kind = \"tls\"",
        theirs.backend("any"),
        "up",
    );
    kinds.say("no TLS at all", "kind = \"tls\"", |_| Some(OK), "down");
    let https = format!("kind = \"http\"\ntls = true\n{trusting}");
    kinds.add(
        "HTTP over TLS",
        &https,
        ours.backend("db.example.com"),
        "up",
    );
    kinds.add(
        "HTTP over TLS of others",
        &https,
        theirs.backend("db.example.com"),
        "down",
    );
    let exchange =
        format!("kind = \"exchange\"\nsend = \"x\"\nexpect = \"200\"\ntls = true\n{trusting}");
    kinds.add(
        "an exchange over TLS",
        &exchange,
        ours.backend("db.example.com"),
        "up",
    );
    kinds.check(launch);
}

//! TLS passes through untouched: openssl s_client and curl reach nginx and openssl s_server,
//! whose health is checked by handshakes.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::nginx::Nginx;
use support::programs::{all_connections, balancer, run};
use support::tls::{Identity, SServer};
use support::{Backend, Family, Isobar, web};
use tempfile::TempDir;

const HOST: &str = "db.example.com";

const LIMIT: Duration = Duration::from_secs(20);

const SETTINGS: &str = "[pool.web.health]\nkind = \"tls\"\nserver_name = \"db.example.com\"\n\
    interval = \"500ms\"\nfast_interval = \"100ms\"\ntimeout = \"400ms\"\n";

struct Scene {
    isobar: Isobar,
    s_server: SServer,
    identities: BTreeMap<&'static str, Identity>,
    /// Both certificates.
    trusted: PathBuf,
    _nginx: Nginx,
    _plain: Backend,
    _dir: TempDir,
}

impl Scene {
    /// nginx and s_server, and a server that speaks no TLS.
    #[track_caller]
    fn set() -> Self {
        let names = ["nginx", "s_server"];
        let identities = BTreeMap::from(names.map(|name| (name, Identity::new(HOST, name))));
        let nginx = nginx(&identities["nginx"]);
        let s_server = SServer::start(&identities["s_server"], &[]);
        let plain = Backend::serving(Family::Ipv4, "plain", |stream| {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.try_write("what?\n");
        });
        let s_server_entry = format!(
            "{{ name = \"s_server\", address = \"{}\" }}",
            s_server.address
        );
        let entries = [nginx.entry("nginx", ""), s_server_entry, plain.entry()];
        let isobar = balancer(&web(SETTINGS, &entries));
        for (name, state) in [("nginx", "up"), ("s_server", "up"), ("plain", "down")] {
            isobar.wait_state("web", name, state);
        }
        let dir = TempDir::new().expect("a directory");
        let trusted = dir.path().join("trusted.pem");
        let both: String = identities.values().map(|one| &*one.certificate).collect();
        fs::write(&trusted, both).expect("room for a file");
        Self {
            isobar,
            s_server,
            identities,
            trusted,
            _nginx: nginx,
            _plain: plain,
            _dir: dir,
        }
    }

    fn address(&self) -> String {
        self.isobar.address("web").to_string()
    }

    /// The certificate that s_client gets, if all is well with it.
    #[track_caller]
    fn certificate(&self) -> String {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-connect", &self.address(), "-servername", HOST]);
        client.args(["-verify_return_error", "-verify_hostname", HOST]);
        client.arg("-CAfile").arg(&self.trusted);
        let ended = run(&mut client, LIMIT).expect_success();
        assert!(
            ended.stdout.contains("Verify return code: 0 (ok)"),
            "{ended:#?}"
        );
        let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
        let start = ended
            .stdout
            .find(begin)
            .expect("s_client shows the certificate");
        let stop = ended.stdout.find(end).expect("the whole of it") + end.len();
        format!("{}\n", &ended.stdout[start..stop])
    }

    /// What curl gets for `/name`.
    #[track_caller]
    fn page(&self) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "10"]);
        curl.args(["--connect-to", &format!("{HOST}:443:{}", self.address())]);
        curl.arg("--cacert").arg(&self.trusted);
        curl.arg(format!("https://{HOST}/name"));
        run(&mut curl, LIMIT).expect_success().stdout
    }
}

fn nginx(identity: &Identity) -> Nginx {
    let server = "ssl_certificate $DIR/cert.pem;\nssl_certificate_key $DIR/key.pem;";
    let files = [
        ("cert.pem", identity.certificate.as_bytes()),
        ("key.pem", identity.key.as_bytes()),
    ];
    Nginx::web("nginx", "ssl", server, &files)
}

/// 1. two backends are up by handshakes, one that speaks no TLS is down;
/// 2. clients get the certificates of the two in turn, byte for byte, and pages;
/// 3. one is killed: it goes down, and all get the other's.
#[test]
#[ignore = "needs nginx, openssl and curl"]
fn certificates_arrive_as_the_backends_sent_them() {
    let mut scene = Scene::set();
    for expected in ["nginx", "s_server", "nginx", "s_server"] {
        assert_eq!(scene.certificate(), scene.identities[expected].certificate);
    }
    assert_eq!(scene.page(), "nginx");
    assert!(scene.page().contains("s_server"));
    scene.s_server.program.kill();
    scene.isobar.wait_state("web", "s_server", "down");
    for _ in 0..3 {
        assert_eq!(scene.certificate(), scene.identities["nginx"].certificate);
    }
    let all = all_connections(&scene.isobar);
    assert_eq!(all.len(), 9);
    assert!(all.iter().all(|one| !one.is_on("plain")), "{all:#?}");
}

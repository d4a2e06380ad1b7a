//! Routes by SNI and ALPN with real programs: openssl s_client and curl ask by name and by
//! protocol, and get the certificate of the server that is meant, out of several behind one port.

mod support;

use std::process::Command;
use std::time::Duration;

use support::Isobar;
use support::nginx::Nginx;
use support::programs::{balancer, run};
use support::tls::{Identity, SServer};

const LIMIT: Duration = Duration::from_secs(20);

/// Two s_servers and nginx, which alone speaks HTTP/2, behind one listener.
struct Scene {
    isobar: Isobar,
    _servers: Vec<SServer>,
    _nginx: Nginx,
}

impl Scene {
    #[track_caller]
    fn set() -> Self {
        let of = |host: &str, owner: &str| Identity::new(host, owner);
        let db = SServer::start(&of("db.example.com", "db"), &[]);
        let rest = SServer::start(&of("other.example.com", "rest"), &[]);
        let web = of("www.example.com", "nginx");
        let files = [
            ("cert.pem", web.certificate.as_bytes()),
            ("key.pem", web.key.as_bytes()),
        ];
        let server = "ssl_certificate $DIR/cert.pem;\nssl_certificate_key $DIR/key.pem;";
        let nginx = Nginx::web("nginx", "ssl http2", server, &files);
        let pool = |name: &str, entry: String| {
            format!("[pool.{name}]\nbackends = [{entry}]\nhealth.kind = \"none\"\n")
        };
        let entry = |server: &SServer| format!("\"{}\"", server.address);
        let text = [
            "[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"rest\"\n",
            "[[listener.web.route]]\nsni = [\"db.example.com\"]\npool = \"db\"\n",
            "[[listener.web.route]]\nalpn = [\"h2\"]\npool = \"web\"\n",
            "[[listener.web.route]]\nsni = [\"*.www.example.com\"]\npool = \"web\"\n",
            &pool("db", entry(&db)),
            &pool("rest", entry(&rest)),
            &pool("web", nginx.entry("nginx", "")),
        ]
        .concat();
        Self {
            isobar: balancer(&text),
            _servers: vec![db, rest],
            _nginx: nginx,
        }
    }

    /// Whose certificate s_client gets with these arguments.
    #[track_caller]
    fn owner(&self, arguments: &[&str]) -> String {
        let mut client = Command::new("openssl");
        client.args([
            "s_client",
            "-connect",
            &self.isobar.address("web").to_string(),
        ]);
        client.args(arguments);
        let ended = run(&mut client, LIMIT).expect_success();
        let subject = ended
            .stdout
            .lines()
            .find(|line| line.starts_with("subject="));
        let subject = subject.unwrap_or_else(|| panic!("no subject: {ended:#?}"));
        let owner = subject.split("O = ").nth(1).or(subject.split("O=").nth(1));
        owner.expect("an owner").trim().to_owned()
    }

    /// What curl says of the version of HTTP and the status it gets for a host.
    #[track_caller]
    fn version(&self, host: &str, protocol: &str) -> String {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--insecure",
            "--max-time",
            "10",
            protocol,
        ]);
        curl.args([
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version} %{http_code}",
        ]);
        let address = self.isobar.address("web");
        curl.args(["--connect-to", &format!("{host}:443:{address}")]);
        curl.arg(format!("https://{host}/name"));
        run(&mut curl, LIMIT).expect_success().stdout
    }
}

/// By name, in any version of TLS and with any case; by protocol; by neither.
#[test]
#[ignore = "needs openssl, curl, nginx"]
fn clients_get_the_certificate_of_the_server_that_they_ask_for() {
    let scene = Scene::set();
    for (arguments, owner) in [
        (&["-servername", "db.example.com"][..], "db"),
        (&["-servername", "DB.Example.Com", "-tls1_2"], "db"),
        (&["-servername", "db.example.com", "-alpn", "h2"], "db"),
        (&["-servername", "a.b.www.example.com"], "nginx"),
        (&["-servername", "www.example.com"], "rest"),
        (
            &["-servername", "www.example.com", "-alpn", "http/1.1,h2"],
            "nginx",
        ),
        (&["-noservername", "-alpn", "h2"], "nginx"),
        (&["-noservername"], "rest"),
        (
            &[
                "-servername",
                "other.example.com",
                "-tls1_3",
                "-alpn",
                "http/1.1",
            ],
            "rest",
        ),
    ] {
        assert_eq!(scene.owner(arguments), owner, "{arguments:?}");
    }
}

/// curl offers h2 and http/1.1, or http/1.1 alone: nginx answers the one in HTTP/2.
#[test]
#[ignore = "needs openssl, curl, nginx"]
fn curl_speaks_http2_with_the_server_that_can() {
    let scene = Scene::set();
    assert_eq!(scene.version("www.example.com", "--http2"), "2 200");
    assert_eq!(scene.version("x.www.example.com", "--http1.1"), "1.1 200");
    // s_server answers in HTTP/1.0.
    assert_eq!(scene.version("other.example.com", "--http1.1"), "1 200");
    let lines = scene.isobar.access_lines();
    assert!(lines.len() <= 3, "{lines:?}");
}

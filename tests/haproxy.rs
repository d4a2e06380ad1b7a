//! PROXY headers between isobar and HAProxy, both ways, and byte for byte the same.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use isobar::config::SendProxy;
use isobar::net::Address;
use isobar::proxy::{Endpoints, encode, for_checks, parse};
use support::haproxy::Haproxy;
use support::{Backend, Family, Isobar, Stream, Tally, wait_until, web};

fn ip(address: &Address) -> SocketAddr {
    match address {
        Address::Ip(ip) => *ip,
        Address::Unix(path) => panic!("{} has no IP address", path.display()),
    }
}

fn client_of(address: &Address) -> Stream {
    let tally = Arc::new(Tally::default());
    Stream::connect(address, &tally).expect("a connection")
}

/// With the keys of HAProxy that ask for the same.
const VERSIONS: [(SendProxy, &str, &str); 2] = [
    (SendProxy::V1, "v1", "send-proxy"),
    (SendProxy::V2, "v2", "send-proxy-v2"),
];

#[test]
#[ignore = "needs haproxy"]
fn isobar_writes_the_headers_that_haproxy_writes() {
    for (version, _, key) in VERSIONS {
        let backend = Backend::manual(Family::Ipv4);
        let haproxy = Haproxy::way_to(ip(backend.address()), key);
        let client = client_of(&Address::Ip(haproxy.address()));
        let own = client.local().expect("an address");
        let served = backend.accept();
        served.expect(encode(
            version,
            Some(Endpoints::new(own, haproxy.address())),
        ));
        // A client without an address.
        let client = client_of(&Address::Unix(haproxy.socket()));
        let served = backend.accept();
        served.expect(encode(version, None));
        drop(client);
    }
}

#[test]
#[ignore = "needs haproxy"]
fn isobar_checks_with_the_header_that_haproxy_checks_with() {
    let backend = Backend::manual(Family::Ipv4);
    let keys = "send-proxy-v2 check inter 100ms";
    let _haproxy = Haproxy::way_to(ip(backend.address()), keys);
    backend.accept().expect(for_checks(SendProxy::V2));
}

/// HAProxy's own checksum, over its own header.
#[test]
#[ignore = "needs haproxy"]
fn isobar_reads_the_checksums_of_haproxy() {
    let backend = Backend::manual(Family::Ipv4);
    let keys = "send-proxy-v2 proxy-v2-options crc32c,unique-id";
    let haproxy = Haproxy::way_to(ip(backend.address()), keys);
    let client = client_of(&Address::Ip(haproxy.address()));
    let own = client.local().expect("an address");
    let served = backend.accept();
    let mut header = served.read_exact(16);
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    header.extend(served.read_exact(rest));
    assert!(rest > 12, "it has a checksum");
    let read = parse(&header).expect("a valid header").expect("all of it");
    let ends = Endpoints::new(own, haproxy.address());
    assert_eq!(read.endpoints, Some(ends));
    let at = header.len() - 1;
    header[at] ^= 1;
    parse(&header).expect_err("that is not HAProxy's checksum any more");
}

/// Client, HAProxy, isobar, backend; with the checks of HAProxy, which are of nobody.
#[test]
#[ignore = "needs haproxy"]
fn behind_haproxy_isobar_knows_the_client() {
    for options in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c",
    ] {
        let backend = Backend::echo(Family::Ipv4);
        let text = web("", &[backend.entry()]).replace(
            "[pool.web]\n",
            "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n[pool.web]\n",
        );
        let mut isobar = Isobar::start(&text);
        isobar.skip_byte_check();
        let keys = format!("{options} check inter 200ms");
        let haproxy = Haproxy::way_to(ip(isobar.address("web")), &keys);
        let client = client_of(&Address::Ip(haproxy.address()));
        client.write("hello");
        client.expect("hello");
        client.fin();
        client.expect_fin();
        let line = isobar.wait_access(client.local().expect("an address"));
        assert_eq!(line.text("ended"), Some("client_closed"), "{options}");
        wait_until("HAProxy has checked", || {
            isobar.count("/listeners/web/connections/total") >= 3
        });
        for reason in ["proxy_header", "untrusted", "preread_timeout"] {
            let pointer = format!("/listeners/web/rejected/{reason}");
            assert_eq!(isobar.count(&pointer), 0, "{options}: {reason}");
        }
        drop(haproxy);
    }
}

/// Client, isobar, HAProxy; with the checks of isobar, which are of nobody.
#[test]
#[ignore = "needs haproxy"]
fn behind_isobar_haproxy_knows_the_client() {
    let mirror = Haproxy::mirror();
    for (_, version, _) in VERSIONS {
        let settings = format!(
            "send_proxy = \"{version}\"\n[pool.web.health]\nkind = \"http\"\n\
             interval = \"200ms\"\ntimeout = \"200ms\"\n"
        );
        let address = mirror.address();
        let entry = format!("{{ name = \"mirror\", address = \"{address}\" }}");
        let isobar = Isobar::start(&web(&settings, &[entry]));
        isobar.wait_state("web", "mirror", "up");
        let client = isobar.connect("web");
        client.write("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let (answer, _) = client.read_to_end();
        let own = client.local().expect("an address");
        let expected = format!("{own} {}", isobar.address("web"));
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(&expected), "{expected}: {answer}");
        client.fin();
    }
}

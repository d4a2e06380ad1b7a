//! ClientHellos: those of a TLS library, and made by hand.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// What a TLS library sends that asks for `sni` and offers `alpn`.
pub fn hello(sni: Option<&str>, alpn: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("its own versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    config.enable_sni = sni.is_some();
    let name = ServerName::try_from(sni.unwrap_or("localhost").to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a Vec takes all");
    bytes
}

/// The same handshake message in records of at most `most` bytes.
pub fn in_records(hello: &[u8], most: usize) -> Vec<u8> {
    let (header, message) = hello.split_at(5);
    let record = |part: &[u8]| {
        let len = u16::try_from(part.len()).expect("a record's length");
        [&header[..3], &len.to_be_bytes(), part].concat()
    };
    message.chunks(most).flat_map(record).collect()
}

/// The same hello with a padding extension (RFC 7685) of `more` bytes: a large one.
pub fn padded(hello: &[u8], more: u16) -> Vec<u8> {
    let mut message = hello[5..].to_vec();
    // Version and random, session, suites, compression; then the extensions.
    let session = 4 + 2 + 32;
    let suites = session + 1 + usize::from(message[session]);
    let compression =
        suites + 2 + usize::from(u16::from_be_bytes([message[suites], message[suites + 1]]));
    let extensions = compression + 1 + usize::from(message[compression]);
    let len = message.len() - extensions - 2 + 4 + usize::from(more);
    let len = u16::try_from(len).expect("room for it").to_be_bytes();
    message[extensions..extensions + 2].copy_from_slice(&len);
    message.extend([0, 21]);
    message.extend(more.to_be_bytes());
    message.resize(message.len() + usize::from(more), 0);
    let body = u32::try_from(message.len() - 4)
        .expect("a length")
        .to_be_bytes();
    message[1..4].copy_from_slice(&body[1..]);
    in_records(&[&hello[..5], &message].concat(), 1 << 14)
}

use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::super::testing::*;
use super::*;
use crate::config::{Health, HealthKind};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn issuer() -> Issuer {
    issuer_named("isobar test CA")
}

fn issuer_named(name: &str) -> Issuer {
    let mut params = CertificateParams::new([]).expect("no names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

/// A server whose certificate for `names` is signed by `issuer`.
fn server(issuer: &Issuer, names: &[&str]) -> ServerConfig {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
    let params = CertificateParams::new(names).expect("valid names");
    let certificate = params.signed_by(&key, issuer).expect("signed");
    presenting(certificate.der().clone(), &key)
}

fn presenting(certificate: CertificateDer<'static>, key: &KeyPair) -> ServerConfig {
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("both versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a matching key")
}

/// Serves one connection: an answer to whatever comes first, then until the client leaves.
/// Its handle gives the SNI of the client, or why there was no session.
async fn tls_backend(
    config: ServerConfig,
    answer: &'static str,
) -> (Address, JoinHandle<Result<Option<String>, String>>) {
    backend(move |stream| async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut stream = acceptor
            .accept(stream)
            .await
            .map_err(|error| error.to_string())?;
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        if !answer.is_empty() && stream.read(&mut [0; 1024]).await.is_ok() {
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        let _ = stream.read(&mut [0; 1024]).await;
        Ok(name)
    })
    .await
}

fn pem(certificate: &str) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), certificate).expect("written");
    file
}

fn over_tls(kind: HealthKind, server_name: &str, ca: Option<&NamedTempFile>) -> Health {
    let tls = HealthTls {
        server_name: server_name.into(),
        ca: ca.map(|file| file.path().into()),
    };
    Health {
        tls: Some(tls),
        ..health(kind)
    }
}

#[tokio::test]
async fn without_a_ca_any_certificate_passes_and_no_name_is_sent() {
    let (address, served) = tls_backend(server(&issuer(), &["unrelated"]), "").await;
    check(&health(HealthKind::Tls), &address)
        .await
        .expect("a handshake");
    assert_eq!(served.await.expect("plays"), Ok(None));
}

#[tokio::test]
async fn a_server_name_is_sent_as_sni() {
    let (address, served) = tls_backend(server(&issuer(), &["unrelated"]), "").await;
    let settings = over_tls(HealthKind::Tls, "db.example.com", None);
    check(&settings, &address).await.expect("a handshake");
    let sent = Some("db.example.com".to_owned());
    assert_eq!(served.await.expect("plays"), Ok(sent));
}

#[tokio::test]
async fn a_certificate_of_the_ca_for_the_name_passes() {
    let issuer = issuer();
    let ca = pem(&issuer.pem());
    let (address, _) = tls_backend(server(&issuer, &["db.example.com"]), "").await;
    let settings = over_tls(HealthKind::Tls, "db.example.com", Some(&ca));
    check(&settings, &address).await.expect("verified");
}

#[tokio::test]
async fn without_a_name_the_certificate_must_hold_the_address() {
    let issuer = issuer();
    let ca = pem(&issuer.pem());
    let settings = over_tls(HealthKind::Tls, "", Some(&ca));
    let (address, _) = tls_backend(server(&issuer, &["127.0.0.1"]), "").await;
    check(&settings, &address).await.expect("verified");
    let (address, _) = tls_backend(server(&issuer, &["127.0.0.2"]), "").await;
    let failed = failure(&settings, &address).await;
    assert!(
        failed.starts_with("tls: invalid peer certificate"),
        "{failed}"
    );
}

#[tokio::test]
async fn a_certificate_for_another_name_fails() {
    let issuer = issuer();
    let ca = pem(&issuer.pem());
    let (address, _) = tls_backend(server(&issuer, &["web.example.com"]), "").await;
    let settings = over_tls(HealthKind::Tls, "db.example.com", Some(&ca));
    let failed = failure(&settings, &address).await;
    assert!(
        failed.starts_with("tls: invalid peer certificate"),
        "{failed}"
    );
    assert!(failed.contains("db.example.com"), "{failed}");
}

#[tokio::test]
async fn a_certificate_of_another_ca_fails() {
    let ca = pem(&issuer_named("another CA").pem());
    let (address, _) = tls_backend(server(&issuer(), &["db.example.com"]), "").await;
    let settings = over_tls(HealthKind::Tls, "db.example.com", Some(&ca));
    let failed = failure(&settings, &address).await;
    assert_eq!(failed, "tls: invalid peer certificate: UnknownIssuer");
}

/// As `openssl req -x509` makes it: self-signed, and marked as that of a CA.
#[tokio::test]
async fn a_certificate_that_is_itself_in_the_file_passes_for_its_name_alone() {
    let mut params = CertificateParams::new(["db.example.com".into()]).expect("valid");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let own =
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
    let ca = pem(&own.pem());
    for (name, passes) in [("db.example.com", true), ("web.example.com", false)] {
        let (address, _) = tls_backend(presenting(own.der().clone(), own.key()), "").await;
        let settings = over_tls(HealthKind::Tls, name, Some(&ca));
        assert_eq!(check(&settings, &address).await.is_ok(), passes, "{name}");
    }
}

#[tokio::test]
async fn a_backend_that_does_not_speak_tls_fails() {
    let (address, _) = backend(|mut stream| async move {
        stream.write_all(b"220 mail.example.com ESMTP\r\n").await?;
        stream.read(&mut [0; 1024]).await
    })
    .await;
    let failed = failure(&health(HealthKind::Tls), &address).await;
    assert!(failed.starts_with("tls: received corrupt"), "{failed}");
}

#[tokio::test]
async fn a_backend_that_hangs_up_in_the_handshake_fails() {
    let (address, _) = backend(|mut stream| async move {
        let read = stream.read(&mut [0; 4096]).await;
        assert_ne!(read.expect("a hello"), 0);
    })
    .await;
    let failed = failure(&health(HealthKind::Tls), &address).await;
    assert!(failed.starts_with("tls: "), "{failed}");
}

#[tokio::test]
async fn http_and_exchange_go_over_tls_where_it_is_set() {
    let issuer = issuer();
    let ca = pem(&issuer.pem());
    let answer = "HTTP/1.1 204 No Content\r\n\r\n";
    for kind in [http(), exchange("hello", "204")] {
        let (address, served) = tls_backend(server(&issuer, &["127.0.0.1"]), answer).await;
        let settings = over_tls(kind, "", Some(&ca));
        check(&settings, &address).await.expect("204");
        served.await.expect("plays").expect("a session");
    }
}

#[tokio::test]
async fn a_wrong_answer_within_tls_fails() {
    let answer = "HTTP/1.1 500 Internal Server Error\r\n\r\n";
    let (address, _) = tls_backend(server(&issuer(), &["x"]), answer).await;
    let failed = failure(&over_tls(http(), "", None), &address).await;
    assert_eq!(failed, "status 500, expected 200-399");
}

#[test]
fn a_ca_file_that_is_missing_or_holds_no_certificate_is_refused_by_name() {
    let empty = pem("nothing here");
    let broken = pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let missing = "/nonexistent/ca.pem".into();
    for path in [empty.path().into(), broken.path().into(), missing] {
        let settings = HealthTls {
            server_name: String::new(),
            ca: Some(path),
        };
        let refused = TlsClient::new(&settings).err().expect("no certificate");
        let file = settings.ca.expect("set above").display().to_string();
        assert!(refused.to_string().contains(&file), "{refused}");
    }
}

#[test]
fn a_server_name_that_is_none_is_refused() {
    let settings = HealthTls {
        server_name: "not a name".into(),
        ca: None,
    };
    let refused = TlsClient::new(&settings).err().expect("no name");
    assert!(
        refused.to_string().contains("health.server_name"),
        "{refused}"
    );
}

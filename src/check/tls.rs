//! TLS of checks: a handshake, and the stream behind it for what is asked within.
//!
//! Without `ca` nothing is verified. A check then proves that a TLS server answers, not who it
//! is. This is the common case (backends with certificates of their own making, checked by
//! address), carries no data worth protecting but `exchange.send`, and is documented with the
//! setting. With `ca` the certificate must be signed by one in the file, or *be* one in the
//! file (`openssl req -x509` makes such, and webpki alone would refuse them as CA
//! certificates), and must hold `server_name`, or the address where that is empty.
//!
//! Sessions are not resumed: a check should notice when a key or certificate goes bad.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::SetupError;
use super::tcp::Stream;
use crate::config::HealthTls;
use crate::net::Address;

/// What the handshakes of one pool share.
pub(super) struct TlsClient {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
    verifies: bool,
}

impl TlsClient {
    /// Reads the `ca` file. Costs some time: once per pool, not per check.
    pub(super) fn new(settings: &HealthTls) -> Result<Self, SetupError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = match &settings.ca {
            Some(path) => Known::from_file(path, &provider)?,
            None => Arc::new(Anyone(provider.clone())) as Arc<dyn ServerCertVerifier>,
        };
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        Ok(Self {
            connector: Arc::new(client).into(),
            name: server_name(&settings.server_name)?,
            verifies: settings.ca.is_some(),
        })
    }

    /// Shakes hands. SNI is sent where a `server_name` is set and is no IP address.
    pub(super) async fn handshake(
        &self,
        stream: Stream,
        address: &Address,
    ) -> io::Result<TlsStream<Stream>> {
        let name = self.name_for(address)?;
        self.connector.connect(name, stream).await
    }

    fn name_for(&self, address: &Address) -> io::Result<ServerName<'static>> {
        match (&self.name, address.ip()) {
            (Some(name), _) => Ok(name.clone()),
            (None, Some(ip)) => Ok(ip.into()),
            (None, None) if self.verifies => Err(io::Error::other(
                "a Unix socket has no name to verify, set health.server_name",
            )),
            // Never looked at, and as an address never sent.
            (None, None) => Ok(IpAddr::from(Ipv4Addr::UNSPECIFIED).into()),
        }
    }
}

/// Says in TLS that nothing more will come, but not yet in TCP: so the backend closes first.
pub(super) async fn close_notify(stream: &mut TlsStream<Stream>) -> io::Result<()> {
    stream.get_mut().1.send_close_notify();
    stream.flush().await
}

fn server_name(text: &str) -> Result<Option<ServerName<'static>>, SetupError> {
    if text.is_empty() {
        return Ok(None);
    }
    ServerName::try_from(text.to_owned())
        .map(Some)
        .map_err(|_| SetupError::ServerName(text.to_owned()))
}

/// Takes any certificate and any signature: what a check without `ca` asks for.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Takes what the `ca` file vouches for.
#[derive(Debug)]
struct Known {
    listed: Vec<CertificateDer<'static>>,
    by_issuer: Arc<WebPkiServerVerifier>,
}

impl Known {
    fn from_file(
        path: &Path,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, SetupError> {
        let refuse = |reason: String| SetupError::Ca {
            path: path.to_owned(),
            reason,
        };
        let listed = certificates(path).map_err(refuse)?;
        let mut roots = RootCertStore::empty();
        for certificate in &listed {
            let added = roots.add(certificate.clone());
            added.map_err(|error| refuse(error.to_string()))?;
        }
        let by_issuer = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .map_err(|error| refuse(error.to_string()))?;
        Ok(Arc::new(Self { listed, by_issuer }))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let listed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match listed.map_err(|error| error.to_string())? {
        listed if listed.is_empty() => Err("no certificate in PEM form".into()),
        listed => Ok(listed),
    }
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.listed.contains(end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.by_issuer.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_issuer.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_issuer.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_issuer.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;

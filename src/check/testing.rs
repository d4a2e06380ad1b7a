//! What the tests of checks share: settings, and backends that play a script.

use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Check, ProbeError, Target, probe};
use crate::config::{Health, HealthKind, SendProxy};
use crate::net::Address;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// The defaults of the contract, but a time-out that a slow machine does not reach.
pub(super) fn health(kind: HealthKind) -> Health {
    Health {
        kind,
        interval: 2 * SECOND,
        fast_interval: SECOND / 4,
        timeout: 20 * SECOND,
        rise: NonZeroU32::new(2).expect("at least 1"),
        fall: NonZeroU32::new(3).expect("at least 1"),
        port: 0,
        tls: None,
    }
}

pub(super) fn http() -> HealthKind {
    HealthKind::Http {
        path: "/".into(),
        host: String::new(),
        expect_status: vec![200..=399],
    }
}

pub(super) fn exchange(send: &str, expect: &str) -> HealthKind {
    HealthKind::Exchange {
        send: send.into(),
        expect: expect.into(),
    }
}

/// For backends that never answer: reached by every test that sets it.
pub(super) fn hasty(kind: HealthKind) -> Health {
    Health {
        timeout: SECOND / 5,
        ..health(kind)
    }
}

pub(super) fn target(health: &Health, address: &Address) -> Target {
    let check = Check::new(health, SendProxy::Off)
        .expect("valid settings")
        .expect("a kind that checks");
    Target::new(Arc::new(check), address)
}

/// Checks once.
pub(super) async fn check(health: &Health, address: &Address) -> Result<(), ProbeError> {
    probe(&target(health, address)).await.result
}

/// Checks once, and must fail: the line for the operator.
pub(super) async fn failure(health: &Health, address: &Address) -> String {
    let result = check(health, address).await;
    result.expect_err("the check must fail").to_string()
}

pub(super) async fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").into();
    (listener, address)
}

/// An address at which nothing listens.
pub(super) async fn nobody() -> Address {
    listener().await.1
}

/// A backend that takes one connection and plays `script` on it; its handle gives what the
/// script returns.
pub(super) async fn backend<F, T>(
    script: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (Address, JoinHandle<T>)
where
    F: Future<Output = T> + Send,
    T: Send + 'static,
{
    let (listener, address) = listener().await;
    let played = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        script(stream).await
    });
    (address, played)
}

/// Reads until `end` occurs.
pub(super) async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let read = stream.read_buf(&mut text).await.expect("more to read");
        assert_ne!(read, 0, "ended after {:?}", text.escape_ascii().to_string());
    }
    String::from_utf8(text).expect("text")
}

//! One check: from the settings of a pool to a verdict on one backend, within one time-out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::error::{End, ProbeError, SetupError, Step};
use super::http::Question;
use super::tcp::{self, Farewell, Stream};
use super::tls::{self, TlsClient};
use super::{Outcome, exchange};
use crate::config::{self, HealthKind, SendProxy};
use crate::net::{Address, Sources, Turns};
use crate::proxy;

/// A failure seen this long after its deadline tells of isobar, not of the backend: the
/// process was stopped (SIGSTOP, a paused container or machine) or got no processor.
const HELD_UP: Duration = Duration::from_secs(1);

/// What the checks of one pool do, ready to run. Built once per pool.
pub struct Check {
    kind: Kind,
    /// What a backend gets first: a PROXY header that names nobody, or nothing.
    header: Vec<u8>,
    port: u16,
    timeout: Duration,
    pub(super) interval: Duration,
    pub(super) fast_interval: Duration,
    /// `source_address` of the pool.
    sources: Vec<IpAddr>,
    turns: Turns,
}

enum Kind {
    Tcp,
    Tls(TlsClient),
    Http(Question, Option<TlsClient>),
    Exchange {
        send: Vec<u8>,
        expect: Vec<u8>,
        tls: Option<TlsClient>,
    },
}

impl Check {
    /// Reads the `ca` file where there is one; `None`: the pool has no checks.
    ///
    /// # Errors
    ///
    /// What the settings name cannot be used, see [`SetupError`].
    pub fn new(health: &config::Health, send_proxy: SendProxy) -> Result<Option<Self>, SetupError> {
        Ok(Kind::new(health)?.map(|kind| Self {
            kind,
            header: proxy::for_checks(send_proxy),
            port: health.port,
            timeout: health.timeout,
            interval: health.interval,
            fast_interval: health.fast_interval,
            sources: Vec::new(),
            turns: Turns::default(),
        }))
    }

    /// The same for a pool: a check takes the way that its connections take.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn of(pool: &config::Pool) -> Result<Option<Self>, SetupError> {
        let check = Self::new(&pool.health, pool.send_proxy)?;
        Ok(check.map(|check| Self {
            sources: pool.source_addresses.clone(),
            ..check
        }))
    }

    fn sources(&self) -> Sources<'_> {
        Sources::new(&self.sources, &self.turns)
    }
}

impl Kind {
    fn new(health: &config::Health) -> Result<Option<Self>, SetupError> {
        let tls = || health.tls.as_ref().map(TlsClient::new).transpose();
        Ok(Some(match &health.kind {
            HealthKind::None => return Ok(None),
            HealthKind::Tcp => Self::Tcp,
            HealthKind::Tls => {
                let settings = health.tls.clone().unwrap_or_default();
                Self::Tls(TlsClient::new(&settings)?)
            }
            HealthKind::Http {
                path,
                host,
                expect_status,
            } => Self::Http(Question::new(path, host, expect_status)?, tls()?),
            HealthKind::Exchange { send, expect } => Self::Exchange {
                send: send.clone(),
                expect: expect.clone(),
                tls: tls()?,
            },
        }))
    }
}

/// What is checked, and how.
#[derive(Clone)]
pub struct Target {
    pub(super) check: Arc<Check>,
    address: Address,
    /// Not the backend's own address.
    elsewhere: bool,
}

impl Target {
    /// The backend at `address`, at `health.port` where one is set (a Unix socket has none).
    pub fn new(check: Arc<Check>, address: &Address) -> Self {
        let mut checked = address.clone();
        if let Address::Ip(ip) = &mut checked
            && check.port != 0
        {
            ip.set_port(check.port);
        }
        Self {
            check,
            elsewhere: checked != *address,
            address: checked,
        }
    }

    fn locate(&self, fault: ProbeError) -> ProbeError {
        match self.address {
            Address::Ip(address) if self.elsewhere => ProbeError::At {
                address,
                fault: Box::new(fault),
            },
            _ => fault,
        }
    }
}

/// A check that was made.
pub(super) struct Probed {
    pub(super) outcome: Outcome,
    /// What is left to do, when the outcome has been told.
    pub(super) farewell: Option<Farewell>,
}

/// Checks once. Takes `health.timeout` at most, and one descriptor.
///
/// # Cancel safety
///
/// Dropping it resets the connection and leaves nothing behind.
pub async fn probe(target: &Target) -> Outcome {
    let Probed { outcome, farewell } = examine(target).await;
    if let Some(farewell) = farewell {
        farewell.say().await;
    }
    outcome
}

/// [`probe`] without its end: the verdict does not wait for the connection to be closed.
pub(super) async fn examine(target: &Target) -> Probed {
    let began = Instant::now();
    let limit = target.check.timeout;
    let mut progress = Progress::default();
    let verdict = timeout(limit, converse(target, &mut progress)).await;
    let took = began.elapsed();
    let verdict = verdict
        .unwrap_or_else(|_| Err(progress.overdue(&target.check)))
        .map_err(|fault| target.locate(or_held_up(fault, took, limit)));
    let (result, farewell) = match verdict {
        Ok(farewell) => (Ok(()), Some(farewell)),
        Err(error) => (Err(error), None),
    };
    let at = SystemTime::now();
    Probed {
        outcome: Outcome { at, took, result },
        farewell,
    }
}

fn or_held_up(fault: ProbeError, took: Duration, limit: Duration) -> ProbeError {
    match took.checked_sub(limit) {
        Some(late) if late >= HELD_UP => ProbeError::HeldUp(Duration::from_secs(late.as_secs())),
        _ => fault,
    }
}

/// How far a check has come, for the message when its time is up.
#[derive(Default)]
struct Progress {
    step: Step,
    heard: Vec<u8>,
}

impl Progress {
    fn overdue(&self, check: &Check) -> ProbeError {
        let after = check.timeout;
        match &check.kind {
            Kind::Exchange { send, .. } if !self.heard.is_empty() => {
                exchange::mismatch(send, &self.heard, End::Timeout(after))
            }
            _ => ProbeError::Timeout {
                step: self.step,
                after,
            },
        }
    }
}

async fn converse(target: &Target, progress: &mut Progress) -> Result<Farewell, ProbeError> {
    let address = &target.address;
    let mut stream = tcp::open(address, target.check.sources())
        .await
        .map_err(ProbeError::Connect)?;
    // What listens for checks alone, at a port of its own, gets no connections of clients.
    if !target.elsewhere {
        let header = stream.write_all(&target.check.header).await;
        header.map_err(ProbeError::Broken)?;
    }
    match &target.check.kind {
        Kind::Tcp => Ok(Farewell::now(stream)),
        Kind::Tls(client) => {
            progress.step = Step::Tls;
            shake_hands(client, stream, address).await
        }
        Kind::Http(question, client) => {
            let stream = secure(client.as_ref(), stream, address, progress).await?;
            question.ask(stream, address).await
        }
        Kind::Exchange { send, expect, tls } => {
            let mut stream = secure(tls.as_ref(), stream, address, progress).await?;
            exchange::converse(&mut stream, send, expect, &mut progress.heard).await?;
            Ok(Farewell::now(stream))
        }
    }
}

async fn shake_hands(
    client: &TlsClient,
    stream: Stream,
    address: &Address,
) -> Result<Farewell, ProbeError> {
    let handshake = client.handshake(stream, address).await;
    let mut stream = handshake.map_err(ProbeError::Tls)?;
    // Whatever becomes of it: the handshake is what was asked for.
    let _ = tls::close_notify(&mut stream).await;
    Ok(Farewell::after_peer(Box::new(stream)))
}

async fn secure(
    client: Option<&TlsClient>,
    stream: Stream,
    address: &Address,
    progress: &mut Progress,
) -> Result<Stream, ProbeError> {
    let Some(client) = client else {
        progress.step = Step::Answer;
        return Ok(stream);
    };
    progress.step = Step::Tls;
    let handshake = client.handshake(stream, address).await;
    let stream = handshake.map_err(ProbeError::Tls)?;
    progress.step = Step::Answer;
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests;

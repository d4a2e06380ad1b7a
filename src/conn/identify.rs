//! Who a client is: the peer of its socket, or whom the PROXY header names with which it begins.

use std::fmt::Display;
use std::sync::LazyLock;
use std::time::Instant;

use super::Outcome;
use super::preread::{More, Preread};
use super::record::Record;
use super::visitor::Visitor;
use crate::log::SharedThrottle;
use crate::metrics::{Ended, Rejected};
use crate::net::Address;
use crate::proxy::{self, Header};

/// Reads the header of a client that must have one; from then on it is whom that names.
///
/// # Errors
/// The outcome of a connection that has no valid one (`proxy_header`, also where it ends in the
/// midst of one), or lets the time pass. A client that leaves without a byte has just left.
pub(super) async fn identify(
    preread: &mut Preread<'_>,
    visitor: &mut Visitor,
    record: &Record,
) -> Result<(), Outcome> {
    let header = read_header(preread, record).await?;
    preread.take(header.length);
    if let Some(endpoints) = header.endpoints {
        visitor.client = Address::Ip(endpoints.source);
        visitor.destination = Some(endpoints.destination);
        record.entry_ref().set_client(visitor.client.clone());
    }
    Ok(())
}

async fn read_header(preread: &mut Preread<'_>, record: &Record) -> Result<Header, Outcome> {
    loop {
        match proxy::parse(preread.bytes()) {
            Ok(Some(header)) => return Ok(header),
            Ok(None) => match preread.more().await? {
                More::Bytes => {}
                More::Fin if preread.bytes().is_empty() => {
                    return Err(Outcome::Ended(Ended::ClientLeft));
                }
                More::Fin => return Err(refused(&CUT_SHORT, record)),
            },
            Err(invalid) => return Err(refused(&invalid, record)),
        }
    }
}

const CUT_SHORT: &str = "it ends in the midst of the header";

/// Paces the lines that say what is wrong with headers.
static LINES: LazyLock<SharedThrottle> = LazyLock::new(|| SharedThrottle::new(Instant::now()));

fn refused(why: &dyn Display, record: &Record) -> Outcome {
    if tracing::enabled!(tracing::Level::DEBUG)
        && let Some(suppressed) = LINES.check(Instant::now())
    {
        let entry = record.entry_ref();
        tracing::debug!(
            id = entry.id(),
            listener = record.listener(),
            client = %entry.client(),
            why = %why,
            suppressed,
            "PROXY header refused"
        );
    }
    Outcome::Rejected(Rejected::ProxyHeader)
}

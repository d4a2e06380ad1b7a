//! The rejection line: a connection refused before any backend was touched.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tracing::Level;

use super::access::TARGET;
use super::line::{Format, Head};
use super::throttle::SharedThrottle;
use crate::metrics::Rejected;
use crate::net::Address;

/// One refused connection, and how many went without a line before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// When it was refused.
    pub at: SystemTime,
    /// The listener that refused it.
    pub listener: Arc<str>,
    /// Who was refused.
    pub client: Address,
    /// Why.
    pub reason: Rejected,
    /// Refused there for the same reason since the last such line, without one of their own.
    pub suppressed: u64,
}

impl Rejection {
    /// Appends the line.
    pub(super) fn write(&self, out: &mut Vec<u8>, format: Format) {
        let head = Head {
            time: self.at,
            level: Level::INFO,
            target: TARGET,
        };
        format.line(out, &head, |fields| {
            fields.message(&"rejected");
            fields.text("listener", &self.listener);
            fields.display("client", &self.client);
            fields.text("reason", self.reason.as_str());
            fields.integer("suppressed", self.suppressed);
        });
    }
}

/// The throttles of one listener, one for each reason: under attack a rejection costs its data
/// core an atomic addition, and the log a line a second.
#[derive(Debug)]
pub struct Rejections {
    listener: Arc<str>,
    throttles: [SharedThrottle; Rejected::COUNT],
}

impl Rejections {
    /// Those of the listener of this name.
    pub fn new(listener: Arc<str>, now: Instant) -> Self {
        Self {
            listener,
            throttles: std::array::from_fn(|_| SharedThrottle::new(now)),
        }
    }

    /// The line for one more refused connection, unless one was written within a second.
    pub(super) fn next(
        &self,
        client: &Address,
        reason: Rejected,
        now: Instant,
    ) -> Option<Rejection> {
        let suppressed = self.throttles[reason as usize].check(now)?;
        Some(Rejection {
            at: SystemTime::now(),
            listener: Arc::clone(&self.listener),
            client: client.clone(),
            reason,
            suppressed,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_reason_has_one_line_a_second_and_counts_the_others() {
        let start = Instant::now();
        let rejections = Rejections::new("web".into(), start);
        let client: Address = "10.0.0.1:9".parse().expect("an address");
        let next = |reason, at| {
            rejections
                .next(&client, reason, start + Duration::from_millis(at))
                .map(|rejection| rejection.suppressed)
        };
        assert_eq!(next(Rejected::Denied, 0), Some(0));
        assert_eq!(next(Rejected::Denied, 1), None);
        assert_eq!(next(Rejected::Rate, 1), Some(0));
        assert_eq!(next(Rejected::Denied, 2), None);
        assert_eq!(next(Rejected::Denied, 1000), Some(2));
    }

    #[test]
    fn the_line_says_who_where_why_and_how_many() {
        let rejection = Rejection {
            at: SystemTime::UNIX_EPOCH,
            listener: "web".into(),
            client: "[::1]:9".parse().expect("an address"),
            reason: Rejected::NoRoute,
            suppressed: 41,
        };
        let mut text = Vec::new();
        rejection.write(&mut text, Format::Text { colour: false });
        assert_eq!(
            String::from_utf8(text).expect("UTF-8"),
            "time=1970-01-01T00:00:00.000000Z level=info target=isobar::access msg=rejected \
             listener=web client=[::1]:9 reason=no_route suppressed=41\n"
        );
        let mut json = Vec::new();
        rejection.write(&mut json, Format::Json);
        let value: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(value["reason"], "no_route");
        assert_eq!(value["suppressed"], 41);
    }
}

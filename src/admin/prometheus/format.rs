//! Which of the two text formats, and how each is written.

use std::fmt;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

/// A text format for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) enum Format {
    /// Prometheus text format 0.0.4: what everything reads.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What an `Accept` header asks for: OpenMetrics where it is named and no less welcome
    /// than plain text.
    pub(in crate::admin) fn asked_for(accept: &str) -> Self {
        let named = quality(accept, &["application/openmetrics-text"]);
        let plain = quality(accept, &["text/plain"]);
        match named > 0.0 && named >= plain {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    /// Value of the `Content-Type` header.
    pub(in crate::admin) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    pub(super) fn encode(self, out: &mut String, registry: &Registry) -> fmt::Result {
        match self {
            Self::Prometheus => prometheus_text::encode(out, registry),
            Self::OpenMetrics => text::encode(out, registry),
        }
    }
}

/// How welcome the most welcome of these types is, 0 to 1; 0: not named. RFC 9110 section
/// 12.4.2.
fn quality(accept: &str, types: &[&str]) -> f64 {
    let qualities = accept.split(',').filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next()?.to_ascii_lowercase();
        if !types.contains(&&*name) {
            return None;
        }
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
        Some(weight.unwrap_or(1.0))
    });
    qualities.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_name_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let cases = [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain", Format::Prometheus),
            ("text/html,*/*;q=0.8", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "Application/OpenMetrics-Text; version=1.0.0, */*",
                Format::OpenMetrics,
            ),
            (prometheus, Format::OpenMetrics),
            (
                "application/openmetrics-text;q=0.2, text/plain;q=0.9",
                Format::Prometheus,
            ),
            ("application/openmetrics-text;q=0", Format::Prometheus),
        ];
        for (accept, expected) in cases {
            assert_eq!(Format::asked_for(accept), expected, "{accept}");
        }
    }
}

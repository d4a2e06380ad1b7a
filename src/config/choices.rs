//! The words of the file that stand for one of a few: each enum lists its own once.

use super::{
    Balance, HashKey, LatencyOf, Level, LogFormat, ProxyProtocol, RelayEngine, Resolve, SendProxy,
    WhenAllDown,
};

/// An enum with a word of the file for each value.
pub(super) trait Choice: Copy + PartialEq + Sized + 'static {
    /// Every value with its word, in the order of the reference.
    const ALL: &'static [(&'static str, Self)];

    /// The value of a word.
    fn of(word: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|(name, _)| *name == word).map(|(_, value)| *value)
    }

    /// The word of a value.
    fn word(self) -> &'static str {
        let mut all = Self::ALL.iter();
        let found = all.find(|(_, value)| *value == self);
        found.map(|(name, _)| *name).expect("ALL lists every value")
    }
}

/// Every word of an enum.
pub(super) fn words<T: Choice>() -> Vec<&'static str> {
    T::ALL.iter().map(|(name, _)| *name).collect()
}

/// `health.kind`: [`super::HealthKind`] without what the kinds need.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum CheckKind {
    Tcp,
    Tls,
    Http,
    Exchange,
    None,
}

impl Choice for CheckKind {
    const ALL: &'static [(&'static str, Self)] = &[
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
        ("http", Self::Http),
        ("exchange", Self::Exchange),
        ("none", Self::None),
    ];
}

impl Choice for Level {
    const ALL: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Choice for LogFormat {
    const ALL: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Choice for Balance {
    const ALL: &'static [(&'static str, Self)] = &[
        (Self::RoundRobin.as_str(), Self::RoundRobin),
        (Self::LeastConnections.as_str(), Self::LeastConnections),
        (Self::ConsistentHash.as_str(), Self::ConsistentHash),
        (Self::RandomTwo.as_str(), Self::RandomTwo),
        (Self::LeastLatency.as_str(), Self::LeastLatency),
        (Self::First.as_str(), Self::First),
    ];
}

impl Choice for Resolve {
    const ALL: &'static [(&'static str, Self)] = &[
        ("any", Self::Any),
        ("ipv4", Self::Ipv4),
        ("ipv6", Self::Ipv6),
    ];
}

impl Choice for WhenAllDown {
    const ALL: &'static [(&'static str, Self)] = &[("hold", Self::Hold), ("try", Self::Try)];
}

impl Choice for ProxyProtocol {
    const ALL: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("required", Self::Required),
        ("optional", Self::Optional),
    ];
}

impl Choice for SendProxy {
    const ALL: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("v1", Self::V1), ("v2", Self::V2)];
}

impl Choice for RelayEngine {
    const ALL: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("copy", Self::Copy),
        ("splice", Self::Splice),
    ];
}

impl Choice for HashKey {
    const ALL: &'static [(&'static str, Self)] = &[
        (Self::ClientIp.as_str(), Self::ClientIp),
        (Self::ClientIpPort.as_str(), Self::ClientIpPort),
        (Self::Sni.as_str(), Self::Sni),
        (Self::DestinationIpPort.as_str(), Self::DestinationIpPort),
    ];
}

impl Choice for LatencyOf {
    const ALL: &'static [(&'static str, Self)] =
        &[("first-byte", Self::FirstByte), ("connect", Self::Connect)];
}

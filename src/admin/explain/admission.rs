//! Whether a client would be let in, and by which rule.

use serde::Serialize;

use crate::admit::{Judgement, Listed, Source, Tokens};
use crate::config;
use crate::config::Rate;
use crate::metrics::Rejected;

/// What lists, limits and rates say.
#[derive(Debug, Serialize)]
pub(super) struct AdmissionStep {
    /// Whether it would be let in.
    admitted: bool,
    /// Under which word it would be counted if not.
    reason: Option<&'static str>,
    /// The addresses that are limited as one with it; null: addresses are not limited.
    network: Option<String>,
    /// Connections from there; null: they are not counted.
    active: Option<u32>,
    /// Connections that may come from there; 0: any.
    limit: u32,
    /// How many more its own rate lets in now; null: there is none.
    tokens_per_ip: Option<u64>,
    /// How many more the rate of the listener lets in now; null: there is none.
    tokens: Option<u64>,
    /// A sentence for each rule, in the order in which they are asked.
    why: Vec<String>,
}

impl AdmissionStep {
    /// `judged`: `None`: the listener has no rule.
    pub(super) fn of(judged: Option<&Judgement>, settings: &config::Listener) -> Self {
        let source = judged.and_then(|judged| judged.source);
        let tokens = source.and_then(|source| source.tokens);
        let whole = judged.and_then(|judged| judged.whole);
        Self {
            admitted: judged.is_none_or(|judged| judged.refused.is_none()),
            reason: judged
                .and_then(|judged| judged.refused)
                .map(Rejected::as_str),
            network: source.map(|source| source.network.to_string()),
            active: source.and_then(|source| source.active),
            limit: source.map_or(0, |source| source.limit),
            tokens_per_ip: tokens.map(|tokens| tokens.left),
            tokens: whole.map(|(_, tokens)| tokens.left),
            why: judged.map_or_else(Vec::new, |judged| why(judged, settings.rate_per_ip)),
        }
    }
}

fn why(judged: &Judgement, rate_per_ip: Option<Rate>) -> Vec<String> {
    let lists = judged.listed.map(listed);
    let source = judged.source;
    let active = source.and_then(connected);
    let own = source.and_then(|source| Some((source, source.tokens?, rate_per_ip?)));
    let own = own.map(|(source, left, rate)| {
        format!("rate_per_ip {rate} of {}: {}", source.network, tokens(left))
    });
    let whole = judged.whole;
    let whole = whole.map(|(rate, left)| format!("rate {rate}: {}", tokens(left)));
    // Whom a list keeps out nobody asks for more.
    let kept_out = judged.refused == Some(Rejected::Denied);
    let rest = [active, own, whole].into_iter().flatten();
    lists
        .into_iter()
        .chain(rest.filter(|_| !kept_out))
        .collect()
}

fn listed(listed: Listed) -> String {
    match listed {
        Listed::Denied(block) => format!("denied by deny {block}"),
        Listed::NotAllowed => "denied: no entry of allow has it".to_owned(),
        Listed::Allowed(source) => format!("allowed by allow {source}"),
        Listed::Everyone => "no entry of deny has it".to_owned(),
    }
}

fn connected(source: Source) -> Option<String> {
    let Source { network, limit, .. } = source;
    let active = source.active?;
    Some(format!("{network} has {active} of {limit} connections"))
}

fn tokens(tokens: Tokens) -> String {
    match tokens.left {
        0 => format!("no token left, the next in {} ms", millis(tokens)),
        1 => "1 token left".to_owned(),
        left => format!("{left} tokens left"),
    }
}

/// A part of a millisecond is one.
fn millis(tokens: Tokens) -> u128 {
    tokens.next.as_micros().div_ceil(1000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn judgement() -> Judgement {
        let tokens = |left, next| Tokens {
            left,
            next: Duration::from_micros(next),
        };
        Judgement {
            refused: None,
            listed: None,
            source: Some(Source {
                network: "2001:db8::/64".parse().expect("a block"),
                active: Some(3),
                limit: 10,
                tokens: Some(tokens(1, 0)),
            }),
            whole: Some(("500/s".parse().expect("a rate"), tokens(0, 1500))),
        }
    }

    #[test]
    fn each_rule_has_its_sentence() {
        let rate = "50/s".parse().ok();
        let block = "10.0.0.0/8".parse().expect("a block");
        let rest = [
            "2001:db8::/64 has 3 of 10 connections",
            "rate_per_ip 50/s of 2001:db8::/64: 1 token left",
            "rate 500/s: no token left, the next in 2 ms",
        ];
        assert_eq!(why(&judgement(), rate), rest);
        let denied = Judgement {
            refused: Some(Rejected::Denied),
            listed: Some(Listed::Denied(block)),
            ..judgement()
        };
        assert_eq!(why(&denied, rate), ["denied by deny 10.0.0.0/8"]);
        for (said, sentence) in [
            (Listed::Everyone, "no entry of deny has it"),
            (
                Listed::Allowed(crate::net::Source::Unix),
                "allowed by allow unix",
            ),
            (
                Listed::Allowed(crate::net::Source::Block(block)),
                "allowed by allow 10.0.0.0/8",
            ),
        ] {
            let listed = Judgement {
                listed: Some(said),
                ..judgement()
            };
            assert_eq!(why(&listed, rate)[0], sentence);
            assert_eq!(why(&listed, rate)[1..], rest);
        }
    }
}

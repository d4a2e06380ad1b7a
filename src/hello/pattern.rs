//! The names that a route takes: one, or all below one.

use std::fmt;

use super::name::{NotAName, host_name};

/// `db.example.com`, `*.example.com` or `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern {
    /// In lower case, without a final dot; empty: every name there is, with `below`.
    name: Box<str>,
    /// The names below it, not the name itself.
    below: bool,
}

/// Why something is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// An IP address.
    #[error(
        "an IP address is never asked for by name: list clients in `client`, or bind another listener"
    )]
    Address,
    /// A `*` that is not the first label, or not all of it.
    #[error("`*` stands for whole labels at the beginning, as in \"*.example.com\"")]
    Star,
    /// Neither a name nor a pattern of names.
    #[error(transparent)]
    Name(#[from] NotAName),
}

impl NamePattern {
    /// Reads one; case and a final dot do not matter.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (below, rest) = match text.strip_prefix('*') {
            None => (false, text),
            Some("" | ".") => {
                return Ok(Self {
                    name: "".into(),
                    below: true,
                });
            }
            Some(rest) => (true, rest.strip_prefix('.').ok_or(PatternError::Star)?),
        };
        if rest.contains('*') {
            return Err(PatternError::Star);
        }
        match host_name(rest.as_bytes())? {
            Some(name) => Ok(Self {
                name: name.into(),
                below,
            }),
            None => Err(PatternError::Address),
        }
    }

    /// Whether it takes `name`, which is in lower case and without a final dot. `*` stands for
    /// one or more labels.
    pub fn matches(&self, name: &str) -> bool {
        match self.below {
            false => *self.name == *name,
            true => self.is_above(name),
        }
    }

    /// Whether it takes every name that `other` takes.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.below, other.below) {
            (false, true) => false,
            (_, false) => self.matches(&other.name),
            (true, true) => self.name == other.name || self.is_above(&other.name),
        }
    }

    fn is_above(&self, name: &str) -> bool {
        if self.name.is_empty() {
            return !name.is_empty();
        }
        let labels = name.strip_suffix(&*self.name);
        labels.is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.below, &*self.name) {
            (true, "") => f.write_str("*"),
            (true, name) => write!(f, "*.{name}"),
            (false, name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> NamePattern {
        NamePattern::parse(text).expect("a pattern")
    }

    #[test]
    fn a_star_is_one_or_more_labels() {
        let internal = pattern("*.internal.example.com");
        for name in ["a.internal.example.com", "b.a.internal.example.com"] {
            assert!(internal.matches(name), "{name}");
        }
        for name in [
            "internal.example.com",
            "ainternal.example.com",
            "example.com",
            "com",
        ] {
            assert!(!internal.matches(name), "{name}");
        }
        assert!(pattern("*").matches("a") && pattern("*").matches("a.b"));
        assert!(pattern("a.b").matches("a.b") && !pattern("a.b").matches("c.a.b"));
    }

    #[test]
    fn case_and_a_final_dot_do_not_matter() {
        assert_eq!(pattern("*.Example.COM."), pattern("*.example.com"));
        assert_eq!(pattern("A.B."), pattern("a.b"));
        for text in ["*", "*.example.com", "db.example.com"] {
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        for text in ["*a.com", "a.*.com", "*.*.com", "**"] {
            assert_eq!(NamePattern::parse(text), Err(PatternError::Star), "{text}");
        }
        for text in ["10.0.0.1", "::1"] {
            assert_eq!(NamePattern::parse(text), Err(PatternError::Address));
        }
        for text in ["", "a b", "*.", "*..a", "a..b", "é.com"] {
            let refused = NamePattern::parse(text);
            assert!(
                text == "*." || matches!(refused, Err(PatternError::Name(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn one_covers_another_where_it_takes_all_that_the_other_takes() {
        let texts = ["*", "*.b", "*.a.b", "a.b", "b", "c.a.b", "*.c", "ab"];
        let names = [
            "b", "c", "ab", "a.b", "c.b", "c.a.b", "d.c.a.b", "x.c", "xa.b", "y.xa.b", "z",
        ];
        for one in texts.map(pattern) {
            for other in texts.map(pattern) {
                let all = names.iter().all(|n| !other.matches(n) || one.matches(n));
                assert_eq!(one.covers(&other), all, "{one} and {other}");
            }
        }
    }
}

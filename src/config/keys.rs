//! What a key of `lb.toml` is: its name, what it takes, its default and its meaning. The keys
//! themselves are in [`super::tables`].

use std::time::Duration;

use super::units::{MAX_DURATION, format_duration};
use super::value::Value;

/// A table of the file.
pub(super) struct Table {
    /// Its header, such as `pool.NAME.health`.
    pub(super) header: &'static str,
    /// What it is about.
    pub(super) doc: &'static str,
    pub(super) keys: &'static [Key],
}

impl Table {
    pub(super) fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// A key of a table.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As TOML; empty: the key must be given.
    pub(super) default: &'static str,
    /// What it does, for the reference.
    pub(super) doc: &'static str,
}

impl Key {
    /// Whether its value is not to be repeated in a message.
    pub(super) fn is_secret(&self) -> bool {
        SECRETS.contains(&self.name)
    }
}

/// Keys whose values are never shown, readable or not.
pub(super) const SECRETS: [&str; 2] = ["token", "send"];

/// What a key takes.
pub(super) enum Kind {
    Flag,
    Count {
        min: u64,
        max: u64,
    },
    /// From 0.0 to 1.0.
    Share,
    /// 0.0, or a number from 1.0 on.
    Factor,
    Duration {
        zero: Zero,
        min: Duration,
        max: Duration,
    },
    /// One of a few words.
    Word {
        words: fn() -> Vec<&'static str>,
    },
    /// One of a few words, or a table, which is a value as a whole: nobody else's keys fill it up,
    /// and those that have no default must be given.
    WordOrTable {
        words: fn() -> Vec<&'static str>,
        table: &'static Table,
        /// Such a table.
        such_as: &'static str,
    },
    /// One of a few words, or a whole number.
    WordOrCount {
        words: fn() -> Vec<&'static str>,
        min: u64,
        max: u64,
    },
    Text {
        what: &'static str,
        read: Read,
    },
    /// A string, or a list of at least one.
    OneOrMore {
        what: &'static str,
        read: Read,
    },
    Many {
        what: &'static str,
        read: Read,
    },
    /// A list of tables, or of strings for their first key.
    Entries(&'static Table),
    /// A list of tables, `[[…]]`.
    Tables(&'static Table),
    Table(&'static Table),
    /// Tables by a name of the operator's choice.
    Named(&'static Table),
}

/// Reads a string, or says what is wrong with it without repeating it.
pub(super) type Read = fn(&str) -> Result<Value, String>;

/// What `"0s"` is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Zero {
    /// It switches the key off.
    Off,
    /// A fault: there is nothing that could happen every 0 s.
    Fault,
}

impl Kind {
    /// What is expected, to be read behind "must be".
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Count { min, max } => format!("a whole number from {min} to {max}"),
            Self::Share => "a number from 0.0 to 1.0".to_owned(),
            Self::Factor => format!("0.0, or a number from 1.0 to {MAX_FACTOR:?}"),
            Self::Duration { .. } => "a duration such as \"1m30s\"".to_owned(),
            Self::WordOrTable { words, such_as, .. } => {
                format!("{}, or a table such as {such_as}", quoted(&words()))
            }
            Self::Word { words } => format!("one of {}", quoted(&words())),
            Self::WordOrCount { words, min, max } => {
                let words: Vec<_> = words().iter().map(|word| format!("{word:?}")).collect();
                format!("{} or a whole number from {min} to {max}", words.join(", "))
            }
            Self::Text { what, .. } => (*what).to_owned(),
            Self::OneOrMore { what, .. } => format!("{what}, or a list of them"),
            Self::Many { what, .. } => format!("a list of strings: {what}"),
            Self::Entries(_) => "a list of addresses and tables".to_owned(),
            Self::Tables(table) => format!("a list of tables, [[{}]]", table.header),
            Self::Table(table) => format!("a table, [{}]", table.header),
            Self::Named(table) => format!("a table of tables, [{}]", table.header),
        }
    }
}

/// `"a", "b" or "c"`.
fn quoted(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// A bound that is the type's, not ours.
pub(super) const ANY: u64 = u32::MAX as u64;

/// The largest factor: what is above is no bound that anybody would come to.
pub(super) const MAX_FACTOR: f64 = 1000.0;

/// The shortest duration that is none.
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

/// The bounds of a duration in words, for the reference; empty where they are those of all.
pub(super) fn duration_bounds(zero: Zero, min: Duration, max: Duration) -> String {
    let range = match (min == MILLISECOND, max == MAX_DURATION) {
        (true, true) => String::new(),
        (true, false) => format!(", at most {}", format_duration(max)),
        _ => format!(", {} to {}", format_duration(min), format_duration(max)),
    };
    match zero {
        Zero::Off => range,
        Zero::Fault => format!("{range}, not 0s"),
    }
}

pub(super) const fn flag(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Flag,
        default,
        doc,
    }
}

pub(super) const fn count(
    name: &'static str,
    (min, max): (u64, u64),
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        name,
        kind: Kind::Count { min, max },
        default,
        doc,
    }
}

pub(super) const fn timeout(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    let kind = Kind::Duration {
        zero: Zero::Off,
        min: MILLISECOND,
        max: MAX_DURATION,
    };
    Key {
        name,
        kind,
        default,
        doc,
    }
}

pub(super) const fn interval(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    let kind = Kind::Duration {
        zero: Zero::Fault,
        min: MILLISECOND,
        max: MAX_DURATION,
    };
    Key {
        name,
        kind,
        default,
        doc,
    }
}

pub(super) const fn word(
    name: &'static str,
    words: fn() -> Vec<&'static str>,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        name,
        kind: Kind::Word { words },
        default,
        doc,
    }
}

pub(super) const fn text(
    name: &'static str,
    (what, read): (&'static str, Read),
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        name,
        kind: Kind::Text { what, read },
        default,
        doc,
    }
}

pub(super) const fn table(name: &'static str, table: &'static Table) -> Key {
    Key {
        name,
        kind: Kind::Table(table),
        default: "{}",
        doc: table.doc,
    }
}

pub(super) const fn named(name: &'static str, table: &'static Table) -> Key {
    Key {
        name,
        kind: Kind::Named(table),
        default: "{}",
        doc: table.doc,
    }
}

//! What a key of the file can hold once it has been read, and how the builder asks for it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use super::keys::{Key, Kind, Table};
use super::{AccessSink, Rate, Replay, schema};
use crate::hello::NamePattern;
use crate::net::{Address, Cidr, Location, Source};

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    /// Of the value, in bytes; of the name in the header for a table.
    pub(super) span: Range<usize>,
    /// The text as written where it holds the value of an environment variable, which is
    /// never shown.
    pub(super) written: Option<Box<str>>,
}

impl<T> At<T> {
    pub(super) fn new(span: Range<usize>, value: T) -> Self {
        Self {
            value,
            span,
            written: None,
        }
    }

    /// Whether it holds the value of an environment variable.
    pub(super) fn is_replaced(&self) -> bool {
        self.written.is_some()
    }

    /// What a message may say instead of `value`, which is what stands there.
    pub(super) fn shown<'a>(&'a self, value: &'a str) -> &'a str {
        self.written.as_deref().unwrap_or(value)
    }
}

/// A value that its key takes.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Something stands there, but it is a fault, which has been reported.
    Faulty,
    Flag(bool),
    Count(u64),
    Share(f64),
    Text(String),
    Duration(Duration),
    Rate(Rate),
    Ip(IpAddr),
    /// With its text: an unnamed backend is named as it is written.
    Address(Address, String),
    /// The same of a backend.
    Location(Location, String),
    /// `""` where an address or a rate may be left out.
    Off,
    /// And whether bits behind the prefix were given, which do not count.
    Cidr(Cidr, bool),
    /// `"unix"` beside blocks of addresses.
    Unix,
    Mode(u32),
    Sink(AccessSink),
    Statuses(Vec<RangeInclusive<u16>>),
    Bytes(Vec<u8>),
    Name(NamePattern),
    List(Vec<At<Value>>),
    Section(Section),
}

/// A table of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Section {
    /// `NAME` of `[pool.NAME]`; empty where a table has none.
    pub(super) name: String,
    pub(super) values: BTreeMap<&'static str, At<Value>>,
}

/// A type that a [`Value`] can be taken as.
pub(super) trait Take: Sized {
    /// `None`: the value is faulty, or of another type than the key tables say.
    fn take(value: &Value) -> Option<Self>;
}

macro_rules! take {
    ($($type:ty: $pattern:pat => $taken:expr;)*) => {$(
        impl Take for $type {
            fn take(value: &Value) -> Option<Self> {
                match value {
                    $pattern => $taken,
                    _ => None,
                }
            }
        }
    )*};
}

take! {
    bool: Value::Flag(flag) => Some(*flag);
    u16: Value::Count(count) => (*count).try_into().ok();
    usize: Value::Count(count) => (*count).try_into().ok();
    NonZeroU32: Value::Count(count) => u32::try_from(*count).ok().and_then(Self::new);
    f64: Value::Share(share) => Some(*share);
    NamePattern: Value::Name(pattern) => Some(pattern.clone());
    String: Value::Text(text) | Value::Address(_, text) | Value::Location(_, text) => Some(text.clone());
    Location: Value::Location(location, _) => Some(location.clone());
    Duration: Value::Duration(duration) => Some(*duration);
    Rate: Value::Rate(rate) => Some(*rate);
    IpAddr: Value::Ip(ip) => Some(*ip);
    Cidr: Value::Cidr(block, _) => Some(*block);
    AccessSink: Value::Sink(sink) => Some(sink.clone());
    Vec<RangeInclusive<u16>>: Value::Statuses(ranges) => Some(ranges.clone());
    Vec<u8>: Value::Bytes(bytes) => Some(bytes.clone());
}

impl Take for u32 {
    fn take(value: &Value) -> Option<Self> {
        match value {
            Value::Count(count) => (*count).try_into().ok(),
            Value::Mode(mode) => Some(*mode),
            _ => None,
        }
    }
}

impl Take for Source {
    fn take(value: &Value) -> Option<Self> {
        match value {
            Value::Cidr(block, _) => Some(Self::Block(*block)),
            Value::Unix => Some(Self::Unix),
            _ => None,
        }
    }
}

impl Take for Option<Rate> {
    fn take(value: &Value) -> Option<Self> {
        match value {
            Value::Rate(rate) => Some(Some(*rate)),
            Value::Off => Some(None),
            _ => None,
        }
    }
}

impl Take for Option<Address> {
    fn take(value: &Value) -> Option<Self> {
        match value {
            Value::Address(address, _) => Some(Some(address.clone())),
            Value::Off => Some(None),
            _ => None,
        }
    }
}

impl Take for Replay {
    fn take(value: &Value) -> Option<Self> {
        match value {
            Value::Count(count) => (*count).try_into().ok().map(Self::Bytes),
            Value::Text(word) => Some(match &**word {
                "off" => Self::Off,
                _ => Self::Safe,
            }),
            _ => None,
        }
    }
}

impl<T: Take> Take for Vec<At<T>> {
    fn take(value: &Value) -> Option<Self> {
        let Value::List(items) = value else {
            return None;
        };
        let item = |item: &At<Value>| {
            T::take(&item.value).map(|value| At {
                value,
                span: item.span.clone(),
                written: item.written.clone(),
            })
        };
        Some(items.iter().filter_map(item).collect())
    }
}

impl Take for Address {
    fn take(value: &Value) -> Option<Self> {
        <Option<Self> as Take>::take(value).flatten()
    }
}

/// A table as it takes effect: its own keys, then those of `[defaults]`, then the defaults of
/// isobar, key by key and also in sub-tables.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    table: &'static Table,
    own: Option<&'a Section>,
    defaults: Option<&'a Section>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(
        table: &'static Table,
        own: Option<&'a Section>,
        defaults: Option<&'a Section>,
    ) -> Self {
        Self {
            table,
            own,
            defaults,
        }
    }

    /// The table as the file has it.
    pub(super) fn section(&self) -> Option<&'a Section> {
        self.own
    }

    pub(super) fn table(&self) -> &'static Table {
        self.table
    }

    /// The value in effect.
    ///
    /// # Panics
    ///
    /// If the table has no such key, or one of another type: [`super::keys`] and
    /// [`super::build`] contradict each other, which every file would show.
    pub(super) fn get<T: Take>(&self, name: &str) -> T {
        self.given(name).unwrap_or_else(|| {
            let value = schema::default_of(self.key(name));
            T::take(&value).expect("a key's default is of the key's type")
        })
    }

    /// What the file says, if that is no fault; for keys that have no default.
    pub(super) fn given<T: Take>(&self, name: &str) -> Option<T> {
        self.written(name).and_then(|at| T::take(&at.value))
    }

    /// The word in effect as its enum. Panics as [`Self::get`].
    pub(super) fn choice<T: super::choices::Choice>(&self, name: &str) -> T {
        let word: String = self.get(name);
        T::of(&word).expect("a word of the key's own list")
    }

    /// The list of tables under a key, with their places.
    pub(super) fn sections(&self, name: &str) -> impl Iterator<Item = (&'a Section, Range<usize>)> {
        let list = match self.written(name).map(|at| &at.value) {
            Some(Value::List(items)) => items.as_slice(),
            _ => &[],
        };
        list.iter().filter_map(|item| match &item.value {
            Value::Section(section) => Some((section, item.span.clone())),
            _ => None,
        })
    }

    /// The table under a key, whether it is written or not.
    pub(super) fn sub(&self, name: &str) -> Self {
        let Kind::Table(table) = self.key(name).kind else {
            unreachable!("{name} is no table in the key tables");
        };
        let section = |of: Option<&'a Section>| match of?.values.get(name)?.value {
            Value::Section(ref section) => Some(section),
            _ => None,
        };
        Self::new(table, section(self.own), section(self.defaults))
    }

    /// What the file says for a key, faulty or not, its own table or `[defaults]`.
    pub(super) fn written(&self, name: &str) -> Option<&'a At<Value>> {
        self.own(name).or_else(|| self.inherited(name))
    }

    /// What the table itself says for a key.
    pub(super) fn own(&self, name: &str) -> Option<&'a At<Value>> {
        self.own?.values.get(name)
    }

    /// What `[defaults]` says for a key.
    pub(super) fn inherited(&self, name: &str) -> Option<&'a At<Value>> {
        self.defaults?.values.get(name)
    }

    fn key(&self, name: &str) -> &'static Key {
        let key = self.table.key(name);
        key.unwrap_or_else(|| unreachable!("{name} is not in the key tables"))
    }
}

//! Walks the parsed file along the key tables and reads every value, collecting every fault.
//!
//! Serde would stop at the first fault. What is read is a tree of [`Section`]s in which a
//! faulty value keeps its place, so that the builder neither misses it nor reports it again.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::env;
use super::faults::Sink;
use super::keys::{Key, Kind, Read, Table, Zero};
use super::source::Source;
use super::suggest;
use super::tables::ROOT;
use super::texts::{NAME_RULE, NOT_YET, is_name};
use super::units::{self, format_duration};
use super::value::{At, Section, Value};

/// Reads the whole tree of a file.
pub(super) fn read(
    tree: &DeTable<'_>,
    env: &dyn Fn(&str) -> Option<String>,
    sink: &mut Sink<'_>,
) -> Section {
    let mut reader = Reader {
        env,
        sink,
        header: Vec::new(),
    };
    reader.section(&ROOT, tree)
}

/// The default of a key, as the key tables write it.
pub(super) fn default_of(key: &Key) -> Value {
    let source = Source::new("", "");
    let mut sink = Sink::new(&source);
    let mut reader = Reader {
        env: &|_| None,
        sink: &mut sink,
        header: Vec::new(),
    };
    match DeValue::parse(key.default) {
        Ok(value) => reader.value(key, &value).value,
        Err(_) => Value::Faulty,
    }
}

struct Reader<'r, 's> {
    env: &'r dyn Fn(&str) -> Option<String>,
    sink: &'r mut Sink<'s>,
    /// Of the table that is being read, such as pool, web, health.
    header: Vec<String>,
}

type Tree<'t> = Spanned<DeValue<'t>>;

impl Reader<'_, '_> {
    fn section(&mut self, table: &'static Table, items: &DeTable<'_>) -> Section {
        let mut section = Section::default();
        for (name, value) in items {
            let Some(key) = table.key(name.get_ref()) else {
                self.unknown(table, name.get_ref(), name.span(), value);
                continue;
            };
            let mut read = match key.kind {
                Kind::Later => self.later(key, name.span()),
                _ => self.within(key.name, |reader| reader.value(key, value)),
            };
            if matches!(read.value, Value::Section(_)) {
                read.span = name.span();
            }
            section.values.insert(key.name, read);
        }
        section
    }

    fn unknown(&mut self, table: &Table, name: &str, span: Range<usize>, value: &Tree<'_>) {
        if self.sink.is_full() {
            return self.sink.fault(span, "unknown key");
        }
        let mut message = suggest::unknown_key(table, &self.header.join("."), name);
        if let ([kind, first], DeValue::Table(_)) = (&*self.header, value.get_ref()) {
            message += &format!("; a name with a dot is quoted: [{kind}.\"{first}.{name}\"]");
        }
        self.sink.fault(span, message);
    }

    /// Reads the table or value `name` of the one that is being read.
    fn within<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.header.push(name.to_owned());
        let value = read(self);
        self.header.pop();
        value
    }

    fn later(&mut self, key: &Key, span: Range<usize>) -> At<Value> {
        let message = format!("`{}` is {NOT_YET}", key.name);
        self.sink.fault(span.clone(), message);
        faulty(span)
    }

    /// The value of a key; a fault is reported and leaves [`Value::Faulty`].
    fn value(&mut self, key: &Key, tree: &Tree<'_>) -> At<Value> {
        match (&key.kind, tree.get_ref()) {
            (Kind::OneOrMore { read, .. }, DeValue::String(_)) => {
                let item = self.text(key, tree, *read);
                let (span, replaced) = (item.span.clone(), item.replaced);
                let value = Value::List(vec![item]);
                At {
                    value,
                    span,
                    replaced,
                }
            }
            (Kind::OneOrMore { read, .. }, DeValue::Array(items)) => {
                if items.is_empty() {
                    self.fault(tree, format!("`{}` must name at least one", key.name));
                }
                self.list(tree, |reader, item| reader.text(key, item, *read))
            }
            (Kind::Many { read, .. }, DeValue::Array(_)) => {
                self.list(tree, |reader, item| reader.text(key, item, *read))
            }
            (Kind::Entries(table), DeValue::Array(_)) => {
                self.list(tree, |reader, item| reader.entry(key, table, item))
            }
            (Kind::Text { read, .. }, DeValue::String(_)) => self.text(key, tree, *read),
            (Kind::Duration { .. } | Kind::Word { .. }, DeValue::String(_)) => {
                self.text_of_kind(key, tree)
            }
            (Kind::Table(table), DeValue::Table(items)) => {
                let section = self.section(table, items);
                at(tree, Value::Section(section))
            }
            (Kind::Named(table), DeValue::Table(items)) => self.named(table, tree, items),
            _ => self.plain(key, tree),
        }
    }

    /// Numbers and flags, and what has the wrong type.
    fn plain(&mut self, key: &Key, tree: &Tree<'_>) -> At<Value> {
        let value = match (&key.kind, tree.get_ref()) {
            (Kind::Flag, DeValue::Boolean(flag)) => Some(Value::Flag(*flag)),
            (Kind::Count { min, max }, DeValue::Integer(number)) => integer(number)
                .and_then(|number| u64::try_from(number).ok())
                .filter(|number| (min..=max).contains(&number))
                .map(Value::Count),
            (Kind::Share, DeValue::Float(number)) => share(number.as_str()),
            (Kind::Share, DeValue::Integer(number)) => share(number.as_str()),
            _ => None,
        };
        match value {
            Some(value) => at(tree, value),
            None => {
                let message = format!(
                    "`{}` must be {}, not {}",
                    key.name,
                    key.kind.expected(),
                    found(&key.kind, tree)
                );
                self.fault(tree, message)
            }
        }
    }

    fn list(
        &mut self,
        tree: &Tree<'_>,
        mut item: impl FnMut(&mut Self, &Tree<'_>) -> At<Value>,
    ) -> At<Value> {
        let items = tree
            .get_ref()
            .as_array()
            .into_iter()
            .flat_map(|items| items.iter());
        let items = items.map(|tree| item(self, tree)).collect();
        at(tree, Value::List(items))
    }

    /// An item of `backends`: a table, or a string for its first key.
    fn entry(&mut self, key: &Key, table: &'static Table, tree: &Tree<'_>) -> At<Value> {
        if let DeValue::Table(items) = tree.get_ref() {
            let section = self.section(table, items);
            return at(tree, Value::Section(section));
        }
        if !tree.get_ref().is_str() {
            let found = found(&key.kind, tree);
            return self.fault(
                tree,
                format!("`{}` takes addresses and tables, not {found}", key.name),
            );
        }
        let (first, Kind::Text { read, .. }) = (&table.keys[0], &table.keys[0].kind) else {
            unreachable!("an entry's first key is a text");
        };
        let text = self.text(key, tree, *read);
        if matches!(text.value, Value::Faulty) {
            return text;
        }
        let mut section = Section::default();
        section.values.insert(first.name, text);
        at(tree, Value::Section(section))
    }

    /// Tables by name, in the order of the file.
    fn named(&mut self, table: &'static Table, tree: &Tree<'_>, items: &DeTable<'_>) -> At<Value> {
        let kind = Kind::Table(table);
        let mut list = Vec::new();
        for (name, value) in items {
            let item = match value.get_ref() {
                DeValue::Table(items) => {
                    let mut section = self.within(name.get_ref(), |r| r.section(table, items));
                    section.name = name.get_ref().clone().into_owned();
                    self.check_name(&section.name, name.span());
                    Value::Section(section)
                }
                _ => {
                    let found = found(&kind, value);
                    let message = format!(
                        "`{}` must be {}, not {found}",
                        name.get_ref(),
                        kind.expected()
                    );
                    self.fault(value, message).value
                }
            };
            let (value, span) = (item, name.span());
            list.push(At {
                value,
                span,
                replaced: false,
            });
        }
        // The tree may hold tables in the order in which their sub-tables were met.
        list.sort_by_key(|item| item.span.start);
        at(tree, Value::List(list))
    }

    fn check_name(&mut self, name: &str, span: Range<usize>) {
        if !is_name(name) {
            self.sink
                .fault(span, format!("{} is no name: {NAME_RULE}", excerpt(name)));
        }
    }

    /// A string that `read` makes a value of, after replacement from the environment.
    fn text(&mut self, key: &Key, tree: &Tree<'_>, read: Read) -> At<Value> {
        self.string(key, tree, read)
    }

    fn text_of_kind(&mut self, key: &Key, tree: &Tree<'_>) -> At<Value> {
        match &key.kind {
            Kind::Duration { zero, min, max } => self.string(key, tree, |text| {
                let duration = units::duration(text)?;
                let off = duration.is_zero() && *zero == Zero::Off;
                if off || (*min..=*max).contains(&duration) {
                    return Ok(Value::Duration(duration));
                }
                Err(match duration.is_zero() {
                    true => "0s makes no sense here".to_owned(),
                    false => format!(
                        "from {} to {}",
                        format_duration(*min),
                        format_duration(*max)
                    ),
                })
            }),
            Kind::Word { words, later } => self.string(key, tree, |text| {
                if later.contains(&text) {
                    return Err(format!("this is {NOT_YET}"));
                }
                let words = words();
                if words.contains(&text) {
                    return Ok(Value::Text(text.to_owned()));
                }
                let hint = suggest::did_you_mean(text, words, '"');
                Err(format!("expected {}{hint}", key.kind.expected()))
            }),
            _ => unreachable!("only durations and words are texts of their kind"),
        }
    }

    fn string(
        &mut self,
        key: &Key,
        tree: &Tree<'_>,
        read: impl FnOnce(&str) -> Result<Value, String>,
    ) -> At<Value> {
        let Some(written) = tree.get_ref().as_str() else {
            let message = format!("`{}` takes strings, not {}", key.name, type_of(tree));
            return self.fault(tree, message);
        };
        let text = match env::replace(written, self.env) {
            Ok(text) => text,
            Err(faults) => return self.env_faults(tree, faults),
        };
        match read(&text.text) {
            Ok(value) => At {
                replaced: text.replaced,
                ..at(tree, value)
            },
            // As written: what the environment holds may be a secret.
            Err(why) if SECRET.contains(&key.name) => {
                self.fault(tree, format!("`{}`: {why}", key.name))
            }
            Err(why) => {
                let message = format!("`{}` cannot be {}: {why}", key.name, excerpt(written));
                self.fault(tree, message)
            }
        }
    }

    fn env_faults(&mut self, tree: &Tree<'_>, faults: Vec<env::EnvFault>) -> At<Value> {
        let span = tree.span();
        let raw = self.sink.written(&span);
        let mut from = 0;
        for fault in faults {
            // With escapes in the reference itself it is found nowhere: then the whole string.
            let place = raw[from..].find(&fault.written).map(|found| from + found);
            let place = place.map(|start| start..start + fault.written.len());
            from = place.as_ref().map_or(from, |place| place.end);
            let place = place.map_or(span.clone(), |p| span.start + p.start..span.start + p.end);
            self.sink.fault(place, fault.message);
        }
        faulty(span)
    }

    fn fault(&mut self, tree: &Tree<'_>, message: String) -> At<Value> {
        self.sink.fault(tree.span(), message);
        faulty(tree.span())
    }
}

/// Keys whose value is not repeated in a message.
const SECRET: [&str; 2] = ["token", "send"];

fn at(tree: &Tree<'_>, value: Value) -> At<Value> {
    At {
        value,
        span: tree.span(),
        replaced: false,
    }
}

fn faulty(span: Range<usize>) -> At<Value> {
    At {
        value: Value::Faulty,
        span,
        replaced: false,
    }
}

fn integer(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

fn share(number: &str) -> Option<Value> {
    let share: f64 = number.parse().ok()?;
    (0.0..=1.0).contains(&share).then_some(Value::Share(share))
}

/// What stands there instead, to be read behind "not", with what to write if that is clear.
fn found(kind: &Kind, tree: &Tree<'_>) -> String {
    let found = match tree.get_ref() {
        DeValue::Integer(number) => format!("{number}"),
        DeValue::Float(number) => format!("{number}"),
        DeValue::Boolean(flag) => format!("{flag}"),
        DeValue::String(text) => excerpt(text),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    found + &instead(kind, tree).map_or(String::new(), |text| format!(", did you mean {text}?"))
}

fn instead(kind: &Kind, tree: &Tree<'_>) -> Option<String> {
    match (kind, tree.get_ref()) {
        (Kind::Duration { .. }, DeValue::Integer(number)) => Some(format!("\"{number}s\"")),
        (Kind::Text { .. }, DeValue::Integer(number)) => Some(format!("\"{number}\"")),
        (Kind::Flag, DeValue::String(text)) => {
            matches!(&**text, "true" | "false").then(|| text.clone().into_owned())
        }
        (Kind::Count { .. }, DeValue::String(text)) => {
            text.parse::<u32>().ok().map(|number| number.to_string())
        }
        (Kind::Entries(_) | Kind::Many { .. }, DeValue::String(text)) => {
            Some(format!("[{}]", excerpt(text)))
        }
        (Kind::Table(table), DeValue::Array(items))
            if items.iter().any(|i| i.get_ref().is_table()) =>
        {
            Some(format!("[{}] for [[{}]]", table.header, table.header))
        }
        _ => None,
    }
}

fn type_of(tree: &Tree<'_>) -> &'static str {
    match tree.get_ref() {
        DeValue::Table(_) => "a table",
        DeValue::Array(_) => "a list",
        DeValue::Boolean(_) => "a flag",
        DeValue::Datetime(_) => "a date",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::String(_) => "a string",
    }
}

/// A string of the file in quotes, cut where it is long.
fn excerpt(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

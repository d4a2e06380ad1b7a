//! Walks the parsed file along the key tables and reads every value, collecting every fault.
//!
//! Serde would stop at the first fault. What is read is a tree of [`Section`]s in which a
//! faulty value keeps its place, so that the builder neither misses it nor reports it again.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::faults::Sink;
use super::keys::{Key, Kind, Table};
use super::source::Source;
use super::tables::{BACKEND, ROOT};
use super::texts::{NAME_RULE, is_name};
use super::value::{At, Section, Value};
use super::{env, scalar, suggest};

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

/// Reads one entry of `backends` by itself.
pub(super) fn read_backend(tree: &DeTable<'_>, sink: &mut Sink<'_>) -> Section {
    let mut reader = Reader {
        env: &|_| None,
        sink,
        header: vec!["backends".to_owned()],
    };
    reader.section(&BACKEND, tree)
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
                if let Some(meant) = self.unknown(table, name, value) {
                    let entry = section.values.entry(meant);
                    entry.or_insert_with(|| faulty(name.span()));
                }
                continue;
            };
            let mut read = self.within(key.name, |reader| reader.value(key, value));
            if matches!(read.value, Value::Section(_)) {
                read.span = name.span();
            }
            section.values.insert(key.name, read);
        }
        section
    }

    /// Reports a key that the table does not know, and gives back the one that was meant.
    fn unknown(
        &mut self,
        table: &'static Table,
        name: &Spanned<DeString<'_>>,
        value: &Tree<'_>,
    ) -> Option<&'static str> {
        if self.sink.is_full() {
            self.sink.fault(name.span(), "unknown key");
            return None;
        }
        let (span, name) = (name.span(), name.get_ref());
        let meant = suggest::meant_key(table, name);
        let mut message = suggest::unknown_key(&self.header.join("."), name, meant);
        let has_header =
            value.get_ref().is_table() && self.sink.written(&value.span()).starts_with('[');
        if let ([kind, first], None, true) = (&*self.header, meant, has_header) {
            message += &format!("; a name with a dot is quoted: [{kind}.\"{first}.{name}\"]");
        }
        self.sink.fault(span, message);
        meant
    }

    /// Reads the table or value `name` of the one that is being read.
    fn within<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.header.push(name.to_owned());
        let value = read(self);
        self.header.pop();
        value
    }

    /// The value of a key; a fault is reported and leaves [`Value::Faulty`].
    fn value(&mut self, key: &Key, tree: &Tree<'_>) -> At<Value> {
        match (&key.kind, tree.get_ref()) {
            (
                Kind::Text { .. }
                | Kind::Duration { .. }
                | Kind::Word { .. }
                | Kind::WordOrTable { .. }
                | Kind::WordOrCount { .. },
                DeValue::String(_),
            ) => self.text(key, tree),
            (Kind::WordOrTable { table, .. }, DeValue::Table(items)) => {
                self.whole(key, table, tree, items)
            }
            (Kind::OneOrMore { .. }, DeValue::String(_)) => {
                let item = self.text(key, tree);
                At::new(tree.span(), Value::List(vec![item]))
            }
            (Kind::OneOrMore { .. } | Kind::Many { .. }, DeValue::Array(items)) => {
                self.texts(key, tree, items)
            }
            (Kind::Entries(table), DeValue::Array(items)) => {
                let items = items.iter().map(|item| self.entry(key, table, item));
                At::new(tree.span(), Value::List(items.collect()))
            }
            (Kind::Tables(table), DeValue::Array(items)) => {
                let items = items.iter().map(|item| self.one_of(key, table, item));
                At::new(tree.span(), Value::List(items.collect()))
            }
            (Kind::Table(table), DeValue::Table(items)) => {
                let section = self.section(table, items);
                At::new(tree.span(), Value::Section(section))
            }
            (Kind::Named(table), DeValue::Table(items)) => self.named(table, tree, items),
            _ => match scalar::plain(&key.kind, tree.get_ref()) {
                Some(value) => At::new(tree.span(), value),
                None => self.fault(tree, scalar::wrong_type(key, tree.get_ref())),
            },
        }
    }

    /// A table that is the value of a key: what has no default must be given.
    fn whole(
        &mut self,
        key: &Key,
        table: &'static Table,
        tree: &Tree<'_>,
        items: &DeTable<'_>,
    ) -> At<Value> {
        let section = self.section(table, items);
        let required = table.keys.iter().filter(|key| key.default.is_empty());
        for missing in required.filter(|key| !section.values.contains_key(key.name)) {
            let message = format!("`{}` needs `{}` beside it", key.name, missing.name);
            self.sink.fault(tree.span(), message);
        }
        At::new(tree.span(), Value::Section(section))
    }

    fn texts(&mut self, key: &Key, tree: &Tree<'_>, items: &[Tree<'_>]) -> At<Value> {
        if items.is_empty() && matches!(key.kind, Kind::OneOrMore { .. }) {
            return self.fault(tree, format!("`{}` must name at least one", key.name));
        }
        let items = items.iter().map(|item| self.text(key, item));
        At::new(tree.span(), Value::List(items.collect()))
    }

    /// An item of `backends`: a table, or a string for its first key.
    fn entry(&mut self, key: &Key, table: &'static Table, tree: &Tree<'_>) -> At<Value> {
        let section = match tree.get_ref() {
            DeValue::Table(items) => self.section(table, items),
            _ => {
                let text = self.text(key, tree);
                if matches!(text.value, Value::Faulty) {
                    return text;
                }
                let mut section = Section::default();
                section.values.insert(table.keys[0].name, text);
                section
            }
        };
        At::new(tree.span(), Value::Section(section))
    }

    /// An item of a list of tables.
    fn one_of(&mut self, key: &Key, table: &'static Table, tree: &Tree<'_>) -> At<Value> {
        match tree.get_ref() {
            DeValue::Table(items) => {
                At::new(tree.span(), Value::Section(self.section(table, items)))
            }
            other => self.fault(tree, scalar::wrong_item(key, other)),
        }
    }

    /// Tables by name, in the order of the file.
    fn named(&mut self, table: &'static Table, tree: &Tree<'_>, items: &DeTable<'_>) -> At<Value> {
        let items = items
            .iter()
            .map(|(name, value)| self.one_named(table, name, value));
        let mut items: Vec<_> = items.collect();
        // The tree may hold tables in the order in which their sub-tables were met.
        items.sort_by_key(|item| item.span.start);
        At::new(tree.span(), Value::List(items))
    }

    fn one_named(
        &mut self,
        table: &'static Table,
        name: &Spanned<DeString<'_>>,
        tree: &Tree<'_>,
    ) -> At<Value> {
        let (span, name) = (name.span(), name.get_ref());
        let DeValue::Table(items) = tree.get_ref() else {
            let message = scalar::not_a_table(table, name, tree.get_ref());
            return self.fault(tree, message);
        };
        if !is_name(name) {
            let message = format!("{} is no name: {NAME_RULE}", scalar::excerpt(name));
            self.sink.fault(span.clone(), message);
        }
        let mut section = self.within(name, |reader| reader.section(table, items));
        section.name = name.clone().into_owned();
        At::new(span, Value::Section(section))
    }

    /// A string as the kind of its key reads it, after replacement from the environment.
    fn text(&mut self, key: &Key, tree: &Tree<'_>) -> At<Value> {
        let DeValue::String(written) = tree.get_ref() else {
            return self.fault(tree, scalar::wrong_item(key, tree.get_ref()));
        };
        let text = match env::replace(written, self.env) {
            Ok(text) => text,
            Err(faults) => return self.env_faults(tree, faults),
        };
        match scalar::string(&key.kind, &text.text) {
            Ok(value) => At {
                written: text.replaced.then(|| (**written).into()),
                ..At::new(tree.span(), value)
            },
            Err(why) if key.is_secret() => self.fault(tree, format!("`{}`: {why}", key.name)),
            Err(mut why) => {
                if text.replaced {
                    why.truncate(why.find(scalar::SUGGESTION).unwrap_or(why.len()));
                }
                // As written: what the environment holds may be a secret.
                let written = scalar::excerpt(written);
                self.fault(tree, format!("`{}` cannot be {written}: {why}", key.name))
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

fn faulty(span: Range<usize>) -> At<Value> {
    At::new(span, Value::Faulty)
}

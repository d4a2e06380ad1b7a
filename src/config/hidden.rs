//! Which values came from the environment, and are therefore never shown.

use std::collections::HashSet;

use super::keys::Kind;
use super::value::{At, Scope, Value};

/// What stands for a value that is not shown.
pub(super) const BLANK: &str = "…";

/// The paths of the values that are not shown, such as `pool/web/backends/0/address`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hidden(HashSet<String>);

impl Hidden {
    pub(super) fn contains(&self, path: &str) -> bool {
        self.0.contains(path)
    }

    /// Whether the value at this path, or part of it, is hidden.
    pub(super) fn contains_within(&self, path: &str) -> bool {
        let within = |hidden: &String| {
            let rest = hidden.strip_prefix(path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.0.iter().any(within)
    }

    /// Notes what is hidden in a table, with what it inherits.
    pub(super) fn collect(&mut self, path: &str, scope: Scope<'_>) {
        for key in scope.table().keys {
            let path = format!("{path}/{}", key.name);
            if let Kind::Table(_) = key.kind {
                self.collect(&path, scope.sub(key.name));
            } else if let Some(at) = scope.written(key.name) {
                self.collect_value(&path, at);
            }
        }
    }

    fn collect_value(&mut self, path: &str, at: &At<Value>) {
        if at.is_replaced() {
            self.0.insert(path.to_owned());
        }
        match &at.value {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.collect_value(&format!("{path}/{index}"), item);
                }
            }
            Value::Section(section) => {
                for (name, value) in &section.values {
                    self.collect_value(&format!("{path}/{name}"), value);
                }
            }
            _ => {}
        }
    }
}

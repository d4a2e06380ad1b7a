//! Which values are never shown: those that came from the environment, and secrets in a file that
//! may not even parse.

use std::collections::HashSet;

use super::keys::{Kind, SECRETS};
use super::value::{At, Scope, Value};

/// What stands for a value that is not shown.
pub(super) const BLANK: &str = "…";

/// Where the value of a key that is never shown begins in a line of a file. The line need not
/// parse: rather too much is taken for a secret than too little.
pub(super) fn secret_in(line: &str) -> Option<usize> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let value = |(at, key): (usize, &str)| {
        let behind = line[at + key.len()..].trim_start_matches(['"', '\'']);
        let value = behind.trim_start().strip_prefix('=')?.trim_start();
        (!line[..at].ends_with(in_name)).then_some(line.len() - value.len())
    };
    let keys = SECRETS.iter().flat_map(|key| line.match_indices(key));
    keys.filter_map(value).min()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_however_they_are_written() {
        for (line, shown) in [
            ("token = \"a\"", "token = "),
            ("token=a", "token="),
            ("\"token\" = 'a", "\"token\" = "),
            ("admin.token = [\"a\"]", "admin.token = "),
            (
                "health = { kind = \"exchange\", send = \"a\" }",
                "health = { kind = \"exchange\", send = ",
            ),
        ] {
            assert_eq!(secret_in(line).map(|at| &line[..at]), Some(shown), "{line}");
        }
        for line in [
            "tokens = 1",
            "my-token = 1",
            "resend = 1",
            "[token]",
            "x = 1 # token",
        ] {
            assert_eq!(secret_in(line), None, "{line}");
        }
    }
}

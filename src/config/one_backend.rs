//! One backend from somewhere else than the file, by the rules of the file.

use serde_json::{Map, Value as Json};
use toml::de::DeTable;

use super::faults::Sink;
use super::source::Source;
use super::tables::BACKEND;
use super::value::Scope;
use super::{Backend, build, schema};

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldFault {
    /// The field; `None`: one that is missing.
    pub field: Option<String>,
    /// One sentence, with a suggestion where there is one.
    pub message: String,
}

/// Reads the fields of a backend as an entry of `backends` in the file would be read. `null` is
/// as good as not given; nothing is replaced from the environment.
///
/// # Errors
///
/// Every fault in one go.
pub fn backend(fields: &Map<String, Json>) -> Result<Backend, Vec<FieldFault>> {
    let given: Vec<_> = fields
        .iter()
        .filter(|(_, value)| !value.is_null())
        .collect();
    let lines = given.iter().map(|(key, value)| line(key, value));
    let text = lines.collect::<String>();
    let source = Source::new("", &text);
    let mut sink = Sink::new(&source);
    let (tree, unreadable) = DeTable::parse_recoverable(&text);
    for error in unreadable {
        sink.syntax(error.span().unwrap_or_default(), error.message());
    }
    let section = schema::read_backend(tree.get_ref(), &mut sink);
    let scope = Scope::new(&BACKEND, Some(&section), None);
    let backend = build::backend(&scope);
    let (problems, _) = sink.finish();
    let mut faults: Vec<_> = problems
        .into_iter()
        .map(|problem| FieldFault {
            field: given
                .get(problem.line.wrapping_sub(1))
                .map(|(key, _)| (*key).clone()),
            message: problem.message,
        })
        .collect();
    match backend {
        Some(backend) if faults.is_empty() => Ok(backend),
        _ => {
            if scope.own("address").is_none() {
                faults.push(FieldFault {
                    field: None,
                    message: "a backend needs an `address`".to_owned(),
                });
            }
            Err(faults)
        }
    }
}

/// One field on a line of its own. What JSON writes on one line TOML reads as the same, but for
/// objects, of which no field of a backend is one.
fn line(key: &str, value: &Json) -> String {
    let key = Json::from(key);
    match value {
        Json::Object(_) => format!("{key} = {{}}\n"),
        value => format!("{key} = {value}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(fields: &Json) -> Result<Backend, Vec<FieldFault>> {
        backend(fields.as_object().expect("an object"))
    }

    #[test]
    fn a_backend_is_what_the_file_would_make_of_it() {
        let fields = json!({
            "name": "b2", "address": "10.0.0.12:80", "weight": 2, "max_connections": 500,
            "backup": true,
        });
        let expected = Backend {
            name: "b2".into(),
            address: "10.0.0.12:80".parse().expect("an address"),
            weight: 2,
            max_connections: 500,
            backup: true,
        };
        assert_eq!(read(&fields), Ok(expected));
        let least = read(&json!({"address": "unix:/run/b.sock", "weight": null}));
        let least = least.expect("an address is enough");
        assert_eq!((&*least.name, least.weight), ("unix:/run/b.sock", 1));
    }

    #[test]
    fn every_fault_is_told_with_its_field() {
        let fields = json!({
            "address": "10.0.0.12", "weigth": 2, "weight": 2000, "name": {"a": 1},
            "max_connections": "many", "backup": [1, {"x": 2}], "\u{7f}\"\n": 1,
        });
        let faults = read(&fields).expect_err("faults");
        let of = |field: &str| {
            let mut all = faults.iter();
            let found = all.find(|fault| fault.field.as_deref() == Some(field));
            let found = found.unwrap_or_else(|| panic!("nothing of {field:?} in {faults:?}"));
            found.message.clone()
        };
        assert!(of("weigth").contains("did you mean `weight`?"));
        assert!(of("weight").contains("0 to 1000"));
        for field in ["address", "name", "max_connections", "backup", "\u{7f}\"\n"] {
            of(field);
        }
    }

    #[test]
    fn without_an_address_there_is_no_backend() {
        let faults = read(&json!({"name": "b"})).expect_err("no address");
        assert_eq!(faults.len(), 1);
        assert!(faults[0].message.contains("`address`"));
    }

    #[test]
    fn nothing_comes_from_the_environment() {
        let path = std::env::var("PATH").expect("cargo sets it");
        let faults = read(&json!({"address": "${PATH}"})).expect_err("no address");
        assert_eq!(faults[0].field.as_deref(), Some("address"));
        assert!(!faults[0].message.contains(&path));
    }
}

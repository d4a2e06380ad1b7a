//! Single values by the kind of their key: strings, numbers, flags; and what to say of a value
//! of the wrong type.

use std::time::Duration;

use toml::de::{DeInteger, DeValue};

use super::keys::{Key, Kind, MAX_FACTOR, Table, Zero};
use super::suggest::meant_word;
use super::units::{self, format_duration};
use super::value::Value;

/// What a suggestion begins with: it repeats part of what was given, as no other part of a
/// refusal does.
pub(super) const SUGGESTION: &str = ", did you mean";

/// Reads a string, or says what is wrong with it without repeating it.
pub(super) fn string(kind: &Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Duration { zero, min, max } => duration(*zero, *min, *max, text),
        Kind::WordOrTable { words, .. } => word(kind, &words(), text),
        Kind::Word { words } => word(kind, &words(), text),
        Kind::WordOrCount { words, .. } => word(kind, &words(), text),
        Kind::Text { read, .. } | Kind::OneOrMore { read, .. } | Kind::Many { read, .. } => {
            read(text)
        }
        Kind::Entries(table) => string(&table.keys[0].kind, text),
        _ => unreachable!("no key of this kind takes strings"),
    }
}

/// What is at least this long is counted in whole ones, as the kernel counts it.
const SECOND: Duration = Duration::from_secs(1);

fn duration(zero: Zero, min: Duration, max: Duration, text: &str) -> Result<Value, String> {
    let duration = units::duration(text)?;
    let off = duration.is_zero() && zero == Zero::Off;
    if min >= SECOND && duration.subsec_nanos() != 0 {
        return Err("whole seconds only".to_owned());
    }
    if off || (min..=max).contains(&duration) {
        return Ok(Value::Duration(duration));
    }
    if duration.is_zero() {
        return Err("0s makes no sense here".to_owned());
    }
    let (min, max) = (format_duration(min), format_duration(max));
    Err(format!("it must be from {min} to {max}"))
}

fn word(kind: &Kind, words: &[&str], text: &str) -> Result<Value, String> {
    if words.contains(&text) {
        return Ok(Value::Text(text.to_owned()));
    }
    let hint = match meant_word(text, words) {
        Some(word) => format!("{SUGGESTION} \"{word}\"?"),
        None => String::new(),
    };
    Err(format!("expected {}{hint}", kind.expected()))
}

/// Reads a number or a flag; `None`: the value has the wrong type, or is out of range.
pub(super) fn plain(kind: &Kind, value: &DeValue<'_>) -> Option<Value> {
    match (kind, value) {
        (Kind::Flag, DeValue::Boolean(flag)) => Some(Value::Flag(*flag)),
        (
            Kind::Count { min, max } | Kind::WordOrCount { min, max, .. },
            DeValue::Integer(number),
        ) => count(number)
            .filter(|count| (min..=max).contains(&count))
            .map(Value::Count),
        (Kind::Share, DeValue::Float(number)) => share(number.as_str()),
        (Kind::Share, DeValue::Integer(number)) => share(number.as_str()),
        (Kind::Factor, DeValue::Float(number)) => factor(number.as_str()),
        (Kind::Factor, DeValue::Integer(number)) => factor(number.as_str()),
        _ => None,
    }
}

fn count(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn share(number: &str) -> Option<Value> {
    let share: f64 = number.parse().ok()?;
    (0.0..=1.0).contains(&share).then_some(Value::Share(share))
}

fn factor(number: &str) -> Option<Value> {
    let factor: f64 = number.parse().ok()?;
    let allowed = factor == 0.0 || (1.0..=MAX_FACTOR).contains(&factor);
    // -0.0 is 0.0.
    allowed.then_some(Value::Share(factor.abs()))
}

/// What to say of a value that its key does not take.
pub(super) fn wrong_type(key: &Key, value: &DeValue<'_>) -> String {
    let expected = key.kind.expected();
    if key.is_secret() {
        return format!("`{}` must be {expected}", key.name);
    }
    let (found, hint) = (found(value), instead(&key.kind, value));
    format!("`{}` must be {expected}, not {found}{hint}", key.name)
}

/// The same of an item of a list.
pub(super) fn wrong_item(key: &Key, value: &DeValue<'_>) -> String {
    let items = match key.kind {
        Kind::Entries(_) => "addresses and tables",
        Kind::Tables(_) => "tables",
        _ => "strings",
    };
    format!("`{}` takes {items}, not {}", key.name, found(value))
}

/// The same of what stands where a table of the operator's naming is expected.
pub(super) fn not_a_table(table: &Table, name: &str, value: &DeValue<'_>) -> String {
    let header = table.header.replace("NAME", name);
    format!("`{name}` must be a table, [{header}], not {}", found(value))
}

fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::String(text) => excerpt(text),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// `, did you mean …?` where it is clear what to write instead.
fn instead(kind: &Kind, value: &DeValue<'_>) -> String {
    let instead = match (kind, value) {
        (Kind::Duration { .. }, DeValue::Integer(number)) => format!("\"{number}s\""),
        (Kind::Text { read, .. }, DeValue::Integer(number))
            if read(&number.to_string()).is_ok() =>
        {
            format!("\"{number}\"")
        }
        (Kind::Flag, DeValue::String(text)) if matches!(&**text, "true" | "false") => {
            text.clone().into_owned()
        }
        (Kind::Count { .. }, DeValue::String(text)) if text.parse::<u32>().is_ok() => {
            text.clone().into_owned()
        }
        (Kind::Entries(_) | Kind::Many { .. }, DeValue::String(text)) => {
            format!("[{}]", excerpt(text))
        }
        (Kind::Tables(table), DeValue::Table(_)) => {
            format!("[[{0}]] for [{0}]", table.header)
        }
        (Kind::Table(table), DeValue::Array(items))
            if items.iter().any(|i| i.get_ref().is_table()) =>
        {
            format!("[{0}] for [[{0}]]", table.header)
        }
        _ => return String::new(),
    };
    format!(", did you mean {instead}?")
}

/// A string of the file in quotes, cut where it is long.
pub(super) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

//! The reference of all keys as Markdown, out of the tables that the file is read by.

use std::fmt::Write;

use super::fields::{Effect, effect};
use super::keys::{Key, Kind, Table, duration_bounds};
use super::tables::all_tables;

/// One section for each table: its keys with type, range, default and meaning.
/// `docs/configuration.md` holds it between two marks; a test compares them.
pub fn reference() -> String {
    let mut out = String::new();
    for table in all_tables() {
        write!(out, "### `[{}]`\n\n{}\n\n", table.header, table.doc).expect("a String takes all");
        out += "| key | takes | default | on reload | meaning |\n| --- | --- | --- | --- | --- |\n";
        for key in table.keys.iter().filter(|key| is_row(key)) {
            out += &row(table, key);
        }
        out += "\n";
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

/// Sub-tables have sections of their own, except the one that `[defaults]` is for.
fn is_row(key: &Key) -> bool {
    match key.kind {
        Kind::Table(table) => table.header == "pool.NAME",
        _ => true,
    }
}

fn row(table: &Table, key: &Key) -> String {
    let default = match key.default {
        "" => "required".to_owned(),
        "{}" => "none".to_owned(),
        default => format!("`{default}`"),
    };
    format!(
        "| `{}` | {} | {default} | {} | {} |\n",
        key.name,
        takes(&key.kind),
        effect(table.header, key.name).map_or("as each key", Effect::as_str),
        key.doc
    )
}

fn takes(kind: &Kind) -> String {
    match kind {
        Kind::Duration { zero, min, max } => {
            format!("duration{}", duration_bounds(*zero, *min, *max))
        }
        Kind::Word { words } => quoted(&words()),
        Kind::WordOrCount { words, min, max } => {
            format!("{} or a whole number from {min} to {max}", quoted(&words()))
        }
        Kind::WordOrTable { words, .. } => format!("{}, or a table as below", quoted(&words())),
        Kind::Entries(_) => "list of addresses and tables".to_owned(),
        Kind::Tables(_) => "list of tables".to_owned(),
        Kind::Table(_) => "a table".to_owned(),
        _ => kind.expected(),
    }
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- keys: begin -->\n\n";
    const END: &str = "\n<!-- keys: end -->\n";

    /// Run with `ISOBAR_BLESS=1` to write the keys into the page.
    #[test]
    fn the_documentation_has_exactly_the_keys_that_the_file_takes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let page = std::fs::read_to_string(path).expect("the page");
        let (head, rest) = page.split_once(BEGIN).expect("a begin mark");
        let (keys, tail) = rest.split_once(END).expect("an end mark");
        if std::env::var_os("ISOBAR_BLESS").is_some() {
            let page = format!("{head}{BEGIN}{}{END}{tail}", reference());
            std::fs::write(path, page).expect("the page is written");
            return;
        }
        assert_eq!(keys, reference(), "run this test with ISOBAR_BLESS=1");
    }
}

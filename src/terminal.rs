//! What a terminal would obey instead of showing it, and a log would take for the end of a
//! line.
//!
//! File names, keys and values of a file, and what a peer says are told to people; none of
//! them may move a cursor, hide what stands before it, or forge a second line.

/// Whether a character must not reach a terminal: all control characters (C1 too: U+009B
/// begins a command as ESC `[` does), those that end a line, and those that change the
/// direction of text. All of them are in the basic plane.
pub(crate) fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text with what is hostile in it escaped, `\n` or `\u{1b}`: always one line.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match is_hostile(character) {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    out
}

/// The same with a replacement character for each: for columns that must line up.
pub(crate) fn replaced(text: &str) -> String {
    let shown = |character| match is_hostile(character) {
        true => char::REPLACEMENT_CHARACTER,
        false => character,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_is_one_line_that_no_terminal_obeys() {
        for (raw, expected) in [
            ("a.toml", "a.toml"),
            ("a\nb\r", "a\\nb\\r"),
            ("\u{1b}[31m\u{9b}", "\\u{1b}[31m\\u{9b}"),
            ("\u{202e}\u{2028}é", "\\u{202e}\\u{2028}é"),
        ] {
            assert_eq!(escaped(raw), expected);
        }
        assert_eq!(replaced("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}

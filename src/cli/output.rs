//! What is written, and to which stream.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

use super::{Failure, Outcome};

/// Writes what was asked for to standard output.
///
/// A reader that has seen enough (`| head -1`) is no failure; a full disk is.
pub(super) fn print(text: impl AsRef<[u8]>) -> Outcome {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_ref())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::failed(format_args!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Writes a line for people to standard error; a reader that is gone is no reason to panic.
pub(super) fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Whether standard output takes colours: a terminal, and <https://no-color.org>.
pub(super) fn has_colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    !refused && !dumb && io::stdout().is_terminal()
}

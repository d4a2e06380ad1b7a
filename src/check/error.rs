//! How a check fails, in the words of an operator: one short line each.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

/// Bytes of a peer that a message shows at most, and characters of a foreign message.
const SHOWN_BYTES: usize = 48;
const SHOWN_CHARS: usize = 160;

/// A check that cannot be made from its settings; each is a fault of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The `ca` file cannot be read, is not PEM, or holds no usable certificate.
    #[error("health.ca: {}: {reason}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// `server_name` is neither a DNS name nor an IP address.
    #[error("health.server_name: {0:?} is neither a DNS name nor an IP address")]
    ServerName(String),
    /// `path` is no request target.
    #[error("health.path: {0:?} is not a path that HTTP can ask for")]
    Path(String),
    /// `host` cannot stand in a header.
    #[error("health.host: {0:?} cannot be a Host header")]
    Host(String),
}

/// A check that failed.
///
/// Nothing of what a check sends or expects is ever part of the message: either may be a
/// password. Nor is an answer to something that was sent, which may repeat it.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection.
    #[error("connect: {}", words(.0))]
    Connect(io::Error),
    /// No TLS session, or none that can be trusted.
    #[error("tls: {}", words(.0))]
    Tls(io::Error),
    /// The time was up; `step` says what had not come.
    #[error("{step}no answer within {after:?}")]
    Timeout {
        /// What was waited for.
        step: Step,
        /// `health.timeout`.
        after: Duration,
    },
    /// The backend ended the connection without a byte.
    #[error("connection closed before an answer")]
    Closed,
    /// The connection broke before an answer.
    #[error("no answer: {}", words(.0))]
    Broken(io::Error),
    /// Not HTTP.
    #[error("http: {}", printable(&.0.to_string()))]
    Http(hyper::Error),
    /// An unexpected status code.
    #[error("status {got}, expected {expected}")]
    Status {
        /// Of the answer.
        got: u16,
        /// `health.expect_status` as the file writes it.
        expected: String,
    },
    /// An answer without the expected bytes.
    #[error("the answer {answer} does not hold what health.expect wants{end}")]
    Mismatch {
        /// What came.
        answer: Answer,
        /// Why no more was waited for.
        end: End,
    },
    /// isobar itself was stopped or starved, so that it could not have seen an answer.
    #[error("isobar was held up for {0:?}, this check says nothing")]
    HeldUp(Duration),
    /// Any of the above at an address that is not the backend's own (`health.port`).
    #[error("{fault} (checked {address})")]
    At {
        /// What was checked.
        address: SocketAddr,
        /// What failed.
        fault: Box<ProbeError>,
    },
}

impl ProbeError {
    /// Whether this machine failed and not the backend: such a result counts for nothing.
    ///
    /// No descriptor, no memory, no port, or no processor for isobar.
    pub fn is_local(&self) -> bool {
        match self {
            Self::HeldUp(_) => true,
            Self::Connect(error) | Self::Tls(error) | Self::Broken(error) => local(error),
            Self::At { fault, .. } => fault.is_local(),
            _ => false,
        }
    }
}

/// What a check was waiting for when its time was up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// The connection.
    #[default]
    Connect,
    /// The TLS handshake.
    Tls,
    /// The answer.
    Answer,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect: ",
            Self::Tls => "tls: ",
            Self::Answer => "",
        })
    }
}

/// As much of an answer as may be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All of it: the backend said it without being asked.
    Unasked(Vec<u8>),
    /// How many bytes there were: they may repeat what was sent.
    Asked(usize),
}

impl Answer {
    /// What was `heard` after `sent` was sent.
    pub(super) fn new(sent: &[u8], heard: &[u8]) -> Self {
        match sent.is_empty() {
            true => Self::Unasked(heard.to_vec()),
            false => Self::Asked(heard.len()),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked(bytes) => f.write_str(&quoted(bytes)),
            Self::Asked(1) => f.write_str("(1 byte)"),
            Self::Asked(length) => write!(f, "({length} bytes)"),
        }
    }
}

/// Why no more of an answer was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The time was up.
    Timeout(Duration),
    /// The backend closed or reset the connection.
    Closed,
    /// As much was read as is looked at.
    Limit,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(after) => write!(f, " within {after:?}"),
            Self::Closed => f.write_str(", then the connection closed"),
            Self::Limit => f.write_str(" in its first 64 KiB"),
        }
    }
}

/// The errors of connect(2) and socket(2) that tell of this machine.
fn local(error: &io::Error) -> bool {
    let locals = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| locals.iter().any(|errno| errno.raw_os_error() == code))
}

/// An I/O error without its number, in lower case.
fn words(error: &io::Error) -> String {
    // On a Unix socket that is what a full accept queue looks like, see unix(7).
    if error.kind() == io::ErrorKind::WouldBlock {
        return "accept queue is full".into();
    }
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = printable(text).chars().collect::<Vec<_>>();
    let acronym = chars.get(1).is_some_and(char::is_ascii_uppercase);
    if let Some(first) = chars.first_mut().filter(|_| !acronym) {
        first.make_ascii_lowercase();
    }
    chars.into_iter().collect()
}

/// Text that may come from a peer (names in a certificate), on one line and not too long.
fn printable(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { '?' } else { c });
    match text.char_indices().nth(SHOWN_CHARS) {
        Some(_) => clean.take(SHOWN_CHARS).chain(['…']).collect(),
        None => clean.collect(),
    }
}

/// Bytes of a peer, escaped and cut.
fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let cut = if shown.len() < bytes.len() { "…" } else { "" };
    format!("\"{}{cut}\"", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.raw_os_error())
    }

    #[test]
    fn what_the_machine_lacks_is_local_and_what_the_network_says_is_not() {
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ] {
            assert!(ProbeError::Connect(os(errno)).is_local(), "{errno:?}");
        }
        for errno in [
            Errno::CONNREFUSED,
            Errno::NETUNREACH,
            Errno::HOSTUNREACH,
            Errno::TIMEDOUT,
            Errno::AGAIN,
        ] {
            assert!(!ProbeError::Connect(os(errno)).is_local(), "{errno:?}");
        }
    }

    #[test]
    fn an_error_at_another_address_names_it_and_keeps_its_nature() {
        let error = ProbeError::At {
            address: "10.0.0.1:81".parse().expect("an address"),
            fault: Box::new(ProbeError::Connect(os(Errno::MFILE))),
        };
        assert!(error.is_local());
        assert_eq!(
            error.to_string(),
            "connect: too many open files (checked 10.0.0.1:81)"
        );
    }

    #[test]
    fn what_a_peer_says_by_itself_is_escaped_and_cut() {
        let heard = [b"-ERR\n\x1b[31m".as_slice(), &[b'x'; 100]].concat();
        let error = ProbeError::Mismatch {
            answer: Answer::new(b"", &heard),
            end: End::Closed,
        };
        let text = error.to_string();
        assert!(
            text.starts_with(r#"the answer "-ERR\n\x1b[31mxxx"#),
            "{text}"
        );
        assert!(
            text.ends_with(
                "…\" does not hold what health.expect wants, then the connection closed"
            ),
            "{text}"
        );
        assert!(text.len() < 170, "{text}");
    }

    #[test]
    fn an_answer_to_what_was_sent_is_counted_and_not_shown() {
        let error = ProbeError::Mismatch {
            answer: Answer::new(b"AUTH secret\r\n", b"-ERR AUTH secret\r\n"),
            end: End::Limit,
        };
        assert_eq!(
            error.to_string(),
            "the answer (18 bytes) does not hold what health.expect wants in its first 64 KiB"
        );
    }

    #[test]
    fn a_foreign_message_is_one_line_and_cut() {
        let long = format!("name\n{}", "é".repeat(500));
        let text = ProbeError::Tls(io::Error::other(long)).to_string();
        assert!(!text.contains('\n') && text.ends_with('…'), "{text}");
        assert!(text.chars().count() < 170);
    }
}

//! How pools and backends are named on the command line and in paths.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What RFC 3986, section 2.3, calls unreserved stands for itself.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// `POOL/BACKEND`; the backend's name may have a slash in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendName {
    pub(super) pool: String,
    pub(super) backend: String,
}

impl BackendName {
    pub(super) fn path(&self) -> String {
        backend_path(&self.pool, &self.backend)
    }
}

impl FromStr for BackendName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((pool, backend)) if !pool.is_empty() && !backend.is_empty() => Ok(Self {
                pool: pool.to_owned(),
                backend: backend.to_owned(),
            }),
            _ => Err("expected POOL/BACKEND, as `isobar status` shows it"),
        }
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.backend)
    }
}

/// Text as one segment of a path, or as a value of a query.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Where the admin endpoint has a pool.
pub(super) fn pool_path(pool: &str) -> String {
    format!("/pools/{}", segment(pool))
}

/// Where it has a backend.
pub(super) fn backend_path(pool: &str, backend: &str) -> String {
    format!("{}/backends/{}", pool_path(pool), segment(backend))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_one_segment_of_the_path() {
        assert_eq!(
            backend_path("web", "unix:/run/b 3.sock"),
            "/pools/web/backends/unix%3A%2Frun%2Fb%203.sock"
        );
    }

    #[test]
    fn a_backend_is_named_with_its_pool() {
        let name: BackendName = "web/unix:/run/b.sock".parse().expect("a name");
        assert_eq!((&*name.pool, &*name.backend), ("web", "unix:/run/b.sock"));
        assert_eq!(name.to_string(), "web/unix:/run/b.sock");
        for text in ["web", "/b1", "web/", ""] {
            text.parse::<BackendName>().expect_err(text);
        }
    }
}

//! What the endpoint of a later version answers: whoever asks for it is told so, rather than
//! that there is no such thing.

use axum::http::Method;

/// Whether a later version answers this.
pub(super) fn is_later(method: &Method, path: &str) -> bool {
    let segments: Vec<_> = path.split('/').skip(1).collect();
    match segments[..] {
        ["events" | "series" | "explain" | "plan" | "reload" | "upgrade"] => true,
        ["connections"] => method == Method::DELETE,
        ["connections", _] => true,
        ["pools", _, "backends" | "pause" | "resume" | "rebalance"] => true,
        ["pools", _, "backends", _] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_paths_are_known_and_others_are_not() {
        for (method, path, later) in [
            (Method::POST, "/reload", true),
            (Method::GET, "/events", true),
            (Method::DELETE, "/connections", true),
            (Method::POST, "/connections", false),
            (Method::DELETE, "/connections/7", true),
            (Method::PUT, "/pools/web/backends/b1", true),
            (Method::POST, "/pools/web/pause", true),
            (Method::POST, "/pools/web/backends/b1/history", false),
            (Method::GET, "/pools/web", false),
            (Method::GET, "/nothing", false),
        ] {
            assert_eq!(is_later(&method, path), later, "{method} {path}");
        }
    }
}

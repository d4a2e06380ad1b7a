//! What the endpoint of a later version answers: whoever asks for it is told so, rather than
//! that there is no such thing.

/// Whether a later version answers this.
pub(super) fn is_later(path: &str) -> bool {
    let segments: Vec<_> = path.split('/').skip(1).collect();
    matches!(segments[..], ["events" | "series"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_paths_are_known_and_others_are_not() {
        for (path, later) in [
            ("/events", true),
            ("/series", true),
            ("/upgrade", false),
            ("/pools/web/rebalance", false),
            ("/connections", false),
            ("/reload", false),
            ("/pools/web/pause", false),
            ("/pools/web/backends/b1/history", false),
            ("/pools/web", false),
            ("/nothing", false),
        ] {
            assert_eq!(is_later(path), later, "{path}");
        }
    }
}

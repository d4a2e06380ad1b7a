//! What must hold of any bytes whatever: for fuzzing, and for the tests that replay what it found.

use super::{Endpoints, MAX_HEADER, encode, parse};
use crate::config::SendProxy;

/// Checks that the header at the beginning of `bytes`, or the lack of one, does not depend on how
/// they come in parts, and that what was read can be written and read again.
///
/// # Panics
/// If it does.
pub fn holds(bytes: &[u8]) {
    let whole = parse(bytes);
    let mut parts = (0..=bytes.len()).map(|end| parse(&bytes[..end]));
    let first = parts.find(|answer| !matches!(answer, Ok(None)));
    assert_eq!(first.unwrap_or(Ok(None)), whole, "by its parts");
    let Ok(Some(header)) = whole else {
        return;
    };
    assert!((1..=MAX_HEADER.min(bytes.len())).contains(&header.length));
    assert_eq!(parse(&bytes[..header.length]), whole, "without the rest");
    assert_eq!(parse(&bytes[..header.length - 1]), Ok(None), "too soon");
    for version in [SendProxy::V1, SendProxy::V2] {
        let again = parse(&encode(version, header.endpoints));
        let again = again.expect("a valid header").expect("a whole one");
        let same = |ends: Option<Endpoints>| ends == header.endpoints;
        assert!(same(again.endpoints), "{version:?}: {again:?}");
    }
}

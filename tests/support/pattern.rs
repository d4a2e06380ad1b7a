//! Bytes that tell where in which stream they belong.

use std::sync::LazyLock;

/// A prime, so that no buffer size divides it: a block that is lost, doubled or swapped
/// never looks right.
const PERIOD: usize = 65_521;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    // A second copy of the period's beginning lets every slice be contiguous.
    let mut bytes: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
    bytes.extend_from_within(..);
    bytes
});

/// An endless stream of bytes; streams of different numbers differ everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Pattern(pub usize);

impl Pattern {
    /// At most `limit` bytes of the stream from `offset` on, and at most one period.
    pub fn at(self, offset: u64, limit: usize) -> &'static [u8] {
        let start = (offset + 7919 * self.0 as u64) % PERIOD as u64;
        let start = usize::try_from(start).expect("below the period");
        &BYTES[start..start + limit.min(PERIOD)]
    }

    /// Asserts that `bytes` are what the stream has at `offset`.
    #[track_caller]
    pub fn check(self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        for part in bytes.chunks(PERIOD) {
            let expected = self.at(offset + done, part.len());
            assert!(
                part == expected,
                "wrong bytes at or after offset {}",
                offset + done
            );
            done += part.len() as u64;
        }
    }
}

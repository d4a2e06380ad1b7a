//! PROXY headers: `cargo +nightly fuzz run proxy`. `cargo test` replays what is in
//! `fuzz/corpus/proxy`; whatever is found goes there.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| isobar::proxy::holds(bytes));

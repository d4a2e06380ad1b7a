//! `cargo +nightly fuzz run client_hello`. What it finds goes into `fuzz/corpus/client_hello`,
//! which the tests of isobar replay.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| isobar::hello::fuzz(bytes));

//! The corpus of the fuzz target, replayed.

use std::fs;
use std::path::PathBuf;

use super::tests::Made;
use super::{Answer, fuzz};

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/client_hello")
}

#[test]
fn everything_that_was_found_before_is_answered() {
    let files = fs::read_dir(corpus()).expect("the corpus");
    let mut kinds = [0; 5];
    for file in files {
        let bytes = fs::read(file.expect("an entry").path()).expect("bytes");
        fuzz(&bytes);
        // What comes before are lengths of pieces.
        let kind = match super::Reader::new().feed(bytes.get(8..).unwrap_or_default()) {
            Answer::More => 0,
            Answer::Hello(_) => 1,
            Answer::NotTls => 2,
            Answer::Malformed(_) => 3,
            Answer::TooLong => 4,
        };
        kinds[kind] += 1;
    }
    assert!(
        kinds.iter().all(|found| *found > 0),
        "of each kind: {kinds:?}"
    );
}

/// What the fuzzer begins with.
#[test]
#[ignore = "writes files of the repository, to be run by hand: regenerate"]
fn regenerate_the_seeds() {
    let plain = Made::default();
    let whole = plain.records(1 << 14);
    let seeds: [(&str, Vec<u8>); 8] = [
        ("hello", whole.clone()),
        ("hello-in-records-of-3", plain.records(3)),
        ("hello-in-part", whole[..whole.len() / 2].to_vec()),
        ("http", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("ssl2", vec![0x80, 0x2e, 1, 3, 1, 0, 0x15]),
        ("record-too-long", vec![22, 3, 1, 0xff, 0xff]),
        (
            "message-too-long",
            vec![22, 3, 1, 0, 9, 1, 0xff, 0xff, 0xff],
        ),
        ("another-message", vec![22, 3, 3, 0, 4, 2, 0, 0, 0]),
    ];
    fs::create_dir_all(corpus()).expect("a directory");
    for (name, bytes) in seeds.into_iter().chain(Made::seeds()) {
        let lengths = [0, 4, 0, 200, 1, 30, 2, 255];
        fs::write(corpus().join(name), [&lengths[..], &bytes].concat()).expect("a file");
    }
}
